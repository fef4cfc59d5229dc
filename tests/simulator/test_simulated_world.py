"""A whole world with a policy in it: what is counted, what policies see, what happens between wish and replica."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoscaler.errors import BadSettings
from autoscaler.model import Decision, RoleDecision, Take, Tier
from autoscaler.policies.policy import Follow
from autoscaler.policies.registry import make
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.setup import (
    Actuation,
    Fault,
    FaultKind,
    Layout,
    Setup,
    SupplySetup,
    TrainingGang,
)
from autoscaler.simulator.simulate import simulate

if TYPE_CHECKING:
    from autoscaler.model import Observation
    from autoscaler.policies.policy import Scene

START = SupplySetup(start_s=(60.0, 60.000001))
"""A start takes a minute, always."""


@dataclass(frozen=True)
class Script:
    """Wishes by time: (s, replicas), from second 0 on. Takes go with the last of them."""

    wishes: tuple[tuple[float, int], ...]
    takes: tuple[Take, ...] = ()
    name: str = "script"
    interval_s: float = 15.0
    follow: Follow = field(default_factory=lambda: Follow(direct=True))

    def start(self, scene: Scene) -> float | None:  # noqa: ARG002 - of the protocol
        return None

    def decide(self, seen: Observation, memory: float | None, scene: Scene) -> tuple[Decision, float]:
        begun = seen.at if memory is None else memory
        wanted = [count for at, count in self.wishes if at <= seen.at - begun][-1]
        roles = tuple(RoleDecision(rule.key, wanted, takes=self.takes) for rule in scene.roles)
        return Decision(seen.at, roles), begun


def steady(seconds: int, per_s: float = 4.0, prompt: int = 500, output: int = 100) -> Workload:
    count = int(seconds * per_s)
    return Workload(
        "steady",
        np.arange(count) / per_s,
        np.full(count, prompt, dtype=np.int32),
        np.full(count, output, dtype=np.int32),
        horizon_s=float(seconds),
    )


def poisson(seconds: int, per_s: float, seed: int = 1) -> Workload:
    random = np.random.default_rng(seed)
    arrival = np.cumsum(random.exponential(1 / per_s, int(seconds * per_s)))
    arrival = arrival[arrival < seconds]
    prompt = np.clip(random.lognormal(6.5, 0.9, len(arrival)), 1, 8000).astype(np.int32)
    output = np.clip(random.lognormal(5.0, 0.7, len(arrival)), 1, 1000).astype(np.int32)
    return Workload("poisson", arrival, prompt, output, horizon_s=float(seconds))


def test_gpu_hours_count_from_the_asking_to_the_end_of_draining() -> None:
    # 1 replica for 600 s, and a second from 120 s (asked; starts 60 s) to 300 s (told to stop) and until it is empty.
    result = simulate(steady(600), Script(((0, 1), (120, 2), (300, 1))), Setup(initial=1, supply=START))
    drained = result.gpu_hours * 3600 - 600 - 180
    assert 0 < drained < 10
    assert result.finished == result.requests == 2400
    told = [(round(at), spec, ready) for at, spec, _, ready in result.history["colocated"]]
    assert told == [(0, 1, 1), (120, 2, 1), (180, 2, 2), (300, 1, 1)]
    assert result.direction_changes == 1


def test_cost_is_gpu_hours_times_price_per_million_output_tokens() -> None:
    # One GPU for 600 s at 6 an hour is 1; 2,400 requests of 100 tokens are 0.24 million: 1 / 0.24 = 4.1667.
    supply = replace(START, price_per_gpu_hour=6.0)
    result = simulate(steady(600), Script(((0, 1),)), Setup(initial=1, supply=supply))
    assert result.gpu_hours == pytest.approx(1 / 6)
    assert result.cost_per_million_tokens == pytest.approx(1 / 0.24)


def test_an_hpa_with_its_default_behaviour_keeps_the_highest_wish_of_five_minutes() -> None:
    follow = Follow(tolerance=0.0)
    result = simulate(
        steady(900, 1.0), Script(((0, 1), (100, 3), (200, 1)), follow=follow), Setup(initial=1, supply=START)
    )
    specs = [(at, spec) for at, spec, _, _ in result.history["colocated"]]
    # Wished at 105 s, seen by the HPA at its next look (7 + 15 k): 112 s. 3 was recommended until 202 s.
    assert (112.0, 3) in specs
    back = next(at for at, spec in specs if at > 112 and spec == 1)
    assert back == pytest.approx(202 + 300, abs=15.1)


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_start_ups() -> None:
    load, policy = poisson(400, 20.0), make("token-dynamics", {})

    def told(seed: int) -> str:
        setup = Setup(noise=0.1, faults=(Fault(FaultKind.KILL, 100.0, amount=1),))
        return json.dumps(simulate(load, policy, setup, seed=seed).as_json(series=True), sort_keys=True)

    assert told(3) == told(3)
    assert told(3) != told(4)


def test_a_killed_replica_loses_its_requests_and_is_replaced() -> None:
    setup = Setup(initial=2, minimum=2, supply=START, faults=(Fault(FaultKind.KILL, 100.0, amount=1),))
    result = simulate(steady(400), Script(((0, 2),)), setup)
    assert result.finished < result.requests
    told = [(round(at), spec, ready) for at, spec, _, ready in result.history["colocated"]]
    assert told == [(0, 2, 2), (100, 2, 1), (160, 2, 2)]


def test_requests_longer_than_kv_are_refused_and_missed() -> None:
    load = Workload("long", np.array([0.0, 1.0]), np.array([600_000, 100], np.int32), np.array([10, 10], np.int32))
    result = simulate(load, Script(((0, 1),)), Setup(initial=1))
    assert (result.requests, result.finished, result.refused) == (2, 1, 1)
    assert result.slo_attainment == 0.5


def test_pods_without_gpus_pend_until_a_node_is_bought() -> None:
    # One GPU prepared; the cluster autoscaler buys a node of 8 after 10 s, whose image has to be pulled.
    supply = SupplySetup(gpus=1, nodes_to_buy=1, start_s=(60.0, 60.000001))
    result = simulate(steady(1500, 1.0), Script(((0, 1), (30, 2))), Setup(initial=1, supply=supply))
    first_second = next(at for at, _, _, ready in result.history["colocated"] if ready == 2)
    assert first_second > 30 + 10 + 60
    without = simulate(
        steady(1500, 1.0),
        Script(((0, 1), (30, 2))),
        Setup(initial=1, supply=replace(supply, nodes_to_buy=0)),
    )
    assert without.peak_replicas == 1


def test_a_take_by_preemption_evicts_a_gang_and_counts_what_training_lost() -> None:
    supply = SupplySetup(gpus=1, gangs=(TrainingGang(gpus=4, checkpoint_s=1000.0, requeue_s=100.0),), start_s=(60, 61))
    setup = Setup(initial=1, supply=supply)
    takes = (Take(Tier.PREEMPT, 1, 160.0),)
    result = simulate(steady(900, 1.0), Script(((0, 1), (300, 2)), takes), setup)
    # Evicted at 300 s: 300 s since the last checkpoint and 100 s of requeueing, on 4 GPUs.
    assert result.evictions == 1
    assert result.lost_training_gpu_hours == pytest.approx(4 * (300 + 100) / 3600)
    assert result.peak_replicas == 2
    rival = simulate(steady(900, 1.0), Script(((0, 1), (300, 2))), setup)
    assert rival.evictions == 0
    assert rival.peak_replicas == 1


def test_an_unreadable_source_is_told_as_a_failure_and_missing_engines_as_missing() -> None:
    seen: dict[float, Observation] = {}
    faults = (
        Fault(FaultKind.UNREADABLE, 100.0, 50.0),
        Fault(FaultKind.MISSING, 200.0, 50.0, amount=0.5),
        Fault(FaultKind.STALE, 300.0, 200.0, amount=0.5),
    )
    simulate(
        steady(600),
        Script(((0, 2),)),
        Setup(initial=2, faults=faults),
        record=lambda told, _: seen.__setitem__(told.at - Setup().start_at, told),
    )
    assert seen[105].failure is not None
    assert seen[165].failure is None
    assert [seen[at].roles[0].reporting for at in (90, 225, 270)] == [2, 1, 2]
    # The last sample before 300 s counts for another minute.
    assert [(seen[at].roles[0].reporting, seen[at].roles[0].stale) for at in (330, 390, 570)] == [
        (2, 0),
        (1, 1),
        (2, 0),
    ]


def test_what_policies_see_are_the_rates_that_were_served() -> None:
    seen: list[Observation] = []
    simulate(steady(300), Script(((0, 2),)), Setup(initial=2), record=lambda told, _: seen.append(told))
    role = seen[-10].roles[0]
    assert role.first_token_rate == pytest.approx(4.0, rel=0.1)
    assert role.computed_rate == pytest.approx(4.0 * 500, rel=0.1)
    assert role.generation_rate == pytest.approx(4.0 * 100, rel=0.1)
    assert role.completion_rate == pytest.approx(4.0, rel=0.1)
    assert (role.reporting, role.ready, role.replicas, len(role.engines)) == (2, 2, 2, 2)
    assert sum(engine.running for engine in role.engines) == role.running


def test_wrong_profiles_are_told_to_policies_and_not_to_engines() -> None:
    told: list[Scene] = []

    @dataclass(frozen=True)
    class Listens(Script):
        def start(self, scene: Scene) -> None:
            told.append(scene)

    right = simulate(steady(60), Listens(((0, 1),)), Setup(initial=1))
    wrong = simulate(steady(60), Listens(((0, 1),)), Setup(initial=1, told_profile="llama-2-70b/a100-80gb/tp4"))
    assert right.ttft_p50_s == wrong.ttft_p50_s
    assert told[0].roles[0].engine != told[1].roles[0].engine


@pytest.mark.parametrize(
    "layout",
    [
        Layout.COLOCATED,
        pytest.param(
            Layout.DISAGGREGATED,
            marks=pytest.mark.xfail(
                strict=True,
                reason="GPU-hours 7 % low: after a scale-out rates summed by engine exceed what came; a fluid's do not",
            ),
        ),
    ],
)
def test_both_fidelities_agree_on_gpu_hours_and_attainment(layout: Layout) -> None:
    load, policy = poisson(900, 120.0), make("token-dynamics", {})
    setup = Setup(layout=layout)
    exact, fluid = simulate(load, policy, setup), simulate(load, policy, setup, fluid=True)
    assert fluid.fidelity == "fluid"
    assert fluid.gpu_hours == pytest.approx(exact.gpu_hours, rel=0.05)
    assert fluid.slo_attainment == pytest.approx(exact.slo_attainment, abs=0.05)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Setup(minimum=3, maximum=2), "minimum is 3"),
        (lambda: Setup(initial=65), "initial is 65"),
        (lambda: Setup(noise=2.0), "noise is 2.0"),
        (lambda: Setup(actuation=Actuation(scrape_s=0.0)), "actuation.scrape_s is 0.0"),
        (lambda: simulate(steady(60), Script(((0, 1),)), Setup(profile="nothing/h100/tp1")), "nearest"),
        (lambda: simulate(steady(60), Script(((0, 1),)), Setup(supply=SupplySetup(weights="tape"))), "one of"),
        (lambda: simulate(steady(60).between(50.1, 50.2), Script(((0, 1),)), Setup()), "no requests"),
    ],
)
def test_setups_that_cannot_be_are_refused_in_words(wrong: object, says: str) -> None:
    assert callable(wrong)
    with pytest.raises(BadSettings, match=says):
        wrong()
