"""From what the roles need and what supply is seen to one plan: the problem as the optimiser knows it, and its answer.

Roles are planned as pools of their own here: their demand comes in whole replicas, the ratio of prefill to decode being
settled before by the velocities. What training is seen by name is offered gang by gang, with the work that each would
lose; without it the configured stock is. Replicas that sleep hold GPUs of the free stock, and only their own role can
have these back: each role's are a source of its own, and nobody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from autoscaler.model import Tier
from autoscaler.nearness import across_s, paired_homes
from autoscaler.on_the_way import on_the_way, waking
from autoscaler.reach import within_reach
from optimizer import (
    Demand,
    Effort,
    Gang,
    Limits,
    Offer,
    Problem,
    Replicas,
    Source,
    Variant,
    plan,
    simple_pool,
)
from optimizer import Rules as PlanRules
from optimizer import Tier as Rung

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.demand import RoleDemand
    from autoscaler.model import Observation, RoleKey, Stock
    from autoscaler.on_the_way import Ground, OnTheWay, Standing
    from autoscaler.reach import Points
    from autoscaler.rules import RoleRules, Rules, SupplyRules
    from optimizer import Plan, Pool

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Supplied:
    """A plan, and what it knew of the replicas on their way.

    Attributes:
        coming: each judged role's replicas on their way.
        stranded: how many of the replicas that a role wants were asked for and have no GPUs in sight. They are in no
            plan while there is nothing to take for them, and are not withdrawn for that: somebody else may bring GPUs
            for pods that wait.
    """

    plan: Plan
    coming: Mapping[RoleKey, OnTheWay]
    stranded: Mapping[RoleKey, int]


def supply_plan(
    demands: Mapping[RoleKey, RoleDemand], counts: Mapping[RoleKey, Standing], seen: Observation, rules: Rules
) -> Supplied | None:
    """One plan for all judged roles; None when there is none to judge."""
    points = within_reach({key: demand.at for key, demand in demands.items()}, counts, seen, rules)
    coming, spare = on_the_way(counts, seen, rules)
    judged = [rule for rule in rules.roles if rule.key in points]
    pools = tuple(_pool(rule, points[rule.key], counts[rule.key], coming[rule.key], rules) for rule in judged)
    if not pools:
        return None
    stocks = {stock.accelerator: stock for stock in seen.stocks}
    held = _held(demands, counts, rules)
    sources = [*_sleepers(demands, counts, rules), *_coming_free(spare, rules)]
    gangs: list[Gang] = []
    offers: list[Offer] = []
    for rung in rules.supply:
        named = list(_gangs(rung, seen, rules)) if rung.tier is Tier.PREEMPT else []
        if named:
            gangs += named
        elif rung.tier is Tier.PROVISION and _nodes_are_whole(rung, rules):
            offers.append(_offer(rung, stocks.get(rung.accelerator)))
        else:
            sources.append(_source(rung, stocks.get(rung.accelerator), held.get(rung.accelerator, 0)))
    limits = PlanRules(budget_per_hour=rules.budget_per_hour, max_gpus_preempted=rules.max_gpus_preempted)
    problem = Problem(pools, tuple(sources), tuple(gangs), tuple(offers), rules=limits, horizon_s=rules.horizon_s)
    made = _planned(problem, Effort(Limits(rules.time_limit_s, rules.gap), alternative=rules.alternative))
    stranded = {}
    for rule in judged:
        here, lost = counts[rule.key], coming[rule.key].ungrounded
        needed = max(rule.minimum, *(min(number, rule.maximum) for _, number in points[rule.key]))
        needed = min(needed, here.arrived + here.starting)
        beyond = needed - made.pools[str(rule.key)].roles[""].at_once
        if lost and beyond > 0:
            stranded[rule.key] = min(lost, beyond)
    return Supplied(made, coming, stranded)


@lru_cache(maxsize=8)
def _planned(problem: Problem, effort: Effort) -> Plan:
    """The plan of a problem. The same is asked at every other tick, as counts and needs are whole replicas."""
    return plan(problem, effort)


def _held(demands: Mapping[RoleKey, RoleDemand], counts: Mapping[RoleKey, Standing], rules: Rules) -> dict[str, int]:
    """GPUs of each kind that the pools hold, asleep or not; a role that is not judged may hold all it was asked for."""
    held: dict[str, int] = {}
    for rule in rules.roles:
        standing = counts[rule.key]
        here = standing.arrived + standing.starting
        gpus = rule.gpus * (standing.asleep + (here if rule.key in demands else max(here, standing.base)))
        held[rule.accelerator] = held.get(rule.accelerator, 0) + gpus
    return held


def awaited(
    seen: Observation, rules: Rules, counts: Mapping[RoleKey, Standing], least: Mapping[RoleKey, int]
) -> frozenset[str]:
    """Accelerators of which the roles hold GPUs that a whole gang waits for, and would get if they fell to `least`.

    A gang comes back as a whole or not at all: GPUs that leave it short of its own are better kept. Where it fits
    beside all that is asked for, it comes back anyway. Example: 10 GPUs of our own and 16 of a gang; with 12 replicas
    it cannot come back, with 10 it can.
    """
    found = set()
    for stock in seen.stocks:
        waiting = [one.gpus for one in seen.supply.lent if one.accelerator == stock.accelerator] if seen.supply else []
        if stock.free is None or not waiting:
            continue
        roles = [rule for rule in rules.roles if rule.accelerator == stock.accelerator]
        held = sum(rule.gpus * (counts[rule.key].base + counts[rule.key].asleep) for rule in roles)
        kept = sum(rule.gpus * (least[rule.key] + counts[rule.key].asleep) for rule in roles)
        if any(held > stock.free - gang >= kept for gang in waiting):
            found.add(stock.accelerator)
    return frozenset(found)


def _pool(rule: RoleRules, points: Points, counts: Standing, coming: OnTheWay, rules: Rules) -> Pool:
    """A role's demand in whole replicas (head-room included), one unit of capacity each."""
    price = rules.least_price(rule.accelerator)
    wake = rules.wakes.get(rule.key)
    lead_s = min((rung.lead_s for rung in rules.rungs(rule) if rung.tier is not Tier.WAKE), default=0.0)
    planned = rules.least_quantile if rules.quantile is None else rules.quantile
    # Never more than half of what a release saves over the horizon: a pool that nobody needs must shrink at any price.
    most = 0.5 * rule.gpus * price * rules.horizon_s / HOUR_S
    back = min(_reacquisition_price(rule, price, lead_s, planned), most)
    replicas = [Replicas(counts.arrived, release_price=back)] if counts.arrived else []
    awake = waking(rule, counts, rules)
    if awake and wake is not None:
        replicas.append(Replicas(awake, lands_in_s=wake.lead_s, release_price=back))
    replicas += [Replicas(number, lands_in_s=lands_s, release_price=back) for lands_s, number in coming.groups]
    return simple_pool(
        str(rule.key),
        Variant("", rule.accelerator, rule.gpus, 1.0, price, tuple(replicas)),
        tuple(Demand(ahead, float(min(needed, rule.maximum))) for ahead, needed in points),
        shortage_price=rule.shortage_price,
        minimum=rule.minimum,
        maximum=rule.maximum,
    )


