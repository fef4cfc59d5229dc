"""What every world owes the loop, held by the simulated one; and that its journals replay to the same decisions."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoscaler.journal import Journal, read
from autoscaler.model import Role
from autoscaler.policies.registry import make
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.setup import Fault, FaultKind, Layout, Setup, SupplySetup, TrainingGang
from autoscaler.simulator.simulate import simulate

if TYPE_CHECKING:
    from pathlib import Path

    from autoscaler.model import Decision, Observation

GANGS = (TrainingGang(gpus=8, ran_s=500.0), TrainingGang(gpus=4, priority=1, checkpoint_s=60.0))
SETUP = Setup(
    layout=Layout.DISAGGREGATED,
    supply=SupplySetup(gpus=4, gangs=GANGS, nodes_to_buy=1, start_s=(25.0, 45.0)),
    faults=(Fault(FaultKind.UNREADABLE, 100.0, 40.0), Fault(FaultKind.STALE, 200.0, 120.0, 0.5)),
)


def load() -> Workload:
    """Five requests/s for ten minutes, with 120 more from 240 to 300 s: more than one node serves."""
    random = np.random.default_rng(5)
    arrival = np.sort(np.concatenate([random.uniform(0, 600, 3000), random.uniform(240, 300, 7200)]))
    count = len(arrival)
    return Workload("burst", arrival, np.full(count, 800), np.full(count, 100), horizon_s=600.0)


@pytest.fixture(scope="module")
def played() -> list[tuple[Observation, Decision]]:
    told: list[tuple[Observation, Decision]] = []
    simulate(load(), make("token-dynamics", {}), SETUP, record=lambda seen, made: told.append((seen, made)))
    return told


def test_ticks_are_an_interval_apart_and_every_role_is_seen_and_decided_in_order(
    played: list[tuple[Observation, Decision]],
) -> None:
    times = [seen.at for seen, _ in played]
    assert times[0] == SETUP.start_at
    assert set(np.diff(times).tolist()) == {15.0}
    for seen, made in played:
        assert made.at == seen.at
        assert [role.key.role for role in seen.roles] == [Role.PREFILL, Role.DECODE]
        assert [role.key for role in made.roles] == [role.key for role in seen.roles]


def test_what_cannot_be_seen_is_held_and_named(played: list[tuple[Observation, Decision]]) -> None:
    blind = {round(seen.at - SETUP.start_at) for seen, _ in played if seen.failure}
    assert blind == {105, 120, 135}
    for (_, before), (seen, made) in pairwise(played):
        if seen.failure:
            assert [role.desired for role in made.roles] == [role.desired for role in before.roles]


def test_nothing_is_seen_before_it_happened(played: list[tuple[Observation, Decision]]) -> None:
    for seen, _ in played:
        assert all(role.sampled_at is None or role.sampled_at <= seen.at for role in seen.roles)
        assert all(start.served_at <= seen.at for role in seen.roles for start in role.starts)
        gangs = seen.supply.gangs if seen.supply is not None else ()
        assert all(gang.checkpoint_at is not None and gang.checkpoint_at <= seen.at for gang in gangs)


def test_its_journal_replays_to_the_same_decisions(played: list[tuple[Observation, Decision]], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", 100_000_000)
    for seen, made in played:
        journal.write(seen, made)
    policy, scene = make("token-dynamics", {}), stage(SETUP).scene
    memory = policy.start(scene)
    for seen, made in read(tmp_path / "journal.jsonl"):
        again, memory = policy.decide(seen, memory, scene)
        assert again == made
    assert any(gang for seen, _ in played if seen.supply is not None for gang in seen.supply.lent)
