"""Readings of a real Prometheus over samples constructed to the second."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from metrics_adapter.prometheus import PrometheusAccess, PrometheusSource
from metrics_adapter.signals import Group, Reading, Readings, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T0 = 1_800_000_000.0
NOW = T0 + 300.0
STEP = 10.0

Samples = list[tuple[str, dict[str, str], float, float]]


def labelled(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else ""


def text_of(samples: Samples) -> str:
    """OpenMetrics text; promtool wants each series' samples together and in order."""
    by_series: dict[str, list[tuple[float, float]]] = {}
    for metric, labels, value, at in samples:
        by_series.setdefault(metric + labelled(labels), []).append((at, value))

    def form(value: float) -> str:
        return "NaN" if math.isnan(value) else repr(value).replace("inf", "Inf")

    return "\n".join(f"{series} {form(v)} {at:.3f}" for series, points in by_series.items() for at, v in sorted(points))


def place(pool: str, pod: str, **extra: str) -> dict[str, str]:
    return {"job": "llm", "namespace": "ns", "pool": pool, "pod": pod, "instance": f"{pod}:8000"} | extra


def times(start: float = T0, end: float = NOW) -> list[float]:
    return [start + STEP * i for i in range(int((end - start) / STEP) + 1)]


def held(metric: str, labels: dict[str, str], value: float, at: Iterable[float] | None = None) -> Samples:
    return [(metric, labels, value, t) for t in (times() if at is None else at)]


def counted(metric: str, labels: dict[str, str], per_s: float, at: Iterable[float] | None = None) -> Samples:
    return [(metric, labels, 1000.0 + per_s * (t - T0), t) for t in (times() if at is None else at)]


def vllm(
    labels: dict[str, str], running: float = 2.0, tokens_per_s: float = 50.0, at: Iterable[float] | None = None
) -> Samples:
    at = times() if at is None else list(at)
    return (
        held("vllm:num_requests_running", labels, running, at)
        + held("vllm:kv_cache_usage_perc", labels, 0.5, at)
        + counted("vllm:generation_tokens_total", labels, tokens_per_s, at)
    )


def v1(pool: str, pod: str, engine: str = "0", model: str = "m") -> dict[str, str]:
    return place(pool, pod, engine=engine, model_name=model)


def group(pool: str, **extra: str) -> Group:
    return Group(pool, {"pool": pool} | extra)


def everything() -> Samples:
    """All cases in one server, one pool each, so that one start serves every test."""
    return unfit_engines() + data_parallel() + dialects() + other_families() + gateways()


def unfit_engines() -> Samples:
    out: Samples = []
    # resets: 50 tokens/s, restarted at T0+270 (a fresh process counts from 0)
    out += held("vllm:num_requests_running", v1("reset", "reset-0"), 1.0)
    out += [
        ("vllm:generation_tokens_total", v1("reset", "reset-0"), 50.0 * (t - T0 if t < T0 + 270 else t - T0 - 270), t)
        for t in times()
    ]
    # stale: the second engine's last sample is 100 s old, and no staleness marker was written
    out += vllm(v1("stale", "stale-0")) + vllm(v1("stale", "stale-1"), running=7.0, at=times(end=NOW - 100))
    # exactly 60 s old still counts, 70 s does not
    out += vllm(v1("edge", "edge-0"), running=3.0, at=times(end=NOW - 60))
    out += vllm(v1("edge", "edge-1"), running=5.0, at=times(end=NOW - 70))
    # not finite
    out += vllm(v1("nan", "nan-0")) + vllm(v1("nan", "nan-1"), running=math.nan, tokens_per_s=1000.0)
    out += vllm(v1("nan", "nan-2"), running=math.inf, tokens_per_s=1000.0)
    out += vllm(v1("nan", "nan-3"), running=-1.0, tokens_per_s=1000.0)
    # one signal alone is NaN: it must not poison the group's
    out += held("vllm:num_requests_running", v1("nankv", "nankv-0"), 1.0)
    out += held("vllm:num_requests_running", v1("nankv", "nankv-1"), 1.0)
    out += held("vllm:kv_cache_usage_perc", v1("nankv", "nankv-0"), math.nan)
    out += held("vllm:kv_cache_usage_perc", v1("nankv", "nankv-1"), 0.25)
    # fresh: the second replica has a single sample
    out += vllm(v1("fresh", "fresh-0")) + vllm(v1("fresh", "fresh-1"), running=0.0, at=[NOW])
    # scrape targets: two known in `stale`, one of them down
    out += held("up", place("stale", "stale-0"), 1.0) + held("up", place("stale", "stale-1"), 0.0)
    # awkward label values
    out += vllm(v1('q"uo\\te', "odd+pod.0"))
    out += vllm(v1('q"uo\\te', "odd+pod.1"), at=times(end=NOW - 100))
    return out


