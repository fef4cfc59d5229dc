"""What to do, in order: the plan's replicas and blocks as actions with the moment of each."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from optimizer.ladder import Held
from optimizer.lots import EPSILON_S
from optimizer.places import laid
from optimizer.problem import Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optimizer.ladder import Ladder
    from optimizer.lots import Lot
    from optimizer.point import Open, Serving


class Do(StrEnum):
    """What an action does; the first five are the rungs of the ladder."""

    CONVERT = "convert"
    WAKE = "wake"
    START = "start"
    PREEMPT = "preempt"
    PROVISION = "provision"
    RELEASE = "release"
    GIVE_UP = "give up"
    RETURN = "return"


class Action(NamedTuple):
    """One thing to do.

    Attributes:
        do: what.
        at_s: seconds ahead at which to order it; 0 is now.
        lands_s: seconds ahead at which it serves (for a release or return: at which it happens).
        until_s: seconds ahead at which the plan ends it again; None where it lasts beyond the horizon.
        pool, role, variant: whose replicas; empty for gangs and nodes.
        on: the source, gang or offer whose GPUs these are; empty for replicas on GPUs of their own.
        tier: the rung of the ladder that the GPUs come from; None where it is none.
        domain: network domain.
        replicas, gpus: how many.
        now: whether the order is due before anything else can change.
    """

    do: Do
    at_s: float
    lands_s: float
    until_s: float | None
    pool: str
    role: str
    variant: str
    on: str
    tier: Tier | None
    domain: str
    replicas: int
    gpus: int
    now: bool


def _replicas(ladder: Ladder, serving: Serving, opened: Open) -> Iterator[Action]:
    for w, way in enumerate(ladder.ways):
        if way.held is not Held.SOURCE:
            yield from _let_go(ladder, serving[w], w, _whose(ladder, w))
    for w, begin, end, index, count in laid(ladder, serving, opened):
        way, lot = ladder.ways[w], ladder.lots[index]
        do = Do.WAKE if lot.tier is Tier.WAKE else Do.START
        yield Action(
            do,
            max(0.0, ladder.points[begin] - (way.lead_s if lot.loose else way.occupied_s)),
            ladder.points[begin],
            ladder.points[end] if end < len(ladder.points) else None,
            *_whose(ladder, w),
            on=lot.key,
            tier=lot.tier,
            domain=lot.domain,
            replicas=count,
            gpus=count * way.gpus,
            now=ladder.before(begin, way.lead_s) == 0,
        )


def _whose(ladder: Ladder, w: int) -> tuple[str, str, str]:
    way = ladder.ways[w]
    pool = ladder.problem.pools[way.pool]
    role = pool.roles[way.role]
    return pool.key, role.key, role.variants[way.variant].key


def _let_go(ladder: Ladder, numbers: Sequence[int], w: int, whose: tuple[str, str, str]) -> Iterator[Action]:
    way, points = ladder.ways[w], ladder.points
    pool = ladder.problem.pools[way.pool]
    group = pool.roles[way.role].variants[way.variant].replicas[way.group]
    before = way.cap
    for i in range(way.first, len(points)):
        gone = before - numbers[i]
        before = numbers[i]
        if gone > 0:
            do = Do.GIVE_UP if way.held is Held.STARTING and i == way.first else Do.RELEASE
            at_s = 0.0 if do is Do.GIVE_UP else points[i]
            yield Action(
                do,
                at_s,
                at_s,
                None,
                *whose,
                on=group.source,
                tier=None,
                domain=way.domain,
                replicas=gone,
                gpus=gone * way.gpus,
                now=i == 0 or do is Do.GIVE_UP,
            )


def _runs(points: Sequence[float], numbers: Sequence[int], lot: Lot) -> Iterator[tuple[int, int | None, int]]:
    """(begin, end, count) of the blocks of a lot; begin is -1 for those held before.

    Those go first whose minimum billing is over, of these what came last.
    """
    running = {-1: lot.held}
    free = {-1: lot.paid_s} | {i: point + lot.min_hold_s for i, point in enumerate(points)}
    for i, (point, number) in enumerate(zip(points, numbers, strict=True)):
        surplus = sum(running.values()) - number
        for begin in sorted(running, key=lambda j: (max(0.0, free[j] - point - EPSILON_S), -j)):
            part = min(running[begin], max(0, surplus))
            running[begin] -= part
            surplus -= part
            if part:
                yield begin, i, part
        running[i] = max(0, -surplus)
    yield from ((begin, None, count) for begin, count in running.items() if count)


def _blocks(ladder: Ladder, opened: Open) -> Iterator[Action]:
    points = ladder.points
    for index, numbers in opened.items():
        lot = ladder.lots[index]
        do = Do.PREEMPT if lot.tier is Tier.PREEMPT else Do.PROVISION if lot.tier is Tier.PROVISION else Do.START
        whose = ("", "", "", lot.key, lot.tier, lot.domain)
        for begin, end, count in _runs(points, numbers, lot):
            until = None if end is None else points[end]
            size = (count, count * lot.block_gpus)
            if begin >= 0:
                at_s, now = max(0.0, points[begin] - lot.lead_s), ladder.before(begin, lot.lead_s) == 0
                yield Action(do, at_s, points[begin], until, *whose, *size, now)
            elif until is not None:
                yield Action(Do.RETURN, until, until, None, *whose, *size, end == 0)


def actions(ladder: Ladder, serving: Serving, opened: Open, converted: Sequence[Action]) -> tuple[Action, ...]:
    """All actions by the moment of their order, then by kind, pool and place."""
    found = [*converted, *_blocks(ladder, opened), *_replicas(ladder, serving, opened)]
    kinds = list(Do)
    return tuple(
        sorted(found, key=lambda a: (a.at_s, a.lands_s, kinds.index(a.do), a.pool, a.role, a.variant, a.on, a.gpus))
    )
