"""The rungs each pool may step on, on one time line: what it runs, what is starting, and every supply in reach.

The integer program, the greedy plan and the closed form all read the problem through a `Ladder`, so they cannot
disagree about what there is. A `Lot` is a stock of GPUs (of a source, of a gang, of an offer), a `Shelf` several that
are alike; a `Way` is one way for a role to have replicas, alive from the point `first` on. With w replicas serving in
period i and u starting to serve in it, the GPUs of a shelf are occupied by the serving ones and, for the `occupied_s`
before they serve, by the starting ones.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from optimizer.lots import EPSILON_S, at, gang_ready_s, make_lots, make_shelves, room
from optimizer.problem import HOUR_S, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optimizer.lots import Lot, Shelf
    from optimizer.problem import Pool, Problem, Replicas, Variant, Wave

MOST_POINTS = 32
"""Moments in one plan: more are thinned out where they lie closest, lead times then being rounded up."""


class Held(StrEnum):
    """Where the replicas of a way come from."""

    ARRIVED = "arrived"
    STARTING = "starting"
    SOURCE = "source"


class Way(NamedTuple):
    """One way for a role to have replicas.

    Prices are per replica: `hour_price` while it serves, `start_price` at each start, `release_price` when it is let
    go. `lead_s` is from the order to serving, `occupied_s` the part of it in which the lot's GPUs are held.
    """

    pool: int
    role: int
    variant: int
    held: Held
    group: int
    shelf: int | None
    wave: int
    domain: str
    first: int
    cap: int
    gpus: int
    capacity: float
    hour_price: float
    start_price: float
    release_price: float
    lead_s: float
    occupied_s: float
    spend: float


@dataclass(frozen=True, slots=True)
class Ladder:
    """A problem on its time line. `ways` are ordered by pool; `of[p]` is the range of pool p's."""

    problem: Problem
    points: tuple[float, ...]
    hours: tuple[float, ...]
    lots: tuple[Lot, ...]
    shelves: tuple[Shelf, ...]
    ways: tuple[Way, ...]
    of: tuple[range, ...]
    over_budget: bool
    minimums: tuple[tuple[int, ...], ...]

    def paid_for(self, i: int) -> float:
        """Price per hour of the nodes that are paid for already in period i, and so held whatever is decided."""
        here = self.points[i]
        return sum(lot.held * lot.hold_price for lot in self.lots if lot.held and here < lot.paid_s - EPSILON_S)

    def before(self, start: int, seconds: float) -> int:
        """The period that lies `seconds` before point `start`: the earliest touched; never before 0."""
        return max(0, bisect_right(self.points, self.points[start] - seconds + EPSILON_S) - 1)


def _moments(problem: Problem) -> Iterator[float]:
    if problem.points_s:
        yield from problem.points_s
        return
    starts: dict[str, set[float]] = {}
    for pool in problem.pools:
        yield from (demand.at_s for demand in pool.demand)
        for variant in (variant for role in pool.roles for variant in role.variants):
            yield from (group.lands_in_s for group in variant.replicas)
            starts.setdefault(variant.accelerator, set()).update(wave.start_s for wave in variant.waves)
    supply: list[tuple[str, float, bool]] = [(s.accelerator, s.lead_s, s.granularity > 1) for s in problem.sources]
    supply += [(gang.accelerator, gang_ready_s(gang), True) for gang in problem.gangs]
    supply += [(offer.accelerator, offer.lead_s, True) for offer in problem.offers]
    for accelerator, lead_s, whole in supply:
        if whole:
            yield lead_s
        yield from (lead_s + start_s for start_s in starts.get(accelerator, ()))
    yield from (offer.paid_s for offer in problem.offers if offer.held)


