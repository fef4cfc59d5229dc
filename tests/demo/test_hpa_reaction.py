"""The emulated HPA reacts as a real one (Kubernetes 1.36) was seen to react."""

import json

import pytest

from autoscaler.demo.hpa_follower import read_answer
from autoscaler.demo.quantity import milli
from autoscaler.policies.hpa_maths import HpaMemory, Policy, PolicyKind, ScalingRules, SelectPolicy
from autoscaler.policies.hpa_sync import HpaSpec, NotServed, Served, proposal, sync

SPEC = HpaSpec(min_replicas=1, max_replicas=50)
STATUS_503 = json.dumps({"kind": "Status", "message": "forecast is 93 s old, limit 60 s", "code": 503}).encode()


def items(*values: object) -> bytes:
    return json.dumps({"kind": "ExternalMetricValueList", "items": [{"value": value} for value in values]}).encode()


def tolerant(share: float) -> HpaSpec:
    rules = ScalingRules((Policy(PolicyKind.PERCENT, 1000, 15),), tolerance=share)
    return HpaSpec(1, 50, up=rules, down=rules)


# Replicas were 5, the target AverageValue 1, the tolerance 0, maxReplicas 50.
@pytest.mark.parametrize(
    ("status", "body", "replicas", "active", "words"),
    [
        (200, items("6"), 6, True, "success"),
        (200, items(), 5, False, "no metrics returned from external metrics API"),
        (404, b'{"kind":"Status","message":"no such workload"}', 5, False, "no such workload"),
        (429, b'{"kind":"Status","message":"slow down"}', 5, False, "slow down"),
        (503, STATUS_503, 5, False, "forecast is 93 s old, limit 60 s"),
        (500, b"boom", 5, False, 'an error on the server ("boom") has prevented the request'),
        (200, items("nan"), 5, False, "quantities must match the regular expression"),
        (200, b'{"items":[{"value":NaN}]}', 5, False, "quantities must match the regular expression"),
        (200, items(3.0), 3, True, "success"),
        (200, items("2", "3500m"), 6, True, "success"),
        (200, items("-1"), 50, True, "success"),
        (200, b'{"items":[{"value":"7","timestamp":"2020-01-01T00:00:00Z"}]}', 7, True, "success"),
        (200, items("0"), 1, True, "success"),
        (200, items("1k"), 50, True, "success"),
        (200, b"\xff\xfe garbage", 5, False, "no ExternalMetricValueList"),
        (200, b"[" * 100_000, 5, False, "no ExternalMetricValueList"),
        (200, b'{"items":{"value":"3"}}', 5, False, "no ExternalMetricValueList"),
        (200, b'{"items":[{"metricName":"x"}]}', 5, False, "an item has no value"),
        (200, items(None), 5, False, "a quantity must be a string or a number"),
        (200, items("4", "nan"), 5, False, "quantities must match"),
        (302, b"", 5, False, "an error on the server"),
    ],
)
def test_reaction_table(status: int, body: bytes, replicas: int, active: bool, words: str) -> None:
    result, _ = sync(SPEC, HpaMemory(), 0.0, (5, 5), read_answer(status, body))
    assert (result.replicas, result.active) == (replicas, active)
    assert result.reason == ("ValidMetricFound" if active else "FailedGetExternalMetric")
    assert words in result.message


@pytest.mark.parametrize(
    ("value", "thousandths"),
    [
        ("6", 6000),
        ("3500m", 3500),
        ("2.5k", 2_500_000),
        ("4e0", 4000),
        ("4E2", 400_000),
        ("0.0041k", 4100),
        ("1Ki", 1_024_000),
        ("-1", -1000),
        ("+2", 2000),
        (".5", 500),
        ("1u", 1),
        ("0.0001", 1),
        (3.0, 3000),
        (7, 7000),
        ("99999999999999999999", 2**63 - 1),
        ("-9E", -(2**63) + 1),
    ],
)
def test_quantities(value: object, thousandths: int) -> None:
    assert milli(value) == thousandths


