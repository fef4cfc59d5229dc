"""How well a run served, and at what cost. Every request counts: shed, refused, lost and unfinished ones are misses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autoscaler.simulator.ledger import Outcomes
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.setup import Slo

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

BIN_S = 15.0
"""Replicas had and needed are compared at this grain."""
OVER_ASK_S = 300.0
"""A wish is too much only beyond what is needed within so long before (stabilisation) and after it (foresight)."""
RECOVERY_S = 60.0
"""Attainment is judged over so long when looking for how long a bad spell lasts."""
MOST_LAG_S = 900.0
"""Longest delay of supply behind need that is looked for."""


@dataclass(frozen=True, slots=True)
class Served:
    """How requests were served. Times in seconds, NaN without a request to say it of.

    Attributes:
        requests, finished: how many. attainment: share served within both targets; ttft_ok, tpot_ok: within one.
        goodput: requests/s served within both targets over the workload's duration.
        ttft, tpot: (median, 90th, 99th percentile) of those that have one.
        tokens: output tokens of finished requests.
        recovery_s: the longest spell of minutes below the target attainment.
    """

    requests: float
    finished: float
    attainment: float
    ttft_ok: float
    tpot_ok: float
    goodput: float
    ttft: tuple[float, float, float]
    tpot: tuple[float, float, float]
    tokens: float
    recovery_s: float


def ttft_targets(prompt: NDArray[np.int32] | NDArray[np.int64], slo: Slo) -> Floats:
    """Each request's TTFT target by the size of its input."""
    edges = np.array([edge for edge, _ in slo.ttft_s])
    limits = np.array([*(limit for _, limit in slo.ttft_s), slo.ttft_longest_s])
    targets: Floats = limits[np.searchsorted(edges, prompt, side="right")]
    return targets


def latencies(load: Workload, outcomes: Outcomes) -> tuple[Floats, Floats]:
    """TTFT and TPOT of each request, s; NaN where it got none; TPOT of a single token is 0."""
    ttft = outcomes.first - load.arrival_s
    gaps = np.maximum(load.output - 1, 1)
    tpot = np.where(load.output > 1, (outcomes.finish - outcomes.first) / gaps, outcomes.finish * 0.0)
    return ttft, tpot


def served(load: Workload, outcomes: Outcomes, slo: Slo) -> Served:
    """Score a run's requests."""
    ttft, tpot = latencies(load, outcomes)
    with np.errstate(invalid="ignore"):
        first_ok = ttft <= ttft_targets(load.prompt, slo)
        pace_ok = tpot <= slo.tpot_s
    both = first_ok & pace_ok
    done = np.isfinite(outcomes.finish)
    size = len(load)
    duration = load.duration
    return Served(
        requests=size,
        finished=int(done.sum()),
        attainment=_share(both),
        ttft_ok=_share(first_ok),
        tpot_ok=_share(pace_ok),
        goodput=float(both.sum()) / duration if duration > 0 else 0.0,
        ttft=_percentiles(ttft),
        tpot=_percentiles(tpot),
        tokens=int(load.output[done].sum(dtype=np.int64)),
        recovery_s=bad_spell(load.arrival_s, both, slo.attainment),
    )


def _share(ok: NDArray[np.bool_]) -> float:
    return float(ok.mean()) if len(ok) else float("nan")


def _percentiles(values: Floats) -> tuple[float, float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    low, high, highest = np.percentile(known, [50, 90, 99])
    return float(low), float(high), float(highest)


def bad_spell(arrival_s: Floats, ok: NDArray[np.bool_], attainment: float) -> float:
    """The longest run of whole minutes (those without arrivals left out) in which fewer than wanted were served, s."""
    if not len(ok):
        return 0.0
    minute = (arrival_s // RECOVERY_S).astype(np.int64)
    count = np.bincount(minute)
    good = np.bincount(minute, weights=ok)
    present = count > 0
    return bad_minutes(list(zip(good[present].tolist(), count[present].tolist(), strict=True)), attainment)


def bad_minutes(minutes: Sequence[tuple[float, float]], attainment: float) -> float:
    """The longest run of (served well, arrived) minutes below the wanted share, s."""
    longest = run = 0
    for good, count in minutes:
        run = run + 1 if good < attainment * count else 0
        longest = max(longest, run)
    return longest * RECOVERY_S


def weighted_percentiles(weights: Floats, values: Floats) -> tuple[float, float, float]:
    """Median, 90th and 99th percentile of weighted values, those that are not finite left out."""
    known = np.isfinite(values) & (weights > 0)
    if not known.any():
        return float("nan"), float("nan"), float("nan")
    order = np.argsort(values[known], kind="stable")
    upto = np.cumsum(weights[known][order])
    found = values[known][order][np.searchsorted(upto, np.array([0.5, 0.9, 0.99]) * upto[-1])]
    return float(found[0]), float(found[1]), float(found[2])


def stepwise(history: Sequence[tuple[float, int]], times: Floats) -> Counts:
    """The value that holds at each time, from (s, value) changes in order of time; 0 before the first."""
    at = np.array([when for when, _ in history])
    values = np.array([0, *(value for _, value in history)], dtype=np.int64)
    found: Counts = values[np.searchsorted(at, times, side="right")]
    return found


def direction_changes(values: Sequence[int]) -> int:
    """How often a count turned from growing to shrinking or back."""
    steps = np.sign(np.diff(np.array(values, dtype=np.int64)))
    moves = steps[steps != 0]
    return int((moves[1:] != moves[:-1]).sum())


def over_ask(asked: Counts, needed: Counts, bin_s: float = BIN_S) -> float:
    """The highest ratio of a wish to the most that was needed around it; 1 when nothing was asked."""
    if not len(asked):
        return 1.0
    reach = round(OVER_ASK_S / bin_s)
    padded = np.concatenate([np.full(reach, needed[0]), needed, np.full(reach, needed[-1])])
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1).max(axis=1)
    return float((asked / np.maximum(around, 1)).max())


def follows(had: Floats, needed: Floats, bin_s: float = BIN_S) -> tuple[float, float]:
    """Correlation of what was had with what was needed at the same time, and the delay (s) at which it is highest.

    NaN for a count that never changes.
    """
    best, lag = float("nan"), float("nan")
    now = float("nan")
    for shift in range(min(round(MOST_LAG_S / bin_s), len(had) // 2) + 1):
        later, before = had[shift:], needed[: len(needed) - shift]
        if len(later) < 3 or later.std() == 0 or before.std() == 0:  # noqa: PLR2004 - two points always correlate
            continue
        match = float(np.corrcoef(later, before)[0, 1])
        if shift == 0:
            now = match
        if not match <= best:
            best, lag = match, shift * bin_s
    return now, lag
