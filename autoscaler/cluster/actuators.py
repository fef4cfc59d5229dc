"""How each action is written to the API. Each either has its whole effect in one request or leaves a mark first.

A mark and the suspension it explains are one patch, so a crash leaves either both or neither. Where that cannot be
(Volcano's command, evictions) the mark is written first, and whoever comes next finishes what it says.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autoscaler.cluster import kinds
from autoscaler.cluster.actions import (
    Action,
    Clamp,
    GiveBack,
    LoadWeights,
    LowerBuffer,
    MarkCosts,
    Preempt,
    Provision,
    ReleaseNode,
    SetReplicas,
)
from autoscaler.cluster.api import ApiError
from autoscaler.cluster.hand import short_id
from autoscaler.cluster.pod_actions import Drain, LeaveFirst, PullImage, Sleep, TellSources, Undrain, Wake
from autoscaler.cluster.pod_actuators import PodActuators
from autoscaler.cluster.provisioners import order
from autoscaler.cluster.returns import COST
from autoscaler.cluster.training import PREEMPTED, Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import urllib3

    from autoscaler.cluster.api import Api, Json, Resource
    from autoscaler.cluster.engines import Engines
    from autoscaler.cluster.training import Training

TRIES = 5
"""Fresh reads after a conflict, before the next tick tries again."""
GIVEN_BACK = "tidegate.dev/given-back"
LAST_MARK = "tidegate.dev/last-preempted"
HELD = {
    kinds.JOBS: (("spec", "suspend"), True),
    kinds.JOBSETS: (("spec", "suspend"), True),
    kinds.WORKLOADS: (("spec", "active"), False),
}
"""Where suspension stands, and which value it is."""


class Changed(ApiError):  # noqa: N818 - named as it is said
    """What was to be changed is no longer as it was seen; the next snapshot will say what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(409, "Changed", message)


