"""What all the rivals share: going through the roles, reading counts, keeping where nobody reports, and the bounds.

A rival's own rule is a *step*: from one role's rules, report and memory to a wish and a new memory. A role nobody
reported on keeps what it has: its wish is None (the follower then changes nothing), or the nearest bound when what it
has lies outside its bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from autoscaler.model import Decision, EngineObservation, RoleDecision, RoleKey
from autoscaler.policies.policy import Follow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoscaler.model import Observation, RoleObservation
    from autoscaler.policies.policy import Scene
    from autoscaler.rules import RoleRules

State = TypeVar("State")
DIRECT = Follow(direct=True)
"""For controllers that write `/scale` (or the like) themselves."""
BEHAVIOUR_DEFAULT = Follow(tolerance=0.0)
"""An HPA's default behaviour, for policies that are the HPA's metric and have spent the tolerance on it already."""
WISHED = Follow()
"""An HPA with its defaults (10 % tolerance included) that follows a gauge of desired replicas by `AverageValue: 1`."""
OBEYED = Follow(tolerance=0.0, stabilise_down_s=0.0, most_up_pods=None, most_up_share=None)
"""An HPA that adds nothing of its own: no tolerance, no stabilisation, no rate limit."""
MOST = 1_000_000
"""A wish is capped here before the bounds, so that a nonsensical load stays a number."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Replicas before the bounds, and why in words; None keeps what is there."""

    replicas: int | None
    why: str


@dataclass(frozen=True, slots=True)
class RoleStates(Generic[State]):
    """A policy's memory: one state per role that has been seen."""

    of: Mapping[RoleKey, State] = field(default_factory=dict)


class Step(Protocol[State]):
    """A rival's rule for one role that reported."""

    def __call__(self, rule: RoleRules, told: RoleObservation, state: State, at: float, /) -> tuple[Wish, State]:
        """The wish at Unix time `at`, and what to remember."""
        ...


def existing(told: RoleObservation) -> int | None:
    """Replicas that exist, ready or not (`status.replicas`); the ready ones where only those are told."""
    return told.replicas if told.replicas is not None else told.ready


def heard(told: RoleObservation) -> int:
    """Replicas with fresh samples: reporting engines over engines per replica, rounded up."""
    return math.ceil(told.reporting / max(told.engines_per_replica, 1))


def ready(told: RoleObservation) -> int:
    """Ready replicas; those heard where nobody said."""
    return told.ready if told.ready is not None else heard(told)


def starting(told: RoleObservation) -> int:
    """Replicas that exist and are not ready."""
    now = existing(told)
    return max(0, now - ready(told)) if now is not None else 0


def count_of(told: RoleObservation) -> int:
    """Replicas to reckon from: those that exist, else those heard."""
    now = existing(told)
    return now if now is not None else heard(told)


def concurrency(told: RoleObservation) -> float | None:
    """Requests in the role: running, waiting and held at the gateway; None when none of these is told."""
    parts = (told.running, told.waiting, told.queued_at_gateway)
    return sum(part for part in parts if part is not None) if any(part is not None for part in parts) else None


def waiting(told: RoleObservation, *, gateway: bool) -> float | None:
    """Waiting requests, with those held at the gateway or without; None when not told."""
    if told.waiting is None and not (gateway and told.queued_at_gateway is not None):
        return None
    return (told.waiting or 0.0) + ((told.queued_at_gateway or 0.0) if gateway else 0.0)


def mean_prompt(told: RoleObservation) -> float | None:
    """Uncached prompt tokens of a request, mean over the window; None without first tokens."""
    if told.computed_rate is None or not told.first_token_rate:
        return None
    return told.computed_rate / told.first_token_rate


def engines_of(told: RoleObservation) -> tuple[EngineObservation, ...]:
    """The engines one by one; alike ones made from the means where the source does not tell them apart."""
    if told.engines:
        return tuple(sorted(told.engines, key=lambda engine: engine.name))
    if told.reporting < 1 or told.kv_usage is None:
        return ()
    share = 1.0 / told.reporting
    run, wait, usage = (told.running or 0.0) * share, (told.waiting or 0.0) * share, told.kv_usage
    tokens = wait * (mean_prompt(told) or 0.0)
    capacity = told.kv_capacity or 0.0
    return tuple(
        EngineObservation(f"engine-{index:05d}", run, wait, usage, capacity, usage, wait, tokens)
        for index in range(told.reporting)
    )


