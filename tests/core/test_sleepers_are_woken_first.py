"""Waking as a tier: sleepers come before starts, none is counted twice, and they teach how long waking takes.

3,000 output tokens/s want 5 replicas of the scripted pool; 2 are there, so that 3 are taken from somewhere.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import T0, at, decode, key, prefill, role_rules, rules

from autoscaler.journal import Journal, read
from autoscaler.leadtimes import with_learned_leads
from autoscaler.loop import replayed
from autoscaler.memory import Memory
from autoscaler.model import Decision, Observation, Role, RoleObservation, Start, Step, Stock, Take, Tier
from autoscaler.rules import Rules, SupplyRules
from autoscaler.saved import from_saved, to_saved
from autoscaler.sleepers import with_sleepers
from autoscaler.tick import tick

if TYPE_CHECKING:
    from pathlib import Path

WAKE_S, START_S = 15.0, 60.0
ONE = rules(role_rules(Role.DECODE), wake_s=WAKE_S)
BOTH = rules(role_rules(Role.PREFILL), role_rules(Role.DECODE), wake_s=WAKE_S)


def pool(asleep: int | None, waking: int | None = 0, load: float = 3000.0, **more: int) -> RoleObservation:
    return replace(decode(load), asleep=asleep, waking=None if asleep is None else waking, **more)


def decided(role: RoleObservation, free: int | None, memory: Memory | None = None, at_s: float = 0.0) -> Decision:
    return tick(at(at_s, role, stocks=(Stock("gpu", free=free),)), memory or Memory(), ONE)[0]


def taken(decision: Decision) -> dict[Tier, tuple[int, float]]:
    return {take.tier: (take.replicas, take.lead_s) for role in decision.roles for take in role.takes}


@pytest.mark.parametrize(
    ("asleep", "free", "desired", "from_where"),
    [
        # enough sleep: nothing is started though 8 GPUs are free
        (3, 10, 5, {Tier.WAKE: (3, WAKE_S)}),
        (5, 10, 5, {Tier.WAKE: (3, WAKE_S)}),
        # two sleep: the third is started on one of 10 - 2 ready - 2 asleep = 6 free GPUs
        (2, 10, 5, {Tier.WAKE: (2, WAKE_S), Tier.START: (1, START_S)}),
        # of 4 GPUs 2 serve and 2 sleep: none is left to start on, for the sleepers' are theirs
        (2, 4, 4, {Tier.WAKE: (2, WAKE_S)}),
        (1, 4, 4, {Tier.WAKE: (1, WAKE_S), Tier.START: (1, START_S)}),
        # none sleeps, or nobody said: as if there were no such tier
        (0, 10, 5, {Tier.START: (3, START_S)}),
        (None, 10, 5, {Tier.START: (3, START_S)}),
        (0, 3, 3, {Tier.START: (1, START_S)}),
    ],
)
def test_sleepers_are_woken_before_anything_is_started(
    asleep: int | None, free: int, desired: int, from_where: dict[Tier, tuple[int, float]]
) -> None:
    found = decided(pool(asleep), free)
    assert found.roles[0].desired == desired
    assert taken(found) == from_where
    if Tier.WAKE in from_where:
        assert f"{from_where[Tier.WAKE][0]} by wake, serving in 15 s" in found.roles[0].sentence
        assert found.roles[0].foreseen[0].tier is Tier.WAKE


def test_a_wake_that_is_as_slow_as_a_start_brings_no_more_replicas() -> None:
    slow = replace(ONE, wake_s=START_S)
    seen = at(0.0, pool(3), stocks=(Stock("gpu", free=10),))
    quick, same = (tick(seen, Memory(), each)[0].roles[0] for each in (ONE, slow))
    assert (quick.desired, same.desired) == (5, 5)


def test_where_nobody_sleeps_nothing_is_decided_otherwise() -> None:
    for told in (pool(None), pool(0), pool(0, load=100.0)):
        seen = at(0.0, told, stocks=(Stock("gpu", free=10),))
        with_tier, without = (tick(seen, Memory(), each)[0] for each in (ONE, replace(ONE, wake_s=None)))
        assert with_tier == without


def test_sleepers_nobody_told_of_are_not_none() -> None:
    assert pool(None).asleep is None
    unknown, none = decided(pool(None), 10), decided(pool(0), 10)
    assert taken(unknown) == taken(none)  # what is not known is not promised
    assert with_sleepers(ONE, at(0.0, pool(None))).wakes == {}


def after_one_tick(asleep: int, free: int) -> tuple[Decision, Memory]:
    return tick(at(0.0, pool(asleep), stocks=(Stock("gpu", free=free),)), Memory(), ONE)


def test_what_is_being_woken_is_asked_for_only_once() -> None:
    stock = (Stock("gpu", free=10),)
    first, memory = after_one_tick(4, 10)
    assert taken(first) == {Tier.WAKE: (3, WAKE_S)}
    # The hands have not acted yet; they have told two of three; all three wake: nothing more is taken at any time.
    for asleep, waking in ((4, 0), (2, 2), (1, 3)):
        seen = at(15.0, pool(asleep, waking, replicas=2 + waking), stocks=stock)
        again, _ = tick(seen, memory, ONE)
        assert (again.roles[0].desired, taken(again)) == (5, {})
        assert again.roles[0].shortage == 0.0  # those that wake serve in 15 s, not in a start's 60


@pytest.mark.parametrize(("asleep", "waking"), [(4, 0), (3, 1), (1, 3)])
def test_a_sleeper_that_was_asked_for_is_not_offered_again_before_it_wakes(asleep: int, waking: int) -> None:
    """Of 4 sleepers 3 were asked for. 5,400 tokens/s want 8 replicas: the last sleeper, and 2 starts."""
    _, memory = after_one_tick(4, 20)
    seen = at(15.0, pool(asleep, waking, load=5400.0, replicas=2 + waking), stocks=(Stock("gpu", free=20),))
    again, _ = tick(seen, memory, ONE)
    assert taken(again) == {Tier.WAKE: (1, WAKE_S), Tier.START: (2, START_S)}


def test_a_woken_pod_lands_when_it_wakes_and_not_when_a_start_would() -> None:
    """While 3 wake, the load grows by one replica: the fourth sleeper is woken, and no gap is bridged by starts."""
    _, memory = after_one_tick(4, 10)
    seen = at(15.0, pool(1, 3, load=3800.0, replicas=5), stocks=(Stock("gpu", free=10),))
    again, _ = tick(seen, memory, ONE)
    assert taken(again) == {Tier.WAKE: (1, WAKE_S)}
    assert again.roles[0].desired == 6


def test_only_its_own_role_can_have_a_sleeper() -> None:
    """Prefill's three sleepers are of no use to decode, and their GPUs are not free either: 8 - 2 - 2 - 3 = 1."""
    idle = replace(prefill(1000.0), asleep=3, waking=0)
    seen = at(0.0, idle, decode(3000.0), stocks=(Stock("gpu", free=8),))
    both = {role.key.role: role for role in tick(seen, Memory(), BOTH)[0].roles}
    assert both[Role.DECODE].takes == (Take(Tier.START, 1, START_S),)
    assert both[Role.PREFILL].takes == ()
    assert {one.tier for one in both[Role.DECODE].foreseen} == {Tier.START}


