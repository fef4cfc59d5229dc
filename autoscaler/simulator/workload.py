"""Traffic for engines: a seeded stream of requests under a piecewise-linear rate. Pure; the same seed, the same stream.

Arrivals are a Poisson process of varying rate, made by time change: with unit-rate exponential gaps E1, E2, ... the
n-th request comes when the integral of the rate reaches E1 + ... + En. Nothing is thinned away, so that scaling the
rate while the stream runs moves requests in time but does not change their sizes.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class RateProfile:
    """Requests/s over time, linear between knots, flat before the first and after the last.

    Attributes:
        knots: (seconds since the start, requests/s), times not decreasing; two knots at one time make a jump.
        period: after so many seconds it begins again; None: it stays at the last rate.

    Raises:
        ValueError: no knots, times that go back, a rate that is negative or not finite, a period <= 0.
    """

    knots: tuple[tuple[float, float], ...]
    period: float | None = None

    def __post_init__(self) -> None:
        if not self.knots:
            raise ValueError("knots is empty; a rate profile needs at least one (seconds, requests/s)")
        for at, rate in self.knots:
            if not (math.isfinite(at) and math.isfinite(rate) and rate >= 0):
                raise ValueError(f"knot ({at}, {rate}) must be finite with a rate >= 0")
        times = [at for at, _ in self.knots]
        if times != sorted(times):
            raise ValueError(f"knots must be in order of time; got {times}")
        if self.period is not None and not (math.isfinite(self.period) and self.period > 0):
            raise ValueError(f"period is {self.period}; it must be > 0 seconds, or None")

    def at(self, seconds: float) -> float:
        """The rate (requests/s) that holds from `seconds` on."""
        return self._piece(seconds)[1]

    def _piece(self, seconds: float) -> tuple[float, float, float]:
        """From `seconds` to the next knot: (length, rate at its start, rate at its end); length may be infinite."""
        phase, wrap = seconds, math.inf
        if self.period is not None:
            phase = seconds % self.period
            wrap = self.period - phase
        index = bisect_right(self.knots, phase, key=lambda knot: knot[0])
        if index == 0:
            return min(self.knots[0][0] - phase, wrap), self.knots[0][1], self.knots[0][1]
        if index == len(self.knots):
            return wrap, self.knots[-1][1], self.knots[-1][1]
        (t0, r0), (t1, r1) = self.knots[index - 1], self.knots[index]
        slope = (r1 - r0) / (t1 - t0)
        start, length = r0 + slope * (phase - t0), min(t1 - phase, wrap)
        return length, start, max(0.0, start + slope * length)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal token counts.

    Attributes:
        median: tokens; the logarithm's mean is its logarithm.
        sigma: standard deviation of the logarithm; 0 makes every length the median.
        smallest: shorter ones are raised to this.
        largest: longer ones are cut to this.
    """

    median: float
    sigma: float
    smallest: int
    largest: int

    def __post_init__(self) -> None:
        if not (self.median > 0 and math.isfinite(self.median) and self.sigma >= 0 and math.isfinite(self.sigma)):
            raise ValueError(f"lengths need median > 0 and sigma >= 0; got {self.median} and {self.sigma}")
        if not 1 <= self.smallest <= self.largest:
            raise ValueError(f"lengths need 1 <= smallest <= largest; got {self.smallest} and {self.largest}")

    def draw(self, random: np.random.Generator) -> int:
        """One length in tokens."""
        value = self.median * math.exp(self.sigma * float(random.standard_normal()))
        return int(min(max(round(value), self.smallest), self.largest))


@dataclass(frozen=True, slots=True)
class RequestMix:
    """What requests look like.

    Attributes:
        prompt: prompt lengths.
        output: output lengths.
        cached_probability: share of requests whose prompt begins with a cached prefix.
        cached_share: how much of such a prompt is cached.
        cache_block: cached tokens come in multiples of this.
    """

    prompt: Lengths
    output: Lengths
    cached_probability: float = 0.0
    cached_share: float = 0.0
    cache_block: int = 16

    def __post_init__(self) -> None:
        for name in ("cached_probability", "cached_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0..1")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of the traffic: `at` in seconds since the stream's start, sizes in tokens."""

    at: float
    number: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int


class ArrivalStream:
    """The requests of one workload, handed out in order of time."""

    def __init__(self, rate: RateProfile, mix: RequestMix, seed: int) -> None:
        self.rate = rate
        self.mix = mix
        self.now = 0.0
        self._random = np.random.default_rng(seed)
        self._number = 0
        self._until_next = float(self._random.exponential())

    def until(self, seconds: float, factor: float = 1.0) -> list[Arrival]:
        """Requests arriving from the last call's time up to `seconds`, at `factor` times the profile's rate."""
        arrivals: list[Arrival] = []
        while self.now < seconds:
            length, start, end = self.rate._piece(self.now)  # noqa: SLF001 - the stream walks the profile's pieces
            slope = 0.0 if math.isinf(length) else (end - start) / length
            length = min(length, seconds - self.now)
            step = _time_to_area(start * factor, slope * factor, self._until_next)
            if step <= length:
                self.now += step
                arrivals.append(self._draw())
            else:
                self._until_next -= factor * (start + slope * length / 2) * length
                # A knot closer than the clock's resolution must not stop the walk.
                self.now = max(self.now + length, math.nextafter(self.now, math.inf))
        return arrivals

    def _draw(self) -> Arrival:
        mix, random = self.mix, self._random
        prompt, output = mix.prompt.draw(random), mix.output.draw(random)
        cached = 0
        if random.random() < mix.cached_probability:
            most = min(round(prompt * mix.cached_share), prompt - 1)
            cached = most // mix.cache_block * mix.cache_block
        arrival = Arrival(self.now, self._number, prompt, output, cached)
        self._number += 1
        self._until_next = float(random.exponential())
        return arrival


def _time_to_area(start: float, slope: float, area: float) -> float:
    """Smallest t with start*t + slope*t^2/2 = area; infinite if a falling rate never gets there."""
    root = start * start + 2 * slope * area
    if root < 0:
        return math.inf
    # The form 2A / (r + sqrt(r^2 + 2sA)) does not cancel when the slope is near 0.
    below = start + math.sqrt(root)
    return 2 * area / below if below > 0 else math.inf
