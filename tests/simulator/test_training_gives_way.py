"""Training gangs in the simulated world: who is taken, what it costs, what policies are told, when GPUs go back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoscaler.model import Tier
from autoscaler.policies.registry import make
from autoscaler.simulator.pairs import apart
from autoscaler.simulator.pools import Pool, simulate_pools
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.setup import Setup, SupplySetup, TrainingGang, Victims
from autoscaler.simulator.simulate import simulate
from autoscaler.simulator.supply import Supply, Timers

if TYPE_CHECKING:
    from autoscaler.model import Observation

CHEAP = TrainingGang(gpus=4, priority=2, checkpoint_s=100.0, requeue_s=10.0, ran_s=50.0)
"""At 0 s it saved 50 s ago."""
LOW = TrainingGang(gpus=8, priority=0, checkpoint_s=10_000.0, requeue_s=10.0, ran_s=5000.0)
MIDDLE = TrainingGang(gpus=8, priority=1, checkpoint_s=1000.0, requeue_s=10.0, ran_s=600.0)


def supply(victims: Victims, *gangs: TrainingGang, **more: float) -> tuple[Supply, Timers]:
    """Two prepared GPUs and the gangs."""
    setup = SupplySetup(gpus=2, gangs=gangs, victims=victims, **more)  # type: ignore[arg-type]  # only numbers
    timers = Timers()
    staged = stage(Setup(supply=setup))
    return Supply(setup, 2, staged.startup, timers, np.random.default_rng(0)), timers


def until(timers: Timers, end: float) -> None:
    while timers.next <= end:
        timers.fire()


@pytest.mark.parametrize(
    ("victims", "gpus", "taken"),
    [
        # Per GPU: CHEAP loses 50 + 10, MIDDLE 600 + 10, LOW 5,000 + 10 s.
        (Victims.LEAST_LOST, 4, [CHEAP]),
        # For six GPUs CHEAP and MIDDLE come first; without CHEAP there are still enough, without MIDDLE not.
        (Victims.LEAST_LOST, 6, [MIDDLE]),
        (Victims.LEAST_LOST, 12, [CHEAP, MIDDLE]),
        # Of the lowest priority first, however much it loses; a higher one where that is not enough.
        (Victims.LOWEST_LEAST, 4, [LOW]),
        (Victims.LOWEST_LEAST, 10, [LOW, MIDDLE]),
        (Victims.PRIORITY, 4, [LOW]),
        (Victims.PRIORITY, 12, [LOW, MIDDLE]),
    ],
)
def test_the_rule_says_which_gangs_go(victims: Victims, gpus: int, taken: list[TrainingGang]) -> None:
    stock, _ = supply(victims, CHEAP, LOW, MIDDLE)
    got = stock.preempt(gpus, 0.0)
    assert [gang.spec for gang in stock.gangs if not gang.running] == taken
    assert got == stock.lent == stock.leaving == sum(gang.gpus for gang in taken)
    costs = {4: 4 * 60, 8: 8 * 610}
    if victims is Victims.LEAST_LOST:
        assert stock.lost.gpu_seconds == sum(costs[gang.gpus] for gang in taken)


def test_chance_takes_each_of_them_now_and_then() -> None:
    stock, _ = supply(Victims.RANDOM, CHEAP, LOW, MIDDLE)
    hit = set()
    for _ in range(50):
        stock.preempt(1, 0.0)
        hit |= {gang.spec.priority for gang in stock.gangs if not gang.running}
        for gang in stock.gangs:
            gang.running = True
    assert hit == {0, 1, 2}


def test_a_gang_comes_back_by_itself_when_its_time_is_up() -> None:
    """Evicted at 0 s; nothing else happens: at 300 s it runs again, and has been away for 300 s on 4 GPUs."""
    stock, timers = supply(Victims.LEAST_LOST, CHEAP)
    stock.join(lambda: 0, stock.give_to_training)
    stock.preempt(4, 0.0)
    until(timers, 299.0)
    assert stock.lent == 4
    until(timers, 301.0)
    assert (stock.lent, stock.free, stock.lost.away) == (0, 2, 4 * 300)


def test_a_time_that_rounds_awkwardly_does_not_stop_the_clock() -> None:
    """0.1 + 0.7 - 0.1 is less than 0.7 in floating point: looked at that way, the gang would be due for ever."""
    stock, timers = supply(Victims.LEAST_LOST, CHEAP, training_returns_s=0.7)
    stock.join(lambda: 0, stock.give_to_training)
    stock.preempt(4, 0.1)
    for _ in range(100):
        if timers.next == float("inf"):
            break
        timers.fire()
    assert timers.next == float("inf")
    assert stock.lent == 0


def load(seconds: int, rates: tuple[float, ...]) -> Workload:
    """So many requests/s, one rate after the other."""
    random = np.random.default_rng(3)
    part = seconds / len(rates)
    arrival = np.concatenate(
        [
            np.sort(random.uniform(index * part, (index + 1) * part, int(rate * part)))
            for index, rate in enumerate(rates)
        ]
    )
    count = len(arrival)
    return Workload("steps", arrival, np.full(count, 1000), np.full(count, 200), horizon_s=float(seconds))


def test_policies_are_told_of_training_by_name_with_its_last_checkpoint() -> None:
    seen: list[Observation] = []
    setup = Setup(supply=SupplySetup(gpus=8, gangs=(MIDDLE, CHEAP)))
    simulate(load(300, (2.0,)), make("hpa-kv", {}), setup, record=lambda told, _: seen.append(told))
    told = seen[10].supply
    assert told is not None
    middle, cheap = told.gangs
    assert (middle.gpus, middle.priority, cheap.gpus) == (8, 1, 4)
    # It began 600 s before the world, which is younger than its first checkpoint: all since then is unsaved.
    assert middle.started_at == middle.checkpoint_at == setup.start_at - 600
    # 150 s in, having run 200 s, CHEAP saved a moment ago.
    assert cheap.checkpoint_at == setup.start_at + 150
    assert [gpus for _, gpus in middle.domains] == [8]


def test_our_policy_takes_training_for_a_burst_and_gives_it_back() -> None:
    gangs = tuple(TrainingGang(gpus=8, checkpoint_s=1800.0, requeue_s=60.0, ran_s=300.0 * n) for n in range(4))
    setup = Setup(supply=SupplySetup(gpus=4, gangs=gangs, start_s=(25.0, 45.0)))
    lent: list[tuple[float, int]] = []

    def note(told: Observation, _made: object) -> None:
        assert told.supply is not None
        lent.append((told.at - setup.start_at, sum(one.gpus for one in told.supply.lent)))

    result = simulate(load(2700, (5.0, 60.0, 5.0, 5.0, 5.0)), make("token-dynamics", {}), setup, record=note)
    assert result.evictions >= 1
    assert max(gpus for _, gpus in lent) >= 8
    assert lent[-1][1] == 0
    assert result.lost_training_gpu_hours > 0


def test_a_scheduler_that_preempts_needs_no_leave_of_the_policy() -> None:
    base = SupplySetup(gpus=2, gangs=(MIDDLE,), start_s=(25.0, 45.0))
    peaks = []
    for preempts in (False, True):
        setup = Setup(supply=replace(base, scheduler_preempts=preempts))
        result = simulate(load(900, (5.0, 60.0, 60.0)), make("hpa-queue", {}), setup)
        peaks.append((result.evictions > 0, result.peak_replicas > 2))
    assert peaks == [(False, False), (True, True)]


def test_pools_on_one_supply_tell_of_its_training_once() -> None:
    pools = [
        Pool(load(300, (2.0,)), Setup(pool=name, supply=SupplySetup(gpus=8, gangs=(MIDDLE, CHEAP)))) for name in "ab"
    ]
    seen: list[Observation] = []
    simulate_pools(pools, make("hpa-kv", {}), record=lambda told, _: seen.append(told))
    assert all(told.supply is not None and len(told.supply.gangs) == 2 for told in seen)
    assert all(told.stocks[0].preemptible == 12 for told in seen)
    assert Tier.PREEMPT in {rung.tier for rung in stage(pools[0].setup).scene.supply}


def test_how_long_training_takes_to_leave_is_told_and_happens() -> None:
    """Killed at once in 5 s (always): told to policies as 5 s more than a start of 25 s; GPUs are free 5 s later."""
    at_once = (5.0, 5.000001)
    setup = Setup(supply=SupplySetup(gpus=2, gangs=(CHEAP,), start_s=(25.0, 25.000001), eviction_s=at_once))
    leads = {rung.tier: rung.lead_s for rung in stage(setup).scene.supply}
    assert leads[Tier.START] == pytest.approx(25.0)
    assert leads[Tier.PREEMPT] == pytest.approx(30.0)
    timers = Timers()
    stock = Supply(setup.supply, 2, stage(setup).startup, timers, np.random.default_rng(0))
    stock.join(lambda: 4, lambda _: None)
    stock.preempt(4, 100.0)
    assert (stock.free, stock.leaving, stock.lacking()) == (2, 4, 0)
    assert timers.next == pytest.approx(105.0)
    until(timers, 105.1)
    assert (stock.free, stock.leaving) == (6, 0)


@pytest.mark.parametrize(("gpus", "priority", "taken"), [(4, 0, 1), (5, 0, 0), (4, 1, 0)])
def test_a_small_gang_that_loses_less_in_all_goes_instead(gpus: int, priority: int, taken: int) -> None:
    """Gang 0 loses 100 s on 16 GPUs, gang 1 150 s on 4: for four GPUs 600 are less than 1,600, if it may be taken."""
    large, small = TrainingGang(16, 0, 1e6, 0.0, ran_s=100.0), TrainingGang(4, priority, 1e6, 0.0, ran_s=150.0)
    stock, _ = supply(Victims.LOWEST_LEAST, large, small)
    stock.preempt(gpus, 0.0)
    assert [gang.running for gang in stock.gangs] == [number != taken for number in range(2)]


def spread(victims: Victims, *gangs: TrainingGang, paired: bool) -> Supply:
    """Nodes of 8 in domains of one each: the pool's two GPUs serve in domain 0, gang n trains in domain n + 1."""
    setup = SupplySetup(gpus=8, gangs=gangs, victims=victims, domain_nodes=1)
    stock = Supply(setup, 8, stage(Setup(supply=setup)).startup, Timers(), np.random.default_rng(0))
    stock.join(lambda: 0, lambda _: None, paired=paired)
    assert [stock.place(1), stock.place(1)] == stock.nodes[:1] * 2
    return stock