@pytest.mark.parametrize("value", ["", "nan", "inf", "1.2.3", "1 ", "6x", "0x10", "1_0", "½", True, None, [], {}, "e3"])
def test_what_is_no_quantity(value: object) -> None:
    with pytest.raises(ValueError, match="quantit"):
        milli(value)


@pytest.mark.parametrize(
    ("tolerance", "replicas", "wish", "proposed"),
    [
        (0.1, 20, 21, 20),  # ratio 1.05
        (0.1, 20, 18, 20),  # ratio 0.9
        (0.1, 10, 9, 10),
        (0.1, 10, 11, 10),
        (0.1, 20, 23, 23),
        (0.0, 20, 21, 21),
        (0.0, 10, 10, 10),
        (0.1, 0, 3, 3),
    ],
)
def test_tolerance_swallows_small_changes(tolerance: float, replicas: int, wish: int, proposed: int) -> None:
    assert proposal(tolerant(tolerance), replicas, (wish * 1000,)) == proposed


def test_a_fraction_is_rounded_up() -> None:
    assert proposal(SPEC, 3, (3001,)) == 4


def test_a_size_out_of_bounds_is_corrected_before_the_metric_is_asked() -> None:
    assert sync(SPEC, HpaMemory(), 0.0, (60, 60), NotServed("down"))[0].replicas == 50
    assert sync(HpaSpec(3, 9), HpaMemory(), 0.0, (2, 2), NotServed("down"))[0].replicas == 3


def test_no_replicas_with_a_minimum_switches_it_off() -> None:
    status, _ = sync(SPEC, HpaMemory(), 0.0, (0, 0), Served((5000,)))
    assert (status.replicas, status.active, status.reason) == (0, False, "ScalingDisabled")


def test_scale_up_policies_count_what_was_added_within_their_period() -> None:
    # At most 4 pods in 15 s: from 2 to 6, then nothing, then 4 more once the first change is 15 s old.
    spec = HpaSpec(1, 50, up=ScalingRules((Policy(PolicyKind.PODS, 4, 15),)))
    memory, replicas, seen = HpaMemory(), 2, []
    for now in (0, 5, 14, 15, 20):
        status, memory = sync(spec, memory, now, (replicas, replicas), Served((30_000,)))
        replicas = status.replicas
        seen.append(replicas)
    assert seen == [6, 6, 6, 10, 10]


def test_max_takes_the_larger_policy_and_min_the_smaller() -> None:
    # From 10: +100 % allows 20, +4 pods allows 14. Down: 50 % leaves 5, 2 pods leave 8.
    up = (Policy(PolicyKind.PERCENT, 100, 15), Policy(PolicyKind.PODS, 4, 15))
    down = (Policy(PolicyKind.PERCENT, 50, 15), Policy(PolicyKind.PODS, 2, 15))
    reached = {}
    for select in SelectPolicy:
        spec = HpaSpec(1, 50, up=ScalingRules(up, select), down=ScalingRules(down, select))
        reached[select] = [
            sync(spec, HpaMemory(), 0.0, (10, 10), Served((wish,)))[0].replicas for wish in (40_000, 1000)
        ]
    assert reached == {SelectPolicy.MAX: [20, 5], SelectPolicy.MIN: [14, 8], SelectPolicy.DISABLED: [10, 10]}


def test_scale_down_waits_for_its_window() -> None:
    spec = HpaSpec(1, 50, down=ScalingRules((Policy(PolicyKind.PERCENT, 100, 15),), stabilization_seconds=10))
    memory, replicas, seen = HpaMemory(), 8, []
    for now, wish in ((0, 8), (4, 3), (8, 5), (10, 3), (13, 3), (18, 3), (20, 3)):
        status, memory = sync(spec, memory, now, (replicas, replicas), Served((wish * 1000,)))
        replicas = status.replicas
        seen.append(replicas)
    # The 8 of second 0 counts until second 10, the 5 of second 8 until second 18.
    assert seen == [8, 8, 8, 5, 5, 3, 3]
