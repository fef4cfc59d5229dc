"""Whether a role is heard well enough to be judged, and what is missing when it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.model import Role, RoleKey

if TYPE_CHECKING:
    from autoscaler.memory import Memory, RoleMemory
    from autoscaler.model import Observation, RoleObservation
    from autoscaler.rules import Rules

Reasons = Mapping[tuple[str, str], Mapping[RoleKey, str]]
"""By pool: the roles to which something applies, and why."""


@dataclass(frozen=True, slots=True)
class Unheard:
    """The roles that are not heard, those heard in part, and by role the replicas that have only just arrived."""

    blind: Reasons
    partial: Reasons
    arriving: Mapping[RoleKey, int]

    def share_heard(self, key: RoleKey, ready: int | None) -> float:
        """Share of a role's replicas that are heard, where the others have only just arrived; else 1."""
        new = self.arriving.get(key, 0)
        return max(ready - new, 1) / ready if new and ready else 1.0


def why_blind(told: RoleObservation | None, seen: Observation, known: RoleMemory) -> str | None:
    """Why a role cannot be judged, in words; None when it can.

    A role without any replica is not blind: there is nobody to report. No series is not the same as no load.
    """
    if seen.failure is not None or told is None:
        return seen.failure or "it was not asked about"
    empty = told.reporting == 0 and told.replicas == 0 and known.desired in {0, None}
    if empty:
        return None
    if told.rate_engines > 0:
        return _unmeasured(told)
    if told.reporting > 0:
        return "no rates yet: its engines have been sampled only once within the window"
    if told.stale > 0:
        return f"{told.stale} engines have only samples that are too old or not finite"
    return f"no engine reports, though {told.ready} replicas are up" if told.ready else "no series match its labels"


def _unmeasured(told: RoleObservation) -> str | None:
    """Which load nobody reports although engines do; None when all that the role's demand needs is there."""
    prompts = told.key.role is not Role.DECODE and told.computed_rate is None
    outputs = told.key.role is not Role.PREFILL and told.generation_rate is None
    missing = [name for absent, name in ((prompts, "prompt"), (outputs, "output")) if absent]
    return f"its engines report no {' nor '.join(missing)} tokens/s" if missing else None


def arriving(told: RoleObservation | None, known: RoleMemory) -> int:
    """Replicas without rates that have only just arrived; 0 where any other may be among those that are not heard.

    A replica needs two samples within the window before it has rates. That many replicas arrived within the last one
    is known from the counts of ready ones; a restart knows of none.
    """
    if told is None or told.reporting == 0 or told.stale or told.ready is None:
        return 0
    each = max(told.engines_per_replica, 1)
    missing = math.ceil(max(told.ready * each, told.reporting) / each - told.rate_engines / each)
    if missing <= 0:
        return 0
    came = told.ready - min((count for _, count in known.counts), default=told.ready)
    return missing if missing <= came else 0


def why_partial(told: RoleObservation | None, known: RoleMemory) -> str | None:
    """Why only part of the role is heard; None when all of it is, but for replicas that have only just arrived."""
    if told is None or told.reporting == 0 or arriving(told, known):
        return None
    heard = told.reporting // max(told.engines_per_replica, 1)
    if told.ready is not None and heard < told.ready:
        return f"only {heard} of {told.ready} replicas report"
    if told.stale:
        return f"{told.stale} engines have only samples that are too old or not finite"
    if told.rate_engines < told.reporting:
        return f"only {told.rate_engines} of {told.reporting} engines have rates yet"
    return None


def unheard_of(
    rules: Rules, told: Mapping[RoleKey, RoleObservation], memory: Memory, blind: Mapping[RoleKey, str | None]
) -> Unheard:
    """Who is not, or not wholly, heard."""
    partial, new = {}, {}
    for rule in rules.roles:
        known = memory.of(rule.key)
        partial[rule.key] = why_partial(told.get(rule.key), known)
        new[rule.key] = arriving(told.get(rule.key), known)
    return Unheard(_by_pool(blind), _by_pool(partial), {key: count for key, count in new.items() if count})


def _by_pool(reasons: Mapping[RoleKey, str | None]) -> Reasons:
    """The roles with a reason, by their pool; pools without any are left out."""
    found: dict[tuple[str, str], dict[RoleKey, str]] = {}
    for key, why in reasons.items():
        if why is not None:
            found.setdefault((key.namespace, key.pool), {})[key] = why
    return found
