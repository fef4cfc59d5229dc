"""The demonstration's default day: calm, ramp, plateau, burst, decline, calm, in a minute or three.

The engines are an 8B model on a small GPU, made up but plausible. Prefill: a full chunk of 2,048 tokens takes
0.012 + 2048 * 0.00016 = 0.34 s, 6,000 tokens/s. Decode: with 33 sequences of 1,200 tokens, which is what the KV cache
holds, a step takes 0.016 + 33 * 0.00035 + 39600 * 1.5e-7 = 0.0335 s, 985 tokens/s. A request computes about 1,000
prompt tokens and makes about 220, so that one prefill replica serves 6 requests/s and one decode replica 4.5.
"""

from __future__ import annotations

from autoscaler.demo.config import EngineConfig, LengthsConfig, PoolConfig, RoleConfig, SloConfig, WorkloadConfig
from autoscaler.simulator.engine_types import EngineRole

CALM_RATE = 4.5
"""Requests/s: 0.75 of one prefill replica, all of one decode replica."""

_SHORTEST_BURST_SECONDS = 3.0


def default_scenario(seconds: float, seed: int = 0) -> list[PoolConfig]:
    """The pools of the demonstration.

    Args:
        seconds: length of the day; it begins again after that.
        seed: shifts the burst a little (the fleet's own seed draws the requests).

    Raises:
        ValueError: `seconds` is below 10, too short for anything to start up in.
    """
    shortest = 10
    if not seconds >= shortest:
        raise ValueError(f"seconds is {seconds}; the scenario needs at least {shortest}")
    return [
        PoolConfig(
            name="llama-8b",
            model_name="meta-llama/Llama-3.1-8B-Instruct",
            roles=[_prefill(), _decode()],
            slo=SloConfig(ttft_seconds=2.0, tpot_seconds=0.05),
            workload=WorkloadConfig(
                knots=_knots(seconds, seed),
                period=seconds,
                prompt=LengthsConfig(median=1000, sigma=0.6, smallest=32, largest=6000),
                output=LengthsConfig(median=180, sigma=0.6, smallest=8, largest=900),
                cached_probability=0.3,
                cached_share=0.5,
            ),
        )
    ]


def _knots(seconds: float, seed: int) -> list[tuple[float, float]]:
    """4.5 requests/s, four times that between a ramp and a decline, ten times in the burst."""
    calm, high, burst = CALM_RATE, 4 * CALM_RATE, 10 * CALM_RATE
    length = max(_SHORTEST_BURST_SECONDS, 0.04 * seconds)
    start = seconds * (0.52 + 0.01 * (seed % 5))
    return [
        (0.0, calm),
        (0.20 * seconds, calm),
        (0.35 * seconds, high),
        (start, high),
        (start, burst),
        (start + length, burst),
        (start + length, high),
        (max(0.70 * seconds, start + length), high),
        (max(0.82 * seconds, start + length), calm),
        (seconds, calm),
    ]


def _prefill() -> RoleConfig:
    return RoleConfig(
        role=EngineRole.PREFILL,
        engine=EngineConfig(
            step_seconds=0.012,
            prefill_token_seconds=1.6e-4,
            sequence_seconds=3e-4,
            resident_token_seconds=2e-8,
            kv_capacity_tokens=40_960,
            max_running=64,
            max_batched_tokens=2048,
        ),
        replicas=2,
        min_replicas=1,
        max_replicas=8,
        startup_seconds=4.0,
        drain_seconds=20.0,
    )


def _decode() -> RoleConfig:
    return RoleConfig(
        role=EngineRole.DECODE,
        engine=EngineConfig(
            step_seconds=0.016,
            prefill_token_seconds=1.6e-4,
            sequence_seconds=3.5e-4,
            resident_token_seconds=1.5e-7,
            kv_capacity_tokens=40_960,
            max_running=64,
            max_batched_tokens=2048,
        ),
        replicas=2,
        min_replicas=1,
        max_replicas=10,
        startup_seconds=5.0,
        drain_seconds=20.0,
    )
