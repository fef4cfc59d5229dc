"""Quantiles of many streams of residuals, old ones fading away: a histogram each instead of the residuals themselves.

Residuals come divided by their own mean size, so that one grid fits all: it is fine around 1 (7 % of the value) and
reaches to 37 mean sizes above and 5 below. A weak prior (Laplace) stands in for what has not been seen yet, the "+1" of
conformal prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecasting.series import Floats

    Singles = NDArray[np.float32]

BINS = 112
LOW, HIGH, UNIT = -3.0, 5.0, 0.5
"""Bins are even in asinh(residual / UNIT), from LOW to HIGH."""
PRIOR_WEIGHT = 8.0
"""Residuals the prior counts for."""

EDGES = UNIT * np.sinh(np.linspace(LOW, HIGH, BINS + 1))


def _laplace(x: Floats) -> Floats:
    return np.where(x < 0, 0.5 * np.exp(np.minimum(x, 0.0)), 1.0 - 0.5 * np.exp(-np.maximum(x, 0.0)))


_BELOW = np.concatenate(([0.0], _laplace(EDGES[1:-1]), [1.0]))
PRIOR = (PRIOR_WEIGHT * np.diff(_BELOW)).astype(np.float32)


def place(residuals: Floats) -> NDArray[np.int64]:
    """The bin each residual falls in."""
    where = (np.arcsinh(residuals / UNIT) - LOW) * (BINS / (HIGH - LOW))
    return np.clip(where, 0, BINS - 1).astype(np.int64)


def quantiles(histograms: Singles, levels: tuple[float, ...]) -> Floats:
    """Quantiles of histograms (last axis: bins), linear within a bin; a new last axis of one value per level."""
    below = np.cumsum(histograms + PRIOR, axis=-1)
    total = below[..., -1:]
    found = []
    for level in levels:
        wanted = level * total
        index = np.minimum((below < wanted).sum(axis=-1, keepdims=True), BINS - 1)
        upper = np.take_along_axis(below, index, axis=-1)
        lower = np.where(index > 0, np.take_along_axis(below, np.maximum(index - 1, 0), axis=-1), 0.0)
        inside = np.clip((wanted - lower) / np.maximum(upper - lower, 1e-9), 0.0, 1.0)
        found.append(EDGES[index] + inside * (EDGES[index + 1] - EDGES[index]))
    return np.concatenate(found, axis=-1)
