"""Pools of every kind that has /scale: seen with their pods, and scaled, under real schemas where these are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
from acting_rig import acting, wish
from cluster_rig import CHAT, H100, sight_rules
from kube_kinds import CRDS, Kind

from autoscaler.build_cluster import KEYS
from autoscaler.cluster.sight_types import PoolRole, TargetRef

if TYPE_CHECKING:
    from pathlib import Path

    from kube_server import ApiServer

TEMPLATE = {"spec": make.pod_spec(1)}
GROVE = (".spec.replicas", ".status.replicas", ".status.hpaPodSelector")
PLAIN = (".spec.replicas", ".status.replicas", ".status.selector")


@dataclass(frozen=True)
class Case:
    """A kind: its definition's file, or (none is at hand) how it is served; its spec; where its selector is."""

    api_version: str
    kind: str
    spec: dict[str, Any]
    file: str = ""
    served: Kind | None = None
    selector: str = "selector"
    labels: dict[str, str] = field(default_factory=lambda: {"app": "chat"})


CASES = (
    Case(
        "leaderworkerset.x-k8s.io/v1",
        "LeaderWorkerSet",
        {"replicas": 2, "leaderWorkerTemplate": {"size": 1, "workerTemplate": TEMPLATE}},
        file="leaderworkerset.x-k8s.io_leaderworkersets.yaml",
        selector="hpaPodSelector",
        labels={"leaderworkerset.sigs.k8s.io/name": "chat", "leaderworkerset.sigs.k8s.io/group-index": "0"},
    ),
    Case(
        "workloads.x-k8s.io/v1alpha2",
        "RoleBasedGroupScalingAdapter",
        {"replicas": 2, "scaleTargetRef": {"name": "group", "role": "decode"}},
        file="workloads.x-k8s.io_rolebasedgroupscalingadapters.yaml",
    ),
    Case(
        "grove.io/v1alpha1",
        "PodClique",
        {"replicas": 2},
        served=Kind("grove.io", "v1alpha1", "podcliques", "PodClique", scale=GROVE),
        selector="hpaPodSelector",
    ),
    Case(
        "grove.io/v1alpha1",
        "PodCliqueScalingGroup",
        {"replicas": 2},
        served=Kind("grove.io", "v1alpha1", "podcliquescalinggroups", "PodCliqueScalingGroup", scale=PLAIN),
    ),
    Case(
        "nvidia.com/v1alpha1",
        "DynamoGraphDeploymentScalingAdapter",
        {"replicas": 2},
        served=Kind(
            "nvidia.com",
            "v1alpha1",
            "dynamographdeploymentscalingadapters",
            "DynamoGraphDeploymentScalingAdapter",
            scale=PLAIN,
        ),
    ),
    Case(
        "disaggregatedset.x-k8s.io/v1",
        "DisaggregatedSetRoleScaler",
        {"replicas": 2},
        served=Kind(
            "disaggregatedset.x-k8s.io",
            "v1",
            "disaggregatedsetrolescalers",
            "DisaggregatedSetRoleScaler",
            scale=PLAIN,
        ),
    ),
    Case(
        "apps/v1",
        "StatefulSet",
        {"replicas": 2, "serviceName": "chat", "selector": {"matchLabels": {"app": "chat"}}, "template": TEMPLATE},
    ),
    Case(  # what KServe makes of an InferenceService is a Deployment
        "apps/v1", "Deployment", {"replicas": 2, "selector": {"matchLabels": {"app": "chat"}}, "template": TEMPLATE}
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_its_pods_are_seen_and_its_scale_is_set(api: ApiServer, tmp_path: Path, case: Case) -> None:
    if case.file and not (CRDS / case.file).exists():
        pytest.skip(f"the CustomResourceDefinition is not there: {CRDS / case.file}")
    if case.file:
        api.store.install(case.file)
    elif case.served is not None:
        api.store.know([case.served])
    text = ",".join(f"{name}={value}" for name, value in case.labels.items() if not name.endswith("index"))
    status = {"replicas": 2, "readyReplicas": 1, "observedGeneration": 1, case.selector: text}
    if case.api_version == "apps/v1" or "Adapter" in case.kind or "Scaler" in case.kind:
        status.pop("observedGeneration")
    if case.api_version == "apps/v1":
        status.pop(case.selector)
    if "Adapter" in case.kind:
        status.pop("readyReplicas")
    meta = {"name": "chat", "namespace": "default"}
    api.store.put(
        {"apiVersion": case.api_version, "kind": case.kind, "metadata": meta, "spec": case.spec, "status": status}
    )
    api.store.put(make.node("n1", 8))
    for number, place in enumerate(("n1", "n1", "")):
        api.store.put(make.pod(f"chat-{number}", 2, place, labels=case.labels))
    api.store.put(make.pod("stranger", 1, "n1", labels={"app": "other"}))
    rules = sight_rules(PoolRole(CHAT, H100, 2, TargetRef(KEYS[case.kind], case.kind, "chat")))
    with acting(api, tmp_path, rules) as rig:
        rig.caught_up()
        pool = rig.sight.snapshot().pools[CHAT]
        assert [pod.meta.name for pod in pool.living] == ["chat-0", "chat-1", "chat-2"]
        assert pool.scalable is not None
        assert (pool.scalable.wanted, pool.scalable.existing) == (2, 2)
        assert pool.scalable.ready == (None if "Adapter" in case.kind else 1)
        for _ in range(3):
            rig.act(wish(5))
        (write,) = api.writes()
        assert (write.verb, write.subresource, write.name) == ("patch", "scale", "chat")
        after = api.store.one(case.api_version, case.kind, "default", "chat")
        assert after["spec"] == {**case.spec, **after["spec"], "replicas": 5}
        rig.act(wish(0))
        assert api.store.one(case.api_version, case.kind, "default", "chat")["spec"]["replicas"] == 0
