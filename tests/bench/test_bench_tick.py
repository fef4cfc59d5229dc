"""The tick's bench runs against a real Prometheus, sees all of its fleet, and needs as many queries for more pools."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "tick.py"


def command(pools: int) -> list[str]:
    tiny = [
        "--replicas",
        "2",
        "--ticks",
        "3",
        "--warm",
        "1",
        "--interval-s",
        "0.5",
        "--scrape-s",
        "1",
        "--window-s",
        "3",
    ]
    return [sys.executable, str(BENCH), "--json", "--pools", str(pools), *tiny]


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package)")
def test_ten_pools_take_as_many_queries_as_five() -> None:
    with (
        subprocess.Popen(command(5), stdout=subprocess.PIPE, text=True) as few,
        subprocess.Popen(command(10), stdout=subprocess.PIPE, text=True) as many,
    ):
        said = [json.loads(bench.communicate(timeout=120)[0]) for bench in (few, many)]
    assert (few.returncode, many.returncode) == (0, 0)
    (five,), (ten,) = said[0]["runs"], said[1]["runs"]
    assert (five["facts"]["roles"], ten["facts"]["roles"]) == (5, 10)
    assert (five["facts"]["engines reporting"], ten["facts"]["engines reporting"]) == (10, 20)
    assert (five["facts"]["blind roles"], ten["facts"]["blind roles"]) == (0, 0)
    assert five["facts"]["queries per tick"] == ten["facts"]["queries per tick"] > 0
    assert ten["stages"]["queries"]["p50_ms"] > 0
    assert said[1]["verdicts"] == [None]  # the target is stated for 1,000 pools