def data_parallel() -> Samples:
    out: Samples = []
    # two data-parallel engines in one replica, KV usage 0.2 and 0.6
    for rank, usage in (("0", 0.2), ("1", 0.6)):
        labels = v1("dp", "dp-0", engine=rank)
        out += held("vllm:num_requests_running", labels, 4.0) + held("vllm:kv_cache_usage_perc", labels, usage)
        out += counted("vllm:generation_tokens_total", labels, 10.0)
        info = place("dp", "dp-0", engine=rank) | {
            "num_gpu_blocks": "320",
            "block_size": "32",
            "kv_cache_size_tokens": "5120" if rank == "0" else "None",
        }
        out += held("vllm:cache_config_info", info, 1.0)
    # one rank of two is NaN: the other still counts
    out += vllm(v1("halfdp", "halfdp-0", engine="0")) + vllm(
        v1("halfdp", "halfdp-0", engine="1"), running=math.nan, tokens_per_s=1000.0
    )
    return out


def dialects() -> Samples:
    out: Samples = []
    # V0 next to V1 in one pool: other names, no `engine` label
    out += vllm(v1("mixed", "mixed-1"), tokens_per_s=50.0)
    old = place("mixed", "mixed-0", model_name="m")
    out += held("vllm:num_requests_running", old, 3.0) + held("vllm:gpu_cache_usage_perc", old, 0.9)
    out += counted("vllm:generation_tokens_total", old, 20.0)
    # the transition release publishes both names on one engine: it is one engine
    both = v1("both", "both-0")
    out += vllm(both) + held("vllm:gpu_cache_usage_perc", both, 0.5)
    # colons relabelled to underscores, and counters without _total
    under = v1("under", "under-0")
    out += held("vllm_num_requests_running", under, 6.0) + held("vllm_kv_cache_usage_perc", under, 0.4)
    out += counted("vllm_generation_tokens", under, 30.0)
    # sleeping, step and prefix-derived signals
    nap = v1("nap", "nap-0")
    out += held("vllm:num_requests_running", nap, 0.0)
    for state, value in (("awake", 0.0), ("weights_offloaded", 1.0), ("discard_all", 0.0)):
        out += held("vllm:engine_sleep_state", nap | {"sleep_state": state}, value)
    out += counted("vllm:prompt_tokens_total", nap, 100.0) + counted("vllm:prefix_cache_hits_total", nap, 25.0)
    return out


def other_families() -> Samples:
    out: Samples = []
    # SGLang: both tensor-parallel ranks of each engine publish; rank 1 of dp leads as tp_rank 2
    for tp, dp in (("0", "0"), ("1", "0"), ("2", "1"), ("3", "1")):
        labels = place("sgl", "sgl-0", model_name="m", tp_rank=tp, dp_rank=dp, engine_type="unified")
        out += held("sglang:num_running_reqs", labels, 5.0) + held("sglang:token_usage", labels, 0.5)
        out += held("sglang:max_total_num_tokens", labels, 8192.0)
        for mode, per_s in (("prefill_compute", 100.0), ("prefill_cache", 40.0), ("decode", 7.0)):
            out += counted("sglang:realtime_tokens_total", labels | {"mode": mode}, per_s)
    front = place("sgl", "sgl-0", model_name="m")
    out += counted("sglang:time_to_first_token_seconds_count", front, 0.5)
    out += counted("sglang:generation_tokens_total", front, 999.0)
    trt = place("trt", "trt-0", model_name="m", engine_type="trtllm")
    out += held("trtllm_num_requests_running", trt, 2.0) + held("trtllm_kv_cache_utilization", trt, 0.3)
    out += held("trtllm_kv_cache_max_blocks", trt, 100.0) + held("trtllm_kv_cache_tokens_per_block", trt, 64.0)
    out += counted("trtllm_prompt_tokens_total", trt, 90.0) + counted("trtllm_prompt_cached_tokens_total", trt, 30.0)
    # a worker of Dynamo repeats its engine's metrics: one engine, not two
    worker = place("dyn", "dyn-0")
    out += vllm(worker | {"engine": "0", "model_name": "m"})
    out += held("dynamo_component_gpu_cache_usage_percent", worker | {"dp_rank": "0", "model": "m"}, 0.9)
    out += held("dynamo_component_gpu_cache_usage_percent", place("dyn", "dyn-1", dp_rank="0", model="m"), 0.7)
    return out


