"""The best units for one need alone, found by climbing: exact, and in a handful of steps however many units it takes.

With freely divisible sources the cost of one need is a sum of prices per unit and convex shortage terms of the units
landed by each time point. The sets "landed by t" are nested, which makes the cost M-natural-convex (Murota, Discrete
Convex Analysis, 2003, laminar convex functions): adding the best unit again and again gives the optimum for every
number of units, and the optimum over that number is reached where the best addition stops paying. A rung's gain stays
what it is as long as every time point it still helps lacks a whole unit, so the climb goes in strides instead of
single units.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optimizer.ladder import Ladder

EPSILON = 1e-9
"""Gains below this price are none: guards against buying a unit for a rounding error."""


class Climb:
    """A climb in progress: units so far on each rung, and what is still lacking at each point."""

    __slots__ = ("caps", "counts", "lacking", "ladder", "total")

    def __init__(self, ladder: Ladder, caps: Sequence[int] | None = None) -> None:
        """Start from nothing held, with the rungs' own caps or tighter ones."""
        self.ladder = ladder
        self.caps = [rung.cap for rung in ladder.rungs] if caps is None else list(caps)
        self.counts = [0] * len(ladder.rungs)
        self.lacking = list(ladder.lacking)
        self.total = 0

    def gains(self) -> list[float]:
        """Value of one more unit from each point on: suffix sums of weight x the part of a unit lacking there."""
        value = 0.0
        values = [0.0]
        for lack, weight in zip(reversed(self.lacking), reversed(self.ladder.weights), strict=True):
            if lack >= 1.0:
                value += weight
            elif lack > 0.0:
                value += weight * lack
            values.append(value)
        values.reverse()
        return values

    def stride(self, first: int) -> int | None:
        """Units that can be added from this point on before the gain changes; None when it never does."""
        least = min([lack for lack in self.lacking[first:] if lack > 0.0], default=None)
        return None if least is None else max(1, int(least))

    def add(self, index: int, units: int) -> None:
        """Put units on a rung."""
        self.counts[index] += units
        self.total += units
        first = self.ladder.rungs[index].first
        self.lacking[first:] = [lack - units for lack in self.lacking[first:]]

    def best(self) -> tuple[int, float]:
        """The rung whose next unit gains most, and that gain after its cost; (-1, -inf) when every rung is used up."""
        values = self.gains()
        chosen, most = -1, float("-inf")
        for index, (rung, count, cap) in enumerate(zip(self.ladder.rungs, self.counts, self.caps, strict=True)):
            if count < cap and values[rung.first] - rung.cost > most:
                chosen, most = index, values[rung.first] - rung.cost
        return chosen, most

    def up(self, most: int, least: int, afford: Callable[[int, int], int] | None = None) -> None:
        """Climb while it pays, and up to `least` even where it does not; never above `most`.

        `afford(rung index, units)` takes the units from whatever else limits them and says how many it could take.
        """
        while self.total < most:
            index, gain = self.best()
            pays = gain > EPSILON
            if index < 0 or not (pays or self.total < least):
                return
            room = min(most - self.total, self.caps[index] - self.counts[index])
            if not pays:
                room = min(room, least - self.total)
            stride = self.stride(self.ladder.rungs[index].first)
            units = room if stride is None else min(room, stride)
            if afford is not None:
                granted = afford(index, units)
                if granted < units:
                    self.caps[index] = self.counts[index] + granted
                units = granted
            self.add(index, units)


def _worth_keeping(ladder: Ladder) -> int:
    """Arrived units worth their price, where nothing is cheaper; 0 where something is and the climb has to weigh them.

    They serve from the first point on, so at the lowest price no other rung can gain more: the count is where one unit
    more stops paying, found by halving.
    """
    kept, *others = ladder.rungs
    if any(rung.cost < kept.cost for rung in others):
        return 0

    def idle(units: int) -> bool:
        value = 0.0
        for lack, weight in zip(ladder.lacking, ladder.weights, strict=True):
            part = lack - units
            if part > 0.0:
                value += weight if part >= 1.0 else weight * part
        return value - kept.cost <= EPSILON

    return bisect_left(range(min(kept.cap, ladder.most)), x=True, key=idle)


def alone(ladder: Ladder) -> tuple[int, ...]:
    """The cheapest units for this need if nobody else draws on its sources and they could be divided freely."""
    climb = Climb(ladder)
    climb.add(0, _worth_keeping(ladder))
    climb.up(ladder.most, ladder.least)
    return tuple(climb.counts)
