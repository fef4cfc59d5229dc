"""`tidegate demo`: starts the emulated fleet, Prometheus and the real loop as processes, watches them, sums up.

    fleet  (python -m autoscaler.demo.fleet)   replicas with /metrics, traffic, router, HPAs
    Prometheus (the Debian package)            scrapes the replicas every second
    loop   (tidegate run --config …)           sees through Prometheus, decides, serves external metrics over TLS

The loop is the product itself, unchanged: nothing here decides anything.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import structlog

from autoscaler.demo import setting
from autoscaler.demo.child import Child
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


def conduct(options: DemoOptions) -> dict[str, Any]:
    """Run the demonstration to its end, or to Ctrl-C, and sum up.

    Raises:
        DemoFailed: a part did not come up.
    """
    kind = _source(options.source)
    with ExitStack() as stack:
        folder = options.workdir
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-demo-")))
        folder.mkdir(parents=True, exist_ok=True)
        stage = _stage(options, kind, folder.resolve())
        children = _start(stage, kind, stack)
        view = stack.enter_context(View(stage.status_url, kind.value)) if options.live else None
        if view is None:
            log.info("demo runs", seconds=options.seconds, source=kind.value, page=stage.status_url, files=str(folder))
        last = _play(options, stage, children, view)
        return _end(stage, children, last, kind)


def _source(wanted: SourceKind) -> SourceKind:
    installed = shutil.which("prometheus") is not None
    if wanted is SourceKind.PROMETHEUS and not installed:
        raise DemoFailed("--source prometheus: no `prometheus` on PATH; on Debian: apt-get install prometheus")
    if wanted is SourceKind.AUTO:
        if not installed:
            log.warning("no `prometheus` on PATH: the loop scrapes the engines directly instead")
        return SourceKind.PROMETHEUS if installed else SourceKind.SCRAPE
    return wanted


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
    for stale in (stage.memory_file, stage.journal_file, stage.endpoints_file, stage.stats_file):
        stale.unlink(missing_ok=True)
    self_signed(stage.tls_folder, ("localhost", "127.0.0.1"), time.time())
    setting.write(stage, scrape=kind is SourceKind.SCRAPE)
    return stage


@dataclass(slots=True)
class Children:
    """The processes, and when each was last found dead."""

    fleet: Child
    loop: Child
    prometheus: Child | None
    restarts: int = 0


def _start(stage: setting.Stage, kind: SourceKind, stack: ExitStack) -> Children:
    fleet = Child(
        "fleet", [sys.executable, "-m", "autoscaler.demo.fleet", "--config", str(stage.fleet_file)], stage.folder
    )
    stack.callback(fleet.stop, GOODBYE_S)
    fleet.start()
    _await(fleet, "the fleet", lambda: _get(f"{stage.control_url}/health").ok)
    prometheus = None
    if kind is SourceKind.PROMETHEUS:
        prometheus = Child("prometheus", setting.prometheus_command(stage), stage.folder)
        stack.callback(prometheus.stop, GOODBYE_S)
        prometheus.start()
        _await(prometheus, "Prometheus", lambda: _scraped(stage))
    loop = Child(
        "loop", [sys.executable, "-m", "autoscaler.cli", "run", "--config", str(stage.config_file)], stage.folder
    )
    stack.callback(loop.stop, GOODBYE_S)
    loop.start()
    _await(loop, "the loop", lambda: _get(f"{stage.status_url}/livez").ok)
    children = Children(fleet, loop, prometheus)
    _write_processes(stage, children)
    return children


def _get(url: str) -> requests.Response:
    return requests.get(url, timeout=2.0)


def _scraped(stage: setting.Stage) -> bool:
    """Whether every replica has been scraped twice, so that the first tick already has rates."""
    query = 'min(count_over_time(up{job="engines"}[1m]))'
    answer = requests.get(f"{stage.prometheus_url}/api/v1/query", params={"query": query}, timeout=2.0).json()
    rows = answer["data"]["result"]
    return bool(rows) and float(rows[0]["value"][1]) >= 3  # noqa: PLR2004 - two for a rate, one to spare


def _await(child: Child, name: str, answers: Callable[[], bool]) -> None:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_S:
        if not child.alive:
            raise DemoFailed(f"{name} ended at once (exit code {child.code}):\n{child.log_tail()}")
        try:
            if answers():
                return
        except (requests.RequestException, ValueError, KeyError):
            pass  # not up yet; the loop above ends the wait
        time.sleep(0.1)
    raise DemoFailed(f"{name} did not answer within {PATIENCE_S:.0f} s:\n{child.log_tail()}")


def _write_processes(stage: setting.Stage, children: Children) -> None:
    """`processes.json`: who is who, for those who want to kill something and watch."""
    parts = {"fleet": children.fleet, "loop": children.loop, "prometheus": children.prometheus}
    pids = {name: child.pid for name, child in parts.items() if child is not None}
    addresses = {"status": stage.status_url, "api": stage.api_url, "fleet": stage.control_url}
    if children.prometheus is not None:
        addresses["prometheus"] = stage.prometheus_url
    text = json.dumps({"pids": pids, "addresses": addresses, "ca_file": str(stage.ca_file)}, indent=1)
    stage.processes_file.write_text(text, encoding="utf-8")


def _moments(seconds: float) -> Iterator[float]:
    """Seconds since the start, twice a second, until the end."""
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        yield elapsed
        time.sleep(min(0.5, max(0.0, seconds - elapsed)))


@dataclass(slots=True)
class Seen:
    """The last answers of the fleet and the loop, and the counts of loops that ended before the present one."""

    fleet: dict[str, Any]
    status: dict[str, Any]
    ticks: int = 0
    changes: int = 0
    blind_ticks: int = 0

    def count(self, status: dict[str, Any]) -> None:
        """Take a new status; a younger loop starts its counts at 0."""
        if self.status and status.get("started_at") != self.status.get("started_at"):
            self.ticks += self.status.get("ticks", 0)
            self.changes += self.status.get("changes", 0)
            self.blind_ticks += self.status.get("blind_ticks", 0)
        self.status = status

    def total(self, name: str) -> int:
        """A count over all loops."""
        return int(getattr(self, name)) + int(self.status.get(name, 0))


def _play(options: DemoOptions, stage: setting.Stage, children: Children, view: View | None) -> Seen:
    seen = Seen({}, {})
    try:
        for elapsed in _moments(options.seconds):
            _look(stage, seen)
            _revive(stage, children)
            if view is not None:
                view.show(elapsed, options.seconds, seen.fleet, seen.status)
    except KeyboardInterrupt:
        log.info("ending early")
    _look(stage, seen)
    return seen


def _look(stage: setting.Stage, seen: Seen) -> None:
    try:
        seen.fleet = _get(f"{stage.control_url}/state").json()
    except (requests.RequestException, ValueError) as error:
        log.debug("the fleet does not answer", reason=str(error))
    try:
        seen.count(_get(f"{stage.status_url}/status.json").json())
    except (requests.RequestException, ValueError) as error:
        log.debug("the loop does not answer", reason=str(error))


def _revive(stage: setting.Stage, children: Children) -> None:
    if not children.fleet.alive:
        raise DemoFailed(f"the fleet died (exit code {children.fleet.code}):\n{children.fleet.log_tail()}")
    revivable = [(children.loop, LOOP_AWAY_S)]
    if children.prometheus is not None:
        revivable.append((children.prometheus, PROMETHEUS_AWAY_S))
    for child, away_s in revivable:
        if not child.alive and child.dead_for() >= away_s:
            log.warning("starting again", process=child.name, exit_code=child.code, dead_for_s=round(child.dead_for()))
            child.start()
            children.restarts += 1
            _write_processes(stage, children)


def _end(stage: setting.Stage, children: Children, seen: Seen, kind: SourceKind) -> dict[str, Any]:
    """Stop everything, the loop first, and take the fleet's own last word."""
    children.loop.stop(GOODBYE_S)
    children.fleet.stop(GOODBYE_S)
    if children.prometheus is not None:
        children.prometheus.stop(GOODBYE_S)
    try:
        fleet = json.loads(stage.stats_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        fleet = seen.fleet
    pools = [
        {
            "name": pool["name"],
            "ttft_p95_s": pool["slo"]["recent_ttft_p95_s"],
            "tpot_p95_s": pool["slo"]["recent_tpot_p95_s"],
            "roles": {
                name: {"wanted": role["wanted"], "gpu_seconds": role["gpu_seconds"]}
                for name, role in pool["roles"].items()
            },
        }
        for pool in fleet.get("pools", [])
    ]
    return {
        "seconds": fleet.get("elapsed_s"),
        "ticks": seen.total("ticks"),
        "source": kind.value,
        "decisions": seen.total("changes"),
        "slo_attainment": fleet.get("slo_attainment"),
        "gpu_seconds": fleet.get("gpu_seconds"),
        "blind_ticks": seen.total("blind_ticks"),
        "requests_finished": fleet.get("requests_finished"),
        "restarts": children.restarts,
        "pools": pools,
    }
