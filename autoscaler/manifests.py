"""Kubernetes objects that make replicas follow the wish exactly, made from the configuration.

AverageValue "1" (a `Value` target multiplies by the ready pods at every sync), tolerance "0" (the HPA's dead band of
10 % swallows single steps from 10 replicas on), every behaviour field spelt out (KEDA compares them with what the API
server fills in), one selector per role, maxReplicas always there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import yaml

from autoscaler.errors import BadSettings
from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Metric
from metrics_adapter.keda_rest import path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoscaler.model import Role
    from autoscaler.settings import PoolSettings, RoleSettings, Settings

Object = dict[str, Any]

API_VERSIONS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "LeaderWorkerSet": "leaderworkerset.x-k8s.io/v1",
    "DisaggregatedSetRoleScaler": "disaggregatedset.x-k8s.io/v1",
    "RoleBasedGroupScalingAdapter": "workloads.x-k8s.io/v1alpha2",
    "PodClique": "grove.io/v1alpha1",
    "PodCliqueScalingGroup": "grove.io/v1alpha1",
    "DynamoGraphDeploymentScalingAdapter": "nvidia.com/v1alpha1",
}
LONGEST_NAME = 54
"""KEDA puts the ScaledObject's name into a label (63 characters) and `keda-hpa-` before it."""
POLLING_S = 10
DEFAULT_PORT = 9443
"""Of the scaler, where the configuration opens none or leaves the choice to the system."""
LEAST_COOLDOWN_S = 300


class TriggerKind(StrEnum):
    """How KEDA asks. external-push needs KEDA 2.18 or later."""

    PUSH = "external-push"
    EXTERNAL = "external"
    METRICS_API = "metrics-api"
    PROMETHEUS = "prometheus"


@dataclass(frozen=True, slots=True)
class Place:
    """Where Tidegate runs, as the cluster addresses it."""

    namespace: str = "tidegate-system"
    service: str = "tidegate"
    prometheus: str = "http://prometheus.monitoring:9090"


@dataclass(frozen=True, slots=True)
class Scaled:
    """One role with the object whose replicas follow."""

    pool: PoolSettings
    role: Role
    own: RoleSettings
    target: Object

    @property
    def name(self) -> str:
        """`pool-role`, shortened where Kubernetes would not take it."""
        whole = f"{self.pool.name}-{self.role.value}".replace(".", "-")
        if len(whole) <= LONGEST_NAME:
            return whole
        return f"{whole[: LONGEST_NAME - 7].rstrip('-')}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def scaled(settings: Settings, only: str | None = None) -> list[Scaled]:
    """The roles of enabled pools, or of the pool `only` (name or namespace/name).

    Raises:
        BadSettings: a role without `target`, a pool that does not exist.
    """
    found, problems = [], []
    for index, pool in enumerate(settings.pools):
        if not pool.enabled or only not in {None, pool.name, f"{pool.namespace}/{pool.name}"}:
            continue
        for role, own in pool.roles.items():
            if own.target is None:
                problems.append(
                    f"pools[{index}].roles.{role}.target: is missing; name the object whose replicas follow, "
                    f"such as {{kind: Deployment, name: {pool.name}-{role}}}"
                )
                continue
            kind = own.target.kind
            target = {"apiVersion": API_VERSIONS[kind], "kind": kind, "name": own.target.name}
            found.append(Scaled(pool, role, own, target))
    if problems:
        raise BadSettings(tuple(problems))
    if not found:
        named = sorted(f"{pool.namespace}/{pool.name}" for pool in settings.pools if pool.enabled)
        wanted = f"--pool {only!r}: no such pool" if only else "pools: none"
        raise BadSettings((f"{wanted} is enabled; enabled are: {', '.join(named[:8]) or 'none'}",))
    return found


def behavior(down_window_s: int = 0) -> Object:
    """HPA behaviour that lets any step through in one sync; the smoothing is Tidegate's own."""
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": 0,
            "selectPolicy": "Max",
            "tolerance": "0",
            "policies": [
                {"type": "Percent", "value": 1000, "periodSeconds": 15},
                {"type": "Pods", "value": 1000, "periodSeconds": 15},
            ],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": down_window_s,
            "selectPolicy": "Max",
            "tolerance": "0",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
        },
    }


def _meta(of: Scaled) -> Object:
    labels = {"app.kubernetes.io/managed-by": "tidegate", WORKLOAD_LABEL: of.pool.name, ROLE_LABEL: of.role.value}
    return {"name": of.name, "namespace": of.pool.namespace, "labels": labels}


