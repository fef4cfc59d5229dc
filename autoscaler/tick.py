"""The one sentence: what is seen and what was asked for before, to what should be, and why.

    tick(seen, memory, rules) -> (decision, memory)

Pure: no clock, no socket, no chance. The same input gives the same decision, so a journal replays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.demand import RoleDemand, needed_soon, pool_demands
from autoscaler.foresight import promised, said
from autoscaler.guards import Standing, guarded
from autoscaler.hearing import unheard_of, why_blind
from autoscaler.leadtimes import with_learned_leads
from autoscaler.memory import Memory, RoleMemory, saw
from autoscaler.model import Decision, PlanEvidence, Role, RoleDecision, RoleKey, Take, Tier
from autoscaler.scarcity import with_scarce_stock
from autoscaler.sleepers import with_sleepers
from autoscaler.supply_plan import awaited, supply_plan
from optimizer import Do

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from autoscaler.hearing import Unheard
    from autoscaler.model import Observation, RoleObservation
    from autoscaler.on_the_way import OnTheWay
    from autoscaler.rules import RoleRules, Rules
    from autoscaler.supply_plan import Supplied
    from optimizer import Plan, PoolPlan


@dataclass(frozen=True, slots=True)
class Counts:
    """How many replicas there are: arrived, existing, still counted on to arrive, and what was asked for so far.

    `asked`: whether anything was ever asked for; a wish of 0 is one. `waking`: those of `starting` that only wake up;
    `asleep`: sleepers that nobody has asked for.
    """

    ready: int | None
    replicas: int | None
    starting: int
    base: int
    asked: bool
    asleep: int = 0
    waking: int = 0

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
    coming: Mapping[RoleKey, OnTheWay]
    stranded: Mapping[RoleKey, int]

    @classmethod
    def of(cls, made: Supplied | None) -> Planned:
        """Sort the plan by role: takes by their need, constraints by the key they name (`capacity[key@lead=0]`)."""
        plan = made.plan if made is not None else None
        takes: dict[str, tuple[Take, ...]] = {}
        binding: dict[str, tuple[str, ...]] = {}
        whole = {one.on for one in plan.actions if one.do in {Do.PREEMPT, Do.PROVISION}} if plan else set()
        for one in plan.actions if plan else ():
            if one.now and one.pool and one.tier is not None:
                # what a gang or a node gives is ordered now, though its replicas start only when that is there
                ordered_s = 0.0 if one.on in whole else one.at_s
                take = Take(Tier(one.tier.value), one.replicas, one.lands_s - ordered_s)
                takes[one.pool] = (*takes.get(one.pool, ()), take)
        for name in plan.binding if plan else ():
            key = name.partition("[")[2].removesuffix("]").partition("@")[0]
            binding[key] = (*binding.get(key, ()), name)
        return cls(plan, takes, binding, *((made.coming, made.stranded) if made is not None else ({}, {})))

    def need(self, key: RoleKey) -> PoolPlan | None:
        """What the plan wants for a role; None when it was not planned for."""
        return self.plan.pools.get(str(key)) if self.plan is not None else None

    def target(self, key: RoleKey) -> int | None:
        """How many replicas the plan wants for a role; what takes the place of another is not wanted beside it."""
        need = self.need(key)
        return need.roles[""].at_once + self.stranded.get(key, 0) if need is not None else None


class Stage(StrEnum):
    """The parts of a tick, by which a caller with a clock tells where its time went."""

    OBSERVE = "observe"
    LEARN = "learn"
    FORECAST = "forecast"
    PLAN = "plan"
    GUARD = "guard"


def _unwatched(_ended: Stage) -> None:
    """Nobody measures."""


def tick(
    seen: Observation, memory: Memory, rules: Rules, ended: Callable[[Stage], None] = _unwatched
) -> tuple[Decision, Memory]:
    """Decide for every role, and remember.

    Args:
        seen: one observation per configured role; a role missing from it is blind.
        memory: what the last tick returned; Memory() at the very first.
        rules: what is wanted.
        ended: told the end of each stage, in order; observing has ended when this is called.
    """
    ended(Stage.OBSERVE)
    memory = saw(memory, seen, rules)
    rules = with_scarce_stock(with_learned_leads(with_sleepers(rules, seen), memory), seen, memory)
    told = {role.key: role for role in seen.roles}
    blind = {rule.key: why_blind(told.get(rule.key), seen, memory.of(rule.key)) for rule in rules.roles}
    counts = {rule.key: count(told.get(rule.key), memory.of(rule.key), rules, seen.at) for rule in rules.roles}
    ended(Stage.LEARN)
    demands = _demands(memory, rules, seen.at, blind)
    ended(Stage.FORECAST)
    made = Planned.of(supply_plan(demands, counts, seen, rules))
    ended(Stage.PLAN)
    unheard = unheard_of(rules, told, memory, blind)
    freed = _awaited(seen, rules, counts, memory, made)
    decided = []
    remembered = dict(memory.roles)
    for rule in rules.roles:
        known = _judged(memory.of(rule.key), made.target(rule.key), rules, seen.at)
        standing = _standing(rule, counts, unheard, known, seen.at)
        demand = demands.get(rule.key)
        if demand is not None:
            standing = _watching(standing, demand, made, known, rule, rules, seen.at, awaited=rule.accelerator in freed)
        sampled_at = told[rule.key].sampled_at if rule.key in told else None
        one = _decide(rule, demand, counts[rule.key], made, standing, rules, sampled_at)
        decided.append(one)
        remembered[rule.key] = asked_for(known, one, seen.at, rules)
    ended(Stage.GUARD)
    return Decision(seen.at, tuple(decided), _evidence(made.plan), seen.failure), replace(memory, roles=remembered)


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
    # Of what was asked for and has no pod yet, the sleepers come first: hands wake before they start anything.
    sleeping = (told.asleep or 0) if told else 0
    called = min(sleeping, max(0, starting - max(0, (replicas or 0) - (ready or 0))))
    waking = min(starting, ((told.waking or 0) if told else 0) + called)
    return Counts(ready, replicas, starting, base, known.desired is not None, sleeping - called, waking)


def _demands(memory: Memory, rules: Rules, at: float, blind: Mapping[RoleKey, str | None]) -> dict[RoleKey, RoleDemand]:
    """Demand of every role that can be judged."""
    pools: dict[tuple[str, str], dict[Role, RoleRules]] = {}
    for rule in rules.roles:
        pools.setdefault((rule.key.namespace, rule.key.pool), {})[rule.key.role] = rule
    found = {}
    for roles in pools.values():
        able = {role: memory.of(rule.key) for role, rule in roles.items() if blind[rule.key] is None}
        for role, demand in pool_demands(able, roles, rules, at, memory.days).items():
            found[roles[role].key] = demand
    return found


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


def _awaited(
    seen: Observation, rules: Rules, counts: Mapping[RoleKey, Counts], memory: Memory, made: Planned
) -> frozenset[str]:
    """Accelerators of which training waits for GPUs that it gets if every role falls to its plans of `hold_s`."""
    if seen.supply is None or not seen.supply.lent:
        return frozenset()
    since = seen.at - rules.guards.hold_s
    least = {}
    for rule in rules.roles:
        planned, base = made.target(rule.key), counts[rule.key].base
        lately = (number for when, number in memory.of(rule.key).plans if when >= since)
        least[rule.key] = base if planned is None else min(base, max((planned, rule.minimum, *lately)))
    return awaited(seen, rules, counts, least)


def _standing(
    rule: RoleRules, counts: Mapping[RoleKey, Counts], unheard: Unheard, known: RoleMemory, at: float
) -> Standing:
    """How the role stands."""
    pool = (rule.key.namespace, rule.key.pool)
    blind, partial = unheard.blind.get(pool, {}), unheard.partial.get(pool, {})
    others = (replace(rule.key, role=role) for role in Role if role is not rule.key.role) if unheard.arriving else ()
    return Standing(
        base=counts[rule.key].base,
        minimum=rule.minimum,
        maximum=rule.maximum,
        blind=blind.get(rule.key),
        pool_blind=next((str(key) for key in blind if key != rule.key), None),
        partial=partial.get(rule.key),
        pool_partial=next((f"of {key} {why}" for key, why in partial.items() if key != rule.key), None),
        arriving=unheard.arriving.get(rule.key, 0),
        pool_heard=min((unheard.share_heard(key, counts[key].ready) for key in others if key in counts), default=1.0),
        recent_plans=max((count for _, count in known.plans), default=None),
        watched_s=at - known.judged_since if known.judged_since is not None else 0.0,
    )


def _watching(
    standing: Standing,
    demand: RoleDemand,
    made: Planned,
    known: RoleMemory,
    rule: RoleRules,
    rules: Rules,
    at: float,
    *,
    awaited: bool,
) -> Standing:
    """With what a shrinkage must leave: asked only where one is planned, for it costs as much as a forecast."""
    planned = made.target(rule.key)
    if planned is None or planned >= standing.base or rules.guards.hold_s >= rules.guards.stabilise_down_s:
        return standing
    lately = max((count for when, count in known.plans if when >= at - rules.guards.hold_s), default=None)
    soon = None if awaited else needed_soon(known, rule, rules, demand.planned)
    return replace(standing, last_plans=lately, soon=soon, awaited=awaited)


def _decide(
    rule: RoleRules,
    demand: RoleDemand | None,
    counts: Counts,
    made: Planned,
    standing: Standing,
    rules: Rules,
    sampled_at: float | None,
) -> RoleDecision:
    need = made.need(rule.key)
    planned = made.target(rule.key)
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
        sampled_at=sampled_at,
        foreseen=demand.foreseen if demand else (),
    )


def _reasons(demand: RoleDemand | None, made: Planned, key: RoleKey, shortage: float) -> Iterable[str]:
    if demand is None:
        return
    yield demand.words
    for take in made.takes.get(str(key), ()):
        yield f"{take.replicas} by {take.tier}, serving in {take.lead_s:.0f} s"
    if mine := made.binding.get(str(key)):
        yield "binding: " + ", ".join(mine)
    yield from said(demand.foreseen)
    if key in made.coming:
        yield from made.coming[key].waits
    if stranded := made.stranded.get(key):
        yield f"{stranded} asked for before wait for GPUs that are neither there nor ordered"
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
        gap=made.gap if made.gap is None else round(made.gap, 6),
    )


def asked_for(known: RoleMemory, decided: RoleDecision, at: float, rules: Rules) -> RoleMemory:
    """Memory after asking: bounds to be judged; the wish, when it was made, and when it last grew."""
    kept = promised(known.kept, decided.foreseen, at, rules.bin_s)
    if decided.desired is None:
        return replace(known, kept=kept)
    grew = known.desired is None or decided.desired > known.desired
    raised_at = at if grew else known.raised_at
    return replace(known, kept=kept, desired=decided.desired, decided_at=at, raised_at=raised_at)
