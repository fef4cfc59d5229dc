"""Ordering nodes, one way per node provisioner. Names say what is ordered, so ordering twice orders once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import urllib3

from autoscaler.cluster import kinds
from autoscaler.cluster.api import ApiError
from autoscaler.cluster.objects import ACCELERATOR, MANAGED, ORDERED_FOR
from autoscaler.settings_cluster import (
    BufferSettings,
    NodeClaimSettings,
    NodePoolSettings,
    ProvisioningRequestSettings,
    WebhookSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.cluster.actions import Provision
    from autoscaler.cluster.api import Api, Json, Resource

WEBHOOK_TIMEOUT_S = 10.0


def order(
    api: Api, resource: Callable[[str], Resource], http: urllib3.PoolManager, action: Provision, *, dry_run: bool
) -> str:
    """Order the node; says what was done. Raises ApiError."""
    by = action.settings.by
    if isinstance(by, NodeClaimSettings):
        return _claim(api, resource(kinds.NODE_CLAIMS), action, by, dry_run=dry_run)
    if isinstance(by, NodePoolSettings):
        return _pool(api, resource(kinds.NODE_POOLS), by.name, action, dry_run=dry_run)
    if isinstance(by, BufferSettings):
        body: Json = {"spec": {"replicas": action.total}}
        api.patch(resource(kinds.BUFFERS), by.namespace, by.name, body, dry_run=dry_run)
        return f"CapacityBuffer {by.name} replicas {action.total}"
    if isinstance(by, ProvisioningRequestSettings):
        return _request(api, resource, action, by, dry_run=dry_run)
    return _webhook(http, action, by, dry_run=dry_run)


OURS = {MANAGED: "tidegate"}


def _create(api: Api, resource: Resource, namespace: str, body: Json, *, dry_run: bool) -> None:
    try:
        api.create(resource, namespace, body, dry_run=dry_run)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def _claim(api: Api, resource: Resource, action: Provision, by: NodeClaimSettings, *, dry_run: bool) -> str:
    """A standalone NodeClaim, safe from Karpenter's own consolidation: returning it is ours to do."""
    body: Json = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": action.name,
            "labels": {**by.labels, **OURS},
            "annotations": {
                "karpenter.sh/do-not-disrupt": "true",
                "tidegate.dev/gpus": str(action.settings.node_gpus),
                ACCELERATOR: action.settings.accelerator,  # may hold what a label may not
                ORDERED_FOR: str(action.role),  # whose it is among several shards, whatever their number
            },
        },
        "spec": by.spec,
    }
    _create(api, resource, "", body, dry_run=dry_run)
    return f"NodeClaim {action.name}"


def _pool(api: Api, resource: Resource, name: str, action: Provision, *, dry_run: bool) -> str:
    """A static NodePool: as many more than its nodes as should be on their way."""
    found = api.get(resource, "", name)
    now, there = (found.get("spec") or {}).get("replicas"), (found.get("status") or {}).get("nodes", 0)
    if now is None:
        raise ApiError(422, "Invalid", f"NodePool {name} is not static: it has no spec.replicas; set them")
    wanted = int(there) + action.total
    if int(now) >= wanted:
        return f"NodePool {name} has {now} replicas already"
    meta: Json = {"resourceVersion": found["metadata"]["resourceVersion"]}
    api.patch(resource, "", name, {"metadata": meta, "spec": {"replicas": wanted}}, dry_run=dry_run)
    return f"NodePool {name} replicas {wanted}"


def _request(
    api: Api, resource: Callable[[str], Resource], action: Provision, by: ProvisioningRequestSettings, *, dry_run: bool
) -> str:
    """A ProvisioningRequest and the pod template it names. One that is still open is the order itself."""
    kind = resource(kinds.REQUESTS)
    name, number = action.name, 0
    while (found := _there(api, kind, by.namespace, name)) is not None:
        if not _closed(found):
            return f"ProvisioningRequest {name} is open already"
        number += 1
        name = f"{action.name}-{number}"
    meta: Json = {"name": name, "namespace": by.namespace, "labels": OURS}
    template: Json = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": meta,
        "template": {"metadata": {"labels": OURS}, "spec": by.pod_spec},
    }
    _create(api, resource(kinds.POD_TEMPLATES), by.namespace, template, dry_run=dry_run)
    body: Json = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": meta,
        "spec": {
            "provisioningClassName": by.class_name,
            "parameters": by.parameters,
            "podSets": [{"count": action.total, "podTemplateRef": {"name": name}}],
        },
    }
    _create(api, kind, by.namespace, body, dry_run=dry_run)
    return f"ProvisioningRequest {name}"


def _there(api: Api, kind: Resource, namespace: str, name: str) -> Json | None:
    try:
        return api.get(kind, namespace, name)
    except ApiError as error:
        if not error.absent:
            raise
        return None


def _closed(request: Json) -> bool:
    conditions = (request.get("status") or {}).get("conditions") or ()
    over = {"Provisioned", "Failed", "BookingExpired", "CapacityRevoked"}
    return any(one.get("type") in over and one.get("status") == "True" for one in conditions)


def _webhook(http: urllib3.PoolManager, action: Provision, by: WebhookSettings, *, dry_run: bool) -> str:
    body = {
        "accelerator": action.settings.accelerator,
        "nodes": action.total,
        "action": action.name,
        "role": str(action.role),
        "dry_run": dry_run,
    }
    headers = {"Content-Type": "application/json", "Idempotency-Key": action.name}
    try:
        answer = http.request(
            "POST", by.url, body=json.dumps(body), headers=headers, timeout=WEBHOOK_TIMEOUT_S, retries=False
        )
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ApiError(0, "Webhook", f"{by.url}: {error}") from None
    if answer.status >= 300:  # noqa: PLR2004 - what is not success
        raise ApiError(answer.status, "Webhook", f"{by.url} answered {answer.status}")
    return f"asked {by.url}"
