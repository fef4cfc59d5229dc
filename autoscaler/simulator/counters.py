"""What one emulated engine has counted since it started: the quantities behind vLLM V1's metric families.

The histogram bounds are those vLLM 0.32 registers (read from a real server's `/metrics`), because an observation can
only be rendered with the buckets it was counted in.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

TOKEN_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0)
ITERATION_BOUNDS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
COUNT_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0)
PREEMPTION_BOUNDS = (1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0)
TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_LATENCY_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_LATENCY_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TRANSFER_TIME_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0)
TRANSFER_POST_BOUNDS = (0.001, *TRANSFER_TIME_BOUNDS)
TRANSFER_BYTES_BOUNDS = tuple(float(2**exponent) for exponent in range(11, 35, 2))
DESCRIPTOR_BOUNDS = (
    *(10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 400.0),
    *(1000.0, 2000.0, 4000.0, 10000.0, 20000.0, 50000.0),
)


@dataclass(slots=True)
class Histogram:
    """A Prometheus histogram: `buckets[i]` counts values in (bounds[i-1], bounds[i]], the last one the rest.

    Attributes:
        bounds: upper bounds, increasing, +Inf left out.
        total: sum of observed values, in the observed unit.
        count: number of observations.
    """

    bounds: tuple[float, ...]
    buckets: list[int] = field(init=False)
    total: float = 0.0
    count: int = 0

    def __post_init__(self) -> None:
        self.buckets = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value` as seen `times` times."""
        self.buckets[bisect_left(self.bounds, value)] += times
        self.total += value * times
        self.count += times


def _tokens() -> Histogram:
    return Histogram(TOKEN_BOUNDS)


def _latency() -> Histogram:
    return Histogram(REQUEST_LATENCY_BOUNDS)


@dataclass(slots=True)
class EngineCounters:
    """Cumulative counts of one engine; every number only grows. Times in seconds, sizes in tokens unless named.

    When vLLM counts what (checked against a real 0.32 server): prompt tokens of all sources when a request's first
    token comes; prefix-cache queries and hits when it is first scheduled; TTFT at the first token and ITL at every
    later one; all other per-request times when the request ends. Recomputing after a preemption counts no prompt tokens
    again.
    """

    prompt_tokens: int = 0
    prompt_computed_tokens: int = 0
    prompt_cached_tokens: int = 0
    prompt_received_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    external_queries_tokens: int = 0
    external_hits_tokens: int = 0
    preemptions: int = 0
    submitted: int = 0
    finished: int = 0
    steps: int = 0
    busy_seconds: float = 0.0
    ttft: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS))
    itl: Histogram = field(default_factory=lambda: Histogram(TOKEN_LATENCY_BOUNDS))
    time_per_output_token: Histogram = field(default_factory=lambda: Histogram(TOKEN_LATENCY_BOUNDS))
    e2e: Histogram = field(default_factory=_latency)
    queue_time: Histogram = field(default_factory=_latency)
    inference_time: Histogram = field(default_factory=_latency)
    prefill_time: Histogram = field(default_factory=_latency)
    decode_time: Histogram = field(default_factory=_latency)
    iteration_tokens: Histogram = field(default_factory=lambda: Histogram(ITERATION_BOUNDS))
    request_prompt_tokens: Histogram = field(default_factory=_tokens)
    request_generation_tokens: Histogram = field(default_factory=_tokens)
    request_max_tokens: Histogram = field(default_factory=_tokens)
    request_computed_tokens: Histogram = field(default_factory=_tokens)
    request_n: Histogram = field(default_factory=lambda: Histogram(COUNT_BOUNDS))
    request_preemptions: Histogram = field(default_factory=lambda: Histogram(PREEMPTION_BOUNDS))
    transfer_time: Histogram = field(default_factory=lambda: Histogram(TRANSFER_TIME_BOUNDS))
    transfer_post_time: Histogram = field(default_factory=lambda: Histogram(TRANSFER_POST_BOUNDS))
    transfer_bytes: Histogram = field(default_factory=lambda: Histogram(TRANSFER_BYTES_BOUNDS))
    transfer_descriptors: Histogram = field(default_factory=lambda: Histogram(DESCRIPTOR_BOUNDS))
