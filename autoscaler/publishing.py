"""From decisions to what the doors read: the board, our own metrics, the state in brief, and the dashboard's day."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from autoscaler.journal import plain_decision
from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Metric, Published, Wish
from metrics_adapter.exposition import PoolGauges
from metrics_adapter.exposition_plan import PlanGauges, TierGauges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.dashboard.chronicle import Chronicle
    from autoscaler.model import Decision, Observation, RoleDecision, RoleKey
    from metrics_adapter.board import Board, Target
    from metrics_adapter.exposition import Telemetry

POINTS = 240
"""Points kept per role for the status page: an hour at 15 s."""
MOST_CHARTED = 64
"""Roles whose history is kept; beyond it the page lists numbers only."""
SENTENCES = 200
"""Decisions in words kept for the status page."""


def wish(decided: RoleDecision, target: Target | None = None, infeasible: str | None = None) -> Wish:
    """One role's decision as the board holds it.

    The ratio is desired over ready replicas; with none ready it is the desired number itself, as the llm-d variant
    autoscaler has it (a ratio over 0 would say nothing).
    """
    ratio = None
    if decided.desired is not None and decided.ready is not None:
        ratio = decided.desired / decided.ready if decided.ready else decided.desired
    values = {
        Metric.DESIRED.value: decided.desired,
        Metric.CURRENT.value: decided.ready,
        Metric.STARTING.value: decided.starting,
        Metric.RATIO.value: ratio,
        Metric.SHORTAGE.value: max(0.0, decided.shortage) if decided.desired is not None else None,
    }
    return Wish(
        namespace=decided.key.namespace,
        labels={WORKLOAD_LABEL: decided.key.pool, ROLE_LABEL: decided.key.role.value},
        values={name: float(value) for name, value in values.items() if value is not None},
        sampled_at=decided.sampled_at,
        blind=decided.blind,
        infeasible=infeasible,
        target=target,
    )


def gauges(decided: RoleDecision) -> PoolGauges:
    """One role's reckoning as our own metrics show it.

    `forecast` is the load at the end of the longest lead time, labelled with the level chosen for that tier (by what
    being short costs, or the configured one). Without a lead time it is the present load, and no forecast is shown.
    """
    level = decided.foreseen[-1].quantile if decided.foreseen else None
    return PoolGauges(
        decided.key.namespace,
        decided.key.pool,
        decided.key.role.value,
        demand=decided.load,
        velocity=decided.velocity.tokens if decided.velocity else None,
        forecast={level: decided.forecast} if level is not None and decided.forecast is not None else None,
        shortage=decided.shortage if decided.planned is not None else None,
        tiers=tuple(_tiers(decided)),
    )


def _tiers(decided: RoleDecision) -> Iterator[TierGauges]:
    """What was foreseen at each tier's lead time, and what is taken from it."""
    taken = {take.tier: float(take.replicas) for take in decided.takes}
    foreseen = {ahead.tier: ahead for ahead in decided.foreseen}
    for tier in dict.fromkeys([*foreseen, *taken]):
        ahead = foreseen.get(tier)
        replicas = taken.get(tier, 0.0 if decided.planned is not None else None)
        if ahead is None:
            yield TierGauges(tier.value, taken=replicas)
        else:
            yield TierGauges(tier.value, ahead.bound, ahead.quantile, ahead.coverage, ahead.lead_s, replicas)


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
        disabled: Sequence[Wish] = (),
        chronicle: Chronicle | None = None,
        targets: Mapping[RoleKey, Target] | None = None,
        *,
        refuses_infeasible: bool = False,
    ) -> None:
        self._board = board
        self._telemetry = telemetry
        self._status = status
        self._disabled = tuple(disabled)
        self._chronicle = chronicle
        self._targets = targets or {}
        self._refuses_infeasible = refuses_infeasible
        self._before: dict[str, int | None] = {}

    def serves(self, disabled: Sequence[Wish], targets: Mapping[RoleKey, Target]) -> None:
        """Other pools are served from now on: these are disabled, and these objects follow."""
        self._disabled, self._targets = tuple(disabled), targets

    def publish(self, decision: Decision) -> None:
        """Swap the board's snapshot and bring the gauges up to date."""
        plan = decision.plan
        why = None
        if self._refuses_infeasible and plan is not None and plan.status == "infeasible":
            why = "; ".join(plan.notes) or "its bounds, stocks and budget clash"
        wishes = tuple(wish(role, self._targets.get(role.key), why) for role in decision.roles)
        self._board.publish(Published(decision.at, wishes + self._disabled))
        whole = PlanGauges(plan.cost, plan.next_best_cost, plan.gap) if plan is not None else None
        self._telemetry.reckoned([gauges(role) for role in decision.roles], whole)

    def note(self, seen: Observation, decision: Decision, planned_s: float | None = None) -> None:
        """Count the decision and remember it for the status page; `planned_s` is what the plan took, where known."""
        if seen.failure is not None:
            self._telemetry.source_failed(seen.source or "source")
        if decision.plan is not None:
            self._telemetry.solved(decision.plan.status, planned_s)
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
