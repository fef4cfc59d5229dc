"""From a world that has ended to a `Result`."""

from __future__ import annotations

import platform
from dataclasses import asdict, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.simulator.judged import judged
from autoscaler.simulator.need import needed_replicas
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.result import Result
from autoscaler.simulator.score import (
    BIN_S,
    Served,
    direction_changes,
    follows,
    over_ask,
    served,
    stepwise,
)

if TYPE_CHECKING:
    from autoscaler.policies.policy import Policy
    from autoscaler.simulator.fleet import Fleet
    from autoscaler.simulator.fluid import FluidFleet
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.world import SimulatedWorld

HOUR_S = 3600.0
LONGEST_SERIES = 20_000
"""Bins of the comparison of had and needed; longer runs get wider ones."""


def request_result(world: SimulatedWorld, fleet: Fleet, load: Workload, policy: Policy, seed: int) -> Result:
    """The score of a world whose requests were played one by one."""
    outcomes = fleet.ledger.frozen()
    score = served(load, outcomes, world.setup.slo)
    across = fleet.across_bytes / fleet.moved_bytes if fleet.moved_bytes else None
    more = {"shed": fleet.shed, "refused": fleet.refused, "preemptions": int(outcomes.preempted.sum())}
    return _result(
        world, score, load, policy, {"seed": seed, "fidelity": "requests", "kv_across_share": across, **more}
    )


def fluid_result(
    world: SimulatedWorld, fleet: FluidFleet, load: Workload | DemandSeries, policy: Policy, seed: int
) -> Result:
    """The score of a world whose requests flowed."""
    score = judged(fleet, world.setup.slo, world.horizon)
    more = {"shed": 0.0, "refused": 0.0, "preemptions": 0.0}
    return _result(world, score, load, policy, {"seed": seed, "fidelity": "fluid", **more})


def config_of(world: SimulatedWorld, policy: Policy, load: Workload | DemandSeries) -> dict[str, Any]:
    """Everything a result depends on, as plain values."""
    made: Any = policy
    knobs = {one.name: getattr(policy, one.name) for one in fields(made)} if is_dataclass(made) else {}
    staged = world.stage
    return {
        "setup": asdict(world.setup),
        "policy": {"name": policy.name, "interval_s": policy.interval_s, **knobs, "follow": asdict(policy.follow)},
        "told": {
            "profile": staged.scene.roles[0].profile,
            "leads_s": {rung.tier.value: rung.lead_s for rung in staged.scene.supply},
        },
        "price_per_gpu_hour": staged.price_per_gpu_hour,
        "workload": {"name": load.name, "duration_s": load.duration, "notes": list(load.notes)},
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }


def _result(
    world: SimulatedWorld, score: Served, load: Workload | DemandSeries, policy: Policy, more: dict[str, Any]
) -> Result:
    bin_s = max(BIN_S, load.bin_s if isinstance(load, DemandSeries) else 0.0, load.duration / LONGEST_SERIES)
    needed = needed_replicas(load, world.stage, bin_s)
    times = np.arange(len(next(iter(needed.values()))), dtype=np.float64) * bin_s
    histories = {role: book.history for role, book in world.pods.books.items()}
    ready = [stepwise([(at, up) for at, _, _, up in told], times) for told in histories.values()]
    had = np.sum(ready, axis=0).astype(np.float64)
    wanted = np.sum(list(needed.values()), axis=0).astype(np.float64)
    correlation, lag = follows(had, wanted, bin_s)
    specs = {role: [(at, spec) for at, spec, _, _ in told] for role, told in histories.items()}
    asked = {role: stepwise(world.asked[role] or specs[role], times) for role in needed}
    gpu_s = world.pods.held.gpu_seconds
    cost = gpu_s / HOUR_S * world.stage.price_per_gpu_hour
    return Result(
        policy=policy.name,
        trace=load.name,
        requests=score.requests,
        finished=score.finished,
        slo_attainment=score.attainment,
        ttft_attainment=score.ttft_ok,
        tpot_attainment=score.tpot_ok,
        goodput_rps=score.goodput,
        ttft_p50_s=score.ttft[0],
        ttft_p90_s=score.ttft[1],
        ttft_p99_s=score.ttft[2],
        tpot_p50_s=score.tpot[0],
        tpot_p90_s=score.tpot[1],
        tpot_p99_s=score.tpot[2],
        gpu_hours=gpu_s / HOUR_S,
        cost_per_million_tokens=cost / (score.tokens / 1e6) if score.tokens else float("nan"),
        gpu_utilisation=world.busy_s * world.stage.profile.gpus / gpu_s if gpu_s else float("nan"),
        peak_over_ask=max(over_ask(asked[role], needed[role], bin_s) for role in needed),
        direction_changes=sum(direction_changes([spec for _, spec in told]) for told in specs.values()),
        supply_correlation=correlation,
        supply_lag_s=lag,
        recovery_s=score.recovery_s,
        lost_training_gpu_hours=world.supply.lost.gpu_seconds / HOUR_S,
        evictions=world.supply.lost.evictions,
        peak_replicas=int(had.max()),
        mean_replicas=float(had.mean()),
        cross_domain_share=world.pods.cross_domain_share(),
        config=config_of(world, policy, load),
        notes=load.notes,
        bin_s=bin_s,
        history={role.value: told for role, told in histories.items()},
        needed={role.value: counts.tolist() for role, counts in needed.items()},
        **more,
    )
