"""Dynamo's planner by hand: predictors, sizes, steps."""

from dataclasses import replace

import pytest
from rival_scenes import ENGINE, TARGET, engines, rule, scene, told, wishes

from autoscaler.model import Role
from autoscaler.policies.dynamo import Dynamo, Mode
from autoscaler.policies.dynamo_load import easy_step, sla_step
from autoscaler.policies.dynamo_predict import Predictor, Trend
from autoscaler.policies.dynamo_sizing import Load, Requests, candidates, chunked_s, engine_rps, itl_s, ttft_s
from autoscaler.velocity import StepModel

# 10 ms + 0.1 ms per prompt token + 1 ms per running request; KV 432,000 tokens, B 8,192, S 256.
ROUND = replace(ENGINE, step=StepModel(0.01, 1e-4, 1e-3, 0.0))
MEAN = Requests(computed=1000.0, prompt=1000.0, output=200.0)
FLOW = {"prompt_rate": 10_000.0, "computed_rate": 10_000.0, "first_token_rate": 10.0, "waiting": 0.0, "kv_usage": 0.1}
FLOW |= {"generation_rate": 2000.0, "completion_rate": 10.0, "running": 20.0, "kv_capacity": 432_000.0}


def test_constant_is_the_last_value_and_leading_zeros_are_skipped() -> None:
    trend = Trend()
    assert trend.after(0.0).next(Predictor.CONSTANT) is None
    for value in (0.0, 5.0, 0.0, 8.0):
        trend = trend.after(value)
    assert trend.next(Predictor.CONSTANT) == 8.0


def test_kalman_two_steps_by_hand() -> None:
    # After 100: P = 1000 I. Predicted P00 = 1000 + 1000 + 1 = 2001, P01 = 1000; gain 2001/2011 and 1000/2011.
    trend = Trend().after(100.0).after(110.0)
    assert trend.level == pytest.approx(100 + 10 * 2001 / 2011)
    assert trend.slope == pytest.approx(10 * 1000 / 2011)
    assert trend.next(Predictor.KALMAN) == pytest.approx(trend.level + trend.slope)


def test_kalman_follows_a_ramp_and_never_goes_below_zero() -> None:
    trend = Trend()
    for value in range(100, 200, 10):
        trend = trend.after(float(value))
    assert trend.next(Predictor.KALMAN) == pytest.approx(200.0, abs=1.0)
    for value in (80.0, 0.0, 0.0, 0.0, 0.0):
        trend = trend.after(value)
    assert trend.next(Predictor.KALMAN) == 0.0


def test_candidates_are_at_most_128_with_both_ends() -> None:
    assert candidates(5) == (1, 2, 3, 4, 5)
    many = candidates(1000)
    assert (len(many), many[0], many[-1]) == (128, 1, 1000)


def test_chunks() -> None:
    # 10,000 tokens: a full chunk of 8,192 (0.8292 s) and a tail of 1,808 (0.1908 s).
    assert chunked_s(ROUND, 10_000.0) == pytest.approx(0.8292 + 0.1908)
    assert chunked_s(ROUND, 0.0) == 0.0


def test_engine_sizes() -> None:
    # Prefill: b prompts take 0.01 + 0.1 b s; 3 in 0.31 s fit into 0.4 s: 9.677/s.
    assert engine_rps(Role.PREFILL, ROUND, MEAN, TARGET) == pytest.approx(3 / 0.31)
    # No prompt fits: the most it can do, 8 in 0.81 s.
    assert engine_rps(Role.PREFILL, ROUND, MEAN, replace(TARGET, ttft_s=0.05)) == pytest.approx(8 / 0.81)
    # Decode: 90 requests at 100 ms: 90 / (200 * 0.1) = 4.5/s. Of 256 batches only every other is tried: 89 at 99 ms.
    assert engine_rps(Role.DECODE, replace(ROUND, max_running=128.0), MEAN, TARGET) == pytest.approx(4.5)
    assert engine_rps(Role.DECODE, ROUND, MEAN, TARGET) == pytest.approx(89 / (200 * 0.099))
    # Colocated: b * 5 prompt tokens beside: ITL = 0.01 + 0.0005 b + 0.001 b = 0.1 at b = 60;
    # TTFT = 0.01 + 0.1 (1000 + 300 tokens) / 1000 + 0.06 = 0.2 s. 60 / (200 * 0.1) = 3/s.
    assert engine_rps(Role.COLOCATED, replace(ROUND, max_running=128.0), MEAN, TARGET) == pytest.approx(3.0)


def test_kv_limits_the_decode_batch() -> None:
    # 22,000 tokens hold 20 requests of 1,100: 20 / (200 * 0.03) = 3.333/s.
    assert engine_rps(Role.DECODE, replace(ROUND, kv_capacity=22_000.0), MEAN, TARGET) == pytest.approx(20 / 6)


def test_latency_estimates() -> None:
    load = Load(queued_tokens=2000.0, running=20.0, waiting=5.0, kv=22_000.0, queued_kv=5500.0)
    assert ttft_s(Role.PREFILL, ROUND, load, MEAN) == pytest.approx(0.01 + 0.3)
    assert ttft_s(Role.COLOCATED, ROUND, load, MEAN) == pytest.approx(0.01 + 0.3 + 0.02)
    assert itl_s(Role.DECODE, ROUND, load, MEAN) == pytest.approx(0.01 + 0.026)
    # Beside decode run 20 * 1000/200 = 100 prompt tokens a step.
    assert itl_s(Role.COLOCATED, ROUND, load, MEAN) == pytest.approx(0.01 + 0.01 + 0.026)


