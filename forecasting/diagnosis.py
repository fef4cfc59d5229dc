"""Whether scaling can follow a load at given lead times, and what would help where it cannot.

For a lead time of L the growth that matters is y(t + L) / y(t): its upper quantile is the head-room that must stand
ready while capacity is on its way. With the bound b(t) = y(t) + s(t) r_95 (s the level, at least half the mean; r_95
the 95th percentile of past changes over L in units of it) following the load costs mean(b) and a static deployment
costs the 99.5th percentile of y; the saving is 1 - mean(b) / that. What makes a load easy to follow shows in its
spectrum: the share of its variance slower than four lead times can be followed without foresight, the share at the day
and week can be foreseen; the rest is noise at this scale, and wants a buffer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecasting.series import Floats, Series

QUANTILES = (0.5, 0.9, 0.95, 0.99)
BOUND_QUANTILE = 0.95
STATIC_QUANTILE = 0.995
"""A static deployment is sized for this quantile of the load."""
FLOOR_SHARE = 0.5
"""Of the mean, under which changes are not measured relatively: growth from nothing is infinite."""
QUIET_SHARE = 0.05
"""Of the mean; growth is judged from bins above it."""
LEAST_SAVING = 0.10
"""From this share of the static deployment on, following the load is worth while."""
FOLLOWED_LEADS = 4.0
"""Periods longer than so many lead times can be followed by reacting."""
LEAST_PAIRS = 40
"""Pairs of bins one lead time apart without which nothing is said about its 95th percentile."""
EASY_HEAD_ROOM = 0.25
"""Head-room that pooling aims at."""
DAY_S, WEEK_S = 86_400.0, 604_800.0


class Verdict(StrEnum):
    """What to do at one lead time."""

    FOLLOW = "follow"
    BUFFER = "buffer"
    STATIC = "static"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LeadDiagnosis:
    """One lead time.

    Attributes:
        lead_s: seconds. pairs: pairs of bins so far apart.
        growth: (quantile, factor by which the load grows over the lead time).
        head_room: 95th percentile of growth less one; what must stand ready per unit of present load.
        buffer: the same at the mean load, in the load's unit.
        cost, static: mean of the 95 % bound, and the 99.5th percentile; saving: 1 - cost / static.
        followed_share: of the variance at periods longer than four lead times.
        pooled: how many such loads, independent of one another, to serve from one pool for a head-room of 25 %; None
            where the head-room is no more than that.
        verdict: `follow` the load; follow slow changes and keep a `buffer` for the rest; `static`: following saves
            nothing; `unknown`: too little history.
    """

    lead_s: float
    pairs: int
    growth: tuple[tuple[float, float], ...] = ()
    head_room: float | None = None
    buffer: float | None = None
    cost: float | None = None
    static: float | None = None
    saving: float | None = None
    followed_share: float | None = None
    pooled: int | None = None
    verdict: Verdict = Verdict.UNKNOWN


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A load, and whether it can be followed.

    Attributes:
        bins, bin_s, gaps: observed bins, their width in seconds, and stretches nobody reported in.
        mean, peak: in the load's unit. zero_share: of bins without load.
        peak_to_mean, cv: of the bins. burstiness: deviation from bin to bin over the mean, sqrt(var(y_k+1 - y_k) / 2):
            what is left of the CV when slow changes are taken out.
        daily_share, weekly_share: of the variance at a day and its first three harmonics, at a week and its first
            six; None where the series is shorter than two of them.
        leads: by lead time, ascending.
    """

    bins: int
    bin_s: float
    gaps: int
    mean: float
    peak: float
    zero_share: float
    peak_to_mean: float | None
    cv: float | None
    burstiness: float | None
    daily_share: float | None
    weekly_share: float | None
    leads: tuple[LeadDiagnosis, ...]


