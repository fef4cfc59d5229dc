"""Few layers walked one by one: what `alone` works out for many as arrays, which for a handful are mostly overhead.

The same program over the periods, layer by layer. A layer is told by little (what it gains in each period, whether it
exists, lands or must be), and those of one pool are alike from plan to plan, so that most are found where they were
left: a plan of one pool takes half as long.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from optimizer.ladder import Way

    Counts = NDArray[np.int64]

EPSILON = 1e-9
MOST_FEW = 128
"""Layers up to which this is the faster of the two."""
FAR = math.inf


class Layer(NamedTuple):
    """One replica number of a pool: `gain` in each period, and what existing costs an hour and letting go once.

    `landing`: the period in which it lands, -1 for one that is there or would be new.
    """

    gain: tuple[float, ...]
    forced: bool
    arrived: bool
    landing: int
    hold: float
    let_go: float


class Price(NamedTuple):
    """A way to take a replica: the first period it can serve in, its price an hour and at each start."""

    first: int
    hour: float
    start: float


def _prices(ways: Sequence[Way]) -> tuple[Price, ...]:
    """What a layer must know of the ways."""
    return tuple(Price(way.first, way.hour_price, way.start_price) for way in ways)


def _layers(demand: Sequence[float], facts: Mapping[str, float], hours: Sequence[float], most: int) -> list[Layer]:
    """A pool's layers. Once the starting ones have landed they are the lowest, and what exists moves up by them."""
    capacity, price, starting = facts["capacity"], facts["price"], int(facts["starting"])
    lands = int(facts["lands"])
    found = []
    for number in range(most):
        waiting = number < starting
        gain = []
        for i, span in enumerate(hours):
            layer = number if i >= lands or waiting else number - starting
            part = min(max(demand[i] - layer * capacity, 0.0), capacity)
            gain.append(0.0 if waiting and i < lands else part * price * span)
        arrived = not waiting and number < starting + facts["current"]
        landing = lands if waiting else -1
        found.append(Layer(tuple(gain), number < facts["minimum"], arrived, landing, facts["hold"], facts["let_go"]))
    return found


@lru_cache(maxsize=16_384)
def walk(layer: Layer, hours: tuple[float, ...], ways: tuple[Price, ...]) -> tuple[int, ...] | None:
    """The best state in each period: 0 off, 1 existing, 2 + s on by way s. None where the layer cannot be met."""
    value = [FAR] * (len(ways) + 2)
    value[1 if layer.arrived else 0] = 0.0
    came = []
    for i, span in enumerate(hours):
        value, origin = _step(layer, i, span, ways, value)
        came.append(origin)
    if layer.forced:
        value[0] = FAR
    state = value.index(min(value))
    if not math.isfinite(value[state]):
        return None
    path = []
    for origin in reversed(came):
        path.append(state)
        state = origin[state]
    return tuple(reversed(path))


def _step(
    layer: Layer, i: int, span: float, ways: Sequence[Price], value: Sequence[float]
) -> tuple[list[float], list[int]]:
    """The least cost of each state up to the end of a period, and the state before it on the way there."""
    leaving = [*value]
    leaving[1] += layer.let_go
    best = min(leaving)
    best_from = leaving.index(best)
    gain, landing = layer.gain[i], layer.landing == i
    after, origin = [FAR] * len(value), [0] * len(value)
    after[0] = (FAR if layer.arrived else 0.0) if layer.forced else best
    origin[0] = 0 if layer.forced else best_from
    after[1] = value[0 if landing else 1] + layer.hold * span - gain
    origin[1] = 0 if landing else 1
    if landing:
        return [FAR, after[1], *after[2:]], origin
    for s, way in enumerate(ways, 2):
        if i < way.first:
            continue
        start = FAR if layer.landing > i else best + way.start
        if i != way.first and layer.forced and best_from == 0:
            start = FAR
        stays = value[s] <= start
        after[s] = (value[s] if stays else start) + (way.hour * span - gain)
        origin[s] = s if stays else best_from
    return after, origin


def most_layers(demand: Sequence[float], facts: Mapping[str, float]) -> int:
    """Layers of one pool worth looking at, as `alone_many` counts them."""
    needed = math.ceil(max(demand) / facts["capacity"] - EPSILON) + facts["starting"]
    return int(max(min(needed, facts["maximum"]), facts["minimum"], facts["current"] + facts["starting"]))


def few(
    demand: Sequence[float], facts: dict[str, float], hours: tuple[float, ...], ways: Sequence[Way], most: int
) -> tuple[Counts, Counts, Counts] | None:
    """Kept, awaited and taken replicas of one pool with so many layers; None where one cannot be met."""
    priced = _prices(ways)
    counts = np.zeros((len(ways) + 2, 1, len(hours)), dtype=np.int64)
    for layer in _layers(demand, facts, hours, most):
        path = walk(layer, hours, priced)
        if path is None:
            return None
        for i, state in enumerate(path):
            if state:
                counts[state if state > 1 else int(layer.arrived), 0, i] += 1
    return counts[1], counts[0], np.moveaxis(counts[2:], 0, 2)
