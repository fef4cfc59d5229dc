"""The adapter's own vocabulary: what a group of engine replicas can be asked, and what it answered.

A *group* is a set of series that belong together because they carry the same label values (one role of one pool, in
the autoscaler's words; this package does not know roles). A *reading* is what a group said at one moment. Rates are per
second over the source's window; a signal nobody reported is absent from the reading, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Signal(StrEnum):
    """A quantity summed over all reporting engines of a group, unless its comment says otherwise."""

    RUNNING = "running"
    """Requests in the running batch."""
    WAITING = "waiting"
    """Requests queued in the engines, waiting for capacity."""
    KV_USAGE = "kv_usage"
    """Mean over engines of the used share of KV cache, 0..1."""
    KV_USAGE_MAX = "kv_usage_max"
    """Largest used share of any engine, 0..1."""
    KV_CAPACITY = "kv_capacity"
    """KV tokens one engine can hold, mean over engines."""
    SLEEPING = "sleeping"
    """Engines whose weights are offloaded or discarded (sleep mode)."""
    PROMPT_RATE = "prompt_rate"
    """Prompt tokens/s taken in, prefix-cache hits included."""
    COMPUTED_PROMPT_RATE = "computed_prompt_rate"
    """Prompt tokens/s computed here: prefix hits and KV received from another engine excluded."""
    GENERATION_RATE = "generation_rate"
    """Output tokens/s."""
    PREFILL_REQUEST_RATE = "prefill_request_rate"
    """Requests/s that got their first token."""
    COMPLETION_RATE = "completion_rate"
    """Requests/s that ended, whatever the reason."""
    PREFILL_BUSY = "prefill_busy"
    """Seconds/s spent by requests between being scheduled and their first token."""
    ITL_BUSY = "itl_busy"
    """Seconds/s of inter-token gaps, summed over requests; ITL_BUSY / ITL_TOKENS is the mean ITL."""
    ITL_TOKENS = "itl_tokens"
    """Inter-token gaps/s, the count belonging to ITL_BUSY."""
    TTFT_BUSY = "ttft_busy"
    """Seconds/s of time to first token, summed over requests; TTFT_BUSY / PREFILL_REQUEST_RATE is the mean TTFT."""
    QUEUE_BUSY = "queue_busy"
    """Seconds/s that requests spent waiting, counted when they are scheduled or end (engine dependent)."""
    STEP_RATE = "step_rate"
    """Engine iterations/s."""
    STEP_TOKENS = "step_tokens"
    """Tokens/s processed in iterations (prefill and decode together)."""
    PREEMPTION_RATE = "preemption_rate"
    """Requests/s thrown back to the queue because KV ran out."""
    TRANSFER_BYTES = "transfer_bytes"
    """KV bytes/s moved between prefill and decode engines."""
    TRANSFER_BUSY = "transfer_busy"
    """Seconds/s of KV transfer, summed over transfers."""
    GATEWAY_QUEUE = "gateway_queue"
    """Requests held by the gateway in front of the engines (EPP flow control, Dynamo frontend)."""


@dataclass(frozen=True, slots=True)
class Group:
    """A set of series to be read together.

    Attributes:
        key: the caller's own name for it; returned unchanged in the reading.
        match: label name -> exact value; every pair must hold. Label names are those seen in Prometheus.
    """

    key: str
    match: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one group said.

    Attributes:
        key: the group's key.
        signals: only what was reported.
        sampled_at: Unix time of the *oldest* newest-sample among the group's engines that counted; None if nothing did.
        reporting: engines (not replicas: a data-parallel replica has several) with fresh, finite samples.
        replicas_reporting: scrape targets behind them.
        targets: scrape targets known for the group, up or not (`up` series); None when the source cannot tell.
        targets_up: those whose last scrape succeeded; None when the source cannot tell.
        stale: engines that have series, but only older than the limit (or not finite).
        engines: engine families seen, e.g. ("vllm",).
        rate_engines: reporting engines that had enough samples for a rate; when below `reporting`, the rates are those
            of fewer engines than the levels (a replica that has just started).
    """

    key: str
    signals: Mapping[Signal, float] = field(default_factory=dict)
    sampled_at: float | None = None
    reporting: int = 0
    replicas_reporting: int = 0
    targets: int | None = None
    targets_up: int | None = None
    stale: int = 0
    engines: tuple[str, ...] = ()
    rate_engines: int = 0


@dataclass(frozen=True, slots=True)
class Readings:
    """One look at everything: exactly one reading per group asked for, in the order asked.

    Attributes:
        at: the time asked for, Unix seconds.
        by_key: group key -> reading.
        queries: requests sent for this look.
        seconds: how long the look took.
        notes: what a person should know (a vocabulary missing, a query that failed and was done without), in words.
    """

    at: float
    by_key: Mapping[str, Reading]
    queries: int
    seconds: float
    notes: tuple[str, ...] = ()


class SourceError(Exception):
    """The source as a whole could not be read (unreachable, refused, timed out, answered nonsense). Says why."""


class MetricSource(Protocol):
    """Anything that can read all groups at a given time."""

    name: str
    """`prometheus` or `scrape`."""

    def read(self, now: float, groups: Sequence[Group]) -> Readings:
        """Read every group as of Unix time `now`.

        Raises:
            SourceError: nothing could be read. A group that merely has no series is a Reading with reporting == 0.
        """
        ...

    def close(self) -> None:
        """Release connections and threads; safe to call twice."""
        ...
