"""Laws of whole worlds under faults: requests, GPUs, KV, stock and training hours are conserved; time goes forward."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.model import Decision, RoleDecision, Take, Tier
from autoscaler.policies.policy import Follow
from autoscaler.simulator.report import request_result
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.setup import (
    Actuation,
    Fault,
    FaultKind,
    Layout,
    Setup,
    SupplySetup,
    TrainingGang,
    Victims,
)
from autoscaler.simulator.simulate import request_world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.model import Observation
    from autoscaler.policies.policy import Scene
    from autoscaler.simulator.fleet import Fleet
    from autoscaler.simulator.world import SimulatedWorld

HORIZON = 600.0
HOUR = 3600.0


@dataclass(frozen=True)
class Wishes:
    """One number of replicas after the other, two ticks each, for all roles, with leave to take whatever it needs."""

    counts: tuple[int, ...]
    name: str = "wishes"
    interval_s: float = 15.0
    follow: Follow = field(default_factory=lambda: Follow(direct=True))

    def start(self, scene: Scene) -> int:  # noqa: ARG002 - of the protocol
        return 0

    def decide(self, seen: Observation, memory: int, scene: Scene) -> tuple[Decision, int]:
        count = self.counts[memory // 2 % len(self.counts)]
        takes = (Take(Tier.PREEMPT, 2, 60.0), Take(Tier.PROVISION, 1, 300.0), Take(Tier.CONVERT, memory % 2, 0.0))
        return Decision(seen.at, tuple(RoleDecision(r.key, count, takes=takes) for r in scene.roles)), memory + 1


FAULTS = st.lists(
    st.builds(
        Fault,
        st.sampled_from(list(FaultKind)),
        st.floats(0.0, HORIZON),
        st.sampled_from([30.0, 200.0, math.inf]),
        st.sampled_from([0.5, 1.0, 2.0]),
    ),
    max_size=4,
).map(tuple)
GANGS = st.lists(
    st.builds(
        TrainingGang,
        gpus=st.integers(1, 10),
        priority=st.integers(0, 2),
        checkpoint_s=st.sampled_from([0.0, 100.0, 900.0]),
        requeue_s=st.sampled_from([0.0, 60.0]),
        ran_s=st.sampled_from([0.0, 777.0]),
    ),
    max_size=3,
).map(tuple)
SUPPLY = st.builds(
    SupplySetup,
    gpus=st.integers(0, 6),
    node_gpus=st.sampled_from([1, 4, 8]),
    domain_nodes=st.integers(1, 2),
    gangs=GANGS,
    victims=st.sampled_from(list(Victims)),
    scheduler_preempts=st.booleans(),
    training_returns_s=st.sampled_from([0.0, 60.0]),
    nodes_to_buy=st.integers(0, 2),
    node_idle_s=st.sampled_from([0.0, 60.0]),
    start_s=st.just((20.0, 40.0)),
    sleepers=st.integers(0, 2),
)
SETUPS = st.builds(
    Setup,
    layout=st.sampled_from(list(Layout)),
    minimum=st.just(0),
    maximum=st.just(6),
    initial=st.integers(0, 3),
    gateway_limit=st.sampled_from([None, 4]),
    gateway_most=st.sampled_from([None, 10]),
    noise=st.sampled_from([0.0, 0.1]),
    settle_s=st.just(60.0),
    actuation=st.just(Actuation(drain_limit_s=20.0)),
    supply=SUPPLY,
    faults=FAULTS,
)


def load(seed: int) -> Workload:
    """300 requests in ten minutes, one in fifty longer than any KV cache."""
    random = np.random.default_rng(seed)
    prompt = np.where(random.random(300) < 0.02, 600_000, random.integers(1, 6000, 300))
    arrival = np.sort(random.uniform(0.0, HORIZON, 300))
    return Workload("drawn", arrival, prompt, random.integers(1, 400, 300), horizon_s=HORIZON)


def whole_stock(world: SimulatedWorld) -> None:
    """Every GPU of every node is free, held by a pool, in a running gang, or with one that is leaving."""
    supply, setup = world.supply, world.setup.supply
    assert all(0 <= node.free <= node.size for node in supply.nodes)
    assert 0 <= supply.to_buy <= setup.nodes_to_buy
    on_order = setup.nodes_to_buy - supply.to_buy - sum(node.bought for node in supply.nodes)
    leaving = supply.leaving
    assert leaving == sum(node.leaving for node in supply.nodes) >= 0
    assert supply.coming == on_order * setup.node_gpus >= 0
    owned = sum(node.size for node in supply.nodes)
    assert owned == supply.free + supply.held + supply.preemptible + leaving
    assert supply.preemptible + supply.lent == sum(gang.gpus for gang in setup.gangs)
    assert all(sum(gpus for _, gpus in gang.nodes) == gang.spec.gpus for gang in supply.gangs if gang.running)
    pods = [pod for book in world.pods.books.values() for pod in book.pods]
    assert supply.held == sum(pod.node is not None for pod in pods) * world.stage.profile.gpus == world.pods.held.gpus


def whole_engines(fleet: Fleet) -> None:
    """KV blocks and the queue's tokens are never negative, and blocks never more than there are."""
    for replica in fleet.replicas():
        engine = replica.engine
        assert 0 <= engine.told(fleet.now).blocks <= engine.kv.usable
        assert engine.backlog >= 0
        assert engine.load >= 0


