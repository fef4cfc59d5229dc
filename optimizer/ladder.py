"""The rungs each need may step on: what it runs, what is starting, and every source, on the need's own time line.

All three ways to a plan (the exact climb, the greedy one and the integer program) read the problem through these
ladders and are judged by the same `price`, so they cannot disagree about what a plan costs.

For a need with unit capacity u, time points t_0 = 0 < t_1 < ... below the horizon H, and x_r units on rung r landing at
point f(r), the units short at t_i are `max(0, demand(t_i) / u - firm(t_i) - sum of x_r over f(r) <= i)`, which costs
the shortage price for the hours until t_(i+1), the last point reaching until H.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.problem import Need, Problem, Source

HOUR_S = 3600.0
UNLIMITED = 10**9
"""Units a need could ever take of a source without limit; its maximum is always the tighter bound."""

Counts = tuple[int, ...]
"""Units on each rung of one ladder, in the order of its rungs."""


class Held(StrEnum):
    """Where the units of a rung come from."""

    ARRIVED = "arrived"
    STARTING = "starting"
    SOURCE = "source"


class Rung(NamedTuple):
    """One way for a need to have units.

    `first` is the index of the time point from which they serve, `cost` the price of one unit until the horizon as if
    its source could be divided freely, `cap` the most units, `place` the index into the need's starting groups or the
    problem's sources, `spend` the price per hour of one unit.
    """

    held: Held
    place: int
    first: int
    cost: float
    cap: int
    spend: float


@dataclass(frozen=True, slots=True)
class Ladder:
    """A need with its time line and rungs.

    `points` are seconds ahead, `weights` the price of lacking one unit from each point to the next, `lacking` the
    demand in units at each point less the firm starting units landed by then, `least` and `most` the bounds less all
    firm units.
    """

    need: Need
    points: tuple[float, ...]
    weights: tuple[float, ...]
    lacking: tuple[float, ...]
    rungs: tuple[Rung, ...]
    firm: int
    least: int
    most: int


def usable(problem: Problem) -> dict[str, tuple[tuple[int, Source], ...]]:
    """The sources each need may use, as (index, source): cheapest per GPU first, then the earlier, then by key."""
    hours = problem.horizon_s / HOUR_S

    def order(item: tuple[int, Source]) -> tuple[float, float, str]:
        source = item[1]
        return (source.price_per_gpu_hour * hours + source.one_off_price, source.lead_s, source.key)

    shared: dict[str, list[tuple[int, Source]]] = {}
    own: dict[str, list[tuple[int, Source]]] = {}
    for item in sorted(enumerate(problem.sources), key=order):
        if not item[1].only_for:
            shared.setdefault(item[1].resource, []).append(item)
        for key in dict.fromkeys(item[1].only_for):
            own.setdefault(key, []).append(item)
    common = {resource: tuple(items) for resource, items in shared.items()}
    chosen = {need.key: common.get(need.resource, ()) for need in problem.needs}
    resource = {need.key: need.resource for need in problem.needs}
    for key, items in own.items():
        mine = [item for item in items if item[1].resource == resource[key]]
        chosen[key] = tuple(sorted([*chosen[key], *mine], key=order))
    return chosen


def _over_budget(problem: Problem) -> bool:
    if problem.rules.budget_per_hour is None:
        return False
    running = sum((n.current + _awaited(n)) * n.gpus_per_unit * n.price_per_gpu_hour for n in problem.needs)
    return running > problem.rules.budget_per_hour * (1 + 1e-9)


def _awaited(need: Need) -> int:
    return sum(group.units for group in need.starting)


def _units_demanded(need: Need, points: Sequence[float]) -> list[float]:
    units = []
    step = 0
    for point in points:
        while step + 1 < len(need.demand) and need.demand[step + 1].at_s <= point:
            step += 1
        units.append(need.demand[step].amount / need.unit_capacity)
    return units


def _timeline(moments: frozenset[float], horizon_s: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The moments below the horizon, from 0 on, and the hours from each to the next."""
    points = tuple(sorted(moment for moment in moments | {0.0} if moment < horizon_s))
    ends = (*points[1:], horizon_s)
    return points, tuple((end - point) / HOUR_S for point, end in zip(points, ends, strict=True))


