"""One loop for every world: look, decide, record, enact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import structlog

from autoscaler.errors import CannotSee
from autoscaler.model import Decision, Observation, RoleObservation
from autoscaler.tick import tick

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.memory import Memory
    from autoscaler.rules import Rules

log = structlog.get_logger(__name__)


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


def blind_observation(now: float, rules: Rules, reason: str) -> Observation:
    """What is seen when nothing can be: every role without a single report."""
    return Observation(now, tuple(RoleObservation(rule.key) for rule in rules.roles), failure=reason)


def run(world: World, rules: Rules, memory: Memory, record: Record) -> Memory:
    """Tick until the world ends, and return what is then remembered.

    A source that cannot be read makes every role blind for that tick: the last decision is held, and said so.
    """
    for now in world.ticks():
        try:
            seen = world.observe(now)
        except CannotSee as error:
            log.warning("cannot see; holding the last decision", reason=str(error))
            seen = blind_observation(now, rules, str(error))
        decision, memory = tick(seen, memory, rules)
        record(seen, decision, memory)
        world.enact(decision)
    return memory


def replayed(
    observations: Iterator[Observation], rules: Rules, memory: Memory
) -> Iterator[tuple[Observation, Decision]]:
    """Decide again on recorded observations: what a journal's replay and a what-if both do."""
    for seen in observations:
        decision, memory = tick(seen, memory, rules)
        yield seen, decision
