"""From the replicas of pools planned alone to an answer."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from optimizer.actions import Action, Do
from optimizer.answer import steps_of
from optimizer.evidence import Cost
from optimizer.places import batches
from optimizer.problem import Tier
from optimizer.result import Answer, Hint, PoolPlan, RolePlan, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from optimizer.alone import Group
    from optimizer.ladder import Frame
    from optimizer.lots import Lot
    from optimizer.problem import Pool, Problem

TOLERANCE = 1e-6


def _cost(frame: Frame, group: Group) -> Cost:
    hours = np.asarray(frame.hours)
    begun = group.begun.sum(axis=(0, 1))
    hourly = np.asarray([way.hour_price for way in group.ways])
    once = np.asarray([way.start_price for way in group.ways])
    held = float((group.hold[:, None] * (group.kept + group.awaited) * hours).sum())
    held += float((group.taken.sum(axis=0) * hourly * hours[:, None]).sum()) if group.ways else 0.0
    let = float((group.let_go * (group.current - group.kept[:, -1] + group.starting - group.awaited[:, -1])).sum())
    return Cost(
        held=held,
        one_off=float((begun * once).sum()) if group.ways else 0.0,
        shortage=float((group.lacking * group.price[:, None] * hours).sum()),
        released=let,
    )


def _sizing(problem: Problem, frame: Frame, group: Group) -> Iterator[str]:
    serving = group.kept + group.awaited + group.taken.sum(axis=2)
    tight = ((serving - 1) * group.capacity[:, None] < group.demand - TOLERANCE) & (serving > 0)
    tight &= group.demand > TOLERANCE
    peaks = np.where(tight, group.demand, -1.0).argmax(axis=1)
    for n, p in enumerate(group.pools):
        key = problem.pools[p].key
        if bool(tight[n].any()):
            yield f"capacity[{key}@lead={frame.points[peaks[n]]:g}]"
        elif group.minimum[n]:
            yield f"minimum[{key}]"
        if problem.pools[p].roles[0].maximum <= serving[n].max() and group.lacking[n].any():
            yield f"maximum[{key}]"


def _role(group: Group, n: int, now: NDArray[np.int64], variant: str) -> RolePlan:
    """What a pool's one role should have; `now`: replicas ordered now, by way."""
    kept, taken = int(group.kept[n, 0]), int(now.sum())
    current, starting = int(group.current[n]), int(group.starting[n])
    target = kept + starting + taken
    there = group.kept[n] + group.awaited[n] + np.minimum(group.taken[n], now).sum(axis=1)
    at_once = max(kept + starting, int(there.max()))
    return RolePlan(target, kept, current - kept, starting, 0, taken, MappingProxyType({variant: target}), at_once)


def _moves(frame: Frame, group: Group, n: int, pool: Pool, left: dict[str, int]) -> Iterator[Action]:
    role = pool.roles[0]
    whose = (pool.key, role.key, role.variants[0].key)
    for numbers, count in ((group.kept[n], group.current[n]), (group.awaited[n], group.starting[n])):
        before = int(count)
        first = int(group.lands[n]) if numbers is not group.kept[n] and before else 0
        for i in range(first, len(frame.points)):
            gone, before = before - int(numbers[i]), int(numbers[i])
            if gone > 0:
                at_s = frame.points[i]
                yield Action(Do.RELEASE, at_s, at_s, None, *whose, "", None, "", gone, gone * group.gpus, i == 0)
    for s, way in enumerate(group.ways):
        if way.shelf is None or not group.taken[n, :, s].any():
            continue
        shelf = frame.shelves[way.shelf]
        for begin, end, count in batches([int(x) for x in group.taken[n, :, s]], 0):
            until = None if end is None else frame.points[end]
            for lot, part in _placed([frame.lots[lot] for lot in shelf.lots], group.gpus, count, left):
                do = Do.WAKE if lot.tier is Tier.WAKE else Do.START
                at_s = max(0.0, frame.points[begin] - way.lead_s)
                yield Action(
                    do,
                    at_s,
                    frame.points[begin],
                    until,
                    *whose,
                    on=lot.key,
                    tier=lot.tier,
                    domain=lot.domain,
                    replicas=part,
                    gpus=part * group.gpus,
                    now=at_s < _next(frame) - TOLERANCE,
                )


def _placed(lots: Sequence[Lot], gpus: int, count: int, left: dict[str, int]) -> Iterator[tuple[Lot, int]]:
    """Spread replicas over the lots of a shelf, first come first placed."""
    for lot in lots[:-1]:
        free = left.setdefault(lot.key, lot.block_gpus if lot.blocks is not None else 10**9)
        part = min(count, free // gpus)
        if part:
            left[lot.key] = free - part * gpus
            count -= part
            yield lot, part
    if count:
        yield lots[-1], count


def _plans(problem: Problem, frame: Frame, group: Group) -> Iterator[PoolPlan]:
    begun = group.begun
    now = np.zeros((len(group.pools), len(group.ways)), dtype=np.int64)
    for s, way in enumerate(group.ways):
        due = [
            j for j in range(way.first, len(frame.points)) if frame.points[j] - way.lead_s < _next(frame) - TOLERANCE
        ]
        now[:, s] = begun[:, due, s].sum(axis=1)
    lacking = group.lacking
    for n, p in enumerate(group.pools):
        pool = problem.pools[p]
        role = pool.roles[0]
        wanted = _role(group, n, now[n], role.variants[0].key)
        lack = steps_of(frame.points, lacking[n].tolist())
        yield PoolPlan(pool.key, MappingProxyType({role.key: wanted}), lack)


def _next(frame: Frame) -> float:
    """When things may change next."""
    return frame.points[1] if len(frame.points) > 1 else float("inf")


def _hint(problem: Problem, frame: Frame, group: Group) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Only what moves: a way without replicas is the usual, and so is one where nothing changes."""
    for s, way in enumerate(group.ways):
        for n in np.flatnonzero(group.taken[:, :, s].any(axis=1)):
            pool = problem.pools[group.pools[n]]
            role = pool.roles[0]
            shelf = frame.lots[frame.shelves[way.shelf or 0].lots[0]].key
            name = (pool.key, role.key, role.variants[0].key, str(way.held), shelf, way.domain, "-1", str(way.wave))
            yield name, tuple(int(x) for x in group.taken[n, :, s])


def answer_of(problem: Problem, frame: Frame, groups: Sequence[Group]) -> Answer:
    """The answer that pools planned alone are."""
    moves: list[Action] = []
    pools: dict[str, PoolPlan] = {}
    left: dict[str, int] = {}
    for group in groups:
        pools |= {made.key: made for made in _plans(problem, frame, group)}
        still = (group.kept == group.current[:, None]).all(axis=1) & ~group.taken.any(axis=(1, 2))
        landed = np.arange(len(frame.points)) >= group.lands[:, None]
        still &= ((group.awaited == group.starting[:, None]) | ~landed).all(axis=1)
        for n in np.flatnonzero(~still):
            moves += _moves(frame, group, int(n), problem.pools[group.pools[n]], left)
    return Answer(
        status=Status.OPTIMAL,
        gap=0.0,
        pools=pools,
        actions=tuple(moves),
        cost=sum((_cost(frame, group) for group in groups), Cost()),
        binding=tuple(name for group in groups for name in _sizing(problem, frame, group)),
        relaxed=(),
        reason="no contention: every pool planned alone is the best for all",
        hint=Hint(
            MappingProxyType(dict(item for group in groups for item in _hint(problem, frame, group))),
            MappingProxyType({}),
        ),
    )
