"""A good plan at once: pools in order of what a shortage costs them, each from its cheapest ways with what is left.

It keeps every bound, stock, budget, quota and preemption limit; only ratios are left to the solver. It is the fallback
when the solver runs out of time, the point the solver starts from, and the yardstick no exact answer may be worse than.

For one role the best next step is the way and interval of periods with the lowest price per gain: for each way the
interval is found in one pass over the periods (Kadane's maximum subarray, with the start price as what it costs to
begin), and the step is repeated as often as its gain stays the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from optimizer.actions import batches
from optimizer.greedy_state import State
from optimizer.ladder import Held
from optimizer.worth import wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.ladder import Ladder, Way
    from optimizer.point import Open, Serving
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


def _gain(segments: Sequence[Segment], have: float, more: float) -> float:
    """Worth per hour of `more` capacity on top of `have`."""
    total = 0.0
    edge = 0.0
    for width, price in segments:
        low, high = max(have, edge), min(have + more, edge + width)
        if high > low:
            total += (high - low) * price
        edge += width
    return total


class _Role:
    """The climb of one role of one pool."""

    def __init__(self, state: State, p: int, r: int, segments: Sequence[Sequence[Segment]]) -> None:
        self.state = state
        self.p, self.r = p, r
        self.segments = segments
        self.have = [0.0] * len(segments)
        self.ways = [w for w in state.ladder.of[p] if state.ladder.ways[w].role == r]
        self.barred: set[int] = set()

    def gains(self, capacity: float) -> list[float]:
        """Worth of one more replica in each period."""
        hours = self.state.ladder.hours
        return [
            _gain(some, have, capacity) * span for some, have, span in zip(self.segments, self.have, hours, strict=True)
        ]

    def best_interval(self, w: int, gains: Sequence[float]) -> Step | None:
        """The periods in which one more replica of this way is worth most after its price."""
        way = self.state.ladder.ways[w]
        hours = self.state.ladder.hours
        hourly, once = self.state.prices(w)
        begin, value, gain = way.first, -once, 0.0
        best: Step | None = None
        most = LEAST_GAIN
        for i in range(way.first, len(hours)):
            if value < -once and way.held is Held.SOURCE:
                begin, value, gain = i, -once, 0.0
            value += gains[i] - hourly * hours[i]
            gain += gains[i]
            if value > most:
                most = value
                best = Step(w, begin, i + 1, 1, gain, gain - value)
        return best

    def next(self) -> Step | None:
        """The step with the lowest price per gain; None when nothing pays."""
        chosen: Step | None = None
        by_capacity: dict[float, list[float]] = {}
        for w in self.ways:
            if w in self.barred:
                continue
            capacity = self.state.ladder.ways[w].capacity
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


def _order(ladder: Ladder) -> list[int]:
    """Pools by what lacking one GPU's worth of them costs, dearest first."""

    def worth(p: int) -> float:
        pool = ladder.problem.pools[p]
        per_gpu = max((_per_gpu(ladder.ways[w]) for w in ladder.of[p]), default=0.0)
        return max(one.shortage_price for one in pool.classes) * per_gpu

    return sorted(range(len(ladder.problem.pools)), key=lambda p: (-worth(p), p))


def _per_gpu(way: Way) -> float:
    return way.capacity / way.gpus


def greedy(ladder: Ladder, guide: Sequence[Sequence[float]] | None = None) -> tuple[Serving, Open]:
    """Replicas of each way and open blocks of each lot in each period.

    Args:
        ladder: the problem.
        guide: replicas of each way in each period as the linear relaxation has them: their whole parts are taken first,
            and only the rest is climbed for.
    """
    state = State(ladder)
    order = _order(ladder)
    roles: dict[int, list[_Role]] = {}
    for p in order:
        pool = ladder.problem.pools[p]
        needs = wanted(pool, ladder.points, ladder.problem.horizon_s)
        roles[p] = [_Role(state, p, r, [need.segments for need in needs]) for r in range(len(pool.roles))]
        for role in roles[p]:
            role.await_firm()
    for p in order:
        for role in roles[p]:
            role.fill_minimum()
    for p in order if guide is not None else ():
        for role in roles[p]:
            role.follow(guide or ())
    for p in order:
        for role in roles[p]:
            role.climb()
    return state.result()
