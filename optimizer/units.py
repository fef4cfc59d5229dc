"""Pools taken apart: each role of each pool as a unit, and the kinds of supply that units draw on.

A `Unit` is one role of one pool. New replicas of a variant come from a kind of supply: all variants that reach the
same shelves with the same lead times, prices and quotas share one, so a unit need not say whose GPUs it takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.ladder import Held
from optimizer.lots import UNLIMITED
from optimizer.model import minimum_price

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.worth import Segment

    Floats = NDArray[np.float64]

MOST_STATES = 60_000


@dataclass(frozen=True, slots=True)
class Unit:
    """One role of one pool.

    `reach` is the capacity above which more is worth nothing in a period, as the other roles cannot meet it. `kinds[v]`
    is the kind of supply of variant v (None: none), `ready[v]` the first period in which a new replica of it
    can serve, `groups[v]` its existing ways; `segments` price the capacity lacking in each period.
    """

    pool: int
    role: int
    capacity: tuple[float, ...]
    kinds: tuple[int | None, ...]
    ready: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    tops: tuple[int, ...]
    segments: tuple[tuple[Segment, ...], ...]
    reach: tuple[float, ...]
    minimum: int
    minimum_from: int
    minimum_price: float
    firm: bool

    @property
    def states(self) -> int:
        """Combinations of replicas that are looked at in each period."""
        return math.prod(top + 1 for top in self.tops)


def kinds_of(model: Model) -> tuple[list[list[int]], dict[tuple[int, int, int], int]]:
    """Kinds of supply: the source ways that stand for each, and the kind of every (pool, role, variant)."""
    rules = model.ladder.problem.rules
    source: dict[tuple[int, int, int], list[int]] = {}
    for w, way in enumerate(model.ladder.ways):
        if way.held is Held.SOURCE:
            source.setdefault((way.pool, way.role, way.variant), []).append(w)
    numbers: dict[tuple[object, ...], int] = {}
    stands: list[list[int]] = []
    of: dict[tuple[int, int, int], int] = {}
    for where, ways in source.items():
        pool = model.ladder.problem.pools[where[0]].key
        mine = tuple(not quota.pools or pool in quota.pools for quota in rules.quotas)
        key = (mine, *(_facts(model, w) for w in ways))
        if key not in numbers:
            numbers[key] = len(stands)
            stands.append(ways)
        of[where] = numbers[key]
    return stands, of


def _facts(model: Model, w: int) -> tuple[object, ...]:
    way = model.ladder.ways[w]
    return (way.shelf, way.wave, way.first, way.gpus, way.hour_price, way.start_price, way.lead_s, way.occupied_s)


def units(model: Model, of: dict[tuple[int, int, int], int]) -> list[Unit] | None:
    """Every role of every pool; None where one has too many states for this."""
    ladder = model.ladder
    price = minimum_price(ladder)
    found = []
    for p, pool in enumerate(ladder.problem.pools):
        share = 1.0 / len(pool.roles)
        reach = _reach(model, p)
        segments = tuple(tuple(s._replace(price=s.price * share) for s in need.segments) for need in model.needs[p])
        most = max((need.amount for need in model.needs[p]), default=0.0)
        for r, role in enumerate(pool.roles):
            ways = [(w, ladder.ways[w]) for w in model.of_role(p, r)]
            ready, groups, tops = [], [], []
            for v, variant in enumerate(role.variants):
                old = tuple(w for w, way in ways if way.variant == v and way.held is not Held.SOURCE)
                firsts = [way.first for _, way in ways if way.variant == v and way.held is Held.SOURCE]
                ready.append(min(firsts, default=len(ladder.points)))
                groups.append(old)
                held = sum(ladder.ways[w].cap for w in old)
                least = ladder.minimums[p][r]
                tops.append(
                    max(held, min(role.maximum, max(least, math.ceil(min(UNLIMITED, most / variant.capacity - 1e-9)))))
                )
            if math.prod(top + 1 for top in tops) > MOST_STATES:
                return None
            found.append(
                Unit(
                    p,
                    r,
                    tuple(variant.capacity for variant in role.variants),
                    tuple(of.get((p, r, v)) for v in range(len(role.variants))),
                    tuple(ready),
                    tuple(groups),
                    tuple(tops),
                    segments,
                    reach,
                    ladder.minimums[p][r],
                    max((way.first for _, way in ways), default=0),
                    price,
                    model.firm(p, r),
                )
            )
    return found


def _reach(model: Model, p: int) -> tuple[float, ...]:
    """The most that roles of a pool can serve in each period: together within domains, and what may cross on top.

    What crosses is at most a share s of what is served: with W served within domains that is W / (1 - s) in all.
    """
    ladder = model.ladder
    share = ladder.problem.rules.cross_share
    if not model.domains[p] or share is None or share >= 1.0:
        return tuple(float("inf") for _ in ladder.points)
    found = []
    for i in range(len(ladder.points)):
        most = {domain: [0.0] * len(ladder.problem.pools[p].roles) for domain in model.domains[p] if domain}
        for w in ladder.of[p]:
            way = ladder.ways[w]
            if way.domain in most and way.first <= i:
                most[way.domain][way.role] += way.cap * way.capacity
        found.append(sum(min(each) for each in most.values()) / (1.0 - share))
    return tuple(found)


def lacking(segments: Sequence[Sequence[Segment]], have: Floats) -> Floats:
    """Price per hour of what this much capacity leaves lacking; units lie along the last axis of `have`."""
    total = np.zeros_like(have)
    edge = np.zeros(len(segments))
    for k in range(max(map(len, segments), default=0)):
        width = np.asarray([mine[k].width if k < len(mine) else 0.0 for mine in segments])
        price = np.asarray([mine[k].price if k < len(mine) else 0.0 for mine in segments])
        edge += width
        total += price * np.clip(edge - have, 0.0, width)
    return total
