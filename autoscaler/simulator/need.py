"""Replicas that a load needs, by the real profile's velocity: to begin with, and to compare with what there was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.policies.static_counts import replicas_for
from autoscaler.simulator.requests import DemandSeries

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoscaler.model import Role
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.scenes import Stage

    Floats = NDArray[np.float64]
    Counts = NDArray[np.int64]

OPENING_S = 300.0
"""The replicas ready at the start are those that the mean load of so long needs."""
NEED_S = 60.0
"""What is needed at a time is taken from the arrivals of so long around it."""


@dataclass(frozen=True, slots=True)
class Sums:
    """A load's requests, uncached prompt and output tokens up to any time: piecewise linear between `times`."""

    times: Floats
    requests: Floats
    prompt: Floats
    output: Floats

    @classmethod
    def of(cls, load: Workload | DemandSeries, pace_s: float = 0.0) -> Sums:
        """The running sums of a load.

        Args:
            load: requests or demand.
            pace_s: output tokens come one by one so many seconds apart from the arrival on, not all at once; demand per
                bin knows no single requests, so its outputs stay in their bin.
        """
        if isinstance(load, DemandSeries):
            times = np.concatenate([load.t_s, load.t_s[-1:] + load.bin_s])
            parts = (load.requests, load.prompt, load.output)
            return cls(times, *(np.concatenate([[0.0], np.cumsum(part)]) for part in parts))
        computed = load.prompt - (0 if load.cached is None else load.cached)
        grid = np.arange(0.0, load.duration + 1.0, 1.0)
        upto = np.searchsorted(load.arrival_s, grid, side="right")
        upto[0] = 0  # what comes at time 0 belongs to the first second, or no window would hold it
        prompt = np.concatenate([[0.0], np.cumsum(computed, dtype=np.float64)])
        if pace_s > 0:
            ends = load.arrival_s + load.output * pace_s
            paced = (_elapsed(load.arrival_s, grid) - _elapsed(np.sort(ends), grid)) / pace_s
            return cls(grid, upto.astype(np.float64), prompt[upto], paced)
        output = np.concatenate([[0.0], np.cumsum(load.output, dtype=np.float64)])
        return cls(grid, upto.astype(np.float64), prompt[upto], output[upto])

    def within(self, start: Floats, end: Floats) -> tuple[Floats, Floats, Floats]:
        """Requests, prompt and output tokens that arrive in each window."""
        parts = (self.requests, self.prompt, self.output)
        requests, prompt, output = (np.interp(end, self.times, p) - np.interp(start, self.times, p) for p in parts)
        return requests, prompt, output


def _elapsed(moments: Floats, grid: Floats) -> Floats:
    """Seconds since all moments (ascending) before each time of the grid, together."""
    count = np.searchsorted(moments, grid, side="right")
    total: Floats = count * grid - np.concatenate([[0.0], np.cumsum(moments)])[count]
    return total


def needed_replicas(load: Workload | DemandSeries, staged: Stage, bin_s: float) -> dict[Role, Counts]:
    """By role, per bin: what the arrivals of the minute (or the bin) around it need, within the role's bounds."""
    bins = max(1, int(np.ceil(load.duration / bin_s - 1e-9)))  # 604,800 / 151.2 is 4,000, not a hair more
    middle = (np.arange(bins) + 0.5) * bin_s
    half = max(NEED_S, bin_s) / 2
    start, end = np.maximum(middle - half, 0.0), np.minimum(middle + half, max(load.duration, half))
    requests, prompt, output = Sums.of(load).within(start, end)
    return {role: _counts(staged, role, requests, (prompt, output), end - start) for role in staged.roles}


def _counts(staged: Stage, role: Role, requests: Floats, tokens: tuple[Floats, Floats], over: Floats) -> Counts:
    rule = next(rule for rule in staged.scene.roles if rule.key.role is role)
    many = np.maximum(requests, 1e-9)
    counts = [
        replicas_for(rule, rate, prompt, output) if rate * span >= 0.5 else rule.minimum  # noqa: PLR2004 - under one request
        for rate, prompt, output, span in zip(
            (requests / over).tolist(),
            (tokens[0] / many).tolist(),
            (tokens[1] / many).tolist(),
            over.tolist(),
            strict=True,
        )
    ]
    return np.array(counts, dtype=np.int64)


def openings(load: Workload | DemandSeries, staged: Stage, initial: int | None) -> dict[Role, int]:
    """Replicas of each role at the start: as told, or what the opening's mean load needs (one at least)."""
    if initial is not None:
        return dict.fromkeys(staged.roles, initial)
    length = min(OPENING_S, load.duration)
    if length <= 0:
        return {rule.key.role: max(rule.minimum, 1) for rule in staged.scene.roles}
    amounts = Sums.of(load).within(np.zeros(1), np.full(1, length))
    found = {}
    for rule in staged.scene.roles:
        count = _counts(staged, rule.key.role, amounts[0], (amounts[1], amounts[2]), np.full(1, length))
        found[rule.key.role] = max(1, int(count[0]))
    return found
