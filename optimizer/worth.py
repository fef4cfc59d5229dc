"""What lacking capacity costs: the convex, piecewise linear price of a pool's shortage, as segments of capacity.

Capacity goes to the dearest class first. With classes of demand a_1, a_2, ... by falling price p_1 >= p_2 >= ..., the
first a_1 of capacity are worth p_1 each, the next a_2 are worth p_2, and so on: the price of shortage at capacity c is
the worth of all segments above c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.problem import Demand, Pool


class Segment(NamedTuple):
    """Capacity from where the segment before ends, `width` wide, worth `price` per unit and hour."""

    width: float
    price: float


class Wanted(NamedTuple):
    """What a pool wants in one period: segments of capacity by falling price, their sum, and the burst above it."""

    segments: tuple[Segment, ...]
    amount: float
    burst: float


def at_quantile(quantiles: Sequence[tuple[float, float]], wanted: float) -> float:
    """The demand at a quantile: linear between the given ones, the outermost beyond them.

    Args:
        quantiles: (quantile, demand), ascending.
        wanted: the quantile to read, 0..1.
    """
    before = quantiles[0]
    for point in quantiles:
        if point[0] >= wanted:
            if point[0] == before[0]:
                return point[1]
            return before[1] + (point[1] - before[1]) * (wanted - before[0]) / (point[0] - before[0])
        before = point
    return before[1]


def _step(demand: Sequence[Demand], at_s: float) -> Demand:
    chosen = demand[0]
    for point in demand:
        if point.at_s > at_s + 1e-6:
            break
        chosen = point
    return chosen


def _peak(demand: Sequence[Demand], begin: float, end: float) -> tuple[float, float]:
    """The most that is wanted at any moment of a period, and the most with its burst."""
    inside = [_step(demand, begin), *(point for point in demand if begin + 1e-6 < point.at_s < end - 1e-6)]
    return max(point.amount for point in inside), max(point.amount + point.burst for point in inside)


def wanted(pool: Pool, points: Sequence[float], horizon_s: float) -> tuple[Wanted, ...]:
    """What the pool wants in each period; of demand that changes within one, the most."""
    classes: dict[float, float] = {}
    for one in pool.classes:
        classes[one.shortage_price] = classes.get(one.shortage_price, 0.0) + one.share
    prices = sorted(classes, reverse=True)
    found = []
    for begin, end in zip(points, (*points[1:], horizon_s), strict=True):
        amount, high = _peak(pool.demand, begin, end)
        segments = tuple(Segment(amount * classes[price], price) for price in prices if amount * classes[price] > 0)
        found.append(Wanted(segments, amount, high - amount if pool.burst_price > 0 else 0.0))
    return tuple(found)
