"""Name every inconsistency of a problem, one sentence each, before anything is planned."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, TypeGuard

from optimizer.problem import HOUR_S, Rule, Tier
from optimizer.shape import misshapen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from optimizer.problem import Gang, Offer, Pool, Problem, Replicas, Role, Rules, Source, Variant

SHARE_SLACK = 1e-6
MOST = 10**9
"""Counts above this are mistakes, and would lose their last digits in the solver."""


def _count(value: object, least: int = 0) -> bool:
    """Whether the value is a whole number of at least `least` (floats, booleans and NaN are not)."""
    if type(value) is int:  # nearly always; the abstract class below takes ten times as long to ask
        return least <= value <= MOST
    return type(value) is not bool and isinstance(value, Integral) and least <= int(value) <= MOST


def _number(value: object) -> TypeGuard[float]:
    """Whether the value is a number; true is none."""
    if type(value) is float or type(value) is int:  # nearly always, and ten times as quick
        return True
    return isinstance(value, Real) and not isinstance(value, bool)


def _amount(value: object) -> TypeGuard[float]:
    return _number(value) and 0.0 <= value < math.inf


def _amounts(name: str, fields: Iterable[tuple[str, object]]) -> Iterator[str]:
    for field, value in fields:
        if not _amount(value):
            yield f"{name}: {field} {value!r} must be a finite number and not negative"


def _given(*fields: tuple[str, object]) -> Iterator[tuple[str, object]]:
    """The fields that are not left open."""
    return (field for field in fields if field[1] is not None)


def _counts(name: str, fields: Iterable[tuple[str, object, int]]) -> Iterator[str]:
    for field, value, least in fields:
        if not _count(value, least):
            yield f"{name}: {field} {value!r} must be a whole number from {least} to {MOST}"


def _twice(kind: str, keys: Iterable[str], *, named: bool = True) -> Iterator[str]:
    for key, count in Counter(keys).items():
        if count > 1:
            yield f"{kind} {key!r} is given {count} times; keys must be unique"
        if named and not key:
            yield f"a {kind} has an empty key"


def _check_demand(name: str, pool: Pool) -> Iterator[str]:
    if not pool.demand:
        yield f"{name}: demand is empty; give at least one time point"
    previous = -1.0
    for at_s, amount, burst in pool.demand:
        if not _amount(at_s) or at_s <= previous:
            yield f"{name}: demand time {at_s!r} must be finite, not negative and after the one before"
        yield from _amounts(name, ((f"demand at {at_s} s", amount), (f"burst at {at_s} s", burst)))
        previous = at_s if _amount(at_s) else previous


def _check_group(name: str, group: Replicas, suppliers: frozenset[str], domains: frozenset[str]) -> Iterator[str]:
    yield from _counts(name, (("replicas count", group.count, 0),))
    fields = (("lands_in_s", group.lands_in_s), ("release_price", group.release_price), ("drain_s", group.drain_s))
    yield from _amounts(f"{name}: replicas", fields)
    if group.source and group.source not in suppliers:
        yield f"{name}: replicas on {group.source!r}, which is no source, gang or offer"
    if group.domain and domains and group.domain not in domains:
        yield f"{name}: replicas in {group.domain!r}, which is no domain"


def _check_variant(name: str, variant: Variant, pool: Pool) -> Iterator[str]:
    if not (_amount(variant.capacity) and variant.capacity > 0):
        yield f"{name}: capacity {variant.capacity!r} must be a finite number above 0"
    yield from _counts(name, (("gpus", variant.gpus, 1),))
    yield from _amounts(name, (("price_per_gpu_hour", variant.price_per_gpu_hour),))
    for wave in variant.waves:
        if wave.replicas is not None:
            yield from _counts(name, (("wave replicas", wave.replicas, 0),))
        yield from _amounts(name, (("wave start_s", wave.start_s),))
    if not variant.waves:
        yield f"{name}: waves are empty; give at least one, as Wave(None, seconds)"
    starts = [wave.start_s for wave in variant.waves if _amount(wave.start_s)]
    if starts != sorted(starts):
        yield f"{name}: waves must be given fastest first"
    turn = variant.convertible
    if turn is not None:
        fields = (("capacity", turn.capacity), ("lost", turn.lost), ("price_per_hour", turn.price_per_hour))
        yield from _amounts(f"{name}: convertible", fields)
        if turn.role not in {role.key for role in pool.roles}:
            yield f"{name}: converts to role {turn.role!r}, which the pool has not"
        if _amount(turn.lost) and _amount(variant.capacity) and turn.lost > variant.capacity:
            yield f"{name}: convertible lost {turn.lost} is above its capacity {variant.capacity}"


def _check_role(name: str, role: Role) -> Iterator[str]:
    if not role.variants:
        yield f"{name}: has no variants; give at least one"
    yield from _counts(name, (("minimum", role.minimum, 0), ("maximum", role.maximum, 0)))
    yield from _amounts(name, _given(("wake_target_s", role.wake_target_s)))
    if _count(role.minimum) and _count(role.maximum) and role.minimum > role.maximum:
        yield f"{name}: minimum {role.minimum} is above maximum {role.maximum}"
    yield from _twice(f"{name}: variant", (variant.key for variant in role.variants), named=False)


def _check_ratios(name: str, pool: Pool) -> Iterator[str]:
    roles = {role.key for role in pool.roles}
    for ratio in pool.ratios:
        if {ratio.role, ratio.per} - roles:
            yield f"{name}: ratio of {ratio.role!r} per {ratio.per!r} names a role the pool has not"
        if not (_amount(ratio.least) and _amount(ratio.most) and ratio.least <= ratio.most):
            yield f"{name}: ratio from {ratio.least} to {ratio.most} must ascend from at least 0"


def _check_pool(
    pool: Pool, offered: frozenset[str], suppliers: frozenset[str], domains: frozenset[str]
) -> Iterator[str]:
    name = f"pool {pool.key!r}"
    yield from _check_demand(name, pool)
    if not pool.roles:
        yield f"{name}: has no roles; give at least one"
    shares = [one.share for one in pool.classes if _amount(one.share)]
    if abs(math.fsum(shares) - 1.0) > SHARE_SLACK:
        yield f"{name}: the shares of its classes must add up to 1"
    for one in pool.classes:
        yield from _amounts(
            f"{name}: class {one.key!r}", (("share", one.share), ("shortage_price", one.shortage_price))
        )
    fields = (
        ("cross_price", pool.cross_price),
        ("link_per_unit", pool.link_per_unit),
        ("burst_price", pool.burst_price),
    )
    yield from _amounts(name, fields)
    yield from _twice(f"{name}: role", (role.key for role in pool.roles), named=len(pool.roles) > 1)
    yield from _check_ratios(name, pool)
    for role in pool.roles:
        where = name + (f" role {role.key!r}" if role.key else "")
        yield from _check_role(where, role)
        for variant in role.variants:
            what = where + (f" variant {variant.key!r}" if variant.key else "")
            yield from _check_variant(what, variant, pool)
            if variant.accelerator not in offered:
                kind = repr(variant.accelerator)
                yield f"{what}: nothing offers accelerator {kind}; give a source, with 0 GPUs if need be"
            for group in variant.replicas:
                yield from _check_group(what, group, suppliers, domains)


def _check_source(source: Source, pools: frozenset[str]) -> Iterator[str]:
    name = f"source {source.key!r}"
    if source.gpus is not None:
        yield from _counts(name, (("gpus", source.gpus, 0),))
    if source.fragment is not None:
        yield from _counts(name, (("fragment", source.fragment, 1),))
        if source.gpus is None:
            yield f"{name}: has a fragment but no limit; give its gpus"
    yield from _counts(name, (("granularity", source.granularity, 1),))
    fields = (("lead_s", source.lead_s), ("one_off_price", source.one_off_price))
    yield from _amounts(name, (*fields, ("price_per_gpu_hour", source.price_per_gpu_hour)))
    tier: object = source.tier
    if not isinstance(tier, Tier):
        yield f"{name}: tier {tier!r} must be one of {', '.join(str(tier) for tier in Tier)}, as a Tier"
    elif tier is Tier.CONVERT:
        yield f"{name}: tier convert has no GPUs of its own; make variants convertible instead"
    for key in source.only_for:
        if key not in pools:
            yield f"{name}: only_for names {key!r}, which is no pool"


def _check_gang(gang: Gang) -> Iterator[str]:
    name = f"gang {gang.key!r}"
    yield from _counts(name, (("gpus", gang.gpus, 1), *([("fragment", gang.fragment, 1)] if gang.fragment else [])))
    if not _number(gang.priority) or math.isnan(gang.priority):
        yield f"{name}: priority {gang.priority!r} must be a number"
    seconds = ("lead_s", "since_checkpoint_s", "requeue_s", "price_per_gpu_hour", "min_run_s", "ran_s", "repreemptions")
    yield from _amounts(name, ((field, getattr(gang, field)) for field in seconds))


def _check_offer(offer: Offer) -> Iterator[str]:
    name = f"offer {offer.key!r}"
    yield from _counts(name, (("gpus", offer.gpus, 1), ("held", offer.held, 0)))
    if offer.quota is not None:
        yield from _counts(name, (("quota", offer.quota, 0),))
        if _count(offer.quota) and offer.held > offer.quota:
            yield f"{name}: held {offer.held} is above its quota {offer.quota}"
    fields = ("price_per_hour", "lead_s", "min_billing_s", "paid_s", "one_off_price")
    yield from _amounts(name, ((field, getattr(offer, field)) for field in fields))


def _check_rules(rules: Rules, pools: frozenset[str]) -> Iterator[str]:
    budget = _given(("budget_per_hour", rules.budget_per_hour))
    yield from _amounts("rules", (*budget, ("churn_price", rules.churn_price)))
    if rules.max_gpus_preempted is not None:
        yield from _counts("rules", (("max_gpus_preempted", rules.max_gpus_preempted, 0),))
    cutoff = rules.never_above_priority
    if cutoff is not None and not _number(cutoff):
        yield f"rules: never_above_priority {cutoff!r} must be a number"
    if rules.cross_share is not None and not (_amount(rules.cross_share) and rules.cross_share <= 1.0):
        yield f"rules: cross_share {rules.cross_share!r} must lie between 0 and 1"
    for limit in rules.disruptions:
        yield from _counts(f"rules: disruption of {limit.group!r}", (("most", limit.most, 0),))
    for quota in rules.quotas:
        yield from _counts(f"rules: quota {quota.key!r}", (("gpus", quota.gpus, 0),))
        for key in quota.pools:
            if key not in pools:
                yield f"rules: quota {quota.key!r} names {key!r}, which is no pool"
    if len(set(rules.relax)) < len(rules.relax) or not set(rules.relax) <= set(Rule):
        given, known = ([str(rule) for rule in some] for some in (rules.relax, Rule))
        yield f"rules: relax {given} must name each of {known} at most once"


def _held_on(problem: Problem) -> Counter[str]:
    held: Counter[str] = Counter()
    for pool in problem.pools:
        for role in pool.roles:
            for variant in role.variants:
                for group in variant.replicas:
                    if group.source and _count(group.count) and _count(variant.gpus):
                        held[group.source] += group.count * variant.gpus
    return held


def _check_held(problem: Problem) -> Iterator[str]:
    """What replicas hold of a supply must be there."""
    held = _held_on(problem)
    for source in problem.sources:
        if source.gpus is not None and held[source.key] > source.gpus:
            yield f"source {source.key!r}: replicas hold {held[source.key]} of its {source.gpus} GPUs"
    for gang in problem.gangs:
        if held[gang.key] > gang.gpus * gang.held:
            yield f"gang {gang.key!r}: replicas hold {held[gang.key]} of its {gang.gpus * gang.held} taken GPUs"
    for offer in problem.offers:
        if held[offer.key] > offer.gpus * offer.held:
            yield f"offer {offer.key!r}: replicas hold {held[offer.key]} of its {offer.gpus * offer.held} held GPUs"


def _check_widths(problem: Problem) -> Iterator[str]:
    """Replicas in fragments must have widths that divide each other: only then is their packing reckoned exactly."""
    whole = {s.accelerator for s in problem.sources if s.fragment} | {o.accelerator for o in problem.offers}
    whole |= {gang.accelerator for gang in problem.gangs if gang.fragment}
    widths: dict[str, set[int]] = {}
    for pool in problem.pools:
        for variant in (variant for role in pool.roles for variant in role.variants if _count(variant.gpus, 1)):
            widths.setdefault(variant.accelerator, set()).add(variant.gpus)
    for accelerator in sorted(whole & widths.keys()):
        for slim, wide in pairwise(sorted(widths[accelerator])):
            if wide % slim:
                yield (
                    f"accelerator {accelerator!r}: replicas of {slim} and of {wide} GPUs cannot be packed into nodes "
                    "exactly; widths must divide each other"
                )


def check(problem: Problem) -> tuple[str, ...]:
    """Name every inconsistency of the problem, one sentence each; empty when there is none."""
    return tuple(misshapen(problem)) or _inconsistent(problem)


def _inconsistent(problem: Problem) -> tuple[str, ...]:
    keys = frozenset(pool.key for pool in problem.pools)
    supply: list[Source | Gang | Offer] = [*problem.sources, *problem.gangs, *problem.offers]
    suppliers = frozenset(one.key for one in supply)
    offered = frozenset(one.accelerator for one in supply)
    domains = frozenset(domain.key for domain in problem.domains)
    faults = [*_check_rules(problem.rules, keys), *_twice("pool", (pool.key for pool in problem.pools))]
    faults += [
        *_twice("source, gang or offer", (one.key for one in supply)),
        *_twice("domain", (d.key for d in problem.domains)),
    ]
    for pool in problem.pools:
        faults.extend(_check_pool(pool, offered, suppliers, domains))
    for source in problem.sources:
        faults.extend(_check_source(source, keys))
    for gang in problem.gangs:
        faults.extend(_check_gang(gang))
    for offer in problem.offers:
        faults.extend(_check_offer(offer))
    for domain in problem.domains:
        faults.extend(_amounts(f"domain {domain.key!r}", _given(("link", domain.link))))
    for one in supply:
        if one.domain and domains and one.domain not in domains:
            faults.append(f"{one.key!r} lies in {one.domain!r}, which is no domain")
    if not (_amount(problem.horizon_s) and 0 < problem.horizon_s <= 1000 * HOUR_S):
        faults.append(f"horizon_s {problem.horizon_s!r} must be a number above 0 and at most {1000 * HOUR_S:g}")
    if any(not _amount(at) for at in problem.points_s) or list(problem.points_s) != sorted(set(problem.points_s)):
        faults.append("points_s must be finite, not negative and ascending")
    return tuple(faults) or tuple(_check_held(problem)) + tuple(_check_widths(problem))