@pytest.mark.parametrize(("unsaved", "taken"), [(110.0, 1), (130.0, 0)])
def test_gangs_far_from_their_partners_cost_a_fifth_of_ten_minutes_more(unsaved: float, taken: int) -> None:
    """Gang 0 saved its work just now and trains far away: 0.2 x 600 = 120 s. Gang 1's node has GPUs beside ours."""
    far, near = TrainingGang(4, 0, 1e6, 0.0, ran_s=0.0), TrainingGang(4, 0, 1e6, 0.0, ran_s=unsaved)
    stock = spread(Victims.LOWEST_LEAST, far, near, paired=True)
    stock.gangs[1].nodes = [(stock.nodes[0], 4)]
    stock.preempt(4, 0.0)
    assert [gang.running for gang in stock.gangs] == [number != taken for number in range(2)]


def test_domains_do_not_matter_to_a_pool_of_one_role_nor_against_priority() -> None:
    far, near = TrainingGang(4, 0, 1e6, 0.0, ran_s=10.0), TrainingGang(4, 1, 1e6, 0.0, ran_s=0.0)
    for paired in (False, True):
        stock = spread(Victims.LOWEST_LEAST, far, near, paired=paired)
        stock.gangs[1].nodes = [(stock.nodes[0], 4)]
        stock.preempt(4, 0.0)
        assert [gang.running for gang in stock.gangs] == [False, True]
    stock = spread(Victims.LOWEST_LEAST, replace(far, priority=1), replace(near, ran_s=20.0), paired=False)
    stock.gangs[1].nodes = [(stock.nodes[0], 4)]
    stock.preempt(4, 0.0)
    assert [gang.running for gang in stock.gangs] == [False, True]


