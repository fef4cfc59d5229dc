"""Forecasts that can be reckoned by hand, and laws that every forecaster keeps."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting import Forecaster, LastValue, Series, SimpleQuantile

FORECASTERS: tuple[Forecaster, ...] = (LastValue(), SimpleQuantile())


def saw(rise: float, count: int = 40, level: float = 100.0) -> Series:
    """Values that alternate between a level and a level raised, one per 10 s bin, ending on the low one."""
    return Series.of([(10.0 * i, level + rise * ((count - 1 - i) % 2)) for i in range(count)])


def test_last_value_is_flat() -> None:
    series = Series.of([(0.0, 3.0), (10.0, 5.0)])
    ahead = LastValue().forecast(series, 10.0, (15.0, 300.0), (0.5, 0.95))
    assert ahead is not None
    assert ahead.values == ((5.0, 5.0), (5.0, 5.0))
    assert not ahead.confident


def test_the_bound_is_the_empirical_quantile_of_past_changes() -> None:
    # 40 values alternate 110, 100, ...: 39 changes over one bin, 20 times -10 from 110, 19 times +10 from 100. The
    # ratios are -1/11 twenty times and +1/10 nineteen times. Rank ceil(40 x 0.95) = 38: +1/10, so 100 + 100/10 = 110.
    # Rank ceil(40 x 0.3) = 12: -1/11, so 100 - 100/11 = 90.9.
    ahead = SimpleQuantile().forecast(saw(10.0), 390.0, (10.0,), (0.3, 0.95))
    assert ahead is not None
    assert list(ahead.values[0]) == pytest.approx([100 - 100 / 11, 110.0])
    assert ahead.confident
    assert "39 past changes" in ahead.basis


def test_over_an_even_number_of_bins_the_saw_does_not_move() -> None:
    ahead = SimpleQuantile().forecast(saw(10.0), 390.0, (20.0,), (0.95,))
    assert ahead is not None
    assert ahead.values == ((100.0,),)


def test_the_age_of_the_last_value_is_part_of_the_horizon() -> None:
    # 10 s ahead of a value 10 s old is 20 s ahead of the last value: two bins, no change.
    ahead = SimpleQuantile().forecast(saw(10.0), 400.0, (10.0,), (0.95,))
    assert ahead is not None
    assert ahead.values == ((100.0,),)


def test_a_quantile_beyond_the_history_takes_the_margin_and_says_so() -> None:
    # 99 % of 39 changes would be rank ceil(39.6) = 40 > 39. Margin 0.3 x sqrt(240 / 60) = 0.6 for the 95 % quantile.
    young = SimpleQuantile().forecast(Series.of([(0.0, 50.0)]), 0.0, (60.0, 240.0), (0.95,))
    assert young is not None
    assert [row[0] for row in young.values] == pytest.approx([50 * 1.3, 50 * 1.6])
    assert not young.confident
    assert "too young" in young.basis
    rare = SimpleQuantile().forecast(saw(10.0), 390.0, (10.0,), (0.99,))
    assert rare is not None
    assert not rare.confident


def test_too_young_never_goes_below_the_highest_rise_seen() -> None:
    # The load tripled in one bin: ratio 2 > 0.3 x sqrt(10 / 60), so 30 x (1 + 2), but never more than 20 more at once.
    ahead = SimpleQuantile().forecast(Series.of([(0.0, 10.0), (10.0, 30.0)]), 10.0, (10.0,), (0.95,))
    assert ahead is not None
    assert ahead.values[0][0] == pytest.approx(30.0 + 20.0)


def test_a_rise_from_a_low_level_is_not_multiplied_at_a_high_one() -> None:
    # 100 for ten bins, then 1,600: the one ratio of 15 would say 1,600 x 16 = 25,600; the largest rise ever was 1,500.
    jumped = Series.of([(10.0 * i, 100.0) for i in range(10)] + [(100.0, 1600.0)])
    ahead = SimpleQuantile().forecast(jumped, 100.0, (10.0,), (0.99,))
    assert ahead is not None
    assert ahead.values[0][0] == pytest.approx(1600.0 + 1500.0)


def test_a_history_that_only_fell_promises_no_further_fall() -> None:
    falling = Series.of([(10.0 * i, 1000.0 - 10 * i) for i in range(60)])
    ahead = SimpleQuantile().forecast(falling, 590.0, (10.0,), (0.05, 0.95))
    assert ahead is not None
    low, high = ahead.values[0]
    assert low < 410.0
    assert high == 410.0


def test_a_series_that_touches_zero_does_not_explode() -> None:
    # Mean 0.1, last value 0, one past rise from 0.001 to 1 (the bare ratio would be 999). With the floor at half the
    # mean the highest possible bound from zero is the largest change ever seen.
    quiet = [(10.0 * i, 0.0) for i in range(90)]
    burst = [(10.0 * i, 0.001 if i == 90 else 1.0) for i in range(90, 100)]
    series = Series.of([*quiet, *burst, (1000.0, 0.0)])
    ahead = SimpleQuantile().forecast(series, 1000.0, (10.0,), (0.995,))
    assert ahead is not None
    assert ahead.values[0][0] <= 1.0 + 1e-9


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=repr)
def test_nobody_reported_is_no_forecast(forecaster: Forecaster) -> None:
    assert forecaster.forecast(Series.empty(), 5.0, (10.0,), (0.95,)) is None
    assert forecaster.forecast(Series.of([(100.0, 1.0)]), 50.0, (10.0,), (0.95,)) is None


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=repr)
@pytest.mark.parametrize(
    ("at", "horizon", "quantile", "telling"),
    [
        (float("nan"), 1.0, 0.5, "forecast time nan"),
        (0.0, -1.0, 0.5, "horizon -1.0"),
        (0.0, math.inf, 0.5, "horizon inf"),
        (0.0, 1.0, 0.0, "quantile 0.0"),
        (0.0, 1.0, 1.0, "quantile 1.0"),
    ],
)
def test_senseless_questions_are_refused(
    forecaster: Forecaster, at: float, horizon: float, quantile: float, telling: str
) -> None:
    with pytest.raises(ValueError, match=telling):
        forecaster.forecast(saw(1.0), at, (horizon,), (quantile,))


@pytest.mark.parametrize("knob", ["margin", "floor_share", "spans"])
def test_senseless_knobs_are_refused(knob: str) -> None:
    with pytest.raises(ValueError, match=knob):
        SimpleQuantile(**{knob: -1.0})


LOADS = st.lists(st.none() | st.floats(0.0, 1e6, allow_subnormal=False), min_size=1, max_size=120)
QUANTILES = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4)
HORIZONS = st.lists(st.floats(0.0, 2000.0), min_size=1, max_size=3)


def series_of(loads: list[float | None], scale: float = 1.0) -> Series:
    return Series.of([(10.0 * i, None if load is None else load * scale) for i, load in enumerate(loads)])


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=repr)
@settings(deadline=None)
@given(loads=LOADS, horizons=HORIZONS, quantiles=QUANTILES)
def test_finite_never_negative_and_monotone_in_the_quantile(
    forecaster: Forecaster, loads: list[float | None], horizons: list[float], quantiles: list[float]
) -> None:
    series = series_of(loads)
    at = 10.0 * len(loads)
    ahead = forecaster.forecast(series, at, horizons, quantiles)
    assert (ahead is None) == all(load is None for load in loads)
    if ahead is None:
        return
    assert [len(row) for row in ahead.values] == [len(quantiles)] * len(horizons)
    for row in ahead.values:
        assert all(math.isfinite(value) and value >= 0 for value in row)
        assert all(low[1] <= high[1] for low, high in pairwise(sorted(zip(quantiles, row, strict=True))))
    assert forecaster.forecast(series_of(loads), at, horizons, quantiles) == ahead


@pytest.mark.parametrize("forecaster", FORECASTERS, ids=repr)
@settings(deadline=None)
@given(loads=LOADS, exponent=st.integers(-8, 8))
def test_another_unit_gives_the_same_forecast(forecaster: Forecaster, loads: list[float | None], exponent: int) -> None:
    at, scale = 10.0 * len(loads), 2.0**exponent
    plain = forecaster.forecast(series_of(loads), at, (10.0, 300.0), (0.5, 0.95))
    scaled = forecaster.forecast(series_of(loads, scale), at, (10.0, 300.0), (0.5, 0.95))
    if plain is None or scaled is None:
        assert plain is scaled
        return
    for row, other in zip(plain.values, scaled.values, strict=True):
        assert [value * scale for value in row] == pytest.approx(list(other), rel=1e-9, abs=1e-300)


@settings(deadline=None)
@given(loads=LOADS, later=st.lists(st.floats(0.0, 1e6), max_size=20))
def test_what_comes_later_changes_nothing_foreseen_now(loads: list[float | None], later: list[float]) -> None:
    at = 10.0 * len(loads) - 1.0
    known, poisoned = series_of(loads), series_of([*loads, *later])
    for forecaster in FORECASTERS:
        ahead = forecaster.forecast(known, at, (30.0,), (0.5, 0.95))
        told = forecaster.forecast(poisoned, at, (30.0,), (0.5, 0.95))
        assert (ahead is None) == (told is None)
        if ahead is not None and told is not None:
            assert told.values == ahead.values
