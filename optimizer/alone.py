"""Pools planned each alone, all at once: exact wherever their answers do not get in each other's way.

A simple pool has one role, one variant and one class, and nothing that exists is dearer than what could be had. Its
replicas are then interchangeable and its shortage is convex in their number, so its plan falls apart into layers: layer
k is worth what the k-th replica adds in each period, never more than layer k - 1, and every layer is a plan for a
single replica (off, existing, on by way s) that a dynamic program over the periods solves. All layers of all pools with
the same ways go through it together as arrays, at microseconds a pool however many replicas.

Limited stocks and the wholeness of blocks are left out, which can only make the best plan cheaper: an answer that keeps
them nevertheless is the best with them too. Pools on stocks where it does not go to the integer program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from optimizer.ladder import Held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.ladder import Frame, Way
    from optimizer.problem import Pool, Problem

    Numbers = NDArray[np.float64]
    Counts = NDArray[np.int64]

MOST_LAYERS = 2_000_000
EPSILON = 1e-9
LEAST_LACK = 1e-6
FAR = np.inf


class Kind(NamedTuple):
    """Pools of one kind have the same ways to take replicas."""

    accelerator: str
    gpus: int
    waves: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Answers for pools of one kind: `kept`, `awaited` and `taken[s]` replicas by pool and period."""

    pools: tuple[int, ...]
    ways: tuple[Way, ...]
    gpus: int
    demand: Numbers
    capacity: Numbers
    price: Numbers
    current: Counts
    starting: Counts
    lands: Counts
    minimum: Counts
    hold: Numbers
    let_go: Numbers
    kept: Counts
    awaited: Counts
    taken: Counts

    def lacking(self) -> Numbers:
        """Demand not covered, by pool and period."""
        serving = self.kept + self.awaited + self.taken.sum(axis=2)
        lack = self.demand - serving * self.capacity[:, None]
        return np.maximum(np.where(lack > LEAST_LACK, lack, 0.0), 0.0)

    def begun(self) -> Counts:
        """Replicas that begin to serve, by pool, period and way."""
        before = np.concatenate((np.zeros_like(self.taken[:, :1]), self.taken[:, :-1]), axis=1)
        grown: Counts = np.maximum(self.taken - before, 0)
        return grown


def _simple(pool: Pool) -> bool:
    if len(pool.roles) != 1 or len(pool.classes) != 1 or pool.ratios:
        return False
    role = pool.roles[0]
    if len(role.variants) != 1 or role.wake_target_s is not None:
        return False
    variant = role.variants[0]
    groups = variant.replicas
    running = sum(not group.lands_in_s for group in groups)
    if running > 1 or len(groups) - running > 1 or any(group.source for group in groups):
        return False
    asked = sum(group.count for group in groups)
    alike = len({(group.release_price, group.drain_s) for group in groups}) <= 1
    return (
        alike
        and asked <= role.maximum
        and variant.convertible is None
        and pool.burst_price == 0
        and all(wave.replicas is None for wave in variant.waves)
    )


def _steps(pool: Pool, points: Sequence[float], horizon_s: float) -> list[float]:
    """Most demand in each period, in the pool's unit."""
    found = []
    demand = pool.demand
    here = 0
    for i, point in enumerate(points):
        end = points[i + 1] if i + 1 < len(points) else horizon_s
        while here + 1 < len(demand) and demand[here + 1].at_s <= point + 1e-6:
            here += 1
        most = demand[here].amount
        ahead = here + 1
        while ahead < len(demand) and demand[ahead].at_s < end - 1e-6:
            most = max(most, demand[ahead].amount)
            ahead += 1
        found.append(most)
    return found


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


def _facts(problem: Problem, pools: Sequence[int], points: Sequence[float]) -> dict[str, NDArray[np.float64]]:
    columns: dict[str, list[float]] = {
        name: []
        for name in ("capacity", "price", "current", "starting", "lands", "minimum", "maximum", "hold", "let_go")
    }
    for p in pools:
        pool = problem.pools[p]
        role = pool.roles[0]
        variant = role.variants[0]
        hold = variant.gpus * variant.price_per_gpu_hour
        running = next((g for g in variant.replicas if not g.lands_in_s), None)
        waiting = next((g for g in variant.replicas if g.lands_in_s), None)
        go = running or waiting
        columns["capacity"].append(variant.capacity)
        columns["price"].append(pool.classes[0].shortage_price)
        columns["current"].append(running.count if running else 0)
        columns["starting"].append(waiting.count if waiting else 0)
        columns["lands"].append(sum(point < waiting.lands_in_s - 1e-6 for point in points) if waiting else 0)
        columns["minimum"].append(role.minimum)
        columns["maximum"].append(role.maximum)
        columns["hold"].append(hold)
        lost = go.release_price + hold * go.drain_s / 3600.0 if go else 0.0
        columns["let_go"].append(problem.rules.churn_price + lost)
    return {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}


