"""Several pools on one supply: what one gives back another gets, and the policy sees them all at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoscaler.errors import BadSettings
from autoscaler.model import Decision, RoleDecision, Take, Tier
from autoscaler.policies.policy import Follow
from autoscaler.policies.registry import make
from autoscaler.simulator.pools import Pool, simulate_pools
from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.simulator.setup import Setup, SupplySetup, TrainingGang
from autoscaler.simulator.simulate import simulate

if TYPE_CHECKING:
    from autoscaler.model import Observation
    from autoscaler.policies.policy import Scene

HOUR = 3600.0


def demand(rates: list[float]) -> DemandSeries:
    """Requests/s per ten minutes: 1,000 tokens in, 200 out."""
    count = np.array([rate * 600.0 for rate in rates], dtype=np.float64)
    return DemandSeries(
        "demand", np.arange(len(rates), dtype=np.float64) * 600.0, 600.0, count, count * 1000, count * 200
    )


def pool(name: str, rates: list[float], **supply: object) -> Pool:
    setup = Setup(pool=name, maximum=8, supply=SupplySetup(start_s=(30.0, 40.0), **supply))  # type: ignore[arg-type]
    return Pool(demand(rates), setup)


def test_one_pool_on_a_shared_supply_is_that_pool_alone() -> None:
    """Start-up times are drawn from other streams, so a fixed number of replicas is compared."""
    alone = pool("one", [4.0] * 6)
    fixed = Pool(alone.load, replace(alone.setup, minimum=3, maximum=3, initial=3))
    (together,) = simulate_pools([fixed], make("hpa-kv", {}))
    by_itself = simulate(fixed.load, make("hpa-kv", {}), fixed.setup)
    assert together.gpu_hours == by_itself.gpu_hours == pytest.approx(3.0)
    assert together.slo_attainment == by_itself.slo_attainment


def test_gpus_in_use_never_exceed_what_there_is_and_pass_from_pool_to_pool() -> None:
    """Ten GPUs; one pool is busy first, the other afterwards, each wanting up to eight."""
    busy, idle = 30.0, 0.5
    pools = [pool("early", [busy] * 3 + [idle] * 6, gpus=10), pool("late", [idle] * 3 + [busy] * 6, gpus=10)]
    seen: list[list[int]] = []

    def note(told: Observation, _made: Decision) -> None:
        seen.append([role.ready or 0 for role in told.roles])

    results = simulate_pools(pools, make("hpa-queue", {"follow.stabilise_down_s": "60"}), record=note)
    assert len(seen[0]) == 2
    ready = np.array(seen)
    assert ready.sum(axis=1).max() <= 10
    assert ready[:, 0].max() == ready[:, 1].max() == 8
    assert [result.peak_replicas for result in results] == [8, 8]


def test_the_stock_is_told_once_for_all_pools() -> None:
    stocks = []

    def note(told: Observation, _made: Decision) -> None:
        stocks.append(told.stocks)

    simulate_pools([pool("a", [2.0], gpus=6), pool("b", [2.0], gpus=6)], make("hpa-kv", {}), record=note)
    assert all(len(told) == 1 for told in stocks)
    assert {told[0].free for told in stocks} == {6}


@dataclass(frozen=True)
class Wishes:
    """So many replicas of each pool by time, (s, wishes), with leave to evict training for what is missing."""

    steps: tuple[tuple[float, dict[str, int]], ...]
    name: str = "wishes"
    interval_s: float = 15.0
    follow: Follow = field(default_factory=lambda: Follow(direct=True))

    def start(self, scene: Scene) -> float | None:  # noqa: ARG002 - of the protocol
        return None

    def decide(self, seen: Observation, memory: float | None, scene: Scene) -> tuple[Decision, float]:
        begun = seen.at if memory is None else memory
        wanted = [counts for at, counts in self.steps if at <= seen.at - begun][-1]
        leave = (Take(Tier.PREEMPT, 1, 30.0),)
        made = tuple(RoleDecision(rule.key, wanted[rule.key.pool], takes=leave) for rule in scene.roles)
        return Decision(seen.at, made), begun


def test_training_is_evicted_once_for_all_pools_and_keeps_away_while_any_of_them_borrows() -> None:
    """2 GPUs and a gang of 8. From 600 s on both pools want 4: 8 in all, 6 of them the gang's, one eviction.

    At 3,000 s pool `a` gives 3 back, which would be too few for a gang of 8; `b` keeps its 4 to the end.
    """
    gang = TrainingGang(gpus=8, checkpoint_s=600.0, requeue_s=0.0)
    steps = ((0.0, {"a": 1, "b": 1}), (600.0, {"a": 4, "b": 4}), (3000.0, {"a": 1, "b": 4}))
    pools = [pool(name, [1.0] * 12, gpus=2, gangs=(gang,)) for name in ("a", "b")]
    results = simulate_pools(pools, Wishes(steps), seed=1)
    assert {result.evictions for result in results} == {1}
    assert [result.peak_replicas for result in results] == [4, 4]
    # Evicted on the dot of a checkpoint or less than 600 s after one: at most 8 GPUs * 600 s are lost.
    assert 0 <= results[0].lost_training_gpu_hours <= 8 * 600 / HOUR
    assert results[1].history["colocated"][-1][1:] == (4, 4, 4)


def test_requests_one_by_one_share_a_supply_too() -> None:
    random = np.random.default_rng(0)
    loads = [Workload("w", np.sort(random.uniform(0, 300, 300)), np.full(300, 500), np.full(300, 50)) for _ in "ab"]
    pools = [Pool(load, Setup(pool=name, maximum=4)) for load, name in zip(loads, "ab", strict=True)]
    results = simulate_pools(pools, make("tokenscale", {}))
    assert [(result.fidelity, result.requests, result.finished) for result in results] == [("requests", 300, 300)] * 2


@pytest.mark.parametrize(
    ("pools", "says"),
    [
        ([], "no pools"),
        ([pool("a", [1.0]), pool("a", [1.0])], "2 times"),
        ([pool("a", [1.0], gpus=4), pool("b", [1.0], gpus=5)], "its supply differs"),
        ([pool("a", [0.0])], "no requests"),
    ],
)
def test_pools_that_cannot_be_together_are_refused_in_words(pools: list[Pool], says: str) -> None:
    with pytest.raises(BadSettings, match=says):
        simulate_pools(pools, make("hpa-kv", {}))
