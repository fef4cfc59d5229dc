"""A place to test in over any API server: namespace, fake nodes, and kubelets played on them."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any, Self

import pytest
import yaml
from site_kubelets import NODES, PODS, Kubelets, unless_moot
from site_report import (
    ACCOUNTS,
    DEFINITIONS,
    DEPLOYMENTS,
    JOBS,
    NAMESPACES,
    OURS,
    PRIORITY_CLASSES,
    described,
    sweep,
)
from site_rights import EVERYWHERE, may_all

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
    from site_rights import Needed

    from autoscaler.cluster.room import Room

Json = dict[str, Any]
TAINT = "tidegate.dev/test"
"""Taint of the fake nodes: nobody else's pods shall be placed where nothing runs them."""
QUICK = {"duration_s": 2.0, "renew_deadline_s": 1.2, "retry_s": 0.3}
"""Times of the election where only the code is tried; a real cluster is given the defaults."""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65534,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""So that a cluster that restricts pods takes these."""
GRACE_S = 5
"""What pods are given to end; the played kubelets need a tenth of it."""


@dataclass
class Site:
    """A place to test in.

    Attributes:
        kubeconfig: how to reach the server; several files with the usual separator. context: in it.
        folder: for files. played: plays controllers and scheduler where there are none; the kubelets are played here
            either way.
        grace_s: how long pods take to end.
        operators: let a played operator look once; called as long as the site stands.
        served: the pool's target and profile. more: further settings of the rooms.
        gpu: the nodes' resource, of this site alone, so that two runs in one cluster do not meet.
        version: the server's. server: its URL.
    """

    kubeconfig: str
    folder: Path
    played: Played | None = None
    context: str | None = None
    grace_s: float = 0.5
    name: str = field(default_factory=lambda: f"tidegate-test-{uuid.uuid4().hex[:8]}")
    nodes: list[str] = field(default_factory=list)
    version: str = "unknown"
    server: str = ""
    operators: list[Callable[[Site], None]] = field(default_factory=list)
    more: Json = field(default_factory=dict)
    served: Json = field(default_factory=lambda: {"target": {"name": "chat"}, "profile": "llama-3.1-8b/h100-80gb/tp1"})

    def __enter__(self) -> Self:
        made = connect(self.kubeconfig, self.context)
        self.api, self.server = Api(made), str(made.configuration.host)
        self._closing = ExitStack()
        self._made: list[tuple[Resource, str]] = []
        self.gpu = f"tidegate.dev/{self.name}"
        if self.played is not None:
            self.played.resource = self.gpu
        self.kubelets = Kubelets(self.api, self.name, self.grace_s, self._others)
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _others(self) -> None:
        """Everybody who is not there."""
        if self.played is not None:
            self.played.step()
        for look in list(self.operators):
            with unless_moot():
                look(self)

    def _begin(self) -> None:
        try:
            self.version = str(self.api.read("/version").get("gitVersion"))
        except ApiError as error:
            pytest.fail(f"no API server answers by {self.kubeconfig}: {error.message}", pytrace=False)
        self.needs(EVERYWHERE)
        sweep(self.api)
        self.make(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})
        self.eventually(self._account, "the namespace has no default ServiceAccount: is there no controller manager?")
        self.kubelets.start()

    def needs(self, rights: tuple[Needed, ...]) -> None:
        """Fail, naming what is missing, where this user may not do all of it."""
        if (why := may_all(self.api, rights)) is not None:
            pytest.fail(why, pytrace=False)

    def __exit__(self, *_: object) -> None:
        """Remove everything, whatever went wrong before: kubelets are played until the namespace has gone."""
        self.operators.clear()  # they would make anew what goes now
        with ExitStack() as last:
            last.callback(self.api.close)
            last.callback(self.kubelets.stop)
            last.callback(self._removed)
            self._closing.close()
        assert not self.kubelets.trouble, self.kubelets.trouble

    def _removed(self) -> None:
        for resource, name in reversed(self._made):  # the namespace was the first
            if resource not in {NODES, NAMESPACES, DEFINITIONS}:
                with suppress(ApiError):
                    self.api.delete(resource, "", name)
        if (NAMESPACES, self.name) in self._made:
            with suppress(ApiError):
                self.api.delete(NAMESPACES, "", self.name)
            self._until_gone()
        self.kubelets.leave()
        for resource, name in self._made:  # definitions after what is defined by them, nodes after their pods
            if resource in {NODES, DEFINITIONS}:
                with suppress(ApiError):
                    self.api.delete(resource, "", name)

    def _until_gone(self) -> None:
        """Until a real server has ended everything; one that is played goes with all it holds."""
        deadline = time.monotonic() + 60.0
        while self.played is None and time.monotonic() < deadline:
            try:
                if self.kubelets.trouble:
                    self.kubelets.look()
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
        """Wait until it holds; returns how long that took, s. A server that is busy is asked again."""
        begun = time.monotonic()
        while True:
            try:
                if holds():
                    return time.monotonic() - begun
            except ApiError as error:
                if not error.passing:
                    raise
                why = f"{why} ({error.message})" if error.message not in why else why
            assert not self.kubelets.trouble, described(self)
            assert time.monotonic() - begun < within_s, f"{why}\n  {described(self)}"
            time.sleep(0.02)

    # what is made

    def node(self, gpus: int) -> str:
        """A fake node of so many GPUs."""
        name = f"{self.name}-{len(self.nodes)}"
        labels = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "kubernetes.io/hostname": name}
        spec = {"taints": [{"key": TAINT, "value": self.name, "effect": "NoSchedule"}]}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec}
        made = self.make(NODES, body)
        self.nodes.append(name)
        self.kubelets.join(made, {"cpu": "64", "memory": "512Gi", "pods": "110", self.gpu: str(gpus)})
        self.eventually(lambda: self._clean(name), f"node {name} is never taken for ready")
        return name

    def _clean(self, name: str) -> bool:
        """Whether the node lifecycle controller has taken its taint away, as it does of nodes that are ready."""
        taints = self.api.get(NODES, "", name)["spec"].get("taints", ())
        return all(not one["key"].startswith("node.kubernetes.io/") for one in taints)

    def template(self, labels: dict[str, str], gpus: int, **more: Any) -> Json:
        amount = {self.gpu: str(gpus)}
        box = {
            "name": "main",
            "image": "none",
            "resources": {"requests": amount, "limits": amount},
            "securityContext": RESTRICTED,
        }
        return {
            "metadata": {"labels": labels},
            "spec": {
                "containers": [box],
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": GRACE_S,
                "tolerations": [{"key": TAINT, "operator": "Equal", "value": self.name, "effect": "NoSchedule"}],
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
        template = self.template({"job": name}, gpus, restartPolicy="Never", **more)
        spec = {"parallelism": pods, "completions": pods, "backoffLimit": 100, "template": template}
        meta = {"name": name, "namespace": self.name, "labels": {"tidegate.dev/preemptible": "true"}}
        self.api.create(JOBS, self.name, {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec})

    def pod(self, name: str, gpus: int) -> None:
        """Training of one pod that nothing can suspend."""
        template = self.template({"job": name, "tidegate.dev/preemptible": "true"}, gpus, restartPolicy="Never")
        meta = {**template["metadata"], "name": name, "namespace": self.name}
        self.api.create(PODS, self.name, {"apiVersion": "v1", "kind": "Pod", **template, "metadata": meta})

    def deployment(self, replicas: int, **more: Any) -> None:
        """The serving pool."""
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "chat"}},
            "template": self.template({"app": "chat", "tidegate.dev/serving": "true"}, 1, **more),
        }
        meta = {"name": "chat", "namespace": self.name}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
        self.api.create(DEPLOYMENTS, self.name, body)

    def cluster(self, **more: Any) -> Json:
        """Settings of `cluster` for this site."""
        said = {"enabled": True, "kubeconfig": self.kubeconfig, "context": self.context, "namespace": self.name}
        return {**said, "gpu_resources": [self.gpu], **more}

    def room(self, publish: Callable[[Decision], None] = lambda _: None, **cluster: Any) -> Room:
        """Tidegate's eyes and hands on it, as `tidegate run` opens them; `publish` gets what a follower serves."""
        acting = {
            "mode": "active",
            "actuator": "scale",
            "audit_file": str(self.folder / "actions.jsonl"),
            # Whatever class a cluster gives to pods that name none, its value is at most a thousand million.
            "preemption": {"min_runtime_s": 0, "give_back_after_s": 0, "below_priority": 1_000_000_001},
            "budget": {"writes_per_second": 100},
            **({} if self.played is None else {"election": QUICK}),
        }
        said = {"pools": [self.pool(max_replicas=64)], "cluster": self.cluster(**{**acting, **cluster}), **self.more}
        file = self.folder / "tidegate.yaml"
        file.write_text(yaml.safe_dump(said))
        settings = load_settings(file, {})
        room = open_room(settings, build.parts(settings), publish, self._closing)
        assert room.wait_ready(60.0, Event()), room.why_not_ready()
        return room

    def leave(self) -> None:
        """Close the rooms, as processes that end."""
        self._closing.close()

    def pool(self, **role: Any) -> Json:
        """The pool in the settings."""
        roles = {"colocated": {**role, "target": self.served["target"]}}
        return {"name": "chat", "namespace": self.name, "profile": self.served["profile"], "roles": roles}

    def wish(self, desired: int, **takes: int) -> Decision:
        """A decision of now."""
        key = RoleKey(self.name, "chat", Role.COLOCATED)
        asked = tuple(Take(Tier(tier), count, 100.0) for tier, count in takes.items())
        return Decision(time.time(), (RoleDecision(key, desired, takes=asked),))

    # what is there

    def pods(self, **labels: str) -> list[Json]:
        """This site's pods with these labels."""
        return self.kubelets.pods(**labels)

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

    def ending_s(self, begun: float, until: float) -> float:
        """From the first pod seen leaving in that time, by the monotonic clock, until the last of them had gone, s."""
        pods = [one for one in list(self.kubelets.ended) if begun <= one[0] <= until]
        return min(until, max(gone for _, gone in pods)) - min(seen for seen, _ in pods) if pods else 0.0
