"""Images and the names of weight sources arrive before pods: bounded, once, and gone again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
from acting_rig import acting, wish
from cluster_rig import H100, connected

from autoscaler.cluster.ahead import _has
from autoscaler.cluster.objects import node_of
from autoscaler.cluster.pod_actions import PullImage, TellSources
from autoscaler.settings_cluster import PullSettings, SourceSettings

if TYPE_CHECKING:
    from pathlib import Path

    from kube_server import ApiServer


def node(name: str, *images: str, rack: str = "r0") -> dict[str, Any]:
    found = make.node(name, 4, {"rack": rack})
    found["status"]["images"] = [{"names": [image], "sizeBytes": 1} for image in images]
    return found


def jobs(api: ApiServer) -> dict[str, str]:
    """Pulling jobs' names by node."""
    found = {}
    for job in api.store.all("batch/v1", "Job"):
        terms = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = terms["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        found[term["matchFields"][0]["values"][0]] = job["metadata"]["name"]
    return found


def finish(api: ApiServer, name: str) -> None:
    done = {"type": "Complete", "status": "True", "reason": "Done", "message": ""}
    api.store.set_status("batch/v1", "Job", ("default", name), {"conditions": [done]})


@pytest.mark.parametrize(
    ("image", "there", "has"),
    [
        ("vllm/vllm-openai:v1", "docker.io/vllm/vllm-openai:v1", True),
        ("vllm", "docker.io/library/vllm:latest", True),
        ("registry.example/a/b:2", "registry.example/a/b:2", True),
        ("registry.example/a/b:2", "registry.example/a/b:1", False),
        ("localhost:5000/a@sha256:00", "localhost:5000/a@sha256:00", True),
    ],
)
def test_an_image_is_known_by_the_name_the_kubelet_gives_it(image: str, there: str, has: bool) -> None:
    assert _has(node_of(node("n1", there), ["nvidia.com/gpu"]), image) is has


def test_nodes_without_the_image_pull_it_a_few_at_a_time_and_once(api: ApiServer, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        api.store.put(node(name))
    api.store.put(node("has-it", "docker.io/library/img:1"))
    cordoned = node("cordoned")
    cordoned["spec"]["unschedulable"] = True
    api.store.put(cordoned)
    api.store.put(make.deployment("chat", 0))
    own = PullSettings(namespace="default", pool="chat", at_once=2)
    with acting(api, tmp_path, images=[own.model_dump()]) as rig:
        rig.played.kubelet = False
        for _ in range(3):
            rig.act(wish(0))
            rig.restart()  # whoever comes next pulls none twice
        assert set(jobs(api)) == {"a", "b"}
        finish(api, jobs(api)["a"])
        rig.act(wish(0))
        assert set(jobs(api)) == {"a", "b", "c"}
        for name in jobs(api).values():
            finish(api, name)
        for _ in range(3):
            rig.act(wish(0))
        assert set(jobs(api)) == {"a", "b", "c"}  # not again while the ended jobs stand
        spec = api.store.one("batch/v1", "Job", "default", jobs(api)["a"])["spec"]
        done = [one for one in rig.outcomes if isinstance(one.action, PullImage) and one.kind == "done"]
    assert (spec["ttlSecondsAfterFinished"], spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (3600, 1800, 0)
    assert spec["template"]["spec"]["containers"][0]["image"] == "img:1"
    assert "nvidia.com/gpu" not in spec["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert len(done) == 3


def test_starting_pods_are_told_who_has_the_weights_the_farthest_apart_first(api: ApiServer, tmp_path: Path) -> None:
    for name, rack in (("a", "r0"), ("b", "r1")):
        api.store.put(node(name, rack=rack))
    api.store.put(make.deployment("chat", 4))
    own = SourceSettings(namespace="default", pool="chat", config_map="chat-weights", port=9000, most=2)

    def told() -> dict[str, str]:
        return dict(api.store.one("v1", "ConfigMap", "default", "chat-weights")["data"])

    with acting(api, tmp_path, sources=[own.model_dump()]) as rig:
        for number, place in enumerate(("a", "a", "b")):
            pod = make.pod(f"chat-{number}", 1, place, labels={"app": "chat"}, started=f"2026-01-01T00:0{number}:00Z")
            pod["status"]["podIP"] = f"10.0.0.{number}"
            api.store.put(pod)
        rig.act(wish(4))
        # chat-0 and chat-1 are in one rack: the second named is the one in the other
        assert told() == {
            "TIDEGATE_WEIGHTS_SOURCES": "10.0.0.0:9000,10.0.0.2:9000",
            "TIDEGATE_WEIGHTS_SOURCE_DOMAINS": "r0,r1",
        }
        before = len(api.writes())
        rig.act(wish(4))
        assert len(api.writes()) == before
        pods = connected(api)
        pods.delete(rig.sight.served["pods"], "default", "chat-2", grace_s=0)
        pods.close()
        rig.restart()
        rig.act(wish(4))
        assert told()["TIDEGATE_WEIGHTS_SOURCES"] == "10.0.0.0:9000,10.0.0.1:9000"
        done = [one for one in rig.outcomes if isinstance(one.action, TellSources) and one.kind == "done"]
    assert [one.action.about for one in done] == ["ConfigMap/default/chat-weights"] * 2
    assert rig.rules.roles[0].accelerator == H100
