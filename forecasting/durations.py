"""How long a step takes, learned start by start: a log-normal prior, then a mixture of log-normals that forgets.

    ln T = m + g ln k + noise      k starts at once share a source: g = 0 not at all, g = 1 wholly (k times as long)

The noise is one log-normal or two, weighed by the Bayesian information criterion: starts that find the image in place
and starts that pull it are two populations, and one log-normal through both puts the 90th percentile anywhere (of 20
starts from each of ten mixtures the p90 was within 20 % of the true one in 69 % of cases; with the weighed pair in
82 %, with the sample quantile in 77 %). The prior's share is 9 / (9 + n^2): half after three starts, 2 % after twenty.
Older starts fade by `FADE` each, so that slow drift is followed. A jump is looked for at every start: the move of the
earlier starts' density that makes the newest ones likeliest. What lies before it keeps its shape, moved by the jump and
with the weight of `CARRIED` starts at most, because a new disk changes how long weights take and not that some nodes
lack the image.

After 20 starts of six mixtures the p90 is within 20 % of the true one in 92 % of cases, and 10 starts after all began
to take half or twice as long in 63 % (`python bench/forecasting.py --starts`). By maximum likelihood, the population
of each start known, it would be 93 % and, from those 10 alone, 75 %: the rest is chance.

    durations = saw(Durations(), prior, seconds=48.0)
    predicted(durations, prior).quantile(0.9)
    total([predicted(d, p) for d, p in steps]).quantile(0.9)   # of the whole lead time
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Z90 = 1.2815515655446004
"""Standard normal deviate of the 90th percentile."""
SHORTEST_S = 0.01
"""Anything faster counts as this: a step that did not happen takes no time, and zero has no logarithm."""
LONGEST_S = 1e6
"""Eleven days; a start that is said to have taken longer is garbage."""
KEPT = 64
"""Starts remembered; with FADE the oldest weighs 0.28."""
FADE = 0.98
"""Weight left of a start after another one."""
CARRIED = 10.0
"""After a jump, what lay before it weighs as much as this many starts at most, its place moved by the jump."""
JUMP_GAIN = 5.5
"""Gain in log-likelihood from which a move is a jump; a false one costs little, since the shape is kept. At 7 a move is
found within ten starts in 70 % of cases, at 5.5 in 80 %; at 4 in 88 %, but a steady service jumps twice as often."""
MOVES = np.linspace(-3.0, 3.0, 61)
"""Moves of the logarithm that are tried: a factor of 1/20 to 20 in steps of 10 %."""
AFTER = (4, 6, 8, 11, 16)
"""Newest starts that are held against those before them."""
LEAST_BEFORE = 8
_KNOTS = np.linspace(-5.0, 5.0, 81)
PRIOR_STARTS = 3.0
"""Starts after which the prior and the data weigh the same."""
SHARING_SD = 0.3
"""Of the prior's contention exponent."""
FLOOR_VARIANCE = 0.06
"""Of the logarithm within one of two populations before any start was seen (sd 0.24): weighs as two starts."""
LEAST_PAIR = 5
"""Starts before two populations are thought of."""
ROUNDS = 30
SETTLED = 1e-3
"""Change of the share after which another round would say the same."""
POINTS = 48
"""Equally likely values that stand for a distribution when sums are taken."""


