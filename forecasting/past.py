"""What many loads did lately, row by row, as a frozen value that a new bin extends without copying the old ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from forecasting.series import LARGEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecasting.online import Grid
    from forecasting.series import Floats

    Bools = NDArray[np.bool_]

WEEK = 7
"""Days."""
SLACK = 64
"""Bins kept beyond a week and the longest horizon, for lags before the origin."""
SMALLEST = 1e-12
"""Stands for the mean of a load that was never above zero, so that nothing is divided by zero."""


@dataclass(frozen=True, slots=True)
class Past:
    """Bins seen so far, newest last; a gap holds the value before it and is marked as not known.

    Attributes:
        grid: step and horizons.
        rows: one array of loads for each bin kept.
        known: whether each of them was really observed.
        bin_: number of the newest bin; None before the first.
        mean: running mean of each load, over everything and then with a memory of a week.
        seen: bins each load was observed in.
        peak: highest value, forgotten with a half-life of a week.
    """

    grid: Grid
    rows: tuple[Floats, ...]
    known: tuple[Bools, ...]
    bin_: int | None
    mean: Floats
    seen: Floats
    peak: Floats

    @staticmethod
    def empty(grid: Grid, count: int) -> Past:
        """Nothing seen of `count` loads."""
        none = np.zeros(count)
        return Past(grid, (), (), None, none, none, none)

    @property
    def keep(self) -> int:
        """Bins kept."""
        return WEEK * self.grid.day + max(self.grid.horizons) + SLACK

    @property
    def scale(self) -> Floats:
        """The running mean, never zero."""
        return np.maximum(self.mean, SMALLEST)

    def append(self, bin_: int, values: Floats) -> Past:
        """One more bin. What is not finite, or beyond `LARGEST`, counts as not observed; what is negative as 0."""
        known = np.abs(values) <= LARGEST
        before = self.rows[-1] if self.rows else np.zeros(len(values))
        row = np.where(known, np.maximum(values, 0.0), before)
        seen = self.seen + known
        share = known / np.clip(seen, 1.0, WEEK * self.grid.day)
        fade = 0.5 ** (1.0 / (WEEK * self.grid.day))
        return replace(
            self,
            rows=(*self.rows[-self.keep + 1 :], row),
            known=(*self.known[-self.keep + 1 :], known),
            bin_=bin_,
            mean=self.mean + share * (row - self.mean),
            seen=seen,
            peak=np.maximum(self.peak * fade, np.where(known, row, 0.0)),
        )

    def lag(self, bins: int) -> Floats:
        """Loads so many bins before the newest; the oldest ones where that is out of reach."""
        return self.rows[max(len(self.rows) - 1 - bins, 0)]

    def has(self, bins: int) -> bool:
        """Whether the bin so many before the newest is in reach."""
        return bins < len(self.rows)
