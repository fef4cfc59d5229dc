"""What a unit costs by itself once everything shared has a price, and the paths it can take.

With a price for holding a replica of each kind in each period and one for each start, the cheapest path of a unit is
found by dynamic programming over the periods (`batch`), the state being the replicas of each variant. The cost it
finds is never above the true one, which makes the sum over all units a lower bound (Lagrangian relaxation, Geoffrion
1974):

- starts are counted from the change of all replicas of a variant, existing ones included;
- in every period the cheapest existing replicas are the ones that are held, and those cheapest to release go;
- an existing replica that was let go and is replaced pays the price of a new one in the period it is replaced, and
  later as far as that can be told from the number of replicas (`Batch._returns`);
- caps of single ways, waves, bursts and pairs within domains are left out; of several roles each answers for its share
  of the pool's shortage.
"""

from __future__ import annotations

from operator import add, mul
from typing import TYPE_CHECKING, NamedTuple

from optimizer.ladder import Held

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.point import Serving
    from optimizer.units import Unit

    Floats = NDArray[np.float64]

NEVER = 1e12
"""Price of what cannot be had."""


class Prices(NamedTuple):
    """What things cost: holding and starting a replica of each kind in each period, holding an existing one.

    `existing` has one row for each existing way and, last, one of a price that is never paid; `kept` is what keeping a
    replica of each existing way in all periods costs beyond letting it go.
    """

    hold: Floats
    start: Floats
    existing: Floats
    kept: Floats


class Path(NamedTuple):
    """One way for a unit to fare: replicas kept of each existing way, new ones of each variant, and its own cost.

    The cost is that of existing replicas, releases, shortage and missing minimums; new replicas are paid by kind.
    """

    kept: dict[int, tuple[int, ...]]
    new: tuple[tuple[int, ...], ...]
    cost: float


class Standing(NamedTuple):
    """What kept replicas come to: their cost, and capacity and number in each period."""

    cost: float
    have: list[float]
    counts: list[int]


