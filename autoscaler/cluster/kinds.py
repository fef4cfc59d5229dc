"""The kinds that are watched, what is kept of each, and which of them this server serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster.api import ApiError, Resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autoscaler.cluster.api import Api

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A kind worth watching where it is served: versions in order of preference."""

    group: str
    versions: tuple[str, ...]
    plural: str
    kind: str
    namespaced: bool = True
    needed: bool = False

    @property
    def key(self) -> str:
        """`plural.group`, the name it goes by here."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def served_as(self, version: str) -> Resource:
        """The resource in that version."""
        return Resource(self.group, version, self.plural, self.kind, self.namespaced)


PODS, NODES, NAMESPACES = "pods", "nodes", "namespaces"
DEPLOYMENTS, STATEFULSETS = "deployments.apps", "statefulsets.apps"
LWS = "leaderworkersets.leaderworkerset.x-k8s.io"
ADAPTERS = "rolebasedgroupscalingadapters.workloads.x-k8s.io"
ROLE_SCALERS = "disaggregatedsetrolescalers.disaggregatedset.x-k8s.io"
CLIQUES, CLIQUE_GROUPS = "podcliques.grove.io", "podcliquescalinggroups.grove.io"
DYNAMO_ADAPTERS = "dynamographdeploymentscalingadapters.nvidia.com"
HPAS, SCALED_OBJECTS = "horizontalpodautoscalers.autoscaling", "scaledobjects.keda.sh"
JOBS, JOBSETS = "jobs.batch", "jobsets.jobset.x-k8s.io"
WORKLOADS = "workloads.kueue.x-k8s.io"
VOLCANO_JOBS, POD_GROUPS = "jobs.batch.volcano.sh", "podgroups.scheduling.volcano.sh"
PRIORITY_CLASSES = "priorityclasses.scheduling.k8s.io"
NODE_CLAIMS, NODE_POOLS = "nodeclaims.karpenter.sh", "nodepools.karpenter.sh"
REQUESTS, BUFFERS = "provisioningrequests.autoscaling.x-k8s.io", "capacitybuffers.autoscaling.x-k8s.io"
COMMANDS, POD_TEMPLATES = "commands.bus.volcano.sh", "podtemplates"
EVENTS, LEASES, CONFIG_MAPS = "events.events.k8s.io", "leases.coordination.k8s.io", "configmaps"
RUNTIMES = {"AlluxioRuntime": "alluxioruntimes.data.fluid.io", "JuiceFSRuntime": "juicefsruntimes.data.fluid.io"}
DATASETS, DATALOADS = "datasets.data.fluid.io", "dataloads.data.fluid.io"

WATCHED = (
    Wanted("", ("v1",), "pods", "Pod", needed=True),
    Wanted("", ("v1",), "nodes", "Node", namespaced=False, needed=True),
    Wanted("", ("v1",), "namespaces", "Namespace", namespaced=False),
    Wanted("apps", ("v1",), "deployments", "Deployment"),
    Wanted("apps", ("v1",), "statefulsets", "StatefulSet"),
    Wanted("leaderworkerset.x-k8s.io", ("v1",), "leaderworkersets", "LeaderWorkerSet"),
    Wanted(
        "workloads.x-k8s.io", ("v1alpha2", "v1alpha1"), "rolebasedgroupscalingadapters", "RoleBasedGroupScalingAdapter"
    ),
    Wanted("disaggregatedset.x-k8s.io", ("v1",), "disaggregatedsetrolescalers", "DisaggregatedSetRoleScaler"),
    Wanted("grove.io", ("v1alpha1",), "podcliques", "PodClique"),
    Wanted("grove.io", ("v1alpha1",), "podcliquescalinggroups", "PodCliqueScalingGroup"),
    Wanted(
        "nvidia.com",
        ("v1beta1", "v1alpha1"),
        "dynamographdeploymentscalingadapters",
        "DynamoGraphDeploymentScalingAdapter",
    ),
    Wanted("autoscaling", ("v2",), "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    Wanted("keda.sh", ("v1alpha1",), "scaledobjects", "ScaledObject"),
    Wanted("batch", ("v1",), "jobs", "Job"),
    Wanted("jobset.x-k8s.io", ("v1alpha2",), "jobsets", "JobSet"),
    Wanted("kueue.x-k8s.io", ("v1beta2", "v1beta1"), "workloads", "Workload"),
    Wanted("batch.volcano.sh", ("v1alpha1",), "jobs", "Job"),
    Wanted("scheduling.volcano.sh", ("v1beta1",), "podgroups", "PodGroup"),
    Wanted("scheduling.k8s.io", ("v1",), "priorityclasses", "PriorityClass", namespaced=False),
    Wanted("karpenter.sh", ("v1",), "nodeclaims", "NodeClaim", namespaced=False),
    Wanted("karpenter.sh", ("v1",), "nodepools", "NodePool", namespaced=False),
    Wanted("autoscaling.x-k8s.io", ("v1", "v1beta1"), "provisioningrequests", "ProvisioningRequest"),
    Wanted("autoscaling.x-k8s.io", ("v1beta1", "v1alpha1"), "capacitybuffers", "CapacityBuffer"),
    Wanted("data.fluid.io", ("v1alpha1",), "datasets", "Dataset"),
    Wanted("data.fluid.io", ("v1alpha1",), "dataloads", "DataLoad"),
)
WRITTEN = (
    Wanted("events.k8s.io", ("v1",), "events", "Event"),
    Wanted("coordination.k8s.io", ("v1",), "leases", "Lease"),
    Wanted("", ("v1",), "configmaps", "ConfigMap"),
    Wanted("", ("v1",), "podtemplates", "PodTemplate"),
    Wanted("bus.volcano.sh", ("v1alpha1",), "commands", "Command"),
    Wanted("data.fluid.io", ("v1alpha1",), "alluxioruntimes", "AlluxioRuntime"),
    Wanted("data.fluid.io", ("v1alpha1",), "juicefsruntimes", "JuiceFSRuntime"),
)
"""Kinds that are written, or read one by one, and not watched."""


def served(api: Api, wanted: Iterable[Wanted] = (*WATCHED, *WRITTEN)) -> Mapping[str, Resource]:
    """Those of the kinds that the server serves now, by key, each in the best version both know.

    Two requests and one per group: the groups, and the resources of the versions asked for.

    Raises:
        ApiError: the server cannot be asked.
    """
    groups = {
        str(group["name"]): [str(version["version"]) for version in group.get("versions") or ()]
        for group in api.read("/apis").get("groups") or ()
    }
    groups[""] = [str(version) for version in api.read("/api").get("versions") or ()]
    listed: dict[tuple[str, str], frozenset[str]] = {}
    found = {}
    for kind in wanted:
        for version in kind.versions:
            if version not in groups.get(kind.group, ()):
                continue
            at = kind.group, version
            if at not in listed:
                listed[at] = _listed(api, *at)
            if kind.plural in listed[at]:
                found[kind.key] = kind.served_as(version)
                break
    return found


def _listed(api: Api, group: str, version: str) -> frozenset[str]:
    path = f"/apis/{group}/{version}" if group else f"/api/{version}"
    try:
        return frozenset(str(one["name"]) for one in api.read(path).get("resources") or ())
    except ApiError as error:
        if error.passing and error.status == 0:
            raise
        log.warning("a group does not say what it serves", group=group, version=version, reason=error.message)
        return frozenset()  # an aggregated API whose server is away must not keep us from the others
