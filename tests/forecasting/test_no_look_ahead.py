from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from forecasting import FORECASTERS, backtest, named
from forecasting.intervals import Bounded
from forecasting.points import DayShape, Last

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DAY = 144
CUT = 3 * DAY + 30
QUICK = ("ensemble", "seasonal-naive", "day-shape")
SLOW = tuple(name for name in FORECASTERS if name not in QUICK)


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_a_poisoned_future_leaves_every_bound_made_before_it_byte_for_byte_the_same(
    name: str, diurnal: Callable[..., NDArray[np.float64]]
) -> None:
    honest = diurnal(4)
    poisoned = honest.copy()
    poisoned[CUT:] = np.random.default_rng(9).choice([0.0, np.nan, 1e9, 5.0], len(honest) - CUT)
    runs = [backtest(named(name), load, 600.0, (1, 6), 0.95, 2 * DAY) for load in (honest, poisoned)]
    assert runs[0].bounds[:CUT].tobytes() == runs[1].bounds[:CUT].tobytes()
    assert runs[0].points[:CUT].tobytes() == runs[1].points[:CUT].tobytes()
    assert not np.array_equal(runs[0].bounds[CUT:], runs[1].bounds[CUT:])


def test_a_state_is_a_value_that_two_futures_can_start_from(diurnal: Callable[..., NDArray[np.float64]]) -> None:
    from forecasting import Grid  # noqa: PLC0415 - beside the only use

    load = diurnal(2)
    forecaster = Bounded((Last(), DayShape()))
    state = forecaster.begin(Grid(600.0, (1, 6)), 1)
    for bin_, value in enumerate(load):
        state = forecaster.step(state, bin_, np.array([value]))
    before = forecaster.ahead(state)
    one = forecaster.ahead(forecaster.step(state, len(load), np.array([500.0])))
    forecaster.step(state, len(load), np.array([0.0]))
    again = forecaster.ahead(forecaster.step(state, len(load), np.array([500.0])))
    assert np.array_equal(forecaster.ahead(state), before)
    assert np.array_equal(one, again)


def test_loads_in_a_batch_do_not_know_of_each_other(diurnal: Callable[..., NDArray[np.float64]]) -> None:
    from forecasting import Grid  # noqa: PLC0415 - beside the only use

    loads = np.stack([diurnal(2, seed=1), 1000 * diurnal(2, seed=2), np.zeros(2 * DAY)])
    forecaster = named("ensemble")
    grid = Grid(600.0, (1, 6))
    together = forecaster.begin(grid, 3)
    alone = [forecaster.begin(grid, 1) for _ in loads]
    for bin_ in range(loads.shape[1]):
        together = forecaster.step(together, bin_, loads[:, bin_])
        alone = [forecaster.step(state, bin_, loads[row : row + 1, bin_]) for row, state in enumerate(alone)]
    each = np.concatenate([forecaster.ahead(state) for state in alone])
    assert forecaster.ahead(together) == pytest.approx(each, rel=1e-6, abs=1e-6)