def gateways() -> Samples:
    out: Samples = []
    # old and new names at once on one, old alone on the other, stale on the third
    for pod, names in (
        ("epp-0", ("llm_d_epp", "llm_d_router_epp", "inference_extension")),
        ("epp-1", ("inference_extension",)),
    ):
        for name in names:
            for fairness, size in (("a", 3.0), ("b", 4.0)):
                labels = place("gate", pod, fairness_id=fairness, inference_pool="p")
                out += held(f"{name}_flow_control_queue_size", labels, size)
    out += held("llm_d_epp_flow_control_queue_size", place("gate", "epp-2"), 50.0, times(end=NOW - 100))
    out += held("dynamo_frontend_queued_requests", place("front", "front-0", model="m"), 9.0)
    return out


def escaped(samples: Samples) -> Samples:
    return [
        (m, {k: v.replace("\\", "\\\\").replace('"', '\\"') for k, v in labels.items()}, x, t)
        for m, labels, x, t in samples
    ]


@pytest.fixture(scope="module")
def source(prometheus_server: Callable[..., Any]) -> Iterator[PrometheusSource]:
    server = prometheus_server(samples=text_of(escaped(everything())))
    source = PrometheusSource(PrometheusAccess(server.url, timeout_s=60), window_s=60)
    yield source
    source.close()


def read(source: PrometheusSource, *groups: Group, now: float = NOW) -> Readings:
    readings = source.read(now, groups)
    assert [note for note in readings.notes if ":" in note] == []
    return readings


def one(source: PrometheusSource, pool: str, now: float = NOW) -> Reading:
    return read(source, group(pool), now=now).by_key[pool]


def test_counter_reset_leaves_a_positive_rate_close_to_the_true_one(source: PrometheusSource) -> None:
    # samples in the window: 12,000 at +240, 13,000 at +260, then 0 at +270 and 1,500 at +300:
    # 1,500 - 12,000 + 13,000 (the value before the reset) = 2,500 in 60 s; the 500 lost at the restart stay lost
    rate = one(source, "reset").signals[Signal.GENERATION_RATE]
    assert rate == pytest.approx(2500 / 60)


def test_stale_engine_counts_nowhere_and_is_reported(source: PrometheusSource) -> None:
    reading = one(source, "stale")
    assert (reading.reporting, reading.stale, reading.replicas_reporting) == (1, 1, 1)
    assert reading.signals[Signal.RUNNING] == 2.0
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(50.0)
    assert reading.sampled_at == pytest.approx(NOW)
    assert (reading.targets, reading.targets_up) == (2, 1)


def test_age_limit_is_inclusive_and_the_sample_age_is_real(source: PrometheusSource) -> None:
    reading = one(source, "edge")
    assert (reading.reporting, reading.stale) == (1, 1)
    assert reading.signals[Signal.RUNNING] == 3.0
    assert reading.sampled_at == pytest.approx(NOW - 60)


def test_engines_with_nan_infinite_or_negative_presence_count_nowhere(source: PrometheusSource) -> None:
    reading = one(source, "nan")
    assert (reading.reporting, reading.stale, reading.rate_engines) == (1, 3, 1)
    assert reading.signals[Signal.RUNNING] == 2.0
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(50.0)


def test_nan_in_one_signal_leaves_the_other_engines_value(source: PrometheusSource) -> None:
    reading = one(source, "nankv")
    assert reading.reporting == 2
    assert reading.signals[Signal.KV_USAGE] == 0.25


def test_fresh_replica_reports_but_is_not_behind_the_rates(source: PrometheusSource) -> None:
    reading = one(source, "fresh")
    assert (reading.reporting, reading.rate_engines, reading.replicas_reporting) == (2, 1, 2)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(50.0)


