"""Forecasters behind one protocol: quantiles of a load at several horizons at once.

What a capacity planner needs is less the likeliest load than an honest upper bound at each lead time. On production
token loads up to an hour ahead hardly anything beats the last value on point error; the worth is in the width of the
bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecasting.series import Floats, Series

MEDIAN = 0.5
REFERENCE_QUANTILE = 0.95
"""The quantile `SimpleQuantile.margin` is stated for."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Quantiles of a load ahead of time `at`.

    `values[i][j]` is the load at `at + horizons[i]` seconds not exceeded with probability `quantiles[j]`. `basis`
    says in words what it rests on; `confident` is False where that is a declared margin instead of enough history.
    """

    at: float
    horizons: tuple[float, ...]
    quantiles: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    basis: str
    confident: bool


class Forecaster(Protocol):
    """Anything that foresees a load."""

    def forecast(
        self, series: Series, at: float, horizons: Sequence[float], quantiles: Sequence[float]
    ) -> Forecast | None:
        """Quantiles at each horizon (seconds ahead of `at`); None where the series holds nothing up to then.

        The values are finite, never negative, and do not fall from a lower quantile to a higher one.

        Raises:
            ValueError: a horizon is negative or not finite, or a quantile is not strictly between 0 and 1.
        """
        ...


def checked(at: float, horizons: Sequence[float], quantiles: Sequence[float]) -> None:
    """Refuse what cannot be foreseen, as `Forecaster.forecast` says."""
    if not math.isfinite(at):
        raise ValueError(f"forecast time {at} must be finite seconds")
    for horizon in horizons:
        if not (math.isfinite(horizon) and horizon >= 0):
            raise ValueError(f"horizon {horizon} must be finite and not negative, in seconds")
    for quantile in quantiles:
        if not 0 < quantile < 1:
            raise ValueError(f"quantile {quantile} must lie strictly between 0 and 1")


def declared_margin(margin: float, quantile: float, ahead_s: float) -> float:
    """The relative margin where there is no history: `margin` at 95 % a minute ahead, growing as a random walk's."""
    return margin * math.sqrt(ahead_s / 60.0) * _deviates(quantile)


@lru_cache(maxsize=256)
def _deviates(quantile: float) -> float:
    """The standard normal's quantile, in units of that which margins are stated for."""
    return float(ndtri(quantile) / ndtri(REFERENCE_QUANTILE))


@dataclass(frozen=True, slots=True)
class LastValue:
    """The load stays what it was last: every quantile at every horizon is the last value.

    The floor of the league, and what to do when nothing better is known. It makes no claim about quantiles and is
    therefore never confident.
    """

    def forecast(
        self, series: Series, at: float, horizons: Sequence[float], quantiles: Sequence[float]
    ) -> Forecast | None:
        """See `Forecaster.forecast`."""
        checked(at, horizons, quantiles)
        known = series.until(at)
        if not len(known):
            return None
        level = max(0.0, float(known.values[-1]))
        row = (level,) * len(quantiles)
        basis = f"last value {level:.4g}, held flat"
        return Forecast(at, tuple(horizons), tuple(quantiles), (row,) * len(horizons), basis, confident=False)


@dataclass(frozen=True, slots=True)
class SimpleQuantile:
    """The last value plus the empirical quantile of past changes over the same horizon.

    For a horizon of L bins after the last value y, with past changes d_k = y_(k+L) - y_k and scale s(v) = max(v,
    floor_share x mean of the series), the bound at quantile q is

        y + s(y) x r_(ceil((n + 1) q)),   r = the n ratios d_k / s(y_k) in ascending order

    which is the split-conformal quantile. Ratios to the bare level blow up when a series touches zero; the floor
    makes them additive down there (with the floor a share of the mean, scaling the series scales the forecast). The
    age of the last value counts as part of the horizon. Above the median the bound is never below the last value: a
    history that only fell is no promise that the load goes on falling.

    A ratio seen at a low level says little about a high one (a load that rose from 2,000 to 16,000 is not about to rise
    to 128,000): the bound is at most the last value plus the largest change there ever was over that horizon, or plus
    the declared margin below if that is more.

    Too young for a quantile (fewer than q / (1 - q) changes, or fewer than `spans` horizons of history), it takes the
    larger of the highest ratio seen and a declared margin, which is stated for the 95 % quantile one minute ahead,
    grows with the square root of the horizon as a random walk does, and scales with the normal quantile.

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
        level = max(0.0, float(known.values[-1]))
        floor = self.floor_share * float(np.abs(known.values).mean())
        age = max(0.0, at - known.newest[0])
        order = sorted(range(len(quantiles)), key=quantiles.__getitem__)
        rows = []
        fewest = len(known)
        young = False
        for horizon in horizons:
            ratios, largest = self._ratios(known, horizon + age, floor)
            most = level + max(largest, max(level, floor) * declared_margin(self.margin, max(quantiles), horizon + age))
            fewest = min(fewest, len(ratios))
            row = [0.0] * len(quantiles)
            bound = 0.0
            for j in order:
                ratio, guessed = self._ratio(ratios, quantiles[j], horizon + age, known)
                young |= guessed
                bound = max(bound, min(most, self._bound(level, max(level, floor), ratio, quantiles[j])))
                row[j] = bound
            rows.append(tuple(row))
        basis = f"last value {level:.4g} ({age:.0f} s old) plus empirical quantiles of at least {fewest} past changes"
        if young:
            basis += f"; too young for some, where a margin of {self.margin:.0%} x sqrt(minutes ahead) is declared"
        return Forecast(at, tuple(horizons), tuple(quantiles), tuple(rows), basis, confident=not young)

    @staticmethod
    def _ratios(known: Series, ahead_s: float, floor: float) -> tuple[Floats, float]:
        """The ratios in ascending order, and the largest change in the load's own unit (0 where it never rose)."""
        lag = max(1, math.ceil(ahead_s / known.bin_s - 1e-9))
        start, change = known.changes(lag)
        scale = np.maximum(start, floor)
        if floor > 0:
            ratios = change / scale
        else:
            positive = scale > 0
            ratios = change[positive] / scale[positive]
        ratios.sort()
        return ratios, float(change.max(initial=0.0))

    def _ratio(self, ratios: Floats, quantile: float, ahead_s: float, known: Series) -> tuple[float, bool]:
        """The relative change at a quantile, and whether it is a guess."""
        rank = math.ceil((len(ratios) + 1) * quantile - 1e-9)
        span_s = float(known.bins[-1] - known.bins[0]) * known.bin_s
        enough = span_s >= self.spans * ahead_s
        if enough and rank <= len(ratios):
            return float(ratios[max(rank, 1) - 1]), False
        declared = declared_margin(self.margin, quantile, ahead_s)
        if quantile < MEDIAN or not len(ratios):
            return declared, True
        return max(declared, float(ratios[min(rank, len(ratios)) - 1])), True

    @staticmethod
    def _bound(level: float, scale: float, ratio: float, quantile: float) -> float:
        bound = level + scale * ratio
        return max(0.0, bound, level if quantile > MEDIAN else 0.0)
