"""Replicas of one role and their lives: starting, ready, draining, gone. What a Deployment's controller would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.simulator.engine import Engine

if TYPE_CHECKING:
    from autoscaler.demo.config import RoleConfig


class ReplicaState(StrEnum):
    """Where a replica is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(slots=True, eq=False)
class Replica:
    """One pod.

    Attributes:
        pod: its name.
        state: where it is in its life.
        changes_at: Unix seconds at which starting ends or draining is cut short.
        engine: None while starting.
        owed_tokens: prompt tokens routed to it and not yet computed.
        turn: number of the last request routed to it, so that equals take turns.
        counted: (prompt, output) tokens of it already added to the pool's totals.
    """

    pod: str
    state: ReplicaState
    changes_at: float
    engine: Engine | None = None
    owed_tokens: int = 0
    turn: int = 0
    counted: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Deployment:
    """The replicas of one role.

    Attributes:
        name: `<pool>-<role>`.
        config: engine, bounds, times.
        wanted: spec.replicas.
        replicas: by pod name, oldest first.
        gpu_seconds: GPUs held so far, starting and draining replicas included.
    """

    name: str
    config: RoleConfig
    wanted: int = 0
    replicas: dict[str, Replica] = field(default_factory=dict)
    gpu_seconds: float = 0.0
    _serial: int = 0
    _now: float | None = None

    def in_state(self, state: ReplicaState) -> list[Replica]:
        """Replicas in this state, oldest first."""
        return [replica for replica in self.replicas.values() if replica.state is state]

    @property
    def existing(self) -> int:
        """status.replicas: all that are not on their way out."""
        return len(self.replicas) - len(self.in_state(ReplicaState.DRAINING))

    def open(self, now: float) -> None:
        """Begin with the configured replicas, ready."""
        self._now = now
        self.wanted = self.config.replicas
        for _ in range(self.wanted):
            self._make_ready(self._create(now), now)

    def scale(self, wanted: int, now: float) -> None:
        """Set spec.replicas; those too many go, the youngest starting ones first, then the youngest ready ones."""
        self.wanted = wanted
        for _ in range(self.existing, wanted):
            self._create(now)
        surplus = self.existing - wanted
        if surplus <= 0:
            return
        victims = [*reversed(self.in_state(ReplicaState.STARTING)), *reversed(self.in_state(ReplicaState.READY))]
        for replica in victims[:surplus]:
            if replica.state is ReplicaState.STARTING:
                del self.replicas[replica.pod]
            else:
                replica.state = ReplicaState.DRAINING
                replica.changes_at = now + self.config.drain_seconds

    def advance(self, now: float) -> None:
        """Let starting replicas become ready, and count GPU time."""
        if self._now is not None:
            self.gpu_seconds += len(self.replicas) * self.config.gpus_per_replica * max(0.0, now - self._now)
        self._now = now
        for replica in self.in_state(ReplicaState.STARTING):
            if replica.changes_at <= now:
                self._make_ready(replica, replica.changes_at)

    def drained(self, now: float) -> list[Replica]:
        """Take out the draining replicas that are empty or out of time, and return them."""
        done = [
            replica
            for replica in self.in_state(ReplicaState.DRAINING)
            if replica.engine is None or replica.engine.idle or replica.changes_at <= now
        ]
        for replica in done:
            del self.replicas[replica.pod]
        return done

    def _create(self, now: float) -> Replica:
        self._serial += 1
        pod = f"{self.name}-{self._serial}"
        replica = Replica(pod, ReplicaState.STARTING, now + self.config.startup_seconds)
        self.replicas[pod] = replica
        return replica

    def _make_ready(self, replica: Replica, at: float) -> None:
        replica.state = ReplicaState.READY
        replica.engine = Engine(self.config.engine.profile(), self.config.role, at)
