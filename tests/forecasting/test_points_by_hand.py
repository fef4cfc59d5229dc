from __future__ import annotations

import numpy as np
import pytest

from forecasting import Grid
from forecasting.past import Past
from forecasting.points import DayIncrement, DayShape, Last, SeasonalNaive
from forecasting.ridge import Ridge
from forecasting.smoothing import HoltWinters, StateSpace, arima, components

HOUR = 3600.0


def lived(model: object, values: list[float], horizons: tuple[int, ...], step_s: float = HOUR) -> list[float]:
    """Points after the last of these values."""
    grid = Grid(step_s, horizons)
    past, state, points = Past.empty(grid, 1), model.begin(grid, 1), None  # type: ignore[attr-defined]  # any model
    for bin_, value in enumerate(values):
        past = past.append(bin_, np.array([value]))
        state, points = model.step(state, past)  # type: ignore[attr-defined]  # any model
    assert points is not None
    return [float(point) for point in points[0]]


def test_last_value_stays() -> None:
    assert lived(Last(), [3.0, 7.0], (1, 5)) == [7.0, 7.0]


def test_a_gap_holds_the_value_before_it() -> None:
    assert lived(Last(), [3.0, float("nan")], (1,)) == [3.0]


def test_seasonal_naive_is_yesterday_at_the_time_of_the_target() -> None:
    day = [float(hour) for hour in range(24)]
    # after 24 + 3 hours the newest bin is hour 2; one ahead is hour 3, thirty ahead is hour 8 of the day after
    assert lived(SeasonalNaive(), [*day, 0.0, 1.0, 2.0], (1, 30)) == [3.0, 8.0]
    assert lived(SeasonalNaive(7), [*day, 0.0], (1,)) == [0.0]  # no week yet: the last value


def test_day_increment_adds_what_yesterday_did_from_here() -> None:
    day = [10.0 * hour for hour in range(24)]
    # hour 2 of the second day at 120; yesterday it went from 20 to 50 in three hours: 120 + 30
    assert lived(DayIncrement(), [*day, 100.0, 110.0, 120.0], (3,)) == [150.0]
    # two days back counts 0.8 of one day back: yesterday +30, the day before +10 each hour -> the same 30
    assert lived(DayIncrement(), [*day, *day, 100.0, 110.0, 120.0], (3,)) == pytest.approx([150.0])


def test_day_shape_multiplies_by_how_yesterday_went_on() -> None:
    # a day of 10s with 30 at hour 3; today is twice as high: at hour 2, 20 -> about 60, with a floor of a tenth of
    # the mean on both sides. mean of the 27 values: (23 x 10 + 30 + 3 x 20) / 27 = 320 / 27 = 11.85, floor 1.185
    day = [10.0] * 24
    day[3] = 30.0
    floor = 0.1 * 320 / 27
    expected = (20 + floor) * (30 + floor) / (10 + floor) - floor
    assert lived(DayShape(), [*day, 20.0, 20.0, 20.0], (1,)) == pytest.approx([expected])


@pytest.mark.parametrize("logarithmic", [False, True])
def test_ridge_learns_a_swing_that_last_value_cannot_see(logarithmic: bool) -> None:
    # 10, 20, 10, 20, ...: the change is always the opposite of the last one
    values = [10.0, 20.0] * 200
    (point,) = lived(Ridge(logarithmic=logarithmic), values, (1,))
    assert point == pytest.approx(10.0, abs=1.0)


def test_ridge_without_anything_to_learn_says_the_last_value() -> None:
    assert lived(Ridge(), [5.0] * 100, (1, 6)) == pytest.approx([5.0, 5.0])


@pytest.mark.parametrize("model", [HoltWinters(), StateSpace(components)])
def test_fitted_models_follow_a_clean_day(model: object) -> None:
    values = [100 + 50 * np.sin(2 * np.pi * hour / 24) for hour in range(24 * 5)]
    points = lived(model, values, (1, 6))
    assert points == pytest.approx(
        [100.0, 150.0], abs=6.0
    )  # hours 0 and 5 of the next day: sin 0, and sin 75 deg = .97


def test_arima_follows_a_damped_change() -> None:
    rng = np.random.default_rng(0)
    values, change = [100.0], 0.0
    for _ in range(200):
        change = 0.8 * change + rng.normal()
        values.append(values[-1] + change)
    (point,) = lived(StateSpace(arima), values, (1,))
    expected = values[-1] + 0.8 * (values[-1] - values[-2])
    assert abs(point - expected) < 0.5 * abs(values[-1] - expected) + 0.3


@pytest.mark.parametrize("model", [HoltWinters(), StateSpace(components), StateSpace(arima)])
def test_fitted_models_survive_a_load_that_is_nothing(model: object) -> None:
    assert lived(model, [0.0] * 24 * 4, (1, 6)) == [0.0, 0.0]
