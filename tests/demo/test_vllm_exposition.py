"""An emulated replica prints what a real vLLM 0.32 server prints: families, types, help, labels and buckets."""

import math
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from autoscaler.demo.replica_metrics import ReplicaMetrics
from autoscaler.simulator.engine import Engine
from autoscaler.simulator.engine_types import EngineProfile, EngineRequest, EngineRole

RECORDED = Path(__file__).resolve().parents[3] / "shared" / "data" / "vllm_cpu"
FILES = {
    EngineRole.PREFILL: RECORDED / "pd" / "nixl_P_load.txt",
    EngineRole.DECODE: RECORDED / "pd" / "nixl_D_load.txt",
    EngineRole.COLOCATED: RECORDED / "metrics" / "02_moderate_load.txt",
}
# The recorded pair's size: 1,024 blocks of 32 tokens, 32,768 bytes of KV per token.
PROFILE = EngineProfile(0.016, 1.6e-4, 3.5e-4, 1.5e-7, 32_768, 64, 2048, 32)
MODEL = "small-llama"


def replica(role: EngineRole) -> tuple[Engine, ReplicaMetrics]:
    engine = Engine(PROFILE, role, now=100.0)
    return engine, ReplicaMetrics(engine, MODEL, 1.795227929e9, 32_768)


def shape(text: str) -> list[str]:
    """Every vLLM line without its value; the information series without the values of its labels."""
    lines = []
    for line in text.splitlines():
        if "vllm:" not in line:
            continue
        stripped = line if line.startswith("#") else line.rsplit(" ", 1)[0]
        if stripped.startswith("vllm:cache_config_info"):
            stripped = re.sub(r'="[^"]*"', "", stripped)
        lines.append(stripped)
    return lines


def samples(text: str) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            rest = {key: value for key, value in sample.labels.items() if key not in {"engine", "model_name"}}
            found[(sample.name.removeprefix("vllm:"), *rest.values())] = sample.value
    return found


@pytest.mark.parametrize("role", list(EngineRole))
def test_every_line_but_its_value_equals_the_recorded_server(role: EngineRole) -> None:
    if not FILES[role].exists():
        pytest.skip(f"the recorded server output {FILES[role].name} is not here")
    _, metrics = replica(role)
    assert shape(metrics.render()) == shape(FILES[role].read_text())


def test_a_decode_replica_counts_its_prompts_as_received() -> None:
    engine, metrics = replica(EngineRole.DECODE)
    for number in range(3):
        request = EngineRequest(number, 300, 32, transfer_seconds=0.02, transfer_bytes=300 * 32_768)
        engine.submit(request, 100.0 + number)
    engine.advance(110.0)
    seen = samples(metrics.render())
    assert seen["prompt_tokens_total",] == seen["prompt_tokens_by_source_total", "external_kv_transfer"] == 900
    assert seen["prompt_tokens_by_source_total", "local_compute"] == 0
    assert seen["prompt_tokens_cached_by_source_total", "p2p"] == seen["external_prefix_cache_hits_total",] == 900
    # As recorded: 33 requests of 32 tokens gave request_generation_tokens_sum 1056, iteration tokens without prompts.
    assert seen["request_generation_tokens_sum",] == seen["iteration_tokens_total_sum",] == 96
    assert seen["nixl_bytes_transferred_sum",] == 900 * 32_768
    assert seen["nixl_xfer_time_seconds_bucket", "0.025"] == 3
    assert seen["request_success_total", "length"] == 3


def test_a_prefill_replica_makes_one_token_per_request_and_has_no_gaps() -> None:
    engine, metrics = replica(EngineRole.PREFILL)
    engine.submit(EngineRequest(1, 300, 32), 100.0)
    engine.submit(EngineRequest(2, 500, 32, cached_tokens=96), 100.0)
    engine.advance(110.0)
    seen = samples(metrics.render())
    assert seen["generation_tokens_total",] == 2
    assert seen["prompt_tokens_total",] == 800
    assert seen["prompt_tokens_by_source_total", "local_compute"] == 704
    assert seen["prompt_tokens_by_source_total", "local_cache_hit"] == 96
    assert seen["prefix_cache_queries_total",] == 800
    assert seen["inter_token_latency_seconds_count",] == 0
    assert seen["request_time_per_output_token_seconds_count",] == 2
    # KV of both is kept until fetched: ceil(300/32) + ceil(500/32) = 10 + 16 of 1,023 blocks.
    assert seen["kv_cache_usage_perc",] == pytest.approx(26 / 1023)


def test_waiting_is_split_by_reason_and_stage() -> None:
    engine, metrics = replica(EngineRole.DECODE)
    # 32,000 of 32,736 tokens are taken by the first, so that the second has to wait for capacity.
    engine.submit(EngineRequest(1, 32_000, 5, transfer_seconds=50.0), 100.0)
    engine.submit(EngineRequest(2, 2000, 5, transfer_seconds=1.0), 100.0)
    engine.advance(101.0)
    seen = samples(metrics.render())
    assert seen["num_requests_waiting",] == 2
    assert seen["num_requests_waiting_by_reason", "capacity"] == 1
    assert seen["num_requests_waiting_by_reason", "deferred"] == 1
    assert seen["num_requests_kv_fetch_by_stage", "in_progress"] == 1
    assert seen["num_requests_running",] == 0


def test_histogram_buckets_are_cumulative_and_end_at_the_count() -> None:
    engine, metrics = replica(EngineRole.COLOCATED)
    for number in range(40):
        engine.submit(EngineRequest(number, 50 + 40 * number, 20), 100.0 + number / 10)
    engine.advance(200.0)
    for family in text_string_to_metric_families(metrics.render()):
        if family.type == "histogram":
            buckets = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            (count,) = [sample.value for sample in family.samples if sample.name.endswith("_count")]
            assert buckets == sorted(buckets)
            assert buckets[-1] == count


def test_poisoned_text_still_parses_and_is_nan_throughout() -> None:
    _, metrics = replica(EngineRole.DECODE)
    text = metrics.render(poison=True)
    numbers = [value for (name, *_), value in samples(text).items() if not name.endswith("_created")]
    assert [number for number in numbers if not math.isnan(number)] == [pytest.approx(1.795227929e9)]


def test_a_model_name_with_quotes_and_backslashes_is_escaped() -> None:
    engine = Engine(PROFILE, EngineRole.DECODE)
    text = ReplicaMetrics(engine, 'a"b\\c\nd', 0.0, 1.0).render()
    names = {
        sample.labels["model_name"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "model_name" in sample.labels
    }
    assert names == {'a"b\\c\nd'}
