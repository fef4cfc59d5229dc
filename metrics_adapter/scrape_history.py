"""What a scraper has to remember to answer "how fast does this counter grow" the way Prometheus does."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metrics_adapter.exposition_text import Labels

SeriesKey = tuple[str, "Labels"]
"""Sample name and exposed labels."""

_FINEST = 256  # points kept per window: denser scrapes move the last point instead of adding one (6 KB per series)
_NEAR_EDGE = 1.1  # of the mean sample distance: Prometheus' promql/functions.go, extrapolationThreshold


class CounterSeries:
    """The recent samples of one counter."""

    __slots__ = ("_grown", "_raw", "_times")

    def __init__(self) -> None:
        self._times = array("d")
        self._raw = array("d")
        self._grown = array("d")  # the value with resets taken out: it never falls, so an increase is a difference

    def add(self, at: float, value: float, window_s: float) -> None:
        """Take a finite sample made at Unix time `at`, and forget what is older than the window.

        A fall means the counter started again from 0. A sample of the same time is ignored; an earlier one means the
        clock was set back, and the history starts anew.
        """
        times, raw, grown = self._times, self._raw, self._grown
        if times and at <= times[-1]:
            if at == times[-1]:
                return
            del times[:], raw[:], grown[:]
        step = (value if value < raw[-1] else value - raw[-1]) if raw else 0.0
        total = (grown[-1] if grown else value) + step
        if len(times) > 1 and times[-1] - times[-2] < window_s / _FINEST:
            times[-1], raw[-1], grown[-1] = at, value, total
        else:
            times.append(at)
            raw.append(value)
            grown.append(total)
        old = bisect_left(times, at - window_s)
        del times[:old], raw[:old], grown[:old]

    def rate(self, end: float, window_s: float) -> float | None:
        """Growth per second over the window that ends at Unix time `end`; None with fewer than two samples in it.

        Prometheus' `rate()` (promql/functions.go, extrapolatedRate): the increase between first and last sample,
        stretched to the window's edges if these are nearer than 1.1 mean sample distances, else by half a distance;
        never back beyond the moment the counter would have been 0. Divided by the whole window.
        """
        times = self._times
        first = bisect_left(times, end - window_s)
        count = len(times) - first
        if count < 2:  # noqa: PLR2004 - a rate needs two samples
            return None
        covered = times[-1] - times[first]
        increase = self._grown[-1] - self._grown[first]
        distance = covered / (count - 1)
        before, after = times[first] - (end - window_s), max(0.0, end - times[-1])
        if increase > 0:
            before = min(before, covered * self._raw[first] / increase)
        stretch = sum(gap if gap < distance * _NEAR_EDGE else distance / 2 for gap in (before, after))
        return increase * (covered + stretch) / covered / window_s

    @property
    def newest(self) -> float:
        """Unix time of the newest sample."""
        return self._times[-1]


class History:
    """All counters of one target. Memory is bounded by the series of the last window times 256 points."""

    __slots__ = ("_series", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._series: dict[SeriesKey, CounterSeries] = {}
        self._window_s = window_s

    def add(self, at: float, values: Mapping[SeriesKey, tuple[float, float]]) -> None:
        """Take one scrape: series -> (Unix time, value); series unseen for a window before `at` are forgotten."""
        for key, (time, value) in values.items():
            self._series.setdefault(key, CounterSeries()).add(time, value, self._window_s)
        gone = [key for key, series in self._series.items() if abs(at - series.newest) > self._window_s]
        for key in gone:
            del self._series[key]

    def rate(self, key: SeriesKey, end: float) -> float | None:
        """Per-second rate of one series over the window ending at Unix time `end`; None if it cannot be told yet."""
        series = self._series.get(key)
        return None if series is None else series.rate(end, self._window_s)

    def __len__(self) -> int:
        return len(self._series)
