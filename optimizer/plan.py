"""From a supply problem to a plan with its evidence.

Most of the time needs do not contend: each can take from its own cheapest rungs without using up anything shared.
Then the exact climb of every need alone is the exact answer of all, at microseconds a need. Only the resources whose
stock or whole blocks get in the way go to the integer program, and all of them together if the budget or the
preemption limit does.

Why that is exact: dropping the shared limits and the wholeness of blocks can only make the best plan cheaper, so an
answer found without them that keeps them is the best with them too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from optimizer.algebra import build
from optimizer.climb import alone
from optimizer.evidence import binding, sentences, states
from optimizer.greedy import greedy
from optimizer.ladder import HOUR_S, Held, ladders, used
from optimizer.price import TOLERANCE, below, broken_global, price
from optimizer.problem import ProblemError, Rules, check
from optimizer.solve import Infeasible, Solved, TimedOut, solve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optimizer.climb import Climb
    from optimizer.ladder import Counts, Ladder
    from optimizer.price import Cost
    from optimizer.problem import Problem


class Status(StrEnum):
    """How good the plan is known to be."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    GREEDY = "greedy"


@dataclass(frozen=True, slots=True)
class Take:
    """Units to order for a need from a source now; they serve `lead_s` seconds from now."""

    need: str
    tier: str
    source: str
    units: int
    gpus: int
    lead_s: float


