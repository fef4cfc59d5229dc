"""Several pools on one supply: each with its load, its setup and its engines, all of them in one observation.

Pools of one accelerator type share its free GPUs, training gangs and nodes to buy; whoever lacks GPUs takes what comes
free, in the order of the pools. The policy decides for all roles of all pools at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.model import Observation
from autoscaler.policies.policy import Scene
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.fluid import FluidFleet
from autoscaler.simulator.report import fluid_result, request_result
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.simulate import fluid_world, request_world, run_policy
from autoscaler.simulator.supply import Supply, Timers
from autoscaler.simulator.world import Shared, most_gpus, play
from autoscaler.supply import Supply as Training

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoscaler.model import Decision
    from autoscaler.policies.policy import Policy
    from autoscaler.profiles import ProfileBook
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.result import Result
    from autoscaler.simulator.scenes import Stage
    from autoscaler.simulator.setup import Setup
    from autoscaler.simulator.simulate import Record
    from autoscaler.simulator.world import SimulatedWorld


@dataclass(frozen=True, slots=True)
class Pool:
    """One of several: what it serves, and its setup, whose `supply` must be that of its accelerator's other pools."""

    load: Workload | DemandSeries
    setup: Setup


def simulate_pools(
    pools: Sequence[Pool],
    policy: Policy,
    *,
    seed: int = 0,
    fluid: bool = False,
    book: ProfileBook | None = None,
    record: Record | None = None,
) -> tuple[Result, ...]:
    """Run one policy on several pools that share their supply; one result each, in the pools' order.

    Arguments as of `simulate`. Where a supply says no number of GPUs, it has as many as all its pools may have at
    most. What training lost is the whole supply's, and is told with each of its pools.

    Raises:
        BadSettings: no pools, two of one name, or setups that cannot share a supply or a calendar.
    """
    if not policy.interval_s > 0:
        raise BadSettings((f"policy {policy.name}: interval_s is {policy.interval_s}; it must be > 0 seconds",))
    staged = [stage(pool.setup, book) for pool in pools]
    _check(pools, staged)
    timers = Timers()
    shared = _supplies(pools, staged, timers, seed)
    worlds = []
    for index, (pool, its) in enumerate(zip(pools, staged, strict=True)):
        on = Shared(timers, shared[its.profile.accelerator])
        if fluid or isinstance(pool.load, DemandSeries):
            worlds.append(fluid_world(pool.load, policy, pool.setup, its, seed + index, on)[1])
        else:
            worlds.append(request_world(pool.load, policy, pool.setup, its, seed + index, on)[1])
    together = PoolsWorld(worlds, timers, policy.interval_s)
    run_policy(together, policy, together.scene, record)
    return tuple(_scored(world, pool, policy, seed) for world, pool in zip(worlds, pools, strict=True))


class PoolsWorld:
    """The loop's world of several pools. Iterate `ticks`, calling `observe` and `enact` at each."""

    def __init__(self, worlds: Sequence[SimulatedWorld], timers: Timers, interval_s: float) -> None:
        self.worlds = tuple(worlds)
        self._timers = timers
        self._interval_s = interval_s
        scenes = [world.stage.scene for world in worlds]
        rungs = {(rung.tier, rung.accelerator): rung for scene in scenes for rung in scene.supply}
        self.scene = Scene(tuple(rule for scene in scenes for rule in scene.roles), tuple(rungs.values()))

    def ticks(self) -> Iterator[float]:
        """Every interval, Unix seconds, until all pools' requests are done or have had their time."""
        now, begun = 0.0, self.worlds[0].setup.start_at
        horizon = max(world.horizon for world in self.worlds)
        end = max(world.horizon + world.setup.settle_s for world in self.worlds)
        while now <= end:
            play(self.worlds, self._timers, now)
            if now > horizon and not any(world.fleet.inside() for world in self.worlds):
                break
            yield begun + now
            now += self._interval_s
        play(self.worlds, self._timers, max(now, horizon))
        for world in self.worlds:
            world.finish(horizon)

    def observe(self, now: float, /) -> Observation:
        """All pools' roles and each accelerator's stock. Raises CannotSee while a fault makes any pool unreadable."""
        seen = [world.observe(now) for world in self.worlds]
        stocks = {stock.accelerator: stock for one in seen for stock in one.stocks}
        roles = tuple(role for one in seen for role in one.roles)
        # Pools of one accelerator tell of the same training.
        told = {stock.accelerator: one.supply for one in seen for stock in one.stocks if one.supply is not None}
        gangs = tuple(gang for supply in told.values() for gang in supply.gangs)
        lent = tuple(one for supply in told.values() for one in supply.lent)
        training = Training(now, gangs=gangs, lent=lent) if told else None
        return Observation(now, roles, tuple(stocks.values()), "simulation", supply=training)

    def enact(self, decision: Decision, /) -> None:
        """To every pool what was decided for its roles."""
        for world in self.worlds:
            keys = {rule.key for rule in world.stage.scene.roles}
            world.enact(replace(decision, roles=tuple(made for made in decision.roles if made.key in keys)))


def _check(pools: Sequence[Pool], staged: Sequence[Stage]) -> None:
    if not pools:
        raise BadSettings(("there are no pools to simulate",))
    names = Counter((pool.setup.namespace, pool.setup.pool) for pool in pools)
    problems = [f"pool {space}/{name} is there {many} times" for (space, name), many in names.items() if many > 1]
    first: dict[str, Setup] = {}
    for pool, its in zip(pools, staged, strict=True):
        setup, load = pool.setup, pool.load
        name = f"pool {setup.namespace}/{setup.pool}"
        if (float(load.requests.sum()) if isinstance(load, DemandSeries) else len(load)) <= 0:
            problems.append(f"{name}: workload {load.name!r} has no requests")
        other = first.setdefault(its.profile.accelerator, setup)
        if other.supply != setup.supply:
            problems.append(
                f"{name}: its supply differs from that of {other.pool}, on the same {its.profile.accelerator}"
            )
        if setup.start_at != pools[0].setup.start_at:
            problems.append(f"{name}: start_at is {setup.start_at}; all pools must have {pools[0].setup.start_at}")
    if problems:
        raise BadSettings(tuple(problems))


def _supplies(pools: Sequence[Pool], staged: Sequence[Stage], timers: Timers, seed: int) -> dict[str, Supply]:
    most: Counter[str] = Counter()
    for pool, its in zip(pools, staged, strict=True):
        most[its.profile.accelerator] += most_gpus(pool.setup, its)
    made: dict[str, Supply] = {}
    for pool, its in zip(pools, staged, strict=True):
        name = its.profile.accelerator
        if name not in made:
            random = np.random.default_rng([seed, len(made)])
            made[name] = Supply(pool.setup.supply, most[name], its.startup, timers, random)
    return made


def _scored(world: SimulatedWorld, pool: Pool, policy: Policy, seed: int) -> Result:
    fleet = world.fleet
    if isinstance(fleet, FluidFleet):
        return fluid_result(world, fleet, pool.load, policy, seed)
    if not isinstance(fleet, Fleet) or isinstance(pool.load, DemandSeries):
        raise TypeError(f"{type(fleet).__name__} cannot play {pool.load.name}")
    return request_result(world, fleet, pool.load, policy, seed)
