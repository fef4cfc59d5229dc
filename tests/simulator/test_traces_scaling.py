"""Laws of scaling a workload and of binning it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.errors import BadSettings
from autoscaler.simulator.binning import from_demand, to_demand
from autoscaler.simulator.lengths import MIXES
from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.simulator.scaling import compress, parse_scale, scaled, superpose, thin


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    size = draw(st.integers(0, 40))
    times = draw(st.lists(st.floats(0, 5000), min_size=size, max_size=size))
    counts = st.lists(st.integers(1, 5000), min_size=size, max_size=size)
    prompt = np.array(draw(counts), dtype=np.int32)
    ids = st.lists(st.integers(-(2**61), 2**61), max_size=3)
    blocks = tuple(np.array(draw(ids), dtype=np.int64) for _ in range(size))
    return Workload(
        "w",
        np.array(sorted(times)),
        prompt,
        np.array(draw(counts), dtype=np.int32),
        cached=prompt // 2,
        blocks=blocks if draw(st.booleans()) else None,
        kind=np.arange(size, dtype=np.int8),
    )


@settings(max_examples=60, deadline=None)
@given(workloads(), st.integers(1, 6), st.integers(0, 99))
def test_superposing_multiplies_every_total_and_keeps_the_duration(what: Workload, factor: int, seed: int) -> None:
    more = superpose(what, factor, seed)
    assert len(more) == factor * len(what)
    assert more.prompt.sum() == factor * what.prompt.sum()
    assert more.output.sum() == factor * what.output.sum()
    assert more.duration == what.duration
    assert more.mean_rates.prompt == pytest.approx(factor * what.mean_rates.prompt)
    assert more.kind is not None
    assert (np.bincount(more.kind, minlength=41)[: len(what)] == factor).all()
    assert more.fingerprint() == superpose(what, factor, seed).fingerprint()
    if factor == 1:
        assert more.arrival_s.tolist() == what.arrival_s.tolist()


@settings(max_examples=60, deadline=None)
@given(workloads(), st.integers(2, 4))
def test_copies_share_prefixes_within_but_not_between(what: Workload, factor: int) -> None:
    more = superpose(what, factor, 1)
    if what.blocks is None:
        assert more.blocks is None
        return
    assert more.blocks is not None
    distinct = len({one for ids in what.blocks for one in ids.tolist()})
    assert len({one for ids in more.blocks for one in ids.tolist()}) == factor * distinct
    assert more.kind is not None
    for kind, ids in zip(more.kind.tolist(), more.blocks, strict=True):  # every request keeps its own number of blocks
        assert len(ids) == len(what.blocks[kind])


def test_superposing_keeps_the_shape_over_minutes_and_smooths_bursts() -> None:
    # 30 requests at one instant, every 10 minutes for 2 hours of which only the first half is busy.
    times = np.repeat(np.arange(0, 3600, 600.0), 30)
    what = Workload("w", times, np.full(180, 10), np.full(180, 10), horizon_s=7200.0)
    more = superpose(what, 20, 3)
    # Shifts are of at most 61 s: of the second hour only its first and last 61 s can have any.
    assert not ((more.arrival_s > 3000 + 61) & (more.arrival_s < 7200 - 61)).any()
    # Copies lie over 2 minutes, so that a second has few of the 600 requests of a burst.
    per_second = np.bincount(more.arrival_s.astype(int))
    assert per_second[1200] >= 30  # the copy that is not moved
    assert np.sort(per_second)[-7] < 100


@given(workloads(), st.floats(0.01, 100))
def test_compressing_divides_time_and_nothing_else(what: Workload, factor: float) -> None:
    fast = compress(what, factor)
    assert fast.duration == pytest.approx(what.duration / factor)
    assert fast.arrival_s == pytest.approx(what.arrival_s / factor)
    assert fast.prompt.tolist() == what.prompt.tolist()
    assert f"compress:{factor:g}" in fast.notes[-1]


@given(workloads(), st.integers(0, 99))
def test_thinning_keeps_a_share(what: Workload, seed: int) -> None:
    some = thin(what, 0.5, seed)
    assert some.kind is not None
    kept = some.kind.tolist()
    assert some.arrival_s.tolist() == what.arrival_s[kept].tolist()
    assert some.prompt.tolist() == what.prompt[kept].tolist()
    assert some.duration == what.duration
    assert len(thin(what, 1, seed)) == len(what)


def test_thinning_half_of_many_leaves_about_half() -> None:
    what = Workload("w", np.arange(10_000.0), np.full(10_000, 5), np.full(10_000, 5))
    # 4 standard deviations of a binomial: 4 * sqrt(10,000 / 4) = 200.
    assert abs(len(thin(what, 0.5, 1)) - 5000) < 200


def test_scales_are_read_and_done_in_order() -> None:
    what = Workload("w", np.arange(1000.0), np.full(1000, 5), np.full(1000, 5))
    result = scaled(what, parse_scale("superpose:4, compress:2"), 1)
    assert (len(result), result.duration) == (4000, 999 / 2)
    assert [note.split()[0] for note in result.notes] == ["superpose:4", "compress:2"]
    assert parse_scale("") == ()
    series = DemandSeries("d", np.array([0.0, 60]), 60, np.array([2.0, 4]), np.array([20.0, 40]), np.array([2.0, 4]))
    result_series = scaled(series, parse_scale("superpose:3,compress:2,thin:0.5"), 1)
    assert (result_series.bin_s, result_series.t_s.tolist()) == (30, [0, 30])
    assert result_series.requests.tolist() == [3, 6]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("superpose", "superpose:N"),
        ("double:2", "superpose:N, compress:FACTOR, thin:SHARE"),
        ("superpose:2.5", "whole number of copies"),
        ("superpose:0", "whole number of copies"),
        ("superpose:inf", "whole number"),
        ("compress:0", "time is divided by"),
        ("compress:nan", "time is divided by"),
        ("thin:2", "share of requests"),
        ("thin:x", "thin:SHARE"),
    ],
)
def test_scales_that_cannot_be_are_said(text: str, said: str) -> None:
    with pytest.raises(BadSettings, match=said):
        parse_scale(text)


def test_too_many_requests_are_refused_before_memory_is_taken() -> None:
    what = Workload("w", np.arange(1000.0), np.full(1000, 5), np.full(1000, 5))
    with pytest.raises(BadSettings, match="at most 20,000,000"):
        superpose(what, 10**9, 1)


@given(workloads(), st.floats(1, 10_000))
def test_binning_conserves_requests_and_tokens(what: Workload, bin_s: float) -> None:
    series = to_demand(what, bin_s)
    assert series.requests.sum() == len(what)
    assert series.prompt.sum() == what.prompt.sum()
    assert series.output.sum() == what.output.sum()
    assert series.duration >= what.duration
    assert series.duration < what.duration + 2 * bin_s


def test_bins_hold_their_beginning_but_not_their_end() -> None:
    what = Workload("w", np.array([0.0, 59.9, 60, 180]), np.array([1, 2, 4, 8]), np.ones(4, np.int32))
    series = to_demand(what, 60)
    assert series.requests.tolist() == [2, 1, 0, 1]
    assert series.prompt.tolist() == [3, 4, 0, 8]


@pytest.mark.parametrize("mix", [None, *MIXES])
def test_requests_drawn_from_demand_have_its_counts_and_tokens(mix: str | None) -> None:
    requests = np.array([20_000.0, 0, 60_000])
    series = DemandSeries("d", np.array([0.0, 60, 120]), 60, requests, requests * 300, requests * 2.5)
    drawn = from_demand(series, None if mix is None else MIXES[mix], 5)
    again = to_demand(drawn, 60)
    # 4 standard deviations of Poisson: 4 / sqrt(20,000) = 2.8 %.
    assert again.requests == pytest.approx(requests, rel=0.03)
    # DeepSeek-R1's inputs spread most (CV about 4): 4 * 4 / sqrt(20,000) = 11 %.
    assert again.prompt == pytest.approx(series.prompt, rel=0.12)
    if mix is None:
        assert again.output == pytest.approx(series.output, rel=0.04)  # 2 or 3 tokens each, 2.5 on average
    assert drawn.duration == series.duration
    assert drawn.fingerprint() == from_demand(series, None if mix is None else MIXES[mix], 5).fingerprint()


def test_slices_begin_at_zero_and_last_as_long_as_asked() -> None:
    what = Workload("w", np.array([0.0, 10, 20, 30]), np.arange(1, 5), np.ones(4, np.int32))
    part = what.between(10, 30)
    assert (part.arrival_s.tolist(), part.prompt.tolist(), part.duration) == ([0, 10], [2, 3], 20)
    assert part.mean_rates.requests == 0.1  # 2 requests in 20 s
    series = to_demand(what, 10).between(10, 30)
    assert (series.t_s.tolist(), series.prompt.tolist()) == ([0, 10], [2, 3])
    with pytest.raises(ValueError, match="t0 < t1"):
        what.between(5, 5)
