"""A request on its way through the fast engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Job:
    """A request inside an engine: what was asked, and how far it is. Token counts; times in seconds.

    Attributes:
        number: its slot in the ledger. arrived: when it came to this engine.
        blocks: hashes of its prompt's prefix blocks, for the engine's own prefix cache; empty: `cached` is given.
        held, shared: those it holds in that cache, and how many KV blocks they are.
        fetches: its prompt's KV comes from elsewhere (a decode engine's usual job).
        generated, stored: up to date whenever it is not decoding. remaining: prompt tokens still to compute.
        join, finish: steps at which it joined the decoding set, and ends. scheduled, first: None before.
    """

    __slots__ = (
        *(
            "arrived",
            "blocks",
            "cached",
            "fetches",
            "finish",
            "first",
            "generated",
            "held",
            "join",
            "last",
            "number",
            "outputs",
        ),
        *("prompt", "remaining", "scheduled", "shared", "source", "stored"),
    )

    def __init__(self, number: int, prompt: int, outputs: int, cached: int, blocks: Sequence[int] = ()) -> None:
        self.number = number
        self.prompt = prompt
        self.outputs = outputs
        self.cached = cached
        self.blocks = blocks
        self.held: list[int] = []
        self.shared = 0
        self.fetches = False
        self.arrived = 0.0
        self.generated = 0
        self.stored = 0
        self.remaining = 0
        self.join = -1
        self.finish = -1
        self.scheduled: float | None = None
        self.first: float | None = None
        self.last = 0.0
        self.source = -1


def work(chunks: Sequence[tuple[Job, int]]) -> tuple[int, float, int]:
    """Of chunks of prompts: tokens to compute, pairs of one of them and a token before it, tokens stored already."""
    tokens = stored = 0
    pairs = 0.0
    for job, count in chunks:
        done = job.stored - job.remaining
        tokens += count
        stored += done
        pairs += count * (done + count / 2)
    return tokens, pairs, stored
