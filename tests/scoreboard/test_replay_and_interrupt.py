"""A simulated journal replays to the same decisions; Ctrl-C leaves no worker; seeds that cannot be are refused."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from autoscaler.errors import BadSettings
from autoscaler.journal import Journal, read
from autoscaler.policies.registry import make
from autoscaler.scoreboard import Job, TraceSpec, run_job
from autoscaler.simulator.generate import generate
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.setup import Fault, FaultKind, Layout, Setup
from autoscaler.simulator.simulate import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.mark.parametrize("name", ["token-dynamics", "dynamo", "keda-epp-saturation"])
def test_a_simulated_journal_replays_to_the_same_decisions(name: str, tmp_path: Path) -> None:
    setup = Setup(layout=Layout.DISAGGREGATED, faults=(Fault(FaultKind.STALE, 120.0, 60.0, 0.5),))
    policy, journal = make(name), Journal(tmp_path / "journal.jsonl", 50_000_000)
    simulate(generate("gen:poisson,rate=8,duration=300", 2), policy, setup, seed=2, record=journal.write)
    scene, ticks = stage(setup).scene, list(read(tmp_path / "journal.jsonl"))
    assert len(ticks) >= 300 / policy.interval_s
    memory = policy.start(scene)
    for seen, decided in ticks:
        again, memory = policy.decide(seen, memory, scene)
        assert again == decided


def _until(done: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Started in the background of a shell, tests inherit that Ctrl-C is ignored; what they start must not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_the_command(ending: signal.Signals, tidegate_path: str, tmp_path: Path) -> None:
    arguments = ("compare", "--traces", "gen:poisson,rate=40,duration=7200", "--seeds", "4", "--workers", "2")
    begun = subprocess.Popen(
        [tidegate_path, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    workers: list[psutil.Process] = []
    try:
        parent = psutil.Process(begun.pid)

        def both() -> bool:
            workers[:] = [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
            return len(workers) >= 2

        assert _until(both)
        os.kill(begun.pid, ending)
        assert begun.wait(timeout=60) != 0
        # A worker that has ended and was not waited for by anybody is as good as gone.
        alive = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        assert _until(lambda: not any(one.is_running() and one.status() not in alive for one in workers))
    finally:
        for one in workers:
            if one.is_running():
                one.kill()
        begun.kill()
        begun.wait(timeout=60)


def test_a_negative_seed_is_refused_and_a_huge_one_is_not() -> None:
    spec = TraceSpec("gen:poisson,rate=4,duration=60")
    with pytest.raises(BadSettings, match="seed is -1"):
        run_job(Job(spec, "keda-queue", -1))
    assert run_job(Job(spec, "keda-queue", 2**200)).seed == 2**200


@pytest.mark.parametrize("seed", ["-1", "1.5", "many"])
def test_the_command_refuses_such_seeds(seed: str, refused: Callable[..., str]) -> None:
    assert "--seed" in refused("simulate", "--trace", "gen:poisson,rate=4,duration=60", "--seed", seed)