class Pricer:
    """Makes the paths of one unit that keep near given numbers of replicas."""

    def __init__(self, model: Model, unit: Unit, rows: Mapping[int, int]) -> None:
        self.model, self.unit, self.rows = model, unit, rows
        self.known: set[tuple[object, ...]] = set()

    def paths(self, counts: Sequence[tuple[int, ...]], prices: Prices) -> list[Path]:
        """Paths near so many replicas of each variant: existing ones let go at a dip, or kept through it.

        None for numbers that were asked for before with existing replicas ranked alike.
        """
        order = tuple(
            tuple(sorted(group, key=lambda w: (prices.kept[self.rows[w]], w))) if len(group) > 1 else group
            for group in self.unit.groups
        )
        key = (tuple(counts), order)
        if key in self.known:
            return []
        self.known.add(key)
        found = [self._path(counts, counts, order)]
        later = [tuple(map(max, *counts[i:])) if len(counts) > i + 1 else counts[i] for i in range(len(counts))]
        if later != list(counts):
            found.append(self._path(counts, later, order))
        return found

    def _path(
        self, counts: Sequence[tuple[int, ...]], keep: Sequence[tuple[int, ...]], order: Sequence[Sequence[int]]
    ) -> Path:
        """The path with so many replicas of each variant in each period, and of what exists up to `keep` of them."""
        kept: dict[int, tuple[int, ...]] = {}
        new = []
        for v, group in enumerate(order):
            rest = [n[v] for n in counts]
            most = [n[v] for n in keep]
            for w in group:
                kept[w] = self._kept(w, most)
                rest = [n - k if n > k else 0 for n, k in zip(rest, kept[w], strict=True)]
                most = [n - k if n > k else 0 for n, k in zip(most, kept[w], strict=True)]
            ready = self.unit.ready[v] if self.unit.kinds[v] is not None else len(rest)
            new.append((*(0,) * min(ready, len(rest)), *rest[ready:]))
        return self.priced(kept, tuple(new))

    def _kept(self, w: int, wish: Sequence[int]) -> tuple[int, ...]:
        """Replicas kept of an existing way where so many are wished for: never more than in the period before."""
        way = self.model.ladder.ways[w]
        left, found = way.cap, [0] * way.first
        firm = way.held is Held.STARTING and self.unit.firm
        for i, count in enumerate(wish[way.first :]):
            if count < left and not (firm and not i):
                left = count
            found.append(left)
        return tuple(found)

    def near(self, path: Path) -> list[Path]:
        """Paths with one new replica of a variant fewer, everywhere or at its peak, or more, or of another instead.

        The paths that prices name all fill what they pay for; these fit into what those leave.
        """
        fewer: list[tuple[int, tuple[int, ...]]] = []
        more: list[tuple[int, tuple[int, ...]]] = []
        for v, numbers in enumerate(path.new):
            ready, peak = self.unit.ready[v], max(numbers)
            later = numbers[ready:]
            if peak:
                fewer.append((v, tuple([max(0, n - 1) for n in numbers])))
            if peak and peak > min(later):
                fewer.append((v, tuple([min(n, peak - 1) for n in numbers])))
            if later and self.unit.kinds[v] is not None:
                more.append((v, (*numbers[:ready], *(n + 1 for n in later))))
        swaps = [(less, plus) for less in fewer for plus in more if less[0] != plus[0]]
        standing = self._standing(path.kept)
        found = []
        for change in (*((one,) for one in (*fewer, *more)), *swaps):
            new = list(path.new)
            for v, numbers in change:
                new[v] = numbers
            found.append(self._with(standing, path.kept, tuple(new)))
        return found

    def bare(self) -> Path:
        """The path with nothing but what has to be awaited: it fits whatever the others take."""
        none = [0] * len(self.model.ladder.points)
        kept = {w: self._kept(w, none) for group in self.unit.groups for w in group}
        return self.priced(kept, tuple(tuple(none) for _ in self.unit.capacity))

    def priced(self, kept: dict[int, tuple[int, ...]], new: tuple[tuple[int, ...], ...]) -> Path:
        """A path with its own cost."""
        return self._with(self._standing(kept), kept, new)

    def _standing(self, kept: dict[int, tuple[int, ...]]) -> Standing:
        ladder, unit = self.model.ladder, self.unit
        have = [0.0] * len(ladder.points)
        counts = [0] * len(ladder.points)
        cost = 0.0
        for w, numbers in kept.items():
            way = ladder.ways[w]
            cost += way.release_price * (way.cap - numbers[-1])
            if any(numbers):
                each = unit.capacity[way.variant]
                cost += way.hour_price * sum(map(mul, numbers, ladder.hours))
                have = [h + n * each for h, n in zip(have, numbers, strict=True)]
                counts = list(map(add, counts, numbers))
        return Standing(cost, have, counts)

    def _with(self, standing: Standing, kept: dict[int, tuple[int, ...]], new: tuple[tuple[int, ...], ...]) -> Path:
        """The path of what stands and new replicas of each variant."""
        unit = self.unit
        cost, have, counts = standing
        for each, numbers in zip(unit.capacity, new, strict=True):
            if any(numbers):
                have = [h + n * each for h, n in zip(have, numbers, strict=True)]
                counts = list(map(add, counts, numbers))
        for some, amount, span in zip(unit.segments, map(min, have, unit.reach), self.model.ladder.hours, strict=True):
            edge = 0.0
            for width, price in some:
                edge += width
                if edge > amount:
                    cost += price * span * min(width, edge - amount)
        missing = max(0, unit.minimum - min(counts[min(unit.minimum_from, len(counts) - 1) :]))
        return Path(kept, new, cost + missing * unit.minimum_price)


def paths_of(model: Model, pricers: Sequence[Pricer], serving: Serving) -> list[tuple[int, Path]]:
    """The paths of a whole plan."""
    ladder = model.ladder
    found = []
    for n, pricer in enumerate(pricers):
        unit = pricer.unit
        kept = {w: serving[w] for group in unit.groups for w in group}
        new = [[0] * len(ladder.points) for _ in unit.capacity]
        for w in model.of_role(unit.pool, unit.role):
            way = ladder.ways[w]
            if way.held is Held.SOURCE:
                new[way.variant] = [a + b for a, b in zip(new[way.variant], serving[w], strict=True)]
        found.append((n, pricer.priced(kept, tuple(map(tuple, new)))))
    return found
