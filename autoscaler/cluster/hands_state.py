"""What the hands remember between two looks, what became of what they meant to do, and whether they may."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from autoscaler.cluster.actions import Action
    from autoscaler.model import Tier


class Leadership(Protocol):
    """Whether this process may act, and with which token."""

    def token(self) -> int | None:
        """The fencing token while it leads; None while it does not."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """The only process there is."""

    def token(self) -> int | None:
        """Always leads."""
        return 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an intended action: `done`, `would`, `held`, `failed`, `confirmed`, `given up`.

    `unanswered`: the API server did not answer, so that nothing more is worth trying now.
    """

    kind: str
    action: Action
    said: str
    unanswered: bool = False


@dataclass(slots=True)
class InFlight:
    """An action carried out and not confirmed yet."""

    action: Action
    since: float
    visible: bool = False


@dataclass(slots=True)
class State:
    """What the hands remember. All of it can be lost: the cluster holds what matters (marks, names, replicas)."""

    flying: dict[str, InFlight] = field(default_factory=dict)
    owed: dict[str, dict[Tier, tuple[float, int]]] = field(default_factory=dict)
    calm_since: dict[str, float] = field(default_factory=dict)
    idle_since: dict[str, float] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    told: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    waiting: bool = False

    @property
    def restless(self) -> bool:
        """Whether to look again soon: something was begun that is not over."""
        return self.waiting or bool(self.flying)
