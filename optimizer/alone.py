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

from optimizer.alone_few import MOST_FEW, few, most_layers
from optimizer.alone_many import many
from optimizer.ladder import Held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.ladder import Frame, Way
    from optimizer.problem import Pool, Problem

    Numbers = NDArray[np.float64]
    Counts = NDArray[np.int64]

EPSILON = 1e-9
LEAST_LACK = 1e-6


class Kind(NamedTuple):
    """Pools of one kind have the same ways to take replicas."""

    accelerator: str
    gpus: int
    waves: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Answers for pools of one kind: `kept`, `awaited` and `taken[s]` replicas by pool and period.

    From these follow `lacking`, demand not covered, and `begun[s]`, replicas that begin to serve.
    """

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
    lacking: Numbers
    begun: Counts


def _lacking(demand: Numbers, capacity: Numbers, serving: Counts) -> Numbers:
    """Demand not covered, by pool and period."""
    lack = demand - serving * capacity[:, None]
    return np.maximum(np.where(lack > LEAST_LACK, lack, 0.0), 0.0)


def _begun(taken: Counts) -> Counts:
    """Replicas that begin to serve, by pool, period and way."""
    before = np.concatenate((np.zeros_like(taken[:, :1]), taken[:, :-1]), axis=1)
    grown: Counts = np.maximum(taken - before, 0)
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


def _facts(problem: Problem, pools: Sequence[int], points: Sequence[float]) -> dict[str, list[float]]:
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
    return columns


def _group(problem: Problem, frame: Frame, pools: Sequence[int], ways: Sequence[Way]) -> Group | None:
    points = frame.points
    steps = [_steps(problem.pools[p], points, problem.horizon_s) for p in pools]
    columns = _facts(problem, pools, points)
    if max(columns["lands"]) >= len(points):
        return None
    demand = np.asarray(steps)
    facts = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    one = {name: values[0] for name, values in columns.items()}
    if len(pools) == 1 and (most := most_layers(steps[0], one)) <= MOST_FEW:
        found = few(steps[0], one, frame.hours, ways, most)
    else:
        found = many(demand, facts, np.asarray(frame.hours), ways)
    if found is None:
        return None
    kept, awaited, taken = found
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
        kept=kept,
        awaited=awaited,
        taken=taken,
        lacking=_lacking(demand, facts["capacity"], kept + awaited + taken.sum(axis=2)),
        begun=_begun(taken),
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
