"""Every public trace gives the requests and means that its publishers (or our summary of them) state."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.simulator.servegen import servegen_requests
from autoscaler.simulator.traces import load

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SUMMARY = DATA / "summary_dev.json"

pytestmark = pytest.mark.skipif(not SUMMARY.is_file(), reason=f"public traces are not at {DATA}")


def summary(name: str) -> dict[str, object]:
    stated = json.loads(SUMMARY.read_text(encoding="utf-8"))[name]
    assert isinstance(stated, dict)
    return stated


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("azure_llm_2023/code", "azure_llm_2023/AzureLLMInferenceTrace_code.csv", "azure"),
        ("azure_llm_2023/conv", "azure_llm_2023/AzureLLMInferenceTrace_conv.csv", "azure"),
        ("mooncake/synthetic", "mooncake/synthetic_trace.jsonl.gz", "mooncake"),
        ("mooncake/arxiv_first1000", "mooncake/arxiv_trace_first1000.jsonl.gz", "mooncake"),
        ("lmsys_arena_vtc/real_trace", "lmsys_arena_vtc/vtc_real_trace.csv", "requests"),
    ],
)
def test_requests_span_and_lengths_are_the_published_ones(name: str, file: str, kind: str) -> None:
    stated = summary(name)
    loaded = load(DATA / file, kind)
    assert isinstance(loaded, Workload)
    assert len(loaded) == stated["requests"]
    assert loaded.arrival_s[0] == 0
    assert loaded.duration == pytest.approx(stated["span_s"], abs=0.06)
    for tokens, figures in ((loaded.prompt, stated["input_tokens"]), (loaded.output, stated["output_tokens"])):
        assert isinstance(figures, dict)
        assert tokens.mean() == pytest.approx(figures["mean"], abs=0.051)
        assert np.quantile(tokens, [0.5, 0.9, 0.99, 1.0]) == pytest.approx(
            [figures[key] for key in ("p50", "p90", "p99", "max")], abs=0.51
        )
    # Gaps between requests: standard deviation over mean.
    gaps = np.diff(loaded.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(stated["cv_interarrival"], rel=0.01)


@pytest.mark.parametrize("name", ["synthetic", "arxiv_first1000"])
def test_mooncake_blocks_hit_as_often_as_published(name: str) -> None:
    file = {"synthetic": "synthetic_trace", "arxiv_first1000": "arxiv_trace_first1000"}[name]
    loaded = load(DATA / "mooncake" / f"{file}.jsonl.gz", "mooncake")
    assert isinstance(loaded, Workload)
    assert loaded.blocks is not None
    # An unlimited cache hits the leading blocks that any earlier request had.
    seen: set[int] = set()
    hits = total = 0
    for ids in loaded.blocks:
        blocks = ids.tolist()
        hits += next((at for at, one in enumerate(blocks) if one not in seen), len(blocks))
        total += len(blocks)
        seen.update(blocks)
    assert hits / total == pytest.approx(
        float(str(summary(f"mooncake/{name}")["prefix_hit_ratio_infinite_cache"])), abs=0.02
    )


def test_arena_tenants_become_classes() -> None:
    loaded = load(f"{DATA}/lmsys_arena_vtc/vtc_real_trace.csv#tenant", "requests")
    assert isinstance(loaded, Workload)
    assert loaded.kind is not None
    assert sorted(set(loaded.kind.tolist())) == list(range(27))
    assert np.bincount(loaded.kind).max() / 1500 == pytest.approx(0.1973, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "file", "kind", "bin_s"),
    [
        ("azure_llm_2024_week/code", "azure_llm_2024_week/code_10min_reconstructed.csv", "demand", 600),
        ("servegen/m-large", "servegen/m-large_agg_10min.csv.gz", "servegen", 600),
        ("servegen/deepseek-r1", "servegen/deepseek-r1_agg_10min.csv.gz", "servegen", 600),
    ],
)
def test_demand_has_the_published_totals(name: str, file: str, kind: str, bin_s: float) -> None:
    stated = summary(name)
    loaded = load(DATA / file, kind)
    assert isinstance(loaded, DemandSeries)
    assert (len(loaded), loaded.bin_s, loaded.duration) == (stated["bins"], bin_s, stated["span_s"])
    assert loaded.requests.sum() == pytest.approx(stated["requests"], rel=1e-6)
    assert loaded.requests.max() / 10 == pytest.approx(stated["peak_per_min"], rel=1e-4)
    for tokens, key in ((loaded.prompt, "input_tokens_series"), (loaded.output, "output_tokens_series")):
        figures = stated[key]
        assert isinstance(figures, dict)
        assert tokens.mean() / 10 == pytest.approx(figures["mean_per_min"], rel=1e-4)


def test_office_week_is_demand_by_a_named_column() -> None:
    for column in ("A_prod", "A_dev", "B_dev"):
        stated = summary(f"sageserve_o365_week/{column}")
        file = f"{DATA}/sageserve_o365_week/prompt_tokens_per_min_7d.csv.gz#{column}"
        loaded = load(file, "demand", input_tokens=1500, output_tokens=300)
        assert isinstance(loaded, DemandSeries)
        assert loaded.prompt.mean() == pytest.approx(stated["mean_per_min"], rel=1e-5)
        assert loaded.requests.sum() == pytest.approx(loaded.prompt.sum() / 1500)
        assert loaded.output.sum() == pytest.approx(loaded.prompt.sum() / 5)


def test_burstgpt_aggregates_agree_with_each_other() -> None:
    loaded = {}
    for part in ("hourly_requests_days0_34.csv", "daily_days0_34.csv", "week1_minute_total_tokens.csv.gz"):
        series = load(DATA / "burstgpt" / f"burstgpt1_{part}", "burstgpt", input_tokens=600, output_tokens=200)
        assert isinstance(series, DemandSeries)
        loaded[series.bin_s] = series
    assert sorted(loaded) == [60, 3600, 86400]
    assert loaded[3600].requests.sum() == loaded[86400].requests.sum() == 829262
    tokens = loaded[60].prompt + loaded[60].output
    assert tokens.sum() == pytest.approx(16953018)
    daily = loaded[86400].prompt[:7] + loaded[86400].output[:7]
    # The two files were counted apart and differ by up to 93 tokens of 2.1 million a day.
    assert tokens.reshape(7, 1440).sum(axis=1) == pytest.approx(daily, rel=1e-4)


def test_servegen_clients_sum_to_the_totals() -> None:
    totals = load(DATA / "servegen/deepseek-r1_agg_10min.csv.gz", "servegen")
    clients = load(DATA / "servegen/deepseek-r1_client_rate_rps_10min.csv.gz", "servegen")
    assert isinstance(totals, DemandSeries)
    assert isinstance(clients, DemandSeries)
    # Rates are published with six decimals, over 600 s and 73 clients: 73 * 600 * 5e-7 = 0.02 requests.
    assert clients.requests == pytest.approx(totals.requests, abs=0.53)
    assert clients.prompt == pytest.approx(totals.prompt, rel=1e-3)
    assert clients.output == pytest.approx(totals.output, rel=1e-3)


def test_servegen_requests_are_as_many_as_long_and_as_bursty_as_published() -> None:
    rates = DATA / "servegen/deepseek-r1_client_rate_rps_10min.csv.gz"
    totals = load(DATA / "servegen/deepseek-r1_agg_10min.csv.gz", "servegen")
    assert isinstance(totals, DemandSeries)
    drawn = servegen_requests(rates, 7, 3600, 7200)
    hour = totals.between(3600, 7200)
    # Clients have a CV of up to about 14: the count's standard deviation is cv * sqrt(n), about 1,500 of 60,000.
    assert len(drawn) == pytest.approx(hour.requests.sum(), rel=0.08)
    assert drawn.prompt.mean() == pytest.approx(hour.prompt.sum() / hour.requests.sum(), rel=0.08)
    assert drawn.output.mean() == pytest.approx(hour.output.sum() / hour.requests.sum(), rel=0.08)
    per_second = np.bincount(drawn.arrival_s.astype(int), minlength=3600)
    assert per_second.var() / per_second.mean() > 1.5  # a Poisson process would have 1
    assert servegen_requests(rates, 7, 3600, 7200).fingerprint() == drawn.fingerprint()
    assert servegen_requests(rates, 8, 3600, 7200).fingerprint() != drawn.fingerprint()
    tenth = servegen_requests(rates, 7, 3600, 7200, share=0.1)
    assert len(tenth) == pytest.approx(len(drawn) / 10, rel=0.15)
