"""A load over time as it was really observed: irregular arrivals merged into bins, gaps left out instead of filled.

A series is a frozen value; adding samples gives a new one. Time is in Unix seconds (any origin will do), values in
whatever unit the caller counts. A bin nobody reported in is absent: it is neither zero nor NaN, and no reckoning ever
sees it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]


LARGEST = 1e100
"""Magnitude above which a value is garbage, not load: sums and ratios of such values would leave the floating range."""

MOST_BINS = 1e15
"""Bin numbers stay exact in a float up to here."""


def _frozen(array: NDArray[np.generic]) -> None:
    array.flags.writeable = False


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Observed values on a grid of bins, oldest first, at most `keep` bins.

    Attributes:
        bin_s: width of a bin in seconds; samples in [k bin_s, (k + 1) bin_s) belong to bin k.
        keep: most bins between the newest and the oldest; older ones are dropped.
        bins: numbers of the bins that have a value, strictly increasing (read-only).
        values: mean of the samples of each such bin (read-only).
        counts: samples behind each mean (read-only).
        newest: time and value of the newest sample; None for an empty series.
    """

    bin_s: float
    keep: int
    bins: Ints
    values: Floats
    counts: Ints
    newest: tuple[float, float] | None

    @staticmethod
    def empty(bin_s: float = 10.0, keep: int = 720) -> Series:
        """A series nobody has reported to yet.

        Raises:
            ValueError: `bin_s` is not positive and finite, or `keep` is below 1.
        """
        if not (math.isfinite(bin_s) and bin_s > 0):
            raise ValueError(f"bin_s {bin_s} must be finite and above 0 seconds")
        if keep < 1:
            raise ValueError(f"keep {keep} must be at least 1 bin")
        none, nothing, zero = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
        for array in (none, nothing, zero):
            _frozen(array)
        return Series(bin_s, keep, none, nothing, zero, None)

    @staticmethod
    def of(samples: Iterable[tuple[float, float | None]], bin_s: float = 10.0, keep: int = 720) -> Series:
        """A series of (time, value) samples in any order; of two at one instant the later in the iteration counts."""
        series = Series.empty(bin_s, keep)
        for time, value in sorted(samples, key=lambda sample: sample[0]):
            series = series.append(time, value)
        return series

    def __len__(self) -> int:
        return len(self.bins)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Series):
            return NotImplemented
        return (
            (self.bin_s, self.keep, self.newest) == (other.bin_s, other.keep, other.newest)
            and np.array_equal(self.bins, other.bins)
            and np.array_equal(self.values, other.values)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash, so neither has a value made of them

    @property
    def times(self) -> Floats:
        """Start of each bin that has a value, in seconds."""
        return np.multiply(self.bins, self.bin_s, dtype=np.float64)

    def append(self, time: float, value: float | None) -> Series:
        """The series with one more sample.

        None, NaN, infinities and magnitudes above `LARGEST` tell nothing: the series stays as it is. A sample in the
        newest bin or later is the usual case. One of the same instant as the newest corrects it. One out of order
        goes to the bin it belongs to; older than the oldest bin to keep, it is dropped.

        Raises:
            ValueError: the time is not finite, or too far from zero for the bin width.
        """
        if not math.isfinite(time) or abs(time / self.bin_s) > MOST_BINS:
            raise ValueError(f"sample time {time} must be finite and within {MOST_BINS:.0e} bins of {self.bin_s} s")
        if value is None or not abs(value) <= LARGEST:
            return self
        bin_ = math.floor(time / self.bin_s)
        newest = self.newest
        if newest is None or bin_ > self.bins[-1]:
            return self._extended(bin_, time, value)
        if bin_ <= int(self.bins[-1]) - self.keep:
            return self
        place = int(np.searchsorted(self.bins, bin_))
        if self.bins[place] != bin_:
            return self._inserted(place, bin_, value)
        return self._merged(place, time, value)

    def _extended(self, bin_: int, time: float, value: float) -> Series:
        first = int(np.searchsorted(self.bins, bin_ - self.keep, side="right"))
        return self._with(
            np.append(self.bins[first:], bin_),
            np.append(self.values[first:], value),
            np.append(self.counts[first:], 1),
            (time, value),
        )

    def _inserted(self, place: int, bin_: int, value: float) -> Series:
        return self._with(
            np.insert(self.bins, place, bin_),
            np.insert(self.values, place, value),
            np.insert(self.counts, place, 1),
            self.newest,
        )

    def _merged(self, place: int, time: float, value: float) -> Series:
        values, counts = self.values.copy(), self.counts.copy()
        newest = self.newest
        if newest is not None and time == newest[0]:
            values[place] += (value - newest[1]) / counts[place]
            newest = (time, value)
        else:
            counts[place] += 1
            values[place] += (value - values[place]) / counts[place]
            if newest is None or time > newest[0]:
                newest = (time, value)
        return self._with(self.bins, values, counts, newest)

    def _with(self, bins: Ints, values: Floats, counts: Ints, newest: tuple[float, float] | None) -> Series:
        for array in (bins, values, counts):
            _frozen(array)
        return Series(self.bin_s, self.keep, bins, values, counts, newest)

    def until(self, at: float) -> Series:
        """What was known at a time: bins that began by then. `newest` is that of the last bin if it was later."""
        count = int(np.searchsorted(self.bins, math.floor(at / self.bin_s), side="right"))
        if count == len(self.bins):
            return self
        newest = (float(self.bins[count - 1] * self.bin_s), float(self.values[count - 1])) if count else None
        return self._with(self.bins[:count].copy(), self.values[:count].copy(), self.counts[:count].copy(), newest)

    def gaps(self) -> tuple[tuple[float, float], ...]:
        """Stretches of bins nobody reported in, as (from, to) in seconds, between the first and the last bin."""
        after = np.flatnonzero(np.diff(self.bins) > 1)
        return tuple(
            (float((self.bins[i] + 1) * self.bin_s), float(self.bins[i + 1] * self.bin_s)) for i in after.tolist()
        )

    def changes(self, lag: int) -> tuple[Floats, Floats]:
        """Values and their changes over `lag` bins, for each pair of bins exactly that far apart."""
        size = len(self.bins)
        if size == 0:
            return self.values, self.values
        if int(self.bins[-1] - self.bins[0]) == size - 1:
            start = self.values[: max(0, size - lag)]
            return start, self.values[lag:] - start
        later = np.searchsorted(self.bins, self.bins + lag)
        found = later < size
        found[found] = self.bins[later[found]] == self.bins[found] + lag
        start = self.values[found]
        return start, self.values[later[found]] - start
