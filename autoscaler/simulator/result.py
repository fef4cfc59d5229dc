"""What a simulation returns: the score, with the whole configuration that made it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """One run. Times in seconds, GPU-hours, money in the price's currency; NaN where nothing can be said.

    Attributes:
        policy, trace, seed, fidelity: what was run; `fidelity` is `requests` or `fluid`.
        requests, finished, shed, refused: shed by a full gateway; refused: longer than any engine's KV cache.
        slo_attainment: share of all requests within both targets. ttft_attainment, tpot_attainment: within one.
        goodput_rps: requests/s within both targets.
        cost_per_million_tokens: GPU-hours * price per million output tokens of finished requests.
        gpu_utilisation: share of held GPU time in which the engine was computing.
        peak_over_ask: highest ratio of the wish to the most replicas needed within 300 s of it.
        direction_changes: how often the deployments turned from growing to shrinking or back.
        supply_correlation, supply_lag_s: ready replicas against needed ones; the delay at which they match best.
        recovery_s: longest spell of minutes below the wanted attainment.
        peak_replicas, mean_replicas: ready, all roles together.
        cross_domain_share: share of time-weighted prefill-decode pairs in different network domains; None: colocated.
        kv_across_share: share of the KV bytes moved that went between two domains; None: none moved, or a fluid.
        config: everything needed to run it again.
        history: by role, (s, spec, existing, ready) at each change. needed: by role, replicas needed per `bin_s`.
    """

    policy: str
    trace: str
    seed: int
    fidelity: str
    requests: float
    finished: float
    shed: float
    refused: float
    slo_attainment: float
    ttft_attainment: float
    tpot_attainment: float
    goodput_rps: float
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p90_s: float
    tpot_p99_s: float
    gpu_hours: float
    cost_per_million_tokens: float
    gpu_utilisation: float
    peak_over_ask: float
    direction_changes: int
    supply_correlation: float
    supply_lag_s: float
    recovery_s: float
    lost_training_gpu_hours: float
    evictions: int
    preemptions: float
    peak_replicas: int
    mean_replicas: float
    cross_domain_share: float | None
    config: dict[str, Any]
    kv_across_share: float | None = None
    notes: tuple[str, ...] = ()
    bin_s: float = 15.0
    history: dict[str, list[tuple[float, int, int, int]]] = field(default_factory=dict)
    needed: dict[str, list[int]] = field(default_factory=dict)

    def as_json(self, *, series: bool = False) -> dict[str, Any]:
        """Plain values for JSON, in which NaN and infinity are null; the time series only when asked for."""
        left_out = () if series else ("history", "needed", "bin_s")
        # Not by `asdict`, which copies every number of the series first.
        return {one.name: _finite(getattr(self, one.name)) for one in fields(self) if one.name not in left_out}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _finite(asdict(value))
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
