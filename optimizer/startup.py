"""How long new replicas take to start, and how many can at once: the steps, and who can feed them weights.

start = schedule + image + engine + compile + fetch + register. Only the fetch depends on how many start together:

- from a cache on the node every replica fetches at the cache's own rate;
- from peers that hold the weights, `fan_out` replicas at once per copy. In a star they share the copy's link, so each
  takes `fan_out` times as long; in a chain every replica passes on what it receives, so all take about as long as one
  (BlitzScale, OSDI'25: multicast chains keep the time nearly constant in the number of receivers);
- from a store at the store's rate.

Defaults are medians of published measurements: container start 8 s with the image present, imports and CUDA context
6 s and KV profiling with graph capture 6 s, compiled artefacts 4 s when they hit and 16 s when they miss, registration
5 s. Weights are seldom the larger part: with free weights an 8B engine still takes 25-30 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from optimizer.problem import Wave


class Spread(StrEnum):
    """How one copy of the weights feeds several replicas."""

    STAR = "star"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True)
class StartUp:
    """The steps of one start.

    Attributes:
        weights_gb: size of the weights.
        image_s: image pull; 0 where the image is on the node.
        schedule_s, engine_s, register_s: the other steps, s.
        compile_s: time with compiled artefacts, `compile_miss_s` without; `compiled` says which.
        cache_gb_s: rate from a cache on the node; None where the weights are not there.
        copies: peers that hold the weights. fan_out: replicas each may feed at once. spread: how.
        peer_gb_s: rate of a peer's link.
        store_gb_s: rate from the store, per replica; None where there is none.
    """

    weights_gb: float
    image_s: float = 0.0
    schedule_s: float = 8.0
    engine_s: float = 12.0
    register_s: float = 5.0
    compile_s: float = 4.0
    compile_miss_s: float = 16.0
    compiled: bool = False
    cache_gb_s: float | None = None
    copies: int = 0
    fan_out: int = 1
    spread: Spread = Spread.CHAIN
    peer_gb_s: float = 10.0
    store_gb_s: float | None = 2.5

    def base_s(self) -> float:
        """Everything but the fetch."""
        compiling = self.compile_s if self.compiled else self.compile_miss_s
        return self.schedule_s + self.image_s + self.engine_s + compiling + self.register_s


def faults(start: StartUp) -> tuple[str, ...]:
    """What is wrong with a description, one sentence each."""
    found = []
    for field in ("weights_gb", "image_s", "schedule_s", "engine_s", "register_s", "compile_s", "compile_miss_s"):
        value = getattr(start, field)
        if not (math.isfinite(value) and value >= 0):
            found.append(f"startup: {field} {value} must be finite and not negative")
    for field in ("cache_gb_s", "peer_gb_s", "store_gb_s"):
        value = getattr(start, field)
        if value is not None and not (math.isfinite(value) and value > 0):
            found.append(f"startup: {field} {value} must be finite and above 0")
    if start.copies < 0 or start.fan_out < 1:
        found.append(f"startup: copies {start.copies} and fan_out {start.fan_out} must be at least 0 and 1")
    if start.cache_gb_s is None and start.store_gb_s is None and not start.copies:
        found.append("startup: the weights are nowhere; give cache_gb_s, copies or store_gb_s")
    return tuple(found)


def waves(start: StartUp) -> tuple[Wave, ...]:
    """Replicas that can start at once and the seconds they take, fastest first.

    A path is left out where one without limit is as fast.

    Raises:
        ValueError: the description contradicts itself.
    """
    wrong = faults(start)
    if wrong:
        raise ValueError("; ".join(wrong))
    base = start.base_s()
    found = []
    if start.cache_gb_s is not None:
        found.append(Wave(None, base + start.weights_gb / start.cache_gb_s))
    if start.copies:
        shared = start.fan_out if start.spread is Spread.STAR else 1
        fetch = start.weights_gb * shared / start.peer_gb_s
        found.append(Wave(start.copies * start.fan_out, base + fetch))
    if start.store_gb_s is not None:
        found.append(Wave(None, base + start.weights_gb / start.store_gb_s))
    found.sort(key=lambda wave: (wave.start_s, wave.replicas is not None))
    kept: list[Wave] = []
    for wave in found:
        kept.append(wave)
        if wave.replicas is None:
            break
    return tuple(kept)
