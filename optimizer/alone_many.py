"""All layers of many pools at once, as arrays: microseconds a pool, however many replicas (`alone`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.ladder import Way

    Numbers = NDArray[np.float64]
    Counts = NDArray[np.int64]

MOST_LAYERS = 2_000_000
EPSILON = 1e-9
FAR = np.inf


@dataclass(slots=True)
class _Layers:
    """One row per replica number of every pool of a group."""

    pool: Counts
    number: Counts
    gain: Numbers
    forced: NDArray[np.bool_]
    arrived: NDArray[np.bool_]
    landing: Counts


def _layers(demand: Numbers, facts: dict[str, NDArray[np.float64]], hours: Numbers) -> _Layers | None:
    """The layers worth looking at: what exists, what the minimum asks for, and what any demand could use."""
    needed = np.ceil(demand.max(axis=1) / facts["capacity"] - EPSILON)
    there = facts["current"] + facts["starting"]
    needed += facts["starting"]
    most = np.maximum(np.maximum(np.minimum(needed, facts["maximum"]), facts["minimum"]), there).astype(np.int64)
    if most.sum() > MOST_LAYERS:
        return None
    pool = np.repeat(np.arange(len(most)), most)
    number = np.arange(most.sum()) - np.repeat(np.cumsum(most) - most, most)
    starting = facts["starting"][pool]
    waiting = number < starting
    landing = np.where(waiting, facts["lands"][pool], -1).astype(np.int64)
    landed = np.arange(demand.shape[1]) >= facts["lands"][pool][:, None]
    # once the starting ones have landed they are the lowest layers, and everything before moves up by their number
    layer = np.where(landed | waiting[:, None], number[:, None], (number - starting)[:, None])
    capacity = facts["capacity"][pool][:, None]
    part = np.clip(demand[pool] - layer * capacity, 0.0, capacity)
    part[waiting[:, None] & ~landed] = 0.0
    gain = part * facts["price"][pool][:, None] * hours
    arrived = ~waiting & (number < starting + facts["current"][pool])
    return _Layers(pool, number, gain, number < facts["minimum"][pool], arrived, landing)


def _solve(rows: _Layers, ways: Sequence[Way], facts: dict[str, NDArray[np.float64]], hours: Numbers) -> Counts | None:
    """The best state of each layer in each period: 0 off, 1 existing, 2 + s on by way s. None where one cannot be met.

    `value[state]` is the least cost up to a period; `came[i][state]` the state before it on the way there.
    """
    count, periods = rows.gain.shape
    states = len(ways) + 2
    hold = facts["hold"][rows.pool]
    go = facts["let_go"][rows.pool]
    index = np.arange(count)
    value = np.full((count, states), FAR)
    value[:, 0] = np.where(rows.arrived, FAR, 0.0)
    value[:, 1] = np.where(rows.arrived, 0.0, FAR)
    fresh = np.where(rows.arrived, FAR, 0.0)
    came = np.zeros((periods, count, states), dtype=np.int8)
    for i in range(periods):
        leaving = value.copy()
        leaving[:, 1] += go
        best_from = np.argmin(leaving, axis=1)
        best = leaving[index, best_from]
        after = np.full_like(value, FAR)
        off = np.where(rows.forced, fresh, best)
        after[:, 0] = off
        came[i][:, 0] = np.where(rows.forced, 0, best_from)
        after[:, 1] = value[:, 1] + hold * hours[i] - rows.gain[:, i]
        came[i][:, 1] = 1
        landing = rows.landing == i
        if landing.any():
            after[landing, 1] = value[landing, 0] + hold[landing] * hours[i] - rows.gain[landing, i]
            came[i][landing, 1] = 0
        for s, way in enumerate(ways, 2):
            if i < way.first:
                continue
            start, origin = np.where(rows.landing > i, FAR, best + way.start_price), best_from
            if i != way.first:
                start = np.where(rows.forced & (best_from == 0), FAR, start)
            stays = value[:, s] <= start
            run = way.hour_price * hours[i] - rows.gain[:, i]
            after[:, s] = np.where(stays, value[:, s], start) + run
            came[i][:, s] = np.where(stays, s, origin)
        if landing.any():
            others = [0, *range(2, states)]
            after[np.ix_(np.flatnonzero(landing), others)] = FAR
        value = after
    value[:, 0] = np.where(rows.forced, FAR, value[:, 0])
    state = np.argmin(value, axis=1)
    if not np.isfinite(value[index, state]).all():
        return None
    path = np.empty((count, periods), dtype=np.int64)
    for i in range(periods - 1, -1, -1):
        path[:, i] = state
        state = came[i][index, state]
    return path


def many(
    demand: Numbers, facts: dict[str, NDArray[np.float64]], hours: Numbers, ways: Sequence[Way]
) -> tuple[Counts, Counts, Counts] | None:
    """Kept, awaited and taken replicas of all pools at once; None where a layer cannot be met or there are too many."""
    rows = _layers(demand, facts, hours)
    path = _solve(rows, ways, facts, hours) if rows is not None else None
    if rows is None or path is None:
        return None

    def summed(mask: NDArray[np.bool_]) -> Counts:
        out = np.zeros(demand.shape, dtype=np.int64)
        np.add.at(out, rows.pool, mask)
        return out

    existing = path == 1
    arrived = rows.arrived[:, None]
    taken = [summed(path == s) for s in range(2, len(ways) + 2)]
    none = np.zeros((*demand.shape, 0), dtype=np.int64)
    return summed(existing & arrived), summed(existing & ~arrived), np.stack(taken, axis=2) if ways else none
