"""The climb of one role: again and again the way and interval of periods with the lowest price per gain.

For each way the best interval is found in one pass over the periods (Kadane's maximum subarray, with the start price
as what it costs to begin), and the step is repeated as often as its gain stays the same.
"""

from __future__ import annotations

from itertools import accumulate
from operator import truediv
from typing import TYPE_CHECKING, NamedTuple

from optimizer.ladder import Held
from optimizer.places import batches

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


class Worth(NamedTuple):
    """What one more replica of some capacity gains in each period, in all from each on, and at most per hour."""

    gains: list[float]
    totals: list[float]
    rates: list[float]


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
        self.left: dict[int, list[Offered]] = {}
        self.edges: list[tuple[tuple[float, float, float], ...]] = []
        self.backwards: tuple[float, ...] = ()
        self.worth: dict[float, Worth] = {}
        self.steps: dict[int, Step | None] = {}
        self.floor: list[float] = []
        self.last: Offered | None = None

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

    def gains(self, capacity: float) -> list[float]:
        """Worth of one more replica in each period."""
        return self._worth(capacity).gains

    def _worth(self, capacity: float) -> Worth:
        if capacity not in self.worth:
            hours = self.state.ladder.hours
            if not self.edges:
                self.edges = [_edges(some, span) for some, span in zip(self.segments, hours, strict=True)]
                self.backwards = hours[::-1]
            gains = [_gain(capacity, have, edges) for have, edges in zip(self.have, self.edges, strict=True)]
            self.worth[capacity] = self._summed(gains)
        return self.worth[capacity]

    def _summed(self, gains: list[float]) -> Worth:
        rates = map(truediv, reversed(gains), self.backwards)
        return Worth(gains, [*accumulate(reversed(gains))][::-1], [*accumulate(rates, max)][::-1])

    def _add(self, begin: int, end: int, capacity: float) -> None:
        """More capacity in some periods, and what another replica is worth with it."""
        have, edges, span = self.have, self.edges, range(begin, end)
        for i in span:
            have[i] += capacity
        for each, worth in self.worth.items():
            gains = worth.gains
            for i in span:
                if gains[i]:
                    gains[i] = _gain(each, have[i], edges[i])
            self.worth[each] = self._summed(gains)
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
            self.left = {}
            for one in self._all():
                if one.way not in self.barred and not self.state.full(one.way):
                    self.left.setdefault(one.kind, []).append(one)
            self.open = [some[0] for some in self.left.values()]
        return self.open

    def _use_up(self, w: int) -> None:
        """Offer a way no more."""
        for kind, some in self.left.items() if self.open is not None else ():
            if some[0].way == w:
                del some[0]
                if not some:
                    del self.left[kind]
                self.open = sorted([some[0] for some in self.left.values()])
                return
        self.open = None

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
            more = gains[i]
            value += more - costs[i]
            gain += more
            if value > most:
                most, best_begin, best_end, best_gain = value, begin, i + 1, gain
        return Step(offered.way, best_begin, best_end, 1, best_gain, best_gain - most) if best_end else None

    def next(self) -> Step | None:
        """The step with the lowest price per gain; None when nothing pays.

        A way is passed over where even all its gains together, each at the price of the best, would cost no less per
        gain than the step chosen so far. What was chosen last is looked at first: it mostly is the best again, and
        then nearly all others can be passed over.
        """
        offers, floor, steps = self._offers(), self.floor, self.steps
        chosen: Step | None = None
        last: Offered | None = None
        limit = float("inf")
        if self.last is not None and self.last.kind in self.left:
            known = self._step(self.left[self.last.kind][0])
            limit = _ratio(known) if known is not None else limit
        for offered in offers:
            kind = offered.kind
            if floor[kind] > limit:
                continue
            if kind not in steps:
                if offered.hourly >= 0.0:
                    _, totals, rates = self.worth.get(offered.capacity) or self._worth(offered.capacity)
                    rate = rates[offered.first]
                    if rate <= 0.0:
                        floor[kind] = float("inf")
                        continue
                    floor[kind] = least = offered.once / totals[offered.first] + offered.hourly / rate
                    if least > limit:
                        continue
                self._step(offered)
            step = steps[kind]
            if step is not None and (chosen is None or step.price * chosen.gain < chosen.price * step.gain - 1e-12):
                chosen, last = step, offered
                ratio = _ratio(step)
                limit = min(limit, ratio)
        self.last = last
        if chosen is not None and last is not None and chosen.way != last.way:
            return chosen._replace(way=last.way)
        return chosen

    def _step(self, offered: Offered) -> Step | None:
        """The best step of a way."""
        kind = offered.kind
        if kind not in self.steps:
            self.steps[kind] = self.best_interval(offered, self.gains(offered.capacity))
        return self.steps[kind]

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
            self._use_up(step.way)
        else:
            self._add(step.begin, step.end, granted * self.state.ladder.ways[step.way].capacity)
            if self.state.full(step.way):
                self._use_up(step.way)
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


def _edges(segments: Sequence[Segment], hours: float) -> tuple[tuple[float, float, float], ...]:
    """Where each segment begins and ends, and what a unit of it is worth in a period."""
    found, edge = [], 0.0
    for width, price in segments:
        found.append((edge, edge + width, price * hours))
        edge += width
    return tuple(found)


def _gain(capacity: float, have: float, edges: Sequence[tuple[float, float, float]]) -> float:
    """Worth of one more replica in a period in which there is so much."""
    total = 0.0
    more = have + capacity
    for low, edge, price in edges:
        if edge > have:
            begin = max(low, have)
            if edge >= more:
                return total + (more - begin) * price
            total += (edge - begin) * price
    return total


def _ratio(step: Step) -> float:
    """Price per gain above which no other step is better, with a margin against rounding."""
    return (step.price + MARGIN * abs(step.price)) / step.gain if step.gain > 0.0 else -float("inf")
