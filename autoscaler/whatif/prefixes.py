"""What resident KV is worth when a replica goes: prefix caches replayed over a trace, and a list to warm new ones with.

A request hits the longest run of its first blocks that its replica holds. It goes to the replica that holds most of it
among those that are not overloaded, as cache-aware routers do (sgl-router's policy, with its relative threshold):

    the longest hit among replicas with load <= 1.5 x mean load + this prompt; ties to the least loaded

where load is the prompt tokens sent there, forgotten with a time constant of a minute.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.errors import BadSettings
from autoscaler.simulator.requests import BLOCK_TOKENS, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


FADES_S = 60.0
"""Time constant of a replica's load, s."""
OVERLOAD = 1.5
"""Of the mean load: above it a replica gets no request for its cache's sake (sgl-router's balance_rel_threshold)."""


@dataclass(slots=True)
class Cache:
    """One replica's prefix cache: least recently used blocks go first."""

    room: int
    blocks: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def found(self, chain: Sequence[int], others: Cache | None = None) -> int:
        """Blocks of a prompt that are here (or in `others`), from its beginning to the first that is not."""
        hits = 0
        for block in chain:
            if block not in self.blocks and (others is None or block not in others.blocks):
                break
            hits += 1
        return hits

    def serve(self, chain: Sequence[int], others: Cache | None = None) -> int:
        """As `found`; all of its blocks are resident afterwards."""
        hits = self.found(chain, others)
        self.hold(chain)
        return hits

    def hold(self, chain: Iterable[int]) -> None:
        """Make blocks resident, as the most recently used, the first of the chain last of all to go."""
        for block in reversed(list(chain)):
            self.blocks[block] = None
            self.blocks.move_to_end(block)
        while len(self.blocks) > self.room:
            self.blocks.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Prefix:
    """A shared beginning of prompts.

    Attributes:
        blocks: ids of its blocks, first one first. tokens: it has. requests: that begin with it.
    """

    blocks: tuple[int, ...]
    tokens: int
    requests: int

    @property
    def saved(self) -> int:
        """Prompt tokens that need not be computed again by all but the first of its requests."""
        return self.tokens * (self.requests - 1)


def hottest(
    load: Workload, *, most_tokens: int, least_requests: int = 2, start: float = 0.0, end: float | None = None
) -> tuple[Prefix, ...]:
    """The prefixes worth most to a new replica, hottest first: by requests that share them, times their tokens.

    A prefix ends where fewer than `least_requests` requests go on with it; the chosen ones hold at most `most_tokens`
    different tokens together (a beginning shared by two is counted once).

    Args:
        load: requests with block ids, such as Mooncake's.
        most_tokens: to load: the new replica's KV cache, or less.
        least_requests: that share a block.
        start: second of the trace to look from.
        end: second to look up to; None: its end.

    Raises:
        BadSettings: the trace has no block ids.
    """
    counts: dict[int, int] = {}
    chains = [chain for at, chain in _chains(load) if start <= at < (end if end is not None else float("inf"))]
    for chain in chains:
        for block in chain:
            counts[block] = counts.get(block, 0) + 1
    found: dict[tuple[int, ...], int] = {}
    for chain in chains:
        shared = 0
        while shared < len(chain) and counts[chain[shared]] >= least_requests:
            shared += 1
        if shared:
            found[tuple(chain[:shared])] = counts[chain[shared - 1]]
    listed = [Prefix(blocks, len(blocks) * BLOCK_TOKENS, requests) for blocks, requests in found.items()]
    listed.sort(key=lambda prefix: (-prefix.saved, prefix.blocks))
    chosen, held = [], set[int]()
    for prefix in listed:
        new = set(prefix.blocks) - held
        if (len(held) + len(new)) * BLOCK_TOKENS <= most_tokens:
            chosen.append(prefix)
            held |= new
    return tuple(chosen)


