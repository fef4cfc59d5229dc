"""Who leaves, by kind of workload: a StatefulSet's highest, a LeaderWorkerSet's last group, a Deployment's least."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
from cluster_rig import CHAT
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.cluster import kinds
from autoscaler.cluster.engines import EngineLook
from autoscaler.cluster.objects import LWS_GROUP, Meta, Pod, Scalable, pod_of
from autoscaler.cluster.pod_actions import Drain, LeaveFirst, Sleep, Undrain, Wake
from autoscaler.cluster.release import FIRST, Asked, letting_go, standing_of
from autoscaler.cluster.returns import COST
from autoscaler.cluster.sight_types import PoolSight, TargetRef
from autoscaler.settings_cluster import ReleaseSettings

if TYPE_CHECKING:
    from autoscaler.cluster.release import Letting

NOW = 1000.0
HOW = ReleaseSettings(namespace="default", pool="chat", drain_s=60, asleep=1)


def pod(name: str, labels: dict[str, str] | None = None, *, ready: bool = True, **notes: Any) -> Pod:
    annotations = {f"tidegate.dev/{key}": json.dumps(value) for key, value in notes.items() if key != "cost"}
    if "cost" in notes:
        annotations[COST] = str(notes["cost"])
    return pod_of(make.pod(name, 1, "n1", labels=labels, annotations=annotations, ready=ready), ["nvidia.com/gpu"])


def pool(kind: str, wanted: int, *pods: Pod, first: int = 0) -> PoolSight:
    meta = Meta("default", "chat", "uid", "1", {}, {}, None, None, None)
    scalable = Scalable(meta, kind, wanted, len(pods), len(pods), {"app": "chat"}, first=first)
    return PoolSight(CHAT, "h100-80gb", TargetRef(kinds.DEPLOYMENTS, kind, "chat"), scalable, pods, None, None)


def going(seen: PoolSight, wish: int, looks: dict[str, EngineLook] | None = None, **more: Any) -> Letting:
    found = letting_go(Asked(wish, seen, HOW, looks or {}, NOW, **more))
    assert found is not None
    return found


def names(found: Letting, kind: type) -> list[str]:
    return [one.pod.meta.name for one in found.actions if isinstance(one, kind)]  # type: ignore[union-attr]  # by kind


def test_a_stateful_set_drains_its_highest_and_waits_for_those_below() -> None:
    fresh = [pod(f"chat-{n}") for n in range(4)]
    found = going(pool("StatefulSet", 4, *fresh), 2)
    assert names(found, Drain) == ["chat-2", "chat-3"]
    assert found.replicas == 4
    # the highest has had its 60 s, the one below it has not: one can go
    since = {2: NOW - 30, 3: NOW - 60}
    seen = [*fresh[:2], *(pod(f"chat-{n}", draining={"at": at}) for n, at in since.items())]
    assert going(pool("StatefulSet", 4, *seen), 2).replicas == 3
    # the other way round the lower one has finished, but cannot go before the one above it
    seen = [*fresh[:2], pod("chat-2", draining={"at": NOW - 60}), pod("chat-3", draining={"at": NOW - 30})]
    assert going(pool("StatefulSet", 4, *seen), 2).replicas == 4
    # load returns for one of them
    found = going(pool("StatefulSet", 4, *seen), 3)
    assert names(found, Undrain) == ["chat-2"]
    assert found.replicas == 4


def test_numbers_that_begin_at_ten_are_no_reason_to_drain_all() -> None:
    seen = [pod(f"chat-{n}") for n in (10, 11, 12)]
    found = going(pool("StatefulSet", 3, *seen, first=10), 2)
    assert (names(found, Drain), found.replicas) == (["chat-12"], 3)


def test_a_group_of_a_leader_worker_set_drains_together() -> None:
    seen = [
        pod(f"chat-{group}{'' if worker == 0 else f'-{worker}'}", {LWS_GROUP: str(group)})
        for group in range(2)
        for worker in range(2)
    ]
    found = going(pool("LeaderWorkerSet", 2, *seen), 1)
    assert (names(found, Drain), found.replicas) == (["chat-1", "chat-1-1"], 2)


def test_kinds_of_which_nobody_knows_who_goes_are_set_at_once() -> None:
    assert letting_go(Asked(1, pool("PodClique", 2, pod("a"), pod("b")), HOW, {}, NOW)) is None


def test_pods_that_are_not_ready_go_without_being_drained() -> None:
    seen = [pod("a"), pod("b", ready=False), pod("c")]
    found = going(pool("Deployment", 3, *seen), 2)
    assert (found.actions, found.replicas) == ((), 2)


def test_the_surge_of_a_rolling_update_is_not_surplus() -> None:
    seen = [pod("old-a"), pod("old-b"), pod("new-a")]
    found = going(pool("Deployment", 2, *seen), 2)
    assert (found.actions, found.replicas) == ((), 2)


def test_what_is_leaving_already_is_not_called_back() -> None:
    """Two of four were let go: the Deployment says 2, the pods' deletion has not been seen yet."""
    gone = [pod(name, draining={"at": NOW - 60}, cost=FIRST) for name in ("c", "d")]
    found = going(pool("Deployment", 2, pod("a"), pod("b"), *gone), 2)
    assert (found.actions, found.replicas) == ((), 2)


