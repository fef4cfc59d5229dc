"""A series keeps what was reported, where it belongs, and nothing else."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting import Series

NAN = float("nan")


def test_samples_of_one_bin_are_averaged() -> None:
    # 10 s bins: 1, 4 and 9 s fall into bin 0 with mean (2 + 4 + 9) / 3 = 5, 12 s into bin 1.
    series = Series.of([(1.0, 2.0), (4.0, 4.0), (9.0, 9.0), (12.0, 7.0)])
    assert series.times.tolist() == [0.0, 10.0]
    assert series.values.tolist() == [5.0, 7.0]
    assert series.counts.tolist() == [3, 1]
    assert series.newest == (12.0, 7.0)


@pytest.mark.parametrize("nothing", [None, NAN, math.inf, -math.inf, 1e308])
def test_a_report_of_nothing_is_a_gap_and_not_a_number(nothing: float | None) -> None:
    series = Series.of([(0.0, 1.0), (10.0, nothing), (20.0, nothing), (30.0, 4.0)])
    assert series.values.tolist() == [1.0, 4.0]
    assert series.gaps() == ((10.0, 30.0),)


def test_zero_is_a_value() -> None:
    assert Series.of([(0.0, 0.0)]).values.tolist() == [0.0]


def test_the_same_instant_again_corrects_it() -> None:
    # Bin 0 has 2 and 4; the 4 of 5 s is corrected to 8: the mean goes from 3 to 5, still of two samples.
    series = Series.of([(1.0, 2.0), (5.0, 4.0)]).append(5.0, 8.0)
    assert series.values.tolist() == [5.0]
    assert series.counts.tolist() == [2]


def test_a_late_sample_goes_where_it_belongs() -> None:
    series = Series.of([(0.0, 1.0), (30.0, 4.0)])
    filled = series.append(12.0, 2.0)
    assert filled.times.tolist() == [0.0, 10.0, 30.0]
    assert filled.values.tolist() == [1.0, 2.0, 4.0]
    merged = filled.append(5.0, 3.0)  # bin 0: mean of 1 and 3
    assert merged.values.tolist() == [2.0, 2.0, 4.0]
    assert merged.newest == (30.0, 4.0)


def test_only_the_last_bins_are_kept_however_wide_the_gaps() -> None:
    series = Series.of([(float(t), 1.0) for t in range(0, 100, 10)], keep=3)
    assert series.times.tolist() == [70.0, 80.0, 90.0]
    assert series.append(60.0, 9.0) == series  # too old to keep
    assert series.append(110.0, 1.0).times.tolist() == [90.0, 110.0]  # 100 is a gap and takes its place


def test_changes_pair_only_bins_that_were_seen() -> None:
    # Over 2 bins: 0 -> 20 is +3, 10 -> 30 has no end, 20 -> 40 is +5, 30 has no value.
    series = Series.of([(0.0, 1.0), (10.0, 2.0), (20.0, 4.0), (40.0, 9.0)])
    start, change = series.changes(2)
    assert start.tolist() == [1.0, 4.0]
    assert change.tolist() == [3.0, 5.0]
    assert Series.empty().changes(1)[1].tolist() == []
    assert series.changes(99)[1].tolist() == []


def test_what_was_known_at_a_time() -> None:
    series = Series.of([(0.0, 1.0), (10.0, 2.0), (20.0, 4.0)])
    assert series.until(15.0).values.tolist() == [1.0, 2.0]
    assert len(series.until(-1.0)) == 0
    assert series.until(-1.0).newest is None
    assert series.until(1e9) == series


def test_a_series_cannot_be_changed() -> None:
    series = Series.of([(0.0, 1.0), (5.0, 2.0)])
    with pytest.raises(ValueError, match="read-only"):
        series.values[0] = 3.0
    series.append(6.0, 9.0)
    assert series.values.tolist() == [1.5]


@pytest.mark.parametrize(("bin_s", "keep"), [(0.0, 5), (-1.0, 5), (NAN, 5), (math.inf, 5), (10.0, 0)])
def test_senseless_bins_are_refused(bin_s: float, keep: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Series.empty(bin_s, keep)


@pytest.mark.parametrize("time", [NAN, math.inf, 1e300])
def test_a_time_that_is_none_is_refused(time: float) -> None:
    with pytest.raises(ValueError, match="sample time"):
        Series.empty().append(time, 1.0)


SAMPLES = st.lists(
    st.tuples(st.floats(-1e4, 1e4), st.none() | st.floats(allow_nan=True, allow_infinity=True)), max_size=40
)


@settings(deadline=None)
@given(SAMPLES, st.integers(1, 20))
def test_whatever_arrives_the_grid_stays_a_grid(samples: list[tuple[float, float | None]], keep: int) -> None:
    series = Series.empty(7.0, keep)
    for time, value in samples:
        series = series.append(time, value)
    assert len(series) <= keep
    assert np.isfinite(series.values).all()
    assert (np.diff(series.bins) > 0).all()
    assert (series.counts >= 1).all()


@settings(deadline=None)
@given(st.permutations([(float(t), float(t % 7)) for t in range(0, 200, 11)]))
def test_order_of_arrival_does_not_matter(samples: list[tuple[float, float]]) -> None:
    series = Series.empty(25.0)
    for time, value in samples:
        series = series.append(time, value)
    sorted_ = Series.of(samples, 25.0)
    assert series.bins.tolist() == sorted_.bins.tolist()
    assert series.values == pytest.approx(sorted_.values)