def _source_rungs(
    problem: Problem, width: int, points: Sequence[float], sources: Sequence[tuple[int, Source]]
) -> list[Rung]:
    hours, churn = problem.horizon_s / HOUR_S, problem.rules.churn_price
    rungs = []
    for place, source in sources:
        spend = width * source.price_per_gpu_hour
        cost = spend * hours + width * source.one_off_price + churn
        cap = UNLIMITED if source.gpus is None else whole(source.gpus, source.granularity) // width
        rungs.append(Rung(Held.SOURCE, place, bisect_left(points, source.lead_s), cost, cap, spend))
    return rungs


class _Maker:
    """Makes ladders; needs with the same sources, moments and width share the parts that only these decide."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.firm = not _over_budget(problem)
        self.timelines: dict[frozenset[float], tuple[tuple[float, ...], tuple[float, ...]]] = {}
        self.taking: dict[tuple[int, int, frozenset[float]], list[Rung]] = {}
        self.leads: dict[int, tuple[float, ...]] = {}

    def make(self, need: Need, sources: tuple[tuple[int, Source], ...]) -> Ladder:
        """The ladder of one need. What is starting is firm unless a bound now lies below what is already asked for."""
        shared = id(sources)  # alive as long as the dict `usable` returned, which outlives the maker's work
        leads = self.leads.get(shared) or self.leads.setdefault(shared, tuple(s.lead_s for _, s in sources))
        moments = frozenset((*leads, *(at_s for at_s, _ in need.demand), *(at_s for _, at_s in need.starting)))
        if moments not in self.timelines:
            self.timelines[moments] = _timeline(moments, self.problem.horizon_s)
        points, hours = self.timelines[moments]
        kind = (shared, need.gpus_per_unit, moments)
        if kind not in self.taking:
            self.taking[kind] = _source_rungs(self.problem, need.gpus_per_unit, points, sources)
        spend = need.gpus_per_unit * need.price_per_gpu_hour
        cost = spend * self.problem.horizon_s / HOUR_S - self.problem.rules.churn_price
        kept = Rung(Held.ARRIVED, 0, 0, cost, need.current, spend)
        lacking = _units_demanded(need, points)
        awaited: list[Rung] = []
        firm = 0
        given = self.firm and need.current + _awaited(need) <= need.maximum
        for place, group in enumerate(need.starting):
            first = bisect_left(points, group.lands_in_s)
            if given:
                firm += group.units
                for step in range(first, len(points)):
                    lacking[step] -= group.units
            else:
                awaited.append(Rung(Held.STARTING, place, first, cost, group.units, spend))
        return Ladder(
            need=need,
            points=points,
            weights=tuple([span * need.shortage_price for span in hours]),
            lacking=tuple(lacking),
            rungs=(kept, *awaited, *self.taking[kind]),
            firm=firm,
            least=need.minimum - firm,
            most=need.maximum - firm,
        )


def ladders(problem: Problem) -> tuple[Ladder, ...]:
    """One ladder for each need, in the order of the problem."""
    sources = usable(problem)
    maker = _Maker(problem)
    return tuple(maker.make(need, sources[need.key]) for need in problem.needs)


def whole(gpus: int, granularity: int) -> int:
    """GPUs of a stock that form whole blocks."""
    return gpus - gpus % granularity


def opened(gpus: int, granularity: int) -> int:
    """GPUs of the blocks that have to be opened to use so many."""
    return -(-gpus // granularity) * granularity


def short(ladder: Ladder, counts: Sequence[int]) -> list[float]:
    """Units lacking at each point, never negative."""
    landing = [0] * (len(ladder.points) + 1)
    for rung, count in zip(ladder.rungs, counts, strict=True):
        landing[rung.first] += count
    served = accumulate(landing, add)
    return [max(0.0, lack - have) for lack, have in zip(ladder.lacking, served, strict=False)]


def used(problem: Problem, steps: Sequence[Ladder], allocation: Sequence[Sequence[int]]) -> list[int]:
    """GPUs that units use of each source, before whole blocks are counted."""
    gpus = [0] * len(problem.sources)
    for ladder, counts in zip(steps, allocation, strict=True):
        for rung, count in zip(ladder.rungs, counts, strict=True):
            if count and rung.held is Held.SOURCE:
                gpus[rung.place] += count * ladder.need.gpus_per_unit
    return gpus
