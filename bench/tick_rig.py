"""The loop put together as `tidegate run` does it, with a clock around every stage."""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING

from tick_stages import Stages

from autoscaler import build, service, store
from autoscaler import tick as ticking
from autoscaler.cluster.live import LiveWorld
from autoscaler.journal import Journal
from autoscaler.publishing import Publisher, Status
from metrics_adapter import prometheus
from metrics_adapter.board import Board, Limits
from metrics_adapter.exposition import Telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.build import Parts
    from autoscaler.memory import Memory
    from autoscaler.model import Decision
    from metrics_adapter.signals import Group, MetricSource, Readings


class Counting:
    """A source that keeps its last readings for the figures."""

    def __init__(self, source: MetricSource) -> None:
        self.name = source.name
        self.readings: list[Readings] = []
        self._source = source

    def read(self, now: float, groups: Sequence[Group]) -> Readings:
        """As the source's."""
        self.readings.append(self._source.read(now, groups))
        return self.readings[-1]

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def instrumented(stages: Stages, source: prometheus.PrometheusSource) -> None:
    """Put a clock around every stage. Inner stages are taken off outer ones."""
    for owner, attribute, name in (
        (source, "_vocabularies", "discovery"),
        (source, "read", "queries"),
        (prometheus, "assemble", "join"),
        (ticking, "saw", "memory, learning"),
        (ticking, "_demands", "demand, forecast"),
        (ticking, "supply_plan", "plan"),
        (ticking, "guarded", "guards"),
        (store, "save", "save"),
        (Journal, "write", "journal"),
        (Publisher, "note", "status page"),
    ):
        stages.wrap(owner, attribute, name)


class Rig:
    """The loop's parts as `tidegate run` puts them together, with a clock around every stage."""

    def __init__(self, parts: Parts) -> None:
        settings = parts.settings
        service.collect_rarely()
        self.parts, self.stages = parts, Stages()
        source = build.prometheus_source(settings)
        instrumented(self.stages, source)
        self.source = Counting(source)
        board = Board(Limits(settings.serving.soft_age_s, settings.serving.hard_age_s), time.time)
        telemetry = Telemetry(board)
        status = Status("prometheus", settings.loop.interval_s, time.time())
        publisher = Publisher(board, telemetry, status, parts.disabled)
        self.recorder = service.Recorder(settings, publisher, telemetry, time.time)
        self.world = LiveWorld(
            service.Timed(self.source, self.recorder.watch),
            parts.groups,
            publisher.publish,
            clock=time.time,
            interval_s=settings.loop.interval_s,
            stop=Event(),
            stocks=parts.stocks,
        )

    def tick(self, now: float, memory: Memory) -> tuple[Decision, Memory]:
        """One turn of the loop."""
        stages = self.stages
        stages.next()
        with stages.stage("observation"):
            seen = self.world.observe(now)
        with stages.stage("rest of deciding"):
            decision, memory = ticking.tick(seen, memory, self.parts.rules)
        with stages.stage("rest of recording"):
            self.recorder(seen, decision, memory)
        with stages.stage("board, metrics"):
            self.world.enact(decision)
        return decision, memory
