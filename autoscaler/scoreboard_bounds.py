"""The rows of a scoreboard that know the whole trace beforehand: the static counts and the oracle."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.simulator.need import needed_replicas
from autoscaler.simulator.oracle import ORACLE_BIN_S, oracle
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.result import Result
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.score import direction_changes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.simulator.oracle import Bound
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.scenes import Stage
    from autoscaler.simulator.setup import Setup

ORACLE = "oracle"
"""Name of the clairvoyant lower bound on the command line; it is no policy, nothing is simulated."""
PEAK, MEAN = "static-peak", "static-mean"
"""Names of the policies whose counts are taken from the trace."""
MOST_BINS = 4000
"""Bins of a bound; longer traces get wider ones (a week: 151 s), which only lowers it."""


def static_counts(name: str, given: Mapping[str, str], load: Workload | DemandSeries, setup: Setup) -> dict[str, int]:
    """Counts for the roles that a static policy was given none for; empty for other policies.

        static-peak = max, static-mean = ceil(mean) of the replicas needed per 15 s bin (or the demand's wider bin)

    Args:
        name: of the policy.
        given: its knobs; a role named there keeps its count.
        load: the whole trace: both statics are clairvoyant.
        setup: the world; its bounds and the profile that policies are told hold.
    """
    if name not in {PEAK, MEAN}:
        return {}
    needed = needed_replicas(load, stage(setup), _bin_s(load))
    return {
        role.value: int(counts.max()) if name == PEAK else math.ceil(float(counts.mean()) - 1e-9)
        for role, counts in needed.items()
        if role.value not in given
    }


def started_static(setup: Setup, counts: Mapping[str, int]) -> Setup:
    """The same world, begun with a static fleet already standing, where all roles have one count and none was told."""
    if setup.initial is not None or len(set(counts.values())) != 1:
        return setup
    return replace(setup, initial=next(iter(counts.values())))


def bound(load: Workload | DemandSeries, setup: Setup, attainment: float) -> Bound:
    """The oracle's bound for a load, by the real profile whatever policies are told."""
    return oracle(load, stage(replace(setup, told_profile=None)), attainment, _bin_s(load))


def oracle_result(
    load: Workload | DemandSeries, setup: Setup, *, seed: int, knobs: Mapping[str, str] | None = None
) -> Result:
    """The oracle as a row: measures that a bound does not have are NaN, null in JSON.

    Args:
        load: the trace.
        setup: the world.
        seed: said in the result; the bound draws nothing.
        knobs: `attainment`, the share to serve well (default: the setup's SLO).

    Raises:
        BadSettings: another knob, an attainment outside 0..1, a load without requests.
    """
    share = _attainment(knobs or {}, setup.slo.attainment)
    if isinstance(load, DemandSeries):
        total, tokens = float(load.requests.sum()), float(load.output.sum())
    else:
        total, tokens = float(len(load)), float(load.output.sum(dtype=np.int64))
    if not total > 0:
        raise BadSettings((f"workload {load.name!r} has no requests; there is nothing to bound",))
    staged = stage(replace(setup, told_profile=None))
    found = oracle(load, staged, share, _bin_s(load))
    measures = _measures(found, staged, tokens)
    config = {
        "setup": asdict(setup),
        "policy": {"name": ORACLE, "attainment": share},
        "price_per_gpu_hour": staged.price_per_gpu_hour,
        "workload": {"name": load.name, "duration_s": load.duration, "notes": list(load.notes)},
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }
    needed = needed_replicas(load, staged, found.bin_s)
    return Result(
        policy=ORACLE,
        trace=load.name,
        seed=seed,
        fidelity="bound",
        requests=total,
        finished=total,
        slo_attainment=share,
        goodput_rps=share * total / max(load.duration, 1e-9),
        gpu_hours=found.gpu_hours,
        config=config,
        notes=(*load.notes, f"lower bound on GPU-hours for {share:.4g} of the requests; nothing was simulated"),
        bin_s=found.bin_s,
        needed={role.value: counts.tolist() for role, counts in needed.items()},
        **measures,
    )


def _bin_s(load: Workload | DemandSeries) -> float:
    grain = load.bin_s if isinstance(load, DemandSeries) else 0.0
    return max(ORACLE_BIN_S, grain, load.duration / MOST_BINS)


def _attainment(knobs: Mapping[str, str], default: float) -> float:
    for knob, text in knobs.items():
        if knob != "attainment":
            raise BadSettings((f"the oracle has no knob {knob!r}. There is: attainment",))
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not 0 <= share <= 1:
            raise BadSettings((f"oracle: attainment is {text!r}; it must be a number 0..1",))
        return share
    return default


def _measures(found: Bound, staged: Stage, tokens: float) -> dict[str, Any]:
    """What follows from the bound's counts, and NaN for what only a simulation can say."""
    counts = {role: np.asarray(series) for role, series in found.replicas.items()}
    total = np.sum(list(counts.values()), axis=0)
    unknown = (
        *("ttft_attainment", "tpot_attainment", "ttft_p50_s", "ttft_p90_s", "ttft_p99_s", "tpot_p50_s", "tpot_p90_s"),
        *("tpot_p99_s", "gpu_utilisation", "peak_over_ask", "supply_correlation", "supply_lag_s", "recovery_s"),
    )
    history = {}
    for role, series in counts.items():
        changed = np.flatnonzero(np.diff(series, prepend=-1)).tolist()
        history[role] = [(at * found.bin_s, *(int(series[at]),) * 3) for at in changed]
    return {
        **dict.fromkeys(unknown, math.nan),
        "shed": 0.0,
        "refused": 0.0,
        "preemptions": 0.0,
        "evictions": 0,
        "lost_training_gpu_hours": 0.0,
        "cross_domain_share": None,
        "cost_per_million_tokens": found.gpu_hours * staged.price_per_gpu_hour / (tokens / 1e6) if tokens else math.nan,
        "direction_changes": sum(direction_changes(series.tolist()) for series in counts.values()),
        "peak_replicas": int(total.max()),
        "mean_replicas": float(total.mean()),
        "history": history,
    }
