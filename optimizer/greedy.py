"""A good plan at once: needs in order of what a shortage costs them, each from its cheapest rungs with what is left.

It keeps every bound, stock, budget and preemption limit. It is the fallback when the exact solver runs out of time,
and the yardstick no exact answer may be worse than.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.climb import Climb
from optimizer.ladder import HOUR_S, UNLIMITED, Held, short, whole
from optimizer.price import TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.ladder import Counts, Ladder
    from optimizer.problem import Need, Problem, Source


class _Shelf:
    """What is left for the needs to come: blocks of each source, loose GPUs in opened blocks, money, preemptions."""

    __slots__ = ("blocks", "loose", "money", "preempt", "sources")

    def __init__(self, problem: Problem, committed: float) -> None:
        """Start with every stock full and `committed` of the hourly budget already spent."""
        self.sources = problem.sources
        self.blocks = [UNLIMITED if s.gpus is None else s.gpus // s.granularity for s in problem.sources]
        self.loose = [0] * len(problem.sources)
        budget, limit = problem.rules.budget_per_hour, problem.rules.max_gpus_preempted
        self.money = float("inf") if budget is None else budget - committed
        self.preempt = UNLIMITED if limit is None else limit

    def copy(self) -> _Shelf:
        """An independent copy, to try something on."""
        other = object.__new__(_Shelf)
        other.sources, other.money, other.preempt = self.sources, self.money, self.preempt
        other.blocks, other.loose = list(self.blocks), list(self.loose)
        return other

    def pay(self, units: int, spend: float) -> int:
        """Spend on arrived or starting units; how many the budget allows."""
        if spend > 0 and self.money < units * spend - TOLERANCE:
            units = max(0, int((self.money + TOLERANCE) / spend))
        self.money -= units * spend
        return units

    def draw(self, place: int, units: int, gpus_per_unit: int) -> int:
        """Take units from a source, opening whole blocks as needed; how many there were."""
        source = self.sources[place]
        block_price = source.granularity * source.price_per_gpu_hour
        blocks = self.blocks[place]
        if block_price > 0 and self.money < blocks * block_price:
            blocks = max(0, int((self.money + TOLERANCE) / block_price))
        if source.preempts:
            blocks = min(blocks, self.preempt // source.granularity)
        units = min(units, (self.loose[place] + blocks * source.granularity) // gpus_per_unit)
        missing = units * gpus_per_unit - self.loose[place]
        opening = max(0, -(-missing // source.granularity))
        self.loose[place] += opening * source.granularity - units * gpus_per_unit
        self.blocks[place] -= opening
        self.money -= opening * block_price
        if source.preempts:
            self.preempt -= opening * source.granularity
        return units


def _climb(ladder: Ladder, climb: Climb, shelf: _Shelf, most: int, least: int) -> None:
    def afford(index: int, units: int) -> int:
        rung = ladder.rungs[index]
        if rung.held is Held.SOURCE:
            return shelf.draw(rung.place, units, ladder.need.gpus_per_unit)
        return shelf.pay(units, rung.spend)

    climb.up(most, least, afford)


def _outlay(problem: Problem, ladder: Ladder, counts: Sequence[int], before: _Shelf, after: _Shelf) -> float:
    """What one need's units cost, whole blocks that had to be opened for it included."""
    hours = problem.horizon_s / HOUR_S
    total = sum(map(float.__mul__, ladder.weights, short(ladder, counts)))
    for rung, count in zip(ladder.rungs, counts, strict=True):
        if rung.held is not Held.SOURCE:
            total += rung.cost * count
    for source, had, has in zip(problem.sources, before.blocks, after.blocks, strict=True):
        total += (had - has) * source.granularity * (source.price_per_gpu_hour * hours + source.one_off_price)
    return total


def _serve(problem: Problem, ladder: Ladder, climb: Climb, shelf: _Shelf) -> tuple[Climb, _Shelf]:
    """Climb as far as it pays, then drop any block opened for a part of it where doing without is cheaper."""
    start = list(climb.counts)
    before = shelf.copy()
    _climb(ladder, climb, shelf, ladder.most, ladder.least)
    for index, rung in enumerate(ladder.rungs):
        if rung.held is not Held.SOURCE or climb.counts[index] == start[index]:
            continue
        source = problem.sources[rung.place]
        if source.granularity == 1 or not shelf.loose[rung.place]:
            continue
        other, rest = _without_last_block(ladder, climb, start, before, index, source)
        if _outlay(problem, ladder, other.counts, before, rest) < _outlay(problem, ladder, climb.counts, before, shelf):
            climb, shelf = other, rest
    return climb, shelf


def _without_last_block(
    ladder: Ladder, climb: Climb, start: Sequence[int], before: _Shelf, index: int, source: Source
) -> tuple[Climb, _Shelf]:
    place, width = ladder.rungs[index].place, ladder.need.gpus_per_unit
    new = (climb.counts[index] - start[index]) * width - before.loose[place]
    full = before.loose[place] + whole(max(0, new - 1), source.granularity)
    shelf = before.copy()
    caps = list(climb.caps)
    for other, rung in enumerate(ladder.rungs):
        if rung.held is not Held.SOURCE:
            caps[other] = rung.cap
    caps[index] = start[index] + full // width
    retry = Climb(ladder, caps)
    for other, count in enumerate(start):
        retry.add(other, count)
    _climb(ladder, retry, shelf, ladder.most, ladder.least)
    return retry, shelf


def _committed(need: Need, firm: int) -> float:
    return firm * need.gpus_per_unit * need.price_per_gpu_hour


def greedy(problem: Problem, steps: Sequence[Ladder]) -> tuple[Counts, ...]:
    """Units on each rung of each ladder: minimums first, then whatever pays, dearest shortage first."""
    shelf = _Shelf(problem, sum(_committed(ladder.need, ladder.firm) for ladder in steps))
    order = sorted(range(len(steps)), key=lambda i: (-steps[i].need.shortage_price / steps[i].need.gpus_per_unit, i))
    climbs = [Climb(ladder) for ladder in steps]
    for i in order:
        if steps[i].least > 0:
            _climb(steps[i], climbs[i], shelf, steps[i].least, steps[i].least)
    for i in order:
        climbs[i], shelf = _serve(problem, steps[i], climbs[i], shelf)
    return tuple(tuple(climb.counts) for climb in climbs)
