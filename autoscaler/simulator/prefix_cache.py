"""An engine's prefix cache: KV blocks by hash, shared between the sequences that use them by reference count.

As vLLM's: a block in use counts once however many sequences read it; one that nobody uses any more is free KV that
still remembers its tokens, and is overwritten when KV is needed, the least recently used first and a prompt's end
before its beginning. Hashes name prefix blocks of `tokens` tokens; KV is counted in the engine's own blocks of `size`.
A prompt's last prefix block may be partly filled; of it only the KV blocks that are full are shared.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.simulator.job import Job
    from autoscaler.simulator.kv_blocks import KvBlocks


class Found(NamedTuple):
    """What of a prompt is cached: leading prefix blocks, and the KV blocks of those that other sequences use now."""

    hits: int
    in_use: int


@dataclass(slots=True)
class _Block:
    """A cached prefix block: its KV blocks, and how many sequences use it."""

    units: int
    users: int


class PrefixCache:
    """Remembers what an engine's KV blocks hold. `tokens`: of a prefix block; 0: nothing is cached by hash.

    `idle`: KV blocks that are free but remembered.
    """

    __slots__ = ("_blocks", "_kv", "_resting", "_size", "idle", "tokens")

    def __init__(self, tokens: int, kv: KvBlocks) -> None:
        self.tokens = tokens
        self.idle = 0
        self._kv = kv
        self._size = kv.size
        self._blocks: dict[int, _Block] = {}
        self._resting: OrderedDict[int, None] = OrderedDict()

    def take(self, job: Job, tokens: int) -> bool:
        """Take a job's KV, as far as others do not hold its beginning already; False when there is too little."""
        if not job.blocks:
            taken = self._kv.take(tokens)
        else:
            found = self.found(job)
            taken = self._kv.take(tokens, found.in_use)
            if taken:
                self.hold(job, found.hits)
        self.trim()
        return taken

    def give(self, job: Job) -> None:
        """Give a job's KV back; what others use of it stays taken."""
        shared = job.shared
        self._kv.give(job.stored, shared - self.drop(job) if job.held else 0)

    def hits(self, blocks: Sequence[int]) -> int:
        """How many of the leading prefix blocks it holds."""
        held = self._blocks
        for count, block in enumerate(blocks):
            if block not in held:
                return count
        return len(blocks)

    def found(self, job: Job) -> Found:
        """What is here of a prompt."""
        hits = in_use = 0
        for index, name in enumerate(job.blocks):
            block = self._blocks.get(name)
            # Two prompts that call parts of different length the same (a faulty trace) share nothing from there on.
            if block is None or block.units != self._units(job, index):
                break
            hits += 1
            in_use += block.units if block.users else 0
        return Found(hits, in_use)

    def hold(self, job: Job, hits: int) -> None:
        """The job uses its first `hits` prefix blocks from here."""
        for name in job.blocks[:hits]:
            block = self._blocks[name]
            if not block.users:
                del self._resting[name]
                self.idle -= block.units
            block.users += 1
            job.held.append(name)
            job.shared += block.units

    def keep(self, job: Job) -> None:
        """A prompt is computed: what was not here is from now on, in the job's own blocks."""
        for index in range(len(job.held), len(job.blocks)):
            name = job.blocks[index]
            if name not in self._blocks:
                units = self._units(job, index)
                self._blocks[name] = _Block(units, 1)
                job.held.append(name)
                job.shared += units

    def spared(self, job: Job) -> int:
        """Prompt tokens that need not be computed now that the job has its KV, its last token never among them."""
        if job.blocks:
            return min(len(job.held) * self.tokens, job.prompt - 1)
        return job.cached if job.scheduled is None else 0

    def drop(self, job: Job) -> int:
        """The job uses none any more; returns the KV blocks that nobody else uses either, now idle."""
        freed = 0
        for name in reversed(job.held):
            block = self._blocks[name]
            block.users -= 1
            if not block.users:
                self._resting[name] = None
                freed += block.units
        job.held.clear()
        job.shared = 0
        self.idle += freed
        return freed

    def trim(self) -> None:
        """Forget idle blocks that have been overwritten: no more of them than are free."""
        while self.idle > self._kv.free:
            name, _ = self._resting.popitem(last=False)
            self.idle -= self._blocks.pop(name).units

    def _units(self, job: Job, index: int) -> int:
        """Full KV blocks within this prefix block of a prompt."""
        begin = index * self.tokens
        return min(begin + self.tokens, max(begin, job.prompt)) // self._size - begin // self._size
