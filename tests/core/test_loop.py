"""The loop: look, decide, record, enact, in this order, and hold when nothing can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripted import T0, at, decode, key, role_rules, rules

from autoscaler.errors import CannotSee
from autoscaler.loop import blind_observation, replayed, run
from autoscaler.memory import Memory
from autoscaler.model import Decision, Observation, Role

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = rules(role_rules(Role.DECODE))


class Diary:
    """A world of three ticks whose source fails at the second; it notes what was done to it."""

    def __init__(self, fails: type[Exception] = CannotSee) -> None:
        self.fails = fails
        self.done: list[str] = []
        self.enacted: list[Decision] = []

    def ticks(self) -> Iterator[float]:
        yield from (T0, T0 + 15.0, T0 + 30.0)

    def observe(self, now: float, /) -> Observation:
        self.done.append("observe")
        if now == T0 + 15.0:
            raise self.fails("prometheus: refused")
        return at(now - T0, decode(3000.0, replicas=5))

    def enact(self, decision: Decision, /) -> None:
        self.done.append("enact")
        self.enacted.append(decision)

    def record(self, _seen: Observation, _decision: Decision, _memory: Memory, /) -> None:
        self.done.append("record")


def test_looks_decides_records_and_enacts_once_a_tick() -> None:
    diary = Diary()
    memory = run(diary, RULES, Memory(), diary.record)
    assert diary.done == ["observe", "record", "enact"] * 3
    assert [decision.at for decision in diary.enacted] == [T0, T0 + 15.0, T0 + 30.0]
    assert memory.at == T0 + 30.0


def test_a_source_that_cannot_be_read_holds_and_says_why() -> None:
    diary = Diary()
    run(diary, RULES, Memory(), diary.record)
    blind = diary.enacted[1]
    assert blind.failure == "prometheus: refused"
    assert [(role.desired, role.blind) for role in blind.roles] == [(5, "prometheus: refused")]
    assert diary.enacted[2].failure is None


def test_any_other_error_is_not_swallowed() -> None:
    diary = Diary(fails=ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        run(diary, RULES, Memory(), diary.record)
    assert diary.done == ["observe", "record", "enact", "observe"]


def test_a_blind_observation_names_every_role_and_no_number() -> None:
    seen = blind_observation(5.0, [rule.key for rule in RULES.roles], "gone")
    assert [(role.key, role.reporting, role.ready) for role in seen.roles] == [(key(Role.DECODE), 0, None)]
    assert (seen.at, seen.failure) == (5.0, "gone")


def test_replaying_is_the_loop_without_a_world() -> None:
    diary, seen = Diary(), []
    run(diary, RULES, Memory(), lambda told, _decision, _memory: seen.append(told))
    again = [decision for _, decision in replayed(iter(seen), RULES, Memory())]
    assert again == diary.enacted
