"""The last value drawn towards the mean as far as the load itself returns to it, and how far it soon reaches again.

A load that jumps up and down around a level is not about to rise from its peak by what it rose from its troughs: the
bound on changes alone (`SimpleQuantile`) asked for 158,000 tokens/s and as much again where 158,000 was the most there
ever was. With y the last value, m the mean and, for a horizon of L bins,

    phi = (sum (y_k - m)(y_(k+L) - m) + PRIOR_PAIRS v) / (sum (y_k - m)^2 + PRIOR_PAIRS v), in 0..1      v the variance
    bound = c + s(c) x r_(ceil((n + 1) q))        c = m + phi (y - m),  s(v) = max(v, floor_share x mean)

where r are the past (y_(k+L) - c_k) / s(c_k) in ascending order. A wandering load has phi near 1, which is the bound by
changes; a jumping one near 0, which is the quantile of what there was. With few pairs phi stays near 1.
Source: least squares on one lag with a prior of random walk (Box and Jenkins); split-conformal quantiles as there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from forecasting.forecaster import MEDIAN, Forecast, checked, declared_margin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecasting.series import Series

    Floats = NDArray[np.float64]

PRIOR_PAIRS = 6.0
"""Pairs of values that a random walk counts for: an hour of minutes outweighs it ten to one."""
LEAST_REACHES = 8
"""Stretches seen whole before anything is said of how far a load reaches."""


@dataclass(frozen=True, slots=True)
class DampedQuantile:
    """The damped last value plus the empirical quantile of what it missed by (module docstring).

    Too young for a quantile (fewer than q / (1 - q) pairs, or fewer than `spans` horizons of history), it takes the
    larger of the highest residual seen and a declared margin, as `SimpleQuantile` does. The bound is at most the last
    value plus the largest rise there ever was over that horizon, or plus the declared margin if that is more.

    Attributes:
        margin: relative margin of the 95 % quantile one minute ahead when there is no history.
        floor_share: floor of the scale as a share of the mean of the series.
        spans: stretches as long as the horizon that the history must hold to be trusted.
    """

    margin: float = 0.3
    floor_share: float = 0.5
    spans: float = 3.0

    def __post_init__(self) -> None:
        """Refuse knobs that would make bounds negative or undefined."""
        for name, value in (("margin", self.margin), ("floor_share", self.floor_share), ("spans", self.spans)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} {value} must be finite and not negative")

    def forecast(
        self, series: Series, at: float, horizons: Sequence[float], quantiles: Sequence[float]
    ) -> Forecast | None:
        """See `Forecaster.forecast`."""
        checked(at, horizons, quantiles)
        known = series.until(at)
        if known.newest is None:
            return None
        age = max(0.0, at - known.newest[0])
        rows, young, phi, fewest = [], False, 1.0, len(known)
        level = _Level.of(known.values, self.floor_share)
        for horizon in horizons:
            row, guessed, phi, pairs = self._row(known, level, horizon + age, quantiles)
            rows.append(row)
            young |= guessed
            fewest = min(fewest, pairs)
        basis = f"last value {level.last:.4g} ({age:.0f} s old), {1 - phi:.0%} drawn to the mean, plus empirical "
        basis += f"quantiles of at least {fewest} past misses"
        if young:
            basis += f"; too young for some, where a margin of {self.margin:.0%} x sqrt(minutes ahead) is declared"
        return Forecast(at, tuple(horizons), tuple(quantiles), tuple(rows), basis, confident=not young)

    def _row(
        self, known: Series, level: _Level, ahead_s: float, quantiles: Sequence[float]
    ) -> tuple[tuple[float, ...], bool, float, int]:
        """Bounds at one horizon, whether one is a guess, phi, and the pairs behind it."""
        last, mean, floor = level.last, level.mean, level.floor
        start, change = known.changes(max(1, math.ceil(ahead_s / known.bin_s - 1e-9)))
        phi, missed = _regressed(level, start, start + change)
        centre = max(0.0, mean + phi * (last - mean))
        enough = float(known.bins[-1] - known.bins[0]) * known.bin_s >= self.spans * ahead_s
        rise = float(np.maximum.reduce(change, initial=0.0))
        most = last + max(rise, max(last, floor) * declared_margin(self.margin, max(quantiles), ahead_s))
        row, bound, young = [0.0] * len(quantiles), 0.0, False
        for j in sorted(range(len(quantiles)), key=quantiles.__getitem__):
            quantile, count = quantiles[j], len(missed)
            rank = math.ceil((count + 1) * quantile - 1e-9)
            if enough and rank <= count:
                share = float(missed[max(rank, 1) - 1])
            else:
                young = True
                share = declared_margin(self.margin, quantile, ahead_s)
                if quantile >= MEDIAN and count:
                    share = max(share, float(missed[min(rank, count) - 1]))
            above = max(share, 0.0) if quantile > MEDIAN else share
            bound = max(bound, min(most, centre + max(centre, floor) * above))
            row[j] = bound
        return tuple(row), young, phi, len(missed)


def _sum(values: Floats) -> float:
    """As `values.sum()`, and so in `_Level` mean and variance, without what takes three times as long at this size."""
    return float(np.add.reduce(values))


class _Level(NamedTuple):
    """Where a load lies: its last value, mean and variance, and the floor of the scale."""

    last: float
    mean: float
    variance: float
    floor: float

    @classmethod
    def of(cls, values: Floats, floor_share: float) -> _Level:
        """Of a load with at least one value."""
        size = len(values)
        mean = _sum(values) / size
        away = values - mean
        floor = floor_share * (_sum(np.abs(values)) / size)
        return cls(max(0.0, float(values[-1])), mean, _sum(away * away) / size, floor)


def _regressed(level: _Level, start: Floats, later: Floats) -> tuple[float, Floats]:
    """Phi, and by how much what came differs from what it makes of each start, in units of its scale, ascending."""
    if not len(start) or level.floor <= 0:
        return 1.0, np.zeros(len(start))
    away = start - level.mean
    phi = _share(level.variance, away, later - level.mean, 1.0)
    return phi, _missed(np.maximum(level.mean + phi * away, 0.0), later, level.floor)


def _missed(centre: Floats, later: Floats, floor: float) -> Floats:
    """By how much what came differs from what was the likeliest, in units of its scale, ascending."""
    missed: Floats = (later - centre) / np.maximum(centre, floor)
    missed.sort()
    return missed


def _share(variance: float, start: Floats, later: Floats, usual: float) -> float:
    """How much of a distance from the mean is left later, 0..1: least squares, with the prior of a share `usual`."""
    prior = PRIOR_PAIRS * variance
    below = _sum(start * start) + prior
    return min(max((_sum(start * later) + usual * prior) / below, 0.0), 1.0) if below > 0 else usual


def reached(series: Series, over_s: float, quantile: float, floor_share: float = 0.5) -> float | None:
    """The load that the next `over_s` seconds do not once exceed, with this probability; None with too little history.

    As the bound, with the maximum over the stretch in place of the value at its end; never below the last value. What
    may be given back is what this does not need: an idle replica is cheaper than starting it anew for the next burst.
    Here the prior is a return to the mean: a dip such as there never was is not yet a reason to let go.
    """
    size = max(1, round(over_s / series.bin_s))
    span = int(series.bins[-1] - series.bins[0]) + 1 if len(series) else 0
    if series.newest is None or span < size + LEAST_REACHES:
        return None
    values = series.values
    unbroken = span == len(values)
    if not unbroken:
        values = np.full(span, np.nan)
        values[series.bins - series.bins[0]] = series.values
    tops = _tops(values, size)
    start = values[: len(tops)]
    if not unbroken:
        seen = np.isfinite(start) & np.isfinite(tops)
        start, tops = start[seen], tops[seen]
    count = len(start)
    if count < LEAST_REACHES:
        return None
    now, level, top = max(0.0, series.newest[1]), _Level.of(series.values, floor_share), _sum(tops) / count
    if level.floor <= 0:
        return now
    away = start - level.mean
    phi = _share(level.variance, away, tops - top, 0.0)
    missed = _missed(np.maximum(top + phi * away, 0.0), tops, level.floor)
    here = max(0.0, top + phi * (now - level.mean))
    rank = min(math.ceil((count + 1) * quantile - 1e-9), count)
    return max(now, here + max(here, level.floor) * float(missed[rank - 1]))


def _tops(values: Floats, size: int) -> Floats:
    """For each bin that has as many, the highest of the `size` after it; not-a-number where none of them was told."""
    count = len(values) - size
    tops = values[1 : 1 + count]
    for step in range(2, size + 1):
        tops = np.fmax(tops, values[step : step + count])
    return tops
