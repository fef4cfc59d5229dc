"""Laws of deciding, for any load, any garbage and any past that hypothesis comes up with."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import STEP, T0, TARGET, at, decode, key, prefill, role_rules, rules, silent

from autoscaler.guards import GuardRules, Standing, clear_dead_band, guarded
from autoscaler.journal import Journal, plain_decision, read
from autoscaler.learning import Learned, Levels, Prior, estimate, learn
from autoscaler.loop import replayed
from autoscaler.memory import Memory
from autoscaler.model import Observation, Role, RoleObservation
from autoscaler.saved import from_saved, to_saved
from autoscaler.tick import tick
from autoscaler.velocity import (
    Engine,
    Mix,
    StepModel,
    Target,
    colocated_engines,
    decode_engines,
    decode_velocity,
    prefill_engines,
    waiting_tail,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from autoscaler.rules import Rules

few = settings(max_examples=40, deadline=None)
some = settings(max_examples=150, deadline=None)

rates = st.floats(0, 1e7) | st.sampled_from([0.0, 1e-9, 1.0, 1e12])
shares = st.floats(0, 1)
steps = st.builds(StepModel, st.floats(1e-4, 0.5), st.floats(1e-7, 1e-2), st.floats(1e-7, 1e-2), st.floats(1e-10, 1e-5))
engines = st.builds(Engine, steps, st.floats(1e3, 1e7), st.floats(1, 1024), st.floats(64, 65_536))
mixes = st.builds(Mix, st.floats(1, 1e5), st.floats(1, 1e4), st.floats(1, 1e5))
targets = st.builds(Target, st.floats(0.05, 30), st.floats(0.005, 2), st.floats(0.51, 0.999))


# More load never wants fewer replicas.


@some
@given(rates, shares, rates, shares, st.floats(1, 1e6), st.floats(1, 1e5), targets)
def test_prefill_size_rises_with_load(
    rate: float, less: float, backlog: float, less_backlog: float, velocity: float, prompt: float, target: Target
) -> None:
    full = prefill_engines(rate, backlog, velocity, prompt, target)
    assert prefill_engines(rate * less, backlog * less_backlog, velocity, prompt, target) <= full


@some
@given(rates, shares, rates, shares, st.floats(1, 1e5), st.floats(1, 1024), targets)
def test_decode_size_rises_with_load(
    rate: float, less: float, present: float, less_present: float, velocity: float, batch: float, target: Target
) -> None:
    full = decode_engines(rate, present, velocity, batch, target)
    assert decode_engines(rate * less, present * less_present, velocity, batch, target) <= full


@some
@given(st.tuples(rates, rates, rates, rates), st.tuples(shares, shares, shares, shares), engines, mixes, targets)
def test_colocated_size_rises_with_load(
    load: tuple[float, ...], less: tuple[float, ...], engine: Engine, mix: Mix, target: Target
) -> None:
    a, b, c, d = load
    w, x, y, z = (part * share for part, share in zip(load, less, strict=True))
    assert colocated_engines(w, x, y, z, engine, mix, target) <= colocated_engines(a, b, c, d, engine, mix, target)


@some
@given(engines, st.floats(1, 1e5), st.floats(1, 10), st.floats(0.005, 2))
def test_longer_contexts_never_decode_faster(engine: Engine, resident: float, more: float, itl: float) -> None:
    longer = decode_velocity(engine, resident * more, itl)[0]
    assert longer <= decode_velocity(engine, resident, itl)[0] * (1 + 1e-9)


@some
@given(st.integers(1, 1000), st.floats(0, 0.999), shares, st.floats(1e-3, 10), st.floats(0, 60), st.floats(0, 4))
def test_the_waiting_tail_is_a_probability_and_rises_with_load(
    servers: int, busy: float, less: float, service: float, delay: float, variability: float
) -> None:
    tail = waiting_tail(servers, busy, service, delay, variability)
    assert 0.0 <= waiting_tail(servers, busy * less, service, delay, variability) <= tail <= 1.0


@few
@given(st.floats(0, 60_000), shares, st.integers(1, 40), st.sampled_from([Role.PREFILL, Role.DECODE]))
def test_a_whole_tick_wants_no_fewer_replicas_for_more_load(rate: float, less: float, ready: int, role: Role) -> None:
    """The same calm past, then one tick at two loads; requests keep their shape."""
    given_rules = rules(role_rules(role))
    told = prefill if role is Role.PREFILL else decode
    memory = Memory()
    for when in (0.0, 15.0, 30.0):
        _, memory = tick(at(when, told(500.0, ready)), memory, given_rules)
    full = tick(at(45.0, told(rate, ready)), memory, given_rules)[0].roles[0]
    part = tick(at(45.0, told(rate * less, ready)), memory, given_rules)[0].roles[0]
    assert full.planned is not None
    assert part.planned is not None
    assert part.planned <= full.planned
    assert part.desired is not None
    assert full.desired is not None
    assert part.desired <= full.desired


# Guards.

guard_rules = st.builds(
    GuardRules, st.floats(0, 900), st.floats(0.1, 8), st.integers(1, 20), st.floats(0.05, 1), st.floats(0, 0.3)
)


@st.composite
def standings(draw: st.DrawFn) -> Standing:
    low = draw(st.integers(0, 50))
    reason = st.none() | st.just("a reason")
    return Standing(
        base=draw(st.integers(0, 120)),
        minimum=low,
        maximum=draw(st.integers(low, 100)),
        blind=draw(reason),
        pool_blind=draw(reason),
        partial=draw(reason),
        arriving=draw(st.integers(0, 20)),
        pool_heard=draw(st.just(1.0) | st.floats(0.01, 1)),
        recent_plans=draw(st.none() | st.integers(0, 150)),
        last_plans=draw(st.none() | st.integers(0, 150)),
        soon=draw(st.none() | st.integers(0, 150)),
        awaited=draw(st.booleans()),
        watched_s=draw(st.floats(0, 1000)),
    )


@some
@given(st.none() | st.integers(0, 200), standings(), guard_rules)
def test_bounds_always_hold_and_every_change_is_explained(
    plan: int | None, standing: Standing, given_rules: GuardRules
) -> None:
    wish, said = guarded(plan, standing, given_rules)
    assert standing.minimum <= wish <= standing.maximum
    assert wish == plan or said


@some
@given(st.integers(0, 200), standings(), guard_rules)
def test_whoever_cannot_see_enough_never_shrinks(plan: int, standing: Standing, given_rules: GuardRules) -> None:
    unsure = standing.blind or standing.pool_blind or standing.partial or standing.watched_s <= 0
    if unsure or standing.watched_s < given_rules.stabilise_down_s:
        assert guarded(plan, standing, given_rules)[0] >= min(standing.base, standing.maximum)


@some
@given(st.integers(0, 200), standings(), guard_rules)
def test_new_replicas_are_kept_beside_those_that_are_needed(
    plan: int, standing: Standing, given_rules: GuardRules
) -> None:
    floor = min(standing.base, plan + standing.arriving, standing.maximum)
    assert guarded(plan, standing, given_rules)[0] >= min(floor, standing.base)


@some
@given(st.integers(0, 200), st.integers(0, 200), standings(), guard_rules)
def test_a_larger_plan_never_gives_a_smaller_wish(
    one: int, other: int, standing: Standing, given_rules: GuardRules
) -> None:
    low, high = sorted((one, other))
    assert guarded(low, standing, given_rules)[0] <= guarded(high, standing, given_rules)[0]


@some
@given(st.integers(1, 2000), st.integers(0, 3000), st.floats(0.01, 0.5))
def test_the_hpa_never_swallows_a_cleared_wish(base: int, wish: int, tolerance: float) -> None:
    """The HPA's own rule: |wish / replicas - 1| <= tolerance leaves the replicas as they are."""
    cleared = clear_dead_band(base, wish, tolerance)
    assert cleared == base or abs(1.0 - cleared / base) > tolerance
    assert cleared >= wish or cleared == base
    if wish > base:
        assert cleared >= wish