class Actuators:
    """Carries actions out.

    Args:
        api: to write with. served: the kinds this server serves, by key.
        holder: who we are, for marks and labels. http: for webhooks.
        engines: who asks and tells engines; None where none can be told.
    """

    def __init__(
        self,
        api: Api,
        served: Callable[[], Mapping[str, Resource]],
        holder: str,
        http: urllib3.PoolManager,
        engines: Engines | None = None,
    ) -> None:
        self._api, self._served, self._holder, self._http = api, served, holder, http
        self.engines = engines
        pods = PodActuators(api, self._resource, engines)
        self._how: dict[type, Callable[..., str]] = {
            SetReplicas: self._scale,
            Clamp: self._clamp,
            Preempt: self._preempt,
            GiveBack: self._give_back,
            Provision: self._provision,
            ReleaseNode: self._release,
            LowerBuffer: self._lower,
            LoadWeights: self._load,
            MarkCosts: self._mark_costs,
            Drain: pods.drain,
            Undrain: pods.undrain,
            LeaveFirst: pods.leave_first,
            Sleep: pods.sleep,
            Wake: pods.wake,
            PullImage: pods.pull,
            TellSources: pods.tell_sources,
        }

    def do(self, action: Action, *, now: float, dry_run: bool = False) -> str:
        """Carry it out; says what was done. Raises ApiError; Changed when it no longer applies."""
        return self._how[type(action)](action, now, dry_run=dry_run)

    def _provision(self, action: Provision, _now: float, *, dry_run: bool) -> str:
        return order(self._api, self._resource, self._http, action, dry_run=dry_run)

    def _release(self, action: ReleaseNode, _now: float, *, dry_run: bool) -> str:
        meta = action.claim.meta
        self._api.delete(self._resource(kinds.NODE_CLAIMS), "", meta.name, meta.uid, dry_run=dry_run)
        return "claim deleted"

    def _lower(self, action: LowerBuffer, _now: float, *, dry_run: bool) -> str:
        where = action.buffer.namespace, action.buffer.name
        self._api.patch(self._resource(kinds.BUFFERS), *where, {"spec": {"replicas": 0}}, dry_run=dry_run)
        return f"CapacityBuffer {action.buffer.name} replicas 0"

    def _resource(self, key: str) -> Resource:
        found = self._served().get(key)
        if found is None:
            raise ApiError(404, "NotServed", f"this cluster does not serve {key}")
        return found

    def _scale(self, action: SetReplicas, _now: float, *, dry_run: bool) -> str:
        resource, where = self._resource(action.target.resource), (action.role.namespace, action.target.name)
        body: Json = {"spec": {"replicas": action.replicas}}
        self._api.patch(resource, *where, body, subresource="scale", dry_run=dry_run)
        return f"replicas {action.replicas}"

    def _clamp(self, action: Clamp, _now: float, *, dry_run: bool) -> str:
        follower = action.follower
        hpa = follower.resource == kinds.HPAS
        low = max(action.replicas, 1) if hpa else action.replicas
        names = ("minReplicas", "maxReplicas") if hpa else ("minReplicaCount", "maxReplicaCount")
        body: Json = {"spec": {names[0]: low, names[1]: max(low, 1)}}
        self._api.patch(self._resource(follower.resource), *follower.meta.where, body, dry_run=dry_run)
        return f"bounds {low}..{max(low, 1)}"

    def _preempt(self, action: Preempt, _now: float, *, dry_run: bool) -> str:
        training, text = action.gang.group.training, action.mark.text()
        if training is None:
            return self._evict(action, text, dry_run=dry_run)
        if training.resource == kinds.VOLCANO_JOBS:
            self._annotate(training, {PREEMPTED: text}, dry_run=dry_run)
            self._command(training, "AbortJob", action.mark.action, dry_run=dry_run)
            return "abort commanded"
        path, held = HELD[training.resource]
        body = {"metadata": {"annotations": {PREEMPTED: text}}, path[0]: {path[1]: held}}

        def still(found: Json) -> str | None:
            if (found.get(path[0]) or {}).get(path[1], not held) == held:
                return "it is suspended already"
            other = Mark.read((found["metadata"].get("annotations") or {}).get(PREEMPTED))
            return (
                f"another process (token {other.token}) took it" if other and other.token > action.mark.token else None
            )

        self._patch_if(training, body, still, dry_run=dry_run)
        return f"{'.'.join(path)}={str(held).lower()}"

    def _give_back(self, action: GiveBack, now: float, *, dry_run: bool) -> str:
        training = action.training
        annotations: dict[str, str | None] = {PREEMPTED: None}
        if not action.resume:
            self._annotate(training, annotations, dry_run=dry_run)
            return "mark removed"
        annotations |= {GIVEN_BACK: f"{now:.0f}", LAST_MARK: action.mark.text()}
        if training.resource == kinds.VOLCANO_JOBS:
            # The command first: a mark without its training suspended is finished or cleared, never the reverse.
            self._command(training, "ResumeJob", f"{action.mark.action}-back", dry_run=dry_run)
            self._annotate(training, annotations, dry_run=dry_run)
            return "resume commanded"
        path, held = HELD[training.resource]
        body: Json = {"metadata": {"annotations": annotations}, path[0]: {path[1]: not held}}

        def still(found: Json) -> str | None:
            mark = Mark.read((found["metadata"].get("annotations") or {}).get(PREEMPTED))
            return None if mark and mark.action == action.mark.action else "it no longer carries our mark"

        self._patch_if(training, body, still, dry_run=dry_run)
        return f"{'.'.join(path)}={str(not held).lower()}"

    def _patch_if(self, training: Training, body: Json, still: Callable[[Json], str | None], *, dry_run: bool) -> None:
        """Patch the version that was looked at, and look again after a conflict."""
        resource, where = self._resource(training.resource), training.meta.where
        for attempt in range(TRIES):
            found = self._api.get(resource, *where)
            if found["metadata"]["uid"] != training.meta.uid:
                raise Changed("another object has taken its name")
            if (why := still(found)) is not None:
                raise Changed(why)
            pinned = {**body, "metadata": {**body["metadata"], "resourceVersion": found["metadata"]["resourceVersion"]}}
            try:
                self._api.patch(resource, *where, pinned, dry_run=dry_run)
            except ApiError as error:
                if not error.conflict or attempt == TRIES - 1:
                    raise
            else:
                return

    def _annotate(self, training: Training, annotations: Mapping[str, str | None], *, dry_run: bool) -> None:
        body: Json = {"metadata": {"uid": training.meta.uid, "annotations": dict(annotations)}}
        try:
            self._api.patch(self._resource(training.resource), *training.meta.where, body, dry_run=dry_run)
        except ApiError as error:
            if not error.replaced:
                raise
            raise Changed("another object has taken its name") from None

    def _command(self, training: Training, what: str, name: str, *, dry_run: bool) -> None:
        owner: Json = {
            "apiVersion": "batch.volcano.sh/v1alpha1",
            "kind": "Job",
            "name": training.meta.name,
            "uid": training.meta.uid,
            "controller": True,
        }
        body: Json = {
            "apiVersion": "bus.volcano.sh/v1alpha1",
            "kind": "Command",
            "metadata": {"name": name, "namespace": training.meta.namespace, "ownerReferences": [owner]},
            "action": what,
            "target": owner,
        }
        self._create(kinds.COMMANDS, training.meta.namespace, body, dry_run=dry_run)

    def _create(self, key: str, namespace: str, body: Json, *, dry_run: bool) -> None:
        """Create it, or find it created: names are made from what is asked for."""
        try:
            self._api.create(self._resource(key), namespace, body, dry_run=dry_run)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    def _evict(self, action: Preempt, text: str, *, dry_run: bool) -> str:
        """Mark every pod first, then evict them one by one; one that its budget keeps stops the rest for now."""
        pods = self._resource(kinds.PODS)
        staying = [pod for pod in action.gang.group.pods if pod.meta.deleting is None]
        for pod in staying:
            if Mark.read(pod.meta.annotations.get(PREEMPTED)) is None:
                body: Json = {"metadata": {"uid": pod.meta.uid, "annotations": {PREEMPTED: text}}}
                with _unless_gone():
                    self._api.patch(pods, *pod.meta.where, body, dry_run=dry_run)
        for pod in staying:
            with _unless_gone():
                self._api.evict(pods, *pod.meta.where, pod.meta.uid, dry_run=dry_run)
        return f"{len(staying)} pods evicted"

    def _load(self, action: LoadWeights, _now: float, *, dry_run: bool) -> str:
        one = action.settings
        runtime = self._resource(kinds.RUNTIMES[one.runtime])
        self._api.patch(runtime, one.namespace, one.dataset, {"spec": {"replicas": action.workers}}, dry_run=dry_run)
        if action.before is not None and action.workers <= action.before:
            return f"{action.workers} workers"
        name = f"{one.dataset[:40]}-tidegate-{short_id(one.dataset, action.workers, action.before)}"
        body: Json = {
            "apiVersion": "data.fluid.io/v1alpha1",
            "kind": "DataLoad",
            "metadata": {"name": name, "namespace": one.namespace, "labels": {"tidegate.dev/managed-by": "tidegate"}},
            "spec": {
                "dataset": {"name": one.dataset, "namespace": one.namespace},
                "loadMetadata": True,
                "target": [{"path": "/", "replicas": action.workers}],
                "ttlSecondsAfterFinished": 3600,
            },
        }
        self._create(kinds.DATALOADS, one.namespace, body, dry_run=dry_run)
        return f"{action.workers} workers, loading by {name}"

    def _mark_costs(self, action: MarkCosts, _now: float, *, dry_run: bool) -> str:
        pods = self._resource(kinds.PODS)
        for name, cost in action.costs:
            body: Json = {"metadata": {"annotations": {COST: str(cost) if cost is not None else None}}}
            with _unless_gone():
                self._api.patch(pods, action.role.namespace, name, body, dry_run=dry_run)
        return json.dumps(dict(action.costs))[:300]


@contextmanager
def _unless_gone() -> Iterator[None]:
    """A pod that has gone, or been replaced by another of its name, needs nothing more."""
    try:
        yield
    except ApiError as error:
        if not error.absent and not error.replaced:
            raise