def watched(fleet: Fleet) -> set[int]:
    """Requests that were in a replica when it was removed, or had their KV there."""
    lost: set[int] = set()
    removes = fleet.remove

    def remove(number: int) -> None:
        replica = fleet.get(number)
        lost.update(job.number for job in (*replica.engine.unfinished(), *replica.fetching.values()))
        lost.update(replica.kept)
        removes(number)

    fleet.remove = remove  # type: ignore[method-assign]  # to see what goes with a replica
    return lost


def played(
    setup: Setup, counts: tuple[int, ...], seed: int
) -> tuple[Workload, Fleet, SimulatedWorld, Wishes, set[int]]:
    """A world to its end, its laws looked at in every tick; and the requests that went with a replica."""
    requests, policy, staged = load(seed), Wishes(counts), stage(setup)
    fleet, world = request_world(requests, policy, setup, staged, seed)
    lost = watched(fleet)
    before, memory = -math.inf, 0
    for now in world.ticks():
        assert now > before
        assert fleet.now == pytest.approx(now - setup.start_at)
        before = now
        whole_stock(world)
        whole_engines(fleet)
        decision, memory = policy.decide(_seen(world, now), memory, staged.scene)
        world.enact(decision)
        whole_stock(world)
    return requests, fleet, world, policy, lost


def _seen(world: SimulatedWorld, now: float) -> Observation:
    if any(one.kind is FaultKind.UNREADABLE for one in world.setup.faults):
        return _Blind(now)  # type: ignore[return-value]  # the script looks at nothing but the time
    return world.observe(now)


@dataclass(frozen=True)
class _Blind:
    at: float


@settings(max_examples=60, deadline=None)
@given(SETUPS, st.lists(st.integers(0, 6), min_size=1, max_size=6).map(tuple), st.integers(0, 5))
def test_nothing_is_lost_and_nothing_comes_from_nowhere(setup: Setup, counts: tuple[int, ...], seed: int) -> None:
    requests, fleet, world, policy, lost = played(setup, counts, seed)
    outcomes = fleet.ledger.frozen()
    done = np.isfinite(outcomes.finish)
    # Requests: what came is finished, refused, shed, waiting, or was lost with its engine.
    accounted = int(done.sum()) + fleet.refused + fleet.shed + fleet.inside() + fleet.left
    assert 0 <= len(requests) - accounted <= len(lost)
    assert (outcomes.first[done] > requests.arrival_s[done]).all()
    assert (outcomes.finish[done] >= outcomes.first[done]).all()
    result = request_result(world, fleet, requests, policy, seed)
    assert result.finished == done.sum()
    assert 0.0 <= result.slo_attainment <= done.mean() + 1e-12
    # GPU time: held is at least computed, and at most all that ever was there for the whole time.
    most = sum(node.size for node in world.supply.nodes) + setup.supply.node_gpus * setup.supply.nodes_to_buy
    assert world.busy_s * world.stage.profile.gpus <= result.gpu_hours * HOUR + 1e-6
    assert result.gpu_hours * HOUR <= most * HORIZON + 1e-6
    steady(result.history, setup)


def steady(histories: dict[str, list[tuple[float, int, int, int]]], setup: Setup) -> None:
    """Histories go forward, and ready never exceeds existing."""
    for told in histories.values():
        times = [at for at, *_ in told]
        assert times == sorted(set(times))
        assert all(0 <= ready <= existing for _, _, existing, ready in told)
        assert all(0 <= spec <= setup.maximum for _, spec, _, _ in told)


@settings(max_examples=40, deadline=None)
@given(
    GANGS.filter(len),
    st.sampled_from(list(Victims)),
    st.lists(st.integers(0, 6), min_size=1, max_size=6).map(tuple),
)
def test_training_loses_at_least_requeueing_and_at_most_an_interval_more(
    gangs: Sequence[TrainingGang], victims: Victims, counts: tuple[int, ...]
) -> None:
    """Each eviction costs its gang's GPUs x (work since it was saved, 0..checkpoint_s, and requeue_s)."""
    supply = SupplySetup(gpus=1, gangs=tuple(gangs), victims=victims, training_returns_s=60.0, start_s=(20.0, 40.0))
    _, _, world, _, _ = played(Setup(minimum=0, maximum=6, initial=1, supply=supply), counts, 0)
    lost = world.supply.lost
    least = min(gang.gpus * gang.requeue_s for gang in gangs)
    most = max(gang.gpus * (gang.requeue_s + gang.checkpoint_s) for gang in gangs)
    assert lost.evictions * least <= lost.gpu_seconds <= lost.evictions * most
    assert 0 <= lost.away <= sum(gang.gpus for gang in gangs) * (HORIZON + world.setup.settle_s)
