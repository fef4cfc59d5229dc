"""How long pods took to come up, step by step, from kube-state-metrics in the same Prometheus.

    created -> scheduled -> container started -> ready
      node or schedule     image                engine (weights are within it)

A pod whose node is younger than itself came by a new node, and waited for it; any other found its node prepared.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from autoscaler.model import RoleKey, Start, Step, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.settings import Settings
    from metrics_adapter.prometheus import PrometheusSource

EVERY_S = 60.0
"""Between two looks: a start counts once, so it need not be told at every tick."""
LOOK_BACK_S = 3600.0
"""Pods older than this are not asked about."""
CREATED = "kube_pod_created"
SERIES = ("kube_pod_status_scheduled_time", "kube_pod_container_state_started", "kube_pod_status_ready_time")
"""Gauges in Unix seconds (kube-state-metrics 2.x): when the pod was scheduled, its container started, it was ready."""
NAMES = {"Deployment": "{}-[a-z0-9]+-[a-z0-9]{{5}}", "StatefulSet": "{}-[0-9]+"}
"""How the pods of a workload are called."""

Pod = tuple[str, str]


class KubeStarts:
    """Six queries a minute, however many pools."""

    def __init__(self, source: PrometheusSource, settings: Settings) -> None:
        self._source = source
        self._wanted: list[tuple[RoleKey, re.Pattern[str]]] = []
        self._looked_at = -math.inf
        self._found: Mapping[RoleKey, tuple[Start, ...]] = {}
        for pool in settings.pools:
            for role, own in pool.roles.items():
                if pool.enabled and own.target is not None and own.target.kind in NAMES:
                    pattern = NAMES[own.target.kind].format(re.escape(own.target.name))
                    self._wanted.append((RoleKey(pool.namespace, pool.name, role), re.compile(pattern)))

    def read(self, now: float) -> Mapping[RoleKey, tuple[Start, ...]]:
        """Starts of the last hour by role; the same for a minute. Raises SourceError."""
        if not self._wanted or now - self._looked_at < EVERY_S:
            return self._found
        self._looked_at = now
        young = f"max by (namespace, pod) ({CREATED} > {now - LOOK_BACK_S:.0f})"
        created = self._by_pod(young, now)
        if not created:
            self._found = {}
            return self._found
        scheduled, started, ready = (
            self._by_pod(f"max by (namespace, pod) ({name}) and on (namespace, pod) ({young})", now) for name in SERIES
        )
        on = f"max by (namespace, pod, node) (kube_pod_info) and on (namespace, pod) ({young})"
        nodes = {_pod(labels): labels.get("node", "") for labels, _ in self._rows(on, now)}
        made = {labels.get("node", ""): at for labels, at in self._rows("max by (node) (kube_node_created)", now)}
        starts = {
            pod: _start(pod, at, (scheduled.get(pod), started.get(pod), ready.get(pod)), made.get(nodes.get(pod, "")))
            for pod, at in created.items()
        }
        self._found = {key: self._of(key, pattern, starts) for key, pattern in self._wanted}
        return self._found

    @staticmethod
    def _of(key: RoleKey, pattern: re.Pattern[str], starts: Mapping[Pod, Start | None]) -> tuple[Start, ...]:
        mine = [
            start
            for (namespace, name), start in starts.items()
            if start is not None and namespace == key.namespace and pattern.fullmatch(name)
        ]
        counted = [
            Start(one.name, one.tier, one.asked_at, one.served_at, one.steps, _together(one, mine)) for one in mine
        ]
        return tuple(sorted(counted, key=lambda start: (start.served_at, start.name)))

    def _by_pod(self, query: str, now: float) -> dict[Pod, float]:
        return {_pod(labels): value for labels, value in self._rows(query, now)}

    def _rows(self, query: str, now: float) -> list[tuple[dict[str, str], float]]:
        rows = self._source.range(query, now, now, 1.0)
        return [(labels, points[-1][1]) for labels, points in rows if points and math.isfinite(points[-1][1])]


def _pod(labels: Mapping[str, str]) -> Pod:
    return labels.get("namespace", ""), labels.get("pod", "")


def _together(one: Start, all_: list[Start]) -> int:
    """Starts under way when this one began, itself included."""
    return sum(other.asked_at <= one.asked_at < other.served_at for other in all_) or 1


def _start(
    pod: Pod, created: float, told: tuple[float | None, float | None, float | None], node_made: float | None
) -> Start | None:
    """One pod's start; None while it is not ready, or where its times contradict one another."""
    scheduled, started, ready = told
    if ready is None or ready < created:
        return None
    new_node = node_made is not None and node_made >= created
    marks = [(Step.NODE if new_node else Step.SCHEDULE, scheduled), (Step.IMAGE, started), (Step.ENGINE, ready)]
    steps, before = [], created
    for step, at in marks:
        if at is not None and before <= at <= ready:
            steps.append((step, at - before))
            before = at
    return Start("/".join(pod), Tier.PROVISION if new_node else Tier.START, created, ready, tuple(steps))
