"""Rolling-origin test of a forecaster on one recorded load: at each bin it sees what was known then, and nothing later.

The bound at quantile q for each horizon is held against what came; see `Score` for what is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from forecasting.online import Grid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from forecasting.online import OnlineForecaster
    from forecasting.series import Floats

MEDIAN = 0.5
MOST_BINS = 1_000_000
"""Longest span that is taken for a load rather than for a mistaken unit of time."""


@dataclass(frozen=True, slots=True)
class Score:
    """How the bounds at one horizon held.

    With a = actual, b = bound, p = median forecast, over `n` origins.

    Attributes:
        horizon_s: seconds ahead.
        coverage: share of a <= b.
        over_provision: mean (b - a)+ / mean a.
        shortfall: mean (a - b)+ / mean a.
        wape: mean |a - p| / mean a.
        pinball: mean of q (a - b)+ + (1 - q) (b - a)+, divided by mean a.
        n: origins whose target was observed. All other figures are None where it is 0; the four that are divided by
            the mean actual are None where that is 0.
    """

    horizon_s: float
    coverage: float | None
    over_provision: float | None
    shortfall: float | None
    wape: float | None
    pinball: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Backtest:
    """What was foreseen, at each bin for each horizon; NaN before the warm-up ended.

    Attributes:
        values: the load, NaN where not observed.
        warm: first bin scored.
        horizons: bins ahead.
        bounds: bins x horizons, made at the bin.
        points: the same for the median.
        scores: one for each horizon.
    """

    values: Floats
    warm: int
    horizons: tuple[int, ...]
    bounds: Floats
    points: Floats
    scores: tuple[Score, ...]


def binned(times: Floats, values: Floats, step_s: float) -> tuple[int, Floats]:
    """Number of the first bin, and the mean of each bin from there on; NaN where nothing was observed.

    Raises:
        ValueError: nothing was observed at all, or the span is beyond `MOST_BINS`.
    """
    observed = ~np.isnan(values)
    if not observed.any():
        raise ValueError("no value at all: every cell is empty")
    number = np.floor(times / step_s)
    first, last = float(number.min()), float(number.max())
    if last - first >= MOST_BINS:
        raise ValueError(
            f"{last - first:.3g} bins of {step_s:g} s between the first and the last time; at most {MOST_BINS} are "
            "taken: is the time in seconds, or in an ISO format?"
        )
    place = (number[observed] - first).astype(np.int64)
    size = int(last - first) + 1
    count = np.bincount(place, minlength=size)
    total = np.bincount(place, weights=values[observed], minlength=size)
    means: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return int(first), means


def whole_bins(horizons_s: Sequence[float], step_s: float) -> tuple[int, ...]:
    """Horizons in bins.

    Raises:
        ValueError: one is not a whole positive number of steps, or is there twice.
    """
    bins = []
    for horizon in horizons_s:
        count = horizon / step_s
        if not (math.isfinite(count) and count >= 1 and abs(count - round(count)) < 1e-9):  # noqa: PLR2004 - rounding
            raise ValueError(f"horizon {horizon:g} s must be a whole number of steps of {step_s:g} s")
        bins.append(round(count))
    if len(set(bins)) != len(bins):
        raise ValueError(f"horizons {', '.join(f'{h:g}' for h in horizons_s)} s must differ from one another")
    return tuple(bins)


def backtest(
    forecaster: OnlineForecaster[Any],
    values: Floats,
    step_s: float,
    horizons: Sequence[int],
    quantile: float,
    warm: int,
    first_bin: int = 0,
    advanced: Callable[[], None] = lambda: None,
) -> Backtest:
    """Run the forecaster over a load, scoring origins from bin `warm` on.

    Args:
        forecaster: starts from nothing and is fed bin by bin.
        values: one mean for each bin, NaN where none was observed.
        step_s: width of a bin, seconds.
        horizons: bins ahead, in the order the scores are wanted.
        quantile: of the bound.
        warm: bins before the first origin scored.
        first_bin: number of the first bin, for the time of day.
        advanced: called after each bin.

    Raises:
        ValueError: the grid makes no sense, or the load ends before the first origin could be scored.
    """
    ordered = tuple(sorted(horizons))
    grid = Grid(step_s, ordered, tuple(sorted({MEDIAN, quantile})))
    if len(values) <= warm + ordered[0]:
        raise ValueError(f"{len(values)} bins are too few to score a forecast {ordered[0]} ahead after {warm} to start")
    median, bound = grid.quantiles.index(MEDIAN), grid.quantiles.index(quantile)
    made = np.full((len(values), len(ordered), len(grid.quantiles)), np.nan)
    state = forecaster.begin(grid, 1)
    for t in range(len(values)):
        state = forecaster.step(state, first_bin + t, values[t : t + 1])
        if t >= warm:
            made[t] = forecaster.ahead(state)[0]
        advanced()
    order = [ordered.index(horizon) for horizon in horizons]
    bounds, points = made[:, order, bound], made[:, order, median]
    scores = tuple(
        score(values, bounds[:, j], points[:, j], horizon, quantile, horizon * step_s)
        for j, horizon in enumerate(horizons)
    )
    return Backtest(values, warm, tuple(horizons), bounds, points, scores)


def score(values: Floats, bounds: Floats, points: Floats, horizon: int, quantile: float, horizon_s: float) -> Score:
    """Score bounds and points made at each bin for the bin `horizon` later."""
    actual, bound, point = values[horizon:], bounds[:-horizon], points[:-horizon]
    judged = ~(np.isnan(actual) | np.isnan(bound))
    actual, bound, point = actual[judged], bound[judged], point[judged]
    n = int(judged.sum())
    if not n:
        return Score(horizon_s, None, None, None, None, None, 0)
    over = float(np.maximum(bound - actual, 0.0).mean())
    short = float(np.maximum(actual - bound, 0.0).mean())
    missed = float(np.abs(actual - point).mean())
    mean = float(actual.mean())
    held = float((actual <= bound).mean())
    if mean <= 0:
        return Score(horizon_s, held, None, None, None, None, n)
    pinball = quantile * short + (1 - quantile) * over
    return Score(horizon_s, held, over / mean, short / mean, missed / mean, pinball / mean, n)
