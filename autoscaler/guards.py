"""Caution: each guard is one reason to want less change. Pure functions from a number to a number and a sentence.

The order matters and is fixed in `guarded`: first what may not shrink (blind, partial, young, stabilised), then how
fast it may move, then what the HPA would swallow, and bounds last, so that bounds always hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class GuardRules:
    """How cautious to be.

    Attributes:
        stabilise_down_s: the wish falls to the highest plan of this long...
        most_up: largest growth per tick, as a share of what is there (1.0 doubles), at least `most_up_replicas`.
        most_down: largest shrinkage per tick, as a share, at least one replica.
        hpa_tolerance: the dead band of the HPA that follows (0.1 by default in Kubernetes, 0 where
            `behavior.*.tolerance: 0` is set); a step inside it would be swallowed.
        hold_s: ...or, where the load is known well enough to say that it will not need more within `stabilise_down_s`
            with probability `hold_quantile`, to the highest plan of this long.
    """

    stabilise_down_s: float = 300.0
    most_up: float = 4.0
    most_up_replicas: int = 8
    most_down: float = 0.5
    hpa_tolerance: float = 0.0
    hold_s: float = 60.0
    hold_quantile: float = 0.9


@dataclass(frozen=True, slots=True)
class Standing:
    """How a role stands when the guards look at its plan.

    Attributes:
        base: replicas asked for so far (the last wish), or what exists where nothing was asked yet.
        minimum, maximum: bounds.
        blind: why the role cannot be judged, or None. pool_blind: why another role of its pool cannot, or None.
        partial: why some of its replicas are not heard, or None. pool_partial: the same of another role of its pool.
        arriving: replicas that have only just arrived and are not heard yet, for no other reason. pool_heard: share of
            another role's replicas that are heard, where the others have only just arrived.
        recent_plans: highest plan within `stabilise_down_s`, this tick's included; None before the first.
        last_plans: the same within `hold_s`. soon: what the load may reach within `stabilise_down_s`; None: unknown.
        awaited: training waits for GPUs that it would get if the role fell to `last_plans`.
        watched_s: for how long the role has been judged without a gap; less than `stabilise_down_s` is young.
    """

    base: int
    minimum: int
    maximum: int
    blind: str | None = None
    pool_blind: str | None = None
    pool_partial: str | None = None
    partial: str | None = None
    arriving: int = 0
    pool_heard: float = 1.0
    recent_plans: int | None = None
    last_plans: int | None = None
    soon: int | None = None
    awaited: bool = False
    watched_s: float = 0.0


def _held(standing: Standing, plan: int, rules: GuardRules) -> tuple[int, str, str] | None:
    """The strongest reason not to shrink to `plan`: (what to hold at, guard's name, sentence); None when it is fine."""
    base = standing.base
    reasons: list[tuple[int, str, str]] = []
    if standing.pool_blind is not None:
        reasons.append((base, "pool-blind", f"{standing.pool_blind} is blind, so this role does not shrink either"))
    if standing.partial is not None:
        reasons.append((base, "partial", standing.partial))
    if standing.pool_partial is not None:
        reasons.append((base, "pool-partial", standing.pool_partial))
    # a first look never shrinks, however short the stabilisation: it may be the first after a restart
    if standing.watched_s <= 0 or standing.watched_s < rules.stabilise_down_s:
        watched = f"watched for {standing.watched_s:.0f} s, shrinks after {rules.stabilise_down_s:.0f} s"
        reasons.append((base, "young", watched))
    recent, why = _recent(standing, plan, rules)
    reasons.append((recent, "stabilise", why))
    reasons.extend(_arriving(standing, plan))
    count, name, words = max(reasons, key=lambda reason: min(base, reason[0]))
    count = min(base, count)
    return (count, name, f"held at {count}: {words}") if count > plan else None


def _arriving(standing: Standing, plan: int) -> Iterator[tuple[int, str, str]]:
    """What replicas that have only just arrived are held for: each may be as busy as it can be, unheard.

    The plan is what the heard ones' load needs. A neighbour that is heard in part has told this role that part of what
    is coming.
    """
    if standing.arriving:
        yield plan + standing.arriving, "arriving", f"{standing.arriving} have only just arrived and are not heard yet"
    if 0 < standing.pool_heard < 1.0:
        words = f"of another role of the pool {standing.pool_heard:.0%} are heard, the rest has only just arrived"
        yield math.ceil(plan / standing.pool_heard - 1e-9), "arriving", words


def _recent(standing: Standing, plan: int, rules: GuardRules) -> tuple[int, str]:
    """Down to where the wish may fall at once, and why no lower.

    GPUs that training waits for are not kept for a load that may come: it loses for certain what serving may need.
    """
    long = standing.recent_plans if standing.recent_plans is not None else plan
    window = f"as many were wanted within {rules.stabilise_down_s:.0f} s"
    short = standing.last_plans if standing.last_plans is not None else long
    lately = f"as many were wanted within {rules.hold_s:.0f} s"
    if standing.awaited and short < long:
        return short, lately
    if standing.soon is None or rules.hold_s >= rules.stabilise_down_s or max(short, standing.soon) >= long:
        return long, window
    if standing.soon > short:
        return standing.soon, f"the load may need as many again within {rules.stabilise_down_s:.0f} s"
    return short, lately


def _limited(base: int, wish: int, rules: GuardRules) -> tuple[int, str, str] | None:
    """The rate limit, when it binds."""
    up = base + max(math.floor(base * rules.most_up), rules.most_up_replicas)
    down = base - max(math.floor(base * rules.most_down), 1)
    if wish > up:
        return up, "rate", f"at most {up} now, {wish} planned: growth is limited per tick"
    if wish < down:
        return down, "rate", f"not below {down} now, {wish} planned: shrinkage is limited per tick"
    return None


def clear_dead_band(base: int, wish: int, tolerance: float) -> int:
    """The nearest count the HPA would not swallow.

    The HPA keeps n replicas while |wish/n - 1| <= tolerance (kubernetes/pkg/controller/podautoscaler). Growth is pushed
    just outside the band (20 -> 23 where 21 was wanted, at 0.1); a shrinkage inside it is left alone, since going lower
    than planned is never cautious.
    """
    if tolerance <= 0 or base <= 0 or wish == base:
        return wish
    if abs(wish / base - 1.0) > tolerance + 1e-12:
        return wish
    return math.floor(base * (1.0 + tolerance) + 1e-9) + 1 if wish > base else base


def guarded(plan: int | None, standing: Standing, rules: GuardRules) -> tuple[int, tuple[tuple[str, str], ...]]:
    """The wish after all guards, and (name, sentence) of each that changed it.

    Laws: never outside [minimum, maximum]; never below `base` while blind, partial or young (unless `base` itself is
    above the maximum); a larger plan never gives a smaller wish.
    """
    said: list[tuple[str, str]] = []
    base = standing.base
    wish = base if plan is None else plan
    if standing.blind is not None or plan is None:
        wish = base
        said.append(("blind", f"held at {base}: no scale-down while blind"))
    elif plan < base and (held := _held(standing, plan, rules)) is not None:
        wish = held[0]
        said.append((held[1], held[2]))
    limited = _limited(base, wish, rules)
    if limited is not None:
        wish = limited[0]
        said.append((limited[1], limited[2]))
    cleared = clear_dead_band(base, wish, rules.hpa_tolerance)
    if cleared != wish:
        said.append(("dead-band", f"{cleared} instead of {wish}: inside the HPA's {rules.hpa_tolerance:.0%} dead band"))
        wish = cleared
    bounded = min(max(wish, standing.minimum), standing.maximum)
    if bounded != wish:
        side = f"at least {standing.minimum}" if bounded > wish else f"at most {standing.maximum}"
        said.append(("bounds", f"{bounded} instead of {wish}: {side} configured"))
    return bounded, tuple(said)
