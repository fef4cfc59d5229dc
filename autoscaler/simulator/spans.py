"""Spans of steps that only decode: how long k of them take, how many end by a time, and which sequence ends first.

The first step takes `first` seconds and each further one `growth` more: k*first + growth*k*(k - 1)/2 together.
"""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoscaler.simulator.job import Job


class Told(NamedTuple):
    """An engine's gauges: requests in the batch, requests queued, KV blocks taken."""

    running: int
    waiting: int
    blocks: int


class SoFar(NamedTuple):
    """Inside a span: decode tokens made, their request-seconds, steps ended, KV blocks entered."""

    tokens: int
    seconds: float
    steps: int
    blocks: int


NOTHING: Final = SoFar(0, 0.0, 0, 0)
_SHIFT: Final = 32
_MASK: Final = (1 << _SHIFT) - 1


def span_seconds(steps: int, first: float, growth: float) -> float:
    """Seconds that so many steps take."""
    return steps * first + growth * (steps * (steps - 1) // 2)


def steps_to_pass(seconds: float, first: float, growth: float) -> int:
    """Fewest steps, at least 1, that take `seconds` or longer: the quadratic solved for k, and rounded up."""
    if seconds <= first:
        return 1
    slope = first - growth / 2
    # The form 2x / (b + sqrt(b^2 + 2gx)) holds for growth 0 as well.
    steps = max(1, int(2 * seconds / (slope + math.sqrt(slope * slope + 2 * growth * seconds))))
    while span_seconds(steps, first, growth) < seconds:
        steps += 1
    return steps


def noise_factor(noise: tuple[Iterator[float], float], steps: int) -> float:
    """By how much longer than planned so many steps take: log-normal with mean 1.

    `noise`: normal deviates and one step's width; that of k independent steps together has 1/sqrt(k) of it.
    """
    deviates, width = noise
    spread = width / math.sqrt(steps)
    return math.exp(next(deviates) * spread - spread * spread / 2)


def queued_before(waiting: Sequence[Job], began: float) -> int:
    """How many of those waiting had come by then; the newest are last.

    What comes during a step reaches vLLM's scheduler, and so its gauge, only after it.
    """
    count = len(waiting)
    while count and waiting[count - 1].arrived > began:
        count -= 1
    return count


class Finishes:
    """The steps at which decoding sequences end, soonest first.

    A preempted sequence leaves its old end behind; an end counts only while it is still its sequence's own.
    """

    __slots__ = ("_heap", "_running")

    def __init__(self, running: dict[int, Job]) -> None:
        self._heap: list[int] = []
        self._running = running

    def add(self, job: Job) -> None:
        """This job ends at step `job.finish`."""
        heapq.heappush(self._heap, job.finish << _SHIFT | job.number)

    def due(self, step: int) -> Job | None:
        """Take out a job that ends at `step`; None when there is none (left)."""
        heap = self._heap
        while heap and heap[0] >> _SHIFT <= step:
            job = self._running.get(heapq.heappop(heap) & _MASK)
            if job is not None and job.join >= 0 and job.finish == step:
                return job
        return None

    def soonest(self) -> int:
        """The step at which the next one ends. There must be a decoding sequence."""
        heap = self._heap
        while True:
            finish = heap[0] >> _SHIFT
            job = self._running.get(heap[0] & _MASK)
            if job is not None and job.join >= 0 and job.finish == finish:
                return finish
            heapq.heappop(heap)
