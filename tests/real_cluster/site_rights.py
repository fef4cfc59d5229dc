"""What the user of a kubeconfig must be allowed to do for these tests, and what of it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from site_kubelets import LEASES, NODES, PODS
from site_report import (
    ACCOUNTS,
    API_SERVICES,
    BUDGETS,
    DEFINITIONS,
    DEPLOYMENTS,
    HPAS,
    JOBS,
    NAMESPACES,
    PRIORITY_CLASSES,
    SERVICES,
    SLICES,
)

from autoscaler.cluster.api import ApiError, Resource
from autoscaler.cluster.custom_resources import TOKEN_POOLS
from autoscaler.cluster.preflight import allowed

if TYPE_CHECKING:
    from autoscaler.cluster.api import Api

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
Needed = tuple[str, Resource, str]
"""Verbs, of what, and which subresource."""
EVERYWHERE: tuple[Needed, ...] = (
    ("get list watch create delete", NAMESPACES, ""),
    ("get list watch create delete", NODES, ""),
    ("patch", NODES, "status"),
    ("list watch create delete", PRIORITY_CLASSES, ""),
    ("get", ACCOUNTS, ""),
    ("get list watch create patch delete", PODS, ""),
    ("patch", PODS, "status"),
    ("create", PODS, "eviction"),
    ("get create", BUDGETS, ""),
    ("get list watch create patch", JOBS, ""),
    ("get list watch create patch", DEPLOYMENTS, ""),
    ("patch", DEPLOYMENTS, "scale"),
    ("list watch", STATEFUL_SETS, ""),
    ("get list watch create patch", HPAS, ""),
    ("get list create update", LEASES, ""),
    ("get list watch create patch", CONFIG_MAPS, ""),
    ("create", EVENTS, ""),
)
AGGREGATED: tuple[Needed, ...] = (
    ("get list create patch delete", API_SERVICES, ""),
    ("create patch", SERVICES, ""),
    ("create patch", SLICES, ""),
)
DEFINED: tuple[Needed, ...] = (
    ("get list create update delete", DEFINITIONS, ""),
    ("list create patch", TOKEN_POOLS, ""),
    ("patch", TOKEN_POOLS, "status"),
)


def lacking(api: Api, needed: tuple[Needed, ...]) -> list[str]:
    """What of it may not be done, as `kubectl auth can-i` takes it."""
    return [
        f"{verb} {resource}{'/' if below else ''}{below}"
        for verbs, resource, below in needed
        for verb in verbs.split()
        if not allowed(api, resource, below, verb)
    ]


def may_all(api: Api, needed: tuple[Needed, ...]) -> str | None:
    """What to say of the rights that are missing; None where none is, or the server does not tell."""
    try:
        missing = lacking(api, needed)
    except ApiError:
        return None
    if not missing:
        return None
    return f"the user of this kubeconfig may not: {', '.join(missing)} (in all namespaces). Run it as a cluster admin."
