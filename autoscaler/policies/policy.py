"""What a policy is: a pure function from what is seen and what it remembers to a decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation
    from autoscaler.rules import RoleRules, SupplyRules


@dataclass(frozen=True, slots=True)
class Scene:
    """What every policy is told about its world: the roles with bounds, prices and targets, and the supply."""

    roles: tuple[RoleRules, ...]
    supply: tuple[SupplyRules, ...] = ()


@dataclass(frozen=True, slots=True)
class Follow:
    """How an HPA follows this policy's wish; part of the policy, because each ships its own manifest.

    Attributes:
        sync_s: between two looks of the HPA.
        tolerance: its dead band; 0 where `behavior.*.tolerance: "0"` is set, 0.1 by default.
        stabilise_up_s, stabilise_down_s: windows of the minimum (up) and maximum (down) recommendation.
        most_up_pods, most_up_share: per 15 s, the larger of the two; None for no limit.
        direct: the policy writes `/scale` itself; nothing is in between.
    """

    sync_s: float = 15.0
    tolerance: float = 0.1
    stabilise_up_s: float = 0.0
    stabilise_down_s: float = 300.0
    most_up_pods: int | None = 4
    most_up_share: float | None = 1.0
    direct: bool = False


class Policy(Protocol):
    """A way to decide. `Memory` is whatever it wants to remember: an immutable value, passed back at the next tick."""

    @property
    def name(self) -> str:
        """As on the command line, such as `keda-queue`."""
        ...

    @property
    def interval_s(self) -> float:
        """Seconds between its ticks."""
        ...

    @property
    def follow(self) -> Follow:
        """How its wish becomes replicas."""
        ...

    def start(self, scene: Scene) -> Any:
        """Its memory before the first tick."""
        ...

    def decide(self, seen: Observation, memory: Any, scene: Scene) -> tuple[Decision, Any]:
        """Decide for every role of the scene; one that nobody reported on keeps what it has."""
        ...
