"""Replicas that land only after the horizon: they serve nothing that is planned for, and hold what others cannot have.

They are awaited without being part of the program. What is left is a problem without them: with less stock, smaller
quotas and budget, and bounds that count them, as far as what is there already needs not go for their sake.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from optimizer.problem import Source, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from optimizer.problem import Gang, Offer, Pool, Problem, Quota, Replicas, Role, Variant
    from optimizer.result import PoolPlan, RolePlan


class Late(NamedTuple):
    """A group that lands beyond the horizon, and whose it is."""

    pool: Pool
    role: Role
    variant: Variant
    group: Replicas


def _groups(problem: Problem) -> Iterator[Late]:
    for pool in problem.pools:
        for role in pool.roles:
            for variant in role.variants:
                yield from (Late(pool, role, variant, group) for group in variant.replicas)


def late(problem: Problem) -> tuple[Late, ...]:
    """The groups that land when nothing is planned for any more."""
    last = problem.points_s[-1] if problem.points_s else math.inf
    return tuple(
        one
        for one in _groups(problem)
        if one.group.count and (one.group.lands_in_s >= problem.horizon_s or one.group.lands_in_s > last)
    )


def without(problem: Problem, some: tuple[Late, ...]) -> Problem:
    """The problem without them and what they hold."""
    gone = {id(one.group) for one in some}
    counts: dict[tuple[str, str], int] = {}
    held: dict[str, int] = {}
    for one in some:
        key = (one.pool.key, one.role.key)
        counts[key] = counts.get(key, 0) + one.group.count
        if one.group.source:
            held[one.group.source] = held.get(one.group.source, 0) + one.group.count * one.variant.gpus
    others: dict[str, int] = {}
    for one in _groups(problem):
        if id(one.group) not in gone:
            others[one.group.source] = others.get(one.group.source, 0) + one.group.count * one.variant.gpus

    def role_left(pool: Pool, role: Role) -> Role:
        fewer = counts.get((pool.key, role.key), 0)
        variants = tuple(
            replace(variant, replicas=tuple(group for group in variant.replicas if id(group) not in gone))
            for variant in role.variants
        )
        there = sum(group.count for variant in variants for group in variant.replicas)
        most = max(role.maximum - fewer, min(role.maximum, there))
        return replace(role, variants=variants, minimum=max(0, role.minimum - fewer), maximum=most)

    return replace(
        problem,
        pools=tuple(replace(pool, roles=tuple(role_left(pool, r) for r in pool.roles)) for pool in problem.pools),
        sources=(
            *(
                source if source.gpus is None else replace(source, gpus=source.gpus - held.get(source.key, 0))
                for source in problem.sources
            ),
            *(_rest_of(gang, held[gang.key]) for gang in problem.gangs if gang.key in held),
        ),
        gangs=tuple(gang for gang in problem.gangs if gang.key not in held),
        offers=tuple(_nodes_left(offer, held.get(offer.key, 0), others.get(offer.key, 0)) for offer in problem.offers),
        rules=replace(
            problem.rules,
            budget_per_hour=_budget_left(problem, some),
            quotas=tuple(
                quota._replace(gpus=_quota_left(quota, some, [one for one in _groups(problem) if one not in some]))
                for quota in problem.rules.quotas
            ),
        ),
    )


def _rest_of(gang: Gang, gpus: int) -> Source:
    """What late replicas leave of a gang: it is held for them anyway, so that the rest of it costs nothing."""
    return Source(gang.key, Tier.PREEMPT, gang.accelerator, gang.gpus - gpus, 0.0, 0.0, 0.0, gang.domain, gang.fragment)


def _nodes_left(offer: Offer, gpus: int, others: int) -> Offer:
    """The offer without the nodes of late replicas, unless others share these."""
    nodes = -(-gpus // offer.gpus)
    if (offer.held - nodes) * offer.gpus < others:
        return offer
    return replace(offer, held=offer.held - nodes, quota=None if offer.quota is None else offer.quota - nodes)


def _quota_left(quota: Quota, some: Sequence[Late], others: Sequence[Late]) -> int:
    """What late replicas leave of a quota, and never less than what is there already may keep."""
    gone, there = (sum(_counted(one, quota.accelerator, quota.pools) for one in few) for few in (some, others))
    return max(quota.gpus - gone, min(quota.gpus, there))


def _counted(one: Late, accelerator: str, pools: tuple[str, ...]) -> int:
    """GPUs of a group that a quota counts."""
    mine = accelerator in {"", one.variant.accelerator} and (not pools or one.pool.key in pools)
    return one.group.count * one.variant.gpus if mine else 0


def _budget_left(problem: Problem, some: tuple[Late, ...]) -> float | None:
    budget = problem.rules.budget_per_hour
    if budget is None:
        return None
    prices = {source.key: source.price_per_gpu_hour for source in problem.sources}
    prices |= {gang.key: gang.price_per_gpu_hour for gang in problem.gangs}
    prices |= {offer.key: offer.price_per_hour / offer.gpus for offer in problem.offers}

    def spent(few: Iterable[Late]) -> float:
        return sum(
            one.group.count * one.variant.gpus * prices.get(one.group.source, one.variant.price_per_gpu_hour)
            for one in few
        )

    gone = spent(some)
    return budget if spent(_groups(problem)) > budget else budget - gone


def awaiting(pools: Mapping[str, PoolPlan], some: tuple[Late, ...]) -> dict[str, PoolPlan]:
    """The plans of all pools with those awaited as far as the maximum allows, and given up beyond it."""
    found = dict(pools)
    for one in some:
        made = found[one.pool.key]
        role = made.roles[one.role.key]
        kept = min(one.group.count, max(0, one.role.maximum - role.target))
        roles = {**made.roles, one.role.key: _more(role, one.variant.key, kept, one.group.count - kept)}
        found[one.pool.key] = replace(made, roles=MappingProxyType(roles))
    return found


def _more(role: RolePlan, variant: str, kept: int, given_up: int) -> RolePlan:
    by_variant = {**role.by_variant, variant: role.by_variant.get(variant, 0) + kept}
    return replace(
        role,
        target=role.target + kept,
        awaited=role.awaited + kept,
        given_up=role.given_up + given_up,
        by_variant=MappingProxyType(by_variant),
        at_once=role.at_once + kept,
    )
