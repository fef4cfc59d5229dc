"""Operators that a test cluster need not have: their controllers, played.

What is played is what their contracts say towards us: JobSet and Kueue set `suspend` of the Jobs below them, Volcano
aborts and resumes on a Command, LeaderWorkerSet keeps groups of pods. Jobs, scheduling and garbage collection are the
cluster's own. All of it goes through the API server, as the operators' own writes would.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from site_definitions import COMMAND, unless_there
from site_kubelets import PODS, now, unless_moot
from site_report import JOBS

from autoscaler.cluster.api import Resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from site_of_tests import Site

Json = dict[str, Any]
JOBSETS = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet")
WORKLOADS = Resource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
VOLCANO_JOBS = Resource("batch.volcano.sh", "v1alpha1", "jobs", "Job")
COMMANDS = Resource("bus.volcano.sh", "v1alpha1", "commands", "Command")
GROUPS = Resource("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet")
LWS = "leaderworkerset.sigs.k8s.io"


@dataclass(frozen=True)
class Operator:
    """A kind of training or serving, and what plays its controller.

    Attributes:
        name: in words. resource: its objects. definitions: files of its definitions, or the definitions themselves.
        play: let its controller look once. held: whether an object is told not to run.
    """

    name: str
    resource: Resource
    definitions: tuple[str | Json, ...]
    play: Callable[[Site], None]
    held: Callable[[Json], bool] = field(default=lambda _: False)


def objects(site: Site, resource: Resource) -> list[Json]:
    """This site's objects of a kind."""
    return [one for page, _ in site.api.pages(resource, site.name) for one in page]


def owned_by(owner: Json, resource: Resource) -> list[Json]:
    """ownerReferences to it."""
    meta = owner["metadata"]
    said = {"apiVersion": resource.api_version, "kind": resource.kind, "name": meta["name"], "uid": meta["uid"]}
    return [{**said, "controller": True}]


def _belongs(found: Json, owner: Json) -> bool:
    return any(one["uid"] == owner["metadata"]["uid"] for one in found["metadata"].get("ownerReferences") or ())


def _status(site: Site, resource: Resource, found: Json, status: Json) -> None:
    """Written where it is news."""
    before = found.get("status") or {}
    if any(before.get(key) != value for key, value in status.items()):
        site.api.patch(resource, site.name, found["metadata"]["name"], {"status": status}, subresource="status")


def _pod(site: Site, owner: Json, resource: Resource, name: str, template: Json, **labels: str) -> None:
    meta = {
        "name": name,
        "namespace": site.name,
        "labels": {**(template.get("metadata") or {}).get("labels", {}), **labels},
        "ownerReferences": owned_by(owner, resource),
    }
    with unless_there():  # the former one of that name is still ending
        site.api.create(
            PODS, site.name, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}
        )


def _hold(site: Site, job: Json, *, held: bool) -> None:
    if bool(job["spec"].get("suspend")) != held:
        site.api.patch(JOBS, site.name, job["metadata"]["name"], {"spec": {"suspend": held}})


def _jobsets(site: Site) -> None:
    """A Job for each replica of each part, suspended as the JobSet is."""
    jobs = {job["metadata"]["name"]: job for job in objects(site, JOBS)}
    for one in objects(site, JOBSETS):
        name, held = one["metadata"]["name"], bool(one["spec"].get("suspend"))
        for part in one["spec"]["replicatedJobs"]:
            for index in range(int(part.get("replicas", 1))):
                job = f"{name}-{part['name']}-{index}"
                with unless_moot():
                    if job in jobs:
                        _hold(site, jobs[job], held=held)
                        continue
                    meta = {"name": job, "namespace": site.name, "ownerReferences": owned_by(one, JOBSETS)}
                    spec = {**part["template"]["spec"], "suspend": held}
                    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}
                    with unless_there():
                        site.api.create(JOBS, site.name, body)


def _workloads(site: Site) -> None:
    """A queued Job runs while its Workload is active."""
    jobs = objects(site, JOBS)
    for one in objects(site, WORKLOADS):
        active = bool(one["spec"].get("active", True))
        for job in jobs:
            if _belongs(one, job):
                with unless_moot():
                    _hold(site, job, held=not active)
        said = {c["type"]: c["status"] for c in (one.get("status") or {}).get("conditions") or ()}
        if said.get("Admitted") != str(active):
            reason = "Admitted" if active else "Deactivated"
            condition = {"type": "Admitted", "status": str(active), "reason": reason, "message": ""}
            with unless_moot():
                _status(site, WORKLOADS, one, {"conditions": [{**condition, "lastTransitionTime": now()}]})


def _volcano(site: Site) -> None:
    """Commands are carried out and removed; a job that runs keeps its pods, one that is aborted ends them."""
    jobs = {job["metadata"]["uid"]: job for job in objects(site, VOLCANO_JOBS)}
    for command in objects(site, COMMANDS):
        job = jobs.get(command["target"]["uid"])
        with unless_moot():
            if job is not None:
                _phase(site, job, "Aborting" if command["action"] == "AbortJob" else "Running")
            site.api.delete(COMMANDS, site.name, command["metadata"]["name"], command["metadata"]["uid"])
    pods = site.pods()
    for job in objects(site, VOLCANO_JOBS):
        own = [pod for pod in pods if _belongs(pod, job)]
        phase = ((job.get("status") or {}).get("state") or {}).get("phase", "")
        with unless_moot():
            if phase == "Aborting":
                _ended(site, own)
                if not own:
                    _phase(site, job, "Aborted")
            elif phase != "Aborted":
                _run_tasks(site, job, {pod["metadata"]["name"] for pod in own})
                if not phase:
                    _phase(site, job, "Running")


