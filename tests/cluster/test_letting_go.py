"""Letting replicas go: who is missed least, draining, sleeping and waking, and a crash in the middle of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kube_objects as make
import pytest
from acting_rig import acting, wish
from cluster_rig import CHAT, eventually
from letting_rig import asleep, name_of, pool
from vllm_double import CAPACITY

from autoscaler.cluster.actions import MarkCosts
from autoscaler.cluster.engines import look_of, worth
from autoscaler.cluster.pod_actions import Drain, Sleep, Wake
from autoscaler.cluster.returns import costs
from autoscaler.cluster.room import look
from autoscaler.model import Decision

if TYPE_CHECKING:
    from pathlib import Path

    from kube_server import ApiServer


def test_what_is_lost_with_an_engine_is_what_runs_and_what_would_be_hit_again() -> None:
    assert worth(0.25, 100_000, 0.4) == pytest.approx(55_000)
    body = b'vllm:num_requests_running{engine="0"} 2\nvllm:num_requests_waiting{engine="0"} 1\n'
    found = look_of(body, 5.0)
    assert found is not None
    assert (found.requests, found.worth) == (3.0, None)
    assert look_of(b"<html>502</html>", 0.0) is None
    assert look_of(b"", 0.0) is None


def test_costs_come_from_the_engines_themselves(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3) as rig:
        first, second, third = rig.engines[:3]
        first.usage, first.hits = 0.5, 0  # 50,000 tokens in use, nothing ever hit
        second.usage, second.hits = 0.1, 200  # 10,000 in use, and a fifth of the other 90,000: 28,000
        third.usage, third.hits = 0.0, 900  # idle, but 90,000 tokens of prefixes that are hit
        rig.tick(2)
        marks = [one.action for one in rig.outcomes if isinstance(one.action, MarkCosts)]
        assert set(rig.pods()) == {first.address, third.address}  # the one that is missed least has gone
        assert [cost for one in marks for _, cost in one.costs] == [28_000 - 10**9]
        (how,) = rig.settings.release
        looks = rig.doors.look(rig.sight.snapshot().pools[CHAT].living, how)
        assert sorted(one.worth or 0 for one in looks.values()) == pytest.approx([CAPACITY / 2, CAPACITY * 0.9])


def test_a_large_pool_is_marked_a_little_at_a_time(api: ApiServer, tmp_path: Path) -> None:
    """200 pods shrink to 80: 50 are marked, not 200, and one that fills up again loses its mark."""
    api.store.put(make.node("n1", 256))
    api.store.put(make.deployment("chat", 200))
    with acting(api, tmp_path) as rig:
        rig.settle(1)
        names = sorted(pod["metadata"]["name"] for pod in api.store.all("v1", "Pod"))
        kv = {name: 100.0 * number for number, name in enumerate(names)}
        rig.caught_up()
        seen = rig.sight.snapshot()
        decision = Decision(seen.at, (wish(80),))
        (action,) = costs(decision, seen, kv)
        assert isinstance(action, MarkCosts)
        assert [name for name, _ in action.costs] == names[:50]
        rig.hands._actuators.do(action, now=seen.at)
        rig.caught_up()
        assert list(costs(decision, rig.sight.snapshot(), kv)) == []
        kv[names[0]] = 1e6
        (action,) = costs(decision, rig.sight.snapshot(), kv)
        assert isinstance(action, MarkCosts)
        assert action.costs == ((names[50], 5_000 - 10**9), (names[0], None))


def test_a_drained_pod_finishes_before_it_goes(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3, drain_s=60) as rig:
        emptiest = rig.engines[0]
        rig.tick(2)
        assert rig.routed() == {one.address for one in rig.engines[1:3]}
        assert rig.replicas == 3
        rig.tick(2, 3, forward_s=10.0)
        assert rig.replicas == 3  # one request is still running there
        emptiest.requests = 0
        rig.tick(2, 3, forward_s=1.0)
        assert rig.replicas == 2
        assert set(rig.pods()) == {one.address for one in rig.engines[1:3]}
        before = len(api.writes())
        rig.tick(2, 3)
        assert len(api.writes()) == before  # and then there is peace


def test_a_clamped_hpa_is_lowered_only_when_pods_have_finished(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3, drain_s=60) as rig:
        rig.settings = rig.settings.model_copy(update={"actuator": "clamp"})
        api.store.put(make.hpa("theirs", "chat", low=3, high=3))
        rig.restart()

        def bounds() -> tuple[int, int]:
            spec = api.store.one("autoscaling/v2", "HorizontalPodAutoscaler", "default", "theirs")["spec"]
            return spec["minReplicas"], spec["maxReplicas"]

        rig.tick(2, 3, forward_s=10.0)
        assert (bounds(), len(rig.routed())) == ((3, 3), 2)
        rig.engines[0].requests = 0
        rig.tick(2, 3, forward_s=1.0)
        assert bounds() == (2, 2)


def test_a_pool_that_an_hpa_owns_is_not_drained_for_nothing(api: ApiServer, tmp_path: Path) -> None:
    """Actuator scale leaves an HPA's target to it; pods out of routing that nobody deletes would only be missing."""
    with pool(api, tmp_path, 3, drain_s=60) as rig:
        api.store.put(make.hpa("theirs", "chat", low=3, high=3))
        rig.tick(2, 2)
        assert len(rig.routed()) == 3


def test_a_request_that_never_ends_holds_a_pod_no_longer_than_the_deadline(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 2, drain_s=60) as rig:
        rig.tick(1)
        rig.tick(1, 2, forward_s=29.0)
        assert rig.replicas == 2
        rig.tick(1, 2, forward_s=3.0)
        assert rig.replicas == 1
        assert set(rig.pods()) == {rig.engines[1].address}


