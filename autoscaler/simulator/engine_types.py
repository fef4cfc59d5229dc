"""What goes into and comes out of the engine model: its profile, its requests, its events, its gauges."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import pairwise
from operator import itemgetter


class EngineRole(StrEnum):
    """What an engine does with a request."""

    PREFILL = "prefill"
    """Ends it at its first token and keeps the KV until it is fetched."""
    DECODE = "decode"
    """Fetches its KV, then generates every token, the first included."""
    COLOCATED = "colocated"
    """Does both, in mixed batches."""


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """How fast one engine is and how much it holds.

    A step over a batch takes

        seconds = a + b * prefill tokens + c * sequences in the batch + d * KV tokens already stored for them

    which is the linear cost model fitted to real engines (weights are read once a step, KV once per stored token). Two
    more terms, absent unless measured, are for steps that compute prompts. Attention of each new token to those before
    it costs e * pairs, the part of a prompt's cost that grows with its square. And where a + b * tokens is too straight
    (short prompts are bound by reading the weights, long ones slow the kernels down), measured points of the step's
    prompt tokens against seconds stand in for it, as in Splitwise's simulator (ISCA'24), which reads a batch's prompt
    time off the profiled ones by the sum of its tokens:

        seconds = curve(prefill tokens) + e * pairs + c * sequences + d * stored KV tokens

    Attributes:
        step_seconds: a, the fixed cost of a step; > 0, or time would not advance.
        prefill_token_seconds: b, seconds per prompt token computed.
        sequence_seconds: c, seconds per sequence in the batch.
        resident_token_seconds: d, seconds per KV token read.
        kv_capacity_tokens: size of the KV cache; one block of it is vLLM's null block and never used.
        max_running: most sequences in a batch (`max_num_seqs`).
        max_batched_tokens: most tokens computed in a step (`max_num_batched_tokens`), the chunk of chunked prefill.
        block_size: tokens per KV block.
        attention_pair_seconds: e, seconds per pair of a computed prompt token and a token before it.
        prefill_curve: (prompt tokens of a step, seconds), tokens ascending; straight between them, as steep beyond the
            last as before it, and never below the first. Empty: a + b * tokens.
        frontend_seconds: latency of each request outside of the steps (HTTP, tokenizer, detokenizer): its tokens reach
            the client so much later. It costs no throughput.

    Raises:
        ValueError: a figure no engine can have, naming it.
    """

    step_seconds: float
    prefill_token_seconds: float
    sequence_seconds: float
    resident_token_seconds: float
    kv_capacity_tokens: int
    max_running: int
    max_batched_tokens: int
    block_size: int = 16
    attention_pair_seconds: float = 0.0
    frontend_seconds: float = 0.0
    prefill_curve: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self) if field.name.endswith("_seconds")):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; it must be a finite number of seconds >= 0")
        if self.step_seconds == 0:
            raise ValueError("step_seconds is 0; a step must take time")
        tokens = [0, *(knot for knot, _ in self.prefill_curve)]
        if len(self.prefill_curve) == 1 or any(low >= high for low, high in pairwise(tokens)):
            raise ValueError(f"prefill_curve has its points at {tokens[1:]} tokens; it needs two, > 0 and ascending")
        if not all(math.isfinite(seconds) and seconds > 0 for _, seconds in self.prefill_curve):
            raise ValueError(f"prefill_curve is {self.prefill_curve}; its seconds must be finite and > 0")
        for name in ("max_running", "max_batched_tokens", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be >= 1")
        if self.max_running > self.max_batched_tokens:
            raise ValueError(
                f"max_running is {self.max_running}, more than max_batched_tokens {self.max_batched_tokens}; "
                "every running sequence needs a token in each step"
            )
        if self.usable_blocks < 1:
            raise ValueError(
                f"kv_capacity_tokens is {self.kv_capacity_tokens}; it must hold at least 2 blocks of {self.block_size}"
            )

    @property
    def total_blocks(self) -> int:
        """KV blocks, the null block included (`num_gpu_blocks`)."""
        return self.kv_capacity_tokens // self.block_size

    @property
    def usable_blocks(self) -> int:
        """KV blocks that requests can use."""
        return self.total_blocks - 1

    def mixed_step(self, tokens: int, pairs: float, sequences: int, stored: int) -> float:
        """Seconds of a step that computes so many prompt tokens in so many pairs, beside what it decodes."""
        if tokens and self.prefill_curve:
            seconds = _on_curve(self.prefill_curve, tokens)
        else:
            seconds = self.step_seconds + self.prefill_token_seconds * tokens
        seconds += self.attention_pair_seconds * pairs
        return seconds + self.sequence_seconds * sequences + self.resident_token_seconds * stored

    def spare_tokens(self, seconds: float, sequences: int, stored: int) -> int:
        """Prompt tokens a step may compute beside what it decodes and still take `seconds`; a block at least.

        The chunk of a convertible decoder: (seconds - a - c * sequences - d * stored) / b (TokenScale, restricted
        chunked prefill).
        """
        left = seconds - self.step_seconds - self.sequence_seconds * sequences - self.resident_token_seconds * stored
        if self.prefill_token_seconds <= 0:
            return self.max_batched_tokens
        return max(self.block_size, int(left / self.prefill_token_seconds))

    def blocks(self, tokens: int) -> int:
        """KV blocks that hold `tokens`."""
        return -(-tokens // self.block_size)


def _on_curve(points: tuple[tuple[int, float], ...], tokens: int) -> float:
    """Seconds at so many tokens."""
    after = min(max(1, bisect_right(points, tokens, key=itemgetter(0))), len(points) - 1)
    (low, least), (high, most) = points[after - 1], points[after]
    return max(least + (most - least) * (tokens - low) / (high - low), points[0][1])


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One request as an engine gets it.

    Attributes:
        request_id: unique in the engine among requests not yet ended (and, for prefill, released).
        prompt_tokens: >= 1.
        output_tokens: tokens to generate, >= 1; a prefill engine makes one whatever this says.
        cached_tokens: prompt tokens the prefix cache has; at most all but one, since the last one is always computed.
        transfer_seconds: decode only: how long fetching the prompt's KV takes.
        transfer_bytes: decode only: how much that is.
    """

    request_id: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    transfer_seconds: float = 0.0
    transfer_bytes: float = 0.0

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise ValueError(
                f"request {self.request_id} has {self.prompt_tokens} prompt and {self.output_tokens} output tokens; "
                "both must be >= 1"
            )
        if not 0 <= self.cached_tokens < self.prompt_tokens:
            raise ValueError(
                f"request {self.request_id} has cached_tokens {self.cached_tokens}; "
                f"it must be 0..{self.prompt_tokens - 1}"
            )
        if not (math.isfinite(self.transfer_seconds) and self.transfer_seconds >= 0):
            raise ValueError(f"request {self.request_id} has transfer_seconds {self.transfer_seconds}; it must be >= 0")


class EventKind(StrEnum):
    """What can happen to a request in an engine."""

    KV_FETCHED = "kv_fetched"
    FIRST_TOKEN = "first_token"  # noqa: S105 - a token of text, not a secret
    PREEMPTED = "preempted"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a request at engine time `at` (seconds)."""

    at: float
    kind: EventKind
    request_id: int


@dataclass(frozen=True, slots=True)
class Gauges:
    """An engine's state at one moment.

    Attributes:
        running: sequences in the batch.
        waiting: queued for capacity.
        fetching: KV transfer under way (blocks already taken).
        fetched: KV here, not yet in the batch.
        kv_blocks: blocks in use, those of unfetched prefills included.
        kv_usage: their share of the usable blocks, 0..1.
    """

    running: int
    waiting: int
    fetching: int
    fetched: int
    kv_blocks: int
    kv_usage: float
