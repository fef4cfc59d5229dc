"""`tidegate demo`: starts the emulated fleet, Prometheus and the real loop as processes, watches them, sums up.

    fleet  (python -m autoscaler.demo.fleet)   replicas with /metrics, traffic, router, HPAs
    Prometheus (the Debian package)            scrapes the replicas every second
    loop   (tidegate run --config …)           sees through Prometheus, decides, serves external metrics over TLS

The loop is the product itself, unchanged: nothing here decides anything.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import requests
import structlog

from autoscaler.demo import setting
from autoscaler.demo.child import Child
from autoscaler.demo.summary import Seen, summary
from autoscaler.demo.view import View
from autoscaler.errors import TidegateError
from metrics_adapter.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = structlog.get_logger(__name__)

PROMETHEUS_AWAY_S = 60.0
"""Prometheus is started again this long after it died: long enough to watch what blindness does."""
LOOP_AWAY_S = 2.0
"""The loop is started again this soon, as a Deployment would."""
PATIENCE_S = 60.0
"""Longest wait for a process to answer at the start."""
GOODBYE_S = 10.0
LOOK_S = 0.5
"""Between two looks at the fleet and the loop."""


class SourceKind(StrEnum):
    """Where the loop looks."""

    AUTO = "auto"
    PROMETHEUS = "prometheus"
    SCRAPE = "scrape"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says."""

    seconds: float
    seed: int
    source: SourceKind
    workdir: Path | None
    port: int
    live: bool


class DemoFailed(TidegateError):  # noqa: N818 - named as it is said
    """A part of the demonstration did not come up; says which, and shows the end of its log."""


class _Ended(Exception):  # noqa: N818 - no error: somebody asked for the end while the parts were starting
    """The end was asked for before everything ran."""


def conduct(options: DemoOptions) -> dict[str, Any]:
    """Run the demonstration to its end, or to SIGINT, SIGTERM or SIGHUP, and sum up.

    Raises:
        DemoFailed: a part did not come up, or the fleet died.
    """
    with ExitStack() as stack:
        stop = _stop_on_signals(stack)
        view = View(sys.stderr) if options.live else None
        kind = _source(options.source, view)
        stage = _stage(options, kind, _folder(options.workdir, stack))
        show = Show(
            options, stage, kind, _children(stage, kind, stack), stop, stack.enter_context(view) if view else None
        )
        try:
            show.start()
            show.play()
        except _Ended:
            show.tell("ended before everything had started")
        told = show.end()
    if view is not None:
        view.farewell(told, options.workdir)
    return told


def _stop_on_signals(stack: ExitStack) -> Event:
    """An event that is set by the first signal; further ones change nothing, since ending is bounded anyway."""
    stop = Event()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        stack.callback(signal.signal, name, signal.signal(name, lambda *_: stop.set()))
    return stop


def _source(wanted: SourceKind, view: View | None) -> SourceKind:
    installed = shutil.which("prometheus") is not None
    if wanted is SourceKind.PROMETHEUS and not installed:
        raise DemoFailed("--source prometheus: no `prometheus` on PATH; on Debian: apt-get install prometheus")
    if wanted is not SourceKind.AUTO:
        return wanted
    if not installed:
        missing = "no `prometheus` on PATH: the loop scrapes the engines directly instead"
        if view is not None:
            view.note(missing)
        else:
            log.warning(missing)
    return SourceKind.PROMETHEUS if installed else SourceKind.SCRAPE


def _folder(workdir: Path | None, stack: ExitStack) -> Path:
    """The folder for all files, taken for ourselves until the end."""
    if workdir is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-demo-"))).resolve()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((workdir / "lock").open("ab"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DemoFailed(f"--workdir {workdir}: another demonstration runs there; name another folder") from None
    except OSError as error:
        raise DemoFailed(f"--workdir {workdir}: cannot be used: {error.strerror}; name a writable folder") from None
    return workdir.resolve()


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. They are held until all are found, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _stage(options: DemoOptions, kind: SourceKind, folder: Path) -> setting.Stage:
    api, status, prometheus, control = _free_ports(4)
    stage = setting.Stage(folder, api, options.port or status, prometheus, control, options.seconds, options.seed)
    setting.clear(stage)
    self_signed(stage.tls_folder, ("localhost", "127.0.0.1"), time.time())
    setting.write(stage, scrape=kind is SourceKind.SCRAPE)
    return stage


@dataclass(slots=True)
class Children:
    """The processes; without Prometheus when the loop scrapes."""

    fleet: Child
    loop: Child
    prometheus: Child | None
    restarts: int = 0

    def all(self) -> Iterator[Child]:
        """Those there are."""
        yield from (child for child in (self.loop, self.fleet, self.prometheus) if child is not None)


def _children(stage: setting.Stage, kind: SourceKind, stack: ExitStack) -> Children:
    """The processes, not yet started; whatever happens, they are stopped at the end."""
    python, folder = sys.executable, stage.folder
    fleet = Child("fleet", [python, "-m", "autoscaler.demo.fleet", "--config", str(stage.fleet_file)], folder)
    loop = Child("loop", [python, "-m", "autoscaler.cli", "run", "--config", str(stage.config_file)], folder)
    prometheus = None
    if kind is SourceKind.PROMETHEUS:
        prometheus = Child("prometheus", setting.prometheus_command(stage), folder)
    children = Children(fleet, loop, prometheus)
    for child in children.all():
        stack.callback(child.stop, GOODBYE_S)
    return children


def _get(url: str) -> requests.Response:
    return requests.get(url, timeout=2.0)