def diagnose(series: Series, leads: Sequence[float]) -> Diagnosis:
    """Look at a load with these lead times, seconds.

    A lead time shorter than a bin is judged as one bin: what happens inside a bin is not known.

    Raises:
        ValueError: the series is empty, or a lead time is not positive and finite.
    """
    if not len(series):
        raise ValueError("the series holds no values")
    for lead in leads:
        if not (math.isfinite(lead) and lead > 0):
            raise ValueError(f"lead time {lead} must be finite and above 0 seconds")
    values = np.maximum(series.values, 0.0)
    mean, peak = float(values.mean()), float(values.max())
    filled = _filled(series)
    power, frequency = _spectrum(filled, series.bin_s)
    deviation = float(values.std())
    return Diagnosis(
        bins=len(series),
        bin_s=series.bin_s,
        gaps=len(series.gaps()),
        mean=mean,
        peak=peak,
        zero_share=float((values <= 0).mean()),
        peak_to_mean=peak / mean if mean > 0 else None,
        cv=deviation / mean if mean > 0 else None,
        burstiness=_burstiness(series, mean),
        daily_share=_share(power, frequency, DAY_S, 3),
        weekly_share=_share(power, frequency, WEEK_S, 6),
        leads=tuple(_lead(series, lead, (mean, power, frequency)) for lead in sorted(set(leads))),
    )


def _filled(series: Series) -> Floats:
    """Every bin from the first to the last, gaps by straight lines; for spectra only."""
    wanted = np.arange(series.bins[0], series.bins[-1] + 1)
    found: Floats = np.interp(wanted, series.bins, np.maximum(series.values, 0.0))
    return found


def _spectrum(values: Floats, bin_s: float) -> tuple[Floats, Floats]:
    """Share of the variance by frequency, and the frequencies in Hz; both empty where nothing varies."""
    centred = values - values.mean()
    power: Floats = np.abs(np.fft.rfft(centred))[1:] ** 2
    if len(power) < 2 or power.sum() <= 0:  # noqa: PLR2004 - one frequency is no spectrum
        return np.empty(0), np.empty(0)
    frequency = np.arange(1, len(power) + 1, dtype=np.float64) / (len(values) * bin_s)
    return power / power.sum(), frequency


def _share(power: Floats, frequency: Floats, period_s: float, harmonics: int) -> float | None:
    """Share of the variance at a period and its harmonics, each with the frequency next to it on either side."""
    if not len(power) or frequency[0] * period_s > 1 / 2:
        return None
    near = np.zeros(len(power), bool)
    for harmonic in range(1, harmonics + 1):
        near |= np.abs(frequency - harmonic / period_s) <= 1.01 * frequency[0]
    return float(power[near].sum())


def _burstiness(series: Series, mean: float) -> float | None:
    _, change = series.changes(1)
    return math.sqrt(float(change.var()) / 2) / mean if mean > 0 and len(change) > 1 else None


def _lead(series: Series, lead_s: float, about: tuple[float, Floats, Floats]) -> LeadDiagnosis:
    mean, power, frequency = about
    lag = max(1, math.ceil(lead_s / series.bin_s - 1e-9))
    start, change = series.changes(lag)
    start = np.maximum(start, 0.0)
    if len(start) < LEAST_PAIRS or mean <= 0:
        return LeadDiagnosis(lead_s, len(start))
    busy = start > QUIET_SHARE * mean
    growth = 1.0 + change[busy] / start[busy]
    factors = tuple((q, float(np.quantile(growth, q))) for q in QUANTILES)
    head_room = max(0.0, dict(factors)[BOUND_QUANTILE] - 1.0)
    scale = np.maximum(start, FLOOR_SHARE * mean)
    ratio = max(0.0, float(np.quantile(change / scale, BOUND_QUANTILE)))
    cost = float((start + scale * ratio).mean())
    static = float(np.quantile(np.maximum(series.values, 0.0), STATIC_QUANTILE))
    saving = 1.0 - cost / static if static > 0 else 0.0
    followed = float(power[frequency <= 1.0 / (FOLLOWED_LEADS * lag * series.bin_s)].sum()) if len(power) else None
    return LeadDiagnosis(
        lead_s,
        len(start),
        factors,
        head_room,
        ratio * mean,
        cost,
        static,
        saving,
        followed,
        math.ceil((head_room / EASY_HEAD_ROOM) ** 2) if head_room > EASY_HEAD_ROOM else None,
        _verdict(saving, head_room),
    )


def _verdict(saving: float, head_room: float) -> Verdict:
    if saving < LEAST_SAVING:
        return Verdict.STATIC
    return Verdict.FOLLOW if head_room <= 2 * EASY_HEAD_ROOM else Verdict.BUFFER
