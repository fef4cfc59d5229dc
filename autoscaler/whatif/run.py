"""One scenario in one simulated world: what a sweep repeats."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings
from autoscaler.policies.registry import OWN, knobs_of, make
from autoscaler.policies.token_dynamics import TokenDynamics
from autoscaler.profiles import load_profiles
from autoscaler.scoreboard_bounds import ORACLE, oracle_result, started_static, static_counts
from autoscaler.simulator.binning import to_demand
from autoscaler.simulator.fluid_pace import Unhurried
from autoscaler.simulator.pools import Pool, simulate_pools
from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.setup import Fault, FaultKind, Layout, Setup, Slo, SupplySetup, TrainingGang
from autoscaler.simulator.simulate import simulate
from autoscaler.whatif.history import grown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autoscaler.policies.policy import Policy
    from autoscaler.profiles import ProfileBook
    from autoscaler.simulator.result import Result
    from autoscaler.whatif.history import Load, Loads
    from autoscaler.whatif.scenario import Scenario

ROOMS = ("autoscaler", "forecasting", "optimizer")
"""Packages whose code decides a result; a change of theirs makes kept results worthless."""


SUMMED_S, SUM_S = 86_400.0, 60.0
"""Requests over more than a day flow as demand per minute: in bins of seconds a week would take 7 s to flow."""
LONG_S = 2 * 86_400.0
"""Rivals decide on longer loads three times a bin when they flow, at least once in LONGEST_INTERVAL_S and at most once
in LEAST_INTERVAL_S: bins of minutes hold nothing faster."""
LEAST_INTERVAL_S, LONGEST_INTERVAL_S = 60.0, 200.0
TOGETHER = "*"
"""Stands for the pool of runs in which several pools share one supply."""
UNHURRIED_S = 21_600.0
"""Our own policy decides at every tick of what is shorter, and on longer loads that flow when there is news."""
LOOKS, STEP_S, LONGEST_LOOK_S = 5040, 15.0, 300.0
"""It then looks so often in all, every so many steps, but not less often than this (a week: every 120 s)."""


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario, of one pool, with one seed; TOGETHER instead of a pool: of all its pools at once."""

    scenario: Scenario
    pool: str
    seed: int

    def key(self, load: Load) -> str:
        """SHA-256 (hex) over everything its result depends on: scenario, load, seed and the code itself."""
        return self.keyed(fingerprint(as_played(load, self.scenario.fidelity)))

    def plays(self, pools: Iterable[str]) -> tuple[str, ...]:
        """Names of the loads it plays, of those there are. Raises BadSettings for a pool without load."""
        if self.pool != TOGETHER:
            return (self.pool,)
        there = set(pools)
        named = tuple(share.name for share in self.scenario.pools)
        if missing := [name for name in named if name not in there]:
            problem = f"scenario {self.scenario.name!r}: pool {missing[0]!r} has no load"
            raise BadSettings((f"{problem}; there are {', '.join(sorted(there))}",))
        return named

    def keyed(self, load: str) -> str:
        """The same where the load's fingerprint, as it is played, is known."""
        plain = {"scenario": self.scenario.model_dump(mode="json"), "pool": self.pool, "seed": self.seed}
        parts = (json.dumps(plain, sort_keys=True), load, code(), _written(self.scenario.profiles))
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


