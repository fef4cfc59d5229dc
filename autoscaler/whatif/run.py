"""One scenario in one simulated world: what a sweep repeats."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings
from autoscaler.policies.registry import knobs_of, make
from autoscaler.scoreboard_bounds import ORACLE, oracle_result, started_static, static_counts
from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.simulator.setup import Fault, FaultKind, Layout, Setup, Slo, SupplySetup, TrainingGang
from autoscaler.simulator.simulate import simulate
from autoscaler.whatif.history import grown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autoscaler.simulator.result import Result
    from autoscaler.whatif.history import Load, Loads
    from autoscaler.whatif.scenario import Scenario

ROOMS = ("autoscaler", "forecasting", "optimizer")
"""Packages whose code decides a result; a change of theirs makes kept results worthless."""


LONG_S = 2 * 86_400.0
"""Longer loads are decided on three times a bin when they flow, at least once in LONGEST_INTERVAL_S and at most once
in LEAST_INTERVAL_S: bins of minutes hold nothing faster."""
LEAST_INTERVAL_S, LONGEST_INTERVAL_S = 60.0, 200.0


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario, of one pool, with one seed."""

    scenario: Scenario
    pool: str
    seed: int

    def key(self, load: Load) -> str:
        """SHA-256 (hex) over everything its result depends on: scenario, load, seed and the code itself."""
        plain = {"scenario": self.scenario.model_dump(mode="json"), "pool": self.pool, "seed": self.seed}
        parts = (json.dumps(plain, sort_keys=True), fingerprint(load), code())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def fingerprint(load: Load) -> str:
    """SHA-256 over a load's content and name."""
    if isinstance(load, Workload):
        return f"{load.name} {load.fingerprint()}"
    digest = hashlib.sha256(repr((load.name, load.bin_s, len(load))).encode())
    for array in (load.t_s, load.requests, load.prompt, load.output):
        digest.update(array.tobytes())
    return digest.hexdigest()


@cache
def code() -> str:
    """SHA-256 over the installed version and the source of ROOMS (read once, 5 MB at most)."""
    digest = hashlib.sha256()
    try:
        digest.update(version("tidegate").encode())
    except PackageNotFoundError:
        digest.update(b"source")
    root = Path(__file__).resolve().parents[2]
    for room in ROOMS:
        for file in sorted((root / room).rglob("*")):
            if file.suffix in {".py", ".yaml"}:
                digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def runs(scenarios: Iterable[Scenario], loads: Loads, seeds: int) -> tuple[Run, ...]:
    """Every scenario for every pool and seed, scenarios slowest."""
    return tuple(
        Run(scenario, pool, seed) for scenario in scenarios for pool in sorted(loads.pools) for seed in range(seeds)
    )


def setup_of(scenario: Scenario, pool: str = "pool") -> Setup:
    """The simulated world of a scenario. Raises BadSettings with what cannot be."""
    namespace, _, name = pool.rpartition("/")
    supply = scenario.supply
    ttft = scenario.slo.ttft_s
    usual = Slo(tpot_s=scenario.slo.tpot_s, attainment=scenario.slo.attainment)
    gangs = tuple(
        TrainingGang(gang.gpus, gang.priority, gang.checkpoint_s, gang.requeue_s)
        for gang in supply.gangs
        for _ in range(gang.count)
    )
    return Setup(
        profile=scenario.profile,
        layout=Layout(scenario.layout),
        minimum=scenario.minimum,
        maximum=scenario.maximum,
        initial=scenario.initial,
        slo=usual if ttft is None else Slo((), ttft, usual.tpot_s, usual.attainment),
        namespace=namespace or scenario.namespace,
        pool=name,
        supply=SupplySetup(
            gpus=supply.gpus,
            node_gpus=supply.node_gpus,
            gangs=gangs,
            nodes_to_buy=supply.nodes_to_buy,
            start_s=supply.start_s,
            start_scale=supply.start_scale,
            weights=supply.weights,
            peers=supply.peers,
            image_cached=supply.image_cached,
            compile_cached=supply.compile_cached,
            sleepers=supply.sleepers,
            price_per_gpu_hour=supply.price_per_gpu_hour,
        ),
        faults=tuple(
            Fault(FaultKind(fault.kind), fault.at_s, math.inf if fault.for_s is None else fault.for_s, fault.amount)
            for fault in scenario.faults
        ),
    )


def outcome(run: Run, loads: Mapping[str, Load]) -> dict[str, Any]:
    """Run it: the result as plain JSON values with its time series, the scenario, and what it costs in all.

        total_cost = GPU-hours * price + lost training GPU-hours * price * lost_work_price

    Raises:
        BadSettings: a policy, knob, profile or setup that cannot be, naming the scenario.
    """
    scenario = run.scenario
    try:
        load = grown(loads[run.pool], scenario, run.seed)
        setup = setup_of(scenario, run.pool)
        result = _result(load, scenario, setup, run.seed)
    except BadSettings as error:
        raise BadSettings(tuple(f"scenario {scenario.name!r}: {problem}" for problem in error.problems)) from None
    plain = result.as_json(series=True)
    price = _price(plain, scenario)
    plain["total_cost"] = price * (
        plain["gpu_hours"] + (plain["lost_training_gpu_hours"] or 0.0) * scenario.supply.lost_work_price
    )
    return {"scenario": scenario.model_dump(mode="json"), "pool": run.pool, **plain}


def _price(plain: Mapping[str, Any], scenario: Scenario) -> float:
    told = scenario.supply.price_per_gpu_hour
    return told if told is not None else float(plain["config"]["price_per_gpu_hour"])


def _result(load: Load, scenario: Scenario, setup: Setup, seed: int) -> Result:
    name = scenario.policy.name
    knobs = {knob: str(value) for knob, value in scenario.policy.knobs.items()}
    if name == ORACLE:
        return oracle_result(load, setup, seed=seed, knobs=knobs)
    fluid = scenario.fidelity == "fluid"
    interval_s = scenario.interval_s
    if interval_s is None and fluid and load.duration > LONG_S:
        bin_s = load.bin_s if isinstance(load, DemandSeries) else 0.0
        interval_s = min(max(bin_s / 3, LEAST_INTERVAL_S), LONGEST_INTERVAL_S)
    if interval_s is not None and "interval_s" in knobs_of(name):
        knobs.setdefault("interval_s", str(interval_s))
    policy = make(name, knobs)
    counts = static_counts(name, knobs, load, setup)
    if counts:
        setup = started_static(setup, counts)
        policy = make(name, {**knobs, **{role: str(count) for role, count in counts.items()}})
    return simulate(load, policy, setup, seed=seed, fluid=fluid)
