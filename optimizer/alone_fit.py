"""Whether pools planned alone get in each other's way, and what they hold together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optimizer.problem import Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.alone import Group
    from optimizer.ladder import Frame
    from optimizer.problem import Problem

    Numbers = NDArray[np.float64]
    Counts = NDArray[np.int64]


def occupied(frame: Frame, groups: Sequence[Group]) -> dict[int, Counts]:
    """GPUs held of each shelf in each period."""
    n = len(frame.points)
    found: dict[int, Counts] = {}
    for group in groups:
        begun = group.begun.sum(axis=0)
        taken = group.taken.sum(axis=0)
        for s, way in enumerate(group.ways):
            if way.shelf is None:
                continue
            use = found.setdefault(way.shelf, np.zeros(n, dtype=np.int64))
            use += taken[:, s] * way.gpus
            for j in range(way.first, n):
                if begun[j, s]:
                    use[_before(frame.points, j, way.occupied_s) : j] += begun[j, s] * way.gpus
    return found


def _before(points: Sequence[float], start: int, seconds: float) -> int:
    i = start
    while i > 0 and points[i] > points[start] - seconds + 1e-6:
        i -= 1
    return i


def crowded(frame: Frame, groups: Sequence[Group]) -> set[str]:
    """Kinds of GPU of which more is wanted than there is, or parts of blocks, or whole replicas beside others."""
    found = set()
    for place, use in occupied(frame, groups).items():
        shelf = frame.shelves[place]
        if not use.any() or not shelf.limited:
            continue
        gpus = sum(frame.lots[lot].block_gpus for lot in shelf.lots)
        if not shelf.loose or shelf.whole or use.max() > gpus:
            found.add(shelf.accelerator)
    return found


def too_many(problem: Problem, frame: Frame, group: Group) -> bool:
    """Whether some pool would be asked for more replicas than its maximum while one replaces another."""
    maximum = np.asarray([problem.pools[p].roles[0].maximum for p in group.pools])
    asked = (
        group.kept
        + group.taken.sum(axis=2)
        + np.where(np.arange(len(frame.points)) < group.lands[:, None], group.starting[:, None], group.awaited)
    )
    begun = group.begun
    for s, way in enumerate(group.ways):
        for j in range(way.first, len(frame.points)):
            asked[:, _before(frame.points, j, way.lead_s) : j] += begun[:, j, s][:, None]
    return bool((asked > maximum[:, None]).any())


def spending(frame: Frame, groups: Sequence[Group]) -> tuple[Numbers, Counts]:
    """Price per hour and preempted GPUs in each period."""
    n = len(frame.points)
    spent, taken = np.zeros(n), np.zeros(n, dtype=np.int64)
    for group in groups:
        waiting = np.where(np.arange(n) < group.lands[:, None], group.starting[:, None], group.awaited)
        spent += (group.hold[:, None] * (group.kept + waiting)).sum(axis=0)
    for place, use in occupied(frame, groups).items():
        shelf = frame.shelves[place]
        lot = frame.lots[shelf.lots[0]]
        spent += use * (lot.gpu_price if shelf.loose else lot.hold_price / lot.block_gpus)
        if shelf.tier is Tier.PREEMPT:
            taken += use
    return spent, taken
