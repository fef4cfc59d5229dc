"""The processes a tick is measured against: a real Prometheus, and the generated fleet it scrapes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import psutil
from generated_fleet import SHARDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from generated_fleet import Fleet

START_S = 60.0
CONFIG = """\
global: {{scrape_interval: {interval:g}s, scrape_timeout: {interval:g}s}}
scrape_configs:
  - job_name: llm
    honor_labels: true
    static_configs:
"""
TARGET = "      - {{targets: ['127.0.0.1:{port}'], labels: {{__metrics_path__: /shard/{n}, instance: shard-{n}}}}}\n"


@contextmanager
def generated(fleet: Fleet) -> Iterator[tuple[int, psutil.Process]]:
    """The fleet in a child process; gives its port, and the process."""
    command = [sys.executable, str(Path(__file__).with_name("generated_fleet.py"))]
    command += ["--pools", str(fleet.pools), "--replicas", str(fleet.replicas), "--load", str(fleet.load)]
    command += ["--disaggregated"] if fleet.disaggregated else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            said = child.stdout.readline() if child.stdout else ""
            if not said.strip().isdecimal():
                raise RuntimeError(f"the generated fleet said {said!r} instead of its port")
            yield int(said), psutil.Process(child.pid)
        finally:
            child.communicate(timeout=20)


@dataclass(slots=True)
class RealPrometheus:
    """A running server."""

    url: str
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def await_engines(self, count: int) -> None:
        """Wait until all of them have been scraped once; Prometheus itself lets the first 5 s pass."""
        query = urlencode({"query": "count(vllm:num_requests_running)"})
        deadline = time.monotonic() + START_S
        while True:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=5) as answer:  # noqa: S310 - http on loopback
                found = json.load(answer)["data"]["result"]
            seen = int(found[0]["value"][1]) if found else 0
            if seen >= count:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{seen} of {count} engines were scraped within {START_S:g} s")
            time.sleep(0.1)

    def rss_mib(self) -> float:
        """Resident memory now, MiB."""
        return float(self.process.memory_info().rss) / 2**20


@contextmanager
def scraping(directory: Path, port: int, pools: int, interval_s: float) -> Iterator[RealPrometheus]:
    """A Prometheus that scrapes the generated fleet every `interval_s` seconds."""
    targets = "".join(TARGET.format(port=port, n=n) for n in range(min(SHARDS, pools)))
    config = directory / "prometheus.yml"
    config.write_text(CONFIG.format(interval=interval_s) + targets, encoding="utf-8")
    said = directory / "prometheus.log"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"]
    with (
        said.open("wb") as log,
        subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stdout=log, stderr=log) as child,
    ):
        try:
            yield RealPrometheus(_address(child, said), psutil.Process(child.pid))
        finally:
            child.terminate()
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()


def _address(child: subprocess.Popen[bytes], said: Path) -> str:
    """Where it answers, once it does."""
    deadline = time.monotonic() + START_S
    while True:
        text = said.read_text(encoding="utf-8", errors="replace")
        found = re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', text)
        if found and _ready(f"http://127.0.0.1:{found[1]}"):
            return f"http://127.0.0.1:{found[1]}"
        if child.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"prometheus did not start:\n{text[-2000:]}")
        time.sleep(0.05)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:  # noqa: S310 - http on loopback
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


@dataclass(slots=True)
class Usage:
    """CPU seconds used so far by this process, by Prometheus, by the fleet's generator and by all of the machine."""

    at: float
    own: float
    prometheus: float
    fleet: float
    machine: float

    @classmethod
    def now(cls, server: RealPrometheus, fleet: psutil.Process) -> Usage:
        """As of this moment."""
        busy = psutil.cpu_times()
        return cls(
            time.monotonic(),
            sum(psutil.Process().cpu_times()[:2]),
            server.cpu_s(),
            sum(fleet.cpu_times()[:2]),
            sum(busy) - busy.idle - busy.iowait - getattr(busy, "guest", 0.0),
        )

    def others(self, before: Usage) -> float:
        """Cores that everybody else used since `before`: what they take is in the times measured."""
        ours = self.own + self.prometheus + self.fleet - before.own - before.prometheus - before.fleet
        return max(0.0, self.machine - before.machine - ours) / (self.at - before.at)

    def facts(self, before: Usage, ticks: int) -> dict[str, float]:
        """Averages since `before`."""
        spent = self.at - before.at
        return {
            "own CPU s per tick": round((self.own - before.own) / ticks, 3),
            "Prometheus CPU cores": round((self.prometheus - before.prometheus) / spent, 2),
            "generated fleet CPU cores": round((self.fleet - before.fleet) / spent, 2),
            "everybody else's CPU cores": round(self.others(before), 2),
        }
