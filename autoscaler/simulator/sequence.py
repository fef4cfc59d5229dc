"""A request on its way through the engine model, the step it is in, and what is counted when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoscaler.simulator.counters import EngineCounters
    from autoscaler.simulator.engine_types import EngineRequest


@dataclass(slots=True, eq=False)
class Sequence:
    """A request inside the engine.

    Attributes:
        request: what was asked.
        arrived_at: seconds.
        outputs: tokens to generate here.
        needs_fetch: its KV is still with the prefill engine.
        generated: output tokens made, up to date whenever the sequence is not decoding.
        remaining: prompt tokens (or, after a preemption, all its tokens) still to be computed.
        stored: KV tokens it has once `remaining` is 0, up to date whenever it is not decoding.
        join_step: number of the step in which it joined the decoding set; -1 outside of it.
        finish_step: number of the step that makes its last token.
        scheduled_at: when it first got into the batch; None before.
        first_token_at: None before.
        last_token_at: when its last token came before it was preempted.
        preemptions: how often it was thrown back.
    """

    request: EngineRequest
    arrived_at: float
    outputs: int
    needs_fetch: bool
    generated: int = 0
    remaining: int = 0
    stored: int = 0
    join_step: int = -1
    finish_step: int = -1
    scheduled_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float = 0.0
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A step under way: when it ends, which prompts it advances by how much, how many sequences decode in it."""

    end: float
    seconds: float
    chunks: tuple[tuple[Sequence, int], ...]
    decoding: int


def count_request(counters: EngineCounters, sequence: Sequence, now: float) -> None:
    """Per-request histograms, observed when the request ends."""
    request = sequence.request
    scheduled = now if sequence.scheduled_at is None else sequence.scheduled_at
    first = now if sequence.first_token_at is None else sequence.first_token_at
    counters.e2e.observe(now - sequence.arrived_at)
    counters.queue_time.observe(scheduled - sequence.arrived_at)
    counters.prefill_time.observe(first - scheduled)
    counters.decode_time.observe(now - first)
    counters.inference_time.observe(now - scheduled)
    gaps = sequence.outputs - 1
    counters.time_per_output_token.observe((now - first) / gaps if gaps else 0.0)
    counters.request_prompt_tokens.observe(float(request.prompt_tokens))
    counters.request_generation_tokens.observe(float(sequence.outputs))
    counters.request_max_tokens.observe(float(sequence.outputs))
    counters.request_computed_tokens.observe(float(request.prompt_tokens - request.cached_tokens))
    counters.request_n.observe(1.0)
    counters.request_preemptions.observe(float(sequence.preemptions))
