"""Namespaces, fake nodes and the kubelets on them, over any API server."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pytest
import yaml
from site_report import DEPLOYMENTS, JOBS, NAMESPACES, NODES, OURS, described, sweep

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
PODS = Resource("", "v1", "pods", "Pod")
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
TAINT = "tidegate.dev/test"
"""Taint of the fake nodes: nobody else's pods shall be placed where nothing runs them."""
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
        trouble: what went wrong in playing the kubelets. version: the server's.
    """

    GPU: ClassVar[str] = "tidegate.dev/test-gpu"
    kubeconfig: str
    folder: Path
    played: Played | None = None
    grace_s: float = 0.5
    name: str = field(default_factory=lambda: f"tidegate-test-{uuid.uuid4().hex[:8]}")
    nodes: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    version: str = "unknown"

    def __enter__(self) -> Self:
        self.api = Api(connect(self.kubeconfig, None))
        self._stop, self._closing = Event(), ExitStack()
        self._doomed: dict[str, float] = {}
        self._made: list[tuple[Resource, str]] = []
        self._thread = Thread(target=self._run, name="played kubelets", daemon=True)
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        try:
            self.version = str(self.api.read("/version").get("gitVersion"))
        except ApiError as error:
            pytest.fail(f"no API server answers by {self.kubeconfig}: {error.message}", pytrace=False)
        if self.played is None:
            sweep(self.api, (NAMESPACES, NODES, PRIORITY_CLASSES))
        self.make(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})
        if self.played is None:
            self.eventually(
                self._account, "the namespace has no default ServiceAccount: is there no controller manager?"
            )
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Remove everything, whatever went wrong before: kubelets are played until the namespace has gone."""
        try:
            self._closing.close()
        finally:
            if (NAMESPACES, self.name) in self._made:
                with suppress(ApiError):
                    self.api.delete(NAMESPACES, "", self.name)
                self._until_gone()
            for resource, name in reversed(self._made):
                with suppress(ApiError):
                    self.api.delete(resource, "", name)
            self._stop.set()
            if self._thread.is_alive():
                self._thread.join()
            self.api.close()
        assert not self.trouble, f"the played kubelets failed: {self.trouble}"

    def _until_gone(self) -> None:
        """Play kubelets until a real server has ended everything; one that is played goes with all it holds."""
        deadline = time.monotonic() + 60.0
        while self.played is None and time.monotonic() < deadline:
            try:
                for pod in self.pods():
                    self._end(pod)
                self.api.get(NAMESPACES, "", self.name)
            except ApiError as error:
                if error.absent:
                    return
            time.sleep(0.1)

    def _account(self) -> bool:
        with suppress(ApiError):
            return bool(self.api.get(ACCOUNTS, self.name, "default"))
        return False

    def make(self, resource: Resource, body: Json) -> Json:
        """Create something that has no namespace, and remember to remove it."""
        meta = body["metadata"]
        made = self.api.create(
            resource, "", {**body, "metadata": {**meta, "labels": {**meta.get("labels", {}), **OURS}}}
        )
        self._made.append((resource, meta["name"]))
        return made

    def eventually(self, holds: Callable[[], Any], why: str, within_s: float = 30.0) -> float:
        """Wait until it holds; returns how long that took, s."""
        begun = time.monotonic()
        while not holds():
            assert time.monotonic() - begun < within_s, f"{why}\n  {described(self)}"
            time.sleep(0.02)
        return time.monotonic() - begun

    # what is made

    def node(self, gpus: int) -> str:
        """A fake node of so many GPUs."""
        name = f"{self.name}-{len(self.nodes)}"
        labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "kubernetes.io/hostname": name}
        spec = {"taints": [{"key": TAINT, "value": self.name, "effect": "NoSchedule"}]}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec}
        self.make(NODES, body)
        room = {"cpu": "64", "memory": "512Gi", "pods": "110", self.GPU: str(gpus)}
        self.api.patch(NODES, "", name, {"status": {"capacity": room, "allocatable": room}}, subresource="status")
        self._since = now()
        self._beat(name)
        self.nodes.append(name)
        if self.played is None:  # the node controller takes its taint away once it has seen the node ready
            self.eventually(lambda: self._clean(name), f"node {name} is never taken for ready")
        return name

    def _clean(self, name: str) -> bool:
        taints = self.api.get(NODES, "", name)["spec"].get("taints", ())
        return all(not one["key"].startswith("node.kubernetes.io/") for one in taints)

    def _beat(self, name: str) -> None:
        kinds = ("MemoryPressure", "DiskPressure", "PIDPressure")
        calm = [self._condition(kind, "False") for kind in kinds]
        body = {"status": {"conditions": [*calm, self._condition("Ready", "True")]}}
        self.api.patch(NODES, "", name, body, subresource="status")

    def _condition(self, kind: str, status: str) -> Json:
        return {
            "type": kind,
            "status": status,
            "reason": "Played",
            "message": "",
            "lastHeartbeatTime": now(),
            "lastTransitionTime": self._since,
        }

    def _template(self, labels: dict[str, str], gpus: int, **more: Any) -> Json:
        box = {
            "name": "main",
            "image": "none",
            "resources": {"requests": {self.GPU: str(gpus)}, "limits": {self.GPU: str(gpus)}},
        }
        return {
            "metadata": {"labels": labels},
            "spec": {
                "containers": [box],
                "terminationGracePeriodSeconds": 5,
                "tolerations": [{"key": TAINT, "operator": "Exists", "effect": "NoSchedule"}],
                **more,
            },
        }

    def priority(self, name: str, value: int) -> str:
        """A PriorityClass; gives its name."""
        body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": value}
        self.make(PRIORITY_CLASSES, {**body, "metadata": {"name": f"{self.name}-{name}"}})
        return f"{self.name}-{name}"

    def job(self, name: str, pods: int, gpus: int, **more: Any) -> None:
        """Training that may be taken."""
        template = self._template({"job": name}, gpus, restartPolicy="Never", **more)
        spec = {"parallelism": pods, "completions": pods, "template": template}
        meta = {"name": name, "namespace": self.name, "labels": {"tidegate.dev/preemptible": "true"}}
        self.api.create(JOBS, self.name, {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec})

    def deployment(self, replicas: int, **more: Any) -> None:
        """The serving pool."""
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "chat"}},
            "template": self._template({"app": "chat", "tidegate.dev/serving": "true"}, 1, **more),
        }
        meta = {"name": "chat", "namespace": self.name}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
        self.api.create(DEPLOYMENTS, self.name, body)

    def room(self, publish: Callable[[Decision], None] = lambda _: None, **cluster: Any) -> Room:
        """Tidegate's eyes and hands on it, as `tidegate run` opens them; `publish` gets what a follower serves."""
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
        room = open_room(settings, build.parts(settings), publish, self._closing)
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

    def ready(self, **labels: str) -> int:
        """Living pods that are ready."""
        return sum(
            any(
                one["type"] == "Ready" and one["status"] == "True"
                for one in pod.get("status", {}).get("conditions", ())
            )
            and "deletionTimestamp" not in pod["metadata"]
            for pod in self.pods(**labels)
        )

    def counted(self, ready: int) -> bool:
        """Whether the Deployment's own controller counts so many ready: only then does it choose among them rightly."""
        status = self.api.get(DEPLOYMENTS, self.name, "chat").get("status", {})
        return int(status.get("readyReplicas") or 0) == ready == self.ready(app="chat")

    def suspended(self) -> set[str]:
        """Jobs that are held."""
        jobs = [job for page, _ in self.api.pages(JOBS, self.name) for job in page]
        return {job["metadata"]["name"] for job in jobs if job["spec"].get("suspend")}

    # the kubelets

    def _run(self) -> None:
        beaten = time.monotonic()
        while not self._stop.wait(0.05):
            try:
                if self.played is not None:
                    self.played.step()
                for pod in self.pods():
                    self._look_after(pod)
                if time.monotonic() - beaten > 8.0:
                    beaten = time.monotonic()
                    for name in self.nodes:
                        self._beat(name)
            except ApiError:
                continue  # the server is busy, or the namespace has gone; the next look tells
            except Exception as error:  # noqa: BLE001 - told by the test, which would wait in vain otherwise
                self.trouble.append(repr(error))
                return

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