@dataclass(frozen=True, slots=True)
class ScaleIn:
    """The question: what does it cost to let replicas go at a time?

    Attributes:
        replicas: before. released: how many go. at_s: when, seconds of the trace.
        cache_tokens: KV tokens a replica holds for prefixes. kv_bytes_per_token: of its model.
        link_gbps: to the store and back, Gbit/s. horizon_s: how long afterwards hits are counted.
        warm_share: share of a cache that a warm-up may load.
        request_s: mean seconds a request stays: those that arrived so long before are in flight.
    """

    replicas: int
    released: int
    at_s: float
    cache_tokens: int
    kv_bytes_per_token: float
    link_gbps: float = 100.0
    horizon_s: float = 600.0
    warm_share: float = 0.25
    request_s: float = 10.0

    def __post_init__(self) -> None:
        problems = []
        if not 1 <= self.released < self.replicas:
            problems.append(
                f"released is {self.released} of {self.replicas} replicas; at least one must go and one stay"
            )
        if self.cache_tokens < BLOCK_TOKENS:
            problems.append(f"cache_tokens is {self.cache_tokens}; it must hold a block of {BLOCK_TOKENS} tokens")
        if not 0 <= self.warm_share <= 1:
            problems.append(f"warm_share is {self.warm_share:g}; it must be 0..1")
        problems += [
            f"{name} is {getattr(self, name):g}; it must be > 0"
            for name in ("kv_bytes_per_token", "link_gbps", "horizon_s")
            if not getattr(self, name) > 0
        ]
        if problems:
            raise BadSettings(tuple(problems))


@dataclass(frozen=True, slots=True)
class Kept:
    """What one way of letting go keeps.

    Attributes:
        choice: delete, drain, warm-up, offload or keep (no scale-in: the bound).
        hit_share: share of prompt tokens found in caches within the horizon.
        recomputed_tokens: prompt tokens computed that `keep` would not have computed.
        in_flight_tokens: prompt tokens of requests cut off and computed again.
        moved_bytes: over the link. moved_s: that takes. stored_bytes: held outside the GPUs meanwhile.
    """

    choice: str
    hit_share: float
    recomputed_tokens: int
    in_flight_tokens: int
    moved_bytes: float
    moved_s: float
    stored_bytes: float