# Garbage, silence and time.

garbage = st.none() | st.sampled_from([0.0, 1e-300, 1e-9, 0.5, 1.0, 30.0, 1e4, 1e12, 1e100, 1e308]) | st.floats(0, 1e6)
not_numbers = st.sampled_from([float("nan"), float("inf"), float("-inf"), -1.0])
SIGNALS = (
    "running", "waiting", "queued_at_gateway", "kv_usage", "kv_capacity", "computed_rate", "generation_rate",
    "first_token_rate", "completion_rate", "prefill_busy", "itl_busy", "itl_tokens", "ttft_busy", "step_rate",
)  # fmt: skip
POOLS = rules(
    role_rules(Role.PREFILL, prior=Prior(STEP, 30.0), maximum=30),
    role_rules(Role.DECODE, prior=Prior(STEP, 0.3), minimum=2, maximum=20),
    role_rules(Role.COLOCATED, "mixed", prior=Prior(STEP, 30.0), minimum=0, maximum=9),
)


@st.composite
def tellings(draw: st.DrawFn, role: Role, pool: str, values: st.SearchStrategy[float | None]) -> RoleObservation:
    """Anything a source might say, consistent or not."""
    reporting = draw(st.sampled_from([0, 1, 3]))
    signals: dict[str, Any] = {name: draw(values) for name in SIGNALS}
    return RoleObservation(
        key(role, pool),
        sampled_at=draw(st.none() | st.just(T0)),
        reporting=reporting,
        rate_engines=draw(st.sampled_from([0, reporting])),
        engines_per_replica=draw(st.sampled_from([1, 2])),
        ready=draw(st.none() | st.integers(0, 5)),
        replicas=draw(st.none() | st.integers(0, 5)),
        stale=draw(st.sampled_from([0, 2])),
        **signals,
    )


