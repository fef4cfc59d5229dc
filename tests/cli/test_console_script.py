"""The installed `tidegate` command: exit codes, signals, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMANDS = ("run", "once", "check", "explain", "config", "demo")
POOL = "pools: [{name: a, roles: {colocated: {max_replicas: 4}}}]\n"
POOL_LINE = "- {{name: p{0}, model_name: m{0}, roles: {{colocated: {{max_replicas: 1}}}}}}\n"
START_S = 60.0


@pytest.fixture(scope="module")
def tidegate() -> str:
    beside = Path(sys.executable).with_name("tidegate")
    found = str(beside) if beside.exists() else shutil.which("tidegate")
    if found is None:
        pytest.skip("the tidegate command is not installed")
    return found


def ended(*command: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith("TIDEGATE_")}
    environment |= {"COLUMNS": "200", "NO_COLOR": "1", **variables}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def listening() -> Iterator[int]:
    """A socket that answers nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def configured(folder: Path, prometheus_port: int, serving: str = "port: 0, status_port: 0") -> Path:
    file = folder / "tidegate.yaml"
    file.write_text(
        f"{POOL}source: {{prometheus: {{url: 'http://127.0.0.1:{prometheus_port}', timeout_s: 1, retries: 0}}}}\n"
        f"serving: {{{serving}}}\nloop: {{interval_s: 1}}\n",
        encoding="utf-8",
    )
    return file


def test_version_and_help_and_completion(tidegate: str) -> None:
    done = ended(tidegate, "--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "tidegate", "")
    done = ended(tidegate, "--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)
    assert "Exit codes" in done.stdout
    done = ended(tidegate, "--show-completion", "bash")
    assert done.returncode == 0
    assert "complete -o default -F _tidegate_completion tidegate" in done.stdout
    offered = ended(tidegate, COMP_WORDS="tidegate e", COMP_CWORD="1", _TIDEGATE_COMPLETE="complete_bash")
    assert offered.stdout.split() == ["explain"]


def test_bad_configuration_starts_nothing(tidegate: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(POOL + "loop: {interval_s: 0}\nx: 1\n", encoding="utf-8")
    done = ended(tidegate, "run", "--config", "bad.yaml", "--ready-file", "ready.json", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first == "error: bad.yaml:2: loop.interval_s: 0 is not right: must be above 0 (Time between ticks)"
    assert second.startswith("error: bad.yaml:3: x: unknown key (value 1); there are cluster, forecast")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_taken_port_is_named(tidegate: str, tmp_path: Path) -> None:
    with listening() as taken:
        for serving in (f"port: {taken}, status_port: 0", f"port: 0, status_port: {taken}"):
            file = configured(tmp_path, taken, serving)
            done = ended(tidegate, "run", "--config", str(file), cwd=tmp_path)
            assert done.returncode == 2
            assert f"cannot listen on 127.0.0.1 port {taken}" in done.stderr
            assert "tidegate.yaml:3: serving" in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_loop_cleanly(name: str, tidegate: str, tmp_path: Path) -> None:
    with listening() as silent:  # a Prometheus that accepts and never answers: the worst moment for a signal
        file = configured(tmp_path, silent)
        ready = tmp_path / "ready.json"
        command = [tidegate, "run", "--config", str(file), "--ready-file", str(ready)]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            deadline = time.monotonic() + START_S
            while not ready.exists():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            status = urlsplit(json.loads(ready.read_text(encoding="utf-8"))["status"])
            connection = HTTPConnection(str(status.hostname), status.port, timeout=30)
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
            connection.close()
            process.send_signal(signal.Signals[name])
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err
    assert out == ""
    assert "tidegate ends" in err
    assert "Traceback" not in err


def test_config_prints_yaml_that_a_closed_pipe_does_not_upset(tidegate: str, tmp_path: Path) -> None:
    (tmp_path / "many.yaml").write_text(
        "pools:\n" + "".join(POOL_LINE.format(i) for i in range(600)),
        encoding="utf-8",
    )
    done = ended("bash", "-c", f"{tidegate} config --config many.yaml | head -n 1", cwd=tmp_path)
    assert done.stdout == "source:\n"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["run", "--bogus"], ["once", "--at", "yesterday"], ["explain", "-n", "0"]]
)
def test_wrong_arguments_end_with_2(arguments: list[str], tidegate: str, tmp_path: Path) -> None:
    done = ended(tidegate, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
