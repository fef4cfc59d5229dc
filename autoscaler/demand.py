"""From what is remembered to what is needed: replicas per role now and at every tier's lead time, with the velocity."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoscaler.foresight import bounds
from autoscaler.foresight_days import OUTPUTS, PROMPTS, name_of
from autoscaler.learning import LEAST_WINDOWS, estimate
from autoscaler.memory import load_now
from autoscaler.model import Role, Velocity
from autoscaler.velocity import (
    Engine,
    Mix,
    StepModel,
    Target,
    colocated_engines,
    decode_engines,
    decode_velocity,
    prefill_engines,
    prefill_velocity,
    role_velocity,
)
from forecasting.damped import reached

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoscaler.learning import Estimate
    from autoscaler.memory import RoleMemory
    from autoscaler.model import Foreseen
    from autoscaler.rules import RoleRules, Rules
    from autoscaler.skew import Skew
    from forecasting.staggered import Crowd

MOST_DOUBT = 0.5
"""An unsure velocity is discounted by at most this: 1 / 1.5. Beyond it doubt would cost more GPUs than it is worth."""
DOUBT_WEIGHT = 0.3
"""Share of a standard deviation that an unsure velocity is discounted by. A whole one, on top of an upper quantile of
the load and the queue's head-room, cost 12 to 20 % more GPU-hours than the SLO asked for (Azure traces x10)."""
AT_THE_BOUND = 0.8
"""Share of requests that should meet the TTFT target while the load is at its upper bound, where it seldom is; the
whole target counts for the load of now. The queue's full tail on top of a load exceeded one time in twenty cost 4 to
5 % more GPU-hours (Azure conversation x4 98.3 % at 4.82, now 98.1 % at 4.64; code x5 91.5 % at 11.49, now 91.1 % at
10.97)."""
USUAL_MIX = Mix(prompt=1000.0, output=200.0, resident=1100.0)
"""Assumed before the first request: the Azure conversation trace's means (1,155 in, 211 out), rounded."""


@dataclass(frozen=True, slots=True)
class RoleDemand:
    """What one role needs.

    Attributes:
        load: tokens/s arriving now; None when nothing was ever reported.
        at: (seconds ahead, replicas needed then), ascending, beginning with now.
        forecast: tokens/s at the upper quantile at the last of these times.
        velocity: of one replica, tokens/s, with its uncertainty and basis.
        words: how the number came about.
        foreseen: the bound planned for at each tier's lead time.
        planned: one engine as it is planned with: as now known, slowed by what is not known for certain.
    """

    load: float | None
    at: tuple[tuple[float, int], ...]
    forecast: float | None
    velocity: Velocity
    words: str
    foreseen: tuple[Foreseen, ...]
    planned: Engine


def engine_now(known: RoleMemory, rule: RoleRules) -> tuple[Engine, Estimate]:
    """The engine by profile, with what was learned of its step model and its own KV capacity put in.

    Load that was never seen cannot show the engine to be faster than its profile: without it a wide prior would leave
    the coefficients of that load anywhere down to 0.
    """
    learned = estimate(known.learned, rule.prior)
    step, profile = learned.step, rule.prior.step
    if learned.prefill_windows < LEAST_WINDOWS:
        step = replace(step, per_prompt_token=max(step.per_prompt_token, profile.per_prompt_token))
    if learned.decode_windows < LEAST_WINDOWS:
        step = replace(
            step,
            per_running=max(step.per_running, profile.per_running),
            per_resident_token=max(step.per_resident_token, profile.per_resident_token),
        )
    engine = rule.engine.with_step(_weighed(step, learned, known, rule))
    if known.kv_capacity is not None:
        engine = replace(engine, kv_capacity=known.kv_capacity)
    return engine, learned


def _weighed(step: StepModel, learned: Estimate, known: RoleMemory, rule: RoleRules) -> StepModel:
    """What was learned, drawn to the profile where that is the more certain of the two: profile x (learned/profile)^w.

    w = prior variance / (prior variance + learned variance), the weights of two independent guesses. Bursts too short
    for a window to be steady in taught an engine equal to its profile as 27 to 37 % slower, with a standard deviation
    of 0.4 where the profile's is 0.35: a fifth of all GPU-hours of the Azure code trace x10.
    """
    profile, prior = rule.prior.step, rule.prior.relative_sd
    resident = known.shape.filled(USUAL_MIX).resident
    _, _, batch = decode_velocity(rule.engine.with_step(step), resident, rule.target.itl_s)
    prefill, decode = learned.prefill_sd(rule.engine.batched_tokens), learned.decode_sd(batch, resident)

    def drawn(value: float, usual: float, sd: float) -> float:
        weight = prior**2 / (prior**2 + sd**2)
        return usual * math.pow(value / usual, weight) if usual > 0 and value > 0 and weight > 0 else value

    return StepModel(
        drawn(step.base, profile.base, decode),
        drawn(step.per_prompt_token, profile.per_prompt_token, prefill),
        drawn(step.per_running, profile.per_running, decode),
        drawn(step.per_resident_token, profile.per_resident_token, decode),
    )


