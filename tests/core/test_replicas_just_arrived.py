"""Replicas that have only just arrived have no rates yet: they are kept, but keep nobody else from going.

Sizes, by hand (scripted.py): at 300 tokens/s decode needs 1 replica (39 of 80 places), at 3,000 it needs 5.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import T0, at, decode, key, prefill, role_rules, rules, times

from autoscaler.guards import GuardRules
from autoscaler.hearing import arriving, why_partial
from autoscaler.memory import Memory, RoleMemory
from autoscaler.model import Decision, Observation, Role, RoleObservation
from autoscaler.saved import from_saved, to_saved
from autoscaler.tick import tick

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.rules import Rules

DECODE = rules(role_rules(Role.DECODE), guards=GuardRules(stabilise_down_s=15.0, hold_s=15.0, most_down=1.0))
PAIR = replace(DECODE, roles=(role_rules(Role.PREFILL), role_rules(Role.DECODE)))


def lived(told: Callable[[float], Observation], seconds: float, given_rules: Rules) -> tuple[list[Decision], Memory]:
    memory, decisions = Memory(), []
    for when in times(seconds):
        decision, memory = tick(told(when), memory, given_rules)
        decisions.append(decision)
    return decisions, memory


def part(rate: float, ready: int, heard: int, **changes: int) -> RoleObservation:
    """Decode of which so many are ready and so many of them have rates."""
    return replace(decode(rate, heard), ready=ready, replicas=ready, **changes)  # type: ignore[arg-type]  # counts only


def burst(when: float) -> Observation:
    """3,000 tokens/s on 5 replicas until 60 s, then 300; 3 more that were asked for before are ready from 150 s on."""
    if when < 60:
        return at(when, replace(decode(3000.0, 5), replicas=8))
    if when < 150:
        return at(when, replace(decode(300.0, 5), replicas=8))
    return at(when, part(300.0, 8, 5))


def test_heard_replicas_may_go_while_new_ones_are_kept_until_they_are_heard() -> None:
    """At 150 s one is needed by what is heard and three have only just arrived: 1 + 3 = 4 stay."""
    memory = Memory()
    for when in times(150):
        _, memory = tick(burst(when), memory, DECODE)
    # somebody asked for 8; the load that these are for is over
    memory = Memory({key(Role.DECODE): replace(memory.of(key(Role.DECODE)), desired=8)}, memory.at)
    decision, _ = tick(burst(150.0), memory, DECODE)
    role = decision.roles[0]
    assert role.planned == 1
    assert role.desired == 4
    assert dict(role.guards)["arriving"] == "held at 4: 3 have only just arrived and are not heard yet"


def test_who_is_not_heard_after_the_window_keeps_all_from_going() -> None:
    """Five are heard all the time; three are ready from 150 s on: for 60 s, until 210 s, they are new."""
    memory = Memory()
    for when in times(300):
        # somebody asks for 8 before every tick
        asked = replace(memory.of(key(Role.DECODE)), desired=8)
        decision, memory = tick(burst(when), replace(memory, roles={key(Role.DECODE): asked}), DECODE)
        if when >= 150:
            guards = dict(decision.roles[0].guards)
            assert ("arriving" in guards, "partial" in guards) == (when < 210, when >= 210)
            assert decision.roles[0].desired == (4 if when < 210 else 8)


@pytest.mark.parametrize(
    ("told", "counts", "new"),
    [
        (part(300.0, 8, 5), (5, 5, 8), 3),
        # one is scraped once: it reports and has no rates yet
        (part(300.0, 8, 7, reporting=8), (7, 8, 8), 1),
        # four are not heard, of which three arrived: one of the others is silent
        (part(300.0, 8, 4), (5, 5, 8), 0),
        (part(300.0, 8, 5, stale=1), (5, 5, 8), 0),
        # a dip: two went and came back, and two are not heard
        (part(300.0, 8, 6), (8, 6, 8), 2),
        # two engines a replica: 13 of 16 have rates, so two replicas are not wholly heard
        (part(300.0, 8, 13, engines_per_replica=2, reporting=14), (6, 8), 2),
        (part(300.0, 8, 8), (5, 8), 0),
        # a restart, or a source that never counted before
        (part(300.0, 8, 5), (8,), 0),
        (part(300.0, 8, 5), (), 0),
    ],
)
def test_new_are_those_that_arrived_within_the_window(told: RoleObservation, counts: tuple[int, ...], new: int) -> None:
    known = RoleMemory(counts=tuple((T0 + 15.0 * index, count) for index, count in enumerate(counts)))
    assert arriving(told, known) == new
    unheard = told.stale or told.rate_engines < max((told.ready or 0) * told.engines_per_replica, told.reporting)
    assert (why_partial(told, known) is None) == (new > 0 or not unheard)


def test_nobody_is_new_where_readiness_is_not_told() -> None:
    told = replace(part(300.0, 8, 5), ready=None, reporting=8)
    assert arriving(told, RoleMemory(counts=((T0, 5),))) == 0
    assert why_partial(told, RoleMemory()) == "only 5 of 8 engines have rates yet"


def test_new_prefill_replicas_do_not_freeze_decode_but_hide_part_of_what_comes() -> None:
    """Prefill heard by 2 of 3: what decode needs by what is known, 4, may be 4 x 3/2 = 6."""

    def told(when: float, ready: int = 2) -> Observation:
        prompts = replace(prefill(5000.0, 2), ready=ready, replicas=ready)
        return at(when, prompts, decode(2200.0, 9))

    memory = Memory()
    for when in times(60):
        _, memory = tick(told(when), memory, PAIR)
    memory = replace(
        memory, roles=dict(memory.roles) | {key(Role.DECODE): replace(memory.of(key(Role.DECODE)), desired=9)}
    )
    decision, _ = tick(told(60.0, ready=3), memory, PAIR)
    # 220 + 1.645 x 14.8 = 244.4 places of 80: 4 replicas
    assert decision.roles[1].planned == 4
    assert decision.roles[1].desired == 6
    assert "67% are heard" in dict(decision.roles[1].guards)["arriving"]


def test_counts_survive_a_restart_and_are_not_needed() -> None:
    _, memory = lived(burst, 180, DECODE)
    plain = json.loads(json.dumps(to_saved(memory)))
    again = from_saved(plain)
    assert again.of(key(Role.DECODE)).counts == memory.of(key(Role.DECODE)).counts != ()
    del plain["roles"][str(key(Role.DECODE))]["counts"]
    assert from_saved(plain).of(key(Role.DECODE)).counts == ()


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 20_000), st.integers(1, 20), st.integers(0, 20))
def test_whoever_is_not_heard_is_never_let_go(rate: float, heard: int, new: int) -> None:
    """However small the load of those that are heard, the wish leaves room for each that has only just arrived."""
    memory = Memory()
    for when in times(60):
        _, memory = tick(at(when, decode(3000.0, heard)), memory, DECODE)
    decision, _ = tick(at(60.0, part(rate, heard + new, heard)), memory, DECODE)
    before = memory.of(key(Role.DECODE)).desired or 0
    assert (decision.roles[0].desired or 0) >= min(before, new + 1)
