"""Many later samples at once are what appending them one by one makes; sums without numpy's wrappers are its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.damped import _Level
from forecasting.series import Series

SAMPLES = st.lists(
    st.tuples(st.floats(0, 2000), st.one_of(st.none(), st.floats(0, 1e9), st.just(math.nan))), max_size=30
)


@given(before=SAMPLES, later=SAMPLES)
def test_at_once_as_one_by_one(
    before: list[tuple[float, float | None]], later: list[tuple[float, float | None]]
) -> None:
    series = Series.of(before, bin_s=60.0, keep=12)
    ordered = sorted(later, key=lambda sample: sample[0])
    one_by_one = series
    for time, value in ordered:
        one_by_one = one_by_one.append(time, value)
    assert series.extended(ordered) == one_by_one


def test_bins_too_old_to_keep_are_left_out() -> None:
    """Of three bins kept, the last of four later ones pushes out all before and the first of them."""
    series = Series.of([(0.0, 1.0), (60.0, 2.0)], bin_s=60.0, keep=3)
    found = series.extended([(120.0, 3.0), (180.0, 4.0), (240.0, 5.0), (300.0, 6.0)])
    assert found.bins.tolist() == [3, 4, 5]
    assert found.values.tolist() == [4.0, 5.0, 6.0]
    assert found.newest == (300.0, 6.0)
    assert series.extended([]) is series


def test_a_sample_at_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        Series.empty(60.0, 3).extended([(math.inf, 1.0)])


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=400))
def test_mean_and_variance_are_numpys_to_the_last_bit(values: list[float]) -> None:
    array = np.array(values)
    level = _Level.of(array, 0.5)
    assert (level.mean, level.variance) == (float(array.mean()), float(array.var()))
    assert level.floor == 0.5 * float(np.abs(array).mean())
    assert level.last == max(0.0, values[-1])
