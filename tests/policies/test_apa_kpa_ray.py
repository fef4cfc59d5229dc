"""AIBrix APA, Knative KPA and Ray Serve by hand."""

import pytest
from rival_scenes import scene, told, wishes

from autoscaler.model import Role, RoleObservation
from autoscaler.policies.aibrix_apa import AibrixApa, Cooldown
from autoscaler.policies.knative_kpa import KnativeKpa
from autoscaler.policies.ray_serve import RayServe

SHIPPED = AibrixApa(cooldown=Cooldown.SHIPPED, silent_is_zero=True, guard_pending=False)


@pytest.mark.parametrize(
    ("current", "ratio", "wanted"),
    [
        (10, 1.05, 10),
        (10, 1.5, 15),
        (10, 3.0, 20),
        (10, 0.95, 10),
        (10, 0.6, 6),
        (10, 0.1, 5),
        (5, 0.1, 2),
        (1, 0.1, 1),
    ],
)
def test_apa_steps(current: int, ratio: float, wanted: int) -> None:
    # At most twice as many; at least floor(current / 2), but no less than ceil(current * ratio).
    assert AibrixApa().recommended(current, ratio) == wanted


def test_apa_cooldown_as_shipped_takes_the_deepest_and_kubernetes_the_highest() -> None:
    found = {}
    for cooldown in Cooldown:
        policy, remembered, steady = AibrixApa(cooldown=cooldown), (), []
        for at, asked in enumerate((10, 3, 9, 9)):
            count, remembered = policy.cooled(remembered, 10.0 * at, 10, asked)
            steady.append(count)
        found[cooldown] = steady
    assert found == {Cooldown.SHIPPED: [10, 3, 3, 3], Cooldown.KUBERNETES: [10, 10, 10, 10]}


def test_apa_multiplies_while_replicas_start_unless_guarded() -> None:
    # Two ready at 0.9 of 0.5 (1.8 times): 2 -> 4; with the two new ones starting, 4 * 1.8 -> 8.
    looks = ((0.0, told(replicas=2, kv_usage=0.9)), (10.0, told(replicas=4, ready=2, kv_usage=0.9)))
    assert wishes(SHIPPED, scene(), (0.0, looks[0][1])) == [4]
    cascading = AibrixApa(cooldown=Cooldown.SHIPPED, guard_pending=False)
    assert wishes(cascading, scene(), *looks) == [4, 8]
    assert wishes(AibrixApa(), scene(), *looks) == [4, 4]


def test_apa_as_shipped_counts_silent_pods_as_zero() -> None:
    # 4 ready, 2 heard at 0.6: mean 0.3, ratio 0.6, ceil(4 * 0.6) = 3. Guarded: 0.6 / 0.5 = 1.2, 5.
    half = told(replicas=4, kv_usage=0.6, reporting=2)
    assert wishes(SHIPPED, scene(), (0.0, half)) == [3]
    assert wishes(AibrixApa(), scene(), (0.0, half)) == [5]
    mute = told(replicas=4, reporting=0, stale=4)
    assert wishes(SHIPPED, scene(), (0.0, mute)) == [2]
    assert wishes(AibrixApa(), scene(), (0.0, mute)) == [None]


def test_apa_prefill_by_concurrency() -> None:
    policy = AibrixApa(prefill_concurrency=4.0)
    busy = told(Role.PREFILL, replicas=2, kv_usage=0.1, running=6.0, waiting=6.0)
    assert wishes(policy, scene(Role.PREFILL), (0.0, busy)) == [3]  # 6 each over 4: ceil(2 * 1.5)


def loaded(concurrency: float, replicas: int) -> RoleObservation:
    return told(replicas=replicas, running=concurrency, waiting=0.0)


