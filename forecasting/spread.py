"""How uncertain a forecast is just now: the size of its error, learned from level, recent errors and time of day.

    log |error| = log m + w . (1, log level, errors of the last hour, of the last hours, of that time of day, last jump)

with m the slow mean of |error| and w learned recursively. A bound that is wide when the load is restless and narrow
when it is calm needs less capacity than one width for all hours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from forecasting.past import Bools, Past
    from forecasting.series import Floats

CLUES = 6
HOURS = 24
EXPECTED = np.array([0.0, 0.3, 0.1, 0.2, 0.2, 0.0])
"""What the clues are worth before anything is learned."""
TRUST = 5.0
"""Bins of evidence `EXPECTED` stands for; a hundredth of it never fades, so that the sums stay solvable."""
LEAST = 0.1
"""Errors below this share of the mean error count as that much: the logarithm of nothing is not evidence."""
LEAST_UNIT = 1e-6
"""Least size of an error, as a share of the mean load."""
MOST = 3.0
"""Largest departure of log |error| from its mean that is believed."""
MEMORY_DAYS, SLOW_DAYS, QUICK, REFIT = 5.0, 3.0, 6.0, 6


@dataclass(frozen=True, slots=True)
class Spread:
    """State for loads x horizons x models.

    Attributes:
        size: mean |error|, NaN-free; `seen` counts what it rests on.
        seen: errors seen, fading.
        quick, middle, slow: means of log |error| over about an hour, four hours, three days.
        hourly: the same by hour of the day of the target.
        gram, moment, weights: sums and solution of the regression.
    """

    size: Floats
    seen: Floats
    quick: Floats
    middle: Floats
    slow: Floats
    hourly: Floats
    gram: Floats
    moment: Floats
    weights: Floats

    @staticmethod
    def empty(count: int, horizons: int, models: int) -> Spread:
        """Nothing learned."""
        shape = (count, horizons, models)
        none = np.zeros(shape)
        gram = np.broadcast_to(TRUST * np.eye(CLUES), (*shape, CLUES, CLUES)).copy()
        moment = np.broadcast_to(TRUST * EXPECTED, (*shape, CLUES)).copy()
        weights = np.broadcast_to(EXPECTED, (*shape, CLUES)).copy()
        return Spread(none, none, none, none, none, np.zeros((*shape, HOURS)), gram, moment, weights)

    def learned(self, error: Floats, clues: Floats, usable: Bools, past: Past) -> Spread:
        """After the errors of forecasts that have just come due, made when the `clues` were these."""
        day = past.grid.day
        fade = 0.5 ** (1.0 / (2.0 * day))
        seen = np.where(usable, self.seen * fade + 1.0, self.seen)
        size = self.size + np.where(usable, (np.abs(error) - self.size) / np.maximum(seen, 1.0), 0.0)
        relative = np.where(usable, np.log(np.abs(error) / self.unit_of(size, past) + LEAST), 0.0)
        quick, middle, slow = (
            _moved(mean, relative, usable, np.maximum(1.0 - 0.5 ** (1.0 / half), 1.0 / np.maximum(seen, 1.0)))
            for mean, half in ((self.quick, QUICK), (self.middle, day / QUICK), (self.slow, SLOW_DAYS * day))
        )
        hour = int(((past.bin_ or 0) % day) * HOURS / day)
        hourly = self.hourly.copy()
        hourly[..., hour] = _moved(hourly[..., hour], relative, usable, min(1.0, 0.15 * 144.0 / day))
        known = clues * usable[..., None]
        keep = 1.0 - 1.0 / (MEMORY_DAYS * day)
        gram = self.gram * keep + known[..., :, None] * known[..., None, :]
        moment = self.moment * keep + known * relative[..., None]
        return Spread(size, seen, quick, middle, slow, hourly, gram, moment, self._solved(gram, moment, past))

    @staticmethod
    def unit_of(size: Floats, past: Past) -> Floats:
        """Mean |error|, never zero."""
        return np.maximum(size, LEAST_UNIT * past.scale[:, None, None])

    def _solved(self, gram: Floats, moment: Floats, past: Past) -> Floats:
        weights = self.weights.copy()
        for j in range(weights.shape[1]):
            if ((past.bin_ or 0) + j) % REFIT == 0:
                firm = gram[:, j] + 0.01 * TRUST * np.eye(CLUES)
                right = moment[:, j] + 0.01 * TRUST * EXPECTED
                weights[:, j] = np.linalg.solve(firm, right[..., None])[..., 0]
        return weights

    def clues(self, points: Floats, past: Past) -> Floats:
        """What is known now that may tell the size of the errors of these forecasts."""
        day, unit = past.grid.day, self.unit_of(self.size, past)
        scale = past.scale[:, None, None]
        season = np.empty_like(points)
        for j, horizon in enumerate(past.grid.horizons):
            at = (((past.bin_ or 0) + horizon) % day) * HOURS / day - 0.5
            low, share = int(np.floor(at)), at - np.floor(at)
            season[:, j] = (1 - share) * self.hourly[:, j, :, low % HOURS] + share * self.hourly[
                :, j, :, (low + 1) % HOURS
            ]
        jump = np.abs(past.lag(0) - past.lag(1))[:, None, None]
        return np.stack(
            (
                np.ones_like(points),
                np.log(points / scale + 0.05),
                self.quick - self.slow,
                self.middle - self.slow,
                season - self.slow,
                np.log(jump / unit + LEAST),
            ),
            axis=-1,
        )

    def now(self, clues: Floats, past: Past) -> Floats:
        """Expected |error| of forecasts with these clues."""
        exponent = np.clip(np.einsum("nhkc,nhkc->nhk", clues, self.weights), -MOST, MOST)
        expected: Floats = self.unit_of(self.size, past) * np.exp(exponent)
        return expected

    def forgetting(self, factor: Floats) -> Spread:
        """With the evidence of each load and horizon scaled down, so that new errors count for more."""
        wide = factor[..., None]
        return replace(
            self,
            seen=self.seen * wide,
            gram=self.gram * wide[..., None, None],
            moment=self.moment * wide[..., None],
        )


def _moved(mean: Floats, value: Floats, usable: Bools, share: Floats | float) -> Floats:
    return mean + np.where(usable, share * (value - mean), 0.0)
