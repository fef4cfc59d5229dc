"""From memory to replicas needed at each lead time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scripted import STEP, T0, at, decode, key, prefill, role_rules, rules

from autoscaler.demand import USUAL_MIX, engine_now, pool_demands, role_demand, velocity_now
from autoscaler.learning import Learned, Prior
from autoscaler.memory import Memory, RoleMemory, Shape, saw
from autoscaler.model import Role, Tier
from autoscaler.rules import SupplyRules
from forecasting.forecaster import LastValue, SimpleQuantile
from forecasting.series import Series

RULE = role_rules(Role.DECODE)
RULES = rules(RULE)
DECODE, PREFILL = key(Role.DECODE), key(Role.PREFILL)


def loaded(rate: float, **changes: Any) -> RoleMemory:
    """A decode role with this load, answers of 200 tokens and 500 resident a request."""
    plain = RoleMemory(
        output_load=Series.of([(T0, rate)], RULES.bin_s, 360), shape=Shape(None, 200.0, 500.0), kv_capacity=100_000.0
    )
    return replace(plain, **changes)


def test_needs_now_and_at_every_lead_time_in_order() -> None:
    """The last value is held flat: 5 replicas at 3,000 tokens/s now, at 60 s and at 300 s."""
    ladder = (SupplyRules(Tier.START, "gpu", 60.0, 2.5), SupplyRules(Tier.PROVISION, "gpu", 300.0, 2.5))
    found = role_demand(loaded(3000.0), None, RULE, replace(RULES, supply=ladder), T0)
    assert found.at == ((0.0, 5), (60.0, 5), (300.0, 5))
    assert (found.load, found.forecast) == (3000.0, 3000.0)


def test_the_forecast_asks_for_more_at_longer_leads() -> None:
    """A young history: at 95 % a margin of 30 % x sqrt(minutes): 900 at 60 s, 2,012 at 300 s; half of it at first."""
    ladder = (SupplyRules(Tier.START, "gpu", 60.0, 2.5), SupplyRules(Tier.PROVISION, "gpu", 300.0, 2.5))
    given = replace(RULES, supply=ladder, forecaster=SimpleQuantile(), quantile=0.95)
    found = role_demand(loaded(3000.0), None, RULE, given, T0)
    assert found.forecast == pytest.approx(3000 + 2012 / 2, abs=1)
    # 345 + 1.645 x 18.6 = 375.6 places: 5; 400.6 + 1.645 x 20 = 433.5: 6
    assert found.at == ((0.0, 5), (60.0, 5), (300.0, 6))


def test_a_load_never_seen_is_said_to_be_unknown_and_needs_nothing() -> None:
    found = role_demand(RoleMemory(), None, RULE, RULES, T0)
    assert (found.load, found.forecast, found.at[0]) == (None, None, (0.0, 0))


def test_the_engines_own_kv_capacity_replaces_the_profiles() -> None:
    """0.9 x 20,000 / 500 = 36 places, 36 / 0.056 s = 642.9 tokens/s."""
    known = loaded(3000.0, kv_capacity=20_000.0)
    engine, learned = engine_now(known, RULE)
    shown = velocity_now(known, RULE, engine, learned)
    assert (shown.tokens, shown.batch) == pytest.approx((36 / 0.056, 36.0))
    assert shown.binds == "kv"


def test_of_profile_and_learning_the_more_certain_counts_more() -> None:
    """Windows say 2e-4 s a token, good to 1e-5, where the profile says 1e-4. One good to 5 % is hardly left: learned is
    (200 + 400) / 500 = 1.2 of it, and 1.2^0.64 = 1.12 planned with. One good to 100 % gives way: 1.99^0.997.
    """
    found = []
    for sd in (0.05, 1.0):
        rule = replace(role_rules(Role.PREFILL), prior=Prior(STEP, sd))
        slow = Learned(
            precision=tuple(100.0 if place == 5 else 0.0 for place in range(16)),
            moment=(0.0, 200.0, 0.0, 0.0),
            prefill_windows=20.0,
            scale=rule.prior.scale,
        )
        engine, learned = engine_now(RoleMemory(learned=slow), rule)
        assert learned.step.per_prompt_token > engine.step.per_prompt_token >= STEP.per_prompt_token
        found.append(engine.step.per_prompt_token / STEP.per_prompt_token)
    assert found[0] < 1.15
    assert found[1] > 1.9


def test_doubt_slows_the_engine_that_is_planned_with_but_not_the_one_shown() -> None:
    """Certain: 3,000 tokens/s take 5. With a profile good to 1.5 of itself, every coefficient counts
    1 + 0.3 x 1.5 = 1.45 times: batch 0.08 / 1.45e-3 = 55.2, 552 tokens/s; 300 + 28.5 places / 55.2 = 5.95.
    """
    doubtful = replace(RULE, prior=Prior(STEP, 1.5))
    found = role_demand(loaded(3000.0), None, doubtful, rules(doubtful), T0)
    assert found.at[0] == (0.0, 6)
    assert found.velocity.tokens == pytest.approx(800.0)
    assert found.velocity.relative_sd > 0.5
    assert "profile by-hand, not enough load to learn from (0.0 of 4 windows)" in found.words


def test_load_never_seen_cannot_make_an_engine_faster_than_its_profile() -> None:
    """Decode windows alone leave p of a wide prior anywhere; until prompts were seen the profile's stands."""
    colocated = role_rules(Role.COLOCATED, prior=Prior(STEP, 30.0))
    fast = (0.01, 0.0, 0.0, 0.0)
    precision = tuple(1e4 if i == j else 0.0 for i in range(4) for j in range(4))
    moment = tuple(1e4 * each for each in fast)
    taught = Learned(precision, moment, prefill_windows=0.0, decode_windows=0.0, scale=colocated.prior.scale)
    engine, _ = engine_now(RoleMemory(learned=taught), colocated)
    assert engine.step.per_prompt_token == pytest.approx(STEP.per_prompt_token)
    assert engine.step.per_running == pytest.approx(STEP.per_running)
    enough = replace(taught, prefill_windows=4.0, decode_windows=4.0)
    engine, _ = engine_now(RoleMemory(learned=enough), colocated)
    assert engine.step.per_prompt_token < STEP.per_prompt_token / 1000