def test_kpa_panics_and_does_not_come_down_until_the_panic_is_over() -> None:
    policy = KnativeKpa(concurrency=10.0, utilisation=1.0, interval_s=2.0)
    looks = [(float(at), loaded(10.0, 1)) for at in range(0, 60, 2)]
    assert set(wishes(policy, scene(), *looks)) == {1}
    # At 60 s: 50 requests. Panic mean (10+10+50)/3 = 23.3 -> 3 wanted of 1 ready: 3 >= 2, panic. Then 36.7, then 50.
    looks += [(float(at), loaded(50.0, 1)) for at in (60, 62, 64)]
    assert wishes(policy, scene(), *looks)[-3:] == [3, 4, 5]
    # The load goes away. At 66 s (50+50+10)/3 still asks for 4 of 5 ready, which is no reason to panic; the panic
    # began last at 64 s and holds 5 until more than 60 s later.
    looks += [(float(at), loaded(10.0, 5)) for at in range(66, 132, 2)]
    calm = dict(zip((at for at, _ in looks), wishes(policy, scene(), *looks), strict=True))
    assert calm[124.0] == 5
    # Then at most halved: floor(5 / 2) = 2, though ceil(10 / 10) = 1.
    assert calm[126.0] == 2


def test_kpa_begins_in_panic_with_several_replicas() -> None:
    policy = KnativeKpa()
    assert wishes(policy, scene(), (0.0, loaded(0.0, 4)), (60.0, loaded(0.0, 4)), (62.0, loaded(0.0, 4))) == [4, 4, 2]


def test_kpa_goes_to_zero_only_after_a_quiet_window_and_grace() -> None:
    policy = KnativeKpa(stable_s=10.0, panic_s=2.0, grace_s=30.0)
    looks = [(float(at), loaded(1.0 if at == 0 else 0.0, 1)) for at in range(0, 46, 2)]
    found = dict(zip((at for at, _ in looks), wishes(policy, scene(minimum=0), *looks), strict=True))
    # The request of second 0 leaves the window at 10; 30 s of grace begin then.
    assert (found[38.0], found[40.0]) == (1, 0)


def test_ray_serve_acts_after_the_same_direction_for_its_delay() -> None:
    policy = RayServe(target_ongoing=2.0, up_delay_s=30.0, down_delay_s=600.0, look_back_s=10.0)
    busy = told(replicas=2, running=10.0, waiting=0.0)
    # 10 / 2 = 5 wanted from the first look on, done at 30 s.
    looks = [(float(at), busy) for at in (0, 10, 20, 30)]
    assert wishes(policy, scene(), *looks) == [2, 2, 2, 5]
    # One look at the target in between begins anew.
    fine = told(replicas=2, running=4.0, waiting=0.0)
    looks = [(0.0, busy), (10.0, busy), (20.0, fine), (30.0, busy), (50.0, busy), (60.0, busy)]
    assert wishes(policy, scene(), *looks) == [2, 2, 2, 2, 2, 5]


def test_ray_serve_shrinks_after_600_s() -> None:
    policy = RayServe(target_ongoing=2.0)
    quiet = told(replicas=4, running=2.0, waiting=0.0)
    assert wishes(policy, scene(), (0.0, quiet), (590.0, quiet), (600.0, quiet)) == [4, 4, 1]


def test_ray_serve_gain_and_the_stuck_step_down() -> None:
    policy = RayServe(target_ongoing=2.0, up_gain=0.5, down_gain=0.3)
    assert policy.scaled(4, 16.0) == 6  # 4 + 0.5 * (8 - 4)
    assert policy.scaled(4, 6.0) == 3  # 4 + 0.3 * (3 - 4) = 3.7, rounded up to 4: stuck, so one less
    assert policy.scaled(4, 7.0) == 4  # 3.5 is no whole replica less


def test_ray_serve_wakes_at_once() -> None:
    policy = RayServe()
    looks = ((0.0, told(replicas=0, queued_at_gateway=0.0)), (10.0, told(replicas=0, queued_at_gateway=1.0)))
    assert wishes(policy, scene(minimum=0), *looks) == [0, 1]
