"""From decisions to what the doors read: the board, our own metrics, the state in brief, and the dashboard's day."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from autoscaler.journal import plain_decision
from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Metric, Published, Wish
from metrics_adapter.exposition import PoolGauges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoscaler.dashboard.chronicle import Chronicle
    from autoscaler.model import Decision, Observation, RoleDecision
    from metrics_adapter.board import Board
    from metrics_adapter.exposition import Telemetry

POINTS = 240
"""Points kept per role for the status page: an hour at 15 s."""
MOST_CHARTED = 64
"""Roles whose history is kept; beyond it the page lists numbers only."""
SENTENCES = 200
"""Decisions in words kept for the status page."""


def wish(decided: RoleDecision) -> Wish:
    """One role's decision as the board holds it."""
    values = {
        Metric.DESIRED.value: decided.desired,
        Metric.CURRENT.value: decided.ready,
        Metric.STARTING.value: decided.starting,
    }
    return Wish(
        namespace=decided.key.namespace,
        labels={WORKLOAD_LABEL: decided.key.pool, ROLE_LABEL: decided.key.role.value},
        values={name: float(value) for name, value in values.items() if value is not None},
        sampled_at=decided.sampled_at,
        blind=decided.blind,
    )


def gauges(decided: RoleDecision, quantile: float) -> PoolGauges:
    """One role's reckoning as our own metrics show it."""
    return PoolGauges(
        decided.key.namespace,
        decided.key.pool,
        decided.key.role.value,
        demand=decided.load,
        velocity=decided.velocity.tokens if decided.velocity else None,
        forecast={quantile: decided.forecast} if decided.forecast is not None else None,
    )


def kind(before: int | None, decided: RoleDecision) -> str:
    """What sort of decision this is, for counting: `blind`, `first`, `up`, `down`, `hold`."""
    if decided.blind is not None:
        return "blind"
    if before is None or decided.desired is None:
        return "first"
    if decided.desired == before:
        return "hold"
    return "up" if decided.desired > before else "down"


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts since the process started."""

    ticks: int = 0
    changes: int = 0
    blind_ticks: int = 0


class Status:
    """What the status page shows. Written by the loop, read by server threads; bounded however many pools there are."""

    def __init__(self, source: str, interval_s: float, started_at: float) -> None:
        self._lock = Lock()
        self._head = {"source": source, "interval_s": interval_s, "started_at": started_at}
        self._tally = Tally()
        self._history: dict[str, deque[list[float | None]]] = {}
        self._said: deque[dict[str, Any]] = deque(maxlen=SENTENCES)
        self._latest: dict[str, Any] = {}

    def note(self, seen: Observation, decision: Decision, before: dict[str, int | None]) -> None:
        """Remember one tick; `before` holds the wishes before it."""
        changed = [r for r in decision.roles if r.desired is not None and before.get(str(r.key)) != r.desired]
        plain = plain_decision(decision)
        with self._lock:
            tally = self._tally
            self._tally = Tally(tally.ticks + 1, tally.changes + len(changed), tally.blind_ticks + decision.blind)
            self._said.extend(_said(decision.at, before.get(str(role.key)), role) for role in changed)
            for role in decision.roles[:MOST_CHARTED]:
                points = self._history.setdefault(str(role.key), deque(maxlen=POINTS))
                points.append([decision.at, role.load, role.forecast, role.desired, role.ready, role.starting])
            self._latest = {
                "at": decision.at,
                "failure": decision.failure,
                "notes": list(seen.notes),
                "plan": plain.get("plan"),
                "roles": [
                    {**shown, "key": str(role.key), "sentence": role.sentence}
                    for role, shown in zip(decision.roles, plain["roles"], strict=True)
                ],
            }

    def plain(self) -> dict[str, Any]:
        """Everything, as JSON's own types."""
        with self._lock:
            return {
                **self._head,
                "ticks": self._tally.ticks,
                "changes": self._tally.changes,
                "blind_ticks": self._tally.blind_ticks,
                **self._latest,
                "said": list(self._said),
                "history": {key: list(points) for key, points in self._history.items()},
            }


def _said(at: float, before: int | None, changed: RoleDecision) -> dict[str, Any]:
    """A changed wish for the status page: from and to, in brief and in full."""
    return {
        "at": at,
        "key": str(changed.key),
        "before": before,
        "desired": changed.desired,
        "brief": changed.brief,
        "text": changed.sentence,
    }


class Publisher:
    """Takes each tick's decision to the board, the metrics and the status page."""

    def __init__(
        self,
        board: Board,
        telemetry: Telemetry,
        status: Status,
        quantile: float,
        disabled: Sequence[Wish] = (),
        chronicle: Chronicle | None = None,
    ) -> None:
        self._board = board
        self._telemetry = telemetry
        self._status = status
        self._quantile = quantile
        self._disabled = tuple(disabled)
        self._chronicle = chronicle
        self._before: dict[str, int | None] = {}

    def publish(self, decision: Decision) -> None:
        """Swap the board's snapshot and bring the gauges up to date."""
        wishes = tuple(wish(role) for role in decision.roles)
        self._board.publish(Published(decision.at, wishes + self._disabled))
        self._telemetry.reckoned([gauges(role, self._quantile) for role in decision.roles])

    def note(self, seen: Observation, decision: Decision) -> None:
        """Count the decision and remember it for the status page."""
        if seen.failure is not None:
            self._telemetry.source_failed(seen.source or "source")
        for role in decision.roles:
            self._telemetry.decided(kind(self._before.get(str(role.key)), role))
            for name, _ in role.guards:
                self._telemetry.guard_held(name)
        self._status.note(seen, decision, self._before)
        if self._chronicle is not None:
            self._chronicle.note(seen, decision)
        self._before = {str(role.key): role.desired for role in decision.roles}

    def changes(self, decision: Decision) -> Iterator[RoleDecision]:
        """Roles whose wish differs from the one before."""
        return (role for role in decision.roles if self._before.get(str(role.key)) != role.desired)