def _ended(site: Site, pods: list[Json]) -> None:
    for pod in pods:
        if "deletionTimestamp" not in pod["metadata"]:
            site.api.delete(PODS, site.name, pod["metadata"]["name"], pod["metadata"]["uid"])


def _run_tasks(site: Site, job: Json, there: set[str]) -> None:
    for task in job["spec"]["tasks"]:
        for index in range(int(task["replicas"])):
            name = f"{job['metadata']['name']}-{task['name']}-{index}"
            if name not in there:
                _pod(site, job, VOLCANO_JOBS, name, task["template"])


def _phase(site: Site, job: Json, phase: str) -> None:
    _status(site, VOLCANO_JOBS, job, {"state": {"phase": phase, "lastTransitionTime": now()}})


def _leader_worker_sets(site: Site) -> None:
    """Groups of so many pods, the highest number going first."""
    for one in objects(site, GROUPS):
        name, wanted = one["metadata"]["name"], int(one["spec"].get("replicas", 1))
        group = one["spec"]["leaderWorkerTemplate"]
        own = {pod["metadata"]["name"]: pod for pod in site.pods(**{f"{LWS}/name": name})}
        size, ready = int(group.get("size", 1)), 0
        for index in range(wanted):
            members = [f"{name}-{index}", *(f"{name}-{index}-{worker}" for worker in range(1, size))]
            for worker, member in enumerate(members):
                if member not in own:
                    labels = {f"{LWS}/name": name, f"{LWS}/group-index": str(index), f"{LWS}/worker-index": str(worker)}
                    _pod(site, one, GROUPS, member, group["workerTemplate"], **labels)
            ready += all(_ready(own.get(member)) for member in members)
        with unless_moot():
            number = f"{LWS}/group-index"
            _ended(site, [pod for pod in own.values() if int(pod["metadata"]["labels"][number]) >= wanted])
        status = {"replicas": wanted, "readyReplicas": ready, "hpaPodSelector": f"{LWS}/name={name}"}
        with unless_moot():
            _status(site, GROUPS, one, status)


def _ready(pod: Json | None) -> bool:
    conditions = ((pod or {}).get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _suspended(found: Json) -> bool:
    return bool(found["spec"].get("suspend"))


def _inactive(found: Json) -> bool:
    return found["spec"].get("active", True) is False


def _aborted(found: Json) -> bool:
    return ((found.get("status") or {}).get("state") or {}).get("phase") in {"Aborting", "Aborted"}


JOBSET = Operator("JobSet", JOBSETS, ("jobset.x-k8s.io_jobsets.yaml",), _jobsets, _suspended)
KUEUE = Operator("Kueue", WORKLOADS, ("kueue.x-k8s.io_workloads.yaml",), _workloads, _inactive)
VOLCANO = Operator("Volcano", VOLCANO_JOBS, ("batch.volcano.sh_jobs.yaml", COMMAND), _volcano, _aborted)
LEADER_WORKER_SET = Operator(
    "LeaderWorkerSet", GROUPS, ("leaderworkerset.x-k8s.io_leaderworkersets.yaml",), _leader_worker_sets
)


def gang(site: Site, operator: Operator, name: str, pods: int, gpus: int) -> None:
    """Training of that kind that may be taken: so many pods of so many GPUs, which run together."""
    yes = {"tidegate.dev/preemptible": "true"}
    template = site.template({"gang": name}, gpus, restartPolicy="Never")
    below = {"parallelism": pods, "completions": pods, "backoffLimit": 100, "template": template}
    meta: Json = {"name": name, "namespace": site.name, "labels": yes}
    if operator is JOBSET:
        parts = [
            {"name": "workers", "replicas": pods, "template": {"spec": {**below, "parallelism": 1, "completions": 1}}}
        ]
        spec: Json = {"suspend": False, "replicatedJobs": parts}
        site.api.create(JOBSETS, site.name, _object(JOBSETS, meta, spec))
    elif operator is KUEUE:
        meta["labels"] = {**yes, "kueue.x-k8s.io/queue-name": "training"}
        job = site.api.create(JOBS, site.name, _object(JOBS, meta, {**below, "suspend": True}))
        about = {"name": f"job-{name}", "namespace": site.name, "ownerReferences": owned_by(job, JOBS)}
        spec = {
            "active": True,
            "queueName": "training",
            "podSets": [{"name": "main", "count": pods, "template": template}],
        }
        site.api.create(WORKLOADS, site.name, _object(WORKLOADS, about, spec))
    else:
        tasks = [{"name": "worker", "replicas": pods, "template": template}]
        spec = {"minAvailable": pods, "schedulerName": "volcano", "queue": "default", "tasks": tasks}
        site.api.create(VOLCANO_JOBS, site.name, _object(VOLCANO_JOBS, meta, spec))


def leader_worker_set(site: Site, name: str, size: int, gpus: int) -> None:
    """A serving pool of groups of `size` pods, none yet."""
    template = site.template({"app": name}, gpus)
    spec = {"replicas": 0, "leaderWorkerTemplate": {"size": size, "workerTemplate": template}}
    site.api.create(GROUPS, site.name, _object(GROUPS, {"name": name, "namespace": site.name}, spec))


def _object(resource: Resource, meta: Json, spec: Json) -> Json:
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta, "spec": spec}


def held(site: Site, operator: Operator) -> set[str]:
    """Objects of that kind that are told not to run."""
    return {one["metadata"]["name"] for one in objects(site, operator.resource) if operator.held(one)}
