"""What is kept of a role's pods: each of them, the replicas wished for, what may be taken for them, their history."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.model import Tier

if TYPE_CHECKING:
    from autoscaler.model import Role, Start, Step
    from autoscaler.simulator.supply import Node

STARTS_TOLD = 64
"""Replicas that came up which an observation still tells of."""
PERMIT_S = 120.0
"""So long a policy's leave to preempt training stays good: the HPA follows its wish only seconds later."""


class PodState(StrEnum):
    """Where a pod is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ASLEEP = "asleep"


SERVING = (PodState.READY, PodState.DRAINING)
"""States in which a pod has weights that others can read."""


@dataclass(slots=True, eq=False)
class Pod:
    """One replica.

    Attributes:
        since: when it was asked for, or began to drain. engine: its number in the fleet once ready.
        stage: counts state changes, so that a timer set for an earlier one finds that it is late.
        steps: seconds of each step of its start. together: starts of its role under way when its own began.
        tier: where its GPUs came from.
    """

    role: Role
    since: float
    state: PodState = PodState.PENDING
    node: Node | None = None
    engine: int = -1
    stage: int = 0
    steps: dict[Step, float] = field(default_factory=dict)
    together: int = 1
    tier: Tier = Tier.START


@dataclass(slots=True)
class Permits:
    """GPUs a role's policy has allowed to be taken from training, and ordered as nodes; good until `until`."""

    preempt: int = 0
    buy: int = 0
    until: float = 0.0


@dataclass(slots=True)
class Book:
    """One role's pods, the replicas its deployment should have, and its history: (s, spec, existing, ready).

    `starts`: the last replicas that came up, in Unix seconds. `tally`: its pods by state.
    """

    pods: list[Pod] = field(default_factory=list)
    spec: int = 0
    permits: Permits = field(default_factory=Permits)
    history: list[tuple[float, int, int, int]] = field(default_factory=list)
    starts: deque[Start] = field(default_factory=lambda: deque(maxlen=STARTS_TOLD))
    tally: dict[PodState, int] = field(default_factory=lambda: dict.fromkeys(PodState, 0))

    def add(self, pod: Pod) -> None:
        """One more pod."""
        self.pods.append(pod)
        self.tally[pod.state] += 1

    def drop(self, pod: Pod) -> None:
        """One less."""
        self.pods.remove(pod)
        self.tally[pod.state] -= 1

    def move(self, pod: Pod, state: PodState) -> None:
        """One of its pods is in this state now."""
        self.tally[pod.state] -= 1
        self.tally[state] += 1
        pod.state = state

    def count(self, state: PodState) -> int:
        """How many of its pods are in this state."""
        return self.tally[state]

    @property
    def existing(self) -> int:
        """`status.replicas`: neither draining nor asleep."""
        tally = self.tally
        return tally[PodState.PENDING] + tally[PodState.STARTING] + tally[PodState.READY]
