"""Load for the fluid simulation: requests/s, mean tokens and input-size classes in short bins of time.

A workload's bins say exactly how many requests of each size class came. Per-bin demand knows only means: input sizes
are then taken to be log-normal around them, with the spread that the Azure conversation trace has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.score import ttft_targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.setup import Slo

    Floats = NDArray[np.float64]

WORKLOAD_BIN_S = 5.0
"""Bins of a workload: about one request's stay in an engine, so that bursts of seconds are seen."""
DEMAND_STEP_S = 60.0
"""Longest step through per-bin demand; looks and changes of replicas make shorter ones."""
FINE_EDGES = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192)
"""Input sizes told apart in a workload, beside the targets' own classes."""
INPUT_SIGMA = 1.0
"""Standard deviation of the logarithm of input sizes, where only their mean is known (0.9 to 1.2 in public traces)."""
LEAST_CLASS = 1e-9
"""Share of requests below which a size class has nobody in it, and no mean."""
SQRT2 = math.sqrt(2.0)


class Shape(NamedTuple):
    """The requests of a bin: arrivals/s, tokens a request, size classes; `resident`: mean KV tokens while running."""

    rate: float
    prompt: float
    computed: float
    output: float
    classes: tuple[tuple[float, float, float], ...]
    resident: float


@dataclass(frozen=True, slots=True)
class FluidLoad:
    """Means per bin of `step_s`. Bins without requests have rate 0 and carry the shape of the one before.

    Attributes:
        name, notes, duration: of the source. requests: in all.
        rate: requests/s. prompt, computed, output: tokens a request; computed: without known prefix hits.
        classes: per bin, (share of requests, mean uncached input tokens, TTFT target in s) of each size class.
    """

    name: str
    notes: tuple[str, ...]
    duration: float
    step_s: float
    requests: float
    rate: list[float]
    prompt: list[float]
    computed: list[float]
    output: list[float]
    classes: list[tuple[tuple[float, float, float], ...]]

    def shapes(self) -> list[Shape]:
        """The requests of every bin, and last what the time after the load has: no arrivals."""
        parts = zip(self.rate, self.prompt, self.computed, self.output, self.classes, strict=True)
        found = [Shape(*part, part[1] + part[3] / 2) for part in parts]
        return [*found, found[-1]._replace(rate=0.0)]


def fluid_load(source: Workload | DemandSeries, slo: Slo) -> FluidLoad:
    """Requests one by one, or demand per bin, as a fluid."""
    if isinstance(source, DemandSeries):
        return _of_demand(source, slo)
    return _of_workload(source, slo)


def _of_workload(source: Workload, slo: Slo) -> FluidLoad:
    bins = max(1, math.ceil(source.duration / WORKLOAD_BIN_S))
    where = np.minimum((source.arrival_s / WORKLOAD_BIN_S).astype(np.int64), bins - 1)
    computed = source.prompt - (0 if source.cached is None else source.cached)
    edges = np.array(sorted({*FINE_EDGES, *(edge for edge, _ in slo.ttft_s)}))
    limits = ttft_targets(np.array([0, *edges]), slo).tolist()
    kind = np.searchsorted(edges, source.prompt, side="right")
    size = len(limits)
    count = np.bincount(where, minlength=bins).astype(np.float64)
    each = np.bincount(where * size + kind, minlength=bins * size).reshape(bins, size)
    tokens = np.bincount(where * size + kind, weights=computed, minlength=bins * size).reshape(bins, size)
    shares = each / np.maximum(count, 1.0)[:, None]
    means = tokens / np.maximum(each, 1)
    classes = [
        tuple((share, mean, limit) for share, mean, limit in zip(row, mid, limits, strict=True) if share > 0)
        for row, mid in zip(shares.tolist(), means.tolist(), strict=True)
    ]
    return FluidLoad(
        source.name,
        source.notes,
        source.duration,
        WORKLOAD_BIN_S,
        float(len(source)),
        (count / WORKLOAD_BIN_S).tolist(),
        _mean(np.bincount(where, weights=source.prompt, minlength=bins), count),
        _mean(np.bincount(where, weights=computed, minlength=bins), count),
        _mean(np.bincount(where, weights=source.output, minlength=bins), count),
        classes,
    )


def _of_demand(source: DemandSeries, slo: Slo) -> FluidLoad:
    parts = max(1, math.ceil(source.bin_s / DEMAND_STEP_S))
    prompt = _mean(source.prompt, source.requests)
    output = _mean(source.output, source.requests)
    limits = [(math.log(edge), limit) for edge, limit in slo.ttft_s]
    classes = [_log_normal_classes(mean, limits, slo.ttft_longest_s) for mean in prompt]

    def fine(values: list[float]) -> list[float]:
        return [value for value in values for _ in range(parts)]

    return FluidLoad(
        source.name,
        source.notes,
        source.duration,
        source.bin_s / parts,
        float(source.requests.sum()),
        fine((source.requests / source.bin_s).tolist()),
        fine(prompt),
        fine(prompt),
        fine(output),
        [one for one in classes for _ in range(parts)],
    )


def _mean(amount: NDArray[Any], count: Floats) -> list[float]:
    """Amount per request; where there is none, what was last seen, and before the first what is seen first."""
    present = count > 0
    if not present.any():
        return [1.0] * len(count)
    means = np.where(present, amount / np.where(present, count, 1.0), 0.0)
    last = np.maximum.accumulate(np.where(present, np.arange(len(count)), -1))
    filled: list[float] = means[np.where(last < 0, int(np.argmax(present)), last)].tolist()
    return [max(value, 1.0) for value in filled]


def _log_normal_classes(
    mean: float, limits: Sequence[tuple[float, float]], longest_s: float
) -> tuple[tuple[float, float, float], ...]:
    """Shares and conditional means of a log-normal's pieces, with their targets.

    With mu = ln(mean) - sigma^2/2 and z = (ln x - mu)/sigma, the share below x is Phi(z), its part of the mean
    Phi(z - sigma); Phi(z) = (1 + erf(z / sqrt 2)) / 2.

    Args:
        mean: tokens.
        limits: (logarithm of the size below which it holds, TTFT target in s), ascending.
        longest_s: the target of what is longer.
    """
    mu = math.log(max(mean, 1.0)) - INPUT_SIGMA * INPUT_SIGMA / 2
    found = []
    below = part = 0.0
    for edge, limit in limits:
        z = (edge - mu) / INPUT_SIGMA
        share, piece = 0.5 * (1.0 + math.erf(z / SQRT2)), 0.5 * (1.0 + math.erf((z - INPUT_SIGMA) / SQRT2))
        if share - below > LEAST_CLASS:
            found.append((share - below, mean * (piece - part) / (share - below), limit))
        below, part = share, piece
    if 1.0 - below > LEAST_CLASS:
        found.append((1.0 - below, mean * (1.0 - part) / (1.0 - below), longest_s))
    return tuple(found)
