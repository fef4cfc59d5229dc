"""What a unit costs by itself once everything shared has a price, and the path that costs least.

With a price for holding a replica of each kind in each period and one for each start, the cheapest path of a unit is
found by dynamic programming over the periods, the state being the replicas of each variant. The cost it finds is never
above the true one, which makes the sum over all units a lower bound (Lagrangian relaxation, Geoffrion 1974):

- starts are counted from the change of all replicas of a variant, existing ones included;
- in every period the cheapest existing replicas are the ones that are held, and those cheapest to release go;
- an existing replica that was let go and is replaced pays the price of a new one in the period it is replaced, and in
  the last period where it is replaced in the one before;
- caps of single ways, waves, bursts and pairs within domains are left out; of several roles each answers for its share
  of the pool's shortage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from optimizer.ladder import Held
from optimizer.units import lacking

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.units import Unit

    Floats = NDArray[np.float64]

NEVER = 1e12
"""Price of what cannot be had."""


class Prices(NamedTuple):
    """What things cost: holding and starting a replica of each kind in each period, holding an existing one."""

    hold: Floats
    start: Floats
    existing: dict[int, Floats]


class Path(NamedTuple):
    """One way for a unit to fare: replicas kept of each existing way, new ones of each variant, and its own cost.

    The cost is that of existing replicas, releases, shortage and missing minimums; new replicas are paid by kind.
    """

    kept: dict[int, tuple[int, ...]]
    new: tuple[tuple[int, ...], ...]
    cost: float


class Pricer:
    """Finds the cheapest path of one unit at given prices; what does not depend on prices is worked out once."""

    def __init__(self, model: Model, unit: Unit) -> None:
        self.model, self.unit = model, unit
        hours = model.ladder.hours
        self.axes = [np.arange(top + 1) for top in unit.tops]
        self.anchor = tuple(0 for _ in unit.tops)
        size = len(self.axes)
        self.shapes = [tuple(-1 if v == n else 1 for n in range(size)) for v in range(size)]
        self.flips = [tuple(slice(None, None, -1 if v == n else 1) for n in range(size)) for v in range(size)]
        have = np.zeros([len(axis) for axis in self.axes])
        count = np.zeros(have.shape)
        for axis, shape, capacity in zip(self.axes, self.shapes, unit.capacity, strict=True):
            have += axis.reshape(shape) * capacity
            count += axis.reshape(shape)
        self.worth = [
            lacking(some, np.minimum(have, most)) * span
            for some, most, span in zip(unit.segments, unit.reach, hours, strict=True)
        ]
        late = range(min(unit.minimum_from, len(hours) - 1), len(hours))
        for i in late if unit.minimum else ():
            self.worth[i] += unit.minimum_price / len(late) * np.clip(unit.minimum - count, 0.0, None)
        ways = model.ladder.ways
        self.old = [[w for w in group if ways[w].cap] for group in unit.groups]
        self.arrive = [
            [sum(ways[w].cap for w in old if ways[w].first == i) for i in range(len(hours))] for old in self.old
        ]
        self.arrived = [
            [np.minimum(axis + come, len(axis) - 1) for come in arrive]
            for axis, arrive in zip(self.axes, self.arrive, strict=True)
        ]
        self.release = [self._releases(v) for v in range(size)]

    def _releases(self, v: int) -> Floats:
        """What is lost with the releases that leave so many replicas."""
        ways = self.model.ladder.ways
        each = sorted(ways[w].release_price for w in self.unit.groups[v] for _ in range(ways[w].cap))
        gone = np.concatenate(([0.0], np.cumsum(each)))
        left = len(each) - np.arange(self.unit.tops[v] + 1)
        return gone[np.clip(left, 0, None)].reshape(self.shapes[v])

    def _held(self, v: int, prices: Prices) -> tuple[Floats, Floats, Floats]:
        """By period, the least that holding 0, 1, ... replicas of a variant costs, and the price of rising to so many.

        Where an existing replica could have been, one more that was let go before, its place is taken by a new one: at
        least in the period of its start that is held at the price of a new one.
        """
        kind, ready, top = self.unit.kinds[v], self.unit.ready[v], self.unit.tops[v]
        new, start = np.full(len(self.worth), NEVER), np.zeros(len(self.worth))
        if kind is not None:
            new[ready:], start[ready:] = prices.hold[kind, ready:], prices.start[kind, ready:]
        each = np.repeat(new[:, None], top, axis=1)
        if self.old[v]:
            caps = [self.model.ladder.ways[w].cap for w in self.old[v]]
            old = np.repeat(np.stack([prices.existing[w] for w in self.old[v]], axis=1), caps, axis=1)
            if len(caps) > 1:
                old.sort(axis=1)
            each[:, : old.shape[1]] = np.minimum(old, each[:, : old.shape[1]])
        dearer = new[:, None] - each
        back = dearer[-1].copy()
        back[self.anchor[v] :] = 0.0
        sums = np.zeros((3, len(self.worth), top + 1))
        np.cumsum(each, axis=1, out=sums[0, :, 1:])
        np.cumsum(start[:, None] + dearer, axis=1, out=sums[1, :, 1:])
        if len(self.worth) > 1 and new[-1] < NEVER and not self.arrive[v][-1]:
            np.cumsum(back, out=sums[2, -1, 1:])
            sums[1, -2] += sums[2, -1]
        return sums[0], sums[1], sums[2]

    def cheapest(self, prices: Prices) -> tuple[float, list[tuple[int, ...]]]:
        """A lower bound of what the unit costs, and the replicas of each variant in each period that reach it."""
        held = [self._held(v, prices) for v in range(len(self.axes))]
        stages: list[Floats] = []
        for i, worth in enumerate(self.worth):
            value = self._moved(stages[-1], i, held) + worth if i else self._first(held) + worth
            for v, (hold, _, _) in enumerate(held):
                value += hold[i].reshape(self.shapes[v])
            stages.append(value)
        final = stages[-1].copy()
        for release in self.release:
            final += release
        state = np.unravel_index(int(final.argmin()), final.shape)
        path = [tuple(int(n) for n in state)]
        self.anchor = path[0]
        for i in range(len(stages) - 1, 0, -1):
            back = stages[i - 1]
            for v, (_, rises, falls) in enumerate(held):
                back = back + self._risen(v, i, path[-1][v], rises[i], falls[i]).reshape(self.shapes[v])
            path.append(tuple(int(n) for n in np.unravel_index(int(back.argmin()), back.shape)))
        return float(final[state]), path[::-1]

    def _risen(self, v: int, i: int, to: int, rise: Floats, fall: Floats) -> Floats:
        """What it costs to come to `to` replicas of a variant in period i from 0, 1, ... in the one before."""
        begin = self.arrived[v][i]
        back = np.minimum(fall[to] - fall[begin], 0.0)
        if not self._starts(v, i):
            return np.where(begin < to, NEVER, back)
        found: Floats = np.where(begin < to, np.maximum(rise[to] - rise[begin], 0.0), back)
        return found

    def _starts(self, v: int, i: int) -> bool:
        return self.unit.kinds[v] is not None and i >= self.unit.ready[v]

    def _first(self, held: Sequence[tuple[Floats, Floats, Floats]]) -> Floats:
        """What it costs to have so many in the first period: those that are there already for nothing."""
        value = np.zeros(self.worth[0].shape)
        for v, (_, rises, _) in enumerate(held):
            there = self.arrived[v][0][0]
            if self._starts(v, 0):
                price = np.maximum(rises[0] - rises[0][there], 0.0)
            else:
                price = np.where(np.arange(len(rises[0])) > there, NEVER, 0.0)
            value += price.reshape(self.shapes[v])
        return value

    def _moved(self, value: Floats, i: int, held: Sequence[tuple[Floats, Floats, Floats]]) -> Floats:
        """The cheapest way to each state of period i from the one before: fewer for nothing, more at their start."""
        for v, (_, rises, falls) in enumerate(held):
            back = falls[i].reshape(self.shapes[v])
            value = np.minimum.accumulate((value - back)[self.flips[v]], v)[self.flips[v]] + back
            if self.arrive[v][i]:
                value = np.take(value, np.maximum(np.arange(value.shape[v]) - self.arrive[v][i], 0), axis=v)
            if self._starts(v, i):
                price = rises[i].reshape(self.shapes[v])
                value = np.minimum.accumulate(value - price, v) + price
        return value

    def paths(self, counts: Sequence[tuple[int, ...]], prices: Prices) -> list[Path]:
        """Paths near so many replicas of each variant: existing ones let go at a dip, or kept through it."""
        dips = [
            min(row[v] for row in counts[:i]) < row[v] for i, row in enumerate(counts) if i for v in range(len(row))
        ]
        found = [self.path(counts, counts, prices)]
        if any(dips):
            later = [
                tuple(max(row[v] for row in counts[i:]) for v in range(len(counts[0]))) for i in range(len(counts))
            ]
            found.append(self.path(counts, later, prices))
        return found

    def path(self, counts: Sequence[tuple[int, ...]], keep: Sequence[tuple[int, ...]], prices: Prices) -> Path:
        """The path with so many replicas of each variant in each period, and of what exists up to `keep` of them."""
        kept: dict[int, tuple[int, ...]] = {}
        new = []
        for v in range(len(self.axes)):
            rest = [n[v] for n in counts]
            most = [n[v] for n in keep]
            for w in sorted(self.unit.groups[v], key=lambda w: (self._worth_keeping(w, prices), w)):
                kept[w] = self._kept(w, most)
                rest = [max(0, n - k) for n, k in zip(rest, kept[w], strict=True)]
                most = [max(0, n - k) for n, k in zip(most, kept[w], strict=True)]
            can = self.unit.kinds[v] is not None
            new.append(tuple(n if can and i >= self.unit.ready[v] else 0 for i, n in enumerate(rest)))
        return self.priced(kept, tuple(new))

    def _worth_keeping(self, w: int, prices: Prices) -> float:
        return float(prices.existing[w].sum()) - self.model.ladder.ways[w].release_price

    def _kept(self, w: int, wish: Sequence[int]) -> tuple[int, ...]:
        """Replicas kept of an existing way where so many are wished for: never more than in the period before."""
        way = self.model.ladder.ways[w]
        left, found = way.cap, []
        for i, count in enumerate(wish):
            if i < way.first:
                found.append(0)
                continue
            if not (i == way.first and way.held is Held.STARTING and self.unit.firm):
                left = min(left, count)
            found.append(left)
        return tuple(found)

    def priced(self, kept: dict[int, tuple[int, ...]], new: tuple[tuple[int, ...], ...]) -> Path:
        """A path with its own cost."""
        ladder, unit = self.model.ladder, self.unit
        have = [0.0] * len(self.worth)
        counts = [0] * len(self.worth)
        cost = 0.0
        for w, numbers in kept.items():
            way = ladder.ways[w]
            v = way.variant
            cost += way.release_price * (way.cap - numbers[-1])
            cost += way.hour_price * sum(n * span for n, span in zip(numbers, ladder.hours, strict=True))
            have = [h + n * unit.capacity[v] for h, n in zip(have, numbers, strict=True)]
            counts = [c + n for c, n in zip(counts, numbers, strict=True)]
        for v, numbers in enumerate(new):
            have = [h + n * unit.capacity[v] for h, n in zip(have, numbers, strict=True)]
            counts = [c + n for c, n in zip(counts, numbers, strict=True)]
        for some, amount, most, span in zip(unit.segments, have, unit.reach, ladder.hours, strict=True):
            edge = 0.0
            for width, price in some:
                edge += width
                cost += price * span * min(width, max(0.0, edge - min(amount, most)))
        missing = max(0, unit.minimum - min(counts[min(unit.minimum_from, len(counts) - 1) :]))
        return Path(kept, new, cost + missing * unit.minimum_price)
