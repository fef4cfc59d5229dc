"""Upper bounds that keep their promise: several point models, several ideas of their spread, and control of coverage.

For each load, horizon, point model k and scale s (one width for all; growing with the root of the level; learned, see
`spread`), a candidate bound at level q is

    c_ks = point_k + scale_ks x Q_q(errors_k / scale_ks)

with Q a fading empirical quantile: conformal prediction whose residuals are additive near zero. Candidates are averaged
with weights exp(-SHARPNESS x excess), excess being how far the recent pinball loss of that bound at q is above that of
the best one. An average of bounds is less noisy than the one best bound, and it is the loss of the bound that counts,
not that of the point. What is left of the promise is kept by an integrator: each miss widens the bound, each hit
narrows it a little (adaptive conformal inference, Gibbs & Candes 2021, in the form of Angelopoulos et al. 2023).

Misses that crowd together mean that the load is no longer the one the past was about: then all evidence is scaled
down at once, and the bound is made of what has happened since.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from forecasting import tails
from forecasting.past import Past
from forecasting.spread import LEAST_UNIT, Spread

if TYPE_CHECKING:
    from forecasting.online import Grid
    from forecasting.past import Bools
    from forecasting.points import PointModel
    from forecasting.series import Floats

SCALES = 3
LEVEL_FLOOR = 0.05
"""Share of the mean under the level, so that the scale of a load at zero is not zero."""
HALF_LIFE_DAYS = 2.0
"""Of residuals and of pinball losses."""
SHARPNESS = 3.0
GAIN = 0.03
"""Relative widening for each miss too many."""
LEAK_DAYS, MOST_DEBT = 3.0, 10.0
"""Memory of the integrator, and how many misses too many (or too few) it remembers at most."""
YOUNG_DAYS = 1.5
"""Forecasts made before are not held against the bound: every model was still a beginner."""
CROWDED = 6.0
"""Misses too many among the last dozen that mean another regime."""
DOZEN = 12.0
FORGET = 0.3
"""What is left of the evidence then."""
JUDGED_DAYS = 4
"""Days at the end of a history over which `fit` makes and judges bounds: two half-lives."""
HALF, LONG = 0.5, 1_000_000_000
"""Quantiles up to the median are left alone: no load stands still for that many bins."""
HIGHEST = 3.0
"""A bound is at most this many times the highest load of the last weeks."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What was said at one bin. Axes: loads, horizons, then models, scales, quantiles as they apply."""

    points: Floats
    clues: Floats
    scales: Floats
    candidates: Floats
    bounds: Floats


@dataclass(frozen=True, slots=True)
class BoundedState:
    """Everything known; see `Bounded`.

    Attributes:
        past: bins seen.
        models: state of each point model.
        spread: size of each model's errors.
        tails: histograms of scaled errors, loads x horizons x models x scales x bins.
        cuts: their quantiles.
        losses: fading mean pinball loss of each candidate, and the weight of evidence behind it.
        evidence: see losses; loads x horizons.
        debt: misses too many so far, loads x horizons x quantiles.
        crowd: the same over the last dozen bins.
        held: share of targets not above the bound, with its evidence: realised coverage.
        judged: targets behind `held`.
        said: the last origins, newest last.
        regimes: how often the regime changed, loads x horizons.
    """

    past: Past
    models: tuple[Any, ...]
    spread: Spread
    tails: tails.Singles
    cuts: Floats
    losses: Floats
    evidence: Floats
    debt: Floats
    crowd: Floats
    held: Floats
    judged: Floats
    said: tuple[Origin, ...]
    regimes: Floats


