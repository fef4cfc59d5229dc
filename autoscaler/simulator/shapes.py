"""Shapes of load over time: each multiplies the rate of requests by a factor that varies around 1.

A shape says where its factor jumps (`edges`) and what the factor is at given times (`at`). Random shapes draw their
edges once; everything else is a formula. Times are seconds since the workload's start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from autoscaler.simulator.requests import Floats

_NONE = np.empty(0)
_MOST_SWITCHES = 2_000_000
_HIGHEST_PEAK = 20.0


class Shape(Protocol):
    """A factor on the rate over time."""

    def edges(self, duration: float, random: np.random.Generator, /) -> Floats:
        """Seconds at which the factor jumps, within the duration, in order."""
        ...

    def at(self, times: Floats, edges: Floats, /) -> Floats:
        """The factor at these times, given the edges."""
        ...


def _check(**rules: tuple[float, bool, str]) -> None:
    for name, (value, sound, rule) in rules.items():
        if not (math.isfinite(value) and sound):
            raise ValueError(f"{name} is {value:g}; it must be {rule}")


def _begins_within(duration: float, *times: float) -> None:
    late = [time for time in times if time >= duration]
    if late:
        raise ValueError(f"at is {late[0]:g}; the workload ends at {duration:g} seconds, before it")


@dataclass(frozen=True, slots=True)
class Diurnal:
    """A daily wave: exp(k cos(2 pi (t / period - phase) - pi)) / I0(k), with k such that peak over mean is `peak`.

    For small peaks it is a sinusoid; for larger ones the nights are long and flat, as they are in the traces (a plain
    sinusoid cannot have a peak above twice its mean). Its mean over whole periods (weeks, with a weekend) is 1.

    Attributes:
        peak: highest over mean rate of a week without weekend, 1..20. The code service of Azure 2024 has 3.16.
        period: seconds of a day.
        phase: share of a period by which the day starts later; 0: time 0 is the deepest night.
        weekend: factor on the sixth and seventh day against the other five.

    Raises:
        ValueError: a figure out of range, naming it.
    """

    peak: float = 3.0
    period: float = 86400.0
    phase: float = 0.0
    weekend: float = 1.0

    def __post_init__(self) -> None:
        _check(
            peak=(self.peak, 1 <= self.peak <= _HIGHEST_PEAK, "1..20, highest over mean rate"),
            period=(self.period, self.period > 0, "> 0 seconds"),
            phase=(self.phase, True, "a number"),
            weekend=(self.weekend, 0 <= self.weekend <= _HIGHEST_PEAK, "0..20, a factor"),
        )

    def edges(self, duration: float, _: np.random.Generator, /) -> Floats:
        """Ends of days, where a weekend makes a difference."""
        days = duration / self.period
        return np.arange(1, min(days, _MOST_SWITCHES)) * self.period if self.weekend != 1 else _NONE

    def at(self, times: Floats, _: Floats, /) -> Floats:
        """The wave times the day's factor."""
        sharpness = _sharpness(self.peak)
        angle = 2 * math.pi * (times / self.period - self.phase) - math.pi
        wave = np.exp(sharpness * np.cos(angle)) / np.i0(sharpness)
        week = np.where(np.floor(times / self.period) % 7 >= 5, self.weekend, 1.0)  # noqa: PLR2004 - days of the week
        factor: Floats = wave * week * 7 / (5 + 2 * self.weekend)
        return factor


def _sharpness(peak: float) -> float:
    """The k with exp(k) / I0(k) = peak, by bisection."""
    low, high = 0.0, 2.0 * _HIGHEST_PEAK**2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if math.exp(middle) / float(np.i0(middle)) < peak else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class OnOff:
    """A two-state Markov process: exponential times on and off, started in its equilibrium; mean factor 1.

    Defaults give on four times the mean rate in bursts of a minute: Azure's code trace has a minute of 4.1 times its
    mean and minutes without any request.

    Attributes:
        on: mean seconds on.
        off: mean seconds off.
        low: rate when off over mean rate, 0..1.

    Raises:
        ValueError: a figure out of range, naming it.
    """

    on: float = 60.0
    off: float = 180.0
    low: float = 0.0

    def __post_init__(self) -> None:
        _check(
            on=(self.on, self.on > 0, "> 0 seconds"),
            off=(self.off, self.off > 0, "> 0 seconds"),
            low=(self.low, 0 <= self.low <= 1, "0..1, the rate when off over the mean"),
        )

    def edges(self, duration: float, random: np.random.Generator, /) -> Floats:
        """Switches; the first is at 0 when it begins on, else when it first comes on."""
        if duration / (self.on + self.off) > _MOST_SWITCHES / 2:
            raise ValueError(f"on {self.on:g} and off {self.off:g} are too short for {duration:g} seconds")
        begins_on = bool(random.random() < self.on / (self.on + self.off))
        now = 0.0 if begins_on else float(random.exponential(self.off))
        switches, is_on = [], True
        while now < duration:
            switches.append(now)
            now += float(random.exponential(self.on if is_on else self.off))
            is_on = not is_on
        return np.array(switches)

    def at(self, times: Floats, edges: Floats, /) -> Floats:
        """High after an odd number of switches, low after an even one."""
        high = (self.on + self.off - self.off * self.low) / self.on
        factor: Floats = np.where(np.searchsorted(edges, times, side="right") % 2 == 1, high, self.low)
        return factor


