"""The tick: who is blind, what is counted, what a restart may do, and what one role's blindness does to the other.

Sizes, by hand (scripted.py): a decode replica holds 80 requests and gives 800 tokens/s. At 3,000 tokens/s
N = 300, 300 + 1.645 x 17.3 = 328.5 places: 5 replicas. At 300 tokens/s: 30 + 9 = 39 places: 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from scripted import at, decode, key, prefill, role_rules, rules, silent, times

from autoscaler.guards import GuardRules
from autoscaler.hearing import why_blind
from autoscaler.memory import Memory, RoleMemory
from autoscaler.model import Decision, Observation, Role, Stock, Tier
from autoscaler.rules import SupplyRules
from autoscaler.tick import count, tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.rules import Rules

DECODE = rules(role_rules(Role.DECODE))
PAIR = rules(role_rules(Role.PREFILL), role_rules(Role.DECODE))
KEY = key(Role.DECODE)


def played(
    told: Callable[[float], Observation],
    seconds: float,
    given: Rules = DECODE,
    memory: Memory | None = None,
    **ticks: float,
) -> tuple[list[Decision], Memory]:
    """Tick every 15 s."""
    memory = memory or Memory()
    decisions = []
    for when in times(seconds, **ticks):
        decision, memory = tick(told(when), memory, given)
        decisions.append(decision)
    return decisions, memory


def desired(decisions: list[Decision], role: int = 0) -> list[int | None]:
    return [decision.roles[role].desired for decision in decisions]


def guards(decision: Decision, role: int = 0) -> list[str]:
    return [name for name, _ in decision.roles[role].guards]


def test_the_load_is_met_at_once_and_is_asked_for_once() -> None:
    decisions, _ = played(lambda t: at(t, decode(3000.0, replicas=2)), 60)
    assert desired(decisions) == [5, 5, 5, 5]
    first, second = decisions[0].roles[0], decisions[1].roles[0]
    assert (first.ready, first.starting, first.load) == (2, 3, 3000.0)
    assert [(take.tier, take.replicas) for take in first.takes] == [(Tier.START, 3)]
    assert second.takes == ()  # three are on their way
    assert first.velocity is not None
    assert first.velocity.tokens == pytest.approx(800.0, rel=1e-3)


def test_a_calm_pool_shrinks_only_after_the_stabilisation_window_and_by_half() -> None:
    """8 replicas at 300 tokens/s: young until 300 s, then 8 - 4 = 4, 4 - 2 = 2, 1."""
    decisions, _ = played(lambda t: at(t, decode(300.0, replicas=8)), 390)
    assert desired(decisions) == [*[8] * 20, 4, 2, *[1] * 4]
    assert guards(decisions[19]) == ["young"]
    assert guards(decisions[20]) == ["rate"]
    assert guards(decisions[22]) == []


def test_a_dip_shorter_than_the_window_shrinks_nothing() -> None:
    def told(t: float) -> Observation:
        return at(t, decode(300.0 if 600 <= t < 840 else 3000.0, replicas=5))

    decisions, _ = played(told, 1200)
    assert set(desired(decisions)) == {5}
    assert "stabilise" in {name for decision in decisions for name in guards(decision)}


def test_missing_series_hold_and_say_so() -> None:
    def told(t: float) -> Observation:
        return at(t, decode(300.0, replicas=5) if t < 60 else silent(Role.DECODE))

    decisions, _ = played(told, 1200)
    assert set(desired(decisions)) == {5}
    last = decisions[-1]
    assert last.blind
    assert last.roles[0].blind == "no series match its labels"
    assert last.roles[0].ready is None
    assert last.roles[0].starting is None
    assert "blind: no series match its labels" in last.roles[0].sentence


def test_after_a_blind_spell_the_watch_begins_anew() -> None:
    def told(t: float) -> Observation:
        return at(t, silent(Role.DECODE) if 600 <= t < 690 else decode(300.0 if t >= 600 else 3000.0, replicas=5))

    decisions, _ = played(told, 1020)
    wishes = desired(decisions)
    assert set(wishes[: round(990 / 15)]) == {5}  # until 690 + 300 s
    assert wishes[round(990 / 15)] == 3  # 5 - floor(5 / 2)


def test_a_role_never_seen_and_never_asked_for_has_no_wish() -> None:
    decision, memory = tick(at(0.0, silent(Role.DECODE)), Memory(), rules(role_rules(Role.DECODE, minimum=3)))
    assert decision.roles[0].desired is None
    assert "no decision yet" in decision.roles[0].sentence
    assert memory.of(KEY).desired is None


def test_a_source_that_fails_holds_every_role() -> None:
    _, memory = tick(at(0.0, prefill(5000.0, 2), decode(3000.0, 5)), Memory(), PAIR)
    failed = replace(at(15.0, silent(Role.PREFILL), silent(Role.DECODE)), failure="prometheus: timed out")
    decision, _ = tick(failed, memory, PAIR)
    assert [role.desired for role in decision.roles] == [2, 5]
    assert {role.blind for role in decision.roles} == {"prometheus: timed out"}
    assert (decision.plan, decision.failure) == (None, "prometheus: timed out")


def test_a_role_missing_from_the_observation_is_blind() -> None:
    decision, _ = tick(at(0.0, decode(300.0)), Memory(), PAIR)
    assert [role.blind for role in decision.roles] == ["it was not asked about", None]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rate_engines": 0}, "sampled only once"),
        ({"reporting": 0, "rate_engines": 0, "stale": 2}, "2 engines have only samples that are too old"),
        ({"reporting": 0, "rate_engines": 0}, "though 2 replicas are up"),
        ({"reporting": 0, "rate_engines": 0, "ready": 0}, "no series match"),
        ({"generation_rate": None}, "report no output tokens/s"),
    ],
)
def test_ways_to_be_blind(changes: dict[str, int | None], why: str) -> None:
    told = replace(decode(300.0), **changes)  # type: ignore[arg-type]  # field by field, as parametrised
    said = why_blind(told, at(0.0), RoleMemory())
    assert said is not None
    assert why in said


def test_no_replica_wanted_and_none_there_is_not_blind() -> None:
    empty = silent(Role.DECODE, replicas=0, ready=0)
    assert why_blind(empty, at(0.0), RoleMemory(desired=0)) is None
    assert why_blind(empty, at(0.0), RoleMemory()) is None
    assert why_blind(empty, at(0.0), RoleMemory(desired=2)) is not None


def test_a_blind_prefill_freezes_the_shrinking_of_decode_but_not_its_growth() -> None:
    def told(t: float) -> Observation:
        prompts = prefill(5000.0, 2) if t < 600 else silent(Role.PREFILL)
        return at(t, prompts, decode(3000.0 if t < 300 else 300.0, replicas=5))

    decisions, memory = played(told, 1500, PAIR)
    # 300 + 300 s would have let it fall at 600 s, had prefill not gone blind then
    assert set(desired(decisions, 1)) == {5}
    assert guards(decisions[-1], 1) == ["pool-blind"]
    grown, _ = tick(at(1500.0, silent(Role.PREFILL), decode(3900.0, replicas=5)), memory, PAIR)
    # 5 x 71 are in service instead of 6: 348 more in 60 s, 5.8/s of 200 tokens, so 3,900 + 1,159 = 5,059 tokens/s come
    # in: 505.9 + 1.645 x 22.5 = 542.9 places of 80
    assert grown.roles[1].desired == 7


def test_a_blind_pool_leaves_other_pools_alone() -> None:
    both = rules(role_rules(Role.DECODE, "one"), role_rules(Role.DECODE, "two"))

    def told(t: float) -> Observation:
        return at(t, silent(Role.DECODE, "one"), decode(300.0, 2, "two"))

    decisions, _ = played(told, 450, both)
    assert desired(decisions, 1)[-1] == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reporting": 4, "rate_engines": 4}, "only 4 of 5 replicas report"),
        ({"stale": 1}, "1 engines have only samples"),
        ({"rate_engines": 4}, "only 4 of 5 engines have rates yet"),
        ({"engines_per_replica": 2, "reporting": 9, "rate_engines": 9}, "only 4 of 5 replicas report"),
    ],
)
def test_a_partial_scrape_does_not_shrink(changes: dict[str, int], why: str) -> None:
    part = replace(decode(300.0, replicas=5), **changes)  # type: ignore[arg-type]  # field by field, as parametrised
    decisions, memory = played(lambda t: at(t, part), 900)
    assert set(desired(decisions)) == {5}
    assert why in dict(decisions[-1].roles[0].guards)["partial"]
    whole, _ = tick(at(900.0, decode(300.0, replicas=5)), memory, DECODE)
    assert whole.roles[0].desired == 3


def test_asked_for_ready_and_starting_are_three_counts() -> None:
    asked = RoleMemory(desired=6, decided_at=0.0, raised_at=0.0)
    seen = count(replace(decode(0.0, 2), replicas=4), asked, DECODE, 15.0)
    assert (seen.ready, seen.replicas, seen.starting, seen.base) == (2, 4, 4, 6)


def test_what_did_not_arrive_in_time_is_no_longer_counted_on_nor_given_up() -> None:
    """900 s after the wish last grew; the wish itself stays, and is not asked for a second time."""
    asked = RoleMemory(desired=6, decided_at=900.0, raised_at=0.0)
    late = count(decode(0.0, 2), asked, DECODE, 900.0)
    assert (late.starting, late.base) == (4, 6)
    expired = count(decode(0.0, 2), asked, DECODE, 901.0)
    assert (expired.starting, expired.base) == (0, 6)
    decisions, _ = played(lambda t: at(t, decode(3000.0, replicas=2)), 1200)
    assert set(desired(decisions)) == {5}
    assert decisions[-1].roles[0].starting == 3


def test_unknown_readiness_counts_nothing_as_starting() -> None:
    asked = RoleMemory(desired=6, decided_at=0.0, raised_at=0.0)
    seen = count(replace(decode(0.0, 2), ready=None, replicas=None), asked, DECODE, 15.0)
    assert (seen.starting, seen.base, seen.arrived) == (0, 6, 0)


def test_a_fresh_start_takes_what_exists_as_asked_for() -> None:
    """A wish nobody remembers: 7 pods exist, 3 of them ready. Nothing is taken away for 300 s."""
    decisions, _ = played(lambda t: at(t, replace(decode(300.0, replicas=3), replicas=7)), 300)
    assert set(desired(decisions)) == {7}


def test_a_restart_with_a_memory_older_than_the_window_is_a_fresh_start() -> None:
    """It remembers a wish of 5 and 20 min of calm; meanwhile somebody scaled to 9."""
    _, memory = played(lambda t: at(t, decode(3000.0, replicas=5)), 1200)
    decisions, _ = played(lambda t: at(t, decode(300.0, replicas=9)), 330, memory=memory, start=1200 + 61)
    assert desired(decisions) == [*[9] * 20, 5, 3]


def test_a_restart_within_the_window_continues() -> None:
    _, memory = played(lambda t: at(t, decode(300.0, replicas=2)), 300)
    assert memory.of(KEY).desired == 2
    decision, _ = tick(at(330.0, decode(300.0, replicas=2)), memory, DECODE)
    assert decision.roles[0].desired == 1


def test_a_restart_without_stabilisation_does_not_shrink_at_its_first_look() -> None:
    eager = replace(DECODE, guards=GuardRules(stabilise_down_s=0.0))
    decision, _ = tick(at(0.0, decode(300.0, replicas=5)), Memory(), eager)
    assert decision.roles[0].desired == 5


def test_a_clock_set_back_an_hour_shrinks_nothing() -> None:
    _, memory = played(lambda t: at(t, decode(3000.0, replicas=5)), 600)
    decisions, _ = played(lambda t: at(t, decode(300.0, replicas=5)), 900, memory=memory, start=-3600)
    assert set(desired(decisions)) == {5}


LEAD_S = 60.0
WIDE = replace(
    rules(role_rules(Role.PREFILL)), supply=(SupplyRules(Tier.START, "gpu", LEAD_S, 2.5),), fallback_margin=0.0
)


def test_a_backlog_that_drains_before_a_replica_could_serve_asks_for_none() -> None:
    """200 prompts of 1,000 tokens wait: ten replicas of 9,090.9 tokens/s are through in 2.2 s, a new one takes 60 s."""
    decision, _ = tick(at(0.0, prefill(1000.0, 10, waiting=200.0)), Memory(), WIDE)
    assert decision.roles[0].planned == 10


def test_a_backlog_is_cleared_over_as_long_as_new_replicas_take() -> None:
    """20,000 prompts of 1,000 tokens wait. Those that serve in 60 s see a 60th of them for each second of the target:

    20,000 x 1 s / 60 s x 1,000 tokens = 333,333; slack 1 - 0.11 = 0.89 s: 333,333 / (9,090.9 x 0.89) = 41.2 replicas.
    """
    decision, _ = tick(at(0.0, prefill(1000.0, 10, waiting=20_000.0)), Memory(), WIDE)
    assert decision.roles[0].planned == 42


def test_requests_waiting_before_the_first_token_are_taken_to_be_usual() -> None:
    """Nobody has had a first token yet, so the prompts' length is not known: 1,000 tokens are assumed."""
    first = prefill(0.0, 10, waiting=20_000.0, running=5.0, kv_usage=0.01)
    decision, _ = tick(at(0.0, first), Memory(), WIDE)
    assert decision.roles[0].planned == 42