def test_two_data_parallel_engines_are_one_replica(source: PrometheusSource) -> None:
    reading = one(source, "dp")
    assert (reading.reporting, reading.replicas_reporting, reading.rate_engines) == (2, 1, 2)
    assert reading.signals[Signal.RUNNING] == 8.0
    assert reading.signals[Signal.KV_USAGE] == pytest.approx((0.2 + 0.6) / 2)
    assert reading.signals[Signal.KV_USAGE_MAX] == 0.6
    # rank 0 says 5,120 tokens; rank 1 says "None", so 320 blocks x 32 tokens = 10,240
    assert reading.signals[Signal.KV_CAPACITY] == pytest.approx((5120 + 10240) / 2)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(20.0)


def test_capacity_is_found_although_the_info_series_has_no_model_name(source: PrometheusSource) -> None:
    reading = read(source, group("dp", model_name="m")).by_key["dp"]
    assert reading.signals[Signal.KV_CAPACITY] == pytest.approx((5120 + 10240) / 2)


def test_one_bad_rank_does_not_take_its_sibling_along(source: PrometheusSource) -> None:
    reading = one(source, "halfdp")
    assert (reading.reporting, reading.stale) == (1, 1)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(50.0)


def test_two_generations_of_names_in_one_pool_are_added_up(source: PrometheusSource) -> None:
    reading = one(source, "mixed")
    assert (reading.reporting, reading.engines) == (2, ("vllm",))
    assert reading.signals[Signal.RUNNING] == 5.0
    assert reading.signals[Signal.KV_USAGE] == pytest.approx((0.5 + 0.9) / 2)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(70.0)


def test_an_engine_that_publishes_old_and_new_names_is_one_engine(source: PrometheusSource) -> None:
    reading = one(source, "both")
    assert (reading.reporting, reading.signals[Signal.KV_USAGE_MAX]) == (1, 0.5)


def test_underscored_names_and_counters_without_suffix_are_understood(source: PrometheusSource) -> None:
    reading = one(source, "under")
    assert (reading.reporting, reading.engines) == (1, ("vllm",))
    assert reading.signals[Signal.RUNNING] == 6.0
    assert reading.signals[Signal.KV_USAGE] == 0.4
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(30.0)


def test_sglang_ranks_that_repeat_each_other_count_once(source: PrometheusSource) -> None:
    reading = one(source, "sgl")
    assert (reading.reporting, reading.replicas_reporting, reading.rate_engines) == (2, 1, 2)
    assert reading.engines == ("sglang",)
    assert reading.signals[Signal.RUNNING] == 10.0
    assert reading.signals[Signal.KV_CAPACITY] == 8192.0
    assert reading.signals[Signal.PROMPT_RATE] == pytest.approx(2 * (100 + 40))
    assert reading.signals[Signal.COMPUTED_PROMPT_RATE] == pytest.approx(200.0)
    # realtime tokens (7/s per engine) win over the counter that ticks when requests end
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(14.0)
    assert reading.signals[Signal.PREFILL_REQUEST_RATE] == pytest.approx(0.5)


def test_tensorrt_llm_capacity_is_blocks_times_block_size(source: PrometheusSource) -> None:
    reading = one(source, "trt")
    assert (reading.reporting, reading.engines) == (1, ("trtllm",))
    assert reading.signals[Signal.KV_CAPACITY] == 6400.0
    assert reading.signals[Signal.COMPUTED_PROMPT_RATE] == pytest.approx(60.0)


def test_dynamo_worker_with_its_engines_metrics_is_counted_once(source: PrometheusSource) -> None:
    reading = one(source, "dyn")
    assert (reading.reporting, set(reading.engines)) == (2, {"vllm", "dynamo"})
    # dyn-0 by vLLM's own gauge (0.5), dyn-1 by Dynamo's (0.7)
    assert reading.signals[Signal.KV_USAGE] == pytest.approx(0.6)


def test_gateway_queue_emitted_under_three_names_is_counted_once_per_gateway(source: PrometheusSource) -> None:
    reading = one(source, "gate")
    # epp-0: 3 + 4 under each of three names; epp-1: 3 + 4 under the old name; epp-2: stale
    assert reading.signals == {Signal.GATEWAY_QUEUE: 14.0}
    assert (reading.reporting, reading.engines) == (0, ())
    assert one(source, "front").signals == {Signal.GATEWAY_QUEUE: 9.0}