def test_a_blind_role_wakes_nobody_and_keeps_its_sleepers_gpus() -> None:
    blind = replace(pool(3), sampled_at=None, reporting=0, rate_engines=0)
    told = replace(prefill(20_000.0), ready=1, replicas=1)
    seen = at(0.0, told, blind, stocks=(Stock("gpu", free=7),))
    roles = {role.key.role: role for role in tick(seen, Memory(), BOTH)[0].roles}
    assert roles[Role.DECODE].takes == ()
    # 7 GPUs: 1 prefill, 2 decode, 3 asleep; one is left
    assert sum(take.replicas for take in roles[Role.PREFILL].takes) == 1


counts = st.integers(0, 6)


@settings(max_examples=60, deadline=None)
@given(
    sleeping=st.tuples(counts, counts),
    waking=counts,
    loads=st.tuples(st.floats(0.0, 12_000.0), st.floats(0.0, 12_000.0)),
    free=st.integers(4, 30),
    wake_s=st.floats(1.0, 120.0),
)
def test_no_gpu_is_promised_twice_and_never_more_are_woken_than_sleep(
    sleeping: tuple[int, int], waking: int, loads: tuple[float, float], free: int, wake_s: float
) -> None:
    """Ready, starting, asleep and taken ones of both roles fit into the stock; each role wakes its own sleepers."""
    told = (
        replace(prefill(3 * loads[0]), asleep=sleeping[0], waking=0),
        replace(decode(loads[1]), asleep=sleeping[1], waking=waking, replicas=2 + waking),
    )
    held = 4 + waking + sum(sleeping)
    seen = at(0.0, *told, stocks=(Stock("gpu", free=held + free),))
    decision, _ = tick(seen, Memory(), replace(BOTH, wake_s=wake_s))
    started = 0
    for role, asleep in zip(decision.roles, sleeping, strict=True):
        by_tier = Counter({take.tier: take.replicas for take in role.takes})
        assert by_tier[Tier.WAKE] <= asleep
        started += by_tier[Tier.START]
        if by_tier[Tier.START] and wake_s <= START_S:  # not a GPU is started on while one that sleeps would serve
            assert by_tier[Tier.WAKE] == asleep
    assert started <= free


