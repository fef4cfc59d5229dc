"""Which engine a request goes to: at the gateway, and again when its prompt has been computed elsewhere."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from autoscaler.model import Role
from autoscaler.simulator.setup import Routing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.simulator.fast_engine import FastEngine
    from autoscaler.simulator.job import Job
    from autoscaler.simulator.wiring import Link

_LOAD = attrgetter("load")
_BACKLOG = attrgetter("backlog")
PREFIX_WEIGHT = 2.0
"""Weight of a full prefix match against being the least loaded: llm-d's default scheduling profile (2 to 1)."""
NEAR_LOAD, NEAR_MORE = 1.25, 2
"""KV stays in its domain unless the least loaded decode engine there has more than so many times, and so many requests
more than, the least loaded of all: a link across is a fifth slower, a step of a batch a quarter fuller hardly more."""


class Router:
    """The engines that take requests, oldest first, and who gets the next.

    Attributes:
        convertible: decode engines, the oldest, that may compute prompts. decodes: all open decode engines.
    """

    def __init__(self, routing: Routing, entry: Role, link: Link | None) -> None:
        self.convertible = 0 if link is None else link.convertible
        self.decodes: list[FastEngine] = []
        self._entries: list[FastEngine] = []
        self._near: dict[int, list[FastEngine]] = {}
        self._routing = routing
        self._rank = _LOAD if entry is Role.COLOCATED else _BACKLOG
        self._tpot_s = 0.0 if link is None else link.tpot_s
        self._turn = 0

    def join(self, engine: FastEngine, role: Role, domain: int) -> None:
        """An engine takes requests from now on."""
        if role is Role.DECODE:
            self.decodes.append(engine)
            self._near.setdefault(domain, []).append(engine)
        else:
            self._entries.append(engine)

    def leave(self, engine: FastEngine, role: Role, domain: int) -> None:
        """It takes no more."""
        if role is Role.DECODE:
            self.decodes.remove(engine)
            self._near[domain].remove(engine)
        else:
            self._entries.remove(engine)

    def entry(self, job: Job, limit: int | None) -> FastEngine | None:
        """The colocated or prefill engine for a request; None when none may take it now."""
        able: Sequence[FastEngine] = self._entries
        if limit is not None:
            able = [engine for engine in able if engine.load < limit]
        if not able:
            return None
        return self._choose(able, job)

    def relief(self, engine: FastEngine, prompt: int, outputs: int) -> FastEngine | None:
        """The convertible decoder that would have computed this prompt sooner than its prefill engine; None: none.

        A convertible decoder computes a chunk in each step of `tpot_s`; a prefill engine, b seconds a token.
        """
        if not self.convertible or not engine.backlog:
            return None
        able = self.decodes[: self.convertible]
        if not able:
            return None
        best = min(able, key=_BACKLOG)
        steps = -(-(best.backlog + prompt) // max(1, best.prompt_tokens_a_step()))
        soon = steps * self._tpot_s < (engine.backlog + prompt) * engine.profile.prefill_token_seconds
        return best if soon and best.fits(prompt, outputs) else None

    def _choose(self, able: Sequence[FastEngine], job: Job) -> FastEngine:
        routing = self._routing
        if routing is Routing.ROUND_ROBIN:
            self._turn += 1
            return able[self._turn % len(able)]
        least = min(able, key=self._rank)
        if routing is Routing.LEAST_LOADED or not job.blocks:
            return least
        most = max(1, *map(_LOAD, able))
        scores = [
            PREFIX_WEIGHT * engine.prefix.hits(job.blocks) / len(job.blocks) - engine.load / most for engine in able
        ]
        return able[scores.index(max(scores))]

    def decoder(self, domain: int) -> FastEngine:
        """The decode engine that a prompt computed in this network domain goes to."""
        near = self._near.get(domain)
        able = self.decodes
        least = min(able, key=_LOAD)
        if near and len(near) < len(able):
            beside = min(near, key=_LOAD)
            if beside.load <= NEAR_LOAD * least.load + NEAR_MORE:
                return beside
        return least
