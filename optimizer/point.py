"""From replicas to a whole point of the program: what a given allocation costs, and which rules it breaks.

A plan found without the solver is judged by the program itself: `complete` works out everything that follows from the
replicas and open blocks (starts, purchases, shortage, pairs), `Program.worth` prices it and `breaches` names the rows
and bounds it does not keep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optimizer.ladder import Held

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optimizer.model import Model
    from optimizer.program import Program

TOLERANCE = 1e-6

Serving = tuple[tuple[int, ...], ...]
"""Replicas of each way in each period, from period 0 on."""
Moments = tuple[tuple[float, float, int], ...]
"""(seconds ahead, price per hour, GPUs preempted): what is held from each moment on."""
Open = dict[int, tuple[int, ...]]
"""Blocks held of each lot that has blocks, in each period."""


def _put(values: list[float], columns: Sequence[int], numbers: Sequence[float]) -> None:
    for column, number in zip(columns, numbers, strict=True):
        values[column] = float(number)


def _grown(numbers: Sequence[int], before: int) -> list[int]:
    return [max(0, now - then) for now, then in zip(numbers, (before, *numbers), strict=False)]


def _lack(model: Model, values: list[float], p: int, i: int, served: float) -> None:
    """Fill the shortage from the cheapest segment on."""
    lacking = max(0.0, model.needs[p][i].amount - served)
    for column in reversed(model.lacking[p][i]):
        part = min(lacking, model.program.upper[column])
        values[column] = part
        lacking -= part


def _pairs(
    model: Model, values: list[float], p: int, i: int, served: float, links: dict[tuple[str, int], float]
) -> float:
    """Serve within domains as far as roles and links allow, the rest across as far as it may; what is served then."""
    ladder = model.ladder
    pool = ladder.problem.pools[p]
    inside = 0.0
    for domain, column in model.within[p, i].items():
        parts = [0.0] * len(pool.roles)
        for w in ladder.of[p]:
            at = model.there(w, i)
            if at is not None and ladder.ways[w].domain == domain:
                parts[ladder.ways[w].role] += values[at] * ladder.ways[w].capacity
        here = min(*parts, served - inside)
        if pool.link_per_unit and (domain, i) in links:
            here = min(here, links[domain, i] / pool.link_per_unit)
            links[domain, i] -= here * pool.link_per_unit
        values[column] = max(0.0, here)
        inside += values[column]
    share = ladder.problem.rules.cross_share
    most = served - inside if share is None or share >= 1 else min(served - inside, inside * share / (1.0 - share))
    values[model.across[p, i]] = max(0.0, most)
    return inside + max(0.0, most)


def _serve(model: Model, values: list[float]) -> None:
    """Shortage, pairs and bursts of every pool and period."""
    ladder = model.ladder
    links = {
        (d.key, i): d.link for d in ladder.problem.domains if d.link is not None for i in range(len(ladder.points))
    }
    for p, pool in enumerate(ladder.problem.pools):
        for i, need in enumerate(model.needs[p]):
            capacity = [0.0] * len(pool.roles)
            for w in ladder.of[p]:
                at = model.there(w, i)
                if at is not None:
                    capacity[ladder.ways[w].role] += values[at] * ladder.ways[w].capacity
            served = min(need.amount, *capacity)
            if (p, i) in model.across:
                served = _pairs(model, values, p, i, served, links)
            _lack(model, values, p, i, served)
            spare = min(capacity) - served
            if (column := model.bursts.get((p, i))) is not None:
                values[column] = min(need.burst, max(0.0, need.burst - spare))


def complete(model: Model, serving: Serving, opened: Mapping[int, Sequence[int]]) -> list[float]:
    """All columns of the program, given the replicas of each way and the open blocks of each lot in each period."""
    ladder, program = model.ladder, model.program
    values = [0.0] * len(program.names)
    for w, way in enumerate(ladder.ways):
        numbers = serving[w][way.first :]
        _put(values, model.serving[w], numbers)
        if way.held is Held.SOURCE:
            _put(values, model.begun[w], _grown(numbers, 0))
    for lot, columns in model.opened.items():
        held = opened.get(lot, (0,) * len(columns))
        _put(values, columns, held)
        _put(values, model.bought[lot], _grown(held, ladder.lots[lot].held))
    _serve(model, values)
    for (p, r), column in model.missing.items():
        counts = (sum(values[model.counted(w, i)] for w in model.of_role(p, r)) for i in range(len(ladder.points)))
        wanted = min(counts)
        values[column] = max(0.0, ladder.minimums[p][r] - wanted)
    return values


def breaches(program: Program, values: Sequence[float]) -> tuple[str, ...]:
    """Names of the rows a point does not keep, and of the columns outside their bounds."""
    point = np.asarray(values)
    slack = TOLERANCE * (1.0 + np.abs(point))
    outside = (point < np.asarray(program.lower) - slack) | (point > np.asarray(program.upper) + slack)
    names = tuple(program.names[column] for column in np.flatnonzero(outside))
    if not program.rows:
        return names
    products = np.asarray(program.value) * point[np.asarray(program.index, dtype=np.int64)]
    edges = np.concatenate(([0.0], np.cumsum(products)))
    starts = np.asarray(program.starts)
    sums = edges[starts[1:]] - edges[starts[:-1]]
    slack = TOLERANCE * (1.0 + np.abs(sums))
    wrong = (sums < np.asarray(program.least) - slack) | (sums > np.asarray(program.most) + slack)
    return (*names, *(program.rows[row] for row in np.flatnonzero(wrong)))
