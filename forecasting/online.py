"""Forecasting many loads at once: one bin in, upper bounds at every horizon out.

Loads are the rows of an array, bins arrive one after another, and everything a forecaster knows is a frozen state
that goes in and comes out. Nothing here reads a clock: the number of the bin is an argument.

    grid = Grid(step_s=600.0, horizons=(1, 3, 6), quantiles=(0.5, 0.95))
    state = forecaster.begin(grid, count=1000)
    state = forecaster.step(state, bin_, values)   # values: 1000 loads, NaN where nothing is known
    bounds = forecaster.ahead(state)               # 1000 x 3 x 2
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from forecasting.series import Floats

DAY_S = 86400.0

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Grid:
    """What is foreseen, and on which grid of time.

    Attributes:
        step_s: width of a bin in seconds; bin k covers [k step_s, (k + 1) step_s).
        horizons: bins ahead of the newest one, increasing, each at least 1.
        quantiles: strictly between 0 and 1, increasing.
    """

    step_s: float
    horizons: tuple[int, ...]
    quantiles: tuple[float, ...] = (0.5, 0.95)

    def __post_init__(self) -> None:
        """Refuse grids nothing can be foreseen on."""
        if not (math.isfinite(self.step_s) and self.step_s > 0):
            raise ValueError(f"step_s {self.step_s} must be finite and above 0 seconds")
        if not self.horizons or self.horizons[0] < 1 or list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError(f"horizons {self.horizons} must be increasing whole bins of at least 1")
        if not self.quantiles or list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError(f"quantiles {self.quantiles} must be increasing")
        if not (self.quantiles[0] > 0 and self.quantiles[-1] < 1):
            raise ValueError(f"quantiles {self.quantiles} must lie strictly between 0 and 1")

    @property
    def day(self) -> int:
        """Bins in a day (at least 1)."""
        return max(1, round(DAY_S / self.step_s))


class OnlineForecaster(Protocol[S]):
    """Anything that foresees many loads bin by bin; the same input gives the same bits again."""

    def begin(self, grid: Grid, count: int) -> S:
        """The state that has seen nothing of `count` loads yet."""
        ...

    def step(self, state: S, bin_: int, values: Floats) -> S:
        """The state after one more bin; `values` holds one load per row, NaN where none was seen.

        Bins left out are gaps of every load.

        Raises:
            ValueError: `bin_` is not after the newest one, or there is not one value per load.
        """
        ...

    def ahead(self, state: S) -> Floats:
        """Load by horizon by quantile: finite, never negative, not falling from quantile to quantile.

        NaN for a load of which nothing was ever seen.
        """
        ...
