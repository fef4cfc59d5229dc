"""Plays the rest of Kubernetes on the test API server, step by step: controllers, scheduler, kubelet, operators."""

from __future__ import annotations

import itertools
import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import kube_objects as make
from kube_kinds import Kind
from kube_store import Refused, stamp

if TYPE_CHECKING:
    from kube_aggregation import Aggregation
    from kube_kinds import Json
    from kube_store import Store

COST = "controller.kubernetes.io/pod-deletion-cost"
TRACKED = "batch.kubernetes.io/job-tracking"
"""Finalizer of a Job's pods: without its controller they never quite go."""
VOLCANO_COMMAND = Kind("bus.volcano.sh", "v1alpha1", "commands", "Command", status=False)


@dataclass
class Played:
    """Everything else there is in a cluster.

    Attributes:
        store: the API server's. lingering: pods told to end stay, as with a long grace.
        karpenter: NodeClaims become nodes of so many GPUs; 0: they never do.
        resource: what counts as a GPU. kubelet: whether pods are run and ended here.
        preempts: whether the scheduler lets pods of a higher priority displace others.
        addresses: IPs for pods to come, in the order of their start; none has one when there are none.
        operators: whether JobSet, Kueue and Volcano are at work here.
        aggregation: through which HPAs read their external metrics, and which is looked after; None: neither.
    """

    store: Store
    lingering: bool = False
    karpenter: int = 0
    made: int = field(default=0)
    resource: str = make.GPU
    kubelet: bool = True
    preempts: bool = False
    addresses: list[str] = field(default_factory=list)
    aggregation: Aggregation | None = None
    operators: bool = True

    def __post_init__(self) -> None:
        self.store.know([VOLCANO_COMMAND])

    def step(self) -> None:
        """Let everyone look once."""
        if self.aggregation is not None:
            self.aggregation.check()  # asks another process: nothing is locked meanwhile
            self._hpas(self.aggregation)
        with self.store.lock:
            if self.operators:
                self._volcano()
                self._kueue()
                self._jobsets()
            self._jobs()
            self._deployments()
            self._claims()
            if self.kubelet:
                self._kubelet()
            self._schedule()

    def _all(self, api_version: str, kind: str) -> list[Json]:
        try:
            return self.store.all(api_version, kind)
        except StopIteration:
            return []

    def _pods_of(self, owner: Json) -> list[Json]:
        uid = owner["metadata"]["uid"]
        return [
            pod
            for pod in self._all("v1", "Pod")
            if any(one["uid"] == uid for one in pod["metadata"].get("ownerReferences", ()))
        ]

    def _change(self, found: Json, **spec: Any) -> None:
        kind = self.store.by_kind(found["apiVersion"], found["kind"])
        where = found["metadata"].get("namespace", ""), found["metadata"]["name"]
        self.store.change(kind, where, lambda now: {**now, "spec": {**now["spec"], **spec}})

    def _status(self, found: Json, **status: Any) -> None:
        where = found["metadata"].get("namespace", ""), found["metadata"]["name"]
        now = self.store.get(self.store.by_kind(found["apiVersion"], found["kind"]), *where)
        self.store.set_status(found["apiVersion"], found["kind"], where, {**now.get("status", {}), **status})

    def _delete(self, pod: Json) -> None:
        with suppress(Refused):
            self.store.delete(self.store.by_kind("v1", "Pod"), (pod["metadata"]["namespace"], pod["metadata"]["name"]))

    def _start(self, owner: Json, template: Json, **more: Any) -> None:
        self.made += 1
        spec, name = template["spec"], f"{owner['metadata']['name']}-{self.made}"
        gpus = self._gpus({"spec": spec})
        labels = {**template.get("metadata", {}).get("labels", {}), **more}
        space = owner["metadata"]["namespace"]
        priority = spec.get("priority", self._class_value(spec))
        pod = make.pod(name, gpus, "", space, labels=labels, owner=owner, priority=priority)
        if (owner["apiVersion"], owner["kind"]) == ("batch/v1", "Job"):
            pod["metadata"]["finalizers"] = [TRACKED]
        if self.resource != make.GPU:
            pod["spec"]["containers"][0]["resources"] = {"requests": {self.resource: str(gpus)}}
        self.store.put(pod)

    def _class_value(self, spec: Json) -> int:
        """What admission makes of a priorityClassName."""
        name = spec.get("priorityClassName")
        classes = self._all("scheduling.k8s.io/v1", "PriorityClass") if name else ()
        return next((int(one["value"]) for one in classes if one["metadata"]["name"] == name), 0)

    def _volcano(self) -> None:
        for command in self._all("bus.volcano.sh/v1alpha1", "Command"):
            space, name = command["metadata"]["namespace"], command["target"]["name"]
            job = self.store.one("batch.volcano.sh/v1alpha1", "Job", space, name)
            abort = command["action"] == "AbortJob"
            self._status(job, state={"phase": "Aborted" if abort else "Running", "lastTransitionTime": stamp()})
            self.store.delete(VOLCANO_COMMAND, (space, command["metadata"]["name"]))
        for job in self._all("batch.volcano.sh/v1alpha1", "Job"):
            running = job.get("status", {}).get("state", {}).get("phase") == "Running"
            template = job["spec"]["tasks"][0]["template"]
            self._keep(job, job["spec"]["tasks"][0]["replicas"] if running else 0, template)

    def _kueue(self) -> None:
        for workload in self._all("kueue.x-k8s.io/v1beta2", "Workload"):
            owner = workload["metadata"]["ownerReferences"][0]
            job = self.store.one(owner["apiVersion"], owner["kind"], workload["metadata"]["namespace"], owner["name"])
            active = workload["spec"].get("active", True)
            if job["spec"].get("suspend", False) == active:
                self._change(job, suspend=not active)

    def _jobsets(self) -> None:
        for jobset in self._all("jobset.x-k8s.io/v1alpha2", "JobSet"):
            for job in self._all("batch/v1", "Job"):
                if any(one["uid"] == jobset["metadata"]["uid"] for one in job["metadata"].get("ownerReferences", ())):
                    held = jobset["spec"].get("suspend", False)
                    if job["spec"].get("suspend", False) != held:
                        self._change(job, suspend=held)

    def _jobs(self) -> None:
        for job in self._all("batch/v1", "Job"):
            held = job["spec"].get("suspend", False)
            if held and "startTime" in job.get("status", {}):
                self._status(job, startTime=None)
            elif not held and not job.get("status", {}).get("startTime"):
                self._status(job, startTime=stamp())
            self._untrack(job, everything=held)
            self._keep(job, 0 if held else job["spec"]["parallelism"], job["spec"]["template"])
        jobs = {job["metadata"]["uid"] for job in self._all("batch/v1", "Job")}
        for pod in self._all("v1", "Pod"):
            owners = {one["uid"] for one in pod["metadata"].get("ownerReferences", ()) if one["kind"] == "Job"}
            if TRACKED in pod["metadata"].get("finalizers", ()) and not owners & jobs:
                self._untracked(pod)

    def _untrack(self, job: Json, *, everything: bool) -> None:
        """Let go of pods that leave; of all before a suspended Job's are deleted, so that none counts as failed."""
        for pod in self._pods_of(job):
            leaving = "deletionTimestamp" in pod["metadata"]
            if TRACKED in pod["metadata"].get("finalizers", ()) and (leaving or everything):
                self._untracked(pod)

    def _untracked(self, pod: Json) -> None:
        where = pod["metadata"]["namespace"], pod["metadata"]["name"]
        kept = [one for one in pod["metadata"]["finalizers"] if one != TRACKED]
        self.store.change(
            self.store.by_kind("v1", "Pod"),
            where,
            lambda now: {**now, "metadata": {**now["metadata"], "finalizers": kept}},
        )

    def _keep(self, owner: Json, count: int, template: Json) -> None:
        living = [pod for pod in self._pods_of(owner) if "deletionTimestamp" not in pod["metadata"]]
        for pod in living[count:]:
            self._delete(pod)
        for _ in range(count - len(living)):
            self._start(owner, template)

    def _deployments(self) -> None:
        for found in self._all("apps/v1", "Deployment"):
            living = [pod for pod in self._pods_of(found) if "deletionTimestamp" not in pod["metadata"]]
            living.sort(key=_rank)
            for pod in living[: max(0, len(living) - found["spec"]["replicas"])]:
                self._delete(pod)
            for _ in range(found["spec"]["replicas"] - len(living)):
                self._start(found, found["spec"]["template"])
            pods = [pod for pod in self._pods_of(found) if "deletionTimestamp" not in pod["metadata"]]
            ready = sum(bool(pod["spec"].get("nodeName")) for pod in pods)
            generation = found["metadata"]["generation"]
            self._status(found, replicas=len(pods), readyReplicas=ready, observedGeneration=generation)

    def _hpas(self, aggregation: Aggregation) -> None:
        """The HPA's arithmetic for External metrics of AverageValue: their sum over the target, within the bounds."""
        for hpa in self._all("autoscaling/v2", "HorizontalPodAutoscaler"):
            spec, space = hpa["spec"], hpa["metadata"]["namespace"]
            if self._bounded(spec, space):
                continue
            asked = spec["metrics"][0]["external"]
            chosen = quote(",".join(f"{k}={v}" for k, v in sorted(asked["metric"]["selector"]["matchLabels"].items())))
            path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{space}/{asked['metric']['name']}"
            code, text = aggregation.handed_on(f"{path}?labelSelector={chosen}") or (HTTPStatus.NOT_FOUND, b"")
            if code != HTTPStatus.OK:
                continue  # the size is held
            total = sum(int(item["value"]) for item in json.loads(text)["items"])
            wanted = math.ceil(total / int(asked["target"]["averageValue"]))
            with self.store.lock:
                target = self.store.one(
                    "apps/v1", spec["scaleTargetRef"]["kind"], space, spec["scaleTargetRef"]["name"]
                )
                if wanted != target["spec"]["replicas"]:
                    self._change(target, replicas=min(spec["maxReplicas"], max(spec["minReplicas"], wanted)))

    def _bounded(self, spec: Json, space: str) -> bool:
        """A size out of bounds is corrected before any metric is looked at."""
        target = self.store.one("apps/v1", spec["scaleTargetRef"]["kind"], space, spec["scaleTargetRef"]["name"])
        within = min(spec["maxReplicas"], max(spec["minReplicas"], target["spec"]["replicas"]))
        if within != target["spec"]["replicas"]:
            self._change(target, replicas=within)
        return bool(within != target["spec"]["replicas"])

    def _claims(self) -> None:
        for claim in self._all("karpenter.sh/v1", "NodeClaim") if self.karpenter else ():
            name = f"node-{claim['metadata']['name']}"
            if not claim.get("status", {}).get("nodeName"):
                self.store.put(make.node(name, self.karpenter))
                ready = [
                    {"type": kind, "status": "True", "reason": "Ok", "message": "", "lastTransitionTime": stamp()}
                    for kind in ("Launched", "Registered", "Initialized", "Ready")
                ]
                self._status(claim, nodeName=name, conditions=ready)

    def _kubelet(self) -> None:
        for pod in self._all("v1", "Pod"):
            if "deletionTimestamp" in pod["metadata"] and not self.lingering:
                self.store.delete(
                    self.store.by_kind("v1", "Pod"),
                    (pod["metadata"]["namespace"], pod["metadata"]["name"]),
                    {"gracePeriodSeconds": 0},
                )

    def _gpus(self, pod: Json) -> int:
        requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
        return int(requests.get(self.resource, 0))

    def _schedule(self) -> None:
        pods = self._all("v1", "Pod")
        free = {
            node["metadata"]["name"]: int(node["status"]["allocatable"].get(self.resource, 0))
            for node in self._all("v1", "Node")
            if "allocatable" in node.get("status", {}) and not node.get("spec", {}).get("unschedulable")
        }
        for pod in pods:
            place = pod["spec"].get("nodeName")
            if place in free and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
                free[place] -= self._gpus(pod)
        waiting = [pod for pod in pods if not pod["spec"].get("nodeName")]
        for pod in sorted(waiting, key=lambda one: -one["spec"].get("priority", 0)):
            place = next((name for name, left in sorted(free.items()) if left >= self._gpus(pod)), None)
            if place is None:
                self._status(pod, conditions=[UNSCHEDULABLE])
                self._displace(pod, pods, free)
                continue
            free[place] -= self._gpus(pod)
            self._change(pod, nodeName=place)
            if self.kubelet:
                status = make.pod("x", 0, place, started=stamp())["status"]
                self._status(pod, **status, **({"podIP": self.addresses.pop(0)} if self.addresses else {}))

    def _displace(self, pod: Json, pods: list[Json], free: dict[str, int]) -> None:
        """The scheduler's preemption: on the first node where lower priorities hold enough, the lowest go."""
        if not self.preempts:
            return
        own = pod["spec"].get("priority", 0)
        for node, unused in sorted(free.items()):
            there = [one for one in pods if one["spec"].get("nodeName") == node]
            left = unused + sum(self._gpus(one) for one in there if "deletionTimestamp" in one["metadata"])
            lower = [one for one in there if one["spec"].get("priority", 0) < own]
            lower = [one for one in lower if "deletionTimestamp" not in one["metadata"]]
            lower.sort(key=lambda one: one["spec"].get("priority", 0))
            if left + sum(map(self._gpus, lower)) < self._gpus(pod):
                continue
            sums = itertools.accumulate(map(self._gpus, lower), initial=left)
            for victim, so_far in zip(lower, sums, strict=False):
                if so_far < self._gpus(pod):
                    self._delete(victim)
            return


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0 nodes are available: Insufficient nvidia.com/gpu.",
}


def _rank(pod: Json) -> tuple[bool, int]:
    """Which pod of a ReplicaSet goes first: one without a node, then the cheapest."""
    cost = (pod["metadata"].get("annotations") or {}).get(COST, "0")
    return bool(pod["spec"].get("nodeName")), int(cost)
