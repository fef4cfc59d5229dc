"""WVA's saturation analyzers against vectors worked out from their formulas."""

import pytest
from rival_scenes import KV, engines, key, rule, scene, told, wishes

from autoscaler.model import Role
from autoscaler.policies.wva_capacity import Limits, Seen, Shape, by_arguments, capacity, with_queue
from autoscaler.policies.wva_v1 import WvaV1
from autoscaler.policies.wva_v2 import WvaV2, grown

MIX = {"prompt_rate": 1000.0, "computed_rate": 1000.0, "first_token_rate": 1.0}
MIX |= {"generation_rate": 250.0, "completion_rate": 1.0}
SHAPE = Shape(1000.0, 250.0)


@pytest.mark.parametrize(
    ("loads", "change"),
    [
        ([(0.65, 0), (0.60, 0)], 0),  # spare KV 0.175
        ([(0.72, 0), (0.74, 0)], 1),  # spare KV 0.07
        ([(0.30, 0)] * 4, -1),
        ([(0.34, 0)] * 2, -1),
        ([(0.36, 0)] * 2, 0),
        ([(0.2, 2), (0.2, 2), (0.2, 3)], 1),  # spare queue 2.667
        ([(0.9, 9), (0.85, 6)], 1),  # none is free
        ([(0.1, 2)], 0),  # spare queue 3.0 is not below 3
        ([(0.1, 1)] * 2, -1),
        ([(0.69, 0)], 0),
        ([(0.5, 9), (0.2, 0), (0.2, 0), (0.2, 0)], -1),  # the saturated one is left out of the simulation
    ],
)
def test_v1_vectors(loads: list[tuple[float, float]], change: int) -> None:
    assert WvaV1().change(loads)[0] == change
    seen = told(replicas=len(loads), engines=engines(*loads))
    assert wishes(WvaV1(), scene(), (0.0, seen)) == [max(1, len(loads) + change)]


def test_v1_holds_while_a_replica_is_pending() -> None:
    seen = told(replicas=3, ready=2, engines=engines((0.9, 9), (0.9, 9)))
    assert wishes(WvaV1(), scene(), (0.0, seen)) == [3]


@pytest.mark.parametrize(
    ("prompt", "output", "tokens"),
    [
        (1000, 250, 288_000),
        (100, 1000, 153_600),
        (4000, 1000, 1_152_000),
        (1000, 4000, 768_000),
        (256, 256, 98_304),
        (8000, 200, 1_618_419),
    ],
)
def test_capacity_by_arguments(prompt: float, output: float, tokens: float) -> None:
    assert by_arguments(Shape(prompt, output), 8192, 256) == tokens


def test_capacity_by_arguments_with_a_small_batch_budget() -> None:
    assert by_arguments(Shape(8000, 200), 2048, 256) == 404_604  # N = 2048 * 200 / 8200 = 49.95
    for prompt, output, tokens in ((1000, 250, 288_000), (256, 256, 98_304)):
        assert by_arguments(Shape(prompt, output), 2048, 256) == tokens


# (replicas, ready, KV usage, waiting, charge for output) -> RC, SC, wish. KVmax 432,000, so k1 = 345,600; P3 288,000.
V2 = [
    (2, 2, 0.60, 0, True, 33_882, 0, 3),
    (3, 2, 0.60, 0, True, 0, 0, 3),
    (6, 6, 0.162, 0, True, 0, 1_128_137, 3),
    (3, 3, 0.324, 0, True, 0, 264_137, 3),
    (2, 2, 0.95, 60, True, 450_918, 0, 4),
    (2, 2, 0.95, 60, False, 415_624, 0, 4),
    (2, 2, 0.162, 40, True, 142_347, 0, 5),
    (2, 2, 0.162, 40, False, 118_818, 0, 4),
]


@pytest.mark.parametrize(("replicas", "ready", "usage", "queue", "charge", "lacking", "spare", "wish"), V2)
def test_v2_vectors(
    replicas: int, ready: int, usage: float, queue: int, charge: bool, lacking: int, spare: int, wish: int
) -> None:
    limits = Limits(charge_output=charge)
    loads = engines(*[(usage, float(queue))] * ready)
    found, _ = capacity(loads, replicas - ready, SHAPE, {}, limits, 0.0, prefill=False)
    assert found is not None
    assert round(found.lacking(limits)) == lacking
    assert round(found.spare(limits)) == spare
    policy = WvaV2(charge_output=charge)
    seen = told(replicas=replicas, ready=ready, engines=loads, **MIX)
    assert wishes(policy, scene(), (0.0, seen)) == [wish]


def test_v2_remembers_what_it_saw_at_saturation() -> None:
    loads = engines((0.162, 40.0), (0.162, 40.0))
    _, seen = capacity(loads, 0, SHAPE, {}, Limits(), 0.0, prefill=False)
    assert seen == {"medium": Seen((69_984.0, 69_984.0), 0.0)}
    # With the queue gone, each engine still counts 69,984, until a day has passed.
    calm = engines((0.1, 0.0))
    later, _ = capacity(calm, 0, SHAPE, seen, Limits(), 86_400.0, prefill=False)
    after, _ = capacity(calm, 0, SHAPE, seen, Limits(), 86_401.0, prefill=False)
    assert later is not None
    assert after is not None
    assert (later.each, after.each) == (69_984.0, 288_000.0)


def test_v2_demand_at_the_scheduler() -> None:
    found, _ = capacity(engines((0.5, 0.0)), 0, SHAPE, {}, Limits(), 0.0, prefill=False)
    assert found is not None
    # 10 requests of 1000 in and 250 out, 40 % of the prompt cached: 10 * 600 + 10 * 250.
    assert with_queue(found, 10.0, SHAPE, 0.4, prefill=False).demand - found.demand == pytest.approx(8500.0)
    assert with_queue(found, 10.0, SHAPE, 0.4, prefill=True).demand - found.demand == pytest.approx(6000.0)


def test_v2_without_kv_capacity_keeps() -> None:
    seen = told(replicas=3, engines=engines((0.9, 9.0), capacity=0.0), **MIX)
    assert wishes(WvaV2(), scene(), (0.0, seen)) == [None]


def test_v2_grows_prefill_and_decode_in_step() -> None:
    p, d = key(Role.PREFILL), key(Role.DECODE)
    # Prefill lacks 2.5 replicas, decode 1. Round 1: n = 3 and 1, u = 1.2 and 1, step 1: prefill floor(2.5) = 2,
    # decode 1. Round 2: prefill lacks 0.5: n = 1.
    assert grown({p: 250.0, d: 100.0}, {p: 100.0, d: 100.0}, {p: 10, d: 10}) == {p: 3, d: 1}
    # No room for decode: prefill has no reason to grow alone.
    assert grown({p: 250.0, d: 100.0}, {p: 100.0, d: 100.0}, {p: 10, d: 0}) == {p: 0, d: 0}
    assert grown({p: 250.0}, {p: 100.0}, {p: 2}) == {p: 2}


def test_v2_fixed_reads_the_engines_arguments_and_shipped_does_not() -> None:
    small = rule()
    assert WvaV2().limits(small).most_running == small.engine.max_running == 256.0
    assert KV * 0.8 == 345_600
    assert WvaV2(true_arguments=False).limits(small) == Limits()
