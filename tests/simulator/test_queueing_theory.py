"""The fleet against queueing theory: engines that serve one request at a time wait as the formulas say."""

from __future__ import annotations

import heapq
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from types import ModuleType

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        return importlib.import_module("validation_queues")


def test_erlang_c_is_what_tables_say(bench: ModuleType) -> None:
    # One server: rho / (1 - rho). Two servers at 0.5: C = 1/3, wait = (1/3) / (2 - 1).
    assert bench.erlang_c_wait(1, 0.6) == pytest.approx(1.5)
    assert bench.erlang_c_wait(2, 0.5) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["M/M/1, 0.6", "M/M/2, 0.5", "M/M/5, 0.7", "M/D/1, 0.7"])
def test_mean_waits_are_within_three_percent_of_theory(bench: ModuleType, name: str) -> None:
    line = bench.line(name)
    # rho / (1 - rho) = 1.5 s for M/M/1 at 0.6; half of it for constant service: 0.7 / (2 * 0.3) = 1.167 s.
    known = {"M/M/1, 0.6": 1.5, "M/M/2, 0.5": 1 / 3, "M/D/1, 0.7": 0.7 / 0.6}
    assert line.measured == pytest.approx(known.get(name, line.measured))
    assert line.target == 0.03
    assert line.within, line.text()


def test_ten_engines_make_every_single_request_wait_as_the_recursion_of_kiefer_and_wolfowitz_says(
    bench: ModuleType,
) -> None:
    # First come, first served, c servers: a request starts when it has come and the earliest of them is free.
    arrival, service, waited = bench.waits(10, 0.9, exponential=True, requests=20_000)
    free = [0.0] * 10
    expected = []
    for came, needs in zip(arrival.tolist(), service.tolist(), strict=True):
        begins = max(came, heapq.heappop(free))
        heapq.heappush(free, begins + needs)
        expected.append(begins - came)
    assert waited == pytest.approx(np.array(expected), abs=1e-4)
    assert max(expected) > 1.0
