"""The cheapest paths of many units at once: the dynamic program of `pricing`, over arrays in which units lie abreast.

The state of a unit is its replicas of each variant; an array has one axis for each variant and the units along its
last, so that every step of the program is one operation on long rows whatever the single unit's size. Units of like
shape share a batch; the states that a smaller one does not have cost infinitely much.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from optimizer.pricing import NEVER
from optimizer.units import lacking

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.pricing import Prices
    from optimizer.units import Unit

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

Kind = TypeVar("Kind", bound=np.generic)
MOST_ENTRIES = 300_000
"""Entries of one array of a batch, for memory: 2.4 MB for each period."""
ENTRIES_PER_CALL = 2_000
"""Entries that are worked through in the time that one numpy call takes by itself."""
STEP = 0.25
"""Of a refund, for each round of prices: on made-up fleets a tenth is slower and ends no higher."""
SHORT = 400
"""Rows with fewer entries are accumulated by numpy instead of one after the other."""


def batched(units: Sequence[Unit], periods: int) -> Iterator[list[int]]:
    """Numbers of units of like shape, so that neither calls nor padding take most of the time."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, unit in enumerate(units):
        ready = tuple(min(periods, first) for first in unit.ready)
        alike.setdefault(ready, []).append(number)
    for members in alike.values():
        tops = np.asarray([units[n].tops for n in members], dtype=np.int64).reshape(len(members), -1)
        yield from ([members[n] for n in some] for some in _split(list(range(len(members))), tops))


