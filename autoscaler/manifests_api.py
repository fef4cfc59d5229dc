"""The objects that register Tidegate's metrics APIs with a cluster: Services, APIServices, rights to ask who asks.

An APIService outlives nothing: while it is registered and nobody answers, namespaces cannot be deleted. Take it away
with the release.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from metrics_adapter.external import VERSION

if TYPE_CHECKING:
    from autoscaler.manifests import Object, Place
    from autoscaler.settings import Settings

CUSTOM = "custom.metrics.k8s.io"
PRIORITY = 100
"""What everybody uses; custom v1beta2 has 200, so that it is preferred."""
LABELS = {"app.kubernetes.io/name": "tidegate"}
SELECTOR = {"app": "tidegate"}
"""What the pods of config/kustomize carry."""


def api_service(group: str, version: str, place: Place, ca: bytes | None, *, insecure: bool) -> Object:
    """One APIService. Without a CA and not insecure, cert-manager is asked to fill the caBundle in."""
    made: Object = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}", "labels": dict(LABELS)},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": PRIORITY,
            "versionPriority": 2 * PRIORITY if version == "v1beta2" else PRIORITY,
            "service": {"name": place.service, "namespace": place.namespace, "port": 443},
        },
    }
    if ca is not None:
        made["spec"]["caBundle"] = base64.b64encode(ca).decode("ascii")
    elif insecure:
        made["spec"]["insecureSkipTLSVerify"] = True
    else:
        annotations = {"cert-manager.io/inject-ca-from": f"{place.namespace}/{place.service}-serving"}
        made["metadata"]["annotations"] = annotations
    return made


def registration(
    settings: Settings, place: Place, ca: bytes | None = None, *, insecure: bool = False, custom: bool = False
) -> list[Object]:
    """Everything of section "registration": Services, APIServices, bindings, and the right of people to look."""
    serving = settings.serving
    services = [_service(place, serving.port or 6443)]
    if serving.keda is not None:
        services.append(_headless(place, serving.keda.port or 9443))
    groups = [(serving.group, VERSION)]
    if custom:
        groups += [(CUSTOM, "v1beta1"), (CUSTOM, "v1beta2")]
    registered = [api_service(group, version, place, ca, insecure=insecure) for group, version in groups]
    return [*services, *registered, *_rights(place, sorted({group for group, _ in groups}))]


def _service(place: Place, port: int) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": place.service, "namespace": place.namespace, "labels": dict(LABELS)},
        "spec": {"selector": dict(SELECTOR), "ports": [{"name": "https", "port": 443, "targetPort": port}]},
    }


def _headless(place: Place, port: int) -> Object:
    """KEDA balances over the addresses behind this name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{place.service}-headless", "namespace": place.namespace, "labels": dict(LABELS)},
        "spec": {
            "clusterIP": "None",
            "selector": dict(SELECTOR),
            "ports": [{"name": "grpc", "port": port, "targetPort": port}],
        },
    }


def _rights(place: Place, groups: list[str]) -> list[Object]:
    account = {"kind": "ServiceAccount", "name": place.service, "namespace": place.namespace}
    rbac, authority = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{place.service}-auth-delegator"},
            "roleRef": {"apiGroup": authority, "kind": "ClusterRole", "name": "system:auth-delegator"},
            "subjects": [account],
        },
        {
            "apiVersion": rbac,
            "kind": "RoleBinding",
            "metadata": {"name": f"{place.service}-auth-reader", "namespace": "kube-system"},
            "roleRef": {"apiGroup": authority, "kind": "Role", "name": "extension-apiserver-authentication-reader"},
            "subjects": [account],
        },
        {
            "apiVersion": rbac,
            "kind": "ClusterRole",
            "metadata": {
                "name": f"{place.service}-metrics-reader",
                "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"},
            },
            "rules": [{"apiGroups": groups, "resources": ["*"], "verbs": ["get", "list"]}],
        },
        {
            "apiVersion": rbac,
            "kind": "ClusterRole",
            "metadata": {"name": f"{place.service}-dashboard-reader"},
            "rules": [{"nonResourceURLs": ["/dashboard/", "/dashboard/*"], "verbs": ["get"]}],
        },
    ]
