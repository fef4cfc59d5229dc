"""Holt-Winters, unobserved components and ARIMA: parameters from statsmodels once in a while, then filtered forward.

Fitting takes a second or two per load, a step of the filter microseconds; so these are for comparison and for few
loads, and the ensemble does not use them.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecasting.online import Grid
    from forecasting.past import Past
    from forecasting.series import Floats

FIT_DAYS = 3
"""History a fit uses, and needs."""
REFIT_DAYS = 7


@dataclass(frozen=True, slots=True)
class _Damped:
    """One load under additive damped Holt-Winters; `season[0]` is that of the next bin."""

    level: float
    trend: float
    season: Floats
    smoothing: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class HoltWinters:
    """Additive level, damped trend and daily season; until `FIT_DAYS` of history, the last value."""

    def begin(self, grid: Grid, count: int) -> tuple[_Damped | None, ...]:  # noqa: ARG002 - the protocol's
        """See `PointModel`."""
        return (None,) * count

    def step(self, state: tuple[_Damped | None, ...], past: Past) -> tuple[tuple[_Damped | None, ...], Floats]:
        """See `PointModel`."""
        now, known = past.lag(0), past.known[-1]
        due = _due(past)
        after: list[_Damped | None] = []
        points = np.repeat(now[:, None], len(past.grid.horizons), axis=1)
        for n, one in enumerate(state):
            if due:
                one = _damped_fit(_history(past, n), past.grid.day) or one  # noqa: PLW2901 - the same load, refitted
            elif one is not None:
                one = _damped_step(one, float(now[n]), bool(known[n]))  # noqa: PLW2901 - the same load, one bin later
            after.append(one)
            if one is not None:
                points[n] = [_damped_ahead(one, horizon) for horizon in past.grid.horizons]
        return tuple(after), np.clip(points, 0.0, (3.0 * np.maximum(past.peak, now))[:, None])


def _due(past: Past) -> bool:
    """Whether a fit is due at the newest bin."""
    bins = len(past.rows)
    first = FIT_DAYS * past.grid.day
    full = past.bin_ is not None and bins == past.keep and past.bin_ % (REFIT_DAYS * past.grid.day) == 0
    return bins == first or full


def _history(past: Past, n: int) -> Floats:
    return np.array([row[n] for row in past.rows[-FIT_DAYS * past.grid.day :]])


def _statsmodels(module: str) -> Any:
    """Loaded when first needed: it takes a second, and most forecasters do without."""
    return importlib.import_module(f"statsmodels.tsa.{module}")


def _damped_fit(history: Floats, day: int) -> _Damped | None:
    if day < 2 or not history.any():  # noqa: PLR2004 - a season has at least two bins
        return None
    unit = float(history.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not quite converged is still a usable filter
        try:
            model = _statsmodels("holtwinters").ExponentialSmoothing(
                history / unit,
                trend="add",
                damped_trend=True,
                seasonal="add",
                seasonal_periods=day,
                initialization_method="heuristic",
            )
            found = model.fit()
        except (ValueError, np.linalg.LinAlgError):
            return None
    names = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
    smoothing = tuple(float(found.params[name]) for name in names)
    state = (float(found.level[-1]) * unit, float(found.trend[-1]) * unit)
    season = np.asarray(found.season[-day:], np.float64) * unit
    if not np.isfinite((*state, *smoothing, *season)).all():
        return None
    return _Damped(*state, season, (smoothing[0], smoothing[1], smoothing[2], smoothing[3]))


def _damped_step(one: _Damped, value: float, known: bool) -> _Damped:
    alpha, beta, gamma, damping = one.smoothing
    expected = one.level + damping * one.trend
    seasonal = float(one.season[0])
    value = value if known else expected + seasonal
    level = alpha * (value - seasonal) + (1 - alpha) * expected
    trend = beta * (level - one.level) + (1 - beta) * damping * one.trend
    newest = gamma * (value - expected) + (1 - gamma) * seasonal
    return replace(one, level=level, trend=trend, season=np.append(one.season[1:], newest))


def _damped_ahead(one: _Damped, horizon: int) -> float:
    damping = one.smoothing[3]
    reach = sum(damping**k for k in range(1, horizon + 1))
    return one.level + reach * one.trend + float(one.season[(horizon - 1) % len(one.season)])


@dataclass(frozen=True, slots=True)
class _Filter:
    """One load under a linear state space in its steady state: state <- T state + K (value - Z state - d)."""

    transition: Floats
    design: Floats
    gain: Floats
    offset: float
    state: Floats


def components(history: Floats, day: int) -> Any:
    """Local level plus three harmonics of the day plus AR(1)."""
    harmonics = max(1, min(3, day // 2))
    season = [{"period": day, "harmonics": harmonics}] if day > 2 else None  # noqa: PLR2004 - too coarse for a season
    structural = _statsmodels("statespace.structural")
    return structural.UnobservedComponents(history, level="llevel", freq_seasonal=season, autoregressive=1)


def arima(history: Floats, day: int) -> Any:  # noqa: ARG001 - one signature for all state spaces
    """ARIMA(2, 1, 1) without a season."""
    return _statsmodels("statespace.sarimax").SARIMAX(history, order=(2, 1, 1))


@dataclass(frozen=True, slots=True)
class StateSpace:
    """A statsmodels state-space model, fitted by maximum likelihood and then run at its steady-state gain."""

    make: Callable[[Floats, int], Any]

    def begin(self, grid: Grid, count: int) -> tuple[_Filter | None, ...]:  # noqa: ARG002 - the protocol's
        """See `PointModel`."""
        return (None,) * count

    def step(self, state: tuple[_Filter | None, ...], past: Past) -> tuple[tuple[_Filter | None, ...], Floats]:
        """See `PointModel`."""
        now, known = past.lag(0), past.known[-1]
        due = _due(past)
        after: list[_Filter | None] = []
        points = np.repeat(now[:, None], len(past.grid.horizons), axis=1)
        for n, one in enumerate(state):
            if due:
                one = self._fit(_history(past, n), past.grid.day) or one  # noqa: PLW2901 - the same load, refitted
            elif one is not None:
                one = _filtered(one, float(now[n]), bool(known[n]))  # noqa: PLW2901 - the same load, one bin later
            after.append(one)
            if one is not None:
                points[n] = _state_ahead(one, past.grid.horizons)
        return tuple(after), np.clip(points, 0.0, (3.0 * np.maximum(past.peak, now))[:, None])

    def _fit(self, history: Floats, day: int) -> _Filter | None:
        if not history.any():
            return None
        unit = float(history.mean())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that has not quite converged is still a usable filter
            try:
                found = self.make(history / unit, day).fit(disp=0, maxiter=50)
            except (ValueError, np.linalg.LinAlgError):
                return None
        ssm, filtered = found.model.ssm, found.filter_results
        state = filtered.predicted_state[:, -1]
        parts = _Filter(
            transition=np.array(ssm["transition"][:, :]),
            design=np.array(ssm["design"][0]) * unit,
            gain=np.array(filtered.kalman_gain[:, 0, -1]) / unit,
            offset=float(np.ravel(ssm["obs_intercept"])[0]) * unit,
            state=np.array(state),
        )
        finite = all(np.isfinite(part).all() for part in (parts.transition, parts.design, parts.gain, parts.state))
        return parts if finite else None


def _filtered(one: _Filter, value: float, known: bool) -> _Filter:
    surprise = value - float(one.design @ one.state) - one.offset if known else 0.0
    return replace(one, state=one.transition @ one.state + one.gain * surprise)


def _state_ahead(one: _Filter, horizons: tuple[int, ...]) -> list[float]:
    state, points = one.state, []
    for horizon in range(1, max(horizons) + 1):
        if horizon in horizons:
            points.append(float(one.design @ state) + one.offset)
        state = one.transition @ state
    return points
