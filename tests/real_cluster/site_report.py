"""How things stand where a test failed, and clearing away what runs that were killed have left."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from autoscaler.cluster.api import ApiError, Resource
from autoscaler.cluster.objects import unix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from site_of_tests import Site

    from autoscaler.cluster.api import Api

Json = dict[str, Any]
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
SERVICES = Resource("", "v1", "services", "Service")
SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
HPAS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
API_SERVICES = Resource("apiregistration.k8s.io", "v1", "apiservices", "APIService", namespaced=False)
DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
JOBS = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
OURS = {"tidegate.dev/test": "site"}
"""Label of everything made here that has no namespace, and of the namespaces."""
LEFT_S = 1200.0
"""What an earlier run left behind (it was killed) is removed when it is so old: no test takes a tenth of that."""
EVERY = (API_SERVICES, NAMESPACES, NODES, PRIORITY_CLASSES, DEFINITIONS, BINDINGS, ROLES)
"""Kinds without a namespace that are made here; no namespace goes while an APIService points nowhere: it is first."""


def sweep(api: Api, resources: Iterable[Resource] = EVERY, older_s: float = LEFT_S) -> None:
    """Remove what runs that were killed have left; what may not be listed is not looked for."""
    chosen = ",".join(f"{name}={value}" for name, value in OURS.items())
    for resource in resources:
        with suppress(ApiError):
            found = [one for page, _ in api.pages(resource, labelSelector=chosen) for one in page]
            for one in found:
                born = unix(one["metadata"].get("creationTimestamp"))
                if born is not None and time.time() - born > older_s:
                    api.delete(resource, "", one["metadata"]["name"])


def described(site: Site) -> str:
    """Server, pods, jobs, nodes, and what was done last."""
    said = [f"server {site.version}, namespace {site.name}"]
    with suppress(ApiError):
        said += map(_pod, site.pods())
        for resource in (JOBS, DEPLOYMENTS):
            for page, _ in site.api.pages(resource, site.name):
                said += [f"{resource.kind} {one['metadata']['name']}: {_short(one)}" for one in page]
        said += _nodes(site)
    audit = site.folder / "actions.jsonl"
    if audit.exists():
        said += audit.read_text().splitlines()[-10:]
    return "\n  ".join([*said, *site.kubelets.trouble])


def _pod(pod: Json) -> str:
    status = pod.get("status", {})
    why = next((one.get("message") for one in status.get("conditions", ()) if one.get("status") == "False"), "")
    leaving = ", leaving" if "deletionTimestamp" in pod["metadata"] else ""
    place = pod["spec"].get("nodeName") or "no node"
    return f"pod {pod['metadata']['name']}: {status.get('phase')}{leaving}, {place}, {why}"


def _short(found: Json) -> str:
    spec = {name: found["spec"].get(name) for name in ("replicas", "suspend", "parallelism") if name in found["spec"]}
    status = {name: value for name, value in found.get("status", {}).items() if isinstance(value, int)}
    return f"spec {spec}, status {status}"


def _nodes(site: Site) -> Iterator[str]:
    for name in site.nodes:
        node = site.api.get(NODES, "", name)
        taints = [one["key"] for one in node["spec"].get("taints", ())]
        yield f"node {name}: taints {taints}, {node.get('status', {}).get('allocatable', {}).get(site.gpu)} GPUs"
