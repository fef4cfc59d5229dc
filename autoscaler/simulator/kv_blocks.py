"""An engine's KV blocks: how many are taken, and how many decoding sequences enter in any number of steps.

All decoding sequences advance by one token per step. So they are counted by the step (modulo the block size) in which
each enters a new block, and what many steps need is a sum of at most one block size of counts.
"""

from __future__ import annotations


class KvBlocks:
    """Blocks of one engine. `used`: taken; `usable`: all that requests may take; `size`: tokens per block."""

    __slots__ = ("_entering", "size", "usable", "used")

    def __init__(self, usable: int, size: int) -> None:
        self.usable = usable
        self.size = size
        self.used = 0
        self._entering = [0] * size

    @property
    def free(self) -> int:
        """Blocks that nobody has taken."""
        return self.usable - self.used

    def take(self, tokens: int, shared: int = 0) -> bool:
        """Take the blocks of so many tokens, without `shared` that are taken already; False when there are too few."""
        blocks = -(-tokens // self.size) - shared
        if self.used + blocks > self.usable:
            return False
        self.used += blocks
        return True

    def give(self, tokens: int, shared: int = 0) -> None:
        """Give back the blocks of so many tokens, without `shared` that stay taken."""
        self.used -= -(-tokens // self.size) - shared

    def join(self, step: int, stored: int) -> None:
        """A sequence that has stored so many tokens decodes from `step` on."""
        self._entering[(step - stored) % self.size] += 1

    def leave(self, step: int, stored: int) -> None:
        """It does so no more; the figures are those of its joining."""
        self._entering[(step - stored) % self.size] -= 1

    def entered(self, step: int) -> int:
        """Blocks entered in that step."""
        return self._entering[step % self.size]

    def grown(self, step: int, count: int, decoding: int) -> int:
        """Blocks entered by `decoding` sequences in `count` steps from `step` on."""
        cycles, rest = divmod(count, self.size)
        grown = cycles * decoding
        if rest:
            low = step % self.size
            grown += sum(self._entering[low : low + rest])
            if low + rest > self.size:
                grown += sum(self._entering[: low + rest - self.size])
        return grown

    def lasts(self, step: int, most: int, decoding: int) -> int:
        """How many of `most` steps from `step` on, whose own blocks are taken already, there are blocks for."""
        free = self.usable - self.used
        # In each further round of `size` steps every sequence enters one block.
        if most == 1 or decoding * ((most - 2) // self.size + 1) <= free:
            return most
        count = min(most, 1 + free // decoding * self.size)
        free -= self.grown(step + 1, count - 1, decoding)
        while count < most:
            free -= self.entered(step + count)
            if free < 0:
                break
            count += 1
        return count