def test_the_mark_comes_before_the_number() -> None:
    """A drained pod must be known to be the cheapest before replicas shrink, or another would go in its place."""
    told = {"b": EngineLook(NOW, 0.0, 1.0)}
    seen = pool("Deployment", 2, pod("a"), pod("b", draining={"at": NOW - 10}))
    no_beds = {"may_sleep": False}
    found = going(seen, 1, told, **no_beds)
    assert (names(found, LeaveFirst), found.replicas) == (["b"], 2)
    seen = pool("Deployment", 2, pod("a"), pod("b", draining={"at": NOW - 10}, cost=FIRST))
    assert going(seen, 1, told, **no_beds).replicas == 1


def test_requests_sent_just_before_may_still_arrive() -> None:
    seen = pool("Deployment", 2, pod("a"), pod("b", draining={"at": NOW - 4}))
    assert names(going(seen, 1, {"b": EngineLook(NOW, 0.0, 1.0)}), Sleep) == []
    seen = pool("Deployment", 2, pod("a"), pod("b", draining={"at": NOW - 5}))
    assert names(going(seen, 1, {"b": EngineLook(NOW, 0.0, 1.0)}), Sleep) == ["b"]


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "7", '{"at": "never"}', '{"at": true}', "null"])
def test_scribble_on_a_pod_is_no_mark(text: str) -> None:
    found = pod("a")
    notes = {"tidegate.dev/draining": text, "tidegate.dev/asleep": text}
    stands = standing_of(replace(found, meta=replace(found.meta, annotations=notes)))
    assert (stands.draining_at, stands.asleep_at, stands.stage) == (None, None, "")


STATES = st.sampled_from(["serving", "starting", "draining", "done", "gone", "going", "asleep", "waking"])


def _in_state(name: str, state: str) -> Pod:
    notes: dict[str, Any] = {}
    if state not in {"serving", "starting"}:
        notes["draining"] = {"at": NOW - (10 if state == "draining" else 100), "label": "true"}
    if state in {"going", "asleep", "waking"}:
        notes["asleep"] = {"at": NOW - 50, "stage": state}
    if state == "gone":
        notes["cost"] = FIRST
    return pod(name, ready=state != "starting", **notes)


@given(st.lists(STATES, max_size=8), st.integers(0, 10), st.integers(-2, 3), st.booleans())
def test_whatever_state_the_pods_are_in(states: list[str], wish: int, more: int, may_sleep: bool) -> None:
    """Never fewer replicas than wished; never one pod told two things; nobody drained while replicas are lacking."""
    wanted = max(0, len(states) + more)
    seen = pool("Deployment", wanted, *(_in_state(f"p{n}", state) for n, state in enumerate(states)))
    found = going(seen, wish, may_sleep=may_sleep)
    assert found.replicas >= wish
    told = [one.about for one in found.actions]
    assert len(told) == len(set(told))
    drained, woken = names(found, Drain), names(found, Wake)
    assert not (drained and (woken or names(found, Undrain)))
    if wanted < wish:
        assert drained == []
    assert len(names(found, Sleep)) <= HOW.asleep + 1
    if found.actions == () and not found.waiting:
        # a plan without anything to do is a fixed point: as many serve and sleep as replicas are asked for
        assert found.replicas - wish <= states.count("asleep") + states.count("going") + states.count("waking")
