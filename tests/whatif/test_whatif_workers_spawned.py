"""Worker processes: a script without a guard around its `__main__` sweeps as one with it, and bad files start none."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from autoscaler import scoreboard, scoreboard_workers
from autoscaler.errors import BadSettings
from autoscaler.scoreboard_workers import run_jobs, script_left_alone
from autoscaler.simulator.trace_files import BadTrace

if TYPE_CHECKING:
    from pathlib import Path

UNGUARDED = """
from autoscaler import whatif

print("begins")
loads = whatif.generated("gen:poisson,rate=4,duration=300", seed=1)
asked = whatif.grid(whatif.Scenario(maximum=8), {"growth": [1.0, 2.0], "policy.name": ["static-peak", "keda-queue"]})
for workers in (2, 1):
    found = whatif.swept(asked, loads, backend=whatif.run_in_processes(workers))
    print([(one["scenario"]["name"], one["gpu_hours"]) for one in found])
"""


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(UNGUARDED, encoding="utf-8")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    begins, in_two, in_one = done.stdout.splitlines()
    assert begins == "begins"  # once, not again in each worker
    assert in_two == in_one
    assert in_two.count("growth") == 4


def test_the_script_is_itself_again_afterwards() -> None:
    own = sys.modules["__main__"]
    with script_left_alone():
        assert sys.modules["__main__"] is not own
    with contextlib.suppress(KeyError), script_left_alone():
        raise KeyError
    assert sys.modules["__main__"] is own


def refusing(*_: object) -> None:
    raise AssertionError("processes were started")


@pytest.mark.parametrize(
    ("source", "scale", "error"),
    [
        ("bad.csv", "", BadTrace),
        ("absent.csv", "", BadTrace),
        ("gen:poisson,rate=-1", "", BadSettings),
        ("good.csv", "thin:-1", BadSettings),
    ],
)
def test_no_worker_starts_for_a_trace_that_cannot_be(
    source: str, scale: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scoreboard_workers, "ProcessPoolExecutor", refusing)
    header = "arrival_s,input_tokens,output_tokens\n0,500,50\n"
    (tmp_path / "good.csv").write_text(f"{header}1,500,50\n", encoding="utf-8")
    (tmp_path / "bad.csv").write_text(f"{header}1,many,50\n", encoding="utf-8")
    good, odd = (scoreboard.TraceSpec(name, scale=by) for name, by in (("good.csv", ""), (source, scale)))
    jobs = [scoreboard.Job(spec, "static-peak", seed) for spec in (good, odd) for seed in (0, 1)]
    with pytest.raises(error):
        run_jobs(jobs, workers=2)
    assert not multiprocessing.active_children()