@st.composite
def histories(draw: st.DrawFn, values: st.SearchStrategy[float | None] = garbage, most: int = 5) -> list[Observation]:
    """Up to `most` ticks of it; time mostly goes forward."""
    now, found = 0.0, []
    for _ in range(draw(st.integers(1, most))):
        now += draw(st.sampled_from([15.0, 15.0, 15.0, 0.0, 61.0, 1000.0, -20.0]))
        roles = tuple(draw(tellings(rule.key.role, rule.key.pool, values)) for rule in POOLS.roles)
        failure = draw(st.sampled_from([None, None, None, "prometheus: refused"]))
        found.append(replace(at(now, *roles), failure=failure))
    return found


def lived(history: list[Observation], given_rules: Rules = POOLS) -> tuple[list[Any], Memory]:
    memory, decisions = Memory(), []
    for seen in history:
        decision, memory = tick(seen, memory, given_rules)
        decisions.append(decision)
    return decisions, memory


@few
@given(histories(garbage | not_numbers))
def test_no_garbage_stops_the_tick_breaks_a_bound_or_leaves_a_number_that_is_none(history: list[Observation]) -> None:
    decisions, memory = lived(history)
    for decision in decisions:
        json.dumps(plain_decision(decision), allow_nan=False)
        for role, rule in zip(decision.roles, POOLS.roles, strict=True):
            assert role.desired is None or rule.minimum <= role.desired <= rule.maximum
            assert role.sentence
    json.dumps(to_saved(memory), allow_nan=False)


@few
@given(histories(garbage | not_numbers), tellings(Role.DECODE, "chat", garbage | not_numbers))
def test_no_data_never_scales_down(history: list[Observation], last: RoleObservation) -> None:
    """Whatever was before: a source that fails, a silent role, or one without rates leaves every wish where it was."""
    _, memory = lived(history)
    now = history[-1].at - T0 + 15.0
    before = [memory.of(rule.key).desired for rule in POOLS.roles]
    silence = at(now, silent(Role.PREFILL), replace(last, rate_engines=0), silent(Role.COLOCATED, "mixed"))
    for seen in (silence, replace(silence, failure="refused"), at(now)):
        after = [role.desired for role in tick(seen, memory, POOLS)[0].roles]
        for old, new in zip(before, after, strict=True):
            assert old is None or (new is not None and new >= old), (before, after)


@few
@given(histories())
def test_a_blind_role_freezes_the_shrinking_of_its_pool(history: list[Observation]) -> None:
    decisions, _ = lived(history)
    wishes: dict[object, int] = {}
    for decision in decisions:
        blind = {(role.key.namespace, role.key.pool) for role in decision.roles if role.blind is not None}
        for role in decision.roles:
            if role.desired is not None:
                if (role.key.namespace, role.key.pool) in blind:
                    assert role.desired >= wishes.get(role.key, 0)
                wishes[role.key] = role.desired


@few
@given(histories())
def test_the_same_input_gives_the_same_decision_to_the_byte(history: list[Observation]) -> None:
    one, other = lived(history), lived(history)
    assert [json.dumps(plain_decision(each)) for each in one[0]] == [
        json.dumps(plain_decision(each)) for each in other[0]
    ]
    assert json.dumps(to_saved(one[1])) == json.dumps(to_saved(other[1]))


@few
@given(history=histories(garbage))
def test_a_journal_replays_to_the_same_decisions(
    tmp_path_factory: pytest.TempPathFactory, history: list[Observation]
) -> None:
    path: Path = tmp_path_factory.mktemp("law") / "journal.jsonl"
    journal = Journal(path, 10**9)
    decisions, _ = lived(history)
    for seen, decision in zip(history, decisions, strict=True):
        journal.write(seen, decision)
    assert [decision for _, decision in replayed((seen for seen, _ in read(path)), POOLS, Memory())] == decisions


