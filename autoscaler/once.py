"""`tidegate once`: a single tick, published nowhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autoscaler import build
from autoscaler.cluster.live import Seen, role_observation
from autoscaler.errors import CannotSee
from autoscaler.memory import Memory
from autoscaler.model import Observation
from autoscaler.tick import tick
from metrics_adapter.scrape import ScrapeSource
from metrics_adapter.signals import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoscaler.build import Parts
    from autoscaler.model import Decision, RoleKey
    from metrics_adapter.signals import Group, MetricSource, Readings

SETTLE_S = 5.0
"""A direct scrape needs two looks before it has a rate; this long apart."""


def decide_once(parts: Parts, now: float) -> tuple[Observation, Decision]:
    """Look and decide as of `now`, without memory.

    A first look knows no history: the forecast has one point, and no role is told to shrink.

    Raises:
        CannotSee: the source cannot be read.
    """
    source = build.source(parts.settings, time.time)
    try:
        readings = read_now(source, tuple(parts.groups.values()), now)
        counts = counts_now(parts, source, now)
    finally:
        source.close()
    there = cluster_now(parts)
    counts = {**counts, **there.counts}
    roles = tuple(
        role_observation(key, readings.by_key[group.key], counts.get(key), there.sleepers.get(key))
        for key, group in parts.groups.items()
    )
    notes = (*readings.notes, *there.notes)
    seen = Observation(readings.at, roles, there.stocks, source.name, notes, supply=there.supply)
    return seen, tick(seen, Memory(), parts.rules)[0]


def cluster_now(parts: Parts) -> Seen:
    """Stock and replicas from the cluster, where one is watched; else the settings' stock."""
    if not parts.settings.cluster.enabled:
        return Seen(parts.stocks)
    from autoscaler.build_cluster import look_once  # noqa: PLC0415 - the client takes 0.4 s; only here is it needed

    return look_once(parts.settings, parts)


def counts_now(parts: Parts, source: MetricSource, now: float) -> Mapping[RoleKey, tuple[int | None, int | None]]:
    """(ready, existing) replicas by role from kube-state-metrics, when the configuration says so. Raises CannotSee."""
    counts = build.replica_counts(parts.settings, source)
    try:
        return counts.read(now) if counts else {}
    except SourceError as error:
        raise CannotSee(f"{source.name}: kube-state-metrics: {error}") from error


def read_now(source: MetricSource, groups: Sequence[Group], now: float) -> Readings:
    """A look with rates: a direct scrape is asked twice, SETTLE_S apart. Raises CannotSee."""
    try:
        readings = source.read(now, groups)
        if isinstance(source, ScrapeSource):
            time.sleep(SETTLE_S)
            readings = source.read(time.time(), groups)
    except SourceError as error:
        raise CannotSee(f"{source.name}: {error}") from error
    return readings