def _reacquisition_price(rule: RoleRules, price_per_gpu_hour: float, lead_s: float, quantile: float) -> float:
    """What letting one replica go costs should it be needed after all: the hysteresis of the plan.

    With the chance that the load exceeds the quantile planned for, one replica lacks for the time a start takes; and
    its GPUs are paid while they start again: ((1 - quantile) x shortage price + GPUs x price) x lead time.
    """
    return ((1.0 - quantile) * rule.shortage_price + rule.gpus * price_per_gpu_hour) * lead_s / HOUR_S


def _sleepers(
    demands: Mapping[RoleKey, RoleDemand], counts: Mapping[RoleKey, Standing], rules: Rules
) -> Iterator[Source]:
    """Each judged role's own sleepers, to be woken; of roles that have enough awake nobody asks."""
    for rule in rules.roles:
        rung, standing = rules.wakes.get(rule.key), counts[rule.key]
        if rung is None or not standing.asleep or rule.key not in demands:
            continue
        most = max((min(needed, rule.maximum) for _, needed in demands[rule.key].at), default=0)
        if max(most, rule.minimum) > standing.arrived + standing.starting:
            yield Source(
                key=f"{rung.tier}/{rule.key}",
                tier=Rung.WAKE,
                accelerator=rung.accelerator,
                gpus=standing.asleep * rule.gpus,
                lead_s=rung.lead_s,
                price_per_gpu_hour=rung.price_per_gpu_hour,
                only_for=(str(rule.key),),
            )