def _group(problem: Problem, frame: Frame, pools: Sequence[int], ways: Sequence[Way]) -> Group | None:
    points, hours = frame.points, np.asarray(frame.hours)
    demand = np.asarray([_steps(problem.pools[p], points, problem.horizon_s) for p in pools])
    facts = _facts(problem, pools, points)
    if (facts["lands"] >= len(points)).any():
        return None
    rows = _layers(demand, facts, hours)
    if rows is None:
        return None
    path = _solve(rows, ways, facts, hours)
    if path is None:
        return None
    shape = (len(pools), len(points))

    def summed(mask: NDArray[np.bool_]) -> Counts:
        out = np.zeros(shape, dtype=np.int64)
        np.add.at(out, rows.pool, mask)
        return out

    existing = path == 1
    arrived = rows.arrived[:, None]
    return Group(
        pools=tuple(pools),
        ways=tuple(ways),
        gpus=problem.pools[pools[0]].roles[0].variants[0].gpus,
        demand=demand,
        capacity=facts["capacity"],
        price=facts["price"],
        current=facts["current"].astype(np.int64),
        starting=facts["starting"].astype(np.int64),
        lands=facts["lands"].astype(np.int64),
        minimum=facts["minimum"].astype(np.int64),
        hold=facts["hold"],
        let_go=facts["let_go"],
        kept=summed(existing & arrived),
        awaited=summed(existing & ~arrived),
        taken=np.stack([summed(path == s) for s in range(2, len(ways) + 2)], axis=2)
        if ways
        else np.zeros((*shape, 0), dtype=np.int64),
    )


def _ways(problem: Problem, frame: Frame, p: int) -> tuple[Way, ...]:
    """The ways to take replicas, blocks as if they could be divided freely."""
    found = []
    pool = problem.pools[p]
    for way in frame.maker.of_pool(p, pool):
        if way.held is not Held.SOURCE or way.shelf is None:
            continue
        shelf = frame.shelves[way.shelf]
        if not shelf.loose:
            lots = [frame.lots[lot] for lot in shelf.lots]
            hold = min(lot.hold_price / lot.block_gpus for lot in lots)
            once = min(lot.open_price / lot.block_gpus for lot in lots)
            hour, start = way.hour_price + hold * way.gpus, way.start_price + once * way.gpus
            found.append(way._replace(hour_price=hour, start_price=start))
        else:
            found.append(way)
    return tuple(found)


def alone(problem: Problem, frame: Frame) -> tuple[list[Group], list[int]]:
    """Answers for the simple pools, by kind, and the pools that are not simple."""
    rules = problem.rules
    held = any(gang.held for gang in problem.gangs) or any(offer.held for offer in problem.offers)
    if rules.quotas or rules.disruptions or held or _over(problem):
        return [], list(range(len(problem.pools)))
    private = {key for source in problem.sources for key in source.only_for}
    kinds: dict[Kind, list[int]] = {}
    others = []
    for p, pool in enumerate(problem.pools):
        if pool.key in private or not _simple(pool):
            others.append(p)
            continue
        variant = pool.roles[0].variants[0]
        kinds.setdefault(Kind(variant.accelerator, variant.gpus, variant.waves), []).append(p)
    groups = []
    for members in kinds.values():
        widest = max(members, key=lambda p: problem.pools[p].roles[0].maximum)
        ways = _ways(problem, frame, widest)
        cheapest = min((way.hour_price for way in ways), default=np.inf)
        dear = [p for p in members if _hold(problem.pools[p]) > cheapest + EPSILON]
        fine = [p for p in members if _hold(problem.pools[p]) <= cheapest + EPSILON]
        group = _group(problem, frame, fine, ways) if fine else None
        others += dear if group is not None or not fine else members
        if group is not None:
            groups.append(group)
    return groups, sorted(others)


def _over(problem: Problem) -> bool:
    """Whether all that runs and starts costs more per hour than the budget: then nothing starting is firm."""
    budget = problem.rules.budget_per_hour
    if budget is None:
        return False
    variants = (variant for pool in problem.pools for role in pool.roles for variant in role.variants)
    running = sum(v.gpus * v.price_per_gpu_hour * sum(group.count for group in v.replicas) for v in variants)
    return running > budget * (1 + 1e-9)


def _hold(pool: Pool) -> float:
    variant = pool.roles[0].variants[0]
    return variant.gpus * variant.price_per_gpu_hour if variant.replicas else 0.0
