"""The types of a plan: what is wanted now, what to do and when, and the evidence for it."""

from __future__ import annotations

import copyreg
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from optimizer.solve import Door, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optimizer.actions import Action
    from optimizer.changes import Change
    from optimizer.evidence import Cost


def _viewed(values: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(values)


def _reduced(view: MappingProxyType[Any, Any]) -> tuple[Callable[..., Any], tuple[dict[Any, Any]]]:
    return _viewed, (dict(view),)


copyreg.pickle(MappingProxyType, _reduced)  # plans are copied, sent to other processes, and made into plain values


class Status(StrEnum):
    """How good the plan is known to be."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    GREEDY = "greedy"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True, slots=True)
class RolePlan:
    """What the plan wants for one role now.

    `target` = `kept` + `awaited` + `taken` replicas; `released` are serving replicas let go now, `given_up` those still
    starting that are no longer wanted, `taken` those to be ordered now. `by_variant` splits the target. `at_once` is
    the most of the target that the plan has at the same time: some may take the place of others, let go as they land.
    """

    target: int
    kept: int
    released: int
    awaited: int
    given_up: int
    taken: int
    by_variant: Mapping[str, int]
    at_once: int


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What the plan wants for one pool.

    `shortage` is the demand not covered, as (seconds ahead, amount): each amount holds until the next, and the last one
    until the horizon; where it ends before, that is an amount of 0.
    """

    key: str
    roles: Mapping[str, RolePlan]
    shortage: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Alternative:
    """The plan there would be without the dearest tier used: what that tier is worth is the difference in cost.

    `relaxed` names the rules that would give way then, and the minimums that would not be met, whose penalties are in
    the cost.
    """

    without_tier: str
    cost: float
    relaxed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hint:
    """Where the next solve may begin: the replicas and blocks of a plan, by name."""

    serving: Mapping[tuple[str, ...], tuple[int, ...]]
    opened: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and why.

    Attributes:
        status: how good it is known to be; infeasible where minimums cannot be met even with every rule relaxed that
            may be: the plan is then the best effort.
        objective: its cost in all.
        gap: proven relative distance to the best plan; None where none is proven.
        pools: what is wanted now, by pool.
        actions: what to do, now and later, by the moment of its order.
        cost: the objective, split.
        binding: names of the constraints that made it what it is.
        relaxed: rules that gave way, and minimums that are not met.
        reasons: sentences.
        alternative: the plan without its dearest tier.
        changes: what other limits would save, dearest first; each was planned again.
        hint: where the next solve may begin.
        seconds: filled in by a caller that owns a clock.
    """

    status: Status
    objective: float
    gap: float | None
    pools: Mapping[str, PoolPlan]
    actions: tuple[Action, ...]
    cost: Cost
    binding: tuple[str, ...]
    relaxed: tuple[str, ...]
    reasons: tuple[str, ...]
    alternative: Alternative | None
    changes: tuple[Change, ...]
    hint: Hint
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan for some of the pools, with its evidence; several make a `Plan`."""

    status: Status
    gap: float | None
    pools: Mapping[str, PoolPlan]
    actions: tuple[Action, ...]
    cost: Cost
    binding: tuple[str, ...]
    relaxed: tuple[str, ...]
    reason: str
    hint: Hint


@dataclass(frozen=True, slots=True)
class Effort:
    """How far to go.

    Attributes:
        limits: of the solver, for all parts together.
        most_columns: a part with more columns than this is planned greedily, and says so: HiGHS looks at its time limit
            only between the stages of its root node, which take seconds for very large programs.
        door: how programs are handed to HiGHS.
        alternative, changes: whether to work out these two kinds of evidence, which cost further solves.
    """

    limits: Limits = field(default_factory=Limits)
    most_columns: int = 60_000
    door: Door = Door.ARRAYS
    alternative: bool = True
    changes: bool = False
