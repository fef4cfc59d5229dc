"""How many of a fluid's requests met their targets: the spans' waits and step times against each size class's limit.

Per class, TTFT = wait + own prompt + (with the chance of being delayed) an exponential time; TPOT is the step time with
a log-normal spread. All spans and classes at once, in numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

from autoscaler.simulator.score import Served, bad_minutes, weighted_percentiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoscaler.simulator.fluid import FluidFleet
    from autoscaler.simulator.setup import Slo

    Floats = NDArray[np.float64]

TPOT_SIGMA = 0.2
"""Standard deviation of the logarithm of TPOT around the step time; requests' own simulated TPOT had 0.1 to 0.2."""
TAIL_POINTS = ((1 / 3, 0.19), (1 / 3, 0.72), (1 / 3, 2.1))
"""Thirds of an exponential distribution by weight, each by its mean over the whole mean."""
MINUTE_S = 60.0


def judged(fleet: FluidFleet, slo: Slo, horizon: float) -> Served:
    """Score a fluid that has flowed to its end."""
    at, where, many, wait, delayed, tail, step = np.array(fleet.met, dtype=np.float64).reshape(-1, 7).T
    share, tokens, limit = (classes[where.astype(np.int64)] for classes in _table(fleet))
    base = wait[:, None] + fleet.profile.prefill_token_seconds * tokens
    slack = np.maximum(limit - base, 0.0)
    late = np.where(limit > base, delayed[:, None] * np.exp(-slack / tail[:, None]), 1.0)
    first = (share * (1 - late)).sum(axis=1)
    step = _over_stay(at, wait, step, np.array(fleet.load.output)[where.astype(np.int64)])
    with np.errstate(divide="ignore"):
        pace = np.where(np.isfinite(step), ndtr(np.log(slo.tpot_s / step) / TPOT_SIGMA), 0.0)
    good = many * first * pace
    total = max(fleet.arrived, 1e-9)
    minute = (at // MINUTE_S).astype(np.int64)
    minutes = [(g, n) for g, n in zip(np.bincount(minute, good), np.bincount(minute, many), strict=True) if n > 0]
    return Served(
        requests=round(fleet.arrived, 3),
        finished=round(min(fleet.finished, fleet.arrived), 3),
        attainment=float(good.sum()) / total,
        ttft_ok=float((many * first).sum()) / total,
        tpot_ok=float((many * pace).sum()) / total,
        goodput=float(good.sum()) / horizon if horizon > 0 else 0.0,
        ttft=weighted_percentiles(*_ttft(many[:, None] * share, base, delayed[:, None], tail[:, None])),
        tpot=weighted_percentiles(*_tpot(many, step)),
        tokens=fleet.tokens,
        recovery_s=bad_minutes(minutes, slo.attainment),
    )


def _over_stay(at: Floats, wait: Floats, step: Floats, output: Floats) -> Floats:
    """Mean step of the requests that arrive at `at`, over the `output` steps after their wait; infinite: no engine.

    A request makes 1/step tokens per second, and ends when it has made its output.
    """
    if not len(at):
        return step
    span = np.diff(at, append=at[-1] + 1.0)
    made = np.concatenate([[0.0], np.cumsum(np.divide(span, step, out=np.zeros_like(step), where=step > 0))])
    times = np.append(at, at[-1] + span[-1])
    began = at + np.where(np.isfinite(wait), wait, 0.0)
    last = float(step[-1]) if step[-1] > 0 else np.inf

    def later(tokens: Floats) -> Floats:
        # np.interp needs progress to grow: where no engine runs, the moment it stops stands for all of the pause.
        inside = np.interp(tokens, made, times)
        found: Floats = np.where(tokens > made[-1], times[-1] + (tokens - made[-1]) * last, inside)
        return found

    sofar = np.interp(began, times, made) + np.maximum(began - times[-1], 0.0) / last
    over = later(sofar + output) - began
    mean: Floats = np.where(np.isfinite(wait), over / output, np.inf)
    return mean


def _table(fleet: FluidFleet) -> tuple[Floats, Floats, Floats]:
    """Shares, mean tokens and limits of each bin's classes; bins with fewer classes have empty ones."""
    widest = max(map(len, fleet.load.classes))
    table = np.zeros((len(fleet.load.classes), max(widest, 1), 3))
    for row, classes in enumerate(fleet.load.classes):
        if classes:
            table[row, : len(classes)] = classes
    return table[..., 0], table[..., 1], table[..., 2]


def _ttft(weight: Floats, base: Floats, delayed: Floats, tail: Floats) -> tuple[Floats, Floats]:
    weights = [weight * (1 - delayed), *(weight * delayed * part for part, _ in TAIL_POINTS)]
    values = [base, *(base + tail * times for _, times in TAIL_POINTS)]
    return np.concatenate(weights, axis=None), np.concatenate(values, axis=None)


def _tpot(many: Floats, step: Floats) -> tuple[Floats, Floats]:
    spread = np.exp(TPOT_SIGMA * np.array([-1.0, 0.0, 1.0]))
    return np.repeat(many / 3, 3), (step[:, None] * spread).ravel()
