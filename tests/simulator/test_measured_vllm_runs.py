"""A real vLLM server's runs predicted by the fitted simulator: what holds, and what is known not to, with its figures.

15 % at the median and 30 % at P95. The recorded run saturates 8,192 KV tokens for minutes, and a queue grows by the
difference between arrivals and service: were every step 4 % shorter than profile.csv says, all lines with shared
prefixes would be within their targets (queue +4 % instead of +32 %), at 8 % shorter the queue would be 17 % too short.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data" / "vllm_cpu"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded vLLM runs are not at {DATA}")

APART, SHARED = "prefixes apart", "prefixes shared"
MISSES = {
    (APART, "kv_cache_usage_perc, mean"): "+19.2% (0.3591 against 0.3013): cached prefixes take blocks of their own",
    (APART, "num_requests_waiting, mean"): "+44.0% (3.967 against 2.754)",
    (APART, "num_requests_waiting, P95"): "+110.7% (31.6 against 15)",
    (APART, "num_requests_waiting, |error| over time"): "46.4%",
    (APART, "TTFT P50, s"): "+18.4% (0.3058 against 0.2583)",
    (APART, "TTFT P95, s"): "+39.0% (22.17 against 15.95)",
    (SHARED, "num_requests_waiting, mean"): "+31.7% (3.628 against 2.754)",
    (SHARED, "num_requests_waiting, P95"): "+66.7% (25 against 15)",
    (SHARED, "num_requests_waiting, |error| over time"): "34.1%",
    (SHARED, "TTFT P50, s"): "+17.5% (0.3034 against 0.2583)",
}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "bench"))
        return importlib.import_module("validation_vllm")


@pytest.mark.parametrize("rate", ["0.5", "1.0", "2.0"])
def test_latencies_and_throughput_of_an_open_loop_run_are_predicted(bench: ModuleType, rate: str) -> None:
    lines = bench.open_loop(rate)
    assert len(lines) == 5
    assert [line.text() for line in lines if not line.within] == []


@pytest.mark.parametrize("prefixes", [APART, SHARED])
def test_the_recorded_run_is_predicted_but_for_the_known_misses(bench: ModuleType, prefixes: str) -> None:
    lines = bench.recorded_lines(sharing=prefixes == SHARED)
    assert len(lines) == 14
    assert [line.text() for line in lines if not line.within and (prefixes, line.quantity) not in MISSES] == []


@pytest.mark.parametrize(
    ("prefixes", "quantity"),
    [pytest.param(*key, marks=pytest.mark.xfail(strict=True, reason=said)) for key, said in MISSES.items()],
)
def test_a_quantity_of_the_recorded_run_that_is_known_to_miss(bench: ModuleType, prefixes: str, quantity: str) -> None:
    lines = {line.quantity: line for line in bench.recorded_lines(sharing=prefixes == SHARED)}
    assert lines[quantity].within, lines[quantity].text()


def test_four_percent_in_the_length_of_a_step_is_all_that_parts_the_recorded_run_from_its_targets(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a validation, since the 4 % are chosen on the same run: how sharply a saturated server answers."""
    whole = bench.small()
    names = ("step_seconds", "prefill_token_seconds", "sequence_seconds", "resident_token_seconds")
    faster = replace(whole, **{name: getattr(whole, name) * 0.96 for name in names})
    monkeypatch.setattr(bench, "small", lambda: faster)
    lines = bench.recorded_lines.__wrapped__(sharing=True)
    assert [line.text() for line in lines if not line.within] == []


def test_a_long_prompt_costs_more_than_one_price_per_token_can_say(bench: ModuleType) -> None:
    """Alone, 4,000 tokens took 3.4406 s: two chunks at b = 0.564 ms a token make 2.35 s, 32 % too little."""
    fitted = bench.fitted()
    steps = 2 * (fitted.step_seconds + fitted.sequence_seconds)
    predicted = steps + 4000 * fitted.prefill_token_seconds + 2048 * fitted.resident_token_seconds
    assert predicted / 3.4406 - 1 == pytest.approx(-0.32, abs=0.02)
