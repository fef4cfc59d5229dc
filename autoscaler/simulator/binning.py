"""From requests to demand per bin and back, so that both fidelities of a simulation can run one trace."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from autoscaler.errors import BadSettings
from autoscaler.simulator.lengths import draw_lengths
from autoscaler.simulator.requests import LARGEST_TOKENS, MOST_REQUESTS, DemandSeries, Workload

if TYPE_CHECKING:
    from autoscaler.simulator.requests import Counts, Floats
    from autoscaler.simulator.workload import Lengths, RequestMix

_MOST_BINS = 10_000_000


def to_demand(workload: Workload, bin_s: float) -> DemandSeries:
    """Requests and tokens summed per bin of `bin_s` seconds from time 0; the last bin may reach beyond the end.

    Cached tokens are not subtracted: demand counts what users send.

    Raises:
        BadSettings: a width that is not > 0, or one that makes more than ten million bins.
    """
    if not (math.isfinite(bin_s) and bin_s > 0 and workload.duration / bin_s < _MOST_BINS):
        raise BadSettings((f"bin_s is {bin_s}; it must be > 0 and make fewer than {_MOST_BINS:,} bins",))
    at = np.floor(workload.arrival_s / bin_s).astype(np.int64)
    count = max(math.ceil(workload.duration / bin_s), int(at[-1]) + 1 if len(at) else 0, 1)
    sums = [np.bincount(at, weights=what, minlength=count) for what in (None, workload.prompt, workload.output)]
    requests, prompt, output = (np.asarray(one, dtype=np.float64) for one in sums)
    notes = (*workload.notes, f"summed per {bin_s:g} s")
    times: Floats = np.arange(count, dtype=np.float64) * bin_s
    return DemandSeries(workload.name, times, bin_s, requests, prompt, output, notes)


def from_demand(series: DemandSeries, mix: RequestMix | None, seed: int) -> Workload:
    """Requests that a demand series stands for: Poisson within each bin, as many on average as the bin has.

    Lengths have the spread of the mix and each bin's own mean, so that the tokens of a bin are right on average.

    Args:
        series: the demand.
        mix: whose spread (sigma) to use; None: every request of a bin has the bin's mean lengths.
        seed: same seed, same requests.

    Raises:
        BadSettings: more than MOST_REQUESTS requests expected.
    """
    expected = float(series.requests.sum())
    if expected > MOST_REQUESTS:
        problem = f"{series.name} has {expected:,.0f} requests; at most {MOST_REQUESTS:,} can be drawn"
        raise BadSettings((problem + ": take a slice with between(), or thin it",))
    random = np.random.default_rng(seed)
    counts = random.poisson(series.requests)
    begin = float(series.t_s[0]) if len(series) else 0.0
    at = np.repeat(np.arange(len(series)), counts)
    arrival_s = (at + random.random(len(at))) * series.bin_s
    order = np.argsort(arrival_s, kind="stable")
    per_request = [
        np.divide(tokens, series.requests, out=np.zeros_like(tokens), where=series.requests > 0)
        for tokens in (series.prompt, series.output)
    ]
    prompt, output = (
        _around(means[at], None if mix is None else lengths, random)
        for means, lengths in zip(per_request, (mix.prompt, mix.output) if mix else (None, None), strict=True)
    )
    notes = [*series.notes, f"requests drawn per bin of {series.bin_s:g} s, seed {seed}"]
    notes += [f"time 0 is {begin:g} s of the series"] if begin else []
    return Workload(series.name, arrival_s[order], prompt, output, notes=tuple(notes), horizon_s=series.duration)


def _around(means: Floats, lengths: Lengths | None, random: np.random.Generator) -> Counts:
    """Token counts with these means; rounded up or down at random, so that small means hold as well."""
    values = means
    if lengths is not None:
        shape = draw_lengths(lengths, len(means), random)
        values = means * shape / (_mean(lengths) or 1.0)
    rounded: Counts = np.clip(np.floor(values + random.random(len(means))), 1, LARGEST_TOKENS).astype(np.int32)
    return rounded


def _mean(lengths: Lengths) -> float:
    """Mean of a log-normal cut at both ends, by its quantiles at the middles of 20,000 equal shares."""
    grid = (np.arange(20_000) + 0.5) / 20_000
    cut = np.clip(lengths.median * np.exp(lengths.sigma * ndtri(grid)), lengths.smallest, lengths.largest)
    return float(cut.mean())
