"""A demonstration as its user starts it: a process with children, looked at from outside."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import psutil
import pytest
import requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_S = 90.0
"""Longest start-up on a machine that does other things too; alone it takes 12 s."""


def eventually(what: Callable[[], Any], seconds: float, why: str) -> Any:
    """The first true result of `what`, which may fail to connect or to read until then."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            if last := what():
                return last
        except (requests.RequestException, OSError, ValueError, KeyError, IndexError) as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s: {why}; last: {last!r}")


@dataclass(slots=True)
class Demo:
    """One `tidegate demo` process with its working folder.

    Attributes:
        folder: its --workdir, or where its temporary folder goes when `workdir` was not asked for.
        process: the conductor.
    """

    folder: Path
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")

    @property
    def processes(self) -> dict[str, Any]:
        """`processes.json`, which is there as soon as everything runs."""

        def read() -> Any:
            assert self.process.poll() is None, f"the demonstration ended: {self.stderr}"
            return json.loads((self.folder / "processes.json").read_text(encoding="utf-8"))

        return eventually(read, START_S, "the demonstration runs")

    def pid(self, name: str) -> int:
        return int(self.processes["pids"][name])

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one part; its process ID."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def url(self, part: str, path: str) -> str:
        return str(self.processes["addresses"][part]) + path

    def get(self, part: str, path: str, **options: Any) -> requests.Response:
        """GET from `status`, `fleet`, `prometheus`, or from `api` over verified TLS."""
        verify = self.processes["ca_file"] if part == "api" else True
        return requests.get(self.url(part, path), timeout=5, verify=verify, **options)

    def ask_hpa(self, role: str, metric: str = "tidegate_desired_replicas") -> requests.Response:
        """The request an HPA makes."""
        path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/demo/{metric}"
        selector = f"tidegate.dev/workload=llama-8b,tidegate.dev/role={role}"
        return self.get("api", path, params={"labelSelector": selector})

    def tell_fleet(self, path: str, body: dict[str, Any]) -> None:
        answer = requests.post(self.url("fleet", path), json=body, timeout=5)
        assert answer.ok, answer.text

    def pool(self) -> dict[str, Any]:
        """The fleet's only pool."""
        (pool,) = self.get("fleet", "/state", params={"history": "0"}).json()["pools"]
        return dict(pool)

    def wanted(self) -> dict[str, int]:
        """Replicas the deployments are set to, by role."""
        return {name: int(role["wanted"]) for name, role in self.pool()["roles"].items()}

    def status(self) -> dict[str, Any]:
        return dict(self.get("status", "/status.json").json())

    def journal(self) -> list[dict[str, Any]]:
        """All ticks so far, oldest first."""
        text = (self.folder / "journal.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def ticks_after(self, at: float, count: int, seconds: float = 30.0) -> list[dict[str, Any]]:
        """The first `count` ticks that began after `at` (Unix seconds)."""

        def found() -> list[dict[str, Any]]:
            later = [entry for entry in self.journal() if entry["decision"]["at"] > at]
            return later[:count] if len(later) >= count else []

        return list(eventually(found, seconds, f"{count} ticks after {at}"))

    def grow(self, factor: float, least: int) -> dict[str, int]:
        """Raise the traffic until both roles have at least `least` replicas, wanted and ready, and are heard.

        Returns what nothing but seeing less load may lower: what the last tick planned. More than that, left over from
        traffic before, goes as a matter of course; what was planned is held for the stabilisation's 12 s.
        """

        def grown() -> dict[str, int]:
            roles = self.pool()["roles"]
            last = self.journal()[-1]
            large = all(role["wanted"] >= least and role["ready"] >= role["wanted"] for role in roles.values())
            heard = all(role.get("reporting", 0) >= least for role in last["seen"]["roles"])
            planned = {role["key"]["role"]: role.get("planned") or 0 for role in last["decision"]["roles"]}
            needed = {name: min(role["wanted"], planned[name]) for name, role in roles.items()}
            return needed if large and heard and all(count >= least for count in needed.values()) else {}

        self.tell_fleet("/load", {"factor": factor})
        return dict(eventually(grown, 60, f"both roles have {least} replicas"))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another `tidegate` command with the loop's configuration."""
        line = [*TIDEGATE, *arguments, "--config", self.processes["config"]]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

    def end(self, seconds: float) -> dict[str, Any]:
        """Wait for its own end, and read the one JSON object it must have printed."""
        code = self.process.wait(timeout=seconds)
        assert code == 0, self.stderr
        return dict(json.loads(self.stdout))

    def left_over(self) -> list[str]:
        """Command lines of processes that still have to do with this demonstration."""
        found = []
        for process in psutil.process_iter(["cmdline", "status", "pid"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in line and process.info["pid"] != self.process.pid:
                found.append(line)
        return found

    def stop(self) -> None:
        """End it whatever state it is in."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


TIDEGATE = (sys.executable, "-m", "autoscaler.cli")


def start(folder: Path, *arguments: str, workdir: bool = True, path: str | None = None) -> Demo:
    """Start a demonstration in a process group of its own, as a shell does.

    Args:
        folder: for everything.
        arguments: after `tidegate demo`.
        workdir: whether to name the folder as --workdir; else its temporary folder is made in it.
        path: of executables instead of ours.
    """
    environment = {**os.environ, "TMPDIR": str(folder)} | ({} if path is None else {"PATH": path})
    named = ("--workdir", str(folder)) if workdir else ()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [*TIDEGATE, "demo", *arguments, *named],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            process_group=0,
        )
    return Demo(folder, process)


@pytest.fixture(scope="module")
def start_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Demo]]:
    """Starts demonstrations and ends them after the module."""
    started: list[Demo] = []

    def run(*arguments: str, workdir: bool = True, path: str | None = None) -> Demo:
        if path is None and "scrape" not in arguments and shutil.which("prometheus") is None:
            pytest.skip("prometheus is not installed (Debian package: prometheus)")
        demo = start(tmp_path_factory.mktemp("demo"), *arguments, workdir=workdir, path=path)
        started.append(demo)
        return demo

    yield run
    for demo in started:
        demo.stop()


class Watch:
    """Notes how many replicas each deployment is set to while it watches, four times a second."""

    def __init__(self, demo: Demo) -> None:
        self.looks: list[tuple[float, dict[str, int]]] = []
        self._demo = demo
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Look no longer; safe to call again."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            try:
                self.looks.append((time.time(), self._demo.wanted()))
            except requests.RequestException:
                continue  # a slow answer of a busy fleet; the tests ask whether enough looks were had

    def below(self, floor: dict[str, int], until: float = math.inf) -> list[tuple[float, dict[str, int]]]:
        """Looks before `until` (Unix seconds) at which a deployment was set to fewer than `floor`."""
        looks = [(at, counts) for at, counts in self.looks if at < until]
        assert len(looks) > 3, "too few looks to say anything"
        return [(at, counts) for at, counts in looks if any(counts[role] < least for role, least in floor.items())]


@pytest.fixture(scope="session")
def watching() -> type[Watch]:
    return Watch


@pytest.fixture(scope="session")
def waiting() -> Callable[[Callable[[], Any], float, str], Any]:
    """`eventually`, for tests."""
    return eventually
