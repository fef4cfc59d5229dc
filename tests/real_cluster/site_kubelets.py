"""Fake nodes and the kubelets on them: heartbeats and Leases, pods that run at once and end when they are told to.

The node lifecycle controller taints a node whose Lease or status has not been renewed for 50 s, and takes the taint of
a new one away once it has reported ready; the scheduler places nothing on it before that.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from autoscaler.cluster.api import ApiError, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autoscaler.cluster.api import Api

Json = dict[str, Any]
PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
LEASES_OF_NODES = "kube-node-lease"
"""Namespace that every API server makes for itself."""
LEASE_S = 40
BEAT_S = 8.0
LOOK_S = 0.05
CALM = ("MemoryPressure", "DiskPressure", "PIDPressure")
UP = ("PodScheduled", "Initialized", "PodReadyToStartContainers", "ContainersReady", "Ready")


def now() -> str:
    """A metav1.Time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro() -> str:
    """A metav1.MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@contextmanager
def unless_moot() -> Iterator[None]:
    """What has gone or changed meanwhile, or a server that is busy, is looked at again; anything else is a mistake."""
    try:
        yield
    except ApiError as error:
        if not (error.absent or error.conflict or error.passing or error.replaced):
            raise


@dataclass
class Kubelets:
    """Plays the kubelets of the nodes that join, for the pods of one namespace.

    Attributes:
        api, namespace: where. grace_s: how long pods take to end.
        others: plays everybody else, where nobody else is there.
        nodes: their names, and since when they are ready.
        trouble: what the server would not take. ended: of each pod that ended, when it was seen leaving and gone, by
            the monotonic clock.
    """

    api: Api
    namespace: str
    grace_s: float
    others: Callable[[], None]
    nodes: dict[str, str] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    ended: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = Event()
        self._doomed: dict[str, float] = {}
        self._leases = True
        self._thread = Thread(target=self._run, name="played kubelets", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    # nodes

    def join(self, node: Json, room: Json) -> None:
        """A node that was made has so much room, and is ready."""
        name, since = node["metadata"]["name"], now()
        status = {"capacity": room, "allocatable": room, "conditions": _conditions(since)}
        self.api.patch(NODES, "", name, {"status": status}, subresource="status")
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}
        meta = {"name": name, "namespace": LEASES_OF_NODES, "ownerReferences": [owner]}
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_S, "renewTime": micro()}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
        try:
            self.api.create(LEASES, LEASES_OF_NODES, body)
        except ApiError as error:
            if not (error.forbidden or error.absent):
                raise
            self._leases = False  # the status alone is a heartbeat too
        self.nodes[name] = since

    def leave(self) -> None:
        """Their Leases go at once; the garbage collector would take them later."""
        for name in self.nodes if self._leases else ():
            with unless_moot():
                self.api.delete(LEASES, LEASES_OF_NODES, name)

    def _beat(self) -> None:
        for name, since in list(self.nodes.items()):
            with unless_moot():
                body = {"status": {"conditions": _conditions(since)}}
                self.api.patch(NODES, "", name, body, subresource="status")
            if self._leases:
                with unless_moot():
                    self.api.patch(LEASES, LEASES_OF_NODES, name, {"spec": {"renewTime": micro()}})

    # pods

    def pods(self, **labels: str) -> list[Json]:
        """The namespace's pods with these labels."""
        chosen = {"labelSelector": ",".join(f"{k}={v}" for k, v in labels.items())} if labels else {}
        return [pod for page, _ in self.api.pages(PODS, self.namespace, **chosen) for pod in page]

    def look(self) -> None:
        """Start what has been placed, end what is to go."""
        there = self.pods()
        for pod in there:
            self._look_after(pod)
        for uid in self._doomed.keys() - {pod["metadata"]["uid"] for pod in there}:
            self.ended.append((self._doomed.pop(uid), time.monotonic()))

    def _look_after(self, pod: Json) -> None:
        uid, at = pod["metadata"]["uid"], time.monotonic()
        if "deletionTimestamp" in pod["metadata"]:
            if at - self._doomed.setdefault(uid, at) >= self.grace_s:
                with unless_moot():  # as a kubelet does when the containers have ended
                    self.api.delete(PODS, self.namespace, pod["metadata"]["name"], uid, grace_s=0)
        elif pod["spec"].get("nodeName") in self.nodes and pod.get("status", {}).get("phase", "Pending") == "Pending":
            with unless_moot():
                name = pod["metadata"]["name"]
                self.api.patch(PODS, self.namespace, name, {"status": _running(pod)}, subresource="status")

    def _run(self) -> None:
        beaten = time.monotonic()
        while not self._stop.wait(LOOK_S):
            try:
                if time.monotonic() - beaten > BEAT_S:
                    beaten = time.monotonic()
                    self._beat()
                self.others()
                with unless_moot():
                    self.look()
            except Exception as error:  # noqa: BLE001 - told by the test, which would wait in vain otherwise
                self.trouble.append(f"the played kubelets failed: {error!r}")
                return


def _conditions(since: str) -> list[Json]:
    said = {"lastHeartbeatTime": now(), "lastTransitionTime": since, "reason": "Played", "message": ""}
    calm = [{"type": kind, "status": "False", **said} for kind in CALM]
    return [*calm, {"type": "Ready", "status": "True", **said}]


def _running(pod: Json) -> Json:
    """A pod's status once its containers run; what others said of it (a merge patch replaces lists) is kept."""
    started = now()
    before = [one for one in pod.get("status", {}).get("conditions", ()) if one["type"] not in UP]
    up = [{"type": kind, "status": "True", "lastTransitionTime": started} for kind in UP]
    boxes = [
        {
            "name": box["name"],
            "image": box["image"],
            "imageID": "none",
            "ready": True,
            "restartCount": 0,
            "started": True,
            "state": {"running": {"startedAt": started}},
        }
        for box in pod["spec"]["containers"]
    ]
    return {"phase": "Running", "startTime": started, "conditions": [*before, *up], "containerStatuses": boxes}