def test_a_pod_goes_where_its_role_is_behind_the_other() -> None:
    """Prefill 4 of 4 and decode 1 of 2 are in domain 0: 1 - 1/2 there against 0 - 1/2 where the other decode is."""
    away = apart(Counter({0: 4}), Counter({0: 1, 1: 1}))
    assert [away(0), away(1), away(2)] == [0.5, -0.5, 0.0]
    setup = SupplySetup(gpus=8, node_gpus=4, domain_nodes=1)
    stock = Supply(setup, 8, stage(Setup(supply=setup)).startup, Timers(), np.random.default_rng(0))
    assert stock.place(1, away) is stock.nodes[1]
    assert stock.place(1) is stock.nodes[1], "the fuller node, where no domain is better"


def test_a_gang_comes_back_where_nobody_serves() -> None:
    """Of 16 prepared GPUs two serve in domain 0; the gang of 4 returns to another domain, and leaves theirs whole."""
    setup = SupplySetup(gpus=16, gangs=(replace(CHEAP, gpus=4),), domain_nodes=1)
    timers = Timers()
    stock = Supply(setup, 16, stage(Setup(supply=setup)).startup, timers, np.random.default_rng(0))
    stock.join(lambda: 0, stock.give_to_training)
    node = stock.place(2)
    stock.preempt(4, 0.0)
    until(timers, 301.0)
    assert node is stock.nodes[0]
    assert (node.free, stock.lent) == (6, 0)


def test_training_is_taken_with_the_decision_not_with_the_pods() -> None:
    """Ticks are at 0, 15, ... s and the HPA looks at 7, 22, ...: a gang is away since a tick."""
    gangs = (TrainingGang(gpus=8, checkpoint_s=1800.0, requeue_s=60.0),)
    setup = Setup(supply=SupplySetup(gpus=4, gangs=gangs, start_s=(25.0, 45.0)))
    since: set[float] = set()

    def note(told: Observation, _made: object) -> None:
        assert told.supply is not None
        since.update(one.since - setup.start_at for one in told.supply.lent)

    simulate(load(900, (5.0, 60.0)), make("token-dynamics", {}), setup, record=note)
    assert since
    assert all(at % 15.0 == 0.0 for at in since)
