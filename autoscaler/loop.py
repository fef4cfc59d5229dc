"""One loop for every world: look, decide, record, enact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from autoscaler.errors import CannotSee
from autoscaler.model import Decision, Observation, RoleObservation
from autoscaler.tick import Stage, tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from autoscaler.memory import Memory
    from autoscaler.model import RoleKey
    from autoscaler.rules import Rules

log = structlog.get_logger(__name__)
M = TypeVar("M")


class World(Protocol):
    """Where the loop runs: a cluster, or a simulation of one."""

    def ticks(self) -> Iterator[float]:
        """Times to tick at, Unix seconds; ends when the world ends."""
        ...

    def observe(self, now: float, /) -> Observation:
        """What is seen at `now`. Raises CannotSee when the source as a whole cannot be read."""
        ...

    def enact(self, decision: Decision, /) -> None:
        """Publish the decision and carry it out."""
        ...


class Record(Protocol):
    """Whoever writes down what happened: the journal, the saved memory, the status page."""

    def __call__(self, seen: Observation, decision: Decision, memory: Memory, /) -> None:
        """One tick has been decided."""
        ...


def blind_observation(now: float, keys: Iterable[RoleKey], reason: str) -> Observation:
    """What is seen when nothing can be: every role without a single report."""
    return Observation(now, tuple(RoleObservation(key) for key in keys), failure=reason)


def run_with(
    world: World,
    decide: Callable[[Observation, M], tuple[Decision, M]],
    keys: Sequence[RoleKey],
    memory: M,
    record: Callable[[Observation, Decision, M], None],
) -> M:
    """Tick until the world ends, whoever decides, and return what is then remembered.

    A source that cannot be read makes every role blind for that tick; what that means is the decider's to say.
    """
    for now in world.ticks():
        try:
            seen = world.observe(now)
        except CannotSee as error:
            log.warning("cannot see; holding the last decision", reason=str(error))
            seen = blind_observation(now, keys, str(error))
        decision, memory = decide(seen, memory)
        record(seen, decision, memory)
        world.enact(decision)
    return memory


def _unwatched(_ended: Stage) -> None:
    """Nobody measures."""


def run(
    world: World, rules: Rules, memory: Memory, record: Record, ended: Callable[[Stage], None] = _unwatched
) -> Memory:
    """The loop with our own decider: `tick`, which tells `ended` where it is."""
    keys = [rule.key for rule in rules.roles]
    return run_with(world, lambda seen, known: tick(seen, known, rules, ended), keys, memory, record)


def replayed(
    observations: Iterator[Observation], rules: Rules, memory: Memory
) -> Iterator[tuple[Observation, Decision]]:
    """Decide again on recorded observations: what a journal's replay and a what-if both do."""
    for seen in observations:
        decision, memory = tick(seen, memory, rules)
        yield seen, decision