@dataclass(frozen=True, slots=True)
class DurationPrior:
    """What to expect before the first start: median and 90th percentile in seconds, and how starts share (g above)."""

    p50_s: float
    p90_s: float
    sharing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        if not (0 < self.p50_s <= self.p90_s < math.inf):
            raise ValueError(f"median {self.p50_s} s and 90th percentile {self.p90_s} s must be positive and not fall")
        if not 0 <= self.sharing <= 2:  # noqa: PLR2004 - k starts never take longer than k squared times one
            raise ValueError(f"sharing {self.sharing} must be between 0 (starts do not share) and 2")

    @property
    def mu(self) -> float:
        """Mean of the logarithm."""
        return math.log(max(self.p50_s, SHORTEST_S))

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm."""
        return math.log(self.p90_s / self.p50_s) / Z90


@dataclass(frozen=True, slots=True)
class Durations:
    """The starts remembered of one step, oldest first.

    Attributes:
        logs: natural logarithm of each one's seconds, those from before a jump moved by it.
        together: natural logarithm of how many started at once.
        weights: of each before fading by age, 1 except for what was carried over a jump.
        count: starts ever seen. jumps: sudden changes ever found.
    """

    logs: tuple[float, ...] = ()
    together: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    count: int = 0
    jumps: int = 0


@dataclass(frozen=True, slots=True)
class Mixture:
    """A distribution of seconds: log-normals with their weights (which sum to 1), means and deviations of the log."""

    weights: tuple[float, ...]
    mus: tuple[float, ...]
    sigmas: tuple[float, ...]

    def quantile(self, quantile: float) -> float:
        """Seconds not exceeded with this probability. Raises ValueError unless it is strictly between 0 and 1."""
        if not 0 < quantile < 1:
            raise ValueError(f"quantile {quantile} must lie strictly between 0 and 1")
        return float(self._quantiles(np.array([quantile]))[0])

    def points(self, count: int = POINTS) -> Floats:
        """Equally likely values: the medians of `count` slices of the same probability, ascending, seconds.

        Between knots at eighths of each population's deviation, linearly in the logarithm: within 0.2 %.
        """
        weights, mus, sigmas = (np.array(each) for each in (self.weights, self.mus, self.sigmas))
        sigmas = np.maximum(sigmas, 1e-9)
        knots = np.sort((mus + sigmas * _KNOTS[:, None]).ravel())
        below = (weights * ndtr((knots[:, None] - mus) / sigmas)).sum(axis=1)
        found: Floats = np.exp(np.interp((np.arange(count) + 0.5) / count, below, knots))
        return found

    def _quantiles(self, quantiles: Floats) -> Floats:
        """By bisection of the logarithm, 50 halvings: exact to 1e-13 of the span."""
        weights, mus, sigmas = (np.array(each) for each in (self.weights, self.mus, self.sigmas))
        sigmas = np.maximum(sigmas, 1e-9)
        ends = mus + sigmas * ndtri(quantiles)[:, None]
        low, high = ends.min(axis=1), ends.max(axis=1)
        for _ in range(50):
            middle = (low + high) / 2
            below = (weights * ndtr((middle[:, None] - mus) / sigmas)).sum(axis=1) < quantiles
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        found: Floats = np.exp((low + high) / 2)
        return found


@dataclass(frozen=True, slots=True)
class Empirical:
    """A distribution as equally likely values, ascending, seconds."""

    values: tuple[float, ...]

    def quantile(self, quantile: float) -> float:
        """Seconds not exceeded with this probability, between the values linearly.

        Raises:
            ValueError: it is not strictly between 0 and 1.
        """
        if not 0 < quantile < 1:
            raise ValueError(f"quantile {quantile} must lie strictly between 0 and 1")
        places = (np.arange(len(self.values)) + 0.5) / len(self.values)
        return float(np.interp(quantile, places, self.values))


def saw(durations: Durations, prior: DurationPrior, seconds: float, together: int = 1) -> Durations:
    """What is known after one more start.

    Args:
        durations: so far.
        prior: for the contention exponent, which is taken out before a jump is looked for.
        seconds: it took; less than `SHORTEST_S` counts as that, and what is not finite, negative or above `LONGEST_S`
            is left out.
        together: starts under way at the same time, this one included.
    """
    if not 0 <= seconds <= LONGEST_S:
        return durations
    logs = (*durations.logs, math.log(max(seconds, SHORTEST_S)))[-KEPT:]
    shared = (*durations.together, math.log(max(together, 1)))[-KEPT:]
    weights = (*durations.weights, 1.0)[-KEPT:]
    grown = Durations(logs, shared, weights, durations.count + 1, durations.jumps)
    return _after_jump(grown, prior)


def _after_jump(durations: Durations, prior: DurationPrior) -> Durations:
    """The same, with what lies before a sudden change moved by it and weighing little."""
    found = _jump(durations, prior)
    if found is None:
        return durations
    place, moved = found
    before = sum(durations.weights[:place])
    lighter = min(1.0, CARRIED / before)
    logs = (*(each + moved for each in durations.logs[:place]), *durations.logs[place:])
    weights = (*(each * lighter for each in durations.weights[:place]), *durations.weights[place:])
    return Durations(logs, durations.together, weights, durations.count, durations.jumps + 1)


def _jump(durations: Durations, prior: DurationPrior) -> tuple[int, float] | None:
    """Where the newest starts jumped away from those before, and by how much (of the logarithm); None: they did not."""
    logs, _ = _alone(durations, prior)
    size = len(logs)
    best, found = JUMP_GAIN, None
    for after in AFTER:
        if size - after < LEAST_BEFORE:
            break
        place = size - after
        weights = np.array(durations.weights[:place])
        if weights.sum() < LEAST_BEFORE:
            continue
        if _too_near(logs[:place], weights, logs[place:]):
            continue
        gains = _gains(logs[:place], weights, logs[place:])
        index = int(gains.argmax())
        if gains[index] > best:
            best, found = float(gains[index]), (place, float(MOVES[index]))
    return found


def _too_near(before: Floats, weights: Floats, after: Floats) -> bool:
    """Whether a jump is out of the question: it spares four in five of the kernel estimates, which cost 0.5 ms each.

    For a normal density the best move of n values whose mean lies d from the centre gains n d^2 / (2 deviation^2);
    densities with two modes gain more, hence half of what is asked for is enough to look closer.
    """
    total = float(weights.sum())
    centre = float(weights @ before) / total
    spread = float(weights @ (before - centre) ** 2) / total
    away = float(after.sum()) / len(after) - centre
    return len(after) * away * away < JUMP_GAIN * max(spread, 0.05**2)


def _gains(before: Floats, weights: Floats, after: Floats) -> Floats:
    """By how much each move of the density of `before` raises the log-likelihood of `after`.

    The density is a kernel estimate with the width of Silverman's rule (from the smaller of deviation and quartile
    range, at least 0.05), and one part in twenty of a wide normal, so that one outlier is no proof.
    """
    centre = np.average(before, weights=weights)
    deviation = math.sqrt(float(np.average((before - centre) ** 2, weights=weights)))
    low, high = np.quantile(before, [0.25, 0.75])
    width = 0.9 * min(deviation, float(high - low) / 1.34 or deviation) * len(before) ** -0.2
    width = max(width, 0.05)
    away = after[None, :] - MOVES[:, None]
    kernels = np.exp(-(((away[:, :, None] - before) / width) ** 2) / 2) @ (weights / weights.sum()) / width
    wide = np.exp(-(((away - centre) / (3 * deviation + 0.3)) ** 2) / 2) / (3 * deviation + 0.3)
    told = np.log(0.95 * kernels + 0.05 * wide).sum(axis=1)
    gains: Floats = told - told[len(MOVES) // 2]
    return gains


def _alone(durations: Durations, prior: DurationPrior) -> tuple[Floats, float]:
    """The logarithms as if each had started alone, and the exponent g: ridge regression towards the prior's."""
    logs, together = np.array(durations.logs), np.array(durations.together)
    weights = _weights(durations)
    x = together - np.average(together, weights=weights)
    y = logs - np.average(logs, weights=weights)
    across, spread = float((weights * x * y).sum()), float((weights * x * x).sum())
    left = y - (across / spread if spread > 0 else 0.0) * x
    trust = max(float(np.average(left * left, weights=weights)), 0.01) / SHARING_SD**2
    g = (across + trust * prior.sharing) / (spread + trust)
    g = min(max(g, 0.0), 2.0)
    return logs - g * together, g


