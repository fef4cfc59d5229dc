from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting import Bounded, Grid, backtest, binned, named
from forecasting.points import Last

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Load = Callable[..., NDArray[np.float64]]
    Scenes = Mapping[str, Any]

DAY = 144
DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("horizon", [1, 3, 6])
def test_coverage_of_a_noisy_daily_load_is_what_was_asked_for(horizon: int, scenes: Scenes) -> None:
    assert 0.93 <= scenes["calm"].held(horizon, since=3) <= 0.97


@pytest.mark.parametrize("horizon", [1, 3, 6])
@pytest.mark.parametrize(("name", "changed"), [("tripled", 5), ("noisier", 5), ("shifted six hours", 6)])
def test_a_day_after_a_change_of_regime_coverage_is_above_nine_in_ten(
    name: str, changed: int, horizon: int, scenes: Scenes
) -> None:
    assert scenes[name].held(horizon, since=changed + 1, until=changed + 2) > 0.9


def test_a_weekend_collapse_is_let_go_of_and_monday_is_covered(scenes: Scenes) -> None:
    scene = scenes["weekends"]
    assert scene.bounds.max() < 3 * scene.load.max()
    # the second half of the second weekend needs less than half of what a working day has on average (100)
    assert scene.bounds[13 * DAY : 14 * DAY].mean() < 50.0
    for horizon in (1, 3, 6):
        assert scene.held(horizon, since=7.25, until=8) > 0.9


def test_an_on_off_service_is_covered_without_holding_more_than_it_ever_had_thrice(scenes: Scenes) -> None:
    scene = scenes["on and off"]
    assert scene.bounds.max() <= 3 * scene.load.max()
    assert scene.held(6, since=3) > 0.92


def test_a_retired_service_is_let_go(scenes: Scenes) -> None:
    assert scenes["retired"].bounds[-1].max() < 5.0  # of a load that was 100 six days ago


def test_a_load_that_never_was_needs_nothing(scenes: Scenes) -> None:
    assert scenes["never"].bounds.max() < 1e-6


def test_a_load_that_comes_to_life_after_days_of_nothing_is_covered_from_the_second_hour(scenes: Scenes) -> None:
    assert scenes["comes to life"].held(1, since=4 + 1 / 24) > 0.85


def test_a_day_ahead_the_bound_is_as_wide_as_the_errors_as_soon_as_there_are_some() -> None:
    at = np.arange(6 * DAY)
    noise = np.exp(0.1 * np.random.default_rng(1).standard_normal(len(at)))
    load = 1000.0 * (1.0 + 0.5 * np.sin(2 * np.pi * at / DAY)) * noise
    done = backtest(named("ensemble"), load, 600.0, (DAY,), 0.95, 2 * DAY)
    # Noise of 10 % has its 95 % quantile at exp(0.1 x 1.645) = 1.18. Points miss by 10 to 20 %; a bound of 1.5 is wide.
    above = done.bounds[2 * DAY : 5 * DAY, 0] / load[3 * DAY :]
    assert 1.0 < above.mean() < 1.5
    assert 0.9 < (above >= 1.0).mean() < 1.0


@pytest.mark.parametrize("level", [5.0, 0.003, 1e9])
def test_a_load_that_stands_still_is_covered_by_what_it_is(level: float) -> None:
    load = np.full(4 * DAY, level)
    load[3 * DAY] = 20 * level  # one spike, in the last day
    done = backtest(named("ensemble"), load, 600.0, (1, 6), 0.95, 2 * DAY)
    for column, horizon in enumerate((1, 6)):
        # h + 0.95 / 0.05 = h + 19 bins without a change are enough: before the spike, and 26 bins after it.
        before, after = done.bounds[2 * DAY : 3 * DAY, column], done.bounds[3 * DAY + 26 : -horizon, column]
        assert min(before.min(), after.min()) >= level
        assert before.mean() < 1.01 * level


def test_no_scene_makes_a_bound_negative_or_infinite(scenes: Scenes) -> None:
    for scene in scenes.values():
        assert np.isfinite(scene.bounds).all()
        assert (scene.bounds >= 0).all()


def test_gaps_are_neither_zeros_nor_ends(diurnal: Load) -> None:
    whole = diurnal(6)
    holes = whole.copy()
    rng = np.random.default_rng(5)
    holes[rng.random(len(holes)) < 0.2] = np.nan
    holes[5 * DAY : 5 * DAY + 30] = np.nan
    done = backtest(named("ensemble"), holes, 600.0, (1, 6), 0.95, 3 * DAY)
    assert np.isfinite(done.bounds[3 * DAY :]).all()
    for score in done.scores:
        assert score.coverage is not None
        assert score.over_provision is not None
        assert 0.92 <= score.coverage <= 0.98
        assert score.over_provision < 0.6