@pytest.mark.parametrize(
    ("role", "latency", "kv", "queued", "count", "step"),
    [
        (Role.PREFILL, False, (0, 0), (8192, 0), 2, 1),
        (Role.PREFILL, False, (0, 0), (8000, 0), 2, 0),
        (Role.PREFILL, False, (0, 0), (800, 0), 2, -1),
        (Role.PREFILL, False, (0, 0), (800, 0), 1, 0),
        (Role.PREFILL, True, (0, 0), (820, 0), 2, 1),
        (Role.PREFILL, True, (0, 0), (800, 0), 2, 0),
        (Role.PREFILL, True, (0, 0), (0, 0), 2, -1),
        (Role.DECODE, False, (1.01, 0.5), (0, 0), 2, 1),
        (Role.DECODE, False, (0.7, 0.5), (0, 0), 2, 0),
        (Role.DECODE, False, (0.59, 0.5), (0, 0), 2, -1),
        (Role.DECODE, True, (0.41, 0.0), (0, 0), 2, 1),
        (Role.DECODE, True, (0.09, 0.0), (0, 0), 2, -1),
        (Role.COLOCATED, False, (0.9, 0.5), (100_000, 0), 2, 1),
    ],
)
def test_easy_thresholds(
    role: Role, latency: bool, kv: tuple[float, float], queued: tuple[float, float], count: int, step: int
) -> None:
    loads = [Load(tokens, 1.0, 0.0, usage * 432_000, 0.0) for usage, tokens in zip(kv, queued, strict=True)]
    assert easy_step(role, loads, 432_000.0, 8192.0, count, latency=latency)[0] == step


@pytest.mark.parametrize(
    ("role", "queued", "running", "count", "step"),
    [
        (Role.PREFILL, (4000, 4000), (0, 0), 2, 1),  # 0.51 s on every engine
        (Role.PREFILL, (4000, 0), (0, 0), 2, 0),  # one is free: not every engine is over
        (
            Role.PREFILL,
            (1000, 1000),
            (0, 0),
            2,
            -1,
        ),  # doubled: 0.2 s more than its own 0.11; (0.4 - 0.11) * 0.8 = 0.232
        (Role.PREFILL, (1200, 1000), (0, 0), 2, 0),  # 0.24 s more
        (Role.DECODE, (0, 0), (90, 90), 2, 1),  # 10 + 91 ms
        (Role.DECODE, (0, 0), (34, 30), 2, -1),  # doubled 78 ms < 80
        (Role.DECODE, (0, 0), (36, 30), 2, 0),
        (Role.DECODE, (0,), (1,), 1, 0),
    ],
)
def test_sla_steps(role: Role, queued: tuple[float, ...], running: tuple[float, ...], count: int, step: int) -> None:
    loads = [Load(tokens, many, 0.0, many * 1100.0, 0.0) for tokens, many in zip(queued, running, strict=True)]
    assert sla_step(role, loads, ROUND, MEAN, TARGET, 0.8, count)[0] == step


def where(role: Role = Role.COLOCATED) -> object:
    return replace(scene(role), roles=(replace(rule(role), engine=ROUND),))


def test_throughput_sizes_at_the_end_of_each_interval() -> None:
    policy = Dynamo(mode=Mode.SLA_THROUGHPUT, throughput_s=60.0, interval_s=30.0)
    seen = told(replicas=2, **FLOW)
    # 10 requests/s over 3/s each: 4.
    assert wishes(policy, where(), *[(float(at), seen) for at in (0, 30, 60, 90)]) == [None, None, 4, 4]


def test_throughput_moves_at_most_eight() -> None:
    policy = Dynamo(mode=Mode.SLA_THROUGHPUT, throughput_s=60.0)
    flood = {name: value * 20 for name, value in FLOW.items() if name.endswith("_rate")}
    seen = told(replicas=2, **(FLOW | flood))
    assert wishes(policy, where(), (0.0, seen), (60.0, seen)) == [None, 10]


def test_both_never_falls_below_the_throughput_size() -> None:
    seen = told(replicas=4, **FLOW)
    # Load alone would go down (ITL 31 ms); the size for 10 requests/s is 4.
    both, load = Dynamo(throughput_s=60.0), Dynamo(mode=Mode.SLA_LOAD)
    assert wishes(load, where(), (0.0, seen)) == [3]
    assert wishes(both, where(), (0.0, seen), (60.0, seen)) == [3, 4]


def test_nothing_moves_while_replicas_start_or_are_unheard() -> None:
    policy = Dynamo(mode=Mode.EASY_THROUGHPUT)
    full = engines((1.0, 50.0), (1.0, 50.0))
    looks = (
        (0.0, told(replicas=2, engines=full, **FLOW)),
        (5.0, told(replicas=3, ready=2, engines=full, **FLOW)),
        (10.0, told(replicas=3, reporting=2, engines=full, **FLOW)),
    )
    assert wishes(policy, where(), *looks) == [3, 3, 3]


def test_a_silent_role_holds_the_other() -> None:
    pair = scene(Role.PREFILL, Role.DECODE)
    mute = told(Role.PREFILL, reporting=0)
    busy = told(Role.DECODE, replicas=2, engines=engines((1.0, 50.0), (1.0, 50.0)), **FLOW)
    assert wishes(Dynamo(mode=Mode.EASY_LATENCY), pair, (0.0, (mute, busy))) == [(None, None)]
