"""The one sentence: what is seen and what was asked for before, to what should be, and why.

    tick(seen, memory, rules) -> (decision, memory)

Pure: no clock, no socket, no chance. The same input gives the same decision, so a journal replays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoscaler.demand import RoleDemand, pool_demands
from autoscaler.guards import Standing, guarded
from autoscaler.memory import Memory, RoleMemory, saw
from autoscaler.model import Decision, PlanEvidence, Role, RoleDecision, RoleKey, Take, Tier
from optimizer.plan import plan
from optimizer.problem import Demand, Need, Problem, Source, Starting
from optimizer.problem import Rules as PlanRules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoscaler.model import Observation, RoleObservation, Stock
    from autoscaler.rules import RoleRules, Rules, SupplyRules
    from optimizer.plan import NeedPlan, Plan


Unheard = Mapping[tuple[str, str], Mapping[RoleKey, str]]
"""By pool: the roles that are not, or not wholly, heard, and why."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many replicas there are: arrived, existing, still counted on to arrive, and what was asked for so far.

    `asked`: whether anything was ever asked for; a wish of 0 is one.
    """

    ready: int | None
    replicas: int | None
    starting: int
    base: int
    asked: bool

    @property
    def arrived(self) -> int:
        """Ready replicas, as far as known: what exists when readiness is not reported."""
        return self.ready if self.ready is not None else (self.replicas or 0)


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what in it concerns each role. Searching it all for each of 1,000 roles took a second."""

    plan: Plan | None
    takes: Mapping[str, tuple[Take, ...]]
    binding: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, plan: Plan | None) -> Planned:
        """Sort the plan by role: takes by their need, constraints by the key they name (`capacity[key@lead=0]`)."""
        takes: dict[str, tuple[Take, ...]] = {}
        binding: dict[str, tuple[str, ...]] = {}
        for take in plan.taken if plan else ():
            takes[take.need] = (*takes.get(take.need, ()), Take(Tier(take.tier), take.units, take.lead_s))
        for name in plan.binding if plan else ():
            key = name.partition("[")[2].removesuffix("]").partition("@")[0]
            binding[key] = (*binding.get(key, ()), name)
        return cls(plan, takes, binding)

    def need(self, key: RoleKey) -> NeedPlan | None:
        """What the plan wants for a role; None when it was not planned for."""
        return self.plan.needs.get(str(key)) if self.plan is not None else None

    def target(self, key: RoleKey) -> int | None:
        """How many replicas the plan wants for a role."""
        need = self.need(key)
        return need.target if need is not None else None


def tick(seen: Observation, memory: Memory, rules: Rules) -> tuple[Decision, Memory]:
    """Decide for every role, and remember.

    Args:
        seen: one observation per configured role; a role missing from it is blind.
        memory: what the last tick returned; Memory() at the very first.
        rules: what is wanted.
    """
    memory = saw(memory, seen, rules)
    told = {role.key: role for role in seen.roles}
    blind = {rule.key: why_blind(told.get(rule.key), seen, memory.of(rule.key)) for rule in rules.roles}
    counts = {rule.key: count(told.get(rule.key), memory.of(rule.key), rules, seen.at) for rule in rules.roles}
    demands = _demands(memory, rules, seen.at, blind)
    made = Planned.of(_plan(demands, counts, seen, rules))
    blind_in = _by_pool(blind)
    partial_in = _by_pool({rule.key: _partial(told.get(rule.key)) for rule in rules.roles})
    decided = []
    remembered = dict(memory.roles)
    for rule in rules.roles:
        known = _judged(memory.of(rule.key), made.target(rule.key), rules, seen.at)
        standing = _standing(rule, counts[rule.key], (blind_in, partial_in), known, seen.at)
        one = _decide(rule, demands.get(rule.key), counts[rule.key], made, standing, rules)
        one = replace(one, sampled_at=told[rule.key].sampled_at if rule.key in told else None)
        decided.append(one)
        remembered[rule.key] = asked_for(known, one, seen.at)
    return Decision(seen.at, tuple(decided), _evidence(made.plan), seen.failure), Memory(remembered, seen.at)


def why_blind(told: RoleObservation | None, seen: Observation, known: RoleMemory) -> str | None:
    """Why a role cannot be judged, in words; None when it can.

    A role without any replica is not blind: there is nobody to report. No series is not the same as no load.
    """
    if seen.failure is not None or told is None:
        return seen.failure or "it was not asked about"
    empty = told.reporting == 0 and told.replicas == 0 and known.desired in {0, None}
    if empty:
        return None
    if told.rate_engines > 0:
        return _unmeasured(told)
    if told.reporting > 0:
        return "no rates yet: its engines have been sampled only once within the window"
    if told.stale > 0:
        return f"{told.stale} engines have only samples that are too old or not finite"
    return f"no engine reports, though {told.ready} replicas are up" if told.ready else "no series match its labels"


