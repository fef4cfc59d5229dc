"""The HPA's arithmetic, from metric to proposal, by hand."""

import pytest
from rival_scenes import scene, told, wishes

from autoscaler.policies.hpa import Hpa, Signal
from autoscaler.policies.hpa_maths import (
    HpaMemory,
    Pods,
    ScalingRules,
    average_value_proposal,
    pods_proposal,
    stabilised,
    value_proposal,
    within,
)
from autoscaler.policies.keda_queue import KedaQueue


@pytest.mark.parametrize(
    ("replicas", "wish", "proposed"),
    [
        (20, 21, 20),
        (20, 18, 20),
        (10, 9, 10),
        (20, 23, 23),
        (20, 17, 17),
        (10, 12, 12),
        (10, 8, 8),
        (1, 2, 2),
        (2, 1, 1),
    ],
)
def test_tolerance_swallows_small_wishes_of_a_replica_gauge(replicas: int, wish: int, proposed: int) -> None:
    assert average_value_proposal(wish, 1, replicas) == proposed
    assert average_value_proposal(float(wish), 1.0, replicas) == proposed


def test_the_last_bit_of_a_float_decided_before_1_33_and_no_longer_does() -> None:
    # |1 - 11/10| = 0.10000000000000009 > 0.1 let 10 -> 11 and 20 -> 22 pass; 1.0 + 0.1 >= 1.1 does not.
    for before, wish in ((10, 11), (20, 22)):
        assert abs(1.0 - wish / before) > 0.1
        assert within(wish / before, 0.1, 0.1)
        assert average_value_proposal(wish, 1, before) == before


def test_value_mode_multiplies_a_wish_by_the_ready_pods() -> None:
    # A wish of 3 from 2 goes 6, 18, ...; a wish of 1 from 5 stays 5.
    assert value_proposal(3, 1, ready=2, replicas=2) == 6
    assert value_proposal(3, 1, ready=6, replicas=6) == 18
    assert value_proposal(1, 1, ready=5, replicas=5) == 5


@pytest.mark.parametrize(
    ("mean", "pods", "proposed"),
    [
        (0.9, Pods(4, 0, 0, 4), 8),  # 0.9 / 0.5 = 1.8; ceil(1.8 * 4) = 8
        (0.54, Pods(4, 0, 0, 4), 4),  # 1.08 is within 10 %
        (0.2, Pods(4, 0, 0, 4), 2),  # ceil(0.4 * 4) = 2
        (0.9, Pods(4, 0, 4, 8), 8),  # pending at 0: 3.6 / (0.5 * 8) = 0.9 changed sides: keep
        (0.9, Pods(4, 4, 0, 8), 8),  # missing at 0 on the way up: the same
        (0.9, Pods(4, 0, 2, 6), 8),  # 3.6 / (0.5 * 6) = 1.2; ceil(1.2 * 6) = 8
        (0.2, Pods(4, 4, 0, 8), 6),  # missing at the target: (0.8 + 2) / (0.5 * 8) = 0.7; ceil(5.6) = 6
        (0.2, Pods(4, 0, 4, 8), 2),  # pending ones do not count on the way down: ceil(0.4 * 4) = 2
        (0.5, Pods(1, 3, 0, 4), 4),  # exactly on target
    ],
)
def test_missing_and_pending_pods_damp_both_ways(mean: float, pods: Pods, proposed: int) -> None:
    assert pods_proposal(mean, 0.5, pods) == proposed


def test_stabilisation_takes_the_least_on_the_way_up_and_the_most_on_the_way_down() -> None:
    up, down = ScalingRules((), stabilization_seconds=30), ScalingRules((), stabilization_seconds=300)
    memory, found = HpaMemory(), []
    for at, asked in ((0, 10), (15, 14), (40, 14), (60, 3), (330, 3), (350, 3), (370, 3)):
        steady, memory = stabilised(up, down, memory, at, 10, asked)
        found.append(steady)
    # 14 waits until the 10 is 30 s old; 3 until the last 14 (second 40) is 300 s old.
    assert found == [10, 10, 14, 10, 10, 3, 3]


def test_starting_replicas_do_not_cascade_on_kv_usage() -> None:
    # 4 ready at 0.9 of 0.5 ask for 8. With those 4 on their way the same usage asks for no more.
    policy = Hpa(target=0.5)
    looks = ((0.0, told(replicas=4, kv_usage=0.9)), (15.0, told(replicas=8, ready=4, kv_usage=0.9)))
    assert wishes(policy, scene(), *looks) == [8, 8]


def test_queue_per_pod() -> None:
    policy = Hpa(name="hpa-queue", signal=Signal.QUEUE, target=5.0)
    # 30 waiting over 2 pods: 15 / 5 = 3 times as many.
    assert wishes(policy, scene(), (0.0, told(replicas=2, waiting=30.0))) == [6]
    assert wishes(policy, scene(), (0.0, told(replicas=2))) == [None]


def test_keda_divides_the_sum_by_the_target() -> None:
    policy = KedaQueue(target=5.0)
    # ceil(31 / 5) = 7; 11 / (5 * 2) = 1.1 is within the tolerance; 0 goes to 1.
    reports = (told(waiting=31.0), told(waiting=11.0), told(waiting=0.0))
    assert [wishes(policy, scene(), (0.0, report))[0] for report in reports] == [7, 2, 1]


def test_keda_sleeps_after_its_cooldown_and_wakes_on_the_gateways_queue() -> None:
    policy = KedaQueue(cooldown_s=300.0)
    idle, asleep = told(replicas=1, waiting=0.0), told(replicas=0, queued_at_gateway=0.0)
    woken = told(replicas=0, queued_at_gateway=3.0)
    looks = ((0.0, idle), (285.0, idle), (300.0, idle), (315.0, asleep), (330.0, woken))
    assert wishes(policy, scene(minimum=0), *looks) == [1, 1, 0, 0, 1]
