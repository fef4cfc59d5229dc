"""Namespaces, fake nodes and the kubelets on them, over any API server."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, ClassVar, Self

import yaml

from autoscaler import build
from autoscaler.build_cluster import open_room
from autoscaler.cluster.api import Api, ApiError, Resource
from autoscaler.cluster.connection import connect
from autoscaler.configuration import load_settings
from autoscaler.model import Decision, Role, RoleDecision, RoleKey, Take, Tier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kube_controllers import Played

    from autoscaler.cluster.room import Room

Json = dict[str, Any]
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
JOBS = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
QUICK = {"duration_s": 2.0, "renew_deadline_s": 1.2, "retry_s": 0.3}
"""Times of the election where only the code is tried; a real cluster is given the defaults."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Site:
    """A place to test in.

    Attributes:
        kubeconfig: how to reach the server. folder: for files. played: plays controllers and scheduler where there are
            none; the kubelets are played here either way.
        grace_s: how long pods take to end.
    """

    GPU: ClassVar[str] = "tidegate.dev/test-gpu"
    kubeconfig: str
    folder: Path
    played: Played | None = None
    grace_s: float = 0.5
    name: str = field(default_factory=lambda: f"tidegate-test-{uuid.uuid4().hex[:8]}")
    nodes: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.api = Api(connect(self.kubeconfig, None))
        self._stop = Event()
        self._closing = ExitStack()
        self._doomed: dict[str, float] = {}
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}}
        self.api.create(NAMESPACES, "", body)
        if self.played is None:
            self.eventually(self._account, "the namespace has no default ServiceAccount", 30.0)
        self._thread = Thread(target=self._run, name="played kubelets", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        for pod in self.pods():
            self._end(pod)
        with suppress(ApiError):
            self.api.delete(NAMESPACES, "", self.name)
        for name in self.nodes:
            with suppress(ApiError):
                self.api.delete(NODES, "", name)
        deadline = time.monotonic() + 5.0
        while self.pods() and time.monotonic() < deadline:
            time.sleep(0.1)
        self._stop.set()
        self._thread.join()
        self.api.close()

    def _account(self) -> bool:
        with suppress(ApiError):
            return bool(self.api.get(ACCOUNTS, self.name, "default"))
        return False

    def eventually(self, holds: Callable[[], Any], why: str, within_s: float = 30.0) -> float:
        """Wait until it holds; returns how long that took, s."""
        begun = time.monotonic()
        while not holds():
            assert time.monotonic() - begun < within_s, why
            time.sleep(0.02)
        return time.monotonic() - begun

    # what is made

    def node(self, gpus: int) -> str:
        """A fake node of so many GPUs."""
        name = f"{self.name}-{len(self.nodes)}"
        labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "kubernetes.io/hostname": name}
        self.api.create(NODES, "", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
        self.nodes.append(name)
        room = {"cpu": "64", "memory": "512Gi", "pods": "110", self.GPU: str(gpus)}
        self.api.patch(NODES, "", name, {"status": {"capacity": room, "allocatable": room}}, subresource="status")
        self._beat(name)
        return name

    def _beat(self, name: str) -> None:
        kinds = ("MemoryPressure", "DiskPressure", "PIDPressure")
        calm = [self._condition(kind, "False") for kind in kinds]
        body = {"status": {"conditions": [*calm, self._condition("Ready", "True")]}}
        self.api.patch(NODES, "", name, body, subresource="status")

    @staticmethod
    def _condition(kind: str, status: str) -> Json:
        return {
            "type": kind,
            "status": status,
            "reason": "Played",
            "message": "",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": now(),
        }

    def _template(self, labels: dict[str, str], gpus: int, **more: Any) -> Json:
        box = {
            "name": "main",
            "image": "none",
            "resources": {"requests": {self.GPU: str(gpus)}, "limits": {self.GPU: str(gpus)}},
        }
        return {
            "metadata": {"labels": labels},
            "spec": {"containers": [box], "terminationGracePeriodSeconds": 5, **more},
        }

    def job(self, name: str, pods: int, gpus: int) -> None:
        """Training that may be taken."""
        template = self._template({"job": name}, gpus, restartPolicy="Never")
        spec = {"parallelism": pods, "completions": pods, "template": template}
        meta = {"name": name, "namespace": self.name, "labels": {"tidegate.dev/preemptible": "true"}}
        self.api.create(JOBS, self.name, {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec})

    def deployment(self, replicas: int) -> None:
        """The serving pool."""
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "chat"}},
            "template": self._template({"app": "chat"}, 1),
        }
        meta = {"name": "chat", "namespace": self.name}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
        self.api.create(DEPLOYMENTS, self.name, body)

    def room(self, **cluster: Any) -> Room:
        """Tidegate's eyes and hands on it, as `tidegate run` opens them."""
        said = {
            "pools": [
                {
                    "name": "chat",
                    "namespace": self.name,
                    "profile": "llama-3.1-8b/h100-80gb/tp1",
                    "roles": {"colocated": {"max_replicas": 64, "target": {"name": "chat"}}},
                }
            ],
            "cluster": {
                "enabled": True,
                "kubeconfig": self.kubeconfig,
                "namespace": self.name,
                "mode": "active",
                "actuator": "scale",
                "gpu_resources": [self.GPU],
                "audit_file": str(self.folder / "actions.jsonl"),
                "preemption": {"min_runtime_s": 0, "give_back_after_s": 0, "below_priority": 1},
                "budget": {"writes_per_second": 100},
                **({} if self.played is None else {"election": QUICK}),
                **cluster,
            },
        }
        file = self.folder / "tidegate.yaml"
        file.write_text(yaml.safe_dump(said))
        settings = load_settings(file, {})
        room = open_room(settings, build.parts(settings), lambda _: None, self._closing)
        assert room.wait_ready(60.0, Event()), room.why_not_ready()
        return room

    def wish(self, desired: int, **takes: int) -> Decision:
        """A decision of now."""
        key = RoleKey(self.name, "chat", Role.COLOCATED)
        asked = tuple(Take(Tier(tier), count, 100.0) for tier, count in takes.items())
        return Decision(time.time(), (RoleDecision(key, desired, takes=asked),))

    # what is there

    def pods(self, **labels: str) -> list[Json]:
        """This site's pods with these labels."""
        chosen = {"labelSelector": ",".join(f"{k}={v}" for k, v in labels.items())} if labels else {}
        return [pod for page, _ in self.api.pages(PODS, self.name, **chosen) for pod in page]

    def bound(self, **labels: str) -> int:
        """Living pods on nodes."""
        return sum(
            bool(pod["spec"].get("nodeName")) and "deletionTimestamp" not in pod["metadata"]
            for pod in self.pods(**labels)
        )

    def suspended(self) -> set[str]:
        """Jobs that are held."""
        jobs = [job for page, _ in self.api.pages(JOBS, self.name) for job in page]
        return {job["metadata"]["name"] for job in jobs if job["spec"].get("suspend")}

    # the kubelets

    def _run(self) -> None:
        beaten = time.monotonic()
        while not self._stop.wait(0.05):
            if self.played is not None:
                self.played.step()
            with suppress(ApiError):
                for pod in self.pods():
                    self._look_after(pod)
                if time.monotonic() - beaten > 8.0:
                    beaten = time.monotonic()
                    for name in self.nodes:
                        self._beat(name)

    def _look_after(self, pod: Json) -> None:
        uid, at = pod["metadata"]["uid"], time.monotonic()
        if "deletionTimestamp" in pod["metadata"]:
            if at - self._doomed.setdefault(uid, at) >= self.grace_s:
                self._end(pod)
        elif pod["spec"].get("nodeName") in self.nodes and pod.get("status", {}).get("phase") != "Running":
            started = now()
            conditions = [
                {"type": kind, "status": "True", "lastTransitionTime": started}
                for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
            ]
            box = {
                "name": "main", "image": "none", "imageID": "none", "ready": True, "restartCount": 0, "started": True,
                "state": {"running": {"startedAt": started}},
            }  # fmt: skip
            status = {"phase": "Running", "startTime": started, "conditions": conditions, "containerStatuses": [box]}
            with suppress(ApiError):
                self.api.patch(PODS, self.name, pod["metadata"]["name"], {"status": status}, subresource="status")

    def _end(self, pod: Json) -> None:
        """As a kubelet does when the containers have ended: delete with grace 0."""
        with suppress(ApiError):
            self.api.delete(PODS, self.name, pod["metadata"]["name"], grace_s=0)
