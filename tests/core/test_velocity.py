"""Token physics with the arithmetic beside it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scripted import ENGINE, STEP, TARGET

from autoscaler.model import Role
from autoscaler.velocity import (
    Engine,
    Mix,
    Target,
    colocated_engines,
    colocated_share,
    decode_batch,
    decode_engines,
    decode_velocity,
    link_velocity,
    prefill_engines,
    prefill_velocity,
    role_velocity,
    waiting_tail,
)

MIX = Mix(prompt=1000.0, output=200.0, resident=500.0)


def test_link_velocity_of_an_8b_model_on_100_gbit() -> None:
    """100 Gbit/s = 12.5e9 bytes/s; 2 x 32 layers x 8 KV heads x 128 x 2 bytes = 131,072 bytes a token."""
    assert 2 * 32 * 8 * 128 * 2 == 131_072
    assert link_velocity(12.5e9, 131_072) == pytest.approx(95_367, abs=0.5)


def test_prefill_velocity_spreads_the_fixed_cost_over_a_full_iteration() -> None:
    """2,000 tokens take 0.02 + 2000 x 1e-4 = 0.22 s, so 9,090.9 tokens/s."""
    velocity, binds = prefill_velocity(ENGINE)
    assert velocity == pytest.approx(2000 / 0.22)
    assert binds == "compute"


def test_a_slow_link_binds_prefill() -> None:
    assert prefill_velocity(replace(ENGINE, link_tokens=5000.0)) == (5000.0, "link")
    assert prefill_velocity(replace(ENGINE, link_tokens=95_367.0))[1] == "compute"


@pytest.mark.parametrize(
    ("engine", "batch", "binds"),
    [
        (ENGINE, 80.0, "itl"),  # (0.1 - 0.02) / (5e-4 + 500 x 1e-6)
        (replace(ENGINE, kv_capacity=20_000.0), 36.0, "kv"),  # 0.9 x 20,000 / 500
        (replace(ENGINE, max_running=64.0), 64.0, "batch"),
        (replace(ENGINE, step=replace(STEP, base=0.2)), 1.0, "itl"),  # out of reach: one request, late
    ],
)
def test_decode_batch_under_each_limit(engine: Engine, batch: float, binds: str) -> None:
    found, limit = decode_batch(engine, 500.0, 0.1)
    assert found == pytest.approx(batch)
    assert limit == binds


def test_decode_velocity_at_the_itl_and_at_the_kv_limit() -> None:
    velocity, binds, batch = decode_velocity(ENGINE, 500.0, 0.1)
    assert (velocity, batch) == pytest.approx((80 / 0.1, 80.0))
    assert binds == "itl"
    # 36 requests take 0.02 + 36 x 1e-3 = 0.056 s: 642.9 tokens/s
    tight = replace(ENGINE, kv_capacity=20_000.0)
    velocity, binds, batch = decode_velocity(tight, 500.0, 0.1)
    assert (velocity, batch) == pytest.approx((36 / 0.056, 36.0))
    assert binds == "kv"


def test_colocated_loads_share_what_the_fixed_cost_leaves() -> None:
    """1 - a/T = 1 - 0.02/0.1 = 0.8. A prompt token/s takes 1e-4 / 0.8, an output token/s 1 / 800 = 1e-3 / 0.8."""
    per_prompt, per_output = colocated_share(ENGINE, MIX, 0.1)
    assert per_prompt == pytest.approx(1.25e-4)
    assert per_output == pytest.approx(1.25e-3)
    # ITL at 4,000 prompt and 400 output tokens/s, which fill the replica: n = 400 x 0.1 = 40 requests, in 0.1 s
    # 0.02 + 1e-4 x 4000 x 0.1 + 40 x 1e-3 = 0.1
    assert 4000 * per_prompt + 400 * per_output == pytest.approx(1.0)


def test_colocated_velocity_counts_the_prompts_beside_each_output_token() -> None:
    """5 prompt tokens a token: 1 / (1.25e-3 + 5 x 1.25e-4) = 533.3 tokens/s."""
    shown = role_velocity(Role.COLOCATED, ENGINE, MIX, 0.1)
    assert shown.tokens == pytest.approx(1 / 1.875e-3)
    assert role_velocity(Role.DECODE, ENGINE, MIX, 0.1).tokens == pytest.approx(800.0)
    assert role_velocity(Role.PREFILL, ENGINE, MIX, 0.1).batch is None


def test_waiting_tail_of_one_server_is_that_of_m_m_1() -> None:
    """P(W > t) = rho exp(-mu (1 - rho) t): rho 0.5, s 1, t 2 gives 0.5 e^-1 (sqrt(2 x 2) - 1 = 1)."""
    assert waiting_tail(1, 0.5, 1.0, 2.0, 1.0) == pytest.approx(0.5 * math.exp(-1.0))


def test_waiting_tail_of_two_servers() -> None:
    """Pw = 0.8^(sqrt(6) - 1) = 0.7237; those who wait do so for 1 / (2 x 0.2) = 2.5 s on average."""
    assert waiting_tail(2, 0.8, 1.0, 0.0, 1.0) == pytest.approx(0.7237, abs=1e-4)
    assert waiting_tail(2, 0.8, 1.0, 2.5, 1.0) == pytest.approx(0.7237 * math.exp(-1), abs=1e-4)
    assert waiting_tail(2, 0.8, 1.0, 2.5, 0.5) == pytest.approx(0.7237 * math.exp(-2), abs=1e-4)


def test_waiting_tail_at_its_ends() -> None:
    assert waiting_tail(3, 1.0, 1.0, 9.0, 1.0) == 1.0
    assert waiting_tail(3, 0.0, 1.0, 9.0, 1.0) == 0.0
    assert waiting_tail(3, 0.9, 1.0, 0.1, 0.0) == 0.0  # nothing varies: nobody waits


def test_prefill_engines_by_the_tail() -> None:
    """Prompts of 1,000 at 10,000 tokens/s take s = 0.1 s and leave 0.9 s of the TTFT target of 1 s.

    9,000 tokens/s on one engine: rho 0.9, mean wait 0.1 / 0.1 = 1 s, tail 0.9 e^-0.9 = 0.366 > 0.05. On two: rho 0.45,
    Pw = 0.45^1.449 = 0.314, mean 0.1 / (2 x 0.55) = 0.0909 s, tail 0.314 e^-9.9 = 1.6e-5. So two.
    """
    assert prefill_engines(9000, 0, 10_000, 1000, TARGET) == 2
    # rho 0.7: mean 0.1 / 0.3 s, tail 0.7 e^-2.7 = 0.047 <= 0.05
    assert prefill_engines(7000, 0, 10_000, 1000, TARGET) == 1
    # rho 0.72: tail 0.72 e^-2.52 = 0.058
    assert prefill_engines(7200, 0, 10_000, 1000, TARGET) == 2


def test_a_backlog_drains_within_the_target() -> None:
    """C >= backlog / slack: 45,000 tokens in 0.9 s need 50,000 tokens/s, 5 engines; one token more needs 6."""
    assert prefill_engines(0, 45_000, 10_000, 1000, TARGET) == 5
    assert prefill_engines(0, 45_001, 10_000, 1000, TARGET) == 6


def test_a_prompt_slower_than_the_target_keeps_a_quarter_of_it() -> None:
    """20,000 tokens take 2 s of a 1 s target; 0.25 s are left for waiting: 10,000 tokens waiting need 4 engines."""
    assert prefill_engines(0, 10_000, 10_000, 20_000, TARGET) == 4


def test_nothing_to_do_needs_nobody() -> None:
    assert prefill_engines(0, 0, 10_000, 1000, TARGET) == 0
    assert decode_engines(0, 0, 800, 80, TARGET) == 0
    assert colocated_engines(0, 0, 0, 0, ENGINE, MIX, TARGET) == 0


def test_decode_engines_by_square_root_staffing() -> None:
    """1,600 tokens/s: N = 1600 x 80 / 800 = 160 in service, z(0.95) = 1.645, 160 + 1.645 x 12.65 = 180.8 places.

    Two batches of 80 hold 160, three hold 240.
    """
    assert decode_engines(1600, 0, 800, 80, TARGET) == 3
    assert decode_engines(1600, 0, 800, 80, replace(TARGET, attainment=0.5)) == 2  # z = 0
    # 650 tokens/s: N = 65, 65 + 1.645 x 8.06 = 78.3 <= 80; 670: 67 + 13.5 = 80.5
    assert decode_engines(650, 0, 800, 80, TARGET) == 1
    assert decode_engines(670, 0, 800, 80, TARGET) == 2


def test_what_is_in_service_must_find_a_place() -> None:
    assert decode_engines(10, 240, 800, 80, TARGET) == 3
    assert decode_engines(10, 241, 800, 80, TARGET) == 4


def test_colocated_engines_add_both_loads() -> None:
    """8,000 prompt and 800 output tokens/s: 8000 x 1.25e-4 + 800 x 1.25e-3 = 2 replicas' worth.

    A prompt's service is 1000 x 1.25e-4 = 0.125 s, 0.875 s are left. Three: rho 2/3, Pw = 0.667^1.828 = 0.4765, mean
    0.125 / (3 x 1/3) = 0.125 s, tail 0.4765 e^-7 = 4e-4. Two would be full.
    """
    assert colocated_engines(8000, 800, 0, 0, ENGINE, MIX, TARGET) == 3


def test_a_colocated_backlog_drains_at_what_decode_leaves() -> None:
    """400 output tokens/s take half a replica; 70,000 waiting tokens in 0.875 s take 70,000 x 1.25e-4 / 0.875 = 10."""
    assert colocated_engines(0, 400, 70_000, 0, ENGINE, MIX, TARGET) == 11


def test_an_unreachable_itl_target_still_gives_a_finite_size() -> None:
    """a/T above 1 leaves nothing; 5 % are assumed, so that the wish stays finite: 2e-3 replicas a prompt token/s."""
    slow = replace(ENGINE, step=replace(STEP, base=0.2))
    assert colocated_share(slow, MIX, 0.1)[0] == pytest.approx(1e-4 / 0.05)
    assert 1 <= colocated_engines(100, 10, 0, 0, slow, MIX, TARGET) < 100


def test_a_nonsensical_load_gives_a_finite_wish() -> None:
    assert prefill_engines(1e12, 1e15, 1.0, 1.0, TARGET) == 100_000
    assert decode_engines(1e12, 1e15, 1.0, 1.0, TARGET) == 100_000
    assert colocated_engines(1e12, 1e12, 1e15, 0, ENGINE, MIX, Target(1.0, 0.1)) == 100_000
    assert colocated_engines(0, 0, 0, 1e15, ENGINE, MIX, TARGET) == 100_000