@dataclass(frozen=True, slots=True)
class Bounded:
    """Bounds around one or several point models; see the module. An `OnlineForecaster`."""

    models: tuple[PointModel, ...]

    def begin(self, grid: Grid, count: int) -> BoundedState:
        """See `OnlineForecaster.begin`."""
        shape = (count, len(grid.horizons))
        kinds, levels = len(self.models), len(grid.quantiles)
        histograms = np.zeros((*shape, kinds, SCALES, tails.BINS), np.float32)
        each = np.zeros((*shape, levels))
        return BoundedState(
            past=Past.empty(grid, count),
            models=tuple(model.begin(grid, count) for model in self.models),
            spread=Spread.empty(*shape, kinds),
            tails=histograms,
            cuts=np.tile(tails.quantiles(histograms[:1], grid.quantiles), (count, 1, 1, 1, 1)),
            losses=np.zeros((*shape, kinds, SCALES, levels)),
            evidence=np.zeros(shape),
            debt=each,
            crowd=each,
            held=each,
            judged=np.zeros(shape),
            said=(),
            regimes=np.zeros(shape),
        )

    def step(self, state: BoundedState, bin_: int, values: Floats) -> BoundedState:
        """See `OnlineForecaster.step`."""
        newest, count = state.past.bin_, len(state.past.mean)
        if np.shape(values) != (count,):
            raise ValueError(f"values of shape {np.shape(values)} must be one for each of {count} loads")
        if newest is not None and bin_ <= newest:
            raise ValueError(f"bin {bin_} must come after bin {newest}, the newest one")
        first = bin_ if newest is None else max(newest + 1, bin_ - state.past.keep)
        for missing in range(first, bin_):
            state = self._stepped(state, missing, np.full(count, np.nan))
        return self._stepped(state, bin_, np.asarray(values, np.float64))

    def fit(self, grid: Grid, history: Floats, newest: int) -> BoundedState:
        """The state after a whole history, loads x bins up to bin `newest`, NaN where nothing was observed.

        The point models see all of it; bounds are made and judged over the last `JUDGED_DAYS` only, because older
        residuals have faded and judging is most of the work.

        Raises:
            ValueError: the history has no bins.
        """
        count, bins = history.shape
        if not bins:
            raise ValueError("history has no bins; begin() gives the state that has seen nothing")
        state = self.begin(grid, count)
        for column in range(bins):
            state = self.recalled(state, newest - bins + 1 + column, history[:, column], bins - column)
        return state

    def recalled(self, state: BoundedState, bin_: int, values: Floats, left: int) -> BoundedState:
        """The state after the next bin of a history of which `left` bins, this one included, are to come; see `fit`.

        Such bins follow one another: gaps are NaN.
        """
        grid = state.past.grid
        if left <= JUDGED_DAYS * grid.day or state.said:
            return self._stepped(state, bin_, values)
        past = state.past.append(bin_, values)
        stepped = tuple(model.step(known, past)[0] for model, known in zip(self.models, state.models, strict=True))
        return replace(state, past=past, models=stepped)

    def ahead(self, state: BoundedState) -> Floats:
        """See `OnlineForecaster.ahead`."""
        grid = state.past.grid
        if not state.said:
            return np.full((len(state.past.mean), len(grid.horizons), len(grid.quantiles)), np.nan)
        return np.where((state.past.seen > 0)[:, None, None], state.said[-1].bounds, np.nan)

    def coverage(self, state: BoundedState) -> Floats:
        """Realised coverage of the bounds given, fading over some days; NaN before any came due."""
        judged = np.where(state.judged > 0, state.judged, np.nan)
        return state.held / judged[..., None]

    def _stepped(self, state: BoundedState, bin_: int, values: Floats) -> BoundedState:
        state = replace(state, past=state.past.append(bin_, values))
        state = _judged(state)
        past = state.past
        stepped = [model.step(known, past) for model, known in zip(self.models, state.models, strict=True)]
        points = np.stack([forecast for _, forecast in stepped], axis=2)
        clues = state.spread.clues(points, past)
        unit = state.spread.unit_of(state.spread.size, past)
        level = (points / past.scale[:, None, None] + LEVEL_FLOOR) / (1.0 + LEVEL_FLOOR)
        scales = np.stack((unit, unit * np.sqrt(level), state.spread.now(clues, past)), axis=-1)
        candidates = points[..., None, None] + scales[..., None] * state.cuts
        bounds = _controlled(state, points, np.maximum(candidates, 0.0))
        said = (*state.said[-max(past.grid.horizons) + 1 :], Origin(points, clues, scales, candidates, bounds))
        return replace(state, models=tuple(known for known, _ in stepped), said=said)


