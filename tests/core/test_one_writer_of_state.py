"""One process writes a journal and a memory; a second one decides, says so, and takes over when the first has ended."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scripted import at, decode, role_rules, rules
from structlog.testing import capture_logs

from autoscaler import store
from autoscaler.journal import read
from autoscaler.memory import Memory
from autoscaler.model import Role
from autoscaler.publishing import Publisher, Status
from autoscaler.service import Recorder
from autoscaler.settings import Settings
from autoscaler.sole_writer import SoleWriter
from autoscaler.tick import tick
from metrics_adapter.board import Board, Limits
from metrics_adapter.exposition import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from autoscaler.model import Decision, Observation

RULES = rules(role_rules(Role.DECODE))
POOL = {"name": "p", "namespace": "n", "profile": "unknown", "accelerator": "h100-80gb"}
HOLD = """
import sys
from pathlib import Path
from autoscaler.sole_writer import SoleWriter
writers = [SoleWriter(Path(name)) for name in sys.argv[1:]]
print(all(writer.may_write() for writer in writers), flush=True)
sys.stdin.read()
"""


@contextmanager
def held(*files: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes these files, until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, *map(str, files)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "True\n"
            yield other
        finally:
            other.kill()


def recorder(folder: Path) -> Recorder:
    loop = {"memory_file": str(folder / "memory.json"), "journal_file": str(folder / "journal.jsonl")}
    pool = POOL | {"match": {"job": "p"}, "roles": {"decode": {"max_replicas": 4}, "prefill": {"max_replicas": 4}}}
    source = {"prometheus": {"url": "http://prometheus.monitoring:9090"}}
    settings = Settings.model_validate({"source": source, "pools": [pool], "loop": loop})
    board = Board(Limits(30, 60), lambda: 0.0)
    telemetry = Telemetry(board)
    return Recorder(settings, Publisher(board, telemetry, Status("script", 15.0, 0.0)), telemetry, lambda: at(45.0).at)


def decided(when: float) -> tuple[Observation, Decision, Memory]:
    seen = at(when, decode(400.0))
    return seen, *tick(seen, Memory(), RULES)


def events(logs: list[Any]) -> list[str]:
    return [line["event"].split(":")[0] for line in logs if line["event"] != "wish"]


def test_a_file_has_one_writer_until_that_one_ends_however_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "new" / "memory.json"
    mine = SoleWriter(file)
    with held(file) as other:
        assert not mine.may_write()
        assert mine.other().startswith(f"process {other.pid} on ")
        other.kill()
        other.wait()
        assert mine.may_write()
    assert not SoleWriter(file).may_write()
    mine.close()
    mine.close()
    assert SoleWriter(file).may_write()


def test_while_another_writes_the_files_nothing_is_written_and_it_is_said_once(tmp_path: Path) -> None:
    writes = recorder(tmp_path)
    with capture_logs() as logs, held(tmp_path / "memory.json", tmp_path / "journal.jsonl") as other:
        writes(*decided(15.0))
        writes(*decided(30.0))
        assert events(logs) == ["another process writes this file"] * 2  # once for each of the two files
        assert {str(line["writer"]).split(" on ")[0] for line in logs if "writer" in line} == {f"process {other.pid}"}
        assert {path.name for path in tmp_path.iterdir()} == {"memory.json.lock", "journal.jsonl.lock"}
        other.kill()
        other.wait()
        writes(*decided(45.0))
    assert [decision.at for _, decision in read(tmp_path / "journal.jsonl")] == [at(45.0).at]
    assert store.load(tmp_path / "memory.json") is not None
    assert events(logs)[2:] == ["the other process has ended; written here from now on"] * 2
    writes.let_go()


def test_a_disk_that_takes_no_journal_may_still_take_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    writes = recorder(tmp_path)
    monkeypatch.setattr("autoscaler.journal.Journal.write", full)
    with capture_logs() as logs:
        writes(*decided(15.0))
    writes.let_go()
    told = [(line["file"], line["reason"]) for line in logs if line["log_level"] == "warning"]
    assert told == [(str(tmp_path / "journal.jsonl"), "No space left on device")]
    assert store.load(tmp_path / "memory.json") is not None
