"""Made-up loads with ten-minute bins, and what the default forecaster says about them bin by bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from forecasting import DEFAULT, Grid, named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

DAY = 144
HORIZONS = (1, 3, 6)


def made(days: int, seed: int = 0, noise: float = 0.1) -> NDArray[np.float64]:
    """Days of a working-hours load with a mean near 100."""
    rng = np.random.default_rng(seed)
    t = np.arange(days * DAY)
    shape = 100.0 + 60.0 * np.sin(2 * np.pi * t / DAY)
    return np.maximum(shape * np.exp(noise * rng.standard_normal(len(t))), 0.0)


@pytest.fixture(scope="session")
def diurnal() -> Callable[..., NDArray[np.float64]]:
    """Makes such loads."""
    return made


@dataclass(frozen=True)
class Scene:
    """A load and the 95 % bounds made at each bin, by horizon."""

    load: NDArray[np.float64]
    bounds: NDArray[np.float64]

    def held(self, horizon: int, since: float, until: float | None = None) -> float:
        """Coverage of the bounds for the bins between these days."""
        first = round(since * DAY)
        last = len(self.load) if until is None else round(until * DAY)
        actual = self.load[first:last]
        bound = self.bounds[first - horizon : last - horizon, HORIZONS.index(horizon)]
        return float((actual <= bound).mean())


def on_off() -> NDArray[np.float64]:
    rng = np.random.default_rng(3)
    hours = np.repeat(rng.random(9 * 24) < 0.4, 6)
    return np.where(hours, 50.0 + 10.0 * rng.random(len(hours)), 0.0)


def weekends() -> NDArray[np.float64]:
    """Two weeks; days 5, 6, 12 and 13 hold 3 % of the load."""
    load = made(14)
    return np.where((np.arange(len(load)) // DAY) % 7 >= 5, 0.03 * load, load)


@pytest.fixture(scope="session")
def scenes() -> Mapping[str, Scene]:
    """Loads that try a forecaster, all foreseen in one batch; the shorter ones end in gaps that nobody looks at."""
    loads = {
        "calm": made(9),
        "tripled": np.concatenate((made(5), 3.0 * made(3, seed=1))),
        "noisier": np.concatenate((made(5, noise=0.05), made(3, seed=1, noise=0.3))),
        "shifted six hours": np.concatenate((made(6), made(4, seed=1)[36 : 36 + 2 * DAY])),
        "weekends": weekends(),
        "on and off": on_off(),
        "retired": np.concatenate((made(5), np.zeros(6 * DAY))),
        "never": np.zeros(3 * DAY),
        "comes to life": np.concatenate((np.zeros(4 * DAY), made(2))),
    }
    bins = max(len(load) for load in loads.values())
    table = np.full((len(loads), bins), np.nan)
    for row, load in zip(table, loads.values(), strict=True):
        row[: len(load)] = load
    forecaster = named(DEFAULT)
    state = forecaster.begin(Grid(600.0, HORIZONS, (0.95,)), len(loads))
    said = []
    for bin_ in range(bins):
        state = forecaster.step(state, bin_, table[:, bin_])
        said.append(forecaster.ahead(state)[:, :, 0])
    bounds = np.array(said)
    return {name: Scene(load, bounds[: len(load), place]) for place, (name, load) in enumerate(loads.items())}