def _weights(state: BoundedState) -> Floats:
    """Weights of the candidates: loads x horizons x models x scales x quantiles, one over models and scales."""
    best = state.losses.min(axis=(2, 3), keepdims=True)
    least = 1e-9 * state.past.scale[:, None, None, None, None]
    weights = np.exp(-SHARPNESS * (state.losses - best) / np.maximum(best, least))
    share: Floats = weights / weights.sum(axis=(2, 3), keepdims=True)
    return share


def _controlled(state: BoundedState, points: Floats, candidates: Floats) -> Floats:
    past = state.past
    weights = _weights(state)
    mixed = (weights * candidates).sum(axis=(2, 3))
    centre = (weights.sum(axis=3) * points[..., None]).sum(axis=2)
    width = np.maximum(np.abs(mixed - centre), 0.02 * past.scale[:, None, None])
    most = HIGHEST * np.maximum(past.peak, past.lag(0))[:, None, None]
    bounds = np.clip(mixed + GAIN * state.debt * width, 0.0, most)
    bounds = np.maximum(bounds, np.where(_still(past), past.lag(0)[:, None, None], 0.0))
    return np.maximum.accumulate(bounds, axis=-1)


def _still(past: Past) -> Bools:
    """Whether a load has not moved for so long that it is likelier than each quantile to stay: loads x h x quantiles.

    By the rule of succession n bins without a change leave one of (n + 1) / (n + 2) that none comes: n >= q / (1 - q),
    on top of the horizon; gaps do not count. The spread of such a load is all rounding, its bound a hair too low.
    """
    horizons, levels = past.grid.horizons, past.grid.quantiles
    wanted = np.array([[h + math.ceil(q / (1 - q)) if q > HALF else LONG for q in levels] for h in horizons])
    unmoved = np.zeros(len(past.mean))
    standing = past.rows[-1] > 0.0  # no bound is below 0 as it is
    for back in range(1, min(len(past.rows), int(wanted[wanted < LONG].max(initial=0)) + 1)):
        standing &= past.rows[-1 - back] == past.rows[-1]
        if not standing.any():
            break
        unmoved += standing & past.known[-1 - back]
    return unmoved[:, None, None] >= wanted


def _judged(state: BoundedState) -> BoundedState:
    """Learn from the forecasts whose target is the newest bin."""
    past = state.past
    horizons = past.grid.horizons
    due = [state.said[-h] if len(state.said) >= h else None for h in horizons]
    if due[0] is None:
        return state
    blank = state.said[-1]
    origins = [origin or blank for origin in due]
    aged = np.array([origin is not None for origin in due])
    usable = past.known[-1][:, None] & aged & (past.seen > 1)[:, None]
    points, clues, scales, candidates, bounds = (
        np.stack([getattr(origin, part)[:, j] for j, origin in enumerate(origins)], axis=1)
        for part in ("points", "clues", "scales", "candidates", "bounds")
    )
    target = past.lag(0)[:, None]
    error = target[..., None] - points
    spread = state.spread.learned(error, clues, np.broadcast_to(usable[..., None], error.shape), past)
    state = replace(state, spread=spread)
    state = _tallied(state, error[..., None] / _known_scales(scales, spread, past), usable)
    state = _scored(state, target, candidates, usable)
    ripe = [len(past.rows) - 1 - h >= YOUNG_DAYS * past.grid.day for h in horizons]
    return _held(state, target, bounds, usable, np.array(ripe))


