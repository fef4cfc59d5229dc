"""What to do, in order: the plan's replicas and blocks as actions with the moment of each."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from optimizer.ladder import Held
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


def batches(numbers: Sequence[int], before: int) -> Iterator[tuple[int, int | None, int]]:
    """(begin, end, count) of what begins after `before`; what began last ends first, what was there before last."""
    running: list[list[int]] = [[-1, before]]
    for i, (now, then) in enumerate(zip(numbers, (before, *numbers), strict=False)):
        if now > then:
            running.append([i, now - then])
        gone = max(0, then - now)
        while gone:
            begin, count = running[-1]
            part = min(gone, count)
            gone -= part
            running[-1][1] -= part
            if not running[-1][1]:
                running.pop()
            if begin >= 0:
                yield begin, i, part
    yield from ((begin, None, count) for begin, count in running if begin >= 0)


class _Places:
    """Which lot of a shelf each batch of replicas goes to: the first with room for it all along, widest first."""

    def __init__(self, ladder: Ladder, serving: Serving, opened: Open) -> None:
        self.ladder = ladder
        self.opened = opened
        n = len(ladder.points)
        self.used: dict[int, list[int]] = {}
        for w, way in enumerate(ladder.ways):
            if way.shelf is not None and way.held is not Held.SOURCE and len(ladder.shelves[way.shelf].lots) == 1:
                used = self.used.setdefault(ladder.shelves[way.shelf].lots[0], [0] * n)
                for i, count in enumerate(serving[w]):
                    used[i] += count * way.gpus

    def room(self, index: int, width: int, span: range) -> int:
        """Replicas that fit into a lot in all these periods."""
        lot = self.ladder.lots[index]
        if lot.loose and lot.blocks is None:
            return 10**9
        used = self.used.setdefault(index, [0] * len(self.ladder.points))
        blocks = self.opened.get(index)
        return min((lot.slots(width) * (blocks[i] if blocks else 1) - used[i]) // width for i in span)

    def place(self, shelf: int, width: int, span: range, count: int) -> Iterator[tuple[Lot, int]]:
        """Lots and how many replicas go to each."""
        lots = self.ladder.shelves[shelf].lots
        for index in lots:
            part = count if len(lots) == 1 else max(0, min(count, self.room(index, width, span)))
            if part:
                used = self.used.setdefault(index, [0] * len(self.ladder.points))
                for i in span:
                    used[i] += part * width
                count -= part
                yield self.ladder.lots[index], part
        if count:
            yield self.ladder.lots[lots[0]], count


def _replicas(ladder: Ladder, serving: Serving, opened: Open) -> Iterator[Action]:
    points, places = ladder.points, _Places(ladder, serving, opened)
    for w in sorted(range(len(ladder.ways)), key=lambda w: (-ladder.ways[w].gpus, w)):
        way = ladder.ways[w]
        pool = ladder.problem.pools[way.pool]
        role = pool.roles[way.role]
        whose = (pool.key, role.key, role.variants[way.variant].key)
        if way.held is not Held.SOURCE:
            yield from _let_go(ladder, serving[w], w, whose)
            continue
        if way.shelf is None:
            continue
        for begin, end, count in batches(serving[w], 0):
            span = range(begin, len(points) if end is None else end)
            for lot, part in places.place(way.shelf, way.gpus, span, count):
                do = Do.WAKE if lot.tier is Tier.WAKE else Do.START
                ahead = way.lead_s if lot.loose else way.occupied_s
                at_s = max(0.0, points[begin] - ahead)
                until = None if end is None else points[end]
                now = ladder.before(begin, way.lead_s) == 0
                yield Action(
                    do,
                    at_s,
                    points[begin],
                    until,
                    *whose,
                    on=lot.key,
                    tier=lot.tier,
                    domain=lot.domain,
                    replicas=part,
                    gpus=part * way.gpus,
                    now=now,
                )


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


class _Blocks(NamedTuple):
    on: str
    tier: Tier
    domain: str
    replicas: int
    gpus: int


def _blocks(ladder: Ladder, opened: Open) -> Iterator[Action]:
    points = ladder.points
    for index, numbers in opened.items():
        lot = ladder.lots[index]
        do = Do.PREEMPT if lot.tier is Tier.PREEMPT else Do.PROVISION if lot.tier is Tier.PROVISION else Do.START
        for begin, end, count in batches(numbers, lot.held):
            at_s = max(0.0, points[begin] - lot.lead_s)
            until = None if end is None else points[end]
            now = ladder.before(begin, lot.lead_s) == 0
            whole = _Blocks(lot.key, lot.tier, lot.domain, count, count * lot.block_gpus)
            yield Action(do, at_s, points[begin], until, "", "", "", *whole, now=now)
        before = lot.held
        for i, number in enumerate(numbers):
            back = before - number
            before = min(before, number)
            if back > 0:
                whole = _Blocks(lot.key, lot.tier, lot.domain, back, back * lot.block_gpus)
                yield Action(Do.RETURN, points[i], points[i], None, "", "", "", *whole, now=i == 0)


def actions(ladder: Ladder, serving: Serving, opened: Open, converted: Sequence[Action]) -> tuple[Action, ...]:
    """All actions by the moment of their order, then by kind, pool and place."""
    found = [*converted, *_blocks(ladder, opened), *_replicas(ladder, serving, opened)]
    kinds = list(Do)
    return tuple(
        sorted(found, key=lambda a: (a.at_s, a.lands_s, kinds.index(a.do), a.pool, a.role, a.variant, a.on, a.gpus))
    )