@dataclass(frozen=True, slots=True)
class Ramp:
    """1, then linearly to `to` within `over` seconds from `at_s` on, and there it stays.

    Raises:
        ValueError: a figure out of range, naming it.
    """

    at_s: float = 600.0
    over: float = 600.0
    to: float = 4.0

    def __post_init__(self) -> None:
        _check(
            at=(self.at_s, self.at_s >= 0, ">= 0 seconds"),
            over=(self.over, self.over > 0, "> 0 seconds"),
            to=(self.to, self.to >= 0, "a factor >= 0"),
        )

    def edges(self, duration: float, _: np.random.Generator, /) -> Floats:
        """Its two corners."""
        _begins_within(duration, self.at_s)
        return np.array([self.at_s, self.at_s + self.over])

    def at(self, times: Floats, _: Floats, /) -> Floats:
        """Linear between the corners."""
        return 1.0 + (self.to - 1.0) * np.clip((times - self.at_s) / self.over, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Step:
    """1, then from each of the times on the factor beside it.

    Raises:
        ValueError: times out of order, as many factors as times missing, a figure out of range.
    """

    at_s: tuple[float, ...] = (600.0,)
    to: tuple[float, ...] = (3.0,)

    def __post_init__(self) -> None:
        if len(self.at_s) != len(self.to) or list(self.at_s) != sorted(set(self.at_s)):
            raise ValueError(f"at has {len(self.at_s)} times, to {len(self.to)} factors; as many, times in order")
        for time, factor in zip(self.at_s, self.to, strict=True):
            _check(at=(time, time >= 0, ">= 0 seconds"), to=(factor, factor >= 0, "a factor >= 0"))

    def edges(self, duration: float, _: np.random.Generator, /) -> Floats:
        """The steps."""
        _begins_within(duration, *self.at_s)
        return np.array(self.at_s)

    def at(self, times: Floats, edges: Floats, /) -> Floats:
        """The factor of the last step passed."""
        factor: Floats = np.array([1.0, *self.to])[np.searchsorted(edges, times, side="right")]
        return factor


@dataclass(frozen=True, slots=True)
class Spike:
    """`height` times the rate for `width` seconds from `at_s` on, once or again after each `every` seconds.

    Raises:
        ValueError: a figure out of range, naming it.
    """

    at_s: float = 600.0
    height: float = 10.0
    width: float = 60.0
    every: float | None = None

    def __post_init__(self) -> None:
        _check(
            at=(self.at_s, self.at_s >= 0, ">= 0 seconds"),
            height=(self.height, self.height >= 0, "a factor >= 0"),
            width=(self.width, self.width > 0, "> 0 seconds"),
        )
        if self.every is not None:
            _check(every=(self.every, self.every > self.width, f"more seconds than the width {self.width:g}"))

    def edges(self, duration: float, _: np.random.Generator, /) -> Floats:
        """Beginnings and ends."""
        _begins_within(duration, self.at_s)
        count = 1
        if self.every is not None:
            count = math.ceil((duration - self.at_s) / self.every)
        if count > _MOST_SWITCHES:
            raise ValueError(f"every is {self.every:g}; too short for {duration:g} seconds")
        starts = self.at_s + np.arange(count) * (self.every or 0.0)
        return np.sort(np.concatenate([starts, starts + self.width]))

    def at(self, times: Floats, edges: Floats, /) -> Floats:
        """High between a beginning and its end."""
        factor: Floats = np.where(np.searchsorted(edges, times, side="right") % 2 == 1, self.height, 1.0)
        return factor
