"""The published steps of llm-d (20 requests/s, 600 s, Qwen3-32B on H100): what comes within 25 %, and what does not.

P99 TTFT and mean replicas are what scaling is about; they hold for all runs but the symmetric one's TTFT, whose number
of replicas at the start is not known (from 2 it would be 321 s, from 3 168 s, against 254 s). The time per output token
is too long where prompts are: published engines chunk prompts of 4,000 tokens more finely than 8,192 tokens a step, or
recompute less after a preemption.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

BENCH = Path(__file__).parents[2] / "bench"
MISSES = {
    ("step, EPP+KEDA, 4000/1000", "P99 time per output token, s"): "+49.3% (0.1076 against 0.07207)",
    ("step, EPP+KEDA, 1000/1000", "P99 TTFT, s"): "-78.3% (55.15 against 254)",
    ("step, EPP+KEDA saturation, 1000/4000", "P99 time per output token, s"): "+26.0% (0.1367 against 0.1085)",
    ("step, static, 4000/1000", "P99 time per output token, s"): "+89.7% (0.1089 against 0.0574)",
}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        return importlib.import_module("validation_step")


def test_all_but_the_known_misses_are_within_a_quarter(bench: ModuleType) -> None:
    lines = bench.lines()
    assert len(lines) == 15
    assert [line.text() for line in lines if not line.within and (line.experiment, line.quantity) not in MISSES] == []


@pytest.mark.parametrize(
    ("experiment", "quantity"),
    [pytest.param(*key, marks=pytest.mark.xfail(strict=True, reason=said)) for key, said in MISSES.items()],
)
def test_a_figure_known_to_miss(bench: ModuleType, experiment: str, quantity: str) -> None:
    lines = {(line.experiment, line.quantity): line for line in bench.lines()}
    line = lines[experiment, quantity]
    assert line.within, line.text()


def test_the_shapes_come_in_the_published_order(bench: ModuleType) -> None:
    published, simulated = bench.ordering()
    assert simulated == published == ["4000/1000", "1000/4000", "1000/1000"]
