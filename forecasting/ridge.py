"""Ridge regression on lags and calendar features, learned recursively for many loads and horizons at once.

What is learned is the change of the load from now to the horizon: shrunk to nothing, the forecast is the last value,
which up to an hour ahead is hard to beat. Half the ensemble learns on the load itself and half on its logarithm (with
a floor of a tenth of the mean), where a morning is a factor rather than a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from forecasting.past import WEEK
from forecasting.points import season_lag

if TYPE_CHECKING:
    from forecasting.online import Grid
    from forecasting.past import Past
    from forecasting.series import Floats

LAGS = (1, 2, 3, 6, 12)
CALENDAR = 5
"""A constant and two harmonics of the day."""
CALENDAR_UNIT = 0.1
"""Size of the calendar features: against lags of order 1 it is what makes them costly to use."""
SEASONAL = 5
FEATURES = len(LAGS) + SEASONAL + CALENDAR
FLOOR = 0.1
"""Floor under the logarithm, as a share of the mean load."""
REFIT = 6
"""Bins between two solutions of the same regression; the sums behind it are updated in every bin."""
STEEPEST = 3.0
"""Largest change of the logarithm that is believed: a factor of 20."""


@dataclass(frozen=True, slots=True)
class RidgeState:
    """Sums of the regressions: loads x horizons x features (x features), and the mean square of a one-bin change."""

    gram: Floats
    moment: Floats
    weights: Floats
    jitter: Floats


@dataclass(frozen=True, slots=True)
class Ridge:
    """See the module.

    Attributes:
        logarithmic: learn on the logarithm.
        memory_days: time constant of forgetting.
        penalty: strength of the shrinkage, in days' worth of squared one-bin changes.
    """

    logarithmic: bool = True
    memory_days: float = 4.0
    penalty: float = 0.25

    def begin(self, grid: Grid, count: int) -> RidgeState:
        """See `PointModel`."""
        shape = (count, len(grid.horizons), FEATURES)
        return RidgeState(np.zeros((*shape, FEATURES)), np.zeros(shape), np.zeros(shape), np.zeros(count))

    def step(self, state: RidgeState, past: Past) -> tuple[RidgeState, Floats]:
        """See `PointModel`."""
        state = self._learned(state, past)
        now = self._seen_as(past.lag(0), past)
        columns = []
        for j, horizon in enumerate(past.grid.horizons):
            features = self._features(past, 0, horizon)
            change = np.einsum("nk,nk->n", features, state.weights[:, j])
            columns.append(self._load(now + np.clip(change, -STEEPEST, STEEPEST), past))
        return state, np.stack(columns, axis=1)

    def _learned(self, state: RidgeState, past: Past) -> RidgeState:
        bin_ = past.bin_ or 0
        now = self._seen_as(past.lag(0), past)
        jump = np.minimum((now - self._seen_as(past.lag(1), past)) ** 2, STEEPEST**2)
        share = 1.0 / min(len(past.rows), 2 * past.grid.day)
        jitter = state.jitter + share * (jump - state.jitter)
        fade = 1.0 - 1.0 / (self.memory_days * past.grid.day)
        gram, moment, weights = state.gram * fade, state.moment * fade, state.weights
        for j, horizon in enumerate(past.grid.horizons):
            if not past.has(horizon + LAGS[-1]):
                continue
            features = self._features(past, horizon, horizon)
            features = features * (past.known[-1] & past.known[-1 - horizon])[:, None]
            change = now - self._seen_as(past.lag(horizon), past)
            gram[:, j] += features[:, :, None] * features[:, None, :]
            moment[:, j] += features * change[:, None]
            if (bin_ + j) % REFIT == 0:
                weights = weights.copy() if weights is state.weights else weights
                weights[:, j] = self._solved(gram[:, j], moment[:, j], jitter, past.grid.day)
        return RidgeState(gram, moment, weights, jitter)

    def _solved(self, gram: Floats, moment: Floats, jitter: Floats, day: int) -> Floats:
        shrink = (self.penalty * day * jitter + 1e-9)[:, None, None] * np.eye(FEATURES)
        return np.asarray(np.linalg.solve(gram + shrink, moment[:, :, None])[:, :, 0], np.float64)

    def _seen_as(self, loads: Floats, past: Past) -> Floats:
        """The load in the unit the regression works in, about 1 in size."""
        relative = loads / past.scale
        return np.log(relative + FLOOR) if self.logarithmic else relative

    def _load(self, seen_as: Floats, past: Past) -> Floats:
        relative = np.exp(np.minimum(seen_as, 200.0)) - FLOOR if self.logarithmic else seen_as
        return np.maximum(relative, 0.0) * past.scale

    def _features(self, past: Past, origin: int, horizon: int) -> Floats:
        """Features of a forecast made `origin` bins ago: loads x FEATURES; seasons out of reach count as no change."""
        day = season_lag(horizon, past.grid.day)
        two, week = day + past.grid.day, season_lag(horizon, WEEK * past.grid.day)
        back = (0, *LAGS, day, day - horizon, two, two - horizon, week, week - horizon)
        seen = self._seen_as(np.stack([past.lag(origin + k) for k in back]), past)
        out = np.zeros((seen.shape[1], FEATURES))
        first = len(LAGS)
        out[:, :first] = (seen[1 : 1 + first] - seen[0]).T
        day_then, day_next, two_then, two_next, week_then, week_next = seen[1 + first :]
        if past.has(origin + day):
            out[:, first] = day_next - day_then
            out[:, first + 1] = day_next - seen[0]
        if past.has(origin + two):
            out[:, first + 2] = two_next - two_then
            out[:, first + 3] = two_next - seen[0]
        if past.has(origin + week):
            out[:, first + 4] = week_next - week_then
        phase = 2.0 * np.pi * ((past.bin_ or 0) - origin + horizon) / past.grid.day
        out[:, -CALENDAR:] = CALENDAR_UNIT * np.array(
            (1.0, np.sin(phase), np.cos(phase), np.sin(2 * phase), np.cos(2 * phase))
        )
        return out