def _timeline(problem: Problem) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The moments below the horizon, from 0 on, and the hours from each to the next."""
    found: list[float] = [0.0]
    for moment in sorted(set(_moments(problem))):
        if found[-1] + EPSILON_S < moment < problem.horizon_s:
            found.append(moment)
    while len(found) > MOST_POINTS:
        nearest = min(range(1, len(found)), key=lambda i: (found[i] - found[i - 1], -i))
        del found[nearest - 1 if nearest > 1 else nearest]
    ends = (*found[1:], problem.horizon_s)
    return tuple(found), tuple((end - point) / HOUR_S for point, end in zip(found, ends, strict=True))


class Maker:
    """Makes ways; which shelves a pool may draw on is worked out once."""

    def __init__(
        self, problem: Problem, points: Sequence[float], lots: Sequence[Lot], shelves: Sequence[Shelf]
    ) -> None:
        self.problem = problem
        self.points = points
        self.lots = lots
        self.shelves = shelves
        self.place = {lots[member].key: index for index, shelf in enumerate(shelves) for member in shelf.lots}
        self.reach: dict[str, list[int]] = {}
        self.own: dict[str, list[int]] = {}
        for index, shelf in enumerate(shelves):
            for pool in shelf.only_for:
                self.own.setdefault(pool, []).append(index)
            if not shelf.only_for:
                self.reach.setdefault(shelf.accelerator, []).append(index)

    def shelves_for(self, pool: Pool, accelerator: str) -> list[int]:
        """The shelves a pool may draw on for replicas on this kind of GPU."""
        own = [place for place in self.own.get(pool.key, ()) if self.shelves[place].accelerator == accelerator]
        return own + self.reach.get(accelerator, [])

    def kept(self, where: tuple[int, int, int], variant: Variant, index: int, group: Replicas) -> Way | None:
        """The way of an existing group; None where it lands beyond the horizon."""
        first = at(self.points, group.lands_in_s)
        if first >= len(self.points) or not group.count:
            return None
        shelf = self.place.get(group.source) if group.source else None
        price = variant.price_per_gpu_hour if shelf is None else self.lots[self.shelves[shelf].lots[0]].gpu_price
        hour = variant.gpus * price
        churn = self.problem.rules.churn_price
        return Way(
            *where,
            held=Held.STARTING if first else Held.ARRIVED,
            group=index,
            shelf=shelf,
            wave=0,
            domain=group.domain or (self.shelves[shelf].domain if shelf is not None else ""),
            first=first,
            cap=group.count,
            gpus=variant.gpus,
            capacity=variant.capacity,
            hour_price=hour,
            start_price=0.0,
            release_price=churn + group.release_price + hour * group.drain_s / HOUR_S,
            lead_s=group.lands_in_s,
            occupied_s=group.lands_in_s,
            spend=hour,
        )

    def taken(self, where: tuple[int, int, int], variant: Variant, place: int, number: int, wave: Wave) -> Way | None:
        """The way of taking replicas in one wave; None where it serves beyond the horizon or fits nowhere."""
        shelf = self.shelves[place]
        lot = self.lots[shelf.lots[0]]
        start_s = 0.0 if lot.tier is Tier.WAKE else wave.start_s
        first = at(self.points, lot.lead_s + start_s)
        if lot.held and not lot.loose:
            first = at(self.points, start_s)
        most = self.problem.pools[where[0]].roles[where[1]].maximum
        fits = room(self.lots, shelf, variant.gpus) // variant.gpus
        if first >= len(self.points) or min(most, fits) <= 0 or wave.replicas == 0:
            return None
        cap = most if shelf.loose else min(most, fits)
        hour = variant.gpus * lot.gpu_price
        occupied_s = lot.lead_s + start_s if lot.loose else start_s
        return Way(
            *where,
            held=Held.SOURCE,
            group=-1,
            shelf=place,
            wave=number,
            domain=shelf.domain,
            first=first,
            cap=cap,
            gpus=variant.gpus,
            capacity=variant.capacity,
            hour_price=hour,
            start_price=self.problem.rules.churn_price + variant.gpus * lot.one_off + hour * occupied_s / HOUR_S,
            release_price=0.0,
            lead_s=lot.lead_s + start_s,
            occupied_s=occupied_s,
            spend=hour,
        )

    def of_pool(self, index: int, pool: Pool) -> Iterator[Way]:
        """All ways of one pool, existing replicas first."""
        for r, role in enumerate(pool.roles):
            for v, variant in enumerate(role.variants):
                where = (index, r, v)
                made = [self.kept(where, variant, g, group) for g, group in enumerate(variant.replicas)]
                for place in self.shelves_for(pool, variant.accelerator):
                    waves = variant.waves[:1] if self.shelves[place].tier is Tier.WAKE else variant.waves
                    made.extend(self.taken(where, variant, place, n, wave) for n, wave in enumerate(waves))
                yield from (way for way in made if way is not None)


def _over_budget(problem: Problem, lots: Sequence[Lot], ways: Sequence[Way]) -> bool:
    """Whether all that runs and starts costs more per hour than the budget."""
    if problem.rules.budget_per_hour is None:
        return False
    running = sum(way.cap * way.spend for way in ways if way.held is not Held.SOURCE)
    return running + sum(lot.held * lot.hold_price for lot in lots) > problem.rules.budget_per_hour * (1 + 1e-9)


def _minimums(problem: Problem, ways: Sequence[Way], of: Sequence[range]) -> tuple[tuple[int, ...], ...]:
    """The fewest replicas of each role: one where nothing could serve again within its wake-up target."""
    found = []
    for p, pool in enumerate(problem.pools):
        row = []
        for r, role in enumerate(pool.roles):
            target = role.wake_target_s
            mine = (ways[w] for w in of[p])
            wakes = target is None or any(
                way.role == r and way.held is Held.SOURCE and way.lead_s <= target + EPSILON_S for way in mine
            )
            row.append(role.minimum if wakes else max(role.minimum, min(1, role.maximum)))
        found.append(tuple(row))
    return tuple(found)


class Frame(NamedTuple):
    """What all pools share: the time line, the supply, and who makes ways."""

    points: tuple[float, ...]
    hours: tuple[float, ...]
    lots: tuple[Lot, ...]
    shelves: tuple[Shelf, ...]
    maker: Maker


def frame(problem: Problem, apart: frozenset[str] = frozenset()) -> Frame:
    """Put the supply on the time line; lots in `apart` are not counted together with others."""
    points, hours = _timeline(problem)
    lots = make_lots(problem, points)
    shelves = make_shelves(problem, lots, apart)
    return Frame(points, hours, lots, shelves, Maker(problem, points, lots, shelves))


def ladder(problem: Problem, apart: frozenset[str] = frozenset()) -> Ladder:
    """Put the problem on its time line; lots in `apart` are not counted together with others."""
    points, hours, lots, shelves, maker = frame(problem, apart)
    ways: list[Way] = []
    of: list[range] = []
    for index, pool in enumerate(problem.pools):
        begin = len(ways)
        ways.extend(maker.of_pool(index, pool))
        of.append(range(begin, len(ways)))
    over = _over_budget(problem, lots, ways)
    return Ladder(problem, points, hours, lots, shelves, tuple(ways), tuple(of), over, _minimums(problem, ways, of))