def test_unseen_requests_are_taken_to_be_usual() -> None:
    assert RoleMemory().shape.filled(USUAL_MIX) == USUAL_MIX
    shown = velocity_now(RoleMemory(), RULE, *engine_now(RoleMemory(), RULE))
    # 0.08 / (5e-4 + 1,100 x 1e-6) = 50 requests in 0.1 s
    assert shown.tokens == pytest.approx(500.0)


def test_prefill_feeds_decode() -> None:
    """10,000 prompt tokens/s in prompts of 1,000 are 10 answers/s of 200: 2,000 output tokens/s."""
    pair = rules(role_rules(Role.PREFILL), RULE)
    memory = saw(Memory(), at(0.0, prefill(10_000.0), decode(100.0)), pair)
    both = {Role.PREFILL: memory.of(PREFILL), Role.DECODE: memory.of(DECODE)}
    by_role = {rule.key.role: rule for rule in pair.roles}
    assert pool_demands(both, by_role, pair, T0)[Role.DECODE].forecast == pytest.approx(2000.0)
    alone = {Role.DECODE: memory.of(DECODE)}
    assert pool_demands(alone, by_role, pair, T0)[Role.DECODE].forecast == pytest.approx(100.0)


def test_no_tier_at_all_still_says_what_is_needed_now() -> None:
    found = role_demand(loaded(3000.0), None, RULE, replace(RULES, supply=(), forecaster=LastValue()), T0)
    assert found.at == ((0.0, 5),)
    assert "now" in found.words
