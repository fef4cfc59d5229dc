"""The tick's bench runs against a real Prometheus, sees all of its fleet, and needs as many queries for more pools."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "tick.py"


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package)")
def test_ten_pools_take_as_many_queries_as_five() -> None:
    command = [sys.executable, str(BENCH), "--json", "--pools", "5,10", "--replicas", "2", "--ticks", "3"]
    command += ["--warm", "1", "--interval-s", "1", "--scrape-s", "1", "--window-s", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    five, ten = said["runs"]
    assert (five["facts"]["engines reporting"], ten["facts"]["engines reporting"]) == (10, 20)
    assert (five["facts"]["blind roles"], ten["facts"]["blind roles"]) == (0, 0)
    assert (five["facts"]["roles"], ten["facts"]["roles"]) == (5, 10)
    assert five["facts"]["queries per tick"] == ten["facts"]["queries per tick"] > 0
    parts = [stage["p50_ms"] for name, stage in ten["stages"].items() if name != "whole tick"]
    assert 0.0 < sum(parts)
    assert said["verdicts"] == [None, None]  # the target is stated for 1,000 pools
