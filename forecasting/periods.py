"""Whether a load repeats by the day, by the week, or not at all."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from forecasting.series import Floats

DAY_S, WEEK_S = 86400.0, 604800.0
FEWEST = 2.0
"""Periods a load must hold before it can be said to repeat."""
CLEAR = 0.3
"""Share of the variance of the hourly load that its profile over the period must explain, beyond chance."""
BETTER = 0.1
"""By how much more of it the week must explain than the day does, to be called weekly."""


class Period(StrEnum):
    """What a load repeats by."""

    DAILY = "daily"
    WEEKLY = "weekly"
    NONE = "none"


def detect(values: Floats, step_s: float) -> Period:
    """The period of a load of evenly spaced values, NaN where nothing was observed.

    Hourly means are compared with those one period before: with r the correlation at that lag over the pairs both of
    which were observed, the load is daily where r(1 d) >= CLEAR, and weekly where r(7 d) >= CLEAR and is BETTER than
    r(1 d). A correlation at a lag needs no regular data and is blind to level and size. A slow trend also correlates
    at every lag, so the mean of a centred day (or of a week) is taken away first.
    """
    hourly, per_hour = _hourly(values, step_s)
    day, week = round(DAY_S / per_hour), round(WEEK_S / per_hour)
    daily = _repeats(hourly, day, day)
    weekly = _repeats(hourly, week, week)
    if weekly is not None and weekly >= CLEAR and weekly >= (daily or 0.0) + BETTER:
        return Period.WEEKLY
    return Period.DAILY if daily is not None and daily >= CLEAR else Period.NONE


def _hourly(values: Floats, step_s: float) -> tuple[Floats, float]:
    """Means over an hour (or a bin, where that is longer), and how long that is."""
    group = max(1, round(3600.0 / step_s))
    size = len(values) // group * group
    folded = values[len(values) - size :].reshape(-1, group)
    known = ~np.isnan(folded)
    count = known.sum(axis=1)
    total = np.where(known, folded, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), group * step_s


def _repeats(hourly: Floats, lag: int, window: int) -> float | None:
    """Correlation with one period before, the running mean of a period taken away; None for too short a load."""
    if lag < 2 or len(hourly) < FEWEST * lag:  # noqa: PLR2004 - a period of one bin repeats nothing
        return None
    rest = hourly - _running_mean(hourly, window)
    now, then = rest[lag:], rest[:-lag]
    both = ~(np.isnan(now) | np.isnan(then))
    if both.sum() < lag // 2:
        return None
    now, then = now[both] - now[both].mean(), then[both] - then[both].mean()
    size = float(np.sqrt((now**2).sum() * (then**2).sum()))
    return float((now * then).sum()) / size if size > 0 else None


def _running_mean(values: Floats, window: int) -> Floats:
    known = ~np.isnan(values)
    total = np.concatenate(([0.0], np.cumsum(np.where(known, values, 0.0))))
    count = np.concatenate(([0], np.cumsum(known)))
    size = len(values)
    low = np.clip(np.arange(size) - window // 2, 0, max(size - window, 0))
    high = np.minimum(low + window, size)
    means: Floats = (total[high] - total[low]) / np.maximum(count[high] - count[low], 1)
    return means