def test_what_waits_at_the_gateway_wakes_a_role_that_was_scaled_to_zero() -> None:
    zero = rules(role_rules(Role.COLOCATED, minimum=0))
    empty = silent(Role.COLOCATED, ready=0, replicas=0)
    calm, memory = tick(at(0.0, replace(empty, queued_at_gateway=0.0)), Memory(), zero)
    assert calm.roles[0].desired == 0
    woken, memory = tick(at(15.0, replace(empty, queued_at_gateway=3.0)), memory, zero)
    assert woken.roles[0].desired == 1
    assert woken.roles[0].takes[0].replicas == 1


def test_prefill_arrivals_size_decode_before_they_reach_it() -> None:
    """15 prompts/s x 200 tokens = 3,000 tokens/s are on their way to decode, which still sees 300."""
    _, memory = tick(at(0.0, prefill(1500.0, 4), decode(300.0, 2)), Memory(), PAIR)
    decision, _ = tick(at(60.0, prefill(15_000.0, 4), decode(300.0, 2)), memory, PAIR)
    assert decision.roles[1].planned == 5


def test_gpus_that_are_not_there_are_said_to_be_short() -> None:
    scarce = replace(
        DECODE, supply=(SupplyRules(Tier.START, "gpu", 60.0, 2.5), SupplyRules(Tier.PREEMPT, "gpu", 160.0, 2.5, 1.0))
    )
    # 2 held + 1 free, 1 more by preemption: 4 of the 5 wanted
    seen = at(0.0, decode(3000.0, replicas=2), stocks=(Stock("gpu", free=3, preemptible=1, provisionable=0),))
    role = tick(seen, Memory(), scarce)[0].roles[0]
    # two are lacking until the one from preemption serves, one from then on
    assert (role.desired, role.shortage) == (4, 2.0)
    assert [(take.tier, take.replicas, take.lead_s) for take in role.takes] == [
        (Tier.START, 1, 60.0),
        (Tier.PREEMPT, 1, 160.0),
    ]
    assert "short of 2 replicas" in role.sentence


def test_two_engines_behind_a_replica_count_as_one() -> None:
    """Data parallel: 3,000 tokens/s need 5 engines, 3 replicas of two; the velocity shown is a replica's."""
    told = replace(decode(3000.0, replicas=4), engines_per_replica=2, ready=2, replicas=2)
    role = tick(at(0.0, told), Memory(), DECODE)[0].roles[0]
    assert role.desired == 3
    assert role.velocity is not None
    assert role.velocity.tokens == pytest.approx(1600.0, rel=1e-3)


def test_an_idle_pool_shrinks_however_dear_a_shortage_is() -> None:
    """At the median, 1,000 an hour for a lacking replica makes getting one back dearer than an hour of running it."""
    dear = replace(role_rules(Role.PREFILL), shortage_price=1000.0)
    calm = replace(rules(dear), supply=(SupplyRules(Tier.START, "gpu", 600.0, 2.5),), quantile=0.5)
    memory = Memory()
    decision, memory = tick(at(0.0, prefill(1000.0, 10)), memory, calm)
    for tick_ in range(1, 60):
        decision, memory = tick(at(15.0 * tick_, prefill(1000.0, 10)), memory, calm)
    assert decision.roles[0].desired is not None
    assert decision.roles[0].desired < 10
