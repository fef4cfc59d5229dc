"""One policy in one simulated world: `simulate(load, policy, setup, seed=...) -> Result`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings
from autoscaler.loop import run_with
from autoscaler.model import Decision, Observation
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.fluid import FluidFleet
from autoscaler.simulator.fluid_load import fluid_load
from autoscaler.simulator.fluid_senses import FluidSenses
from autoscaler.simulator.gateway_meter import GatewayMeter
from autoscaler.simulator.need import openings
from autoscaler.simulator.report import fluid_result, request_result
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.scenes import engine_profile, stage
from autoscaler.simulator.setup import Layout, Setup
from autoscaler.simulator.telemetry import Scrapes
from autoscaler.simulator.wiring import Gateway, Link
from autoscaler.simulator.world import Shared, SimulatedWorld

if TYPE_CHECKING:
    from autoscaler.loop import World
    from autoscaler.policies.policy import Policy, Scene
    from autoscaler.profiles import ProfileBook
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.result import Result
    from autoscaler.simulator.scenes import Stage

Record = Callable[[Observation, Decision], None]
"""Told every tick, for a journal or a progress bar."""


def simulate(
    load: Workload | DemandSeries,
    policy: Policy,
    setup: Setup | None = None,
    *,
    seed: int = 0,
    fluid: bool = False,
    book: ProfileBook | None = None,
    record: Record | None = None,
) -> Result:
    """Run a policy on a load and score it. The same arguments give the same result, to the byte.

    Args:
        load: requests (simulated one by one unless `fluid`), or demand per bin (always simulated as a fluid).
        policy: decides at its own pace; actuation, supply and faults are the setup's.
        setup: the world; the defaults are those of `Setup`.
        seed: of start-up times, noise and faults. Requests come from the load alone.
        fluid: simulate requests as a fluid too.
        book: hardware profiles; the shipped ones by default.
        record: called with every observation and decision.

    Raises:
        BadSettings: a setup that cannot be, a load without requests, an interval that is not positive.
    """
    setup = Setup() if setup is None else setup
    if not policy.interval_s > 0:
        raise BadSettings((f"policy {policy.name}: interval_s is {policy.interval_s}; it must be > 0 seconds",))
    empty = float(load.requests.sum()) <= 0 if isinstance(load, DemandSeries) else len(load) == 0
    if empty:
        raise BadSettings((f"workload {load.name!r} has no requests; there is nothing to simulate",))
    staged = stage(setup, book)
    if fluid or isinstance(load, DemandSeries):
        flows, world = fluid_world(load, policy, setup, staged, seed)
        run_policy(world, policy, staged.scene, record)
        return fluid_result(world, flows, load, policy, seed)
    fleet, world = request_world(load, policy, setup, staged, seed)
    run_policy(world, policy, staged.scene, record)
    return request_result(world, fleet, load, policy, seed)


def request_world(
    load: Workload, policy: Policy, setup: Setup, staged: Stage, seed: int, shared: Shared | None = None
) -> tuple[Fleet, SimulatedWorld]:
    """A world that plays every request, and its fleet."""
    gateway = Gateway(setup.routing, setup.gateway_limit, setup.gateway_most)
    fleet = Fleet(load, gateway, _link(setup, staged))
    world = SimulatedWorld(
        setup,
        staged,
        policy.follow,
        horizon=load.duration,
        interval_s=policy.interval_s,
        openings=openings(load, staged, setup.initial),
        seed=seed,
        fleet=fleet,
        senses=lambda timers: Scrapes(fleet, timers, setup.actuation, setup.pool, setup.start_at),
        meter=GatewayMeter(load, setup.actuation),
        shared=shared,
        converts=fleet.convert,
    )
    return fleet, world


def fluid_world(
    load: Workload | DemandSeries, policy: Policy, setup: Setup, staged: Stage, seed: int, shared: Shared | None = None
) -> tuple[FluidFleet, SimulatedWorld]:
    """A world in which requests flow, and its fleet."""
    profile = engine_profile(staged.profile, setup.block_size)
    fleet = FluidFleet(fluid_load(load, setup.slo), profile, setup.slo, _link(setup, staged))
    world = SimulatedWorld(
        setup,
        staged,
        policy.follow,
        horizon=load.duration,
        interval_s=policy.interval_s,
        openings=openings(load, staged, setup.initial),
        seed=seed,
        fleet=fleet,
        senses=lambda _: FluidSenses(fleet, setup.actuation, setup.start_at),
        meter=GatewayMeter(load, setup.actuation),
        shared=shared,
    )
    return fleet, world


def run_policy(world: World, policy: Policy, scene: Scene, record: Record | None = None) -> Any:
    """The loop, for any policy: look, decide, record, enact until the world ends; returns what is then remembered."""

    def note(seen: Observation, decision: Decision, _memory: Any) -> None:
        if record is not None:
            record(seen, decision)

    keys = [rule.key for rule in scene.roles]
    return run_with(world, lambda seen, memory: policy.decide(seen, memory, scene), keys, policy.start(scene), note)


def _link(setup: Setup, staged: Stage) -> Link | None:
    if setup.layout is Layout.COLOCATED:
        return None
    per_token = float(staged.profile.kv_bytes_per_token)
    return Link(
        setup.link_gbps * 1e9 / 8,
        per_token,
        setup.first_token_at_prefill,
        setup.link_across,
        setup.convertible,
        setup.slo.tpot_s,
    )
