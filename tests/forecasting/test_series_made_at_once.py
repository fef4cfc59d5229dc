"""A series made of many samples, or of its own arrays, is the one that appending them one by one gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.series import LARGEST, Series

TIMES = st.floats(-1e4, 1e4, allow_nan=False)
VALUES = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 1e6))


def one_by_one(samples: list[tuple[float, float | None]], bin_s: float, keep: int) -> Series:
    series = Series.empty(bin_s, keep)
    for time, value in sorted(samples, key=lambda sample: sample[0]):
        series = series.append(time, value)
    return series


@given(st.lists(st.tuples(TIMES, VALUES), max_size=30), st.sampled_from([0.1, 1.0, 27.7, 60.0]), st.integers(1, 40))
def test_many_samples_at_once_are_the_samples_one_by_one(
    samples: list[tuple[float, float | None]], bin_s: float, keep: int
) -> None:
    assert Series.of(samples, bin_s, keep) == one_by_one(samples, bin_s, keep)


@given(st.sets(st.integers(-500, 500), min_size=1, max_size=60), st.integers(1, 200))
def test_one_sample_a_bin_is_the_usual_case(bins: set[int], keep: int) -> None:
    samples: list[tuple[float, float | None]] = [(10.0 * k + 3.0, float(k * k)) for k in bins]
    assert Series.of(samples, 10.0, keep) == one_by_one(samples, 10.0, keep)


@given(
    st.lists(st.tuples(TIMES, st.floats(0, 1e6)), min_size=1, max_size=30, unique_by=lambda s: math.floor(s[0] / 60))
)
def test_a_series_comes_back_from_its_arrays(samples: list[tuple[float, float | None]]) -> None:
    series = Series.of(samples, 60.0, 100)
    assert Series.binned(series.bins, series.values, series.newest, 60.0, 100) == series


def test_no_arrays_are_the_empty_series() -> None:
    assert Series.binned(np.empty(0, np.int64), np.empty(0), None, 60.0, 5) == Series.empty(60.0, 5)


@pytest.mark.parametrize(
    ("bins", "values", "newest"),
    [
        ([1, 2], [1.0], (120.0, 1.0)),  # a value is missing
        ([1, 1], [1.0, 1.0], (60.0, 1.0)),  # twice the same bin
        ([2, 1], [1.0, 1.0], (60.0, 1.0)),  # backwards
        ([0, 5], [1.0, 1.0], (300.0, 1.0)),  # six bins from the oldest to the newest, five are kept
        ([1, 2], [1.0, math.nan], (120.0, 1.0)),
        ([1, 2], [1.0, 10 * LARGEST], (120.0, 1.0)),
        ([1, 2], [1.0, 1.0], None),
        ([], [], (120.0, 1.0)),
        ([1, 2], [1.0, 1.0], (119.9, 1.0)),  # in bin 1, while the last is 2
        ([1, 2], [1.0, 1.0], (120.0, math.nan)),
        ([1, 2], [1.0, 1.0], (math.inf, 1.0)),
    ],
)
def test_arrays_that_are_no_series_are_refused(
    bins: list[int], values: list[float], newest: tuple[float, float] | None
) -> None:
    with pytest.raises(ValueError, match=r"bins|values|newest"):
        Series.binned(np.array(bins, np.int64), np.array(values), newest, 60.0, 5)
