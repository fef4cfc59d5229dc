"""The damped bound: drawn to the mean as far as the load itself returns to it; and how far a load soon reaches."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting.damped import DampedQuantile, reached
from forecasting.forecaster import SimpleQuantile
from forecasting.series import Series

LOADS = st.lists(st.one_of(st.none(), st.floats(0, 1e9)), min_size=1, max_size=60)


def minutes(values: list[float | None]) -> Series:
    return Series.of(((60.0 * i, value) for i, value in enumerate(values)), bin_s=60.0, keep=400)


def bound(series: Series, horizon_s: float, quantile: float, forecaster: DampedQuantile | SimpleQuantile) -> float:
    assert series.newest is not None
    found = forecaster.forecast(series, series.newest[0], [horizon_s], [quantile])
    assert found is not None
    return found.values[0][0]


def test_a_jumping_load_is_not_expected_to_jump_from_its_peak() -> None:
    """100 and 300 by turns: a minute on it is the other, phi is 0, and the bound the highest there was. By changes it
    is 300 and a jump of 200 more.
    """
    load = minutes([100.0, 300.0] * 30)
    assert bound(load, 60.0, 0.9, DampedQuantile()) == pytest.approx(300.0, rel=0.01)
    assert bound(load, 60.0, 0.9, SimpleQuantile()) == pytest.approx(500.0, rel=0.01)


def test_a_wandering_load_is_bounded_as_by_changes() -> None:
    """A steady climb of 10 a minute returns to nothing: both bounds are some 10 above the last value."""
    load = minutes([1000.0 + 10.0 * i for i in range(120)])
    both = [bound(load, 60.0, 0.9, each) for each in (DampedQuantile(), SimpleQuantile())]
    assert both == pytest.approx([2200.0, 2200.0], abs=20.0)


def test_without_history_a_margin_is_declared() -> None:
    """30 % x sqrt(4 minutes) of 500 at the 95 % quantile: 800."""
    found = DampedQuantile().forecast(minutes([500.0]), 0.0, [240.0], [0.95])
    assert found is not None
    assert not found.confident
    assert found.values[0][0] == pytest.approx(800.0)


@given(values=LOADS, horizons=st.lists(st.floats(0, 3600), min_size=1, max_size=3))
def test_bounds_are_finite_never_negative_and_rise_with_the_quantile(
    values: list[float | None], horizons: list[float]
) -> None:
    found = DampedQuantile().forecast(minutes(values), 60.0 * len(values), horizons, [0.1, 0.5, 0.9, 0.99])
    if found is None:
        assert all(value is None for value in values)
        return
    for row in found.values:
        assert all(math.isfinite(value) and value >= 0 for value in row)
        assert list(row) == sorted(row)


@given(values=st.lists(st.floats(1, 1e6), min_size=2, max_size=60), factor=st.floats(0.1, 1000))
def test_a_load_counted_in_other_units_gives_the_same_bound_in_them(values: list[float], factor: float) -> None:
    one = bound(minutes(values), 120.0, 0.9, DampedQuantile())
    other = bound(minutes([value * factor for value in values]), 120.0, 0.9, DampedQuantile())
    assert other == pytest.approx(one * factor, rel=1e-6)


@pytest.mark.parametrize(("name", "value"), [("margin", -1.0), ("floor_share", math.nan), ("spans", math.inf)])
def test_knobs_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        DampedQuantile(**{name: value})


def test_a_load_with_bursts_every_ten_minutes_may_reach_one_again() -> None:
    """Nine minutes at 100, one at 900: within ten minutes there is always a burst, within two seldom (2 in 10)."""
    load = minutes(([100.0] * 9 + [900.0]) * 12 + [100.0])
    assert reached(load, 600.0, 0.9) == pytest.approx(900.0, rel=0.05)
    near = reached(load, 120.0, 0.7)
    assert near is not None
    assert near < 450.0


def test_a_dip_such_as_there_never_was_is_no_reason_to_let_go() -> None:
    assert reached(minutes([3000.0] * 20 + [300.0] * 2), 300.0, 0.9) == pytest.approx(3000.0)


def test_a_slow_decline_reaches_no_higher_again() -> None:
    """From 4,000 by 20 a minute to 1,620: the highest of the next five minutes was always 20 below what was."""
    found = reached(minutes([4000.0 - 20.0 * i for i in range(120)]), 300.0, 0.9)
    assert found is not None
    assert 1620.0 <= found < 1900.0


def test_too_little_history_says_nothing() -> None:
    assert reached(minutes([100.0] * 12), 300.0, 0.9) is None
    assert reached(minutes([100.0] * 13), 300.0, 0.9) == pytest.approx(100.0)
    assert reached(Series.empty(), 300.0, 0.9) is None


@given(values=LOADS, quantile=st.floats(0.05, 0.99))
def test_it_never_reaches_less_than_there_is(values: list[float | None], quantile: float) -> None:
    load = minutes(values)
    found = reached(load, 300.0, quantile)
    if found is not None and load.newest is not None:
        assert math.isfinite(found)
        assert found >= load.newest[1]
