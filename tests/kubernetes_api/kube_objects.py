"""Objects as clusters hold them: nodes with GPUs, serving pods, training of every kind."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
GPU = "nvidia.com/gpu"
H100 = "NVIDIA-H100-80GB-HBM3"


def meta(name: str, namespace: str = "", **more: Any) -> Json:
    made: Json = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {**made, **{key: value for key, value in more.items() if value}}


def owned_by(owner: Json) -> list[Json]:
    """ownerReferences to a stored object."""
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
    ]


def node(name: str, gpus: int = 8, labels: dict[str, str] | None = None, *, ready: bool = True, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": meta(name, labels={"nvidia.com/gpu.product": H100, **(labels or {})}),
        "spec": spec,
        "status": {
            "allocatable": {GPU: str(gpus), "cpu": "96"},
            "conditions": [
                {"type": "Ready", "status": str(ready), "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
        },
    }


def pod_spec(gpus: int, **more: Any) -> Json:
    box: Json = {"name": "main", "image": "img:1"}
    if gpus:
        box["resources"] = {"requests": {GPU: str(gpus)}, "limits": {GPU: str(gpus)}}
    return {"containers": [box], **more}


def pod(  # noqa: PLR0913 - a pod has many sides, each test says the one it is about
    name: str,
    gpus: int = 1,
    node: str = "",
    namespace: str = "default",
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    owner: Json | None = None,
    ready: bool | None = None,
    priority: int = 0,
    started: str = "2026-01-01T00:00:00Z",
) -> Json:
    """A pod; running and ready when it is on a node, unless said otherwise."""
    up = bool(node) if ready is None else ready
    conditions: list[Json] = []
    if node:
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": started})
        conditions.append({"type": "Ready", "status": str(up), "lastTransitionTime": started})
    status: Json = {"phase": "Running" if node else "Pending", "conditions": conditions}
    if node:
        status["containerStatuses"] = [{"name": "main", "state": {"running": {"startedAt": started}}}]
    spec = pod_spec(gpus, priority=priority, terminationGracePeriodSeconds=30, **({"nodeName": node} if node else {}))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta(
            name,
            namespace,
            labels=labels,
            annotations=annotations,
            ownerReferences=owned_by(owner) if owner else None,
        ),
        "spec": spec,
        "status": status,
    }


def deployment(
    name: str, replicas: int, gpus: int = 1, namespace: str = "default", annotations: dict[str, str] | None = None
) -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(name, namespace, annotations=annotations),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": pod_spec(gpus, priority=100)},
        },
        "status": {"replicas": replicas, "readyReplicas": replicas, "observedGeneration": 1},
    }


def job(
    name: str,
    pods: int,
    gpus: int,
    namespace: str = "default",
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    owner: Json | None = None,
    suspend: bool = False,
) -> Json:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta(
            name, namespace, labels=labels, annotations=annotations, ownerReferences=owned_by(owner) if owner else None
        ),
        "spec": {
            "parallelism": pods,
            "completions": pods,
            "suspend": suspend,
            "template": {"metadata": {}, "spec": pod_spec(gpus, priority=-5, restartPolicy="Never")},
        },
        "status": {} if suspend else {"startTime": "2026-01-01T00:00:00Z", "active": pods},
    }


def jobset(name: str, jobs: int, pods: int, gpus: int, namespace: str = "default", **more: Any) -> Json:
    template = {
        "spec": {
            "parallelism": pods,
            "completions": pods,
            "template": {"spec": pod_spec(gpus, priority=-5, restartPolicy="Never")},
        }
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": meta(name, namespace, **more),
        "spec": {"suspend": False, "replicatedJobs": [{"name": "workers", "replicas": jobs, "template": template}]},
    }


def workload(name: str, owner: Json, pods: int, gpus: int, namespace: str = "default", **more: Any) -> Json:
    """A Kueue Workload made for a stored job."""
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "Workload",
        "metadata": meta(name, namespace, ownerReferences=owned_by(owner), **more),
        "spec": {
            "active": True,
            "queueName": "training",
            "podSets": [{"name": "main", "count": pods, "template": {"spec": pod_spec(gpus)}}],
        },
        "status": {
            "conditions": [
                {
                    "type": "Admitted",
                    "status": "True",
                    "reason": "Admitted",
                    "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ]
        },
    }


def volcano_job(name: str, pods: int, gpus: int, namespace: str = "default", **more: Any) -> Json:
    return {
        "apiVersion": "batch.volcano.sh/v1alpha1",
        "kind": "Job",
        "metadata": meta(name, namespace, **more),
        "spec": {
            "minAvailable": pods,
            "schedulerName": "volcano",
            "queue": "default",
            "tasks": [{"name": "worker", "replicas": pods, "template": {"spec": pod_spec(gpus)}}],
        },
        "status": {"state": {"phase": "Running", "lastTransitionTime": "2026-01-01T00:00:00Z"}},
    }


def namespace(name: str, annotations: dict[str, str] | None = None) -> Json:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta(name, annotations=annotations)}


def hpa(name: str, target: str, low: int = 1, high: int = 10, namespace: str = "default") -> Json:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": meta(name, namespace),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "minReplicas": low,
            "maxReplicas": high,
        },
    }
