"""Replica counts from kube-state-metrics in the same Prometheus: what the controllers say, not what can be scraped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autoscaler.model import RoleKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.settings import Settings
    from metrics_adapter.prometheus import PrometheusSource

SERIES = {
    "Deployment": ("deployment", "kube_deployment_status_replicas_ready", "kube_deployment_status_replicas"),
    "StatefulSet": ("statefulset", "kube_statefulset_status_replicas_ready", "kube_statefulset_status_replicas"),
}
"""Label that names the object, series of ready and of existing replicas (kube-state-metrics 2.x)."""


class KubeStateCounts:
    """Two queries per kind of workload, however many pools."""

    def __init__(self, source: PrometheusSource, settings: Settings) -> None:
        self._source = source
        self._wanted: dict[str, dict[tuple[str, str], RoleKey]] = {}
        for pool in settings.pools:
            for role, own in pool.roles.items():
                if pool.enabled and own.target is not None and own.target.kind in SERIES:
                    key = RoleKey(pool.namespace, pool.name, role)
                    self._wanted.setdefault(own.target.kind, {})[pool.namespace, own.target.name] = key

    def read(self, now: float) -> Mapping[RoleKey, tuple[int | None, int | None]]:
        """(ready, existing) by role. Raises SourceError."""
        found: dict[RoleKey, tuple[int | None, int | None]] = {}
        for kind, wanted in self._wanted.items():
            label, ready_series, existing_series = SERIES[kind]
            ready = self._by_name(ready_series, label, now)
            existing = self._by_name(existing_series, label, now)
            for name, key in wanted.items():
                if name in ready or name in existing:
                    found[key] = ready.get(name), existing.get(name)
        return found

    def _by_name(self, series: str, label: str, now: float) -> dict[tuple[str, str], int]:
        query = f"max by (namespace, {label}) ({series})"
        rows = self._source.range(query, now, now, 1.0)
        return {
            (labels.get("namespace", ""), labels.get(label, "")): round(points[-1][1])
            for labels, points in rows
            if points and math.isfinite(points[-1][1])
        }
