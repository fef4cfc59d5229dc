"""`tidegate run`: the loop with its doors open, from start to clean end."""

from __future__ import annotations

import gc
import json
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import structlog
from fastapi import APIRouter
from fastapi.responses import JSONResponse, RedirectResponse

from autoscaler import __version__, authority, build, store
from autoscaler.authority import is_loopback
from autoscaler.cluster.live import LiveWorld
from autoscaler.dashboard.api import Dashboard
from autoscaler.dashboard.chronicle import Chronicle, replicas_of
from autoscaler.dashboard.replay import Replay
from autoscaler.errors import BadMemory, BadSettings
from autoscaler.journal import Journal
from autoscaler.keda_door import keda_door
from autoscaler.loop import run
from autoscaler.memory import Memory
from autoscaler.publishing import Publisher, Status
from metrics_adapter.board import Board, Limits
from metrics_adapter.custom import CustomMetrics
from metrics_adapter.discovery import Discovery, Documents
from metrics_adapter.exposition import Exposition, Telemetry
from metrics_adapter.external import ExternalMetrics
from metrics_adapter.gate_meter import GateCounts
from metrics_adapter.keda_rest import KedaRest
from metrics_adapter.server import Server, ServerError, compose
from metrics_adapter.tls import ServingCertificate, TlsError, self_signed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from autoscaler.build import Parts
    from autoscaler.cluster.live import Cluster
    from autoscaler.model import Decision, Observation
    from autoscaler.settings import Settings
    from metrics_adapter.identity import Trust
    from metrics_adapter.keda_server import KedaServer
    from metrics_adapter.signals import Group, MetricSource, Readings

log = structlog.get_logger(__name__)

CACHES_S = 60.0
"""How long the first tick waits for the cluster's caches; until then the API answers 503, and an HPA holds."""
SAVE_EVERY_S = 30.0
"""Memory is saved at most this often, and when a wish changed: a kill in between loses history, never a wish."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The servers, for their addresses."""

    api: Server
    status: Server
    keda: KedaServer | None = None


def serve(parts: Parts, *, ready_file: Path | None = None, clock: Callable[[], float] = time.time) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        parts: what to run.
        ready_file: written as JSON with the servers' addresses once they listen.
        clock: Unix seconds.

    Raises:
        BadSettings: an address is taken, a certificate cannot be used, a file cannot be written.
    """
    settings = parts.settings
    stop = Event()
    collect_rarely()
    with ExitStack() as stack:
        _stop_on_signals(stop, stack)
        board = Board(Limits(settings.serving.soft_age_s, settings.serving.hard_age_s), clock)
        telemetry = Telemetry(board)
        status = Status(settings.source.kind, settings.loop.interval_s, clock())
        chronicle = _chronicle(parts, clock())
        doors = _open_doors(settings, board, telemetry, status, _dashboard(settings, chronicle, stack), stack, clock)
        source = build.source(settings, clock)
        stack.callback(source.close)
        publisher = Publisher(
            board,
            telemetry,
            status,
            settings.forecast.quantile,
            parts.disabled,
            chronicle,
            build.aims(settings),
            refuses_infeasible=settings.serving.infeasible == "refuse",
        )
        recorder = Recorder(settings, publisher, telemetry, clock)
        memory = build.recalled(recorder.restored(), source, parts, clock())
        if ready_file is not None:
            _announce(ready_file, doors)
        log.info(
            "tidegate runs", version=__version__, source=source.name, api=doors.api.url, status=doors.status.url,
            roles=len(parts.groups), interval_s=settings.loop.interval_s,
        )  # fmt: skip
        cluster = _cluster(parts, publisher, stack, stop, clock)
        world = LiveWorld(
            Timed(source, recorder.watch),
            parts.groups,
            publisher.publish,
            clock=clock,
            interval_s=settings.loop.interval_s,
            stop=stop,
            stocks=parts.stocks,
            counts=build.replica_counts(settings, source),
            starts=build.replica_starts(settings, source),
            cluster=cluster,
        )
        final = run(world, parts.rules, memory, recorder)
        recorder.close(final)
        log.info("tidegate ends", ticks=status.plain()["ticks"])


def _cluster(
    parts: Parts, publisher: Publisher, stack: ExitStack, stop: Event, clock: Callable[[], float]
) -> Cluster | None:
    """Eyes and hands for the cluster, once its caches are filled; None where none is watched."""
    if not parts.settings.cluster.enabled:
        return None
    from autoscaler.build_cluster import open_room  # noqa: PLC0415 - the client takes 0.4 s; only here is it needed

    room = open_room(parts.settings, parts, publisher.publish, stack, clock)
    if not room.wait_ready(CACHES_S, stop) and not stop.is_set():
        log.warning("going on without the cluster until it is seen", reason=room.why_not_ready())
    return room


def collect_rarely() -> None:
    """Let Python look for reference cycles less often: 100,000 new objects apart instead of 700.

    A tick of 1,000 roles makes about as many, which live until the next one; going through them took 15 % of the tick.
    """
    gc.set_threshold(100_000)


def _stop_on_signals(stop: Event, stack: ExitStack) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        before = signal.signal(name, lambda *_: stop.set())
        stack.callback(signal.signal, name, before)


@dataclass(slots=True)
class Stopwatch:
    """When the present tick began, and how long looking took (monotonic seconds)."""

    began: float = 0.0
    observed: float = 0.0


class Timed:
    """A source that notes how long a look took, for the tick's stage times."""

    def __init__(self, source: MetricSource, watch: Stopwatch) -> None:
        self.name = source.name
        self._source = source
        self._watch = watch

    def read(self, now: float, groups: Sequence[Group]) -> Readings:
        """As the source's, timed."""
        self._watch.began = time.monotonic()
        try:
            return self._source.read(now, groups)
        finally:
            self._watch.observed = time.monotonic() - self._watch.began

    def close(self) -> None:
        """Close the source."""
        self._source.close()


