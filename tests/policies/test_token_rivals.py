"""KEDA token backlog, TokenScale, HeteroScale, the timetable and fixed counts by hand."""

from dataclasses import replace

import pytest
from rival_scenes import ENGINE, TARGET, engines, rule, scene, told, wishes

from autoscaler.model import Role
from autoscaler.policies.cron_hpa import CronHpa, timetable
from autoscaler.policies.heteroscale import HeteroScale
from autoscaler.policies.keda_token_backlog import KedaTokenBacklog
from autoscaler.policies.pool_traffic import Traffic, TrafficState, traffic
from autoscaler.policies.static_counts import Static, replicas_for
from autoscaler.policies.tokenscale import TokenScale, bucket, release_velocity
from autoscaler.velocity import StepModel

PROMPTS = {"prompt_rate": 10_000.0, "computed_rate": 8000.0, "first_token_rate": 10.0, "waiting": 0.0}
OUTPUTS = {"generation_rate": 2000.0, "completion_rate": 10.0}


def test_token_backlog_is_seconds_of_prefill_over_the_threshold() -> None:
    policy = KedaTokenBacklog(velocity=15_928.0)
    # 95,568 tokens are 6 s; 6 / 1.5 = 4 replicas. 4 engines tell 23,892 each.
    seen = told(Role.PREFILL, replicas=1, reporting=4, engines=engines(*[(0.1, 1.0)] * 4, tokens=23_892.0))
    assert wishes(policy, scene(Role.PREFILL), (0.0, seen)) == [4]


def test_token_backlog_from_waiting_requests_and_their_mean_prompt() -> None:
    policy = KedaTokenBacklog(velocity=8000.0)
    # (20 in the engines + 10 at the gateway) * 800 uncached tokens = 24,000: 3 s, 2 replicas.
    seen = told(Role.PREFILL, replicas=1, queued_at_gateway=10.0, **(PROMPTS | {"waiting": 20.0}))
    assert wishes(policy, scene(Role.PREFILL), (0.0, seen)) == [2]


def test_token_backlog_decode_by_kv_and_colocated_by_the_larger() -> None:
    policy = KedaTokenBacklog(velocity=8000.0)
    # 3 replicas at 0.96: 2.88 / 0.8 = 3.6 -> 4. Backlog: 40 * 800 / 8000 = 4 s: 2.67 -> 3 is within... 4 / 4.5 = 0.89.
    decode = told(Role.DECODE, replicas=3, kv_usage=0.96)
    assert wishes(policy, scene(Role.DECODE), (0.0, decode)) == [4]
    both = told(replicas=3, kv_usage=0.96, **(PROMPTS | {"waiting": 40.0}))
    assert wishes(policy, scene(), (0.0, both)) == [4]


def test_token_backlog_with_one_metric_missing_may_grow_and_not_shrink() -> None:
    policy = KedaTokenBacklog(velocity=8000.0)
    idle = told(replicas=3, **PROMPTS)
    busy = told(replicas=3, **(PROMPTS | {"waiting": 100.0}))
    # 100 * 800 / 8000 = 10 s: 6.67 -> 7.
    assert wishes(policy, scene(), (0.0, idle), (15.0, busy)) == [None, 7]


def test_arrivals_are_what_was_served_plus_what_piles_up() -> None:
    first, state = traffic({Role.COLOCATED: told(**PROMPTS, **OUTPUTS)}, TrafficState(), 0.0)
    # 60 more wait after 30 s: 2 requests/s beyond the 10 served.
    later, _ = traffic({Role.COLOCATED: told(**(PROMPTS | {"waiting": 60.0}), **OUTPUTS)}, state, 30.0)
    assert first == Traffic(10.0, 1000.0, 800.0, 200.0)
    assert later == Traffic(12.0, 1000.0, 800.0, 200.0)
    assert later.hit_rate == pytest.approx(0.2)


# A step model of 10 ms + 0.1 ms per prompt token + 1 ms per running request, so that ITL = 100 ms allows 90 requests:
# 900 output tokens/s. Prefill does 1 / (0.0001 + 0.01 / 8192) = 9,879.4 tokens/s.
ROUND = replace(ENGINE, step=StepModel(0.01, 1e-4, 1e-3, 0.0))


def test_tokenscale_prefill_and_decode() -> None:
    now = Traffic(10.0, 1000.0, 800.0, 200.0)
    prefill, decode = (replace(rule(role), engine=ROUND) for role in (Role.PREFILL, Role.DECODE))
    assert TokenScale().replicas(prefill, now) == pytest.approx(10_000 / 9879.4, rel=1e-4)
    assert TokenScale(uncached=True).replicas(prefill, now) == pytest.approx(8000 / 9879.4, rel=1e-4)
    # A decoder releases 900 / 200 = 4.5 requests/s of 1,200 tokens = 5,400 tokens/s; 12,000 arrive.
    assert release_velocity(decode, 1000.0, 200.0) == pytest.approx(5400.0)
    assert TokenScale().replicas(decode, now) == pytest.approx(12_000 / 5400)


def test_tokenscale_a_slow_link_limits_prefill() -> None:
    linked = replace(rule(Role.PREFILL), engine=replace(ROUND, link_tokens=2000.0))
    assert TokenScale().replicas(linked, Traffic(10.0, 1000.0, 800.0, 200.0)) == pytest.approx(5.0)


