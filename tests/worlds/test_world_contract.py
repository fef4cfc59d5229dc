"""What every world owes the loop; a scripted one and the live one over a scripted source pass the same tests."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Protocol

import pytest
from scripted import T0, at, decode, key, prefill, role_rules, rules, silent

from autoscaler.cluster.live import LiveWorld
from autoscaler.errors import CannotSee
from autoscaler.loop import World, run
from autoscaler.memory import Memory
from autoscaler.model import Decision, Observation, Role, RoleObservation, Stock
from autoscaler.publishing import Publisher, Status
from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Board, Limits, Wish
from metrics_adapter.exposition import Telemetry
from metrics_adapter.signals import Group, Reading, Readings, Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# not in the alphabet's order, so that sorting would show
KEYS = (key(Role.PREFILL, "zeta"), key(Role.DECODE, "zeta"), key(Role.COLOCATED, "alpha"))
RULES = rules(role_rules(Role.PREFILL, "zeta"), role_rules(Role.DECODE, "zeta"), role_rules(Role.COLOCATED, "alpha"))
SIGNALS = {
    Signal.RUNNING: "running",
    Signal.WAITING: "waiting",
    Signal.KV_USAGE: "kv_usage",
    Signal.KV_CAPACITY: "kv_capacity",
    Signal.COMPUTED_PROMPT_RATE: "computed_rate",
    Signal.GENERATION_RATE: "generation_rate",
    Signal.PREFILL_REQUEST_RATE: "first_token_rate",
    Signal.COMPLETION_RATE: "completion_rate",
    Signal.PREFILL_BUSY: "prefill_busy",
    Signal.ITL_BUSY: "itl_busy",
    Signal.ITL_TOKENS: "itl_tokens",
    Signal.STEP_RATE: "step_rate",
}


def told(now: float) -> tuple[RoleObservation, ...]:
    """The script: all is calm, alpha says nothing."""
    seen = at(now - T0, prefill(4000.0, 2, "zeta"), decode(900.0, 3, "zeta"), silent(Role.COLOCATED, "alpha"))
    return seen.roles


class Trial(Protocol):
    """A world to be tried, and what it is tried with."""

    world: World
    published: list[Decision]
    failing: set[int]
    """Ticks, counted from 0, at which nothing can be seen."""


class Scripted:
    """The simplest world there can be."""

    def __init__(self, ticks: int, publish: Callable[[Decision], None]) -> None:
        self.failing: set[int] = set()
        self._ticks, self._publish = ticks, publish

    def ticks(self) -> Iterator[float]:
        return (T0 + 15.0 * index for index in range(self._ticks))

    def observe(self, now: float, /) -> Observation:
        if round((now - T0) / 15.0) in self.failing:
            raise CannotSee("script: refused")
        return Observation(now, told(now), source="script")

    def enact(self, decision: Decision, /) -> None:
        self._publish(decision)


class ScriptedSource:
    """A metric source that says what the script says."""

    name = "script"

    def __init__(self, failing: set[int]) -> None:
        self._failing = failing

    def read(self, now: float, groups: Sequence[Group]) -> Readings:
        if round((now - T0) / 15.0) in self._failing:
            raise SourceError("refused")
        by_name = {str(role.key): role for role in told(now)}
        found = {group.key: self._reading(group.key, by_name[group.match["role"]]) for group in reversed(groups)}
        return Readings(now, found, queries=1, seconds=0.0, notes=("scripted",))

    @staticmethod
    def _reading(name: str, role: RoleObservation) -> Reading:
        values = {signal: getattr(role, field) for signal, field in SIGNALS.items()}
        return Reading(
            name,
            {signal: value for signal, value in values.items() if value is not None},
            sampled_at=role.sampled_at,
            reporting=role.reporting,
            replicas_reporting=role.reporting,
            targets=role.replicas,
            targets_up=role.ready,
            rate_engines=role.rate_engines,
        )

    def close(self) -> None:
        pass


class Clock:
    """Fifteen seconds later each time the world looks again; stops it after so many ticks."""

    def __init__(self, ticks: int, stop: Event) -> None:
        self.now, self._left, self._stop = T0, ticks, stop

    def __call__(self) -> float:
        return self.now

    def ended(self, _decision: Decision) -> None:
        self.now += 15.0
        self._left -= 1
        if self._left == 0:
            self._stop.set()


class ScriptedTrial:
    def __init__(self, ticks: int) -> None:
        self.published: list[Decision] = []
        self.world: World = Scripted(ticks, self.published.append)
        self.failing = self.world.failing


class LiveTrial:
    def __init__(self, ticks: int) -> None:
        self.published: list[Decision] = []
        self.failing: set[int] = set()
        stop = Event()
        clock = Clock(ticks, stop)

        def publish(decision: Decision) -> None:
            self.published.append(decision)
            clock.ended(decision)

        groups = {each: Group(f"group of {each}", {"role": str(each)}) for each in KEYS}
        self.world = LiveWorld(
            ScriptedSource(self.failing), groups, publish, clock=clock, interval_s=15.0, stop=stop,
            stocks=(Stock("gpu", free=40),),
        )  # fmt: skip


@pytest.fixture(params=[ScriptedTrial, LiveTrial])
def trial(request: pytest.FixtureRequest) -> Trial:
    made: Trial = request.param(4)
    return made


def ignored(_seen: Observation, _decision: Decision, _memory: Memory, /) -> None:
    pass


def test_every_configured_role_is_observed_in_order(trial: Trial) -> None:
    seen: list[Observation] = []
    run(trial.world, RULES, Memory(), lambda observed, _decision, _memory: seen.append(observed))
    assert len(seen) == 4
    for observed in seen:
        assert tuple(role.key for role in observed.roles) == KEYS
        assert observed.source == "script"
        assert observed.failure is None


def test_ticks_end_and_each_has_its_own_time(trial: Trial) -> None:
    memory = run(trial.world, RULES, Memory(), ignored)
    assert [decision.at for decision in trial.published] == [T0, T0 + 15.0, T0 + 30.0, T0 + 45.0]
    assert memory.at == T0 + 45.0


def test_every_tick_is_published_once_with_every_role(trial: Trial) -> None:
    run(trial.world, RULES, Memory(), ignored)
    assert len(trial.published) == 4
    assert {tuple(role.key for role in decision.roles) for decision in trial.published} == {KEYS}


def test_what_cannot_be_seen_is_held_and_named(trial: Trial) -> None:
    trial.failing.add(1)
    run(trial.world, RULES, Memory(), ignored)
    before, blind, after = trial.published[:3]
    assert [role.desired for role in blind.roles] == [role.desired for role in before.roles]
    assert blind.failure == "script: refused"
    assert after.failure is None


def test_a_world_blind_from_its_first_tick_wishes_nothing(trial: Trial) -> None:
    trial.failing.update(range(4))
    run(trial.world, RULES, Memory(), ignored)
    assert {role.desired for decision in trial.published for role in decision.roles} == {None}


def test_a_silent_role_is_blind_and_the_others_are_not(trial: Trial) -> None:
    run(trial.world, RULES, Memory(), ignored)
    assert [role.blind is not None for role in trial.published[0].roles] == [False, False, True]


def test_both_worlds_lead_to_the_same_decisions() -> None:
    """Stocks apart, which the script leaves out: they are not scarce."""
    scripted, live = ScriptedTrial(4), LiveTrial(4)
    for one in (scripted, live):
        run(one.world, RULES, Memory(), ignored)
    assert [[role.sentence for role in decision.roles] for decision in scripted.published] == [
        [role.sentence for role in decision.roles] for decision in live.published
    ]


def test_a_stopped_live_world_does_not_tick() -> None:
    stop = Event()
    stop.set()
    world = LiveWorld(ScriptedSource(set()), {}, lambda _: None, clock=lambda: T0, interval_s=15.0, stop=stop)
    assert list(world.ticks()) == []


def test_a_disabled_role_is_published_as_such_with_every_tick() -> None:
    board = Board(Limits(45.0, 120.0), lambda: T0)
    disabled = Wish("llm", {WORKLOAD_LABEL: "off", ROLE_LABEL: "decode"}, {}, disabled="`enabled: false`")
    publisher = Publisher(board, Telemetry(board), Status("script", 15.0, T0), [disabled])
    live = LiveTrial(2)
    run(live.world, RULES, Memory(), ignored)
    for decision in live.published:
        publisher.publish(decision)
        published = board.latest()
        assert published is not None
        assert [wish.disabled for wish in published.wishes] == [None, None, None, "`enabled: false`"]
        assert published.wishes[-1].values == {}
