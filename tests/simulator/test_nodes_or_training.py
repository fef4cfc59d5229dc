"""Nodes are bought only where taking training is dearer: through the whole loop, from what is seen to what happens.

A load that grows lacks a few GPUs. Training's serve after 30 + 60 s, a node's after 524 s (median). Told to the policy:
a replica lacking costs 100 an hour, a GPU 2.25 an hour, each GPU taken from training 1 beside the work it loses, a new
node's 0.5. While the node is waited for, each GPU lacking costs 100 x (524 - 90) / 3,600 = 12, for the hour 100. So

    two GPUs of training saved this second    2 x 1 + 2 x 2.25 for the hour = 6.5, and nothing lacks meanwhile
    a node of eight                           8 x 0.5 + 8 x 2.25            = 22, and 2 x 12 for what lacks meanwhile
    eight GPUs, eight hours unsaved           8 x (8 x 2.25 + 1) + 8 x 2.25 = 170
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.model import Tier
from autoscaler.policies.registry import make
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.setup import Setup, SupplySetup, TrainingGang
from autoscaler.simulator.simulate import request_world, run_policy

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation

CHEAP = TrainingGang(gpus=2, checkpoint_s=1.0, requeue_s=10.0)
DEAR = TrainingGang(gpus=8, checkpoint_s=100_000.0, requeue_s=10.0, ran_s=8 * 3600.0)


@dataclass(frozen=True)
class Happened:
    """Gangs evicted, nodes bought, and the tiers that decisions named."""

    evicted: int
    bought: int
    tiers: frozenset[Tier]


def happened(nodes: int, *gangs: TrainingGang) -> Happened:
    """3 requests/s for 5 minutes, then 10; three GPUs are prepared."""
    random = np.random.default_rng(5)
    early, late = random.uniform(0.0, 300.0, 900), random.uniform(300.0, 1500.0, 12_000)
    arrival = np.sort(np.concatenate([early, late]))
    count = len(arrival)
    load = Workload("step", arrival, np.full(count, 1000), np.full(count, 200), horizon_s=1500.0)
    supply = SupplySetup(
        gpus=3, gangs=gangs, nodes_to_buy=nodes, start_s=(60.0, 60.000001), eviction_s=(30.0, 30.000001)
    )
    setup, policy = Setup(supply=supply, initial=2), make("token-dynamics", {})
    staged = stage(setup)
    _, world = request_world(load, policy, setup, staged, 0)
    tiers: set[Tier] = set()
    fewest = nodes

    def note(_seen: Observation, made: Decision) -> None:
        nonlocal fewest
        fewest = min(fewest, world.supply.to_buy)
        tiers.update(take.tier for role in made.roles for take in role.takes)

    run_policy(world, policy, staged.scene, note)
    return Happened(world.supply.lost.evictions, nodes - fewest, frozenset(tiers))


def test_cheap_training_is_taken_and_no_node_bought() -> None:
    found = happened(1, CHEAP)
    assert (found.evicted, found.bought) == (1, 0)
    assert Tier.PREEMPT in found.tiers


def test_a_node_is_bought_and_dear_training_left_alone() -> None:
    found = happened(1, DEAR)
    assert (found.evicted, found.bought) == (0, 1)
    assert Tier.PROVISION in found.tiers
    assert Tier.PREEMPT not in found.tiers