def test_what_drains_is_put_back_first_when_load_returns(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3, drain_s=60) as rig:
        rig.tick(1)
        assert len(rig.routed()) == 1
        rig.tick(3, 2)
        assert len(rig.routed()) == 3
        assert rig.replicas == 3
        for at, pod in rig.pods().items():
            notes = pod["metadata"].get("annotations") or {}
            assert "tidegate.dev/draining" not in notes, at
        assert [one for one in api.writes("patch") if one.subresource == "scale"] == []


def test_a_crash_while_draining_is_taken_up_where_the_pods_say(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3, drain_s=60) as rig:
        rig.tick(2)
        began = rig.note(rig.engines[0].address, "draining")["at"]
        rig.restart()
        rig.tick(2, 2, forward_s=10.0)
        assert rig.note(rig.engines[0].address, "draining")["at"] == began  # not begun anew, and no other one
        assert len(rig.routed()) == 2
        rig.restart()
        rig.tick(2, 4, forward_s=15.0)  # 65 s after it began: the deadline is counted from there
        assert rig.replicas == 2


def test_a_pool_that_may_not_drain_shrinks_at_once(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3, drain_s=60) as rig:
        rig.settings = rig.settings.model_copy(
            update={"tiers": rig.settings.tiers.model_copy(update={"release": "shadow"})}
        )
        rig.restart()
        rig.tick(2)
        assert rig.replicas == 2
        assert not any(isinstance(one.action, Drain) and one.kind == "done" for one in rig.outcomes)


def test_surplus_replicas_sleep_and_are_woken_before_any_is_started(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 3, asleep=1, drain_s=20) as rig:
        sleeper, other, busy = rig.engines[:3]
        sleeper.requests = other.requests = 0
        rig.tick(1)
        rig.tick(1, 3, forward_s=6.0)
        asleep(rig, 1)
        rig.tick(1, 3, forward_s=1.0)
        asked = [one for one in (sleeper, other) if one.asked]
        assert [one.asked for one in asked] == [["sleep 1"]]  # the other one went
        assert rig.replicas == 2
        assert rig.routed() == {busy.address}
        counts = look(rig.sight.snapshot(), {}).counts
        assert counts[CHAT] == (1, 1)  # what sleeps is no capacity
        rig.tick(2)
        asleep(rig, 0)
        rig.tick(2, 2)
        assert [one.asked for one in asked] == [["sleep 1", "wake_up"]]
        assert rig.replicas == 2
        assert rig.routed() == {busy.address, asked[0].address}
        assert not asked[0].asleep
        rig.tick(3)
        assert rig.replicas == 3  # nothing sleeps any more, so one is started
        kinds = [line["action"] for line in rig.audit() if line["outcome"] == "confirmed"]
        assert kinds.count("Sleep") == kinds.count("Wake") == 1


def test_a_crash_between_mark_and_sleep_is_finished_by_the_next(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 2, asleep=1) as rig:
        idle = rig.engines[0]
        idle.requests, idle.broken = 0, 503
        rig.tick(1)
        rig.tick(1, 2, forward_s=6.0)
        eventually(lambda: not rig.doors.busy(f"Sleep:Pod/default/{name_of(rig, idle)}"), "never answered")
        assert rig.note(idle.address, "asleep")["stage"] == "going"
        idle.broken = 0
        rig.restart()
        rig.tick(1, 2, forward_s=1.0)
        asleep(rig, 1)
        assert idle.asked == ["sleep 1"]


def test_a_crash_between_wake_and_unmark_wakes_once_more_and_serves(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 2, asleep=1) as rig:
        idle = rig.engines[0]
        idle.requests = 0
        rig.tick(1)
        rig.tick(1, 2, forward_s=6.0)
        asleep(rig, 1)
        idle.asleep = False  # woken by a process that died before it could say so, or restarted by its kubelet
        rig.restart()
        rig.tick(2, 2)
        asleep(rig, 0)
        assert rig.routed() == {one.address for one in rig.engines[:2]}
        assert rig.replicas == 2


def test_an_engine_that_cannot_sleep_is_let_go_instead(api: ApiServer, tmp_path: Path) -> None:
    with pool(api, tmp_path, 2, asleep=1) as rig:
        idle = rig.engines[0]
        idle.requests, idle.broken = 0, 404  # started without --enable-sleep-mode
        key = f"Sleep:Pod/default/{name_of(rig, idle)}"
        rig.tick(1)
        for _ in range(12):
            rig.tick(1, forward_s=6.0)
            eventually(lambda: not rig.doors.busy(key), "never answered")
        failed = [one for one in rig.outcomes if isinstance(one.action, Sleep) and one.kind == "failed"]
        assert "--enable-sleep-mode" in failed[0].said
        assert rig.replicas == 1
        assert set(rig.pods()) == {rig.engines[1].address}


def test_asking_to_sleep_or_wake_without_doing_it_changes_neither_pod_nor_engine(
    api: ApiServer, tmp_path: Path
) -> None:
    with pool(api, tmp_path, 1, asleep=1) as rig:
        (pod,) = rig.sight.snapshot().pools[CHAT].living
        (how,) = rig.settings.release
        before = len(api.writes())
        for action in (Sleep(CHAT, pod, how, "why"), Wake(CHAT, pod, how, "why")):
            assert rig.hands._actuators.do(action, now=0.0, dry_run=True) == "sleeping: False"
        assert rig.engines[0].asked == []
        assert len(api.writes()) == before