def test_sleep_state_and_prefix_hits(source: PrometheusSource) -> None:
    reading = one(source, "nap")
    assert reading.signals[Signal.SLEEPING] == 1.0
    assert reading.signals[Signal.COMPUTED_PROMPT_RATE] == pytest.approx(75.0)


def test_wrong_model_name_reads_as_nobody_reporting(source: PrometheusSource) -> None:
    reading = read(source, group("mixed", model_name="other")).by_key["mixed"]
    assert (reading.reporting, reading.signals, reading.sampled_at, reading.stale) == (0, {}, None, 0)


def test_values_with_quotes_backslashes_and_regular_expression_signs_are_exact(source: PrometheusSource) -> None:
    pool = 'q"uo\\te'
    reading = one(source, pool)
    assert (reading.reporting, reading.stale, reading.signals[Signal.RUNNING]) == (1, 1, 2.0)


def test_a_label_prometheus_cannot_have_matches_nothing_and_says_so(source: PrometheusSource) -> None:
    readings = source.read(NOW, [Group("bad", {"llm-d.ai/role": "decode"}), group("dp")])
    assert readings.by_key["bad"].reporting == 0
    assert readings.by_key["dp"].reporting == 2
    assert any("'llm_d_ai_role'" in note for note in readings.notes)


def test_a_group_on_fewer_labels_merges_the_rows_of_the_others(source: PrometheusSource) -> None:
    groups = [group("dp"), group("nankv"), Group("all", {"namespace": "ns"})]
    readings = read(source, *groups).by_key
    whole = readings["all"]
    pools = source.label_values("pool", now=NOW)
    parts = read(source, *[group(pool) for pool in pools]).by_key
    assert whole.reporting == sum(part.reporting for part in parts.values())
    assert whole.stale == sum(part.stale for part in parts.values())
    assert whole.signals[Signal.RUNNING] == sum(part.signals.get(Signal.RUNNING, 0) for part in parts.values())
    assert whole.signals[Signal.KV_USAGE_MAX] == 0.9
    assert whole.sampled_at == pytest.approx(NOW - 60)


def test_very_many_labels_make_queries_that_the_server_still_takes(source: PrometheusSource) -> None:
    absent = {f"label_that_no_series_has_{i}": "" for i in range(200)}
    readings = read(source, group("dp", **absent), group("sgl", **absent), Group("all", {}))
    assert readings.by_key["dp"].reporting == 2
    assert readings.by_key["dp"].signals[Signal.KV_CAPACITY] == 7680


def test_readings_come_in_the_order_asked_and_absent_pools_read_as_empty(source: PrometheusSource) -> None:
    readings = read(source, group("zzz"), group("dp"), group("aaa"))
    assert list(readings.by_key) == ["zzz", "dp", "aaa"]
    assert readings.by_key["zzz"] == Reading("zzz", targets=0, targets_up=0)


def test_targets_are_unknown_when_up_has_none_of_the_labels(source: PrometheusSource) -> None:
    reading = read(source, Group("m", {"model_name": "m"})).by_key["m"]
    assert (reading.targets, reading.targets_up) == (None, None)


def test_the_number_of_queries_does_not_depend_on_the_number_of_groups(source: PrometheusSource) -> None:
    read(source, group("dp"), group("sgl"))  # from here on it knows the engines and their KV capacity
    few = read(source, group("dp"), group("sgl")).queries
    many = read(source, *[group(f"pool-{i}") for i in range(300)], group("dp")).queries
    assert few == many


def test_before_the_first_sample_nobody_reports(source: PrometheusSource) -> None:
    reading = one(source, "dp", now=T0 - 1000)
    assert (reading.reporting, reading.signals) == (0, {})


def test_preflight_helpers(source: PrometheusSource) -> None:
    assert "vllm:num_requests_running" in source.names(NOW)
    assert "up" not in source.names(NOW)
    assert {"dp", "sgl"} <= set(source.label_values("pool", now=NOW))
    assert source.label_values("pod", 'vllm:num_requests_running{pool="dp"}', NOW) == ("dp-0",)
    found = source.series('vllm:num_requests_running{pool="dp"}', NOW)
    assert sorted(labels["engine"] for labels in found) == ["0", "1"]
    [(labels, points)] = source.range('vllm:num_requests_running{pool="nap"}', NOW - 20, NOW, 10)
    assert labels["pod"] == "nap-0"
    assert points == [(NOW - 20, 0.0), (NOW - 10, 0.0), (NOW, 0.0)]
