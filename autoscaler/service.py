"""`tidegate run`: the loop with its doors open, from start to clean end."""

from __future__ import annotations

import gc
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from autoscaler import __version__, build, store
from autoscaler.cluster.live import LiveWorld
from autoscaler.dashboard.api import Dashboard
from autoscaler.dashboard.chronicle import Chronicle, replicas_of
from autoscaler.dashboard.replay import Replay
from autoscaler.doors import Shown, announce, open_doors
from autoscaler.errors import BadMemory, BadSettings
from autoscaler.journal import Journal
from autoscaler.loop import run
from autoscaler.memory import Memory
from autoscaler.publishing import Publisher, Status
from autoscaler.sharding import own_parts, shard
from autoscaler.sole_writer import SoleWriter
from autoscaler.tick import Stage
from autoscaler.turns import CACHES_S, Others, Turns, without_gone
from metrics_adapter.board import Board, Limits
from metrics_adapter.exposition import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Event

    from autoscaler.build import Parts
    from autoscaler.cluster.live import Cluster
    from autoscaler.dashboard.chronicle import Replica
    from autoscaler.model import Decision, Observation
    from autoscaler.settings import Settings
    from metrics_adapter.signals import Group, MetricSource, Readings

log = structlog.get_logger(__name__)

SAVE_EVERY_S = 30.0
"""Memory is saved at most this often, and when a wish changed: a kill in between loses history, never a wish."""


def serve(parts: Parts, *, ready_file: Path | None = None, clock: Callable[[], float] = time.time) -> None:
    """Run until SIGTERM or SIGINT; then not ready at once, and the doors open for `serving.drain_s` more.

    Args:
        parts: what to run.
        ready_file: written as JSON with the servers' addresses once they listen.
        clock: Unix seconds.

    Raises:
        BadSettings: an address is taken, a certificate cannot be used, a file cannot be written.
    """
    settings = parts.settings
    turns = Turns()
    calm()
    with ExitStack() as stack:
        _stop_on_signals(turns, stack)
        others = Others()
        board = Board(Limits(settings.serving.soft_age_s, settings.serving.hard_age_s), clock)
        telemetry = Telemetry(board)
        status = Status(settings.source.kind, settings.loop.interval_s, clock())
        chronicle = _chronicle(parts, clock())
        shown = _dashboard(settings, chronicle, stack)
        shows = Shown(board, telemetry, status, shown, lambda: turns.ending() or others.unready())
        doors = open_doors(settings, shows, stack, clock)
        source = build.source(settings, clock)
        stack.callback(source.close)
        publisher = Publisher(
            board,
            telemetry,
            status,
            parts.disabled,
            chronicle,
            build.aims(settings),
            refuses_infeasible=settings.serving.infeasible == "refuse",
        )
        recorder = Recorder(settings, publisher, telemetry, clock)
        stack.callback(recorder.let_go)
        memory = build.recalled(recorder.restored(), source, own_parts(parts, shard(settings)), clock())
        if ready_file is not None:
            announce(ready_file, doors)
        log.info(
            "tidegate runs", version=__version__, source=source.name, api=doors.api.url, status=doors.status.url,
            roles=len(parts.groups), interval_s=settings.loop.interval_s,
        )  # fmt: skip
        others.open(settings, publisher, turns, stack, clock)
        while True:
            if others.declarations is not None:
                parts = others.declarations.taken_over(parts)
                publisher.serves(parts.disabled, build.aims(parts.settings))
                chronicle.knows(_replicas(parts))
                own = own_parts(parts, shard(settings))
                memory = build.recalled(without_gone(memory, own, clock()), source, own, clock())
            memory = _turn(parts, memory, source, recorder, (others, turns), clock)
            if turns.over:
                break
            log.info("the pools have changed; the loop begins anew")
            turns.begin()
        recorder.save(memory)
        recorder.let_go()
        others.let_go()
        turns.drain(settings.serving.drain_s)
        log.info("tidegate ends", ticks=status.plain()["ticks"])


def _turn(
    parts: Parts,
    memory: Memory,
    source: MetricSource,
    recorder: Recorder,
    around: tuple[Others, Turns],
    clock: Callable[[], float],
) -> Memory:
    """Run the loop with these pools until it is to end, and return what is then remembered."""
    settings, (others, turns) = parts.settings, around
    with ExitStack() as stack:
        cluster = _cluster(parts, others, stack, turns.event, clock)
        parts = own_parts(parts, shard(settings))
        world = LiveWorld(
            Timed(source, recorder.watch),
            parts.groups,
            others.told(recorder.publish),
            clock=clock,
            interval_s=settings.loop.interval_s,
            stop=turns.event,
            stocks=parts.stocks,
            counts=build.replica_counts(settings, source),
            starts=build.replica_starts(settings, source),
            cluster=cluster,
        )
        return run(world, parts.rules, memory, recorder, recorder.watch.ended)


