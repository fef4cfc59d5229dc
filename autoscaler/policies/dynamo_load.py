"""The steps of Dynamo's load-based side: one up, one down or none, from every engine's present load.

Formulas and thresholds in `dynamo`; source: ai-dynamo/dynamo components/planner, load scaling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoscaler.model import Role
from autoscaler.policies.dynamo_sizing import Load, Requests, itl_s, ttft_s
from autoscaler.policies.role_steps import engines_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.model import RoleObservation
    from autoscaler.velocity import Engine, Target

PREFILL_UP = {False: 1.0, True: 0.1}
PREFILL_DOWN = {False: 0.1, True: 0.0}
DECODE_UP = {False: 1.0, True: 0.4}
DECODE_DOWN = {False: 0.6, True: 0.1}
"""Easy thresholds by whether latency (True) or throughput (False) is the aim."""


def loads_of(told: RoleObservation, role: Role, mean: Requests) -> tuple[Load, ...]:
    """Every engine's load; the KV a queue will hold is its requests' context."""
    return tuple(
        Load(
            one.waiting_tokens,
            one.running,
            0.0 if role is Role.PREFILL else one.waiting,
            one.kv_usage * one.kv_capacity,
            0.0 if role is Role.PREFILL else one.waiting * mean.context,
        )
        for one in engines_of(told)
    )


def easy_step(
    role: Role, loads: Sequence[Load], kv_capacity: float, context: float, count: int, *, latency: bool
) -> tuple[int, str]:
    """The step by fixed thresholds: up if any engine is over, down if all are under and more than one is left."""
    if role is Role.PREFILL:
        ratios = [load.queued_tokens / context for load in loads]
        up, down = PREFILL_UP[latency], PREFILL_DOWN[latency]
        over = any(ratio >= up for ratio in ratios)
        under = all(ratio < down or ratio == 0.0 for ratio in ratios)
        words = f"queued prompt tokens up to {max(ratios):.3g} of a context"
    else:
        beside = [load.queued_tokens if role is Role.COLOCATED else 0.0 for load in loads]
        ratios = [
            (load.kv + load.queued_kv + more) / max(kv_capacity, 1.0) for load, more in zip(loads, beside, strict=True)
        ]
        over = any(ratio > DECODE_UP[latency] for ratio in ratios)
        under = all(ratio < DECODE_DOWN[latency] for ratio in ratios)
        words = f"KV wanted up to {max(ratios):.3g} of an engine's"
    if over:
        return 1, words
    return (-1 if under and count > 1 else 0), words


def sla_step(
    role: Role,
    loads: Sequence[Load],
    engine: Engine,
    mean: Requests,
    target: Target,
    sensitivity: float,
    count: int,
) -> tuple[int, str]:
    """The step by estimated latencies.

    Args:
        role: prefill goes by TTFT, decode by ITL, colocated by both.
        loads: of every engine.
        engine: its time model.
        mean: request.
        target: latencies, s.
        sensitivity: margin for shrinking, 0..1.
        count: ready replicas.
    """
    ups, downs, words = [], [], []
    if role is not Role.DECODE:
        times = [ttft_s(role, engine, load, mean) for load in loads]
        ups.append(all(time > target.ttft_s for time in times))
        downs.append(
            count > 1 and all(_fewer_prefill(role, load, engine, mean, target, sensitivity, count) for load in loads)
        )
        words.append(f"TTFT {min(times):.3g}..{max(times):.3g} s")
    if role is not Role.PREFILL:
        times = [itl_s(role, engine, load, mean) for load in loads]
        ups.append(all(time > target.itl_s for time in times))
        downs.append(
            count > 1 and all(_fewer_decode(role, load, engine, mean, target, sensitivity, count) for load in loads)
        )
        words.append(f"ITL {1000 * min(times):.3g}..{1000 * max(times):.3g} ms")
    said = ", ".join(words)
    if any(ups):
        return 1, said
    return (-1 if all(downs) else 0), said


def _fewer_prefill(
    role: Role, load: Load, engine: Engine, mean: Requests, target: Target, sensitivity: float, count: int
) -> bool:
    """Whether an engine keeps its TTFT with one replica less."""
    growth = count / (count - 1)
    own = ttft_s(role, engine, Load(0.0, load.running, load.waiting, load.kv, load.queued_kv), mean, growth)
    return ttft_s(role, engine, load, mean, growth) - own < (target.ttft_s - own) * sensitivity


def _fewer_decode(
    role: Role, load: Load, engine: Engine, mean: Requests, target: Target, sensitivity: float, count: int
) -> bool:
    """Whether an engine keeps its ITL, and its KV, with one replica less."""
    growth = count / (count - 1)
    kv = load.kv + load.queued_kv + (load.queued_tokens if role is Role.COLOCATED else 0.0)
    fits = kv * growth < engine.kv_capacity
    return fits and itl_s(role, engine, load, mean, growth) < target.itl_s * sensitivity