class Recorder:
    """Writes each tick to the journal, the saved memory, the log and our own metrics."""

    def __init__(
        self, settings: Settings, publisher: Publisher, telemetry: Telemetry, clock: Callable[[], float]
    ) -> None:
        loop = settings.loop
        self._publisher = publisher
        self._telemetry = telemetry
        self._clock = clock
        self._memory_file = Path(loop.memory_file) if loop.memory_file else None
        self._journal = _journal(settings)
        self._saved_at = 0.0
        self.watch = Stopwatch()

    def restored(self) -> Memory:
        """What was remembered when the last process ended; nothing, said aloud, when it cannot be read."""
        if self._memory_file is None:
            return Memory()
        try:
            memory = store.load(self._memory_file)
        except BadMemory as error:
            log.warning("starting without memory; nothing shrinks for a while", reason=str(error))
            return Memory()
        if memory is not None:
            log.info("memory restored", file=str(self._memory_file), roles=len(memory.roles), at=memory.at)
        return memory or Memory()

    def __call__(self, seen: Observation, decision: Decision, memory: Memory, /) -> None:
        """One tick has been decided."""
        changed = list(self._publisher.changes(decision))
        for role in changed:
            log.info("wish", role=str(role.key), desired=role.desired, why=role.sentence)
        self._publisher.note(seen, decision)
        try:
            if self._journal is not None:
                self._journal.write(seen, decision)
            if changed or self._clock() - self._saved_at >= SAVE_EVERY_S:
                self.save(memory)
        except OSError as error:
            log.warning("cannot write down the tick; deciding goes on", reason=str(error))
        spent = time.monotonic() - self.watch.began
        stages = {"observe": self.watch.observed, "decide": max(spent - self.watch.observed, 0.0)}
        self._telemetry.ticked(stages, blind=decision.blind)

    def close(self, memory: Memory) -> None:
        """Save for the next process; a disk that is full then costs history, not a clean end."""
        try:
            self.save(memory)
        except OSError as error:
            log.warning("cannot save memory; the next start will be without it", reason=str(error))

    def save(self, memory: Memory) -> None:
        """Save memory now. Raises OSError."""
        if self._memory_file is not None:
            store.save(memory, self._memory_file)
            self._saved_at = self._clock()