def velocity_now(known: RoleMemory, rule: RoleRules, engine: Engine, learned: Estimate) -> Velocity:
    """One engine's velocity at the requests' present shape, with standard deviation and where it comes from."""
    role, mix = rule.key.role, known.shape.filled(USUAL_MIX)
    shown = role_velocity(role, engine, mix, rule.target.itl_s)
    prefill_sd = learned.prefill_sd(engine.batched_tokens)
    if role is Role.PREFILL:
        sd = prefill_sd if shown.binds == "compute" else 0.0
    else:
        sd = learned.decode_sd(shown.batch or 1.0, mix.resident)
        sd = max(sd, prefill_sd) if role is Role.COLOCATED else sd
    is_learned, why = learned.says(role, sd)
    return replace(shown, relative_sd=sd, basis=why if is_learned else f"profile {rule.profile}, {why}")


def _discounted(engine: Engine, sd: float) -> Engine:
    """The engine slowed by its uncertainty: planning with DOUBT_WEIGHT standard deviations less than the best guess."""
    slower = 1.0 + min(DOUBT_WEIGHT * sd, MOST_DOUBT)
    step = engine.step
    per_prompt_token, per_running = step.per_prompt_token * slower, step.per_running * slower
    return engine.with_step(StepModel(step.base, per_prompt_token, per_running, step.per_resident_token * slower))


@dataclass(frozen=True, slots=True)
class _Load:
    """A role's load at one time ahead: prompt tokens/s and output tokens/s."""

    prompt: float
    output: float


def role_demand(
    known: RoleMemory,
    feeding: RoleMemory | None,
    rule: RoleRules,
    rules: Rules,
    at: float,
    days: Crowd | None = None,
) -> RoleDemand:
    """What a role needs now and at each lead time of its accelerator's tiers.

    Args:
        known: its own memory.
        feeding: the prefill role's memory when this is the decode role of a disaggregated pool: its first tokens lead
            the decode load by a prefill and a transfer.
        rule: its rules.
        rules: all rules.
        at: now, Unix seconds.
        days: what is known of the loads over days.
    """
    engine, learned = engine_now(known, rule)
    velocity = velocity_now(known, rule, engine, learned)
    planned = _discounted(engine, velocity.relative_sd)
    leads = [lead for lead in rules.leads(rule) if lead > 0]
    loads, foreseen = _loads(known, feeding, rule, rules, at, days)
    waiting, in_service = _backlog(known)
    target = rule.target
    lax = Target(target.ttft_s, target.itl_s, min(target.attainment, AT_THE_BOUND))
    mix = known.shape.filled(USUAL_MIX)
    role, needs = rule.key.role, []
    at_once = _engines(role, target, planned, mix, loads[0], waiting, in_service)
    for ahead, load in zip([0.0, *leads], loads, strict=True):
        still = _still_waiting(waiting, ahead, rule)
        there = in_service - waiting + still
        engines = at_once if still == waiting else _engines(role, target, planned, mix, loads[0], still, there)
        if ahead > 0:
            engines = max(engines, _engines(role, lax, planned, mix, load, still, there))
        needs.append((ahead, math.ceil(known.skew.engines(engines) / known.engines_per_replica)))
    prompts = rule.key.role is Role.PREFILL
    series = known.prompt_load if prompts else known.output_load
    now = load_now(series)
    far = loads[-1].prompt if prompts else loads[-1].output
    shown = replace(velocity, tokens=velocity.tokens * known.engines_per_replica)
    words = _words(foreseen, shown, far, waiting) + _uneven(known.skew, needs[-1][1] * known.engines_per_replica)
    return RoleDemand(now, tuple(needs), far if now is not None else None, shown, words, foreseen, planned)


def needed_soon(known: RoleMemory, rule: RoleRules, rules: Rules, planned: Engine) -> int | None:
    """Replicas that the load may need once within the stabilisation; None while too little of it is known.

    `planned`: see `RoleDemand`.
    """
    over, quantile = rules.guards.stabilise_down_s, rules.guards.hold_quantile
    prompt = output = 0.0
    for series, used in ((known.prompt_load, Role.DECODE), (known.output_load, Role.PREFILL)):
        if rule.key.role is used:
            continue
        top = reached(series, over, quantile)
        if top is None:
            return None
        prompt, output = (top, output) if series is known.prompt_load else (prompt, top)
    mix = known.shape.filled(USUAL_MIX)
    engines = _engines(rule.key.role, rule.target, planned, mix, _Load(prompt, output), 0.0, 0.0)
    replicas = math.ceil(known.skew.engines(engines) / known.engines_per_replica)
    return min(max(replicas, rule.minimum), rule.maximum)