def _unmeasured(told: RoleObservation) -> str | None:
    """Which load nobody reports although engines do; None when all that the role's demand needs is there."""
    prompts = told.key.role is not Role.DECODE and told.computed_rate is None
    outputs = told.key.role is not Role.PREFILL and told.generation_rate is None
    missing = [name for absent, name in ((prompts, "prompt"), (outputs, "output")) if absent]
    return f"its engines report no {' nor '.join(missing)} tokens/s" if missing else None


def count(told: RoleObservation | None, known: RoleMemory, rules: Rules, at: float) -> Counts:
    """Arrived, starting and asked-for replicas. What was asked for too long ago is no longer counted on."""
    ready = told.ready if told else None
    replicas = told.replicas if told else None
    there = max(ready or 0, replicas or 0)
    base = known.desired if known.desired is not None else there
    waited = at - known.raised_at if known.raised_at is not None else math.inf
    if known.desired is None:
        starting = max(0, (replicas or 0) - (ready or 0))
    elif ready is None or waited > rules.start_deadline_s:
        starting = 0
    else:
        starting = max(0, known.desired - ready)
    if known.decided_at is None or at - known.decided_at > rules.window_s:
        # Just started, or away for a while: somebody may have scaled meanwhile, and a restart never scales down.
        base = max(base, there)
    return Counts(ready, replicas, starting, base, known.desired is not None)


def _demands(memory: Memory, rules: Rules, at: float, blind: Mapping[RoleKey, str | None]) -> dict[RoleKey, RoleDemand]:
    """Demand of every role that can be judged."""
    pools: dict[tuple[str, str], dict[Role, RoleRules]] = {}
    for rule in rules.roles:
        pools.setdefault((rule.key.namespace, rule.key.pool), {})[rule.key.role] = rule
    found = {}
    for roles in pools.values():
        able = {role: memory.of(rule.key) for role, rule in roles.items() if blind[rule.key] is None}
        for role, demand in pool_demands(able, roles, rules, at).items():
            found[roles[role].key] = demand
    return found


def _plan(
    demands: Mapping[RoleKey, RoleDemand], counts: Mapping[RoleKey, Counts], seen: Observation, rules: Rules
) -> Plan | None:
    """One plan for all judged roles; None when there is none to judge."""
    needs = tuple(
        _need(rule, demands[rule.key], counts[rule.key], rules) for rule in rules.roles if rule.key in demands
    )
    if not needs:
        return None
    held: dict[str, int] = {}
    for rule in rules.roles:
        standing = counts[rule.key]
        here = standing.arrived + standing.starting
        gpus = rule.gpus * (here if rule.key in demands else max(here, standing.base))
        held[rule.accelerator] = held.get(rule.accelerator, 0) + gpus
    stocks = {stock.accelerator: stock for stock in seen.stocks}
    sources = tuple(_source(rung, stocks.get(rung.accelerator), held.get(rung.accelerator, 0)) for rung in rules.supply)
    problem = Problem(
        needs,
        sources,
        PlanRules(budget_per_hour=rules.budget_per_hour, max_gpus_preempted=rules.max_gpus_preempted),
        rules.horizon_s,
    )
    return plan(problem, time_limit_s=rules.time_limit_s, gap=rules.gap)


def _need(rule: RoleRules, demand: RoleDemand, counts: Counts, rules: Rules) -> Need:
    """A role's demand in whole replicas (head-room included), one unit of capacity each."""
    price = min((r.price_per_gpu_hour for r in rules.supply if r.accelerator == rule.accelerator), default=1.0)
    leads = rules.leads(rule.accelerator)
    lands = leads[0] if leads else 0.0
    starting = (Starting(counts.starting, lands),) if counts.starting else ()
    return Need(
        key=str(rule.key),
        resource=rule.accelerator,
        demand=tuple(Demand(ahead, float(min(replicas, rule.maximum))) for ahead, replicas in demand.at),
        unit_capacity=1.0,
        gpus_per_unit=rule.gpus,
        current=counts.arrived,
        minimum=rule.minimum,
        maximum=rule.maximum,
        shortage_price=rule.shortage_price,
        starting=starting,
        price_per_gpu_hour=price,
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
        tier=rung.tier.value,
        resource=rung.accelerator,
        gpus=gpus,
        lead_s=rung.lead_s,
        price_per_gpu_hour=rung.price_per_gpu_hour,
        one_off_price=rung.one_off_price,
        granularity=rung.granularity,
        preempts=rung.tier is Tier.PREEMPT,
    )


