"""The climb of one role: again and again the way and interval of periods with the lowest price per gain.

For each way the best interval is found in one pass over the periods (Kadane's maximum subarray, with the start price
as what it costs to begin), and the step is repeated as often as its gain stays the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from optimizer.actions import batches
from optimizer.ladder import Held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.greedy_state import State
    from optimizer.worth import Segment

LEAST_GAIN = 1e-9
NEARLY = 0.5
"""Fractions of at least a half count as whole: on made-up fleets the best of 0, 0.2, 0.4 and 0.5."""
FREELY = float("inf")
"""Worth of what is taken whatever its blocks cost."""


class Step(NamedTuple):
    """`number` replicas of a way serving in the periods from `begin` to before `end`."""

    way: int
    begin: int
    end: int
    number: int
    gain: float
    price: float


class Climb:
    """The climb of one role of one pool."""

    def __init__(self, state: State, p: int, r: int, segments: Sequence[Sequence[Segment]]) -> None:
        self.state = state
        self.p, self.r = p, r
        self.segments = segments
        self.have = [0.0] * len(segments)
        self.ways = [w for w in state.ladder.of[p] if state.ladder.ways[w].role == r]
        self.barred: set[int] = set()
        self.priced: dict[int, tuple[float, tuple[float, ...], bool, int, float]] = {}

    def within(self, domain: str, segments: Sequence[Sequence[Segment]]) -> Climb:
        """The same role on its ways in one domain only, for what is wanted there."""
        other = Climb(self.state, self.p, self.r, segments)
        other.ways = [w for w in self.ways if self.state.ladder.ways[w].domain == domain]
        return other

    def gains(self, capacity: float) -> list[float]:
        """Worth of one more replica in each period."""
        found = []
        for segments, have, span in zip(self.segments, self.have, self.state.ladder.hours, strict=True):
            total = edge = 0.0
            more = have + capacity
            for width, price in segments:
                low, edge = edge, edge + width
                if edge > have:
                    total += ((min(more, edge)) - (max(have, low))) * price
                    if edge >= more:
                        break
            found.append(total * span)
        return found

    def _prices(self, w: int) -> tuple[float, tuple[float, ...], bool, int, float]:
        """Of a way: what a replica costs once, what it costs in each period, whether it may begin later; capacity."""
        if w not in self.priced:
            way = self.state.ladder.ways[w]
            hourly, once = self.state.prices(w)
            costs = tuple(hourly * span for span in self.state.ladder.hours)
            self.priced[w] = (once, costs, way.held is Held.SOURCE, way.first, way.capacity)
        return self.priced[w]

    def best_interval(self, w: int, gains: Sequence[float]) -> Step | None:
        """The periods in which one more replica of this way is worth most after its price."""
        once, costs, later, first, _ = self._prices(w)
        begin, value, gain = first, -once, 0.0
        best_end = best_begin = 0
        best_gain = 0.0
        most = LEAST_GAIN
        for i in range(first, len(costs)):
            if later and value < -once:
                begin, value, gain = i, -once, 0.0
            value += gains[i] - costs[i]
            gain += gains[i]
            if value > most:
                most, best_begin, best_end, best_gain = value, begin, i + 1, gain
        return Step(w, best_begin, best_end, 1, best_gain, best_gain - most) if best_end else None

    def next(self) -> Step | None:
        """The step with the lowest price per gain; None when nothing pays. Of ways alike the first stands for all."""
        chosen: Step | None = None
        by_capacity: dict[float, list[float]] = {}
        seen: set[tuple[float, tuple[float, ...], bool, int, float]] = set()
        for w in self.ways:
            if w in self.barred:
                continue
            prices = self._prices(w)
            if prices in seen:
                continue
            seen.add(prices)
            capacity = prices[4]
            if capacity not in by_capacity:
                by_capacity[capacity] = self.gains(capacity)
            step = self.best_interval(w, by_capacity[capacity])
            if step is not None and (chosen is None or step.price * chosen.gain < chosen.price * step.gain - 1e-12):
                chosen = step
        return chosen

    def stride(self, step: Step) -> int:
        """How often the step can be repeated before its gain changes."""
        capacity = self.state.ladder.ways[step.way].capacity
        least = self.state.ladder.ways[step.way].cap
        for i in range(step.begin, step.end):
            edge = 0.0
            for width, _ in self.segments[i]:
                edge += width
                if edge > self.have[i] + 1e-9:
                    least = min(least, max(1, int((edge - self.have[i]) / capacity + 1e-9)))
                    break
        return max(1, least)

    def take(self, step: Step, count: int) -> int:
        """Take as many as there are, up to `count`; where there were none, the way is used up."""
        granted = self.state.take(step.way, step.begin, step.end, count, step.gain * count)
        if not granted:
            self.barred.add(step.way)
        capacity = self.state.ladder.ways[step.way].capacity
        for i in range(step.begin, step.end):
            self.have[i] += granted * capacity
        return granted

    def await_firm(self) -> None:
        """What is starting is awaited whatever it is worth, unless a bound lies below it."""
        ladder = self.state.ladder
        for w in self.ways:
            way = ladder.ways[w]
            if way.held is not Held.STARTING or not self.state.firm(self.p, self.r):
                continue
            left = way.cap
            while left:
                step = self.best_interval(w, self.gains(way.capacity)) or Step(w, way.first, way.first + 1, 1, 0.0, 0.0)
                count = min(left, self.stride(step)) if step.gain else left
                self.take(step, count)
                left -= count
        self.barred.clear()

    def fill_minimum(self) -> None:
        """Reach the minimum with the ways that are cheapest to hold until the horizon."""
        ladder = self.state.ladder
        minimum = ladder.minimums[self.p][self.r]

        def outlay(w: int) -> tuple[float, int, int]:
            hourly, once = self.state.prices(w)
            return (once + hourly * sum(ladder.hours[ladder.ways[w].first :]), ladder.ways[w].first, w)

        for w in sorted(self.ways, key=outlay):
            missing = minimum - self.state.least_asked(self.p, self.r)
            if missing <= 0:
                break
            way = ladder.ways[w]
            if way.held is Held.STARTING and self.state.serving[w][way.first]:
                continue
            for count in range(min(missing, way.cap), 0, -1):
                step = Step(w, way.first, len(ladder.points), count, float("inf"), 0.0)
                if self.take(step, count):
                    break
        self.barred.clear()

    def follow(self, guide: Sequence[Sequence[float]]) -> None:
        """Take the whole parts of a guide, as far as they are not taken already and there is room."""
        for w in self.ways:
            already = self.state.serving[w]
            whole = [max(0, int(wish + NEARLY) - had) for wish, had in zip(guide[w], already, strict=True)]
            existing = self.state.ladder.ways[w].held is not Held.SOURCE
            if existing and any(already):
                continue
            for begin, end, count in batches(whole, 0):
                self.take(Step(w, begin, len(whole) if end is None else end, count, FREELY, 0.0), count)
        self.barred.clear()

    def climb(self) -> None:
        """Step while it pays."""
        while (step := self.next()) is not None:
            self.take(step, self.stride(step))