def _words(foreseen: Sequence[Foreseen], velocity: Velocity, far: float, waiting: float) -> str:
    last = foreseen[-1] if foreseen else None
    ahead = f"at the {last.quantile:.0%} quantile {last.lead_s:.0f} s ahead" if last is not None else "now"
    queue = f", {waiting:.0f} waiting" if waiting >= 1 else ""
    return (
        f"{far:,.0f} tokens/s {ahead}{queue}; "
        f"{velocity.tokens:,.0f} tokens/s a replica, bound by {velocity.binds} ({velocity.basis})"
    )


def _uneven(skew: Skew, engines: int) -> str:
    """What is lost to the number of engines, where it is known to be anything."""
    share = skew.serving(engines)
    return f"; {engines} of them serve {share:.0%} of that each, as learned under queues" if share < 1.0 else ""


def _backlog(known: RoleMemory) -> tuple[float, float]:
    """Requests waiting now, and those running or waiting."""
    if not known.gauges:
        return 0.0, 0.0
    last = known.gauges[-1]
    return last.waiting, last.waiting + last.running


def _still_waiting(waiting: float, ahead: float, rule: RoleRules) -> float:
    """The backlog as replicas that serve in `ahead` seconds must see it: requests to drain within the TTFT target.

    What waits now has missed its target long before they serve; it is theirs only to clear away, over as long as they
    took to come. Asking for the target's fraction of a second instead wanted 35 to 650 replicas after a burst, which
    then came when the queue was gone.
    """
    return waiting * min(1.0, rule.target.ttft_s / ahead) if ahead > 0 else waiting


def _loads(
    known: RoleMemory, feeding: RoleMemory | None, rule: RoleRules, rules: Rules, at: float, days: Crowd | None
) -> tuple[list[_Load], tuple[Foreseen, ...]]:
    """Loads now and at each lead, and what was foreseen of the role's own kind of tokens, soonest first.

    The present load is the last seen, not a quantile: the reactive hand.
    """
    told = {kind: days.outlook(name_of(rule.key, kind)) if days else None for kind in (PROMPTS, OUTPUTS)}
    prompts, prompt_ahead = bounds(known.prompt_load, known.kept, rule, rules, at, told[PROMPTS])
    outputs, output_ahead = bounds(known.output_load, known.kept, rule, rules, at, told[OUTPUTS])
    prompt = [load_now(known.prompt_load) or 0.0, *prompt_ahead]
    output = [load_now(known.output_load) or 0.0, *output_ahead]
    fed = _fed(known, feeding, rule, rules, at, days) if feeding is not None else None
    by_time, by_tier = fed or ([0.0] * len(output), [0.0] * len(outputs))
    foreseen = prompts
    if rule.key.role is not Role.PREFILL:
        pairs = zip(outputs, by_tier, strict=True)
        foreseen = tuple(one if one.bound >= least else replace(one, bound=least) for one, least in pairs)
    return [_Load(p, max(o, least)) for p, o, least in zip(prompt, output, by_time, strict=True)], foreseen


def _fed(
    known: RoleMemory, feeding: RoleMemory, rule: RoleRules, rules: Rules, at: float, days: Crowd | None
) -> tuple[list[float], list[float]] | None:
    """Output tokens/s that the prefill role's arrivals will ask of decode: now and by lead time, and by tier.

    None where that cannot be told.
    """
    output, prompt = known.shape.output, feeding.shape.prompt
    if output is None or not prompt:
        return None
    each = output / prompt
    told = days.outlook(name_of(replace(rule.key, role=Role.PREFILL), PROMPTS)) if days else None
    foreseen, ahead = bounds(feeding.prompt_load, feeding.kept, rule, rules, at, told)
    by_time = [(load_now(feeding.prompt_load) or 0.0) * each, *(bound * each for bound in ahead)]
    return by_time, [one.bound * each for one in foreseen]


def _engines(
    role: Role, target: Target, engine: Engine, mix: Mix, load: _Load, waiting: float, in_service: float
) -> int:
    if role is Role.PREFILL:
        velocity, _ = prefill_velocity(engine)
        return prefill_engines(load.prompt, waiting * mix.prompt, velocity, mix.prompt, target)
    if role is Role.DECODE:
        velocity, _, batch = decode_velocity(engine, mix.resident, target.itl_s)
        return decode_engines(load.output, in_service, velocity, batch, target)
    return colocated_engines(load.prompt, load.output, waiting * mix.prompt, in_service, engine, mix, target)


def pool_demands(
    memories: Mapping[Role, RoleMemory],
    rules_of: Mapping[Role, RoleRules],
    rules: Rules,
    at: float,
    days: Crowd | None = None,
) -> dict[Role, RoleDemand]:
    """Demands of all roles of one pool; decode learns of its load from prefill first."""
    feeding = memories.get(Role.PREFILL)
    return {
        role: role_demand(known, feeding if role is Role.DECODE else None, rules_of[role], rules, at, days)
        for role, known in memories.items()
    }