def _scraped(stage: setting.Stage) -> bool:
    """Whether every replica has been scraped; by the time the loop looks there are rates."""
    query = 'min(count_over_time(up{job="engines"}[1m]))'
    answer = requests.get(f"{stage.prometheus_url}/api/v1/query", params={"query": query}, timeout=2.0).json()
    return bool(answer["data"]["result"])


@dataclass(slots=True)
class Show:
    """One demonstration under way."""

    options: DemoOptions
    stage: setting.Stage
    kind: SourceKind
    children: Children
    stop: Event
    view: View | None
    seen: Seen = field(default_factory=Seen)
    began: float | None = None

    def tell(self, text: str, **facts: object) -> None:
        """Say what happens: in the live view, or in the log."""
        if self.view is not None:
            self.view.note(" ".join([text, *(f"{name}={value}" for name, value in facts.items())]))
        else:
            log.info(text, **facts)

    def start(self) -> None:
        """Start everything. Prometheus takes 5 s to look at its targets for the first time, whatever the interval.

        Raises:
            DemoFailed: a part did not come up.
        """
        children, stage = self.children, self.stage
        self.tell("starting", fleet=stage.control_url, files=str(stage.folder))
        children.fleet.start()
        if children.prometheus is not None:
            children.prometheus.start()
        self._await(children.fleet, "the fleet", lambda: _get(f"{stage.control_url}/health").ok)
        if children.prometheus is not None:
            self.tell("waiting for Prometheus' first scrape", prometheus=stage.prometheus_url)
            self._await(children.prometheus, "Prometheus", lambda: _scraped(stage))
        self.tell("starting the loop", api=stage.api_url)
        children.loop.start()
        self._await(children.loop, "the loop", lambda: _get(f"{stage.status_url}/readyz").ok)
        self._write_processes()
        self.tell(
            "demo runs", seconds=self.options.seconds, source=self.kind.value, page=stage.status_url,
            files=str(stage.folder),
        )  # fmt: skip

    def _await(self, child: Child, name: str, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if not child.alive:
                raise DemoFailed(f"{name} ended at once (exit code {child.code}):\n{child.log_tail()}")
            try:
                if answers():
                    return
            except (requests.RequestException, ValueError, KeyError):
                pass  # not up yet; the loop above ends the wait
            if self.stop.wait(0.1):
                raise _Ended
        raise DemoFailed(f"{name} did not answer within {PATIENCE_S:.0f} s:\n{child.log_tail()}")

    def _write_processes(self) -> None:
        """`processes.json`: who is who, for those who want to kill something and watch."""
        stage = self.stage
        pids = {"conductor": os.getpid()} | {child.name: child.pid for child in self.children.all()}
        addresses = {"status": stage.status_url, "api": stage.api_url, "fleet": stage.control_url}
        if self.children.prometheus is not None:
            addresses["prometheus"] = stage.prometheus_url
        plain = {"pids": pids, "addresses": addresses, "ca_file": str(stage.ca_file), "config": str(stage.config_file)}
        part = stage.processes_file.with_suffix(".part")
        part.write_text(json.dumps(plain, indent=1), encoding="utf-8")
        part.replace(stage.processes_file)

    def play(self) -> None:
        """Watch until the time is up or the end is asked for. Raises DemoFailed when the fleet dies."""
        self.began = time.monotonic()
        while (elapsed := time.monotonic() - self.began) < self.options.seconds:
            self._look()
            self._revive()
            if self.view is not None:
                self.view.show(elapsed, self.options.seconds, self.stage, self.seen)
            if self.stop.wait(max(0.0, min(LOOK_S, self.options.seconds - elapsed))):
                self.tell("ending early")
                break
        self._look()

    def _look(self) -> None:
        try:
            self.seen.fleet = _get(f"{self.stage.control_url}/state").json()
        except (requests.RequestException, ValueError) as error:
            log.debug("the fleet does not answer", reason=str(error))
        try:
            self.seen.count(_get(f"{self.stage.status_url}/status.json").json())
        except (requests.RequestException, ValueError) as error:
            log.debug("the loop does not answer", reason=str(error))

    def _revive(self) -> None:
        fleet = self.children.fleet
        if not fleet.alive:
            raise DemoFailed(f"the fleet died (exit code {fleet.code}):\n{fleet.log_tail()}")
        revivable = [(self.children.loop, LOOP_AWAY_S)]
        if self.children.prometheus is not None:
            revivable.append((self.children.prometheus, PROMETHEUS_AWAY_S))
        for child, away_s in revivable:
            if not child.alive and child.dead_for() >= away_s:
                last = f": {child.log_tail(1)[:120]}" if (child.code or 0) > 0 else ""
                self.tell(f"{child.name} ended (exit code {child.code}{last}) and is started again")
                child.start()
                self.children.restarts += 1
                self._write_processes()

    def end(self) -> dict[str, Any]:
        """Stop everything, and sum up from the fleet's own last word.

        Prometheus goes last: a loop that still ticks should not find it gone and end on a blind tick.
        """
        seconds = 0.0 if self.began is None else time.monotonic() - self.began
        children = self.children
        children.loop.ask_to_end()
        children.fleet.ask_to_end()
        children.loop.stop(GOODBYE_S)
        for child in children.all():
            child.stop(GOODBYE_S)
        try:
            self.seen.fleet = json.loads(self.stage.stats_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            log.debug("the fleet left no last state", reason=str(error))
        return summary(self.seen, self.kind.value, seconds, children.restarts)
