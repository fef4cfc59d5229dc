"""The kinds the test API server knows: Kubernetes' own, and those of real CustomResourceDefinitions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CRDS = Path(__file__).resolve().parents[3] / "shared" / "data" / "crds"
"""Real schemas, beside the repository; tests that need them skip when they are absent."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One served resource.

    Attributes:
        group, version, plural, kind: as in its path and its objects; group "" is the core's.
        namespaced: whether it lives in namespaces.
        status: has a /status subresource, so its main endpoint ignores status.
        scale: JSON paths of spec replicas, status replicas and selector, when it has a /scale subresource.
        schema: openAPIV3Schema of a custom resource; None for built-in ones.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = True
    scale: tuple[str, str, str | None] | None = None
    schema: Json | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What it is stored under: versions share it."""
        return self.group, self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def custom(self) -> bool:
        return self.schema is not None

    def __hash__(self) -> int:
        return hash((self.group, self.version, self.plural))


_SCALE = (".spec.replicas", ".status.replicas", "labels of .spec.selector")
BUILT_IN = (
    Kind("", "v1", "namespaces", "Namespace", namespaced=False),
    Kind("", "v1", "nodes", "Node", namespaced=False),
    Kind("", "v1", "pods", "Pod"),
    Kind("", "v1", "events", "Event", status=False),
    Kind("", "v1", "configmaps", "ConfigMap", status=False),
    Kind("", "v1", "secrets", "Secret", status=False),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", status=False),
    Kind("", "v1", "services", "Service"),
    Kind("", "v1", "podtemplates", "PodTemplate", status=False),
    Kind("apps", "v1", "deployments", "Deployment", scale=_SCALE),
    Kind("apps", "v1", "statefulsets", "StatefulSet", scale=_SCALE),
    Kind("apps", "v1", "replicasets", "ReplicaSet", scale=_SCALE),
    Kind("apps", "v1", "daemonsets", "DaemonSet"),
    Kind("batch", "v1", "jobs", "Job"),
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, status=False),
    Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    Kind("coordination.k8s.io", "v1", "leases", "Lease", status=False),
    Kind("events.k8s.io", "v1", "events", "Event", status=False),
    Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False),
)


@cache
def custom_kinds(file: str) -> tuple[Kind, ...]:
    """The served versions of one CustomResourceDefinition file in CRDS. Raises OSError."""
    return kinds_of(yaml.load((CRDS / file).read_text(encoding="utf-8"), yaml.CSafeLoader))


def kinds_of(definition: Json) -> tuple[Kind, ...]:
    """The served versions a CustomResourceDefinition object declares."""
    spec = definition["spec"]
    found = []
    for version in spec["versions"]:
        below = version.get("subresources", {})
        scale = below.get("scale")
        paths = (
            (scale["specReplicasPath"], scale["statusReplicasPath"], scale.get("labelSelectorPath")) if scale else None
        )
        if version["served"]:
            names = spec["names"]
            found.append(
                Kind(
                    spec["group"],
                    version["name"],
                    names["plural"],
                    names["kind"],
                    spec["scope"] == "Namespaced",
                    "status" in below,
                    paths,
                    version["schema"]["openAPIV3Schema"],
                )
            )
    return tuple(found)
