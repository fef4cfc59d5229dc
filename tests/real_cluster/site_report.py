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
JOBS = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
OURS = {"tidegate.dev/test": "site"}
"""Label of everything made here that has no namespace, and of the namespaces."""
LEFT_S = 3600.0
"""What an earlier run left behind (it was killed) is removed when it is so old."""


def sweep(api: Api, resources: Iterable[Resource]) -> None:
    """Remove what runs that were killed have left."""
    chosen = ",".join(f"{name}={value}" for name, value in OURS.items())
    for resource in resources:
        for page, _ in api.pages(resource, labelSelector=chosen):
            for found in page:
                born = unix(found["metadata"].get("creationTimestamp"))
                if born is not None and time.time() - born > LEFT_S:
                    with suppress(ApiError):
                        api.delete(resource, "", found["metadata"]["name"])


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
    return "\n  ".join([*said, *site.trouble])


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
        yield f"node {name}: taints {taints}, {node.get('status', {}).get('allocatable', {}).get(site.GPU)} GPUs"
