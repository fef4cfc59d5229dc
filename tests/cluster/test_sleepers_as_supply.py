"""Replicas that sleep, as the loop has them: counted apart, their GPUs no stock, woken first, and learned from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cluster_rig import CHAT, H100, eventually
from letting_rig import asleep, name_of, pool
from scripted import decode, role_rules, rules

from autoscaler.cluster.release import woken_of
from autoscaler.cluster.room import look
from autoscaler.memory import Memory
from autoscaler.model import Observation, Role, Tier
from autoscaler.rules import SupplyRules
from autoscaler.tick import tick

if TYPE_CHECKING:
    from pathlib import Path

    from kube_server import ApiServer
    from letting_rig import Pool

    from autoscaler.cluster.live import Seen

CHATTING = rules(
    role_rules(Role.COLOCATED, key=CHAT, accelerator=H100, minimum=1, maximum=8),
    supply=(SupplyRules(Tier.START, H100, 60.0, 2.5),),
    wake_s=15.0,
)


def seen(rig: Pool) -> Seen:
    """What the loop is told now, by hands that may say no."""
    rig.caught_up()
    snapshot = rig.sight.snapshot()
    return look(snapshot, {}, rig.hands.wakes(snapshot))


def free(told: Seen) -> int | None:
    return next(stock.free for stock in told.stocks if stock.accelerator == H100)


def one_of_three_asleep(rig: Pool) -> None:
    """Three replicas shrink to one: one goes, one sleeps, one serves."""
    for engine in rig.engines[:2]:
        engine.requests = 0
    rig.tick(1)
    rig.tick(1, 3, forward_s=6.0)
    asleep(rig, 1)
    rig.tick(1, 3, forward_s=1.0)


def test_a_sleeper_is_told_apart_until_it_serves_and_says_how_long_it_took(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3, asleep=1, drain_s=20) as rig:
        assert seen(rig).sleepers[CHAT] == (0, 0)
        one_of_three_asleep(rig)
        there = seen(rig)
        assert (there.counts[CHAT], there.sleepers[CHAT]) == ((1, 1), (1, 0))
        assert free(there) == 16  # of 16 GPUs 1 serves, 1 is held asleep: what is held is taken off by the plan
        sleeper = next(engine for engine in rig.engines if engine.asleep)
        sleeper.slow_s = 1.5
        rig.tick(2)
        on_its_way = seen(rig)
        assert (on_its_way.counts[CHAT], on_its_way.sleepers[CHAT]) == ((1, 2), (0, 1))
        asleep(rig, 0)
        awake = seen(rig)
        assert (awake.counts[CHAT], awake.sleepers[CHAT]) == ((2, 2), (0, 0))
        (start,) = [one for one in awake.starts[CHAT] if one.tier is Tier.WAKE]
        assert 1.5 <= start.served_at - start.asked_at < 10.0
        assert start.name == f"default/{name_of(rig, sleeper)}/woken-{start.asked_at:.0f}"


def test_a_waking_taken_over_by_the_next_process_counts_from_when_it_was_asked(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3, asleep=1, drain_s=20) as rig:
        one_of_three_asleep(rig)
        sleeper = next(engine for engine in rig.engines if engine.asleep)
        sleeper.broken = 503
        rig.tick(2)
        key = f"Wake:Pod/default/{name_of(rig, sleeper)}"
        eventually(lambda: not rig.doors.busy(key), "never answered")
        asked = rig.note(sleeper.address, "asleep")["waking"]
        sleeper.broken = 0
        rig.restart()
        rig.tick(2, forward_s=30.0)
        asleep(rig, 0)
        (pod,) = [one for one in rig.sight.snapshot().pools[CHAT].living if one.ip == sleeper.address]
        woken = woken_of(pod)
        assert woken is not None
        assert woken[0] == asked
        assert woken[1] - asked >= 30.0


@pytest.mark.parametrize("why", ["shadow", "quarantine", "no longer configured"])
def test_one_that_nobody_would_wake_is_no_supply_and_its_gpus_nobodys(api: ApiServer, tmp_path: Path, why: str) -> None:
    with pool(api, tmp_path, 3, asleep=1, drain_s=20) as rig:
        one_of_three_asleep(rig)
        if why == "shadow":
            tiers = rig.settings.tiers.model_copy(update={"sleep": "shadow"})
            rig.settings = rig.settings.model_copy(update={"tiers": tiers})
            rig.restart()
        elif why == "quarantine":
            sleeper = next(engine for engine in rig.engines if engine.asleep)
            rig.hands.limits._quarantined[f"Wake:Pod/default/{name_of(rig, sleeper)}"] = 1e12
        else:
            rig.settings = rig.settings.model_copy(update={"release": ()})
            rig.restart()
        there = seen(rig)
        assert (there.counts[CHAT], there.sleepers[CHAT]) == ((1, 1), (0, 0))
        assert free(there) == 15


def test_scribble_on_a_pod_makes_it_no_sleeper(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 2, asleep=1, drain_s=20) as rig:
        for pod, text in zip(api.store.all("v1", "Pod"), ("soon", '{"stage": "asleep"}'), strict=True):
            pod["metadata"]["annotations"] = {"tidegate.dev/asleep": text, "tidegate.dev/woken": "[1]"}
            api.store.put(pod)
        there = seen(rig)
        assert (there.counts[CHAT], there.sleepers[CHAT]) == ((2, 2), (0, 0))
        assert all(one.tier is not Tier.WAKE for one in there.starts[CHAT])


def test_what_the_plan_wakes_the_hands_wake_and_start_nothing(api: ApiServer, tmp_path: Path) -> None:
    """One serves, one sleeps, and load for two: the decision says `wake`, and no pod is created for it."""
    with pool(api, tmp_path, 3, asleep=1, drain_s=20) as rig:
        one_of_three_asleep(rig)
        there = seen(rig)
        now = rig.sight.snapshot().at
        ready, existing = there.counts[CHAT]
        resting, waking = there.sleepers[CHAT]
        told = replace(decode(750.0, 1), key=CHAT, sampled_at=now, ready=ready, replicas=existing)
        told = replace(told, asleep=resting, waking=waking)
        stocks = tuple(replace(stock, free=2) for stock in there.stocks)  # not one GPU more than these two hold
        decision, _ = tick(Observation(now, (told,), stocks), Memory(), CHATTING)
        (role,) = decision.roles
        assert {take.tier: take.replicas for take in role.takes} == {Tier.WAKE: 1}
        pods = len(rig.pods())
        rig.act(role)
        rig.played.step()
        asleep(rig, 0)
        assert (len(rig.pods()), rig.replicas) == (pods, 2)
        assert len(rig.routed()) == 2