def _written(folder: str | None) -> str:
    """SHA-256 over the profiles in a folder; empty without one."""
    if folder is None:
        return ""
    files = sorted(Path(folder).glob("*.yaml"))
    return hashlib.sha256(b"\n".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


@cache
def _book(folder: str | None) -> ProfileBook | None:
    """The shipped profiles with a folder's own; None: the shipped ones. Read once in a process; raises BadSettings."""
    return None if folder is None else load_profiles(Path(folder))


def runs(scenarios: Iterable[Scenario], loads: Loads, seeds: int) -> tuple[Run, ...]:
    """Every scenario for every pool (those that share a supply at once) and seed, scenarios slowest."""
    return tuple(
        Run(scenario, pool, seed)
        for scenario in scenarios
        for pool in ((TOGETHER,) if scenario.pools else sorted(loads.pools))
        for seed in range(seeds)
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

    Pools that share a supply come as `parts`, one such result each; see `parts_of`.

    Raises:
        BadSettings: a policy, knob, profile or setup that cannot be, naming the scenario.
    """
    scenario = run.scenario
    try:
        if run.pool == TOGETHER:
            return {"parts": _together(run, loads)}
        load = grown(as_played(loads[run.pool], scenario.fidelity), scenario, run.seed)
        result = _result(load, scenario, setup_of(scenario, run.pool), run.seed)
    except BadSettings as error:
        raise BadSettings(tuple(f"scenario {scenario.name!r}: {problem}" for problem in error.problems)) from None
    return _told(scenario, run.pool, result.as_json(series=True))


def parts_of(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results in an outcome: one, or one per pool."""
    return list(found["parts"]) if "parts" in found else [dict(found)]


def _told(scenario: Scenario, pool: str, plain: dict[str, Any]) -> dict[str, Any]:
    price = _price(plain, scenario)
    plain["total_cost"] = price * (
        plain["gpu_hours"] + (plain["lost_training_gpu_hours"] or 0.0) * scenario.supply.lost_work_price
    )
    return {"scenario": scenario.model_dump(mode="json"), "pool": pool, **plain}


def _price(plain: Mapping[str, Any], scenario: Scenario) -> float:
    told = scenario.supply.price_per_gpu_hour
    return told if told is not None else float(plain["config"]["price_per_gpu_hour"])


def _together(run: Run, loads: Mapping[str, Load]) -> list[dict[str, Any]]:
    """All pools on one supply; what training lost there is told once, with the first pool of its accelerator."""
    scenario, name = run.scenario, run.scenario.policy.name
    if name == ORACLE or name.startswith("static-"):
        problem = f"policy {name} reckons each pool by itself; for pools that share a supply take one that decides"
        raise BadSettings((problem,))
    pools, theirs = [], []
    for share, pool in zip(scenario.pools, run.plays(loads), strict=True):
        own = share.model_dump(exclude={"name", "growth"}, exclude_none=True)
        its = scenario.model_copy(update={**own, "slo": share.slo or scenario.slo})
        its = its.model_copy(update={"growth": scenario.growth * share.growth})
        load = grown(as_played(loads[pool], scenario.fidelity), its, run.seed)
        pools.append(Pool(load, setup_of(its, pool)))
        theirs.append(its)
    knobs = {knob: str(value) for knob, value in scenario.policy.knobs.items()}
    policy = _paced(name, knobs, scenario, max((pool.load for pool in pools), key=lambda load: load.duration))
    book = _book(scenario.profiles)
    results = simulate_pools(pools, policy, seed=run.seed, fluid=scenario.fidelity == "fluid", book=book)
    found, told = [], set()
    for share, its, result in zip(scenario.pools, theirs, results, strict=True):
        plain = result.as_json(series=True)
        accelerator = stage(setup_of(its, share.name), book).profile.accelerator
        if accelerator in told:
            plain |= {"lost_training_gpu_hours": 0.0, "evictions": 0}
        told.add(accelerator)
        found.append({**_told(scenario, share.name, plain), "slo_wanted": its.slo.attainment})
    return found


def _result(load: Load, scenario: Scenario, setup: Setup, seed: int) -> Result:
    name = scenario.policy.name
    knobs = {knob: str(value) for knob, value in scenario.policy.knobs.items()}
    if name == ORACLE:
        return oracle_result(load, setup, seed=seed, knobs=knobs)
    policy = _paced(name, knobs, scenario, load)
    counts = static_counts(name, knobs, load, setup)
    if counts:
        setup = started_static(setup, counts)
        policy = make(name, {**knobs, **{role: str(count) for role, count in counts.items()}})
    return simulate(load, policy, setup, seed=seed, fluid=scenario.fidelity == "fluid", book=_book(scenario.profiles))


def _paced(name: str, knobs: dict[str, str], scenario: Scenario, load: Load) -> Policy:
    """The policy at the pace asked for, or at one that suits a load of this length."""
    interval_s, long = scenario.interval_s, scenario.fidelity == "fluid" and load.duration > LONG_S
    if name == OWN and interval_s is None and "interval_s" not in knobs and scenario.fidelity == "fluid":
        # Days of history are half the cost of a week and change it little (1,371 GPU-hours at 96.3 %, else 1,352 at
        # 96.2 %): only where the knob `forecast` asks for them.
        own = make(name, {"forecast": "quantile", **knobs} if load.duration > UNHURRIED_S else knobs)
        if load.duration <= UNHURRIED_S or not isinstance(own, TokenDynamics):
            return own
        look_s = STEP_S * math.ceil(load.duration / LOOKS / STEP_S)
        return Unhurried.every(min(max(look_s, own.interval_s), LONGEST_LOOK_S), own)
    if interval_s is None and long:
        bin_s = load.bin_s if isinstance(load, DemandSeries) else 0.0
        interval_s = min(max(bin_s / 3, LEAST_INTERVAL_S), LONGEST_INTERVAL_S)
    if interval_s is not None and "interval_s" in knobs_of(name):
        knobs.setdefault("interval_s", str(interval_s))
    made = make(name, knobs)
    if isinstance(made, TokenDynamics) and made.window_s < made.interval_s:
        # A window shorter than the interval makes each tick the first one again, and the first never shrinks.
        return replace(made, window_s=made.interval_s)
    return made


def as_played(load: Load, fidelity: str) -> Load:
    """The load as scenarios play it: long ones that flow are demand per minute. Raises BadSettings."""
    if fidelity == "fluid" and isinstance(load, Workload) and load.duration > SUMMED_S:
        return to_demand(load, SUM_S)
    return load
