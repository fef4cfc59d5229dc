"""Sizes of NVIDIA Dynamo's planner from a forward-pass time model: requests/s of an engine, and its latencies now.

    fwd(prefill tokens, decode requests, decode KV)       the hardware profile's step model
    prefill    batch b of prompts: ttft = chunked time of b*isl' tokens; rps = b / ttft; fit when ttft <= target
    decode     itl = fwd(0, b, b*ctx), ctx = isl + osl/2; rps = b / (osl*itl); fit when itl <= target
    colocated  b with b*isl'/osl <= B - b prefill tokens beside: itl and ttft = chunked time on top of that decode load

of at most 128 evenly spaced b the fit one with most requests/s, else the unfit one with most. isl' is the prompt
without prefix hits; ctx has them, since hits save compute and not KV. Source: ai-dynamo/dynamo planner 1.6. With the
step model taken from the profile the planner knows its engines as well as can be: that favours it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.model import Role

if TYPE_CHECKING:
    from autoscaler.velocity import Engine, Target

MOST_CANDIDATES = 128


@dataclass(frozen=True, slots=True)
class Requests:
    """Mean request: uncached prompt tokens, prompt tokens with hits, output tokens."""

    computed: float
    prompt: float
    output: float

    @property
    def context(self) -> float:
        """KV tokens a decoding request holds on average."""
        return max(self.prompt + self.output / 2, 1.0)


def forward_s(engine: Engine, prefill: float, requests: float, kv: float) -> float:
    """Seconds of one pass with these prefill tokens, decoding requests and their KV tokens."""
    step = engine.step
    return step.base + step.per_prompt_token * prefill + step.per_running * requests + step.per_resident_token * kv


def chunked_s(engine: Engine, tokens: float, requests: float = 0.0, kv: float = 0.0) -> float:
    """Seconds to prefill `tokens` in full chunks and a tail, with this decode load beside."""
    if tokens <= 0:
        return 0.0
    full = math.floor(tokens / engine.batched_tokens)
    tail = tokens - full * engine.batched_tokens
    spent = full * forward_s(engine, engine.batched_tokens, requests, kv)
    return spent + (forward_s(engine, tail, requests, kv) if tail > 0 else 0.0)


def candidates(most: int) -> tuple[int, ...]:
    """1..most, thinned evenly to at most 128 with both ends kept."""
    if most <= MOST_CANDIDATES:
        return tuple(range(1, most + 1))
    gap = (most - 1) / (MOST_CANDIDATES - 1)
    return tuple(dict.fromkeys(round(1 + gap * index) for index in range(MOST_CANDIDATES)))


def engine_rps(role: Role, engine: Engine, mean: Requests, target: Target) -> float:
    """Requests/s of one engine within the targets, or the most it can do where none fits."""
    tried = {Role.PREFILL: _prefill, Role.DECODE: _decode, Role.COLOCATED: _colocated}[role](engine, mean, target)
    return max(tried)[1]


def _prefill(engine: Engine, mean: Requests, target: Target) -> list[tuple[bool, float]]:
    prompt = max(math.ceil(mean.computed), 1)
    most = 1 if prompt > engine.batched_tokens else int(min(engine.max_running, engine.batched_tokens // prompt))
    times = ((batch, chunked_s(engine, batch * prompt)) for batch in candidates(max(most, 1)))
    return [(ttft <= target.ttft_s, batch / ttft) for batch, ttft in times]


def _decode(engine: Engine, mean: Requests, target: Target) -> list[tuple[bool, float]]:
    most = int(min(engine.max_running, engine.kv_capacity // mean.context))
    output = max(mean.output, 1.0)
    times = ((batch, forward_s(engine, 0.0, batch, batch * mean.context)) for batch in candidates(max(most, 1)))
    return [(itl <= target.itl_s, batch / (output * itl)) for batch, itl in times]


def _colocated(engine: Engine, mean: Requests, target: Target) -> list[tuple[bool, float]]:
    budget, output, prompt = engine.batched_tokens, max(mean.output, 1.0), max(mean.computed, 1.0)
    most = int(min(engine.kv_capacity // mean.context, engine.max_running, budget - 1))
    tried = []
    for batch in candidates(max(most, 1)):
        if batch > 1 and batch * prompt / output > budget - batch:
            break
        beside = min(budget, math.ceil(batch * prompt / output))
        itl = forward_s(engine, beside, batch, batch * mean.context)
        ttft = chunked_s(engine, beside + prompt, batch, batch * mean.context)
        tried.append((itl <= target.itl_s and ttft <= target.ttft_s, batch / (output * itl)))
    return tried


@dataclass(frozen=True, slots=True)
class Load:
    """One engine now: queued prompt tokens, requests running and waiting, KV tokens held and those the queue will hold.

    `waiting` and `queued_kv` are 0 on prefill engines.
    """

    queued_tokens: float
    running: float
    waiting: float
    kv: float
    queued_kv: float


def ttft_s(role: Role, engine: Engine, load: Load, mean: Requests, growth: float = 1.0) -> float:
    """TTFT a new request would find: the queue (times `growth`) and itself drained, on top of any decode load."""
    tokens = load.queued_tokens * growth + mean.computed
    if role is Role.COLOCATED:
        return chunked_s(engine, tokens, load.running * growth, load.kv * growth)
    return chunked_s(engine, tokens)


def itl_s(role: Role, engine: Engine, load: Load, mean: Requests, growth: float = 1.0) -> float:
    """ITL with what runs and what is queued (times `growth`) and, at growth 1, one more request."""
    requests = (load.running + load.waiting) * growth + (1.0 if growth == 1.0 else 0.0)
    kv = (load.kv + load.queued_kv) * growth + (mean.context if growth == 1.0 else 0.0)
    beside = 0.0
    if role is Role.COLOCATED:
        beside = min(engine.batched_tokens, load.running * mean.computed / max(mean.output, 1.0))
    return forward_s(engine, beside, requests, kv)
