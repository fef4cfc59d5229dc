"""What WVA's saturation V2 makes of one role's engines: capacity, demand, and what is lacking or spare.

    KVmax = KV tokens; T = round(kv_peak * KVmax); k1 = floor(0.80 * KVmax)
    k2    P1 queue peak >= 5: T itself, remembered (last 10, by length class of outputs)
          P2 the mean of those remembered
          P3 floor(N * (I + O/2)), N = min(B * O / (I + O), S)
          P4 k1
    eff = min(k1, k2);  demand = T + floor(q * (I + O)), for prefill q * I
    PRC = median of eff;  supply = PRC * reporting;  anticipated = PRC * (reporting + pending)
    lacking = max(0, D / 0.85 - anticipated);  spare = max(0, supply - D / 0.70)

Source: llm-d-incubation/workload-variant-autoscaler internal/engines/analyzers/saturation_v2/analyzer.go and
internal/engines/saturation/engine_v2.go. Units: KV tokens; one engine is one instance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoscaler.model import EngineObservation

SHORT, MEDIUM = 100.0, 500.0
"""Mean output tokens below which a load is of the class short, medium; long above."""
REMEMBERED = 10
"""Capacities seen at saturation that are kept per class."""
FORGET_S = 86_400.0
"""A class without a new one for this long is forgotten."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Capacities (KV tokens) seen at saturation, newest last, and when the newest came."""

    tokens: tuple[float, ...] = ()
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """V2's thresholds and the engine arguments it assumes.

    Attributes:
        kv, queue: saturation: KV usage 0..1; waiting requests.
        up, down: utilisation of anticipated capacity above which to grow, of supply below which to shrink.
        batched_tokens, most_running: `max_num_batched_tokens` (B) and `max_num_seqs` (S).
        charge_output: a waiting request is charged its output too (v0.9), or its input only (February).
    """

    kv: float = 0.8
    queue: float = 5.0
    up: float = 0.85
    down: float = 0.7
    batched_tokens: float = 8192.0
    most_running: float = 256.0
    charge_output: bool = True


@dataclass(frozen=True, slots=True)
class Shape:
    """Mean input and output tokens of the requests that completed; 0 where none did."""

    prompt: float
    output: float

    @property
    def length(self) -> str:
        """Class of its outputs."""
        return "short" if self.output < SHORT else "medium" if self.output < MEDIUM else "long"


@dataclass(frozen=True, slots=True)
class Capacity:
    """A role's capacity and demand, KV tokens.

    Attributes:
        each: of one engine (PRC). supply: of those reporting. anticipated: with those pending. demand: wanted.
    """

    each: float
    supply: float
    anticipated: float
    demand: float

    def lacking(self, limits: Limits) -> float:
        """RC."""
        return max(0.0, self.demand / limits.up - self.anticipated)

    def spare(self, limits: Limits) -> float:
        """SC."""
        return max(0.0, self.supply - self.demand / limits.down)


def by_arguments(shape: Shape, batched_tokens: float, most_running: float) -> float | None:
    """P3: KV tokens held when the batch budget is spent; None without a known shape."""
    if shape.output <= 0 or shape.prompt + shape.output <= 0:
        return None
    running = min(batched_tokens * shape.output / (shape.prompt + shape.output), most_running)
    held = math.floor(running * (shape.prompt + shape.output / 2))
    return float(held) if held > 0 else None


def effective(
    engine: EngineObservation, shape: Shape, seen: Mapping[str, Seen], limits: Limits, at: float
) -> tuple[float, Mapping[str, Seen]]:
    """`eff` of one engine, and the capacities seen at saturation, this one included when it is saturated."""
    used = round(engine.kv_peak * engine.kv_capacity)
    by_memory = math.floor(limits.kv * engine.kv_capacity)
    known = seen.get(shape.length)
    if known is not None and at - known.at > FORGET_S:
        known = None
    if engine.waiting_peak >= limits.queue and used > 0:
        tokens = (*(known.tokens if known is not None else ()), float(used))[-REMEMBERED:]
        return float(min(by_memory, used)), {**seen, shape.length: Seen(tokens, at)}
    if known is not None:
        return min(by_memory, sum(known.tokens) / len(known.tokens)), seen
    assumed = by_arguments(shape, limits.batched_tokens, limits.most_running)
    return float(by_memory) if assumed is None else min(by_memory, assumed), seen


def capacity(
    engines: Sequence[EngineObservation],
    pending: int,
    shape: Shape,
    seen: Mapping[str, Seen],
    limits: Limits,
    at: float,
    *,
    prefill: bool,
) -> tuple[Capacity | None, Mapping[str, Seen]]:
    """Capacity of a role's engines, in the order of names; None when none tells its KV capacity.

    Args:
        engines: those that report.
        pending: engines that do not yet.
        shape: of the requests.
        seen: capacities at saturation so far, by length class.
        limits: thresholds.
        at: Unix time.
        prefill: whether the role prefills only (waiting requests then cost their input alone).
    """
    each, demand = [], 0.0
    charge = shape.prompt + (shape.output if limits.charge_output and not prefill else 0.0)
    for engine in engines:
        if engine.kv_capacity <= 0:
            continue
        one, seen = effective(engine, shape, seen, limits, at)
        each.append(one)
        demand += round(engine.kv_peak * engine.kv_capacity) + math.floor(engine.waiting_peak * charge)
    if not each or median(each) <= 0:
        return None, seen
    middle = median(each)
    return Capacity(middle, middle * len(each), middle * (len(each) + pending), demand), seen


def with_queue(found: Capacity, queued: float, shape: Shape, hit_rate: float, *, prefill: bool) -> Capacity:
    """The capacity with what the scheduler holds added to the demand: in = Q * I * (1 - h), out = Q * O."""
    tokens = queued * shape.prompt * (1.0 - hit_rate) + (0.0 if prefill else queued * shape.output)
    return replace(found, demand=found.demand + tokens)
