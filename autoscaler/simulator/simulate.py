"""One policy in one simulated world: `simulate(load, policy, setup, seed=...) -> Result`."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.errors import BadSettings, CannotSee
from autoscaler.model import Decision, Observation, Role, RoleObservation
from autoscaler.policies.static_counts import replicas_for
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.result import Result
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.score import (
    BIN_S,
    NEED_S,
    direction_changes,
    follows,
    over_ask,
    served,
    stepwise,
)
from autoscaler.simulator.setup import Setup
from autoscaler.simulator.world import SimulatedWorld

if TYPE_CHECKING:
    from autoscaler.loop import World
    from autoscaler.policies.policy import Policy, Scene
    from autoscaler.profiles import ProfileBook
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.score import Counts
    from autoscaler.simulator.scenes import Stage

Record = Callable[[Observation, Decision], None]
"""Told every tick, for a journal or a progress bar."""
HOUR_S = 3600.0


def simulate(
    load: Workload | DemandSeries,
    policy: Policy,
    setup: Setup | None = None,
    *,
    seed: int = 0,
    book: ProfileBook | None = None,
    record: Record | None = None,
) -> Result:
    """Run a policy on a load and score it. The same arguments give the same result, to the byte.

    Args:
        load: requests (simulated one by one), or demand per bin (simulated as a fluid).
        policy: decides at its own pace; actuation, supply and faults are the setup's.
        setup: the world; the defaults are those of `Setup`.
        seed: of start-up times, noise and faults. Requests come from the load alone.
        book: hardware profiles; the shipped ones by default.
        record: called with every observation and decision.

    Raises:
        BadSettings: a setup that cannot be, a load without requests, an interval that is not positive.
    """
    setup = Setup() if setup is None else setup
    if not policy.interval_s > 0:
        raise BadSettings((f"policy {policy.name}: interval_s is {policy.interval_s}; it must be > 0 seconds",))
    if isinstance(load, DemandSeries):
        from autoscaler.simulator.fluid import simulate_fluid

        return simulate_fluid((load,), policy, (setup,), seed=seed, book=book, record=record)[0]
    if not len(load):
        raise BadSettings((f"workload {load.name!r} has no requests; there is nothing to simulate",))
    staged = stage(setup, book)
    world = SimulatedWorld(load, setup, staged, policy.follow, interval_s=policy.interval_s, seed=seed)
    run_policy(world, policy, staged.scene, record)
    return _result(world, staged, policy, seed)


def run_policy(world: World, policy: Policy, scene: Scene, record: Record | None = None) -> Any:
    """The loop, for any policy: look, decide, record, enact until the world ends; returns what is then remembered."""
    memory = policy.start(scene)
    for now in world.ticks():
        try:
            seen = world.observe(now)
        except CannotSee as error:
            blind = tuple(RoleObservation(rule.key) for rule in scene.roles)
            seen = Observation(now, blind, failure=str(error))
        decision, memory = policy.decide(seen, memory, scene)
        if record is not None:
            record(seen, decision)
        world.enact(decision)
    return memory


def needed_replicas(load: Workload, staged: Stage) -> dict[Role, Counts]:
    """Replicas that the arrivals of the minute around each bin need by the real profile's velocity, within bounds."""
    bins = max(1, int(np.ceil(load.duration / BIN_S)))
    edges = np.arange(bins + 1) * BIN_S
    half = NEED_S / 2
    low = np.searchsorted(load.arrival_s, edges[:-1] + BIN_S / 2 - half)
    high = np.searchsorted(load.arrival_s, edges[:-1] + BIN_S / 2 + half)
    cached = np.zeros(len(load)) if load.cached is None else load.cached
    prompts = np.concatenate([[0.0], np.cumsum(load.prompt - cached)])
    outputs = np.concatenate([[0.0], np.cumsum(load.output, dtype=np.float64)])
    found: dict[Role, Counts] = {}
    for rule in staged.scene.roles:
        counts = np.full(bins, rule.minimum, dtype=np.int64)
        for index in range(bins):
            first, last = int(low[index]), int(high[index])
            many = last - first
            if many:
                over = min(edges[index] + BIN_S / 2 + half, load.duration) - max(edges[index] + BIN_S / 2 - half, 0.0)
                prompt = float(prompts[last] - prompts[first]) / many
                output = float(outputs[last] - outputs[first]) / many
                counts[index] = replicas_for(rule, many / max(over, BIN_S), prompt, output)
        found[rule.key.role] = counts
    return found


def config_of(setup: Setup, policy: Policy, staged: Stage, load: Workload | DemandSeries) -> dict[str, Any]:
    """Everything a result depends on, as plain values."""
    knobs = asdict(policy) if is_dataclass(policy) and not isinstance(policy, type) else {}
    return {
        "setup": asdict(setup),
        "policy": {"name": policy.name, "interval_s": policy.interval_s, **knobs, "follow": asdict(policy.follow)},
        "told": {
            "profile": staged.scene.roles[0].profile,
            "leads_s": {f"{rung.tier}": rung.lead_s for rung in staged.scene.supply},
        },
        "price_per_gpu_hour": staged.price_per_gpu_hour,
        "workload": {"name": load.name, "duration_s": load.duration, "notes": list(load.notes)},
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }


def _result(world: SimulatedWorld, staged: Stage, policy: Policy, seed: int) -> Result:
    load, setup = world.workload, world.setup
    outcomes = world.fleet.ledger.frozen()
    score = served(load, outcomes, setup.slo)
    needed = needed_replicas(load, staged)
    times = np.arange(len(next(iter(needed.values())))) * BIN_S
    histories = {role: book.history for role, book in world.pods.books.items()}
    ready = {role: stepwise([(at, up) for at, _, _, up in told], times) for role, told in histories.items()}
    asked = {role: stepwise(world.asked[role], times) for role in needed}
    had, wanted = sum(ready.values()), sum(needed.values())
    correlation, lag = follows(np.asarray(had, dtype=np.float64), np.asarray(wanted, dtype=np.float64))
    gpu_s = world.pods.held.gpu_seconds
    cost = gpu_s / HOUR_S * staged.price_per_gpu_hour
    return Result(
        policy=policy.name,
        trace=load.name,
        seed=seed,
        fidelity="requests",
        requests=score.requests,
        finished=score.finished,
        shed=world.fleet.shed,
        refused=world.fleet.refused,
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
        gpu_utilisation=world.busy_gpu_seconds() / gpu_s if gpu_s else float("nan"),
        peak_over_ask=max(over_ask(asked[role], needed[role]) for role in needed),
        direction_changes=sum(direction_changes([spec for _, spec, _, _ in told]) for told in histories.values()),
        supply_correlation=correlation,
        supply_lag_s=lag,
        recovery_s=score.recovery_s,
        lost_training_gpu_hours=world.supply.lost.gpu_seconds / HOUR_S,
        evictions=world.supply.lost.evictions,
        preemptions=int(outcomes.preempted.sum()),
        peak_replicas=int(np.max(had)),
        mean_replicas=float(np.mean(had)),
        cross_domain_share=world.pods.cross_domain_share(),
        config=config_of(setup, policy, staged, load),
        notes=load.notes,
        bin_s=BIN_S,
        history={role.value: told for role, told in histories.items()},
        needed={role.value: counts.tolist() for role, counts in needed.items()},
    )
