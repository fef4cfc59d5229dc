"""The load as days of history show it: the ensemble of forecasters on ten-minute bins, kept going by the tick.

The minutes kept of each load are merged into bins as these end, and stepped some at a time (`forecasting.staggered`),
so that no tick waits for it. What it says is one of two candidates in `foresight.bounds`; with less than a day of
history, while it has not caught up, or beyond its longest horizon, it says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from autoscaler.model import Role
from forecasting.league import DEFAULT, named
from forecasting.online import Grid
from forecasting.staggered import Crowd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.memory import RoleMemory
    from autoscaler.model import RoleKey
    from autoscaler.rules import Rules
    from forecasting.series import Series
    from forecasting.staggered import Outlook

QUANTILES = (0.5, 0.85, 0.95, 0.99)
"""The median, from which the width is measured, and those that prices ask for; others lie between."""
GRID = Grid(600.0, horizons=(1, 2, 3, 6), quantiles=QUANTILES)
"""Up to an hour ahead, in bins as wide as the evidence on production loads."""
LEAST_PER_BIN = 2
"""Bins of the short history that one of these must hold at least."""
LEAST_SHARE = 0.5
"""... and this share of them must have been observed."""
PROMPTS, OUTPUTS = "prompts", "outputs"
KINDS = {Role.PREFILL: (PROMPTS,), Role.DECODE: (OUTPUTS,), Role.COLOCATED: (PROMPTS, OUTPUTS)}
"""Which of its loads a role is sized by."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What the ensemble says of one moment: the load by quantile, and bins of history behind it."""

    by_quantile: tuple[float, ...]
    bins: float

    def bound(self, quantile: float, width: float) -> float:
        """The bound at a quantile, its distance from the median taken `width` times; never below 0."""
        median = self.by_quantile[0]
        place, share = _between(quantile)
        lower, upper = self.by_quantile[place], self.by_quantile[place + 1]
        return max(0.0, median + width * (lower + share * (upper - lower) - median))


@lru_cache(maxsize=256)
def _between(quantile: float) -> tuple[int, float]:
    """Where a quantile lies in `QUANTILES`: linearly in the normal deviate, beyond the ends as well."""
    place = min(max(int(np.searchsorted(QUANTILES, quantile)) - 1, 0), len(QUANTILES) - 2)
    low, high = ndtri(QUANTILES[place]), ndtri(QUANTILES[place + 1])
    return place, float((ndtri(quantile) - low) / (high - low))


def name_of(key: RoleKey, kind: str) -> str:
    """A load's name in the crowd."""
    return f"{key}#{kind}"


def nobody() -> Crowd:
    """The crowd before anything was heard."""
    return Crowd(GRID)


def followed(crowd: Crowd, roles: Mapping[RoleKey, RoleMemory], rules: Rules, at: float) -> Crowd:
    """The crowd after another tick: the bins that are over, and some of the work that waits.

    Args:
        crowd: so far.
        roles: what is remembered of each role, brought up to date.
        rules: whose roles are followed; none where `rules.days` is off or its bins are too wide.
        at: now, Unix seconds.
    """
    if not rules.days or rules.bin_s * LEAST_PER_BIN > GRID.step_s:
        return crowd
    loads = _Loads(
        {name_of(rule.key, kind): (rule.key, kind) for rule in rules.roles for kind in KINDS[rule.key.role]}, roles
    )
    crowd = crowd.laid_out(tuple(loads.names))
    return crowd.heard(math.floor(at / GRID.step_s) - 1, loads.mean).worked(named(DEFAULT))


@dataclass(frozen=True, slots=True)
class _Loads:
    """The loads by their names in the crowd."""

    names: Mapping[str, tuple[RoleKey, str]]
    roles: Mapping[RoleKey, RoleMemory]

    def mean(self, name: str, bin_: int) -> float | None:
        """Mean load in one of the crowd's bins; None where too little of it was observed."""
        key, kind = self.names.get(name, (None, ""))
        known = self.roles.get(key) if key is not None else None
        if known is None:
            return None
        return bin_mean(known.prompt_load if kind == PROMPTS else known.output_load, bin_)


def bin_mean(series: Series, bin_: int) -> float | None:
    """Mean of a series over a bin of the grid; None where less than half of it was observed."""
    start, end = bin_ * GRID.step_s, (bin_ + 1) * GRID.step_s
    first, last = np.searchsorted(series.bins, (math.ceil(start / series.bin_s), math.ceil(end / series.bin_s)))
    if last - first < LEAST_SHARE * GRID.step_s / series.bin_s:
        return None
    return float(series.values[first:last].mean())


def silence(outlook: Outlook | None) -> str:
    """Why nothing is said, in words."""
    if outlook is None:
        return "the ensemble has not caught up with the history"
    if outlook.seen < GRID.day:
        return f"the ensemble has {outlook.seen:.0f} of the {GRID.day} bins it needs"
    return "the ensemble does not see so far"


def ahead(outlook: Outlook | None, at: float) -> Ahead | None:
    """What is said of a moment; None where nothing is: too little history, or too far ahead."""
    if outlook is None or outlook.seen < GRID.day:
        return None
    bounds = outlook.at(at)
    return None if bounds is None else Ahead(tuple(bounds), outlook.seen)