def hpa(of: Scaled, *, to_zero: bool = False, down_window_s: int = 0) -> Object:
    """A HorizontalPodAutoscaler; 0 replicas only with `to_zero`, which needs the HPAScaleToZero gate."""
    selector = {"matchLabels": {WORKLOAD_LABEL: of.pool.name, ROLE_LABEL: of.role.value}}
    metric = {"name": Metric.DESIRED.value, "selector": selector}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _meta(of),
        "spec": {
            "scaleTargetRef": of.target,
            "minReplicas": of.own.min_replicas if to_zero else max(1, of.own.min_replicas),
            "maxReplicas": of.own.max_replicas,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": metric, "target": {"type": "AverageValue", "averageValue": "1"}},
                }
            ],
            "behavior": behavior(down_window_s),
        },
    }


def trigger(of: Scaled, kind: TriggerKind, settings: Settings, place: Place) -> Object:
    """The ScaledObject's one trigger."""
    made: Object = {"type": kind.value, "name": "tidegate", "metricType": "AverageValue"}
    host = f"{place.service}.{place.namespace}.svc"
    if kind in {TriggerKind.PUSH, TriggerKind.EXTERNAL}:
        keda = settings.serving.keda
        port = (keda.port if keda else 0) or DEFAULT_PORT
        address = f"dns:///{place.service}-headless.{place.namespace}.svc.cluster.local:{port}"
        metadata = {"scalerAddress": address, "pool": of.pool.name, "role": of.role.value}
        if keda is None or keda.tls:
            metadata["enableTLS"] = "true"
            made["authenticationRef"] = {"name": "tidegate-scaler"}
    elif kind is TriggerKind.METRICS_API:
        metadata = {
            "url": f"https://{host}{path(of.pool.namespace, of.pool.name, of.role.value)}",
            "format": "json",
            "valueLocation": "desired",
            "targetValue": "1",
            "authMode": "tls",
        }
        made["authenticationRef"] = {"name": "tidegate-scaler"}
    else:
        labels = f'exported_namespace="{of.pool.namespace}",workload="{of.pool.name}",role="{of.role.value}"'
        age = f"tidegate_decision_age_seconds < {settings.serving.hard_age_s:g}"
        metadata = {
            "serverAddress": place.prometheus,
            "query": f"max({Metric.DESIRED.value}{{{labels}}} and on(instance) ({age}))",
            "threshold": "1",
            "ignoreNullValues": "false",
        }
    return {**made, "metadata": metadata}


def scaled_object(of: Scaled, kind: TriggerKind, settings: Settings, place: Place, down_window_s: int = 0) -> Object:
    """A KEDA ScaledObject."""
    floor = max(1, of.own.min_replicas)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": _meta(of),
        "spec": {
            "scaleTargetRef": of.target,
            "pollingInterval": POLLING_S,
            "cooldownPeriod": max(LEAST_COOLDOWN_S, round(settings.lead.start_s)),
            "minReplicaCount": of.own.min_replicas,
            "maxReplicaCount": of.own.max_replicas,
            "fallback": {"failureThreshold": 3, "replicas": floor, "behavior": "currentReplicasIfHigher"},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": behavior(down_window_s)}},
            "triggers": [trigger(of, kind, settings, place)],
        },
    }


def trigger_authentication(namespace: str, *, client: bool) -> Object:
    """Where KEDA finds the CA (and with `client` a client certificate): KEDA reads them from nowhere else."""
    names = {"caCert": "ca.crt"}
    if client:
        names |= {"tlsClientCert": "tls.crt", "tlsClientKey": "tls.key"}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "TriggerAuthentication",
        "metadata": {"name": "tidegate-scaler", "namespace": namespace},
        "spec": {
            "secretTargetRef": [
                {"parameter": parameter, "name": "tidegate-scaler-client", "key": key}
                for parameter, key in names.items()
            ]
        },
    }


def keda(
    settings: Settings, roles: Sequence[Scaled], kind: TriggerKind, place: Place, down_window_s: int = 0
) -> Iterator[Object]:
    """A ScaledObject per role, after the TriggerAuthentication its namespace needs."""
    served = settings.serving.keda
    secured = kind is TriggerKind.METRICS_API or (kind is not TriggerKind.PROMETHEUS and (served is None or served.tls))
    client = kind is TriggerKind.METRICS_API or (served is not None and served.client_ca_file is not None)
    if secured:
        for namespace in dict.fromkeys(of.pool.namespace for of in roles):
            yield trigger_authentication(namespace, client=client)
    for of in roles:
        yield scaled_object(of, kind, settings, place, down_window_s)


def text(objects: Sequence[Object], comment: str = "") -> str:
    """YAML documents, the comment before them."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + "---\n".join(yaml.safe_dump(made, sort_keys=False, width=120) for made in objects)
