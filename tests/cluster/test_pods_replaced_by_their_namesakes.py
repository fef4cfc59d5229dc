"""Pods are acted upon by their uid: a StatefulSet's next pod has the name, and is not the one that was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kube_objects as make
import pytest
import urllib3
from cluster_rig import CHAT, H100, connected

from autoscaler.cluster import kinds
from autoscaler.cluster.actions import Action, GiveBack, Preempt
from autoscaler.cluster.actuators import Actuators, Changed
from autoscaler.cluster.objects import pod_of
from autoscaler.cluster.pod_actions import Drain, LeaveFirst, Undrain
from autoscaler.cluster.sight_types import GangSight
from autoscaler.cluster.training import Group, Mark, volcano_job_of
from autoscaler.settings_cluster import ReleaseSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_server import ApiServer

    from autoscaler.cluster.api import Json
    from autoscaler.cluster.objects import Pod

HOW = ReleaseSettings(namespace="default", pool="chat", drain_s=60)
MARK = Mark("preempt-1", 1_767_225_600.0, H100, 1, str(CHAT))


@pytest.fixture
def actuators(api: ApiServer) -> Iterator[Actuators]:
    plain = connected(api)
    yield Actuators(plain, lambda: kinds.served(plain), "tidegate-0", urllib3.PoolManager())
    plain.close()


def replaced(api: ApiServer) -> tuple[Pod, Json]:
    """A pod as it was seen, and the one that has its name now."""
    api.store.put(make.node("n0", 4))
    first = api.store.put(make.pod("chat-0", 1, "n0", labels={"tidegate.dev/serving": "true"}))
    api.store.delete(api.store.kinds["", "v1", "pods"], ("default", "chat-0"), {"gracePeriodSeconds": 0})
    second = api.store.put(make.pod("chat-0", 1, "n0", labels={"tidegate.dev/serving": "true"}))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    return pod_of(first, (make.GPU,)), second


def lone(pod: Pod) -> GangSight:
    group = Group("Pod/default/chat-0", "default", None, (pod,), ())
    return GangSight(group, H100, 1, 0, -5, None, None, None)


@pytest.mark.parametrize("do", [Drain, Undrain, LeaveFirst, Preempt])
def test_the_next_of_its_name_is_left_as_it_is(api: ApiServer, actuators: Actuators, do: type) -> None:
    pod, now = replaced(api)
    action: Action = Preempt(CHAT, lone(pod), MARK, "why") if do is Preempt else do(CHAT, pod, HOW, "why")
    assert actuators.do(action, now=1_767_225_700.0)
    assert api.store.one("v1", "Pod", "default", "chat-0") == now


def test_training_made_anew_under_its_name_is_not_taken_for_the_former(api: ApiServer, actuators: Actuators) -> None:
    api.store.install("batch.volcano.sh_jobs.yaml")
    first = api.store.put(make.volcano_job("train", 2, 1))
    api.store.delete(api.store.by_kind(first["apiVersion"], "Job"), ("default", "train"))
    second = api.store.put(make.volcano_job("train", 2, 1))
    training = volcano_job_of(first, (make.GPU,), ())
    with pytest.raises(Changed, match="another object has taken its name"):
        actuators.do(GiveBack(CHAT, training, MARK, "why", resume=False), now=1_767_225_700.0)
    assert api.store.one(first["apiVersion"], "Job", "default", "train") == second
