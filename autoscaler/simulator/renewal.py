"""Renewal processes of unit rate, the raw material of arrivals: positions on a line with on average one per unit.

Arrivals at a varying rate r(t) come by time change: the n-th is at the t where the integral of r reaches the n-th
position. With coefficient of variation 1 that is a Poisson process; with more it is bursty, with 0 a metronome.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autoscaler.simulator.requests import Floats

_REGULAR_CV = 1e-3
"""Below this the gaps are taken as equal; the Gamma's shape 1/cv^2 would be a million."""


def first_wait(cv: float, random: np.random.Generator) -> float:
    """Distance to the first point, seen from an arbitrary place, so that every stretch has its fair count on average.

    The gap that covers an arbitrary place is length-biased: a Gamma gap of shape k has shape k + 1 there, and the
    place lies uniformly in it.
    """
    if cv < _REGULAR_CV:
        return float(random.random())
    shape = 1.0 / cv**2
    return float(random.random() * random.gamma(shape + 1.0) / shape)


def points(length: float, cv: float, wait: float, random: np.random.Generator) -> tuple[Floats, float]:
    """Positions in [0, length) of a process whose next point is `wait` ahead, and the wait left beyond `length`.

    Gaps are Gamma distributed with mean 1 and standard deviation `cv`.
    """
    if wait >= length:
        return np.empty(0), wait - length
    parts, last = [np.array([wait])], wait
    while last < length:
        ahead = length - last
        count = int(ahead + 4 * cv * math.sqrt(ahead)) + 8
        part = last + np.cumsum(_gaps(count, cv, random))
        parts.append(part)
        last = float(part[-1])
    positions = np.concatenate(parts)
    within = int(np.searchsorted(positions, length))
    return positions[:within], float(positions[within]) - length


def _gaps(count: int, cv: float, random: np.random.Generator) -> Floats:
    if cv < _REGULAR_CV:
        return np.ones(count)
    if cv == 1.0:
        return random.exponential(size=count)
    shape = 1.0 / cv**2
    return random.gamma(shape, 1.0 / shape, size=count)