def _coming_free(spare: Sequence[Ground], rules: Rules) -> Iterator[Source]:
    """GPUs that will be free without anything being taken or ordered for them: more have left, or come, than wait."""
    for number, ground in enumerate(spare):
        yield Source(
            key=f"coming/{ground.accelerator}/{number}",
            tier=Rung.START,
            accelerator=ground.accelerator,
            gpus=ground.gpus,
            lead_s=ground.lands_s,
            price_per_gpu_hour=rules.least_price(ground.accelerator),
        )


def _source(rung: SupplyRules, stock: Stock | None, held: int) -> Source:
    """A rung with its present stock. `Stock.free` counts all prepared GPUs; what the pools hold is taken off here."""
    gpus: int | None = None
    if stock is not None:
        gpus = {Tier.START: stock.free, Tier.PREEMPT: stock.preemptible, Tier.PROVISION: stock.provisionable}[rung.tier]
        if rung.tier is Tier.START and gpus is not None:
            gpus = max(0, gpus - held)
    return Source(
        key=f"{rung.tier}/{rung.accelerator}",
        tier=Rung(rung.tier.value),
        accelerator=rung.accelerator,
        gpus=gpus,
        lead_s=rung.lead_s,
        price_per_gpu_hour=rung.price_per_gpu_hour,
        one_off_price=rung.one_off_price,
        granularity=rung.granularity,
    )


def _nodes_are_whole(rung: SupplyRules, rules: Rules) -> bool:
    """Whether every replica on this kind of GPU fits into one node, and replicas pack into nodes exactly."""
    widths = sorted({rule.gpus for rule in rules.roles if rule.accelerator == rung.accelerator})
    packs = all(wide % slim == 0 for slim, wide in pairwise(widths))
    return rung.granularity > 1 and packs and all(width <= rung.granularity for width in widths)


def _offer(rung: SupplyRules, stock: Stock | None) -> Offer:
    gpus = stock.provisionable if stock is not None else None
    return Offer(
        key=f"{rung.tier}/{rung.accelerator}",
        accelerator=rung.accelerator,
        gpus=rung.granularity,
        price_per_hour=rung.price_per_gpu_hour * rung.granularity,
        lead_s=rung.lead_s,
        min_billing_s=rung.commitment_s,
        quota=None if gpus is None else gpus // rung.granularity,
        one_off_price=rung.one_off_price * rung.granularity,
    )


def _gangs(rung: SupplyRules, seen: Observation, rules: Rules) -> Iterator[Gang]:
    """The training that is seen by name. Its last sign of saved work is its checkpoint, else its start.

    What taking it costs beside the lost work stands as time in the queue: being taken at all, and lying apart.
    """
    near = _near(rung.accelerator, seen, rules)
    for gang in seen.supply.gangs if seen.supply is not None else ():
        if gang.accelerator != rung.accelerator or gang.gpus < 1:
            continue
        saved = gang.checkpoint_at if gang.checkpoint_at is not None else gang.started_at
        price = rung.price_per_gpu_hour
        once_s = rung.one_off_price / price * HOUR_S if price > 0 else 0.0
        yield Gang(
            key=gang.key,
            accelerator=gang.accelerator,
            gpus=gang.gpus,
            priority=gang.priority,
            lead_s=rung.lead_s,
            since_checkpoint_s=max(0.0, seen.at - saved) if saved is not None else 0.0,
            requeue_s=once_s + across_s(gang.domains, near),
            price_per_gpu_hour=price,
        )


def _near(accelerator: str, seen: Observation, rules: Rules) -> frozenset[tuple[str, ...]]:
    """Network domains to join with GPUs of this kind."""
    pools = [(rule.key.namespace, rule.key.pool) for rule in rules.roles if rule.accelerator == accelerator]
    domains = seen.supply.domains if seen.supply is not None else ()
    return paired_homes(pools, {one.domain: one.serving for one in domains if one.accelerator == accelerator})