def _judged(known: RoleMemory, planned: int | None, rules: Rules, at: float) -> RoleMemory:
    """Memory of whether it could be judged, and of the plans within the stabilisation window, this one included.

    A gap longer than the rates' window starts the watch anew: what happened in it is not known.
    """
    kept = tuple((when, count) for when, count in known.plans if at - rules.guards.stabilise_down_s <= when < at)
    if planned is None:
        return replace(known, plans=kept)
    broken = known.judged_at is None or at - known.judged_at > rules.window_s
    since = at if broken or known.judged_since is None else known.judged_since
    return replace(known, judged_since=since, judged_at=at, plans=(*kept, (at, planned)))


def _by_pool(reasons: Mapping[RoleKey, str | None]) -> Unheard:
    """The roles with a reason, by their pool; pools without any are left out."""
    found: dict[tuple[str, str], dict[RoleKey, str]] = {}
    for key, why in reasons.items():
        if why is not None:
            found.setdefault((key.namespace, key.pool), {})[key] = why
    return found


def _standing(
    rule: RoleRules, counts: Counts, unheard: tuple[Unheard, Unheard], known: RoleMemory, at: float
) -> Standing:
    """How the role stands; `unheard` holds the blind and the partly heard roles."""
    pool = (rule.key.namespace, rule.key.pool)
    blind, partial = (reasons.get(pool, {}) for reasons in unheard)
    return Standing(
        base=counts.base,
        minimum=rule.minimum,
        maximum=rule.maximum,
        blind=blind.get(rule.key),
        pool_blind=next((str(key) for key in blind if key != rule.key), None),
        partial=partial.get(rule.key),
        pool_partial=next((f"of {key} {why}" for key, why in partial.items() if key != rule.key), None),
        recent_plans=max((count for _, count in known.plans), default=None),
        watched_s=at - known.judged_since if known.judged_since is not None else 0.0,
    )


def _partial(told: RoleObservation | None) -> str | None:
    """Why only part of the role is heard; None when all of it is."""
    if told is None or told.reporting == 0:
        return None
    heard = told.reporting // max(told.engines_per_replica, 1)
    if told.ready is not None and heard < told.ready:
        return f"only {heard} of {told.ready} replicas report"
    if told.stale:
        return f"{told.stale} engines have only samples that are too old or not finite"
    if told.rate_engines < told.reporting:
        return f"only {told.rate_engines} of {told.reporting} engines have rates yet"
    return None


def _decide(
    rule: RoleRules, demand: RoleDemand | None, counts: Counts, made: Planned, standing: Standing, rules: Rules
) -> RoleDecision:
    need = made.need(rule.key)
    planned = need.target if need is not None else None
    desired, guards = guarded(planned, standing, rules.guards)
    known_at_all = counts.ready is not None or counts.replicas is not None or planned is not None or counts.asked
    shortage = max((lacking for ahead, lacking in need.shortage if ahead > 0), default=0.0) if need else 0.0
    starting = max(0, desired - counts.ready) if counts.ready is not None else None
    return RoleDecision(
        key=rule.key,
        desired=desired if known_at_all else None,
        planned=planned,
        ready=counts.ready,
        starting=starting,
        load=demand.load if demand else None,
        forecast=demand.forecast if demand else None,
        velocity=demand.velocity if demand else None,
        takes=made.takes.get(str(rule.key), ()),
        shortage=shortage,
        blind=standing.blind,
        guards=guards,
        reasons=tuple(_reasons(demand, made, rule.key, shortage)),
    )


def _reasons(demand: RoleDemand | None, made: Planned, key: RoleKey, shortage: float) -> Iterable[str]:
    if demand is None:
        return
    yield demand.words
    for take in made.takes.get(str(key), ()):
        yield f"{take.replicas} by {take.tier}, serving in {take.lead_s:.0f} s"
    if mine := made.binding.get(str(key)):
        yield "binding: " + ", ".join(mine)
    if shortage > 0:
        yield f"short of {shortage:.0f} replicas"


def _evidence(made: Plan | None) -> PlanEvidence | None:
    if made is None:
        return None
    other = made.alternative
    return PlanEvidence(
        status=made.status.value,
        cost=made.cost.total,
        next_best_cost=other.cost if other else None,
        next_best=f"without {other.without_tier}" if other else None,
        binding=made.binding,
        notes=made.reasons[:20],
    )


def asked_for(known: RoleMemory, decided: RoleDecision, at: float) -> RoleMemory:
    """Memory after asking: the wish, when it was made, and when it last grew."""
    if decided.desired is None:
        return known
    grew = known.desired is None or decided.desired > known.desired
    return replace(known, desired=decided.desired, decided_at=at, raised_at=at if grew else known.raised_at)