def _known_scales(scales: Floats, spread: Spread, past: Past) -> Floats:
    """The scales of origins; of those made before any error had come due, the size of errors as it is known by now.

    They had nothing but the least size there is, a millionth of the load: as many residuals as the horizon has bins
    would lie at the end of the histogram, and keep bounds an hour ahead too wide for hours, a day ahead for days.
    """
    unknown = scales[..., :1] <= 2.0 * LEAST_UNIT * past.scale[:, None, None, None]
    known: Floats = np.where(unknown, spread.unit_of(spread.size, past)[..., None], scales)
    return known


def _tallied(state: BoundedState, scaled: Floats, usable: Bools) -> BoundedState:
    """Put the scaled errors into their histograms, and read the quantiles off some of them."""
    past = state.past
    fade = np.float32(0.5 ** (1.0 / (HALF_LIFE_DAYS * past.grid.day)))
    histograms = state.tails * fade
    where = tails.place(scaled)[..., None]
    add = np.broadcast_to(usable[..., None, None, None], where.shape).astype(np.float32)
    np.put_along_axis(histograms, where, np.take_along_axis(histograms, where, axis=-1) + add, axis=-1)
    cuts = state.cuts.copy()
    every = max(1, min(3, past.grid.day // 48))
    for j in range(usable.shape[1]):
        if ((past.bin_ or 0) + j) % every == 0:
            cuts[:, j] = tails.quantiles(histograms[:, j], past.grid.quantiles)
    return replace(state, tails=histograms, cuts=cuts)


def _scored(state: BoundedState, target: Floats, candidates: Floats, usable: Bools) -> BoundedState:
    """Fading mean pinball loss of each candidate."""
    past = state.past
    fade = 0.5 ** (1.0 / (HALF_LIFE_DAYS * past.grid.day))
    level = np.array(past.grid.quantiles)
    short = target[..., None, None, None] - np.maximum(candidates, 0.0)
    loss = np.maximum(level * short, (level - 1.0) * short)
    evidence = np.where(usable, state.evidence * fade + 1.0, state.evidence)
    share = np.where(usable, 1.0 / np.maximum(evidence, 1.0), 0.0)[..., None, None, None]
    return replace(state, losses=state.losses + share * (loss - state.losses), evidence=evidence)


def _held(state: BoundedState, target: Floats, bounds: Floats, usable: Bools, ripe: Bools) -> BoundedState:
    """Keep the account of misses; on a crowd of them, forget."""
    day = state.past.grid.day
    level = np.array(state.past.grid.quantiles)
    missed = target[..., None] > bounds
    counted = (usable & ripe)[..., None]
    owed = np.where(missed, level, level - 1.0)
    debt = np.clip(state.debt * (1.0 - 1.0 / (LEAK_DAYS * day)) + owed * min(1.0, 144.0 / day), -MOST_DEBT, MOST_DEBT)
    crowd = np.where(usable[..., None], state.crowd * (1.0 - 1.0 / DOZEN) + owed, state.crowd)
    fade = 0.5 ** (1.0 / (HALF_LIFE_DAYS * day))
    changed = (crowd[..., -1] > CROWDED) & (level[-1] >= 0.9)  # noqa: PLR2004 - lower quantiles are missed often
    state = replace(
        state,
        debt=np.where(counted, debt, state.debt),
        crowd=np.where(changed[..., None], 0.0, crowd),
        held=np.where(counted, state.held * fade + ~missed, state.held),
        judged=np.where(usable & ripe, state.judged * fade + 1.0, state.judged),
    )
    return _forgetting(state, changed) if changed.any() else state


def _forgetting(state: BoundedState, changed: Bools) -> BoundedState:
    factor = np.where(changed, FORGET, 1.0)
    return replace(
        state,
        spread=state.spread.forgetting(factor),
        tails=state.tails * factor[..., None, None, None].astype(np.float32),
        evidence=state.evidence * factor,
        regimes=state.regimes + changed,
    )