@few
@given(histories(garbage | not_numbers), histories())
def test_a_restored_memory_goes_on_as_the_one_that_was_saved(
    history: list[Observation], later: list[Observation]
) -> None:
    _, memory = lived(history)
    plain = json.loads(json.dumps(to_saved(memory), allow_nan=False))
    restored = from_saved(plain)
    assert json.loads(json.dumps(to_saved(restored))) == plain
    # in the next bin of the history: how many samples a bin was the mean of is not saved
    seen = replace(later[0], at=max(each.at for each in history) + POOLS.bin_s)
    assert plain_decision(tick(seen, restored, POOLS)[0]) == plain_decision(tick(seen, memory, POOLS)[0])


@few
@given(histories(), st.integers(62, 10**6))
def test_a_restart_never_scales_down(history: list[Observation], away: int) -> None:
    """Neither without memory nor with one older than the rates' window: not below what exists or was asked for."""
    _, memory = lived(history)
    seen = replace(history[-1], at=max(each.at for each in history) + away, failure=None)
    for known in (Memory(), memory):
        for told, role, rule in zip(seen.roles, tick(seen, known, POOLS)[0].roles, POOLS.roles, strict=True):
            there = max(told.ready or 0, told.replicas or 0, known.of(rule.key).desired or 0)
            assert role.desired is None or role.desired >= min(there, rule.maximum)


@few
@given(st.floats(0, 20_000), st.integers(1, 20), st.integers(2, 20))
def test_never_asks_again_for_what_is_starting(rate: float, ready: int, ticks: int) -> None:
    """The same load seen for up to 5 min while nothing arrives: the wish only grows to the plan, and then stands."""
    single = rules(role_rules(Role.DECODE))
    decisions, _ = lived([at(15.0 * index, decode(rate, ready)) for index in range(ticks)], single)
    wishes = [decision.roles[0].desired for decision in decisions]
    assert wishes == sorted(wishes)  # rate limits let it grow in steps
    for before, after in itertools.pairwise(decisions):
        asked, known = before.roles[0], after.roles[0]
        assert known.planned is not None
        assert asked.desired is not None
        taken = sum(take.replicas for take in known.takes)
        assert taken == max(0, known.planned - max(asked.desired, ready))


# Learning.

windows = st.lists(tellings(Role.COLOCATED, "mixed", garbage), min_size=1, max_size=8)
levels = st.builds(Levels, st.none() | st.floats(1, 1e6), st.floats(0, 100), st.floats(0, 100))


@few
@given(windows, levels, st.sampled_from(list(Role)), st.floats(0.05, 30))
def test_learned_coefficients_are_above_zero_and_velocities_finite(
    seen: list[RoleObservation], level: Levels, role: Role, doubt: float
) -> None:
    prior, learned = Prior(STEP, doubt), Learned()
    for index, told in enumerate(seen):
        mine = replace(told, key=key(role))
        learned = learn(learned, prior, mine, at=T0 + 30.0 * index, levels=level, window_s=60.0)
    known = estimate(learned, prior)
    assert min(known.step.base, known.step.per_prompt_token) > 0
    assert min(known.step.per_running, known.step.per_resident_token) > 0
    engine = Engine(known.step, 1e5, 256, 2048)
    assert 0 < decode_velocity(engine, 500.0, TARGET.itl_s)[0] < float("inf")
    assert 0 <= known.prefill_sd(2048) < float("inf")


@few
@given(st.floats(0.1, 10), st.floats(0.3, 3))
def test_an_engine_faster_throughout_is_learned_as_that_much_faster(faster: float, prior_off: float) -> None:
    """Time itself scaled: every coefficient scales with it, whatever the (wide) prior said."""

    def known(scale: float) -> StepModel:
        prior, learned = Prior(StepModel(*(each * prior_off for each in Prior(STEP, 1.0).scale)), 300.0), Learned()
        for index in range(30):
            told = prefill(3000.0 / scale, step_rate=(2.0 + index % 3) / scale, prefill_busy=0.36)
            learned = learn(learned, prior, told, at=T0 + 600.0 * index, levels=Levels(), window_s=600.0)
        return estimate(learned, prior).step

    one, other = known(1.0), known(faster)
    velocities = [1.0 / (step.per_prompt_token + step.base / 2048) for step in (one, other)]
    assert abs(velocities[0] / (velocities[1] * faster) - 1.0) < 0.05


@few
@given(windows, levels)
def test_without_its_own_windows_learning_does_not_move(seen: list[RoleObservation], level: Levels) -> None:
    for told in seen:
        mute = replace(told, rate_engines=0)
        assert learn(Learned(), Prior(STEP, 1.0), mute, at=T0, levels=level, window_s=60.0) == Learned()