def _split(members: list[int], tops: Counts) -> Iterator[list[int]]:
    """Halve along the variant in which members differ most, as long as that saves time."""
    widths = tops[members] + 1
    if len(members) > 1 and widths.shape[1]:
        axis = int(np.argmax(widths.max(axis=0) / widths.min(axis=0)))
        ranked = sorted(members, key=lambda n: (int(tops[n, axis]), n))
        halves = ranked[: len(ranked) // 2], ranked[len(ranked) // 2 :]
        entries = math.prod(widths.max(axis=0).tolist()) * len(members)
        if entries > MOST_ENTRIES or _effort(members, tops) > sum(_effort(half, tops) for half in halves):
            for half in halves:
                yield from _split(half, tops)
            return
    yield sorted(members)


def _effort(members: list[int], tops: Counts) -> int:
    """Time of a batch, in entries worked through."""
    widths = [int(top) + 1 for top in tops[members].max(axis=0)]
    return sum(widths) * ENTRIES_PER_CALL + math.prod(widths) * len(members) * len(widths)


class Held(NamedTuple):
    """Prices of one variant by period, number of replicas and unit.

    `holding` is that of so many; the difference between two numbers in `rising` is what going up from one to the other
    costs, in `falling` what going down gives back.
    """

    holding: Floats
    rising: Floats
    falling: Floats


class Batch:
    """The cheapest paths of some units of like shape at given prices; what does not depend on prices stays."""

    def __init__(self, model: Model, units: Sequence[Unit], numbers: Sequence[int], rows: Mapping[int, int]) -> None:
        self.numbers = numbers
        self.hours = model.ladder.hours
        self.periods = len(self.hours)
        some = [units[n] for n in numbers]
        size = len(some[0].tops)
        self.variants = range(size)
        self.ready = tuple(min(self.periods, first) for first in some[0].ready)
        self.own = np.asarray([unit.tops for unit in some], dtype=np.int64).reshape(len(some), size).T
        self.tops = [int(top) for top in self.own.max(axis=1)] if size else []
        self.shape = (*(top + 1 for top in self.tops), len(some))
        self.kinds = [np.asarray([unit.kinds[v] or 0 for unit in some]) for v in self.variants]
        self.axes = [self._along(v, np.arange(top + 1)[:, None]) for v, top in enumerate(self.tops)]
        ways = model.ladder.ways
        self.arrive = np.zeros((size, self.periods, len(some)), dtype=np.int64)
        self.old: list[Counts] = []
        self.release: list[Floats] = []
        for v in self.variants:
            existing = [[w for w in unit.groups[v] for _ in range(ways[w].cap)] for unit in some]
            index = np.full((max(map(len, existing), default=0), len(some)), len(rows))
            release = np.zeros((self.tops[v] + 1, len(some)))
            for u, mine in enumerate(existing):
                index[: len(mine), u] = [rows[w] for w in mine]
                np.add.at(self.arrive[v, :, u], [ways[w].first for w in mine], 1)
                gone = np.concatenate(([0.0], np.cumsum(sorted(ways[w].release_price for w in mine))))
                release[:, u] = gone[np.clip(len(mine) - np.arange(len(release)), 0, None)]
            self.old.append(index)
            self.release.append(release)
        self.lasting = [np.where(self.arrive[v, 1:].any(axis=0), 0.0, 1.0) for v in self.variants]
        self.part = [np.zeros((self.periods, *index.shape)) for index in self.old]
        come = self.arrive.cumsum(axis=1).max(axis=2)
        self.wide = [
            [top + 1 if i >= self.ready[v] else min(top, int(come[v, i])) + 1 for v, top in enumerate(self.tops)]
            for i in range(self.periods)
        ]
        self.worth = self._worth(some)

    def _along(self, v: int, array: NDArray[Kind]) -> NDArray[Kind]:
        """An array over the replicas of one variant and the units, to combine with those over all states."""
        shape = [1] * len(self.variants)
        shape[v] = len(array)
        return array.reshape((*shape, array.shape[-1]))

    def _there(self, i: int) -> tuple[slice, ...]:
        """The states that units can be in in a period: before new replicas can be there, those of existing ones."""
        return tuple(slice(wide) for wide in self.wide[i])

    def _worth(self, some: Sequence[Unit]) -> list[Floats]:
        """Price of what each state leaves lacking in each period; infinite for states that a unit does not have."""
        have, count = np.zeros(self.shape), np.zeros(self.shape)
        beyond = np.zeros(self.shape, dtype=bool)
        for v in self.variants:
            have += self.axes[v] * np.asarray([unit.capacity[v] for unit in some])
            count += self.axes[v]
            beyond |= self.axes[v] > self.own[v]
        minimum = np.asarray([float(unit.minimum) for unit in some])
        below = np.clip(minimum - count, 0.0, None)
        found = []
        for i, span in enumerate(self.hours):
            most = np.asarray([unit.reach[i] for unit in some])
            worth = lacking([unit.segments[i] for unit in some], np.minimum(have, most)) * span
            worth += below * np.asarray([_share_of_minimum(unit, i, self.periods) for unit in some])
            worth[beyond] = np.inf
            found.append(worth[self._there(i)].copy())
        return found

    def _held(self, v: int, prices: Prices) -> Held:
        """The least that holding 0, 1, ... replicas of a variant costs, and what changing to so many does.

        In each period the cheapest existing replicas are reckoned to be the ones that are held: `_returns` makes up for
        those that were let go before.
        """
        ready, top, count = self.ready[v], self.tops[v], self.shape[-1]
        new, start = np.full((self.periods, count), NEVER), np.zeros((self.periods, count))
        if ready < self.periods:
            new[ready:] = prices.hold[self.kinds[v], ready:].T
            start[ready:] = prices.start[self.kinds[v], ready:].T
        each = np.repeat(new[:, None], top, axis=1)
        holding, rising, falling = np.zeros((3, self.periods, top + 1, count))
        rising[:, 1:] += start[:, None]
        levels = len(self.old[v])
        if levels:
            old = np.sort(prices.existing.T[:, self.old[v]], axis=1)
            each[:, :levels] = np.minimum(old, each[:, :levels])
        if levels and ready < self.periods:
            dearer = new[:, None] - each[:, :levels]
            dearer[:ready] = 0.0
            dearer[-1] -= np.diff(self.release[v], axis=0)[:levels]
            due, refund = self._returns(v, dearer)
            rising[:, 1 : levels + 1] += due
            falling[:, 1 : levels + 1] = refund
        np.cumsum(each, axis=1, out=holding[:, 1:])
        return Held(holding, np.cumsum(rising, axis=1), np.cumsum(falling, axis=1))

    def _returns(self, v: int, dearer: Floats) -> tuple[Floats, Floats]:
        """Charges for going up through each number of existing replicas by period, and refunds for going down.

        An existing replica that was let go does not come back: a new one takes its place, `dearer` in each period (in
        the last one also by the release that was reckoned as saved). Who goes down in a period is given back a `part`
        of what going up then would cost, and who goes up pays the period and what going down in the next gives back.
        So with full refunds a new one pays for all the periods to come in which it serves. As those who go down for
        the first time are given back what they never paid, a part may be better: whatever the parts, no path is charged
        more than it owes. `_learn` looks for good ones.
        """
        due, refund = dearer.copy(), np.zeros_like(dearer)
        for i in range(self.periods - 1, -1, -1):
            if i + 1 < self.periods:
                due[i] += refund[i + 1]
            refund[i] = self.part[v][i] * due[i]
        return due, refund

    def _learn(self, counts: Counts) -> None:
        """Grant less of a refund where replicas went, and where they came back more of the next that is not full yet.

        That is a step along the subgradient of the bound.
        """
        for v in self.variants:
            part, up = self.part[v], np.arange(len(self.old[v]))[:, None] < counts[:, :, v].T[:, None]
            change = np.zeros_like(part)
            change[1:] -= up[:-1] & ~up[1:]
            following = np.full(part.shape[1:], self.periods)
            for i in range(self.periods - 1, 0, -1):
                rose = np.nonzero(up[i] & ~up[i - 1] & (following < self.periods))
                change[(following[rose], *rose)] += 1.0
                following = np.where(part[i] < 1.0, i, following)
            part += STEP * change
            np.clip(part, 0.0, self.lasting[v], out=part)

    def cheapest(self, prices: Prices) -> tuple[Floats, Counts]:
        """Of every unit a lower bound of its cost, and the replicas that reach it, by unit, period and variant."""
        held = [self._held(v, prices) for v in self.variants]
        stages: list[Floats] = []
        for i, worth in enumerate(self.worth):
            value = self._moved(stages[-1], i, held) if i else self._first(held)
            value += worth
            for v, (holding, _, _) in enumerate(held):
                value += self._along(v, holding[i, : self.wide[i][v]])
            stages.append(value)
        final = stages[-1].copy()
        for v, release in enumerate(self.release):
            final += self._along(v, release[: final.shape[v]])
        flat = final.reshape(-1, self.shape[-1])
        end = flat.argmin(axis=0)
        counts = self._back(stages, held, self._state(end, final.shape))
        self._learn(counts)
        return flat[end, np.arange(self.shape[-1])], counts

    def _back(self, stages: Sequence[Floats], held: Sequence[Held], end: Counts) -> Counts:
        """The cheapest path to a final state of each unit, by unit, period and variant."""
        path = [end]
        for i in range(self.periods - 1, 0, -1):
            back = stages[i - 1].copy()
            for v, (_, rising, falling) in enumerate(held):
                back += self._along(v, self._risen(v, i, path[-1][v], rising[i], falling[i]))
            path.append(self._state(back.reshape(-1, self.shape[-1]).argmin(axis=0), back.shape))
        return np.stack(path[::-1]).transpose(2, 0, 1)

    def _state(self, flat: Counts, shape: Sequence[int]) -> Counts:
        """Replicas of each variant, by unit, from the number of a state."""
        return np.stack([*np.unravel_index(flat, tuple(shape[:-1])), flat])[:-1]

    def _begin(self, v: int, i: int) -> Counts:
        """Replicas of a variant with which a unit enters a period that had 0, 1, ... in the one before."""
        axis = np.arange(self.wide[i - 1][v])[:, None]
        begin: Counts = np.minimum(axis + self.arrive[v, i], np.maximum(self.own[v], axis))
        return begin

    def _risen(self, v: int, i: int, to: Counts, rising: Floats, falling: Floats) -> Floats:
        """What it costs to come to `to` replicas of a variant in period i from 0, 1, ... in the one before."""
        begin = self._begin(v, i)
        here = np.arange(len(to))
        fall, rise = (prices[: len(begin)] for prices in (falling, rising))
        if self.arrive[v, i].any():
            fall, rise = (np.take_along_axis(prices, begin, axis=0) for prices in (falling, rising))
        back: Floats = np.minimum(falling[to, here] - fall, 0.0)
        if i < self.ready[v]:
            return np.where(begin < to, NEVER, back)
        return np.where(begin < to, np.maximum(rising[to, here] - rise, 0.0), back)

    def _first(self, held: Sequence[Held]) -> Floats:
        """What it costs to have so many in the first period: those that are there already for nothing."""
        value = np.zeros((*self.wide[0], self.shape[-1]))
        for v, (_, rising, _) in enumerate(held):
            there = np.minimum(self.arrive[v, 0], self.own[v])
            if self.ready[v] == 0:
                price = np.maximum(rising[0] - rising[0][there, np.arange(len(there))], 0.0)
            else:
                price = np.where(np.arange(self.wide[0][v])[:, None] > there, NEVER, 0.0)
            value += self._along(v, price)
        return value

    def _moved(self, before: Floats, i: int, held: Sequence[Held]) -> Floats:
        """The cheapest way to each state of period i from the one before: fewer for nothing, more at their start."""
        value = np.full((*self.wide[i], self.shape[-1]), np.inf)
        value[self._there(i - 1)] = before
        for v, (_, rising, falling) in enumerate(held):
            wide = self.wide[i][v]
            _down(value, v, falling[i, :wide])
            if self.arrive[v, i].any():
                behind = np.maximum(np.arange(wide)[:, None] - self.arrive[v, i], 0)
                value = np.take_along_axis(value, self._along(v, behind), axis=v)
            if i >= self.ready[v]:
                _up(value, v, rising[i])
        return value


def _share_of_minimum(unit: Unit, i: int, periods: int) -> float:
    """Price of one replica below the minimum in a period: that of the whole, spread over those in which it counts."""
    begin = min(unit.minimum_from, periods - 1)
    return unit.minimum_price / (periods - begin) if unit.minimum and i >= begin else 0.0


def _up(value: Floats, v: int, price: Floats) -> None:
    """In place, the least of each state and those with fewer replicas of a variant, plus the difference in price."""
    view = value.swapaxes(v, 0)
    if view[0].size < SHORT:
        lift = price.reshape((len(price), *(1,) * (value.ndim - 2), price.shape[-1]))
        view[...] = np.minimum.accumulate(view - lift, axis=0) + lift
        return
    room = np.empty(view.shape[1:])
    for k, step in enumerate(np.diff(price, axis=0)):
        np.add(view[k], step, out=room)
        np.minimum(view[k + 1], room, out=view[k + 1])


def _down(value: Floats, v: int, price: Floats) -> None:
    """In place, the least of each state and those with more replicas of a variant, less the difference in price."""
    view = value.swapaxes(v, 0)[::-1]
    if price.any():
        _up(value[(*(slice(None),) * v, slice(None, None, -1))], v, price[::-1])
    elif view[0].size < SHORT:
        view[...] = np.minimum.accumulate(view, axis=0)
    else:
        for k in range(len(view) - 1):
            np.minimum(view[k + 1], view[k], out=view[k + 1])
