"""The climb of one role: again and again the way and interval of periods with the lowest price per gain.

For each way the best interval is found in one pass over the periods (Kadane's maximum subarray, with the start price
as what it costs to begin), and the step is repeated as often as its gain stays the same.
"""

from __future__ import annotations

from operator import truediv
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
MARGIN = 1e-9
"""Against rounding where a way is passed over."""
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


class Offered(NamedTuple):
    """A way by what a replica of it costs: once, per hour and in each period; whether it may begin after `first`.

    Ways that are alike in all of that have the same `kind`.
    """

    way: int
    kind: int
    once: float
    hourly: float
    costs: tuple[float, ...]
    later: bool
    first: int
    capacity: float


class Climb:
    """The climb of one role of one pool."""

    def __init__(self, state: State, p: int, r: int, segments: Sequence[Sequence[Segment]]) -> None:
        self.state = state
        self.p, self.r = p, r
        self.segments = segments
        self.have = [0.0] * len(segments)
        self.ways = [w for w in state.ladder.of[p] if state.ladder.ways[w].role == r]
        self.barred: set[int] = set()
        self.offered: list[Offered] = []
        self.open: list[Offered] | None = None
        self.worth: dict[float, list[float]] = {}
        self.most: dict[tuple[float, int], tuple[float, float]] = {}
        self.steps: dict[int, Step | None] = {}
        self.floor: list[float] = []

    def within(self, domain: str, segments: Sequence[Sequence[Segment]]) -> Climb:
        """The same role on its ways in one domain only, for what is wanted there."""
        other = Climb(self.state, self.p, self.r, segments)
        other.ways = [w for w in self.ways if self.state.ladder.ways[w].domain == domain]
        return other

    def loose(self) -> Climb:
        """The same role on what exists and on single GPUs only: no blocks are opened for it."""
        other = Climb(self.state, self.p, self.r, self.segments)
        ladder = self.state.ladder
        shelves = [(w, ladder.ways[w].shelf) for w in self.ways]
        other.ways = [w for w, shelf in shelves if shelf is None or ladder.shelves[shelf].loose]
        return other

    def _gain(self, capacity: float, i: int) -> float:
        """Worth of one more replica in a period."""
        total = edge = 0.0
        have = self.have[i]
        more = have + capacity
        for width, price in self.segments[i]:
            low, edge = edge, edge + width
            if edge > have:
                total += (min(more, edge) - max(have, low)) * price
                if edge >= more:
                    break
        return total * self.state.ladder.hours[i]

    def gains(self, capacity: float) -> list[float]:
        """Worth of one more replica in each period."""
        if capacity not in self.worth:
            self.worth[capacity] = [self._gain(capacity, i) for i in range(len(self.have))]
        return self.worth[capacity]

    def _add(self, begin: int, end: int, capacity: float) -> None:
        """More capacity in some periods, and what another replica is worth with it."""
        for i in range(begin, end):
            self.have[i] += capacity
        for each, gains in self.worth.items():
            for i in range(begin, end):
                if gains[i]:
                    gains[i] = self._gain(each, i)
        self.most.clear()
        self.steps.clear()

    def _lift_bars(self) -> None:
        self.barred.clear()
        self.open = None

    def _all(self) -> list[Offered]:
        """All ways, priced."""
        if not self.offered:
            kinds: dict[tuple[object, ...], int] = {}
            for w in self.ways:
                way = self.state.ladder.ways[w]
                hourly, once = self.state.prices(w)
                costs = tuple([hourly * span for span in self.state.ladder.hours])
                facts = (once, hourly, costs, way.held is Held.SOURCE, way.first, way.capacity)
                self.offered.append(Offered(w, kinds.setdefault(facts, len(kinds)), *facts))
            self.floor = [-float("inf")] * len(kinds)
        return self.offered

    def _offers(self) -> list[Offered]:
        """The ways that are not used up; of those alike the first stands for all."""
        if self.open is None:
            self.open = []
            seen: set[int] = set()
            for one in self._all():
                if one.kind not in seen and one.way not in self.barred and not self.state.full(one.way):
                    seen.add(one.kind)
                    self.open.append(one)
        return self.open

    def best_interval(self, offered: Offered, gains: Sequence[float]) -> Step | None:
        """The periods in which one more replica of this way is worth most after its price."""
        _, _, once, _, costs, later, first, _ = offered
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
        return Step(offered.way, best_begin, best_end, 1, best_gain, best_gain - most) if best_end else None

    def next(self) -> Step | None:
        """The step with the lowest price per gain; None when nothing pays.

        A way is passed over where even all its gains together, each at the price of the best, would cost no less per
        gain than the step chosen so far.
        """
        chosen: Step | None = None
        limit = float("inf")
        offers, floor, steps = self._offers(), self.floor, self.steps
        for offered in offers:
            kind = offered.kind
            if floor[kind] > limit:
                continue
            if kind not in steps:
                gains = self.gains(offered.capacity)
                if offered.hourly >= 0.0:
                    floor[kind] = self._least(offered, gains)
                    if floor[kind] > limit:
                        continue
                steps[kind] = self.best_interval(offered, gains)
            step = steps[kind]
            if step is not None and (chosen is None or step.price * chosen.gain < chosen.price * step.gain - 1e-12):
                chosen = step if step.way == offered.way else step._replace(way=offered.way)
                limit = -float("inf")
                if step.gain > 0.0:
                    limit = (step.price + MARGIN * abs(step.price)) / step.gain
        return chosen

    def _least(self, offered: Offered, gains: Sequence[float]) -> float:
        """No interval of a way costs less than this per gain, now or later: gains only fall."""
        key = (offered.capacity, offered.first)
        if key not in self.most:
            some = gains[offered.first :]
            rates = map(truediv, some, self.state.ladder.hours[offered.first :])
            self.most[key] = sum(some), max(rates, default=0.0)
        total, rate = self.most[key]
        return offered.once / total + offered.hourly / rate if rate > 0.0 else float("inf")

    def stride(self, step: Step) -> int:
        """How often the step can be repeated before its gain changes."""
        way = self.state.ladder.ways[step.way]
        capacity, least = way.capacity, way.cap
        for i in range(step.begin, step.end):
            if least <= 1:
                break
            edge, have = 0.0, self.have[i]
            for width, _ in self.segments[i]:
                edge += width
                if edge > have + 1e-9:
                    least = min(least, max(1, int((edge - have) / capacity + 1e-9)))
                    break
        return max(1, least)

    def take(self, step: Step, count: int) -> int:
        """Take as many as there are, up to `count`; where there were none, the way is used up."""
        granted = self.state.take(step.way, step.begin, step.end, count, step.gain * count)
        if not granted:
            self.barred.add(step.way)
            self.open = None
        else:
            self._add(step.begin, step.end, granted * self.state.ladder.ways[step.way].capacity)
            if self.state.full(step.way):
                self.open = None
        return granted

    def await_firm(self) -> None:
        """What is starting is awaited whatever it is worth, unless a bound lies below it."""
        ladder = self.state.ladder
        for offered in self._all() if self.state.firm(self.p, self.r) else ():
            w, way = offered.way, ladder.ways[offered.way]
            if way.held is not Held.STARTING:
                continue
            left = way.cap
            while left:
                step = self.best_interval(offered, self.gains(way.capacity))
                step = step or Step(w, way.first, way.first + 1, 1, 0.0, 0.0)
                count = min(left, self.stride(step)) if step.gain else left
                step = step._replace(gain=FREELY)
                self.take(step, count)
                left -= count
        self._lift_bars()

    def fill_minimum(self) -> None:
        """Reach the minimum with the ways that are cheapest to hold until the horizon."""
        ladder = self.state.ladder
        minimum = ladder.minimums[self.p][self.r]

        def outlay(one: Offered) -> tuple[float, int, int]:
            return (one.once + one.hourly * sum(ladder.hours[one.first :]), one.first, one.way)

        missing = minimum - self.state.least_asked(self.p, self.r)
        for w in (one.way for one in sorted(self._all(), key=outlay)) if missing > 0 else ():
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
        self._lift_bars()

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
        self._lift_bars()

    def climb(self) -> None:
        """Step while it pays."""
        while (step := self.next()) is not None:
            self.take(step, self.stride(step))