def test_bins_left_out_are_the_same_as_bins_without_a_value(diurnal: Load) -> None:
    load = diurnal(1)
    forecaster = named("ensemble")
    skipping = filling = forecaster.begin(Grid(600.0, (1, 6)), 1)
    for bin_, value in enumerate(load):
        if 100 <= bin_ < 130:
            filling = forecaster.step(filling, bin_, np.array([np.nan]))
            continue
        filling = forecaster.step(filling, bin_, np.array([value]))
        skipping = forecaster.step(skipping, bin_, np.array([value]))
    assert np.array_equal(forecaster.ahead(filling), forecaster.ahead(skipping))


def test_a_fit_over_a_history_is_as_good_as_having_lived_through_it(diurnal: Load) -> None:
    load = diurnal(5)
    forecaster, grid = named("ensemble"), Grid(600.0, (1, 6))
    lived = forecaster.begin(grid, 1)
    for bin_, value in enumerate(load):
        lived = forecaster.step(lived, bin_, np.array([value]))
    fitted = forecaster.fit(grid, load[None, :], len(load) - 1)
    assert forecaster.ahead(fitted) == pytest.approx(forecaster.ahead(lived), rel=0.15)


def test_realised_coverage_is_kept(diurnal: Load) -> None:
    forecaster = named("ensemble")
    state = forecaster.begin(Grid(600.0, (1,), (0.5, 0.95)), 1)
    assert np.isnan(forecaster.coverage(state)).all()
    for bin_, value in enumerate(diurnal(4)):
        state = forecaster.step(state, bin_, np.array([value]))
    half, most = forecaster.coverage(state)[0, 0]
    assert 0.4 < half < 0.6
    assert 0.92 < most < 0.98


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.sampled_from([0.0, 1e-9, 1e99, -5.0, float("inf"), float("nan")]), st.floats(0, 1e6)),
        min_size=1,
        max_size=60,
    ),
    st.integers(0, 40),
)
def test_whatever_comes_the_bounds_are_finite_not_negative_and_in_order(
    values: list[float | None], skipped: int
) -> None:
    forecaster = named("ensemble")
    grid = Grid(600.0, (1, 6, 200), (0.25, 0.5, 0.95))
    state = forecaster.begin(grid, 1)
    seen = False
    for place, value in enumerate(values):
        bin_ = place + (skipped if place > len(values) // 2 else 0)
        state = forecaster.step(state, bin_, np.array([np.nan if value is None else value]))
        seen |= value is not None and abs(value) <= 1e100
        bounds = forecaster.ahead(state)
        assert np.isfinite(bounds).all() == seen
        if seen:
            assert (bounds >= 0).all()
            assert (np.diff(bounds, axis=-1) >= 0).all()


@given(st.floats(1e-3, 1e6))
@settings(max_examples=5, deadline=None)
def test_a_load_in_another_unit_has_the_same_bounds_in_that_unit(unit: float) -> None:
    rng = np.random.default_rng(1)
    load = 100 + 10 * rng.random(80)
    forecaster = Bounded((Last(),))
    one = forecaster.fit(Grid(600.0, (1, 3)), load[None, :], 79)
    other = forecaster.fit(Grid(600.0, (1, 3)), unit * load[None, :], 79)
    assert forecaster.ahead(other) == pytest.approx(unit * forecaster.ahead(one), rel=1e-6)


def test_bins_must_come_in_order_and_one_value_for_each_load() -> None:
    forecaster = named("ensemble")
    state = forecaster.step(forecaster.begin(Grid(600.0, (1,)), 2), 7, np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="bin 7 must come after bin 7"):
        forecaster.step(state, 7, np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="one for each of 2 loads"):
        forecaster.step(state, 8, np.array([1.0]))
    with pytest.raises(ValueError, match="is not one of ensemble, last-value"):
        named("crystal-ball")


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("azure_llm_2024_week/code_10min_reconstructed.csv", "requests"),
        ("sageserve_o365_week/prompt_tokens_per_min_7d.csv.gz", "A_prod"),
    ],
)
def test_production_weeks_are_covered_as_promised(file: str, column: str) -> None:
    if not (DATA / file).is_file():
        pytest.skip(f"needs the recorded load {file}, which lies beside a checkout of the project")
    table = pd.read_csv(DATA / file)
    first, load = binned(table["t_s"].to_numpy(float), table[column].to_numpy(float), 600.0)
    done = backtest(named("ensemble"), load, 600.0, (1, 3, 6), 0.95, 3 * DAY, first)
    for score in done.scores:
        assert score.coverage is not None
        assert 0.93 <= score.coverage <= 0.97
