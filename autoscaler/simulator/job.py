"""A request on its way through the fast engine, and the prefix cache it may find some of its prompt in."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Job:
    """A request inside an engine: what was asked, and how far it is. Token counts; times in seconds.

    Attributes:
        number: its slot in the ledger. arrived: when it came to this engine.
        blocks: hashes of its prompt's prefix blocks, for the engine's own prefix cache; empty: `cached` is given.
        generated, stored: up to date whenever it is not decoding. remaining: prompt tokens still to compute.
        join, finish: steps at which it joined the decoding set, and ends. scheduled, first: None before.
    """

    __slots__ = (
        *("arrived", "blocks", "cached", "finish", "first", "generated", "join", "last", "number", "outputs"),
        *("prompt", "remaining", "scheduled", "source", "stored"),
    )

    def __init__(self, number: int, prompt: int, outputs: int, cached: int, blocks: Sequence[int] = ()) -> None:
        self.number = number
        self.prompt = prompt
        self.outputs = outputs
        self.cached = cached
        self.blocks = blocks
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


class PrefixCache:
    """Prefix blocks by hash, least recently used first; each of `block` tokens (0: nothing is cached by hash)."""

    __slots__ = ("_blocks", "block")

    def __init__(self, block: int) -> None:
        self.block = block
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def hits(self, blocks: Sequence[int]) -> int:
        """How many of the leading blocks it holds."""
        count = 0
        for block in blocks:
            if block not in self._blocks:
                break
            count += 1
        return count

    def use(self, job: Job) -> int:
        """Tokens of a prompt that are here, its last token never; they become the most recently used."""
        hits = self.hits(job.blocks)
        for block in job.blocks[:hits]:
            self._blocks.move_to_end(block)
        return min(hits * self.block, job.prompt - 1)

    def keep(self, job: Job, room: int) -> None:
        """Put a computed prompt's blocks in; at most `room` tokens (of KV that no request uses) stay."""
        for block in job.blocks:
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) * self.block > room:
            self._blocks.popitem(last=False)
