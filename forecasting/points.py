"""Point forecasts for many loads at once; the bounds around them are made in `intervals`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from forecasting.online import Grid
    from forecasting.past import Past
    from forecasting.series import Floats

DAYS = 7
FADE = 0.8
"""Weight of a day against the day after it where several days are averaged."""


class PointModel(Protocol):
    """A forecaster of the likeliest load, bin by bin."""

    def begin(self, grid: Grid, count: int) -> Any:
        """Its state before the first bin."""
        ...

    def step(self, state: Any, past: Past) -> tuple[Any, Floats]:
        """The state after the newest bin of `past`, and loads by horizons: what is expected, finite and at least 0."""
        ...


def season_lag(horizon: int, season: int) -> int:
    """Bins before the origin at which the target was one whole number of seasons ago."""
    return season * math.ceil(horizon / season)


@dataclass(frozen=True, slots=True)
class Last:
    """The load stays what it was."""

    def begin(self, grid: Grid, count: int) -> None:
        """No state."""

    def step(self, state: None, past: Past) -> tuple[None, Floats]:
        """See `PointModel`."""
        return state, np.repeat(past.lag(0)[:, None], len(past.grid.horizons), axis=1)


@dataclass(frozen=True, slots=True)
class SeasonalNaive:
    """The load will be what it was at the same time `days` days ago; the last value while there is no such bin."""

    days: int = 1

    def begin(self, grid: Grid, count: int) -> None:
        """No state."""

    def step(self, state: None, past: Past) -> tuple[None, Floats]:
        """See `PointModel`."""
        season = self.days * past.grid.day
        columns = []
        for horizon in past.grid.horizons:
            back = season_lag(horizon, season) - horizon
            columns.append(past.lag(back) if past.has(back) else past.lag(0))
        return state, np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class DayIncrement:
    """The last value plus what the load did over the same stretch of the day on the days before, newer days more.

    With FADE^d as the weight of day d: y(t) + sum w_d (y(t + h - d) - y(t - d)) / sum w_d.
    """

    def begin(self, grid: Grid, count: int) -> None:
        """No state."""

    def step(self, state: None, past: Past) -> tuple[None, Floats]:
        """See `PointModel`."""
        now = past.lag(0)
        columns = []
        for horizon in past.grid.horizons:
            change, weight = np.zeros(len(now)), 0.0
            for day in range(1, DAYS + 1):
                back = day * past.grid.day
                if back >= horizon and past.has(back):
                    change += FADE**day * (past.lag(back - horizon) - past.lag(back))
                    weight += FADE**day
            columns.append(np.maximum(now + change / weight, 0.0) if weight else now)
        return state, np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class DayShape:
    """Level x day-shape: the mean of the last hour, times how the same hours of the days before went on.

    The ratio is taken with a floor of a tenth of the mean on both sides and kept within 1/8 and 8: a night of zeros
    says nothing about how steep the morning is.
    """

    def begin(self, grid: Grid, count: int) -> None:
        """No state."""

    def step(self, state: None, past: Past) -> tuple[None, Floats]:
        """See `PointModel`."""
        width = max(1, past.grid.day // 24)
        level = _around(past, 0, width)
        floor = 0.1 * past.scale
        columns = []
        for horizon in past.grid.horizons:
            then, later, weight = np.zeros(len(level)), np.zeros(len(level)), 0.0
            for day in range(1, DAYS + 1):
                back = day * past.grid.day
                if back >= horizon and past.has(back + width):
                    then += FADE**day * _around(past, back, width)
                    later += FADE**day * past.lag(back - horizon)
                    weight += FADE**day
            if not weight:
                columns.append(level)
                continue
            ratio = np.clip((later / weight + floor) / (then / weight + floor), 0.125, 8.0)
            columns.append(np.maximum((level + floor) * ratio - floor, 0.0))
        return state, np.stack(columns, axis=1)


def _around(past: Past, back: int, width: int) -> Floats:
    """Mean of the `width` bins that end `back` bins ago."""
    mean: Floats = np.mean([past.lag(back + k) for k in range(width)], axis=0)
    return mean