@settings(max_examples=30, deadline=None)
@given(asleep=counts, more=counts, load=st.floats(100.0, 9000.0), free=st.integers(0, 12))
def test_more_sleepers_never_mean_fewer_replicas(asleep: int, more: int, load: float, free: int) -> None:
    def wanted(count: int) -> int:
        return decided(pool(count, load=load), 2 + count + free).roles[0].desired or 0

    assert wanted(asleep + more) >= wanted(asleep)


def woke(name: str, seconds: float) -> Start:
    return Start(name, Tier.WAKE, T0 - seconds, T0, ((Step.WAKE, seconds),))


SPREAD = replace(ONE, wake_spread=1.4, supply=(SupplyRules(Tier.START, "gpu", START_S, 2.5, spread=1.7),))


def leads(memory: Memory, seen: Observation) -> dict[Tier, float]:
    made: Rules = with_learned_leads(with_sleepers(SPREAD, seen), memory)
    return {rung.tier: rung.lead_s for rung in made.rungs(made.roles[0])}


def test_waking_is_learned_by_itself_and_starts_by_themselves() -> None:
    seen = at(0.0, pool(2))
    before = leads(Memory(), seen)
    assert before[Tier.WAKE] == pytest.approx(WAKE_S * 1.4)  # the configured 90th percentile
    starts = tuple(woke(f"w{index}", 40.0) for index in range(12))
    _, memory = tick(at(0.0, replace(pool(2), starts=starts)), Memory(), SPREAD)
    after = leads(memory, seen)
    assert 38.0 < after[Tier.WAKE] < 48.0
    assert after[Tier.START] == before[Tier.START]
    # And 12 starts of 90 s teach nothing of waking.
    slow = tuple(Start(f"s{index}", Tier.START, T0 - 90, T0, ((Step.ENGINE, 90.0),)) for index in range(12))
    _, memory = tick(at(0.0, replace(pool(2), starts=slow)), Memory(), SPREAD)
    found = leads(memory, seen)
    assert found[Tier.WAKE] == pytest.approx(WAKE_S * 1.4)
    assert found[Tier.START] > 80.0


def test_what_waking_taught_is_saved_and_told() -> None:
    starts = tuple(woke(f"w{index}", 22.0) for index in range(12))
    seen = at(0.0, replace(pool(3), starts=starts), stocks=(Stock("gpu", free=10),))
    decision, memory = tick(seen, Memory(), SPREAD)
    assert from_saved(to_saved(memory)).of(key(Role.DECODE)).leads == memory.of(key(Role.DECODE)).leads
    assert "wake takes 2" in decision.roles[0].sentence
    assert "12 starts" in decision.roles[0].sentence


def test_a_journal_tells_who_sleeps_and_says_nothing_where_nobody_was_asked(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", 10**6)
    for asleep in (None, 0, 2):
        seen = at(0.0, pool(asleep))
        journal.write(seen, tick(seen, Memory(), ONE)[0])
    lines = journal.path.read_text().splitlines()
    assert ['"asleep":' in line for line in lines] == [False, True, True]
    assert [seen.roles[0].asleep for seen, _ in read(journal.path)] == [None, 0, 2]


def test_a_journal_of_sleepers_replays_to_the_same_decisions(tmp_path: Path) -> None:
    """They sleep, wake and serve; the same sentences come of what was written down."""
    journal = Journal(tmp_path / "journal.jsonl", 10**6)
    memory, told = Memory(), []
    for number, (asleep, waking, ready) in enumerate([(3, 0, 2), (0, 3, 2), (0, 3, 2), (0, 0, 5)]):
        role = replace(decode(3000.0, ready), asleep=asleep, waking=waking, replicas=ready + waking)
        seen = at(15.0 * number, role, stocks=(Stock("gpu", free=10),))
        decision, memory = tick(seen, memory, ONE)
        journal.write(seen, decision)
        told.append(decision)
    assert taken(told[0]) == {Tier.WAKE: (3, WAKE_S)}
    assert [taken(decision) for decision in told[1:]] == [{}] * 3
    again = replayed((seen for seen, _ in read(journal.path)), ONE, Memory())
    assert [decision for _, decision in again] == told