def _weights(durations: Durations) -> Floats:
    ages = np.arange(len(durations.logs))[::-1]
    faded: Floats = np.array(durations.weights) * FADE**ages
    return faded


@lru_cache(maxsize=16_384)
def predicted(durations: Durations, prior: DurationPrior, together: int = 1) -> Mixture:
    """How long the next start's step takes, when `together` start at once."""
    shared = math.log(max(together, 1))
    if not durations.logs:
        return Mixture((1.0,), (prior.mu + prior.sharing * shared,), (prior.sigma,))
    logs, g = _alone(durations, prior)
    weights = _weights(durations)
    count = float(weights.sum() ** 2 / (weights**2).sum())
    old = PRIOR_STARTS**2 / (PRIOR_STARTS**2 + count**2)
    one = _one(logs, weights, prior)
    pair, likelier = _pair(logs, weights, count)
    share = (1.0 - old) * (1.0 - likelier)
    parts = [(old, prior.mu, prior.sigma), (share, *one)]
    parts += [((1.0 - old) * likelier * each[0], each[1], each[2]) for each in pair]
    parts = [each for each in parts if each[0] > 0]
    whole = sum(each[0] for each in parts)
    return Mixture(
        tuple(each[0] / whole for each in parts),
        tuple(each[1] + g * shared for each in parts),
        tuple(each[2] for each in parts),
    )


