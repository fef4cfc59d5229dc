"""What stands around a pool's engines: the gateway before them, the KV link between roles, a replica's bookkeeping."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.simulator.setup import Routing

if TYPE_CHECKING:
    from autoscaler.model import Role
    from autoscaler.simulator.fast_engine import FastEngine
    from autoscaler.simulator.job import Job


@dataclass(frozen=True, slots=True)
class Gateway:
    """How requests are handed out. `limit`: most in one engine; `most`: held at most; None: no limit."""

    routing: Routing = Routing.LEAST_LOADED
    limit: int | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A prefill replica's KV link, and what decode replicas may do without it.

    Attributes:
        bytes_per_s: within a network domain. bytes_per_token: of KV.
        first_token_at_prefill: the client gets its first token from the prefill engine.
        across: share of the bandwidth that is left between two domains.
        convertible: so many decode replicas, the oldest, may take prompts that prefill replicas would have to queue.
        tpot_s: a convertible decoder's steps stay this short: its chunks of prompts are as large as that allows.
    """

    bytes_per_s: float
    bytes_per_token: float
    first_token_at_prefill: bool = False
    across: float = 1.0
    convertible: int = 0
    tpot_s: float = 0.1


@dataclass(slots=True)
class Replica:
    """An engine and what its fleet knows of it. `link_free`: when its link is idle; `kept`: KV not yet fetched."""

    engine: FastEngine
    role: Role
    domain: int = 0
    accepts: bool = True
    link_free: float = 0.0
    kept: dict[int, Job] = field(default_factory=dict)
    transfer_bytes: float = 0.0
    transfer_busy: float = 0.0
    fetching: dict[int, Job] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Nothing in it that anybody waits for."""
        return self.engine.load == 0 and not self.kept
