"""The 15-minute record of a real vLLM 0.32 server, loaded into a real Prometheus and read at times of our choice."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from metrics_adapter.prometheus import PrometheusAccess, PrometheusSource
from metrics_adapter.signals import Group, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "vllm_cpu" / "recorded"

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded metrics are not at {RECORDED}")

Table = list[dict[str, str]]


@pytest.fixture(scope="module")
def table() -> Table:
    with (RECORDED / "series_main.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def source(prometheus_server: Callable[..., Any]) -> Iterator[PrometheusSource]:
    with gzip.open(RECORDED / "raw_samples.openmetrics.txt.gz", "rt", encoding="utf-8") as file:
        server = prometheus_server(samples=file.read())
    source = PrometheusSource(PrometheusAccess(server.url, timeout_s=60), window_s=60)
    yield source
    source.close()
    server.stop()


@pytest.mark.parametrize("row", [20, 60, 90, 110, 140, 165])
def test_levels_and_rates_agree_with_the_record(source: PrometheusSource, table: Table, row: int) -> None:
    now, before = table[row], table[row - 11]
    at = float(now["t"])
    readings = source.read(at, [Group("g", {"namespace": "llm", "model_name": "small-llama"})])
    reading = readings.by_key["g"]
    assert [note for note in readings.notes if ":" in note] == []
    assert (reading.reporting, reading.replicas_reporting, reading.engines) == (1, 1, ("vllm",))
    assert reading.sampled_at is not None
    assert 0 <= at - reading.sampled_at < 5.1
    assert reading.signals[Signal.RUNNING] == float(now["vllm:num_requests_running"])
    assert reading.signals[Signal.WAITING] == float(now["vllm:num_requests_waiting"])
    assert reading.signals[Signal.KV_USAGE] == pytest.approx(float(now["vllm:kv_cache_usage_perc"]))
    assert reading.signals[Signal.KV_CAPACITY] == 8192
    # 12 scrapes 5 s apart fall into the window; rate() stretches their 55 s to its edges, at unchanged slope
    for signal, column in (
        (Signal.GENERATION_RATE, "vllm:generation_tokens_total"),
        (Signal.PROMPT_RATE, "vllm:prompt_tokens_total"),
        (Signal.ITL_BUSY, "vllm:inter_token_latency_seconds_sum"),
        (Signal.STEP_TOKENS, "vllm:iteration_tokens_total_sum"),
    ):
        expected = (float(now[column]) - float(before[column])) / 55
        assert reading.signals[signal] == pytest.approx(expected, rel=0.01), signal
    cached = (float(now["vllm:prompt_tokens_cached_total"]) - float(before["vllm:prompt_tokens_cached_total"])) / 55
    saved = reading.signals[Signal.PROMPT_RATE] - reading.signals[Signal.COMPUTED_PROMPT_RATE]
    assert saved == pytest.approx(cached, rel=0.01)


def test_a_minute_after_the_record_ends_the_engine_is_stale_not_absent(source: PrometheusSource, table: Table) -> None:
    reading = source.read(float(table[-1]["t"]) + 90, [Group("g", {"namespace": "llm"})]).by_key["g"]
    assert (reading.reporting, reading.stale, reading.signals) == (0, 1, {})