def test_tokenscale_keeps_convertible_decoders_beside() -> None:
    where = scene(Role.PREFILL, Role.DECODE)
    where = replace(where, roles=tuple(replace(one, engine=ROUND) for one in where.roles))
    look = (0.0, (told(Role.PREFILL, **PROMPTS), told(Role.DECODE, **OUTPUTS)))
    # Prefill 1.01 -> 2, decode 2.22 -> 3 and the convertible ones.
    assert wishes(TokenScale(convertible=0), where, look) == [(2, 3)]
    assert wishes(TokenScale(convertible=2), where, look) == [(2, 5)]


def test_tokenscale_buckets() -> None:
    assert bucket(256.0, 100.0) == (256.0, 100.0)
    assert bucket(257.0, 101.0) == (1024.0, 350.0)
    assert bucket(9000.0, 2000.0) == (9000.0, 2000.0)


@pytest.mark.parametrize(
    ("rate", "tbt", "wanted"),
    [
        (1050.0, 0.05, 10),  # within 10 % of 10 * 100 tokens/s
        (1150.0, 0.05, 12),
        (500.0, 0.05, 5),
        (1050.0, 0.11, 11),  # TBT over 100 ms: at least 10 % more
        (1050.0, 0.13, 12),  # over 120 ms: 20 %
        (2000.0, 0.13, 20),
        (500.0, 0.11, 11),  # the guard overrules the proportional law
        (1050.0, None, 10),
    ],
)
def test_heteroscale_law(rate: float, tbt: float | None, wanted: int) -> None:
    assert HeteroScale().capacity(10, rate, 100.0, tbt, TARGET.itl_s) == wanted


def test_heteroscale_moves_both_roles_and_cools_down() -> None:
    policy = HeteroScale(target_tps=500.0, ratio=0.5)

    def look(at: float, rate: float, prefill: int, decode: int) -> tuple[float, tuple[object, object]]:
        out = {"generation_rate": rate, "completion_rate": 10.0}
        return at, (told(Role.PREFILL, replicas=prefill, **PROMPTS), told(Role.DECODE, replicas=decode, **out))

    looks = (
        look(0, 2000, 1, 2),
        look(165, 4000, 2, 4),
        look(180, 4000, 2, 4),
        look(765, 500, 4, 8),
        look(780, 500, 4, 8),
    )
    # 2,000 / 500 = 4 at once; 8 only 180 s later; 1 only 600 s after that. Prefill is half of decode, rounded up.
    assert wishes(policy, scene(Role.PREFILL, Role.DECODE), *looks) == [(2, 4), (2, 4), (4, 8), (4, 8), (1, 1)]


def test_heteroscale_calibrates_once() -> None:
    where = scene(Role.PREFILL, Role.DECODE)
    where = replace(where, roles=tuple(replace(one, engine=ROUND) for one in where.roles))
    policy = HeteroScale(share=0.5, calibrate_s=60.0, out_cooldown_s=0.0, in_cooldown_s=0.0)
    now = (told(Role.PREFILL, **PROMPTS), told(Role.DECODE, **OUTPUTS))
    # 900 tokens/s * 0.5 = 450: 2,000 / 450 -> 5. Ratio 900 * 800/200 / 9,879 = 0.364: ceil(5 * 0.364) = 2.
    assert wishes(policy, where, (0.0, now), (60.0, now)) == [(2, 5), (2, 5)]
    # Twice as long prompts after the calibration change nothing: the ratio is fixed.
    longer = (told(Role.PREFILL, **(PROMPTS | {"computed_rate": 40_000.0})), now[1])
    assert wishes(policy, where, (0.0, now), (60.0, longer)) == [(2, 5), (2, 5)]


def test_timetable() -> None:
    policy = CronHpa(colocated="08:00=6, 20:00=2")
    hours = [(3600.0 * hour, told(replicas=3)) for hour in (0, 7.99, 8, 19.99, 20, 24 + 9)]
    assert wishes(policy, scene(), *hours) == [2, 2, 6, 6, 2, 6]
    assert wishes(CronHpa(), scene(), (0.0, told(replicas=3))) == [None]


@pytest.mark.parametrize(
    "text", ["8=1", "24:00=1", "08:60=1", "08:00=-1", "08:00=x", "08:00", "08:00=1,08:00=2", "²:00=1"]
)
def test_bad_timetables_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="decode: "):
        timetable("decode", text)


def test_fixed_counts() -> None:
    where = scene(Role.PREFILL, Role.DECODE, maximum=9)
    now = (told(Role.PREFILL), told(Role.DECODE))
    assert wishes(Static(prefill=3, decode=20), where, (0.0, now)) == [(3, 9)]
    assert wishes(Static(prefill=3), where, (0.0, now)) == [(3, 9)]
    assert wishes(Static(name="static-mean", prefill=3, fill=False), where, (0.0, now)) == [(3, None)]


def test_fixed_counts_come_from_the_load() -> None:
    decode = replace(rule(Role.DECODE), engine=ROUND)
    # 10 requests/s * 200 tokens = 2,000 tokens/s: 200 in service at 100 ms; 200 + 1.645 * sqrt(200) = 223 places of 90.
    assert replicas_for(decode, 10.0, 1000.0, 200.0) == 3
    assert replicas_for(decode, 0.0, 1000.0, 200.0) == 1
    assert replicas_for(decode, 1e9, 1000.0, 200.0) == 50