def _one(logs: Floats, weights: Floats, prior: DurationPrior) -> tuple[float, float]:
    """One log-normal: mean and deviation, the prior's deviation counting as one start."""
    total = float(weights.sum())
    mu = float(np.average(logs, weights=weights))
    squares = float((weights * (logs - mu) ** 2).sum())
    # n starts around their own mean have n - 1 squares' worth of spread
    return mu, math.sqrt((squares + prior.sigma**2) / total)


def _pair(logs: Floats, weights: Floats, count: float) -> tuple[list[tuple[float, float, float]], float]:
    """Two log-normals by expectation maximisation, and the probability that they are two rather than one."""
    if len(logs) < LEAST_PAIR or float(np.ptp(logs)) < SHORTEST_S:
        return [], 0.0
    weights = weights * (count / weights.sum())
    middle = len(logs) // 2
    order = np.argsort(logs)
    m1, m2 = float(logs[order[:middle]].mean()), float(logs[order[middle:]].mean())
    centre = float(np.average(logs, weights=weights))
    variance = max(float(np.average((logs - centre) ** 2, weights=weights)), 1e-6)
    v1 = v2 = variance / 4
    share = 0.5
    floor = min(FLOOR_VARIANCE, variance)
    for _ in range(ROUNDS):
        a, b = share * _density(logs, m1, v1), (1 - share) * _density(logs, m2, v2)
        first = weights * a / (a + b + 1e-300)
        second = weights - first
        n1, n2 = float(first.sum()) + 1e-9, float(second.sum()) + 1e-9
        before, share = share, (n1 + 1) / (count + 2)
        m1, m2 = float((first * logs).sum()) / n1, float((second * logs).sum()) / n2
        v1 = (float((first * (logs - m1) ** 2).sum()) + 2 * floor) / (n1 + 2)
        v2 = (float((second * (logs - m2) ** 2).sum()) + 2 * floor) / (n2 + 2)
        if abs(share - before) < SETTLED:
            break
    both = share * _density(logs, m1, v1) + (1 - share) * _density(logs, m2, v2)
    gain = float((weights * (np.log(both + 1e-300) - np.log(_density(logs, centre, variance) + 1e-300))).sum())
    likelier = 1.0 / (1.0 + math.exp(min(700.0, 1.5 * math.log(count) - gain)))
    return [(share, m1, math.sqrt(v1)), (1 - share, m2, math.sqrt(v2))], likelier


def _density(logs: Floats, mean: float, variance: float) -> Floats:
    found: Floats = np.exp(-((logs - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
    return found


def total(steps: Sequence[Mixture]) -> Empirical:
    """Distribution of the sum of independent steps; of none, zero seconds."""
    values = np.zeros(1)
    for step in steps:
        sums = np.sort(np.add.outer(values, step.points()), axis=None)
        values = sums.reshape(POINTS, -1).mean(axis=1)
    return Empirical(tuple(values.tolist()))


@lru_cache(maxsize=16_384)
def whole(steps: tuple[tuple[Durations, DurationPrior], ...], quantile: float, together: int = 1) -> float:
    """Seconds within which all steps together are over with this probability, when `together` start at once."""
    return total([predicted(durations, prior, together) for durations, prior in steps]).quantile(quantile)
