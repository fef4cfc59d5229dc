from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest

from forecasting import Grid, named
from forecasting.saved import packed, unpacked

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

GRID = Grid(600.0, (1, 6))


def test_a_state_kept_in_a_file_goes_on_byte_for_byte(diurnal: Callable[..., NDArray[np.float64]]) -> None:
    loads = np.stack([diurnal(2), 3 * diurnal(2, seed=1)])
    forecaster = named("ensemble")
    state = forecaster.begin(GRID, 2)
    for bin_ in range(200):
        state = forecaster.step(state, bin_, loads[:, bin_])
    kept = io.BytesIO()
    np.savez(kept, **packed(state))
    kept.seek(0)
    with np.load(kept, allow_pickle=False) as arrays:
        again = unpacked(forecaster, GRID, dict(arrays))
    for bin_ in range(200, 230):
        state, again = (forecaster.step(one, bin_, loads[:, bin_]) for one in (state, again))
    assert forecaster.ahead(state).tobytes() == forecaster.ahead(again).tobytes()
    assert forecaster.coverage(state).tobytes() == forecaster.coverage(again).tobytes()


def test_a_state_that_saw_nothing_comes_back_as_one() -> None:
    forecaster = named("last-value")
    again = unpacked(forecaster, GRID, packed(forecaster.begin(GRID, 3)))
    assert again.past.bin_ is None
    assert np.isnan(forecaster.ahead(again)).all()


def test_arrays_of_another_grid_or_with_parts_missing_are_refused() -> None:
    forecaster = named("ensemble")
    arrays = packed(forecaster.step(forecaster.begin(GRID, 1), 0, np.array([1.0])))
    with pytest.raises(ValueError, match="it must be"):
        unpacked(forecaster, Grid(600.0, (1, 3, 6)), arrays)
    with pytest.raises(ValueError, match="debt: missing"):
        unpacked(forecaster, GRID, {name: array for name, array in arrays.items() if name != "debt"})
    with pytest.raises(ValueError, match="said: parts are missing"):
        unpacked(forecaster, GRID, {name: array for name, array in arrays.items() if name != "said.points"})
    with pytest.raises(ValueError, match=r"past\.mean: missing"):
        unpacked(forecaster, GRID, {})
