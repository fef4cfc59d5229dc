"""What would change the answer: the limits of a problem, each a step wider, to be planned again.

Prices that a linear relaxation puts on limits mislead where whole replicas, nodes and gangs are taken: one GPU more is
worth nothing to replicas of two, and one block more of a gang that there is only one of means nothing. So every limit
that binds is moved by the least step that could matter, and what that saves is found by planning again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from optimizer.problem import Pool, Problem, Role, Source, Variant

MOST_TRIED = 12
"""Limits moved, in the order below."""
SHARE_STEP = 0.1
"""Step of a bound on a share."""


class Change(NamedTuple):
    """What a limit moved by a step saves until the horizon; a step of 0 stands for a rule that is dropped."""

    limit: str
    by: float
    saves: float


class Trial(NamedTuple):
    """A limit, its step, and the problem with the limit moved."""

    limit: str
    by: float
    problem: Problem


def trials(problem: Problem, binding: Sequence[str]) -> Iterator[Trial]:
    """The problem with one limit after the other moved.

    Args:
        problem: as it was planned.
        binding: names of the limits that bind in the plan; only these are moved, and what decides which gangs may be
            taken at all, which is never without room.
    """
    names = set(binding)
    for some in (_stocks, _over_all, _roles, _preemption):
        yield from some(problem, names)


def _named(names: set[str], family: str, key: str) -> bool:
    """Whether a limit binds, by itself, with others like it (`key+2`), or for one width (`key/4`)."""
    stem = f"{family}[{key}"
    return any(name.startswith(stem) and name[len(stem) :][:1] in {"]", "+", "/"} for name in names)


def _variants(problem: Problem) -> Iterator[tuple[Pool, Variant]]:
    for pool in problem.pools:
        for role in pool.roles:
            for variant in role.variants:
                yield pool, variant


def _width(problem: Problem, accelerator: str = "", pools: Sequence[str] = ()) -> int:
    """GPUs of the narrowest replica of a kind, of some pools (none named: of any)."""
    widths = (
        variant.gpus
        for pool, variant in _variants(problem)
        if accelerator in {"", variant.accelerator} and (not pools or pool.key in pools)
    )
    return min(widths, default=1)


def _piece(problem: Problem, source: Source) -> int:
    """GPUs by which a source has to grow for one more replica."""
    width = _width(problem, source.accelerator, source.only_for)
    return math.ceil(width / source.granularity) * source.granularity


def _stocks(problem: Problem, names: set[str]) -> Iterator[Trial]:
    for n, source in enumerate(problem.sources):
        if source.gpus is not None and _named(names, "stock", source.key):
            by = _piece(problem, source)
            wider = replace(source, gpus=source.gpus + by)
            sources = (*problem.sources[:n], wider, *problem.sources[n + 1 :])
            yield Trial(f"stock[{source.key}]", by, replace(problem, sources=sources))
    for n, offer in enumerate(problem.offers):
        if offer.quota is not None and _named(names, "stock", offer.key):
            wide = replace(offer, quota=offer.quota + 1)
            offers = (*problem.offers[:n], wide, *problem.offers[n + 1 :])
            yield Trial(f"blocks[{offer.key}]", 1, replace(problem, offers=offers))


def _cheapest(problem: Problem) -> float:
    """Price per hour of the cheapest thing that one more of could be held of."""
    prices = [source.price_per_gpu_hour * _piece(problem, source) for source in problem.sources]
    prices += [gang.gpus * gang.price_per_gpu_hour for gang in problem.gangs]
    prices += [offer.price_per_hour for offer in problem.offers]
    return min((price for price in prices if price > 0), default=0.0)


def _over_all(problem: Problem, names: set[str]) -> Iterator[Trial]:
    rules = problem.rules
    if rules.budget_per_hour is not None and "budget" in names and (by := _cheapest(problem)):
        yield Trial("budget", by, replace(problem, rules=replace(rules, budget_per_hour=rules.budget_per_hour + by)))
    for n, quota in enumerate(rules.quotas):
        if _named(names, "quota", quota.key):
            width = _width(problem, quota.accelerator, quota.pools)
            quotas = (*rules.quotas[:n], quota._replace(gpus=quota.gpus + width), *rules.quotas[n + 1 :])
            yield Trial(f"quota[{quota.key}]", width, replace(problem, rules=replace(rules, quotas=quotas)))
    if rules.cross_share is not None and any(_named(names, "cross", pool.key) for pool in problem.pools):
        by = min(SHARE_STEP, 1.0 - rules.cross_share)
        yield Trial("cross_share", by, replace(problem, rules=replace(rules, cross_share=rules.cross_share + by)))
    for n, domain in enumerate(problem.domains):
        if domain.link is not None and _named(names, "link", domain.key):
            loads = [pool.link_per_unit * variant.capacity for pool, variant in _variants(problem)]
            by = min((load for load in loads if load > 0), default=0.0)
            domains = (*problem.domains[:n], domain._replace(link=domain.link + by), *problem.domains[n + 1 :])
            yield Trial(f"link[{domain.key}]", by, replace(problem, domains=domains))


def _with_role(problem: Problem, p: int, r: int, change: Callable[[Role], Role]) -> Problem:
    pool = problem.pools[p]
    roles = (*pool.roles[:r], change(pool.roles[r]), *pool.roles[r + 1 :])
    return replace(problem, pools=(*problem.pools[:p], replace(pool, roles=roles), *problem.pools[p + 1 :]))


def _fed(role: Role) -> Role:
    """One more start at once in every wave that has a limit."""
    return replace(
        role,
        variants=tuple(
            replace(
                variant,
                waves=tuple(
                    wave if wave.replicas is None else wave._replace(replicas=wave.replicas + 1)
                    for wave in variant.waves
                ),
            )
            for variant in role.variants
        ),
    )


def _roles(problem: Problem, names: set[str]) -> Iterator[Trial]:
    for p, pool in enumerate(problem.pools):
        for r, role in enumerate(pool.roles):
            name = f"{pool.key}/{role.key}" if role.key else pool.key
            if f"maximum[{name}]" in names:
                wider = _with_role(problem, p, r, lambda one: replace(one, maximum=one.maximum + 1))
                yield Trial(f"maximum[{name}]", 1, wider)
            if f"minimum[{name}]" in names and role.minimum:
                wider = _with_role(problem, p, r, lambda one: replace(one, minimum=one.minimum - 1))
                yield Trial(f"minimum[{name}]", -1, wider)
            if _named(names, "waves", name):
                yield Trial(f"waves[{name}]", 1, _with_role(problem, p, r, _fed))
        for n, ratio in enumerate(pool.ratios):
            stem = f"{pool.key}:{ratio.role}/{ratio.per}"
            steps = (
                (f"ratio_most[{stem}]", 1.0, ratio._replace(most=ratio.most + 1.0)),
                (f"ratio_least[{stem}]", -ratio.least, ratio._replace(least=0.0)),
            )
            for name, by, moved in steps:
                if name in names:
                    ratios = (*pool.ratios[:n], moved, *pool.ratios[n + 1 :])
                    pools = (*problem.pools[:p], replace(pool, ratios=ratios), *problem.pools[p + 1 :])
                    yield Trial(name, by, replace(problem, pools=pools))


def _preemption(problem: Problem, names: set[str]) -> Iterator[Trial]:
    rules = problem.rules
    if rules.max_gpus_preempted is not None and "max_gpus_preempted" in names:
        by = min((gang.gpus for gang in problem.gangs if not gang.held), default=_width(problem))
        wider = replace(rules, max_gpus_preempted=rules.max_gpus_preempted + by)
        yield Trial("max_gpus_preempted", by, replace(problem, rules=wider))
    for n, limit in enumerate(rules.disruptions):
        if _named(names, "disruption", limit.group):
            limits = (*rules.disruptions[:n], limit._replace(most=limit.most + 1), *rules.disruptions[n + 1 :])
            yield Trial(f"disruption[{limit.group}]", 1, replace(problem, rules=replace(rules, disruptions=limits)))
    if rules.priority_order and len({gang.priority for gang in problem.gangs}) > 1:
        yield Trial("priority_order", 0, replace(problem, rules=replace(rules, priority_order=False)))
    cutoff = rules.never_above_priority
    above = [gang.priority for gang in problem.gangs if cutoff is not None and gang.priority > cutoff]
    if cutoff is not None and above:
        wider = replace(rules, never_above_priority=min(above))
        yield Trial("never_above_priority", min(above) - cutoff, replace(problem, rules=wider))
