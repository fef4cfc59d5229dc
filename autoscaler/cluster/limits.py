"""How much may be done within an hour, and what failed too often to be tried again for now.

Both survive a restart as far as the cluster remembers: marks on training and the nodes we made carry their times.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster.actions import Action, Preempt, Provision
from autoscaler.cluster.actuators import LAST_MARK
from autoscaler.cluster.objects import MANAGED
from autoscaler.cluster.training import Mark

if TYPE_CHECKING:
    from autoscaler.cluster.hand import Hand
    from autoscaler.cluster.sight_types import Snapshot
    from autoscaler.settings_cluster import ActionBudget, QuarantineSettings

log = structlog.get_logger(__name__)
HOUR_S = 3600.0
DENIED_S = 60.0
"""A right that is missing is asked for this often: it concerns every object of its kind, so none is to blame."""


class Limits:
    """Says what may not be done now, and is told what was done and what failed."""

    def __init__(self, budget: ActionBudget, quarantine: QuarantineSettings) -> None:
        self._budget, self._quarantine = budget, quarantine
        self._failures: Counter[str] = Counter()
        self._quarantined: dict[str, float] = {}
        self._denied: dict[Hand, float] = {}
        self._preempted: deque[tuple[float, str, int]] = deque()
        self._ordered: deque[tuple[float, str]] = deque()

    def why_not(self, action: Action, key: str, seen: Snapshot) -> str | None:
        """Why an action must wait; None when it need not. What was begun may always be finished."""
        if seen.at < self._denied.get(action.hand, 0.0):
            return f"the right to {action.hand} is missing; asking again every {DENIED_S:g} s"
        until = self._quarantined.get(key)
        if until is not None:
            if seen.at < until:
                return f"quarantined after {self._quarantine.failures} failures in a row"
            del self._quarantined[key]
            self._failures.pop(key, None)
        if isinstance(action, Preempt):
            marks, most = self.preempted(seen), self._budget.gpus_preempted_per_hour
            used = sum(marks.values())
            if action.mark.action not in marks and used + action.gang.gpus > most:
                return f"budget: {used} of {most} GPUs were preempted within the hour, and it has {action.gang.gpus}"
        if isinstance(action, Provision):
            made, most = self.ordered(seen), self._budget.nodes_per_hour
            if action.name not in made and len(made) >= most:
                return f"budget: {len(made)} of {most} nodes were ordered within the hour"
        return None

    def preempted(self, seen: Snapshot) -> dict[str, int]:
        """GPUs preempted within the hour, by action: what we remember, and the marks in the cluster."""
        marks = {mark: gpus for at, mark, gpus in self._preempted if at > seen.at - HOUR_S}
        noted = [one.mark for one in seen.training]
        noted += [Mark.read(one.meta.annotations.get(LAST_MARK)) for one in seen.training]
        noted += [Mark.read(p.meta.annotations.get("tidegate.dev/preempted")) for g in seen.gangs for p in g.group.pods]
        return marks | {mark.action: mark.gpus for mark in noted if mark is not None and mark.at > seen.at - HOUR_S}

    def ordered(self, seen: Snapshot) -> set[str]:
        """Nodes ordered within the hour: what we remember, and the claims in the cluster."""
        made = {name for at, name in self._ordered if at > seen.at - HOUR_S}
        return made | {
            claim.meta.name
            for claim in seen.claims
            if MANAGED in claim.meta.labels and (claim.meta.created or 0.0) > seen.at - HOUR_S
        }

    def done(self, action: Action, now: float) -> None:
        """It was carried out."""
        if isinstance(action, Preempt):
            self._preempted.append((now, action.mark.action, action.gang.gpus))
        if isinstance(action, Provision):
            self._ordered.append(
                (now, action.name if action.settings.by.kind == "nodeclaim" else f"{action.name}@{now}")
            )
        for told in (self._preempted, self._ordered):
            while told and told[0][0] <= now - HOUR_S:
                told.popleft()

    def succeeded(self, key: str) -> None:
        """It had its effect: what failed before no longer counts."""
        self._failures.pop(key, None)

    def failed(self, action: Action, key: str, now: float) -> None:
        """It failed for good, or had no effect."""
        self._failures[key] += 1
        if self._failures[key] >= self._quarantine.failures:
            self._quarantined[key] = now + self._quarantine.for_s
            log.warning("quarantined", about=action.about, failures=self._failures[key], for_s=self._quarantine.for_s)

    def denied(self, action: Action, now: float) -> None:
        """RBAC does not allow it."""
        self._denied[action.hand] = now + DENIED_S

    def may(self, hand: Hand, now: float) -> bool:
        """Whether the right to it is not known to be missing."""
        return now >= self._denied.get(hand, 0.0)

    def quarantined(self, kinds: tuple[str, ...], now: float) -> frozenset[str]:
        """Objects of which actions of these kinds failed too often, by name alone."""
        return frozenset(
            key.rpartition("/")[2]
            for key, until in list(self._quarantined.items())  # asked by the loop's thread too
            if now < until and key.partition(":")[0] in kinds
        )

    def spared(self, seen: Snapshot) -> frozenset[str]:
        """Gangs whose taking is quarantined: others must be chosen."""
        return frozenset(
            key.partition(":")[2]
            for key, until in self._quarantined.items()
            if seen.at < until and key.startswith("Preempt:")
        )