def _cluster(parts: Parts, others: Others, stack: ExitStack, stop: Event, clock: Callable[[], float]) -> Cluster | None:
    """Eyes and hands for the cluster, once its caches are filled; None where none is watched."""
    if others.reach is None:
        return None
    from autoscaler.build_cluster import open_room  # noqa: PLC0415 - the client takes 0.4 s; only here is it needed

    room = open_room(parts.settings, parts, others.reach, stack, clock)
    if not room.wait_ready(CACHES_S, stop) and not stop.is_set():
        log.warning("going on without the cluster until it is seen", reason=room.why_not_ready())
    return room


SWITCH_S = 0.0005


def calm() -> None:
    """Keep the loop from holding up the doors: they share one interpreter, and an answer takes its lock several times.

    Beside a tick that computes, each of these waits for up to the switch interval: at Python's 5 ms an answer took
    25 ms. What exists before the first tick is never looked through for reference cycles again.
    """
    collect_rarely()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_S)


def collect_rarely() -> None:
    """Let Python look for reference cycles less often: 100,000 new objects apart instead of 700.

    A tick of 1,000 roles makes about as many, which live until the next one; going through them took 15 % of the tick.
    """
    gc.set_threshold(100_000)


def _stop_on_signals(turns: Turns, stack: ExitStack) -> None:
    for name in (signal.SIGTERM, signal.SIGINT):
        before = signal.signal(name, lambda *_: turns.end())
        stack.callback(signal.signal, name, before)


@dataclass(slots=True)
class Stopwatch:
    """Seconds by stage of the present tick; each stage ends where the next begins."""

    last: float | None = None
    spent: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """A tick begins."""
        self.last = time.monotonic()
        self.spent = {}

    def ended(self, stage: str) -> None:
        """The time since the last end was this stage's."""
        now = time.monotonic()
        if self.last is not None:
            self.spent[str(stage)] = self.spent.get(str(stage), 0.0) + now - self.last
        self.last = now


class Timed:
    """A source whose reading is where a tick begins, for its stage times."""

    def __init__(self, source: MetricSource, watch: Stopwatch) -> None:
        self.name = source.name
        self._source = source
        self._watch = watch

    def read(self, now: float, groups: Sequence[Group]) -> Readings:
        """As the source's."""
        self._watch.begin()
        return self._source.read(now, groups)

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
        files = [self._memory_file, None if self._journal is None else self._journal.path]
        self._writers = {file: SoleWriter(file) for file in files if file is not None}
        self._others: set[Path] = set()
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
        self._publisher.note(seen, decision, self.watch.spent.get(Stage.PLAN))
        if (journal := self._journal) is not None:
            self._written(journal.path, lambda: journal.write(seen, decision))
        if changed or self._clock() - self._saved_at >= SAVE_EVERY_S:
            self.save(memory)
        self.watch.ended("record")
        spent = self.watch.spent
        deciding = sum(seconds for stage, seconds in spent.items() if stage != Stage.OBSERVE)
        self._telemetry.ticked({**spent, "decide": deciding}, blind=decision.blind)

    def publish(self, decision: Decision) -> None:
        """Publish what was decided and written down."""
        began = time.monotonic()
        self._publisher.publish(decision)
        self._telemetry.staged("publish", time.monotonic() - began)

    def save(self, memory: Memory) -> None:
        """Save memory now."""
        file = self._memory_file
        if file is not None and self._written(file, lambda: store.save(memory, file)):
            self._saved_at = self._clock()

    def let_go(self) -> None:
        """Let another process write the files; safe to call twice."""
        for writer in self._writers.values():
            writer.close()

    def _written(self, file: Path, write: Callable[[], None]) -> bool:
        """Whether it could be written down; where not, because of a full disk or another process, deciding goes on."""
        writer = self._writers[file]
        try:
            mine = writer.may_write()
            if mine:
                write()
        except OSError as error:
            why = error.strerror or str(error)
            log.warning("cannot write; deciding goes on, a restart knows less", file=str(file), reason=why)
            return False
        if not mine and file not in self._others:
            log.warning(
                "another process writes this file: give each its own; not written here until that one ends",
                file=str(file),
                writer=writer.other(),
            )
            self._others.add(file)
        elif mine and file in self._others:
            log.info("the other process has ended; written here from now on", file=str(file))
            self._others.remove(file)
        return mine


def _journal(settings: Settings) -> Journal | None:
    if settings.loop.journal_file is None:
        return None
    try:
        return Journal(Path(settings.loop.journal_file), build.journal_bytes(settings))
    except OSError as error:
        raise BadSettings((f"loop.journal_file: cannot be written: {error}",)) from None


def _chronicle(parts: Parts, now: float) -> Chronicle:
    settings = parts.settings
    return Chronicle(settings.source.kind, settings.loop.interval_s, now, _replicas(parts))


def _replicas(parts: Parts) -> dict[str, Replica]:
    prices = {rung.accelerator: rung.price_per_gpu_hour for rung in parts.rules.supply}
    return replicas_of(parts.rules.roles, prices)


def _dashboard(settings: Settings, chronicle: Chronicle, stack: ExitStack) -> Dashboard:
    journal = settings.loop.journal_file
    replay = Replay(Path(journal), chronicle.replicas) if journal else None
    found = Dashboard(chronicle, replay, None if settings.profiles_dir is None else str(settings.profiles_dir))
    stack.callback(found.close)
    return found
