"""From a point of the program to an answer: what it means for every pool, what to do, and why."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from optimizer.actions import Action, Do, actions
from optimizer.evidence import binding, cost
from optimizer.ladder import Held
from optimizer.problem import Tier
from optimizer.relax import given_way
from optimizer.result import Answer, Hint, PoolPlan, RolePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.ladder import Ladder
    from optimizer.model import Model
    from optimizer.point import Open, Serving
    from optimizer.result import Status

TOLERANCE = 1e-6


def names(steps: Ladder) -> list[tuple[str, ...]]:
    """A name for every way that stays the same from plan to plan."""
    found: list[tuple[str, ...]] = []
    for way in steps.ways:
        pool = steps.problem.pools[way.pool]
        role = pool.roles[way.role]
        shelf = "" if way.shelf is None else steps.lots[steps.shelves[way.shelf].lots[0]].key
        numbers = (str(way.group), str(way.wave))
        found.append((pool.key, role.key, role.variants[way.variant].key, str(way.held), shelf, way.domain, *numbers))
    return found


def allocation(model: Model, values: Sequence[float]) -> tuple[Serving, Open]:
    """Replicas of every way in each period, and open blocks of every lot."""
    n = len(model.ladder.points)
    serving = tuple(
        (0,) * (n - len(columns)) + tuple(round(values[column]) for column in columns) for columns in model.serving
    )
    return serving, {lot: tuple(round(values[c]) for c in columns) for lot, columns in model.opened.items()}


def _role_plan(model: Model, serving: Serving, p: int, r: int) -> RolePlan:
    kept = released = awaited = given_up = taken = 0
    variants = model.ladder.problem.pools[p].roles[r].variants
    split = dict.fromkeys((variant.key for variant in variants), 0)
    there = [0] * len(model.ladder.points)
    for w in model.of_role(p, r):
        way, numbers = model.ladder.ways[w], serving[w]
        if way.held is Held.ARRIVED:
            mine = numbers[0]
            kept += mine
            released += way.cap - mine
        elif way.held is Held.STARTING:
            mine = numbers[way.first]
            awaited += mine
            given_up += way.cap - mine
        else:
            mine = _ordered_now(model.ladder, w, numbers)
            taken += mine
        split[variants[way.variant].key] += mine
        there = [so_far + min(number, mine) for so_far, number in zip(there, numbers, strict=True)]
    at_once, target = max(kept + awaited, *there), kept + awaited + taken
    return RolePlan(target, kept, released, awaited, given_up, taken, MappingProxyType(split), at_once)


def _ordered_now(steps: Ladder, w: int, numbers: Sequence[int]) -> int:
    """Replicas whose order is due before anything else can change."""
    way = steps.ways[w]
    total = 0
    for i in range(way.first, len(numbers)):
        began = numbers[i] - (numbers[i - 1] if i > way.first else 0)
        if began > 0 and steps.before(i, way.lead_s) == 0:
            total += began
    return total


def steps_of(points: Sequence[float], amounts: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """What is lacking as steps: where there is any, and where it ends."""
    found: list[tuple[float, float]] = []
    for point, amount in zip(points, amounts, strict=True):
        if amount > TOLERANCE:
            found.append((point, amount))
        elif found and found[-1][1]:
            found.append((point, 0.0))
    return tuple(found)


def _pool_plans(model: Model, values: Sequence[float], serving: Serving) -> dict[str, PoolPlan]:
    found = {}
    for p, pool in enumerate(model.ladder.problem.pools):
        amounts = [sum(values[column] for column in columns) for columns in model.lacking[p]]
        lacking = steps_of(model.ladder.points, amounts)
        roles = {role.key: _role_plan(model, serving, p, r) for r, role in enumerate(pool.roles)}
        found[pool.key] = PoolPlan(pool.key, MappingProxyType(roles), lacking)
    return found


def _converts(model: Model, values: Sequence[float]) -> list[Action]:
    """Replicas to keep ready to convert, where their number changes."""
    found = []
    before: dict[tuple[int, int, int], int] = {}
    points = (*model.ladder.points, model.ladder.problem.horizon_s)
    for (p, r, v, i), column in model.converted.items():
        count = round(values[column])
        if count and count != before.get((p, r, v), 0):
            pool = model.ladder.problem.pools[p]
            role = pool.roles[r]
            variant = role.variants[v]
            whose = (pool.key, role.key, variant.key)
            gpus = count * variant.gpus
            found.append(
                Action(Do.CONVERT, points[i], points[i], None, *whose, "", Tier.CONVERT, "", count, gpus, i == 0)
            )
        before[p, r, v] = count
    return found


def answered(
    model: Model,
    values: Sequence[float],
    *,
    status: Status,
    gap: float | None,
    gave: tuple[str, ...],
    reason: str,
) -> Answer:
    """The answer a point of the program stands for."""
    steps = model.ladder
    serving, opened = allocation(model, values)
    return Answer(
        status=status,
        gap=gap,
        pools=_pool_plans(model, values, serving),
        actions=actions(steps, serving, opened, _converts(model, values)),
        cost=cost(model, values),
        binding=binding(model, values),
        relaxed=(*gave, *given_way(model, values)),
        reason=reason,
        hint=Hint(
            MappingProxyType(dict(zip(names(steps), serving, strict=True))),
            MappingProxyType({steps.lots[index].key: numbers for index, numbers in opened.items()}),
        ),
    )
