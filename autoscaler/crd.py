"""The custom resource TokenPool, which says for one pool what an entry of `pools` says in the configuration file.

Its schema is made from the same settings. What those check in code is said in CEL here, so that the API server refuses
it at once; what needs the other pools to judge is said in the status (cluster/custom_resources).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoscaler.crd_schema import Schema, names_of, plain, structural
from autoscaler.settings import PoolSettings
from autoscaler.settings_types import LABEL_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GROUP, VERSION = "tidegate.dev", "v1alpha1"
KIND, PLURAL, SINGULAR = "TokenPool", "tokenpools", "tokenpool"
IN_METADATA = ("name", "namespace")
"""Settings that are the object's own name and namespace."""
LONGEST_MESSAGE = 4096
"""Characters of a condition's message; metav1.Condition allows 32 KiB."""
ROLES = ("colocated", "decode", "prefill")

RULES: Mapping[str, Sequence[Mapping[str, str]]] = {
    "RoleSettings": (
        {
            "rule": "self.minReplicas <= self.maxReplicas",
            "message": "minReplicas must not be above maxReplicas",
            "fieldPath": ".minReplicas",
        },
        {
            "rule": "!has(oldSelf.target) || (has(self.target) && self.target == oldSelf.target)",
            "message": "target cannot be changed: the replicas it counted would be another object's; make a new pool",
            "fieldPath": ".target",
        },
    ),
    "PoolSettings.roles": (
        {
            "rule": "!has(self.colocated) || (!has(self.prefill) && !has(self.decode))",
            "message": "a pool is either colocated or has prefill and decode, not both",
        },
        {
            "rule": "has(self.colocated) == has(oldSelf.colocated) && has(self.prefill) == has(oldSelf.prefill) "
            "&& has(self.decode) == has(oldSelf.decode)",
            "message": "roles cannot be added or taken away; make a new pool",
        },
    ),
}
"""What the settings check in code, and what must not change: CEL, evaluated by the API server (1.29 and later)."""


def spec_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """A TokenPool as an entry of `pools`: unchecked, with the settings' names."""
    meta = found.get("metadata") or {}
    said: dict[str, Any] = plain(found.get("spec") or {}, PoolSettings)
    return {**said, "name": meta.get("name"), "namespace": meta.get("namespace")}


SPELLINGS = {name: other for name, other in names_of(PoolSettings).items() if name != other}
"""Names of settings that a TokenPool spells otherwise."""


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "tidegate"},
            # Uninstalling a chart would delete every TokenPool with it.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": SINGULAR,
                "shortNames": ["tp"],
                "categories": ["tidegate"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": _schema()},
                }
            ],
        },
    }


def _schema() -> Schema:
    return {
        "type": "object",
        "description": "One model served by one set of replicas per role, scaled by Tidegate.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(PoolSettings, RULES, IN_METADATA),
            "status": _status(),
        },
        "x-kubernetes-validations": [
            {
                "rule": f"self.metadata.name.size() <= {LABEL_LENGTH}",
                "message": f"the name is a label of the served metric: at most {LABEL_LENGTH} characters",
            }
        ],
    }


def _count(description: str) -> Schema:
    return {"type": "integer", "format": "int32", "minimum": 0, "description": description}


def _status() -> Schema:
    counts = {
        "desired": _count("Replicas wanted in all."),
        "ready": _count("Replicas that have arrived."),
        "starting": _count("Replicas asked for and not arrived."),
    }
    role = {"type": "string", "enum": list(ROLES), "description": "Which role."}
    return {
        "type": "object",
        "description": "What Tidegate makes of it. Written by the leading replica alone.",
        "properties": {
            "observedGeneration": {
                "type": "integer",
                "format": "int64",
                "minimum": 0,
                "description": "Generation of the spec that the conditions are about.",
            },
            "desiredReplicas": _count("Replicas wanted, all roles together."),
            "readyReplicas": _count("Replicas that have arrived, all roles together."),
            "startingReplicas": _count("Replicas asked for and not arrived, all roles together."),
            "roles": {
                "type": "array",
                "maxItems": len(ROLES),
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["role"],
                "items": {"type": "object", "required": ["role"], "properties": {"role": role, **counts}},
            },
            "conditions": {
                "type": "array",
                "maxItems": 8,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "description": "Accepted: the spec is one that can be used. Ready: a wish is decided from what is "
                "seen now. ScalingLimited: fewer replicas than needed could be planned.",
                "items": _condition(),
            },
        },
    }


def _condition() -> Schema:
    """As metav1.Condition."""
    name = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
    domain = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    kind = rf"^({domain}/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$"
    return {
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {"type": "string", "maxLength": 316, "pattern": kind},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "pattern": name},
            "message": {"type": "string", "maxLength": LONGEST_MESSAGE},
        },
    }


def _columns() -> list[Schema]:
    def column(name: str, path: str, kind: str = "string", description: str = "", priority: int = 0) -> Schema:
        made: Schema = {"name": name, "type": kind, "jsonPath": path}
        if description:
            made["description"] = description
        return made | ({"priority": priority} if priority else {})

    def condition(kind: str) -> str:
        return f'.status.conditions[?(@.type=="{kind}")].status'

    return [
        column("Model", ".spec.modelName"),
        column("Desired", ".status.desiredReplicas", "integer", "Replicas wanted, all roles."),
        column("Current", ".status.readyReplicas", "integer", "Replicas that have arrived."),
        column("Starting", ".status.startingReplicas", "integer", "Asked for and not arrived."),
        column("Accepted", condition("Accepted")),
        column("Ready", condition("Ready")),
        column("Limited", condition("ScalingLimited"), priority=1),
        column("Profile", ".spec.profile", priority=1),
        column("Mode", ".spec.mode", priority=1),
        column("Age", ".metadata.creationTimestamp", "date"),
    ]