def scale_in(load: Workload, asked: ScaleIn) -> tuple[Kept, ...]:
    """Every way of letting the least valuable replicas go, from the worst to the bound.

    - delete: pods go at once; requests in flight start again elsewhere, caches are lost.
    - drain: requests in flight finish; caches are lost.
    - warm-up: drained, and the hottest prefixes of the last `horizon_s` are loaded by those who take over.
    - offload: drained, and the caches are written to a store that all the others read.
    - keep: nothing goes.

    The replicas whose resident blocks were asked for least in the last `horizon_s` are released.

    Raises:
        BadSettings: the trace has no block ids, or nothing happens after `at_s`.
    """
    before, after = [], []
    for at, chain in _chains(load):
        if at < asked.at_s:
            before.append((at, chain))
        elif at < asked.at_s + asked.horizon_s:
            after.append((at, chain))
    if not after:
        raise BadSettings((f"at_s is {asked.at_s:g}; no request comes in the {asked.horizon_s:g} s after it",))
    caches = {name: Cache(asked.cache_tokens // BLOCK_TOKENS) for name in range(asked.replicas)}
    served = _Fleet(caches)
    homes = [served.serve(at, chain)[0] for at, chain in before]
    released = _least_valuable(before, homes, asked)
    staying = {name: cache for name, cache in caches.items() if name not in released}
    flying = sum(
        len(chain) * BLOCK_TOKENS
        for (at, chain), home in zip(before, homes, strict=True)
        if at >= asked.at_s - asked.request_s and home in released
    )
    per_token, rate = asked.kv_bytes_per_token, asked.link_gbps * 1e9 / 8
    bound, lost = _hits(after, caches, None), _hits(after, staying, None)
    store = Cache(asked.released * caches[0].room)
    for name in sorted(released):
        store.hold(caches[name].blocks)
    offloaded = _hits(after, staying, store)
    warmed, loaded = _warmed(load, asked, staying, store)
    warm = _hits(after, warmed, None)
    warm_bytes = loaded * BLOCK_TOKENS * per_token
    store_bytes = len(store.blocks) * BLOCK_TOKENS * per_token
    total = sum(len(chain) for _, chain in after) * BLOCK_TOKENS

    def kept(choice: str, hits: int, cut: int, moved: float, stored: float) -> Kept:
        return Kept(choice, hits / total, max(0, bound - hits), cut, moved, moved / rate, stored)

    return (
        kept("delete", lost, flying, 0.0, 0.0),
        kept("drain", lost, 0, 0.0, 0.0),
        kept("warm-up", warm, 0, warm_bytes, 0.0),
        kept("offload", offloaded, 0, store_bytes, store_bytes),
        kept("keep", bound, 0, 0.0, 0.0),
    )


def _chains(load: Workload) -> Iterable[tuple[float, list[int]]]:
    """Whole blocks of each prompt, by arrival. Raises BadSettings without ids."""
    if load.blocks is None:
        raise BadSettings(("this load has no prefix blocks; use a trace that has, such as --format mooncake",))
    for at, blocks in zip(load.arrival_s.tolist(), load.blocks, strict=True):
        if len(blocks):
            yield at, blocks.tolist()


class _Fleet:
    """Caches behind a router."""

    def __init__(self, caches: Mapping[int, Cache], store: Cache | None = None) -> None:
        self._caches = caches
        self._store = store
        self._loads = dict.fromkeys(caches, 0.0)
        self._now = 0.0

    def serve(self, at: float, chain: Sequence[int]) -> tuple[int, int]:
        """The replica a request goes to, and the blocks it finds there or in the store."""
        fading = math.exp((self._now - at) / FADES_S)
        self._now = at
        for name in self._loads:
            self._loads[name] *= fading
        most = OVERLOAD * sum(self._loads.values()) / len(self._loads) + len(chain)
        free = [name for name, load in self._loads.items() if load <= most]
        home = min(free, key=lambda name: (-self._caches[name].found(chain), self._loads[name], name))
        self._loads[home] += len(chain)
        return home, self._caches[home].serve(chain, self._store)


def _least_valuable(
    requests: Sequence[tuple[float, list[int]]], homes: Sequence[int], asked: ScaleIn
) -> frozenset[int]:
    """Replicas that served the fewest blocks lately."""
    worth = dict.fromkeys(range(asked.replicas), 0)
    for (at, chain), home in zip(requests, homes, strict=True):
        if at >= asked.at_s - asked.horizon_s:
            worth[home] += len(chain)
    return frozenset(sorted(worth, key=lambda name: (worth[name], name))[: asked.released])


def _warmed(load: Workload, asked: ScaleIn, staying: Mapping[int, Cache], gone: Cache) -> tuple[dict[int, Cache], int]:
    """The staying caches with the hottest prefixes that only the gone ones held, in turn; and blocks loaded."""
    start = max(0.0, asked.at_s - asked.horizon_s)
    room = int(asked.cache_tokens * asked.warm_share)
    warmed = _copied(staying)
    loaded = 0
    turn = itertools.cycle(warmed)
    for prefix in hottest(load, most_tokens=room, start=start, end=asked.at_s):
        held = max(cache.found(prefix.blocks) for cache in warmed.values())
        if held < len(prefix.blocks) and gone.found(prefix.blocks) > held:
            home = next(turn)
            loaded += len(prefix.blocks) - warmed[home].found(prefix.blocks)
            warmed[home].hold(prefix.blocks)
    return warmed, loaded


def _copied(caches: Mapping[int, Cache]) -> dict[int, Cache]:
    return {name: Cache(cache.room, OrderedDict(cache.blocks)) for name, cache in caches.items()}


def _hits(requests: Sequence[tuple[float, list[int]]], caches: Mapping[int, Cache], store: Cache | None) -> int:
    """Prompt tokens found in caches. The caches given are left as they are."""
    fleet = _Fleet(_copied(caches), store)
    return sum(fleet.serve(at, chain)[1] for at, chain in requests) * BLOCK_TOKENS


def refuse_journal(path: Path) -> None:
    """Raises BadSettings for a journal: it tells tokens and hits per second, not which prompts were alike."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline(1_000_000))
    except (OSError, ValueError):
        return
    if isinstance(first, dict) and "seen" in first and "decision" in first:
        problem = "is a journal: it has rates of tokens and hits, and no prefix blocks of requests"
        right = "record the gateway's or the engine's KV events as a trace with hash_ids (format mooncake)"
        raise BadSettings((f"--trace {path}: {problem}; {right}",))
