"""Training as it is found: which pods belong together, what would be suspended, and whether it may be taken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.cluster import kinds
from autoscaler.cluster.objects import DOMAIN, Meta, Pod, gpus_of, meta_of, unix

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from autoscaler.cluster.api import Json

PREEMPTED = f"{DOMAIN}preempted"
"""Annotation on what we suspended: JSON of a `Mark`. Written in the same request as the suspension."""
PREEMPTIBLE = f"{DOMAIN}preemptible"
"""Label or annotation by which training says that it may be taken ("true")."""
LAST_CHECKPOINT = (f"{DOMAIN}last-checkpoint", "volcano.sh/last-checkpoint-time")


@dataclass(frozen=True, slots=True)
class Mark:
    """What we noted on training that we took: enough to give it back after a crash.

    Attributes:
        action: id of the action. at: Unix seconds. accelerator, gpus: what it held. role: whom it was taken for.
        token: the fencing token of the process that did it.
    """

    action: str
    at: float
    accelerator: str
    gpus: int
    role: str
    token: int = 0

    def text(self) -> str:
        """As it stands in the annotation."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, separators=(",", ":"))

    @classmethod
    def read(cls, text: str | None) -> Mark | None:
        """Inverse of text; None for anything else, so that a person's scribble is no reason to act."""
        try:
            found = json.loads(text or "")
            return cls(
                str(found["action"]),
                float(found["at"]),
                str(found["accelerator"]),
                int(found["gpus"]),
                str(found["role"]),
                int(found.get("token", 0)),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            return None


@dataclass(frozen=True, slots=True)
class Training:
    """A Job, JobSet, Kueue Workload or Volcano Job.

    Attributes:
        resource: key of its kind (`kinds`).
        suspended: whether it is told not to run. over: whether it has ended.
        started: Unix seconds; None before. gpus: what it would hold when it runs.
        queued: whether Kueue decides when it runs, so that its own `suspend` is not ours to set.
    """

    meta: Meta
    resource: str
    kind: str
    suspended: bool
    over: bool
    started: float | None
    gpus: int
    queued: bool

    @property
    def key(self) -> str:
        """`Kind/namespace/name`."""
        return f"{self.kind}/{self.meta.namespace}/{self.meta.name}"

    @property
    def mark(self) -> Mark | None:
        """Our note, when we took it."""
        return Mark.read(self.meta.annotations.get(PREEMPTED))


def _conditions(status: Json) -> dict[str, Json]:
    return {str(one.get("type")): one for one in status.get("conditions") or ()}


def _true(conditions: Mapping[str, Json], *names: str) -> bool:
    return any((conditions.get(name) or {}).get("status") == "True" for name in names)


QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def job_of(found: Json, gpu: Collection[str], kept: Collection[str]) -> Training:
    """What is kept of a batch/v1 Job."""
    meta, spec, status = meta_of(found, kept), found.get("spec") or {}, found.get("status") or {}
    return Training(
        meta,
        kinds.JOBS,
        "Job",
        bool(spec.get("suspend")),
        _true(_conditions(status), "Complete", "Failed"),
        unix(status.get("startTime")),
        _per_pod(spec, gpu) * int(spec.get("parallelism") or 1),
        QUEUE_LABEL in meta.labels,
    )


def _per_pod(spec: Json, gpu: Collection[str]) -> int:
    return gpus_of((spec.get("template") or {}).get("spec") or {}, gpu)


def jobset_of(found: Json, gpu: Collection[str], kept: Collection[str]) -> Training:
    """What is kept of a JobSet."""
    meta, spec, status = meta_of(found, kept), found.get("spec") or {}, found.get("status") or {}
    gpus = 0
    for part in spec.get("replicatedJobs") or ():
        below = (part.get("template") or {}).get("spec") or {}
        gpus += int(part.get("replicas", 1)) * int(below.get("parallelism") or 1) * _per_pod(below, gpu)
    over = _true(_conditions(status), "Completed", "Failed")
    # It says nothing of when it was last resumed: its pods do.
    return Training(
        meta, kinds.JOBSETS, "JobSet", bool(spec.get("suspend")), over, None, gpus, QUEUE_LABEL in meta.labels
    )


def workload_of(found: Json, gpu: Collection[str], kept: Collection[str]) -> Training:
    """What is kept of a Kueue Workload."""
    meta, spec, status = meta_of(found, kept), found.get("spec") or {}, found.get("status") or {}
    conditions = _conditions(status)
    admitted = conditions.get("Admitted") or {}
    gpus = sum(int(one.get("count", 1)) * _per_pod(one, gpu) for one in spec.get("podSets") or ())
    return Training(
        meta,
        kinds.WORKLOADS,
        "Workload",
        not spec.get("active", True),
        _true(conditions, "Finished"),
        unix(admitted.get("lastTransitionTime")) if admitted.get("status") == "True" else None,
        gpus,
        queued=False,
    )


VOLCANO_HELD = frozenset({"Aborted", "Aborting"})
VOLCANO_OVER = frozenset({"Completed", "Completing", "Terminated", "Terminating", "Failed"})


def volcano_job_of(found: Json, gpu: Collection[str], kept: Collection[str]) -> Training:
    """What is kept of a Volcano Job."""
    meta, spec, status = meta_of(found, kept), found.get("spec") or {}, found.get("status") or {}
    state = status.get("state") or {}
    phase = str(state.get("phase", ""))
    gpus = sum(int(one.get("replicas", 1)) * _per_pod(one, gpu) for one in spec.get("tasks") or ())
    started = unix(state.get("lastTransitionTime")) if phase == "Running" else None
    return Training(
        meta,
        kinds.VOLCANO_JOBS,
        "VolcanoJob",
        phase in VOLCANO_HELD,
        phase in VOLCANO_OVER,
        started,
        gpus,
        queued=False,
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Pods that only make sense together, and what would be suspended to free them; None: each would be evicted."""

    key: str
    namespace: str
    training: Training | None
    pods: tuple[Pod, ...]
    above: tuple[Meta, ...]

    def said(self, name: str) -> str | None:
        """A label or annotation on what would be suspended, on what stands above the pods, or on every pod."""
        for meta in self.above:
            if (value := meta.annotations.get(name) or meta.labels.get(name)) is not None:
                return value
        values = {pod.meta.annotations.get(name) or pod.meta.labels.get(name) for pod in self.pods}
        return values.pop() if len(values) == 1 else None

    def checkpoint_at(self, names: Iterable[str]) -> float | None:
        """When it last saved its work: the latest of the annotations, Unix seconds or RFC 3339."""
        metas = (*self.above, *(pod.meta for pod in self.pods))
        times = [_time(meta.annotations.get(name)) for name in names for meta in metas]
        return max((at for at in times if at is not None), default=None)


def _time(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return unix(text)


def groups(pods: Iterable[Pod], training: Sequence[Training]) -> list[Group]:
    """Pods that hold GPUs, by the highest thing above them that can be suspended, in the order of keys.

    A pod belongs to its Job, the Job to its JobSet, either to the Kueue Workload made for it.
    """
    by_uid = {one.meta.uid: one for one in training if one.resource != kinds.WORKLOADS}
    workload_for = {one.meta.owner.uid: one for one in training if one.resource == kinds.WORKLOADS and one.meta.owner}
    members: dict[str, list[Pod]] = {}
    tops: dict[str, tuple[Training | None, tuple[Meta, ...], str]] = {}
    for pod in pods:
        above: list[Meta] = []
        top: Training | None = None
        owner = pod.meta.owner
        while owner is not None and (found := by_uid.get(owner.uid)) is not None and found.meta not in above:
            top, owner = found, found.meta.owner
            above.append(found.meta)
        uid = top.meta.uid if top is not None else (pod.meta.owner.uid if pod.meta.owner else pod.meta.uid)
        if (workload := workload_for.get(uid)) is not None:
            top = workload
            above.append(workload.meta)
        if top is not None:
            key = top.key
        elif pod.meta.owner is not None:
            key = f"{pod.meta.owner.kind}/{pod.meta.namespace}/{pod.meta.owner.name}"
        else:
            key = f"Pod/{pod.meta.namespace}/{pod.meta.name}"
        members.setdefault(key, []).append(pod)
        tops[key] = top, tuple(reversed(above)), pod.meta.namespace
    return [Group(key, tops[key][2], tops[key][0], tuple(members[key]), tops[key][1]) for key in sorted(members)]
