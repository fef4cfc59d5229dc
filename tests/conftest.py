"""Real servers for tests: a Prometheus on a free port, fed by scraping or by loaded OpenMetrics samples."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Protocol

import pytest
import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_START_S = 60.0  # a loaded machine may take a while to replay even an empty WAL


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """The command line sets logging up for its process; a test that runs it must not do so for those after it."""
    yield
    structlog.reset_defaults()


@dataclass(slots=True)
class PrometheusServer:
    """One Prometheus process; `stop` and `start` keep address and data.

    Attributes:
        directory: holds the configuration, the data and the log.
        flags: further command line flags.
    """

    directory: Path
    flags: tuple[str, ...] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start and wait until it answers queries."""
        said = len(self.log) if (self.directory / "log").exists() else 0
        command = [
            "prometheus",
            f"--config.file={self.directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{self.port}",
            *self.flags,
        ]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)
        deadline = time.monotonic() + _START_S
        while not self._ready(said):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"prometheus did not start:\n{self.log[-3000:]}")
            time.sleep(0.05)

    def _ready(self, said: int) -> bool:
        listening = re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', self.log[said:])
        if listening is None:
            return False
        self.port = int(listening[1])
        try:
            return self._ask("GET", "/-/ready") == HTTPStatus.OK
        except (OSError, HTTPException):
            return False

    def _ask(self, method: str, path: str) -> int:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path)
            return connection.getresponse().status

    def reload(self) -> None:
        """Read the configuration again; needs the flag --web.enable-lifecycle."""
        status = self._ask("POST", "/-/reload")
        if status != HTTPStatus.OK:
            raise RuntimeError(f"prometheus answered {status} to a reload:\n{self.log[-3000:]}")

    def stop(self) -> None:
        """End the process; safe to call twice."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class PrometheusFactory(Protocol):
    def __call__(self, config: str = "global: {}\n", *flags: str, samples: str | None = None) -> PrometheusServer:
        """Start a Prometheus with this configuration.

        Args:
            config: text of prometheus.yml.
            flags: further command line flags.
            samples: OpenMetrics text with a timestamp on every line, loaded before the start; `# EOF` is added.
        """
        ...


@pytest.fixture(scope="session")
def prometheus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusFactory]:
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        pytest.skip("prometheus and promtool are not installed (Debian package: prometheus)")
    started: list[PrometheusServer] = []

    def start(config: str = "global: {}\n", *flags: str, samples: str | None = None) -> PrometheusServer:
        directory = tmp_path_factory.mktemp("prometheus")
        (directory / "prometheus.yml").write_text(config, encoding="utf-8")
        if samples is not None:
            text = samples.removesuffix("# EOF\n").rstrip("\n") + "\n# EOF\n"
            (directory / "samples.txt").write_text(text, encoding="utf-8")
            load = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "samples.txt", "data"]
            done = subprocess.run(load, cwd=directory, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"promtool refused the samples: {done.stderr}")
        server = PrometheusServer(directory, flags)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()
