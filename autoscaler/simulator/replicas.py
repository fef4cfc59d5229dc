"""A fleet as pods see it, and how its engines are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.model import Role
    from autoscaler.simulator.engine_types import EngineProfile


class Replicas(Protocol):
    """A fleet as pods see it: replicas that come, stop taking requests, and go."""

    def add(self, role: Role, profile: EngineProfile, noise: Iterator[float] | None, width: float, domain: int) -> int:
        """One is ready; returns its number."""
        ...

    def close(self, number: int) -> None:
        """It takes no more requests."""
        ...

    def empty(self, number: int) -> bool:
        """Whether it has finished what it had."""
        ...

    def remove(self, number: int) -> None:
        """It is gone, with whatever it held."""
        ...

    def busy_for(self, number: int) -> float:
        """Seconds for which a closed replica is sure not to be empty; 0 where that is not known."""
        ...


@dataclass(frozen=True, slots=True)
class Engines:
    """How engines are made: profile, GPUs of a replica, and noise of their steps."""

    profile: EngineProfile
    gpus: int
    noise: Iterator[float]
    width: float