def _journal(settings: Settings) -> Journal | None:
    if settings.loop.journal_file is None:
        return None
    try:
        return Journal(Path(settings.loop.journal_file), build.journal_bytes(settings))
    except OSError as error:
        raise BadSettings((f"loop.journal_file: cannot be written: {error}",)) from None


def metrics_apis(
    settings: Settings, board: Board, telemetry: Telemetry
) -> tuple[Documents, ExternalMetrics, CustomMetrics]:
    """Discovery and the metrics APIs. Raises ValueError for groups that cannot be."""
    serving = settings.serving
    shown = Discovery(serving.discovery)
    external = ExternalMetrics(board, telemetry, serving.group, shown)
    custom = CustomMetrics(board, telemetry, serving.custom_group, shown)
    documents = Documents((external.described(), custom.described()))
    return documents, external, custom


def _certificate(
    settings: Settings, clock: Callable[[], float], trust: Callable[[], Trust | None] | None = None
) -> ssl.SSLContext:
    tls = settings.serving.tls
    try:
        if tls.cert_file is not None and tls.key_file is not None:
            return ServingCertificate(Path(tls.cert_file), Path(tls.key_file), clock, trust=trust).context
        directory = Path(tls.directory)
        made = self_signed(directory, tls.names, clock())
        return ServingCertificate(
            made.cert, made.key, clock, lambda: self_signed(directory, tls.names, clock()), trust
        ).context
    except TlsError as error:
        raise BadSettings((f"serving.tls: {error}",)) from None


def _chronicle(parts: Parts, now: float) -> Chronicle:
    settings = parts.settings
    prices = {rung.accelerator: rung.price_per_gpu_hour for rung in parts.rules.supply}
    replicas = replicas_of(parts.rules.roles, prices)
    return Chronicle(settings.source.kind, settings.loop.interval_s, now, replicas)


def _dashboard(settings: Settings, chronicle: Chronicle, stack: ExitStack) -> Dashboard:
    journal = settings.loop.journal_file
    found = Dashboard(chronicle, Replay(Path(journal), chronicle.replicas) if journal else None)
    stack.callback(found.close)
    return found


def _open_doors(
    settings: Settings,
    board: Board,
    telemetry: Telemetry,
    status: Status,
    dashboard: Dashboard,
    stack: ExitStack,
    clock: Callable[[], float],
) -> Doors:
    serving = settings.serving
    try:
        documents, external, custom = metrics_apis(settings, board, telemetry)
        gated = authority.opened(serving, GateCounts(telemetry.registry), stack)
        gate, trust = (gated[0], gated[1].trust) if gated else (None, None)
        own = Exposition(board, telemetry).router()
        rest = KedaRest(board, telemetry).router()
        app = compose([documents.router(), own, rest], telemetry, gate, [external, custom])
        api = Server(app, serving.host, serving.port, _certificate(settings, clock, trust))
        shown = [status_router(status)]
        if serving.dashboard == "open" or is_loopback(serving.status_host):
            shown.append(dashboard.router())
        plain = Server(compose([own, *shown], telemetry), serving.status_host, serving.status_port)
        scaler = keda_door(serving, board, telemetry, stack, clock)
        stack.enter_context(api)
        stack.enter_context(plain)
    except (ServerError, ValueError) as error:
        raise BadSettings((f"serving: {error}",)) from None
    return Doors(api, plain, scaler)


def status_router(status: Status) -> APIRouter:
    """The state as one JSON document, and the way to the dashboard."""
    router = APIRouter(redirect_slashes=False)

    async def home(_request: object) -> RedirectResponse:
        return RedirectResponse("dashboard/")

    async def data(_request: object) -> JSONResponse:
        return JSONResponse(status.plain(), headers={"Cache-Control": "no-store"})

    router.add_route("/", home, methods=["GET", "HEAD"])
    router.add_route("/status.json", data, methods=["GET", "HEAD"])
    return router


def _announce(path: Path, doors: Doors) -> None:
    part = path.with_name(path.name + ".part")
    addresses = {"api": doors.api.url, "status": doors.status.url}
    if doors.keda is not None:
        addresses["keda"] = doors.keda.address
    try:
        part.write_text(json.dumps(addresses), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise BadSettings((f"--ready-file: cannot be written: {error}",)) from None