def up_to_whole(wanted: float) -> int:
    """Rounded up, with slack for a float's last bits; never negative, never beyond MOST."""
    if math.isnan(wanted):
        return 0
    return math.ceil(min(max(wanted, 0.0), MOST) - 1e-9)


def largest(proposals: Sequence[int | None], now: int) -> int | None:
    """An HPA's choice among its metrics' proposals, None for one that failed: the largest, but then only to grow."""
    told = [count for count in proposals if count is not None]
    if not told:
        return None
    most = max(told)
    return most if len(told) == len(proposals) or most > now else None


def bounded(count: int, rule: RoleRules) -> int:
    """Within the role's bounds."""
    return min(max(count, rule.minimum), rule.maximum)


def reports(seen: Observation) -> dict[RoleKey, RoleObservation]:
    """The observation's roles by key."""
    return {told.key: told for told in seen.roles}


def silence(told: RoleObservation | None, seen: Observation) -> str | None:
    """Why a role cannot be judged; None when somebody reported."""
    if seen.failure is not None or told is None:
        return seen.failure or "it was not asked about"
    if told.reporting > 0:
        return None
    return f"no engine reports ({told.stale} with samples too old)" if told.stale else "no engine reports"


def decided(rule: RoleRules, told: RoleObservation | None, wish: Wish, *, blind: str | None = None) -> RoleDecision:
    """The decision for one role: the wish within the bounds, or what is there when there is no wish."""
    now = existing(told) if told is not None else None
    desired = wish.replicas
    if desired is None and now is not None and bounded(now, rule) != now:
        desired = now
    count = None if desired is None else bounded(desired, rule)
    moved = count is not None and count != desired
    return RoleDecision(
        key=rule.key,
        desired=count,
        planned=wish.replicas,
        ready=told.ready if told else None,
        starting=starting(told) if told is not None and now is not None else None,
        blind=blind,
        guards=(("bounds", f"{count} instead of {desired}: bounds {rule.minimum}..{rule.maximum}"),) if moved else (),
        reasons=(wish.why,) if wish.why else (),
        sampled_at=told.sampled_at if told else None,
    )


def kept(rule: RoleRules, told: RoleObservation | None, why: str) -> RoleDecision:
    """No decision for a role nobody reported on: it keeps what it has."""
    return decided(rule, told, Wish(None, ""), blind=why)


def each_role(
    seen: Observation, memory: RoleStates[State], scene: Scene, first: State, step: Step[State]
) -> tuple[Decision, RoleStates[State]]:
    """Apply a step to every role that reported; the others keep their replicas and their memory."""
    told_of = reports(seen)
    states = dict(memory.of)
    made = []
    for rule in scene.roles:
        told = told_of.get(rule.key)
        blind = silence(told, seen)
        if told is None or blind is not None:
            made.append(kept(rule, told, blind or "it was not asked about"))
            continue
        wish, states[rule.key] = step(rule, told, states.get(rule.key, first), seen.at)
        made.append(decided(rule, told, wish))
    return Decision(seen.at, tuple(made), failure=seen.failure), RoleStates(states)


def require_positive(policy: object, *names: str) -> None:
    """Raise ValueError naming the first of these knobs that is not a finite number above 0; None passes."""
    for name in names:
        value = getattr(policy, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} {value}: must be a finite number above 0")


def require_not_negative(policy: object, *names: str) -> None:
    """Raise ValueError naming the first of these knobs that is negative or not finite; None passes."""
    for name in names:
        value = getattr(policy, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} {value}: must be a finite number, not negative")


def pools_of(scene: Scene) -> tuple[tuple[RoleRules, ...], ...]:
    """The scene's roles, those of one pool together, in order of first mention."""
    pools: dict[tuple[str, str], list[RoleRules]] = {}
    for rule in scene.roles:
        pools.setdefault((rule.key.namespace, rule.key.pool), []).append(rule)
    return tuple(tuple(roles) for roles in pools.values())


def in_window(samples: Sequence[tuple[float, float]], at: float, window_s: float) -> tuple[tuple[float, float], ...]:
    """Samples (time, value) not older than `window_s` before `at`, and before it."""
    return tuple(sample for sample in samples if at - window_s < sample[0] < at)
