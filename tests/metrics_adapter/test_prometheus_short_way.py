"""Where every engine is fit the roll call is spared; where one is not, the short way must notice and read the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from metrics_adapter.prometheus import PrometheusAccess, PrometheusSource
from metrics_adapter.signals import Group, Reading, Readings, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import PrometheusFactory

T0, STEP = 1_800_000_000.0, 10.0
END = T0 + 1800.0
GROUPS = [Group(pool, {"pool": pool}) for pool in ("a", "b")]
# from when to when each thing is wrong; between them everything is well
STALE, NAN, INFINITE, NEGATIVE, GONE = (300.0, 360.0, 420.0), 600.0, 660.0, 720.0, (1000.0, 1010.0)


def series(pod: str, pool: str) -> list[str]:
    """One engine that generates 50 tokens/s; pod b-1 is the one with troubles."""
    labels = f'pool="{pool}",pod="{pod}",instance="{pod}:8000",engine="0",model_name="m"'
    running, tokens, usage, info = [], [], [], []
    for step in range(int((END - T0) / STEP) + 1):
        after = step * STEP
        value = 2.0
        if pod == "b-1":
            value = {NAN: math.nan, INFINITE: math.inf, NEGATIVE: -1.0}.get(after, value)
            if STALE[0] < after < STALE[2] or after > GONE[0]:
                continue
        text = "NaN" if math.isnan(value) else "+Inf" if math.isinf(value) else f"{value:g}"
        running.append(f"vllm:num_requests_running{{{labels}}} {text} {T0 + after}")
        tokens.append(f"vllm:generation_tokens_total{{{labels}}} {50 * after} {T0 + after}")
        usage.append(f"vllm:kv_cache_usage_perc{{{labels}}} 0.5 {T0 + after}")
        size = 'kv_cache_size_tokens="5000",num_gpu_blocks="1",block_size="1"'
        info.append(f"vllm:cache_config_info{{{labels},{size}}} 1 {T0 + after}")
    return running + tokens + usage + info


@pytest.fixture(scope="module")
def address(prometheus_server: PrometheusFactory) -> str:
    lines = [series(pod, pod[0]) for pod in ("a-0", "b-0", "b-1")]
    # promtool wants a metric's series together
    by_metric = sorted((line for each in lines for line in each), key=lambda line: line.partition("{")[0])
    return prometheus_server(samples="\n".join(by_metric)).url


@pytest.fixture
def source(address: str) -> Iterator[PrometheusSource]:
    source = PrometheusSource(PrometheusAccess(address, timeout_s=60), window_s=60, max_age_s=45)
    yield source
    source.close()


@pytest.fixture
def careful(address: str) -> Iterator[PrometheusSource]:
    source = PrometheusSource(PrometheusAccess(address, timeout_s=60), window_s=60, max_age_s=45)
    source._suspicious = True
    yield source
    source.close()


def looked(source: PrometheusSource, after: float) -> Readings:
    readings = source.read(T0 + after, GROUPS)
    assert readings.notes == ()
    return readings


@pytest.mark.parametrize(
    ("after", "fit"),
    [
        (200.0, 2),  # all is well
        (340.0, 2),  # the last sample is 40 s old
        (350.0, 1),  # 50 s: stale
        (590.0, 2),
        (600.0, 1),  # not a number
        (660.0, 1),  # infinite
        (720.0, 1),  # negative
        (730.0, 2),
        (1040.0, 2),
        (1050.0, 1),  # ended 50 s ago
        (1500.0, 1),  # ended long ago: well again
    ],
)
def test_an_unfit_engine_is_noticed_and_left_out(
    source: PrometheusSource, careful: PrometheusSource, after: float, fit: int
) -> None:
    short, long = looked(source, after), looked(careful, after)
    assert short.by_key == long.by_key
    assert short.by_key["b"].reporting == fit
    assert short.by_key["a"].signals[Signal.GENERATION_RATE] == pytest.approx(50.0)


def test_the_short_way_takes_fewer_queries_and_is_found_again(source: PrometheusSource) -> None:
    looked(source, 200.0)
    well = looked(source, 215.0).queries
    noticing, unfit = looked(source, 600.0), looked(source, 605.0)
    assert noticing.queries > unfit.queries > well
    assert looked(source, 625.0).queries > well  # the roll call finds everybody fit
    assert looked(source, 640.0).queries == well


def test_kv_capacity_is_asked_for_once_in_a_discovery_interval_and_not_together_with_it(
    source: PrometheusSource,
) -> None:
    counts = {}
    for after in range(1400, 1790, 15):  # the engine that ended at 1000 is not looked back to any more
        readings = looked(source, float(after))
        counts[after] = readings.queries
        assert readings.by_key["b"].signals[Signal.KV_CAPACITY] == 5000.0
    usual = min(counts.values())
    # 60 s apart: discovery at 1400, 1460, 1520; capacity with the first, then in the look after a discovery
    assert [after for after, count in counts.items() if count > usual][:5] == [1400, 1460, 1475, 1520, 1535]
    assert max(count for after, count in counts.items() if after > 1400) < counts[1400]


def test_the_reading_is_the_same_with_capacity_remembered(source: PrometheusSource) -> None:
    first, second = looked(source, 1500.0), looked(source, 1510.0)

    def plain(reading: Reading) -> Reading:
        return replace(reading, sampled_at=None, signals={s: round(v, 6) for s, v in reading.signals.items()})

    assert {k: plain(v) for k, v in first.by_key.items()} == {k: plain(v) for k, v in second.by_key.items()}
