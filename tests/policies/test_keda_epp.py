"""KEDA on the endpoint picker's metrics by hand."""

import pytest
from rival_scenes import engines, scene, told, wishes

from autoscaler.policies.keda_epp import KedaEpp, Triggers, saturation
from autoscaler.policies.registry import make
from autoscaler.policies.role_steps import largest

SHIPPED = KedaEpp(per_replica=False)


@pytest.mark.parametrize(
    ("replicas", "usage", "waiting", "shipped", "fixed"),
    [
        # A step hits one replica: KV ceil(1 / 0.7) = 2, queue ceil(100 / 2) = 50.
        (1, 1.0, 100.0, 50, 50),
        # Ten at KV 0.67 and 40 waiting: means 0.67 and 4. As shipped ceil(0.96) = 1 and ceil(2) = 2, though all ten
        # work; fixed: 6.7 / 0.7 = 9.57, within 10 % of 10, so 10; queue 40 / 2 = 20.
        (10, 0.67, 40.0, 2, 20),
        # Caught up: KV 0.5 of four. As shipped ceil(0.714) = 1; fixed ceil(2 / 0.7) = 3.
        (4, 0.5, 0.0, 1, 3),
        # One replica at 0.75: 0.75 / 0.7 = 1.07 is within the tolerance for both.
        (1, 0.75, 0.0, 1, 1),
        # Two at 0.95: as shipped 0.95 / (0.7 * 2) = 0.68, ceil(1.36) = 2; fixed ceil(1.9 / 0.7) = 3.
        (2, 0.95, 0.0, 2, 3),
    ],
)
def test_pool_means_are_taken_for_totals_as_shipped(
    replicas: int, usage: float, waiting: float, shipped: int, fixed: int
) -> None:
    seen = told(replicas=replicas, kv_usage=usage, waiting=waiting)
    assert wishes(SHIPPED, scene(), (0.0, seen)) == [shipped]
    assert wishes(KedaEpp(), scene(), (0.0, seen)) == [fixed]


def test_means_are_over_the_engines_that_report_and_starting_replicas_do_not_multiply() -> None:
    # 2 of 6 are ready with 12 waiting: mean 6, times the 2 ready ones 12: 12 / (2 * 6) = 1 keeps the 6 asked for.
    seen = told(replicas=6, ready=2, kv_usage=0.1, waiting=12.0)
    assert wishes(KedaEpp(), scene(), (0.0, seen)) == [6]


def test_pool_saturation() -> None:
    # max(2/5, 0.5/0.8) = 0.625 and max(10/5, 0.1/0.8) = 2; a stale engine counts 1.
    pair = engines((0.5, 2.0), (0.1, 10.0))
    assert saturation(told(replicas=2, engines=pair)) == pytest.approx(2.625 / 2)
    assert saturation(told(replicas=3, reporting=2, stale=1, engines=pair)) == pytest.approx(3.625 / 3)
    assert saturation(told(replicas=2)) is None


def test_saturation_and_requests_in_flight() -> None:
    policy = make("keda-epp-saturation")
    # Saturation 1.3125 / 0.7 -> 2; (60 + 12) / 16 = 4.5 -> 5.
    seen = told(replicas=2, running=60.0, waiting=12.0, engines=engines((0.5, 2.0), (0.1, 10.0)))
    assert wishes(policy, scene(), (0.0, seen)) == [5]


def test_the_gateways_queue() -> None:
    policy = make("keda-epp-queue")
    looks = [(0.0, told(replicas=2, queued_at_gateway=held)) for held in (7.0, 2.0, 0.0)]
    assert [wishes(policy, scene(), look)[0] for look in looks] == [7, 2, 1]


def test_with_a_trigger_missing_it_may_only_grow() -> None:
    assert wishes(KedaEpp(), scene(), (0.0, told(replicas=3, kv_usage=0.1))) == [None]
    assert wishes(KedaEpp(), scene(), (0.0, told(replicas=3, kv_usage=0.9))) == [4]  # 2.7 / 0.7 = 3.86
    assert wishes(KedaEpp(), scene(), (0.0, told(replicas=3))) == [None]
    assert (largest([None, 2], 3), largest([2, 1], 3), largest([], 3)) == (None, 2, None)


def test_the_flavours_are_what_their_names_say() -> None:
    shipped, fixed = make("keda-epp-shipped"), make("keda-epp")
    assert isinstance(shipped, KedaEpp)
    assert isinstance(fixed, KedaEpp)
    assert (shipped.per_replica, fixed.per_replica) == (False, True)
    assert {shipped.triggers, fixed.triggers} == {Triggers.POOL_AVERAGE}
    assert (shipped.kv_target, shipped.queue_target) == (0.7, 2.0)
