"""Caution: each guard is one reason to want less change. Pure functions from a number to a number and a sentence.

The order matters and is fixed in `guarded`: first what may not shrink (blind, partial, young, stabilised), then how
fast it may move, then what the HPA would swallow, and bounds last, so that bounds always hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


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
        recent_plans: highest plan within `stabilise_down_s`, this tick's included; None before the first.
        last_plans: the same within `hold_s`. soon: what the load may reach within `stabilise_down_s`; None: unknown.
        watched_s: for how long the role has been judged without a gap; less than `stabilise_down_s` is young.
    """

    base: int
    minimum: int
    maximum: int
    blind: str | None = None
    pool_blind: str | None = None
    pool_partial: str | None = None
    partial: str | None = None
    recent_plans: int | None = None
    last_plans: int | None = None
    soon: int | None = None
    watched_s: float = 0.0


def _held(standing: Standing, plan: int, rules: GuardRules) -> tuple[int, str, str] | None:
    """The first reason not to shrink to `plan`: (what to hold at, guard's name, sentence); None when it is fine."""
    base = standing.base
    recent, why = _recent(standing, plan, rules)
    reasons = (
        (
            standing.pool_blind is not None,
            (
                base,
                "pool-blind",
                f"held at {base}: {standing.pool_blind} is blind, so this role does not shrink either",
            ),
        ),
        (standing.partial is not None, (base, "partial", f"held at {base}: {standing.partial}")),
        (standing.pool_partial is not None, (base, "pool-partial", f"held at {base}: {standing.pool_partial}")),
        (
            # a first look never shrinks, however short the stabilisation: it may be the first after a restart
            standing.watched_s <= 0 or standing.watched_s < rules.stabilise_down_s,
            (
                base,
                "young",
                f"held at {base}: watched for {standing.watched_s:.0f} s, shrinks after {rules.stabilise_down_s:.0f} s",
            ),
        ),
        (
            recent > plan,
            (
                min(base, recent),
                "stabilise",
                f"held at {min(base, recent)}: {why}",
            ),
        ),
    )
    return next((held for applies, held in reasons if applies), None)


def _recent(standing: Standing, plan: int, rules: GuardRules) -> tuple[int, str]:
    """Down to where the wish may fall at once, and why no lower."""
    long = standing.recent_plans if standing.recent_plans is not None else plan
    window = f"as many were wanted within {rules.stabilise_down_s:.0f} s"
    short = standing.last_plans if standing.last_plans is not None else long
    if standing.soon is None or rules.hold_s >= rules.stabilise_down_s or max(short, standing.soon) >= long:
        return long, window
    if standing.soon > short:
        return standing.soon, f"the load may need as many again within {rules.stabilise_down_s:.0f} s"
    return short, f"as many were wanted within {rules.hold_s:.0f} s"


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