@dataclass(frozen=True, slots=True)
class NeedPlan:
    """What the plan wants for one need.

    `target` = `kept` + `awaited` + `taken` units; `released` are arrived units let go, `given_up` units still
    starting that are no longer wanted (only where a bound was lowered below what is already asked for). `shortage` is
    the demand not covered, in the need's own unit, at each time point where there is any.
    """

    key: str
    target: int
    kept: int
    released: int
    awaited: int
    given_up: int
    taken: int
    shortage: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Alternative:
    """The plan there would be without the dearest tier used: what that tier is worth is the difference in cost."""

    without_tier: str
    cost: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What to take and to release now, and why.

    `relaxed` names the minimums that could not be met; `gap` is the proven relative distance to the best plan (None
    where the solver proved none); `seconds` is filled in by a caller that owns a clock.
    """

    status: Status
    needs: Mapping[str, NeedPlan]
    taken: tuple[Take, ...]
    cost: Cost
    gap: float | None
    binding: tuple[str, ...]
    relaxed: tuple[str, ...]
    reasons: tuple[str, ...]
    alternative: Alternative | None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """An answer for some of the needs."""

    status: Status
    allocation: tuple[Counts, ...]
    gap: float | None
    reason: str


def contended(problem: Problem, steps: Sequence[Ladder], allocation: Sequence[Counts]) -> tuple[str, ...]:
    """Resources of which the needs, each planned alone, want more than there is or parts of blocks."""
    resources: dict[str, None] = {}
    for source, gpus in zip(problem.sources, used(problem, steps, allocation), strict=True):
        if gpus % source.granularity or (source.gpus is not None and gpus > source.gpus):
            resources[source.resource] = None
    return tuple(resources)


@dataclass(frozen=True, slots=True)
class _Effort:
    """How far to go for the best plan; see `plan`."""

    time_limit_s: float
    gap: float
    most_needs: int


def _exact(problem: Problem, steps: Sequence[Ladder], what: str, effort: _Effort) -> _Part:
    """The integer program for some needs; greedy instead where that is cheaper than what the solver had in time."""
    fallback = greedy(problem, steps)
    if len(steps) > effort.most_needs:
        size = f"{len(steps)} needs contend, more than the {effort.most_needs} solved exactly"
        return _Part(Status.GREEDY, fallback, None, f"{what}: {size}; the greedy plan is used")
    outcome = solve(build(problem, steps), time_limit_s=effort.time_limit_s, gap=effort.gap)
    found: tuple[Counts, ...] | None
    match outcome:
        case Solved(found, reached):
            part = _Part(Status.OPTIMAL, found, reached, f"{what}: solved to a gap of {reached:.2g}")
        case Infeasible(names, found, reached):
            part = _Part(Status.OPTIMAL, found, reached, f"{what}: minimums clash ({', '.join(names)}); best effort")
        case TimedOut(found, reached) if found is not None:
            part = _Part(Status.FEASIBLE, found, reached, f"{what}: solver ran out of time, its best so far is used")
        case _:
            return _Part(
                Status.GREEDY, fallback, None, f"{what}: solver ran out of time with nothing, the greedy plan is used"
            )
    if price(problem, steps, fallback).total < price(problem, steps, part.allocation).total - TOLERANCE:
        if part.status is Status.OPTIMAL:
            return replace(part, allocation=fallback)
        return _Part(
            Status.GREEDY, fallback, None, f"{what}: solver ran out of time, the greedy plan is cheaper and is used"
        )
    return part


def _together(parts: Sequence[_Part]) -> tuple[Status, float | None]:
    worst = max((part.status for part in parts), key=list(Status).index, default=Status.OPTIMAL)
    gaps = [part.gap for part in parts]
    return worst, None if None in gaps else max((gap for gap in gaps if gap is not None), default=0.0)


def _decide(problem: Problem, steps: tuple[Ladder, ...], effort: _Effort) -> tuple[list[Counts], list[_Part]]:
    allocation = [alone(ladder) for ladder in steps]
    scarce = contended(problem, steps, allocation)
    limits = tuple(broken_global(problem, steps, allocation))
    parts: list[_Part] = []
    if not limits:
        free = replace(problem, rules=Rules(churn_price=problem.rules.churn_price))
        share = replace(effort, time_limit_s=effort.time_limit_s / max(1, len(scarce)))
        for resource in scarce:
            mine = [i for i, ladder in enumerate(steps) if ladder.need.resource == resource]
            part = _exact(free, [steps[i] for i in mine], f"contention for {resource}", share)
            parts.append(part)
            for i, counts in zip(mine, part.allocation, strict=True):
                allocation[i] = counts
        limits = tuple(broken_global(problem, steps, allocation))
    if limits:
        parts = [_exact(problem, steps, f"contention for {' and '.join(limits)}", effort)]
        allocation = list(parts[0].allocation)
    return allocation, parts


def _need_plan(ladder: Ladder, end: Climb) -> NeedPlan:
    counts = end.counts
    kept, awaited, taken = counts[0], ladder.firm, 0
    for rung, count in zip(ladder.rungs, counts, strict=True):
        if rung.held is Held.STARTING:
            awaited += count
        elif rung.held is Held.SOURCE:
            taken += count
    need = ladder.need
    lacking = zip(ladder.points, end.lacking, strict=True)
    return NeedPlan(
        key=need.key,
        target=kept + awaited + taken,
        kept=kept,
        released=need.current - kept,
        awaited=awaited,
        given_up=sum(group.units for group in need.starting) - awaited,
        taken=taken,
        shortage=tuple((at_s, units * need.unit_capacity) for at_s, units in lacking if units > TOLERANCE),
    )


def _taken(problem: Problem, steps: Sequence[Ladder], allocation: Sequence[Counts]) -> tuple[Take, ...]:
    takes = []
    for ladder, counts in zip(steps, allocation, strict=True):
        for rung, count in zip(ladder.rungs, counts, strict=True):
            if count and rung.held is Held.SOURCE:
                source = problem.sources[rung.place]
                gpus = count * ladder.need.gpus_per_unit
                takes.append(Take(ladder.need.key, source.tier, source.key, count, gpus, source.lead_s))
    return tuple(takes)


def _alternative(problem: Problem, steps: Sequence[Ladder], takes: Sequence[Take]) -> Alternative | None:
    """Plan again, greedily, without the tier of the dearest source used."""
    if not takes:
        return None
    hours = problem.horizon_s / HOUR_S
    by_key = {source.key: source for source in problem.sources}
    used_sources = (by_key[take.source] for take in takes)
    dearest = max(used_sources, key=lambda s: (s.price_per_gpu_hour * hours + s.one_off_price, s.lead_s, s.key))
    barred = {place for place, source in enumerate(problem.sources) if source.tier == dearest.tier}
    without = [
        replace(
            ladder,
            rungs=tuple(
                rung._replace(cap=0) if rung.held is Held.SOURCE and rung.place in barred else rung
                for rung in ladder.rungs
            ),
        )
        for ladder in steps
    ]
    return Alternative(dearest.tier, price(problem, without, greedy(problem, without)).total)


def plan(problem: Problem, *, time_limit_s: float = 5.0, gap: float = 0.005, most_needs: int = 250) -> Plan:
    """Decide what to keep, take and release for all needs together, at least cost over the horizon.

    Args:
        problem: what is needed, what there is, and the rules.
        time_limit_s: seconds the solver may use for contended stocks together, and again for a limit over all needs.
            Met, the best plan found by then or the greedy one is returned and says so.
        gap: relative gap at which a plan counts as optimal.
        most_needs: a contended part with more needs than this is planned greedily, and says so. HiGHS looks at its time
            limit only between the stages of its root node, which take 1 to 2 s for 500 needs and grow faster than
            their number; a limit on size is kept exactly and gives the same plan on every machine.

    Raises:
        ProblemError: the problem contradicts itself; the message names every contradiction (see `check`).
    """
    faults = check(problem)
    if faults:
        raise ProblemError(faults)
    steps = ladders(problem)
    allocation, parts = _decide(problem, steps, _Effort(time_limit_s, gap, most_needs))
    status, reached = _together(parts)
    ends = states(steps, allocation)
    needs = {ladder.need.key: _need_plan(ladder, end) for ladder, end in zip(steps, ends, strict=True)}
    takes = _taken(problem, steps, allocation)
    heading = [part.reason for part in parts] or ["no contention: every need planned alone is the best for all"]
    lacking = [ladder.need.key for ladder, counts in zip(steps, allocation, strict=True) if below(ladder, counts)]
    return Plan(
        status=status,
        needs=MappingProxyType(needs),
        taken=takes,
        cost=price(problem, steps, allocation),
        gap=reached,
        binding=binding(problem, steps, ends),
        relaxed=tuple(f"minimum[{key}]" for key in lacking),
        reasons=(*heading, *sentences(problem, steps, ends)),
        alternative=_alternative(problem, steps, takes),
    )
