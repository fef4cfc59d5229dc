"""Which pools can be planned apart: those that no limited stock and no rule ties together."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from optimizer.problem import Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.model import Model
    from optimizer.point import Moments
    from optimizer.problem import Gang, Offer, Pool, Problem

TOLERANCE = 1e-6


def _reach(problem: Problem) -> list[set[str]]:
    """The limited supplies each pool may draw on, and the links it loads, by name."""
    shared: dict[str, set[str]] = {}
    own: dict[str, set[tuple[str, str]]] = {}
    for source in problem.sources:
        if source.gpus is None and source.granularity == 1:
            continue
        for pool in source.only_for:
            own.setdefault(pool, set()).add((source.accelerator, source.key))
        if not source.only_for:
            shared.setdefault(source.accelerator, set()).add(source.key)
    blocks: tuple[Gang | Offer, ...] = (*problem.gangs, *problem.offers)
    for one in blocks:
        shared.setdefault(one.accelerator, set()).add(one.key)
    linked = {domain.key for domain in problem.domains if domain.link is not None}
    return [_of(pool, shared, own.get(pool.key, set()), linked) for pool in problem.pools]


def _of(pool: Pool, shared: dict[str, set[str]], own: set[tuple[str, str]], linked: set[str]) -> set[str]:
    kinds = {variant.accelerator for role in pool.roles for variant in role.variants}
    found = {key for kind in kinds for key in shared.get(kind, ())} | {key for kind, key in own if kind in kinds}
    groups = (g for role in pool.roles for variant in role.variants for g in variant.replicas)
    found |= {group.source for group in groups if group.source}
    return found | ({f"link {key}" for key in linked} if pool.link_per_unit else set())


def parts(problem: Problem) -> tuple[Problem, ...]:
    """The problem in parts with no stock in common, each with the supply within its reach, rules over all kept."""
    if not problem.pools:
        return (problem,)
    reach = _reach(problem)
    leader = list(range(len(reach)))

    def find(p: int) -> int:
        while leader[p] != p:
            leader[p] = leader[leader[p]]
            p = leader[p]
        return p

    first: dict[str, int] = {}
    for p, keys in enumerate(reach):
        for key in sorted(keys):
            if key in first:
                leader[find(p)] = find(first[key])
            else:
                first[key] = p
    groups: dict[int, list[int]] = {}
    for p in range(len(reach)):
        groups.setdefault(find(p), []).append(p)
    if len(groups) == 1:
        return (problem,)
    return tuple(_part(problem, members, reach, n == 0) for n, members in enumerate(groups.values()))


def _part(problem: Problem, members: Sequence[int], reach: Sequence[set[str]], takes_rest: bool) -> Problem:
    mine: set[str] = set().union(*(reach[p] for p in members))
    every: set[str] = set().union(*reach)
    pools = tuple(problem.pools[p] for p in members)
    kinds = {variant.accelerator for pool in pools for role in pool.roles for variant in role.variants}
    keys = {pool.key for pool in pools}

    def belongs(key: str, accelerator: str) -> bool:
        return key in mine or (key not in every and (accelerator in kinds or takes_rest))

    return replace(
        problem,
        pools=pools,
        sources=tuple(
            source
            for source in problem.sources
            if belongs(source.key, source.accelerator) and (not source.only_for or keys & set(source.only_for))
        ),
        gangs=tuple(gang for gang in problem.gangs if belongs(gang.key, gang.accelerator)),
        offers=tuple(offer for offer in problem.offers if belongs(offer.key, offer.accelerator)),
    )


def fits_together(problem: Problem, answers: Sequence[tuple[Model, Sequence[float]]], beside: Moments = ()) -> bool:
    """Whether answers found apart keep, summed up at every moment, the rules over all pools; `beside` is held too."""
    rules = problem.rules
    moments = sorted({point for model, _ in answers for point in model.ladder.points} | {at_s for at_s, _, _ in beside})
    for moment in moments:
        here = [(price, gpus) for at_s, price, gpus in beside if at_s <= moment + TOLERANCE]
        spent, preempted = (float(here[-1][0]), float(here[-1][1])) if here else (0.0, 0.0)
        quotas = [0.0] * len(rules.quotas)
        groups = {limit.group: 0.0 for limit in rules.disruptions}
        for model, values in answers:
            i = max(n for n, point in enumerate(model.ladder.points) if point <= moment + TOLERANCE)
            used = _holding(model, values, i, quotas)
            spent += used[0]
            preempted += used[1]
            for place, columns in model.opened.items():
                lot = model.ladder.lots[place]
                spent += values[columns[i]] * lot.hold_price
                if lot.tier is Tier.PREEMPT:
                    preempted += values[columns[i]] * lot.block_gpus
                    if lot.group in groups:
                        groups[lot.group] += values[columns[i]]
        broken = rules.budget_per_hour is not None and spent > rules.budget_per_hour + TOLERANCE
        broken |= rules.max_gpus_preempted is not None and preempted > rules.max_gpus_preempted + TOLERANCE
        broken |= any(used > quota.gpus + TOLERANCE for used, quota in zip(quotas, rules.quotas, strict=True))
        broken |= any(groups[limit.group] > limit.most + TOLERANCE for limit in rules.disruptions)
        if broken:
            return False
    return True


def _holding(model: Model, values: Sequence[float], i: int, quotas: list[float]) -> tuple[float, float]:
    """Price per hour and preempted GPUs of the replicas that hold GPUs in a period; adds to the quotas' use."""
    spent = preempted = 0.0
    for w, way in enumerate(model.ladder.ways):
        count = sum(values[column] * each for column, each in model.occupied(w, i, 1.0))
        if not count:
            continue
        spent += count * way.spend
        shelf = None if way.shelf is None else model.ladder.shelves[way.shelf]
        if shelf is not None and shelf.loose and shelf.tier is Tier.PREEMPT:
            preempted += count * way.gpus
        pool = model.ladder.problem.pools[way.pool]
        kind = pool.roles[way.role].variants[way.variant].accelerator
        for number, quota in enumerate(model.ladder.problem.rules.quotas):
            if quota.accelerator in {"", kind} and (not quota.pools or pool.key in quota.pools):
                quotas[number] += count * way.gpus
    return spent, preempted
