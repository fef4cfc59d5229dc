"""Velocities learned online from an engine whose step model is known, and what is not to be believed.

The ground truth is the simulator's engine (a linear step model run token by token), its counters turned into the rates
a scrape would give: a = 8 ms, p = 80 us, c = 60 us, d = 0.15 us; 2,048 tokens an iteration. Prefill: 1 / (80e-6 +
8e-3 / 2048) = 11,918 tokens/s. Decode at 32 requests of 700 tokens: 8 + 1.92 + 3.36 = 13.28 ms, 2,410 tokens/s.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from scripted import T0, decode, prefill

from autoscaler.learning import Learned, Levels, Prior, estimate, learn
from autoscaler.memory import Gauges, RoleMemory
from autoscaler.model import Role, RoleKey, RoleObservation
from autoscaler.simulator.engine import Engine
from autoscaler.simulator.engine_types import EngineProfile, EngineRequest, EngineRole
from autoscaler.velocity import StepModel

if TYPE_CHECKING:
    from collections.abc import Sequence

TRUTH = StepModel(8e-3, 80e-6, 60e-6, 0.15e-6)
PROFILE = EngineProfile(8e-3, 80e-6, 60e-6, 0.15e-6, 400_000, 256, 2048)
ROLES = {
    EngineRole.PREFILL: Role.PREFILL,
    EngineRole.DECODE: Role.DECODE,
    EngineRole.COLOCATED: Role.COLOCATED,
}
WINDOW_S, LOOK_S = 30.0, 5.0
GUESS = Prior(StepModel(0.02, 1e-4, 1e-4, 2e-7), 30.0)
"""The `unknown` profile: 2.5 times too slow a step, and next to no weight."""


def counted(engine: Engine) -> dict[str, float]:
    """What a scrape reads, cumulative."""
    counters = engine.counters
    return {
        "computed_rate": float(counters.prompt_computed_tokens),
        "generation_rate": float(counters.generation_tokens),
        "first_token_rate": float(counters.ttft.count),
        "completion_rate": float(counters.finished),
        "prefill_busy": counters.prefill_time.total,
        "itl_busy": counters.itl.total,
        "itl_tokens": float(counters.itl.count),
        "step_rate": float(counters.iteration_tokens.count),
    }


class Phase(NamedTuple):
    """Two minutes of Poisson arrivals: requests/s, and mean tokens, from half of which to half as many again come."""

    rate: float
    prompt: int
    output: int


def phases(rates: Sequence[float], prompt: int, output: int) -> list[Phase]:
    return [Phase(rate, prompt, output) for rate in rates]


def lived(role: EngineRole, load: Sequence[Phase], seed: int = 1) -> Learned:
    """What is learned of an engine with this load, looking every 5 s at windows of 30 s."""
    chance = random.Random(seed)  # noqa: S311 - a reproducible load, not a secret
    engine, prior, learned = Engine(PROFILE, role), GUESS, Learned()
    known, history, number, upcoming = RoleMemory(), [counted(engine)], 0, 0.0
    for look in range(1, round(120 * len(load) / LOOK_S) + 1):
        now = look * LOOK_S
        rate, prompt, output = load[math.ceil(now / 120) - 1]
        upcoming = max(upcoming, now - LOOK_S)
        while (upcoming := upcoming + chance.expovariate(rate)) < now:
            number += 1
            prompt_tokens = round(prompt * chance.uniform(0.5, 1.5))
            engine.submit(EngineRequest(number, prompt_tokens, round(output * chance.uniform(0.5, 1.5))), upcoming)
        for event in engine.advance(now):
            if role is EngineRole.PREFILL and event.kind == "finished":
                engine.release(event.request_id)
        history.append(counted(engine))
        gauges = engine.gauges()
        held = gauges.kv_usage * PROFILE.kv_capacity_tokens
        recent = (*known.gauges, Gauges(now, gauges.running, gauges.waiting, held))
        known = replace(known, gauges=tuple(g for g in recent if g.at > now - WINDOW_S))
        before = history[max(0, look - round(WINDOW_S / LOOK_S))]
        spent = min(WINDOW_S, now)
        rates: dict[str, Any] = {name: (value - before[name]) / spent for name, value in history[-1].items()}
        seen = RoleObservation(RoleKey("sim", "truth", ROLES[role]), reporting=1, rate_engines=1, **rates)
        learned = learn(learned, prior, seen, at=T0 + now, levels=known.levels, window_s=WINDOW_S)
    return learned


def prefill_velocity(step: StepModel) -> float:
    return 1.0 / (step.per_prompt_token + step.base / 2048)


def decode_velocity(step: StepModel, batch: float, resident: float) -> float:
    return batch / (step.base + batch * (step.per_running + step.per_resident_token * resident))


@pytest.mark.parametrize("rates", [(2.0, 5.0, 8.0, 10.0, 9.0), (10.0, 10.0, 10.0), (12.5, 12.5), (2.0, 12.5, 8.0)])
def test_a_prefill_engine_under_load_is_learned_within_15_percent(rates: tuple[float, ...]) -> None:
    """2 to 10 prompts/s of 1,000 tokens are 17 to 84 % of its velocity; 12.5 are more than it can do."""
    known = estimate(lived(EngineRole.PREFILL, phases(rates, 1000, 1)), GUESS)
    assert prefill_velocity(known.step) == pytest.approx(prefill_velocity(TRUTH), rel=0.15)
    learned, why = known.says(Role.PREFILL, known.prefill_sd(2048))
    assert learned, why


def test_a_prefill_engine_nearly_without_load_says_so() -> None:
    """Two prompts a minute are fewer than the 3 that a window of half a minute needs, but for a chance cluster."""
    known = estimate(lived(EngineRole.PREFILL, phases((1 / 30, 1 / 30), 1000, 1)), GUESS)
    learned, why = known.says(Role.PREFILL, known.prefill_sd(2048))
    assert not learned
    assert why.startswith("not enough load to learn from")


def test_a_decode_engine_under_load_is_learned_within_10_percent() -> None:
    known = estimate(lived(EngineRole.DECODE, phases((2.0, 5.0, 8.0, 11.0, 3.0), 600, 200)), GUESS)
    for batch in (8.0, 16.0, 32.0):
        learned, truth = decode_velocity(known.step, batch, 700.0), decode_velocity(TRUTH, batch, 700.0)
        assert learned == pytest.approx(truth, rel=0.10), batch
    assert known.says(Role.DECODE, known.decode_sd(32.0, 700.0))[0]


def test_a_decode_engine_at_low_load_does_not_pretend_to_know_its_full_batch() -> None:
    """Less than one request at a time shows the fixed cost and nothing of a batch of 256."""
    known = estimate(lived(EngineRole.DECODE, phases((0.2, 0.3), 600, 200)), GUESS)
    learned, why = known.says(Role.DECODE, known.decode_sd(256.0, 700.0))
    assert not learned
    assert "not certain enough" in why or "not enough load" in why
    assert known.step.base == pytest.approx(TRUTH.base, rel=0.15)


def test_a_colocated_engine_learns_both_when_the_mix_varies() -> None:
    """Chat, long prompts, short prompts with long answers. (Very short answers to long prompts, 20 tokens to 1,500,
    leave it 20 % too low: what decodes then crowds into the iterations that end a prompt.)"""
    load = [Phase(5, 1000, 100), Phase(3, 2000, 150), Phase(5, 200, 400), Phase(7, 1000, 100), Phase(8, 200, 200)]
    known = estimate(lived(EngineRole.COLOCATED, [*load, *load]), GUESS)
    assert prefill_velocity(known.step) == pytest.approx(prefill_velocity(TRUTH), rel=0.15)
    assert decode_velocity(known.step, 16.0, 1050.0) == pytest.approx(decode_velocity(TRUTH, 16.0, 1050.0), rel=0.15)


def test_one_mix_alone_cannot_tell_prefill_from_decode_and_says_so() -> None:
    """With ten prompt tokens to every output token throughout, the same time fits any split between the two."""
    known = estimate(lived(EngineRole.COLOCATED, phases((5.0, 7.0, 7.0), 1000, 100)), GUESS)
    learned, why = known.says(Role.COLOCATED, known.prefill_sd(2048))
    assert not learned
    assert "not certain enough" in why


def test_a_colocated_engine_at_low_load_says_so() -> None:
    known = estimate(lived(EngineRole.COLOCATED, phases((0.3, 0.3), 1000, 100)), GUESS)
    learned, why = known.says(Role.COLOCATED, known.prefill_sd(2048))
    assert not learned
    assert "not enough load to learn from" in why


LEVELS = Levels(kv_tokens=20_000.0, in_flight=20.0, waiting=0.0)


def windows(told: RoleObservation, count: int, levels: Levels = LEVELS, prior: Prior = GUESS) -> Learned:
    learned = Learned()
    for index in range(count):
        learned = learn(learned, prior, told, at=T0 + 60.0 * index, levels=levels, window_s=60.0)
    return learned


def test_without_data_the_estimate_is_the_profile() -> None:
    prior = Prior(TRUTH, 0.3)
    known = estimate(Learned(), prior)
    assert known.step == TRUTH
    # one of two independent parts of 8e-3/2048 and 80e-6: sqrt(3.9e-6^2 + 80e-6^2) x 0.3 / 83.9e-6
    assert known.prefill_sd(2048) == pytest.approx(0.3 * math.hypot(3.90625e-6, 80e-6) / 83.90625e-6)


def test_overlapping_windows_weigh_only_what_is_new() -> None:
    told = prefill(5000.0)
    apart = windows(told, 5)
    close = Learned()
    for index in range(17):
        close = learn(close, GUESS, told, at=T0 + 15.0 * index, levels=LEVELS, window_s=60.0)
    assert apart.prefill_windows == pytest.approx(5.0)
    assert close.prefill_windows == pytest.approx(5.0)
    assert close.moment == pytest.approx(apart.moment, rel=0.02)


def test_the_same_moment_twice_counts_once() -> None:
    once = windows(prefill(5000.0), 1)
    assert learn(once, GUESS, prefill(5000.0), at=T0, levels=LEVELS, window_s=60.0) == once


def test_another_profile_means_learning_anew() -> None:
    """Coefficients are kept in units of the profile's; read with another's they would be off by their ratio."""
    learned = windows(prefill(5000.0), 20)
    other = Prior(TRUTH, 0.3)
    assert estimate(learned, other).step == TRUTH
    again = learn(learned, other, prefill(5000.0), at=T0 + 1e6, levels=LEVELS, window_s=60.0)
    assert again.prefill_windows == 1.0
    assert again.scale == other.scale


def test_the_scale_of_the_prior_does_not_matter_when_it_is_wide() -> None:
    """The same data under a guess ten times slower gives the same velocity."""
    slow = Prior(StepModel(0.2, 1e-3, 1e-3, 2e-6), 300.0)
    told = prefill(5000.0, step_rate=4.0, prefill_busy=0.52)
    others = prefill(2000.0, step_rate=3.0, prefill_busy=0.23)
    velocities = []
    for prior in (Prior(GUESS.step, 300.0), slow):
        learned = Learned()
        for index in range(40):
            seen = told if index % 2 else others
            learned = learn(learned, prior, seen, at=T0 + 60.0 * index, levels=LEVELS, window_s=60.0)
        velocities.append(prefill_velocity(estimate(learned, prior).step))
    assert velocities[0] == pytest.approx(velocities[1], rel=0.02)


def test_one_window_of_garbage_does_not_undo_an_hour() -> None:
    good = windows(prefill(5000.0), 60)
    known = prefill_velocity(estimate(good, GUESS).step)
    for busy in (1e-6, 1e-3, 2.0):
        garbage = prefill(5000.0, prefill_busy=busy)
        after = learn(good, GUESS, garbage, at=T0 + 3600.0, levels=LEVELS, window_s=60.0)
        assert prefill_velocity(estimate(after, GUESS).step) == pytest.approx(known, rel=0.10), busy


def test_drift_is_followed() -> None:
    """An engine that has become half as fast is known to be so after four hours."""
    learned = windows(prefill(5000.0), 60)
    slower = prefill(5000.0, prefill_busy=2 * 5 * 0.12)
    for index in range(240):
        learned = learn(learned, GUESS, slower, at=T0 + 3600.0 + 60.0 * index, levels=LEVELS, window_s=60.0)
    before = estimate(windows(prefill(5000.0), 60), GUESS)
    ratio = prefill_velocity(before.step) / prefill_velocity(estimate(learned, GUESS).step)
    assert ratio == pytest.approx(2.0, rel=0.25)


@pytest.mark.parametrize(
    "levels",
    [
        Levels(kv_tokens=20_000.0, in_flight=0.0, waiting=0.0),  # nobody there at one of the looks
        Levels(kv_tokens=None, in_flight=20.0, waiting=5.0),  # nobody says what is resident
    ],
)
def test_a_window_that_may_have_been_idle_teaches_nothing_of_capacity(levels: Levels) -> None:
    told = replace(decode(1000.0), key=RoleKey("sim", "truth", Role.COLOCATED), computed_rate=500.0)
    assert windows(told, 5, levels).prefill_windows == 0.0
    assert windows(told, 5).prefill_windows == pytest.approx(5.0)


@pytest.mark.parametrize(
    "told",
    [
        decode(1000.0, itl_busy=0.0),
        decode(1000.0, itl_tokens=0.0),
        decode(1000.0, itl_busy=None),
        decode(1000.0, itl_busy=1e-12),
        decode(1000.0, rate_engines=0),
        decode(0.2),
        prefill(0.0),
        prefill(5000.0, prefill_busy=0.0),
        prefill(5000.0, prefill_busy=1e-12),
        prefill(5000.0, computed_rate=None),
        prefill(1e15, prefill_busy=1e-12, step_rate=1e-12),
    ],
)
def test_windows_that_tell_nothing_are_left_out(told: RoleObservation) -> None:
    assert windows(told, 3) == Learned()


def test_a_sudden_change_is_said_and_soon_learned_anew() -> None:
    """From one window to the next half as fast: the alarm within an hour, 15 % of the truth within an hour and a half.

    Each window's residual is (1 - 2) / (2 NOISE) = -6.25 before anything is learned of it, 39 squared: the mean of
    misfits passes 8 after -ln(1 - 8 / 39) / 0.05 = 5 windows.
    """
    learned = windows(prefill(5000.0), 60)
    slower = prefill(5000.0, prefill_busy=2 * 5 * 0.12)
    known = prefill_velocity(estimate(learned, GUESS).step)
    said = []
    for index in range(90):
        learned = learn(learned, GUESS, slower, at=T0 + 3600.0 + 60.0 * index, levels=LEVELS, window_s=60.0)
        said.append(estimate(learned, GUESS).says(Role.PREFILL, 0.05))
    alarmed = [index for index, (_, why) in enumerate(said) if why.startswith("drifting")]
    assert alarmed
    assert 4 <= alarmed[0] <= 8
    assert not said[alarmed[0]][0]
    assert said[-1][0]
    assert known / prefill_velocity(estimate(learned, GUESS).step) == pytest.approx(2.0, rel=0.15)
