"""How actions on single pods are written: first the mark that says what is meant, then what it says.

A process that dies in between leaves the mark; whoever comes next reads it and goes on. Draining, sleeping and waking
are safe to repeat: an engine that sleeps may be told to sleep, one that is awake to wake.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from autoscaler.cluster import kinds
from autoscaler.cluster.api import ApiError
from autoscaler.cluster.engines import base
from autoscaler.cluster.objects import MANAGED
from autoscaler.cluster.pod_actions import Drain, LeaveFirst, PullImage, Sleep, TellSources, Undrain, Wake
from autoscaler.cluster.release import FIRST, standing_of
from autoscaler.cluster.returns import COST
from autoscaler.cluster.sight_types import ASLEEP, DRAINING, WOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.cluster.api import Api, Json, Resource
    from autoscaler.cluster.engines import Engines
    from autoscaler.cluster.objects import Pod

OnPod = Drain | Undrain | LeaveFirst | Sleep | Wake
SOURCES = "TIDEGATE_WEIGHTS_SOURCES"
DOMAINS = "TIDEGATE_WEIGHTS_SOURCE_DOMAINS"
NOBODY = 65534
"""User of a pulling job: it does nothing, so it needs to be nobody."""


class PodActuators:
    """Carries out what is done to pods, and ahead of them.

    Args:
        api: to write with. resource: a kind as it is served; raises ApiError when it is not.
        engines: who asks and tells engines; None where none can be told.
    """

    def __init__(self, api: Api, resource: Callable[[str], Resource], engines: Engines | None) -> None:
        self._api, self._resource, self.engines = api, resource, engines

    def drain(self, action: Drain, now: float, *, dry_run: bool) -> str:
        """Out of routing, with a note of since when, and of what the label said before."""
        pod, label = action.pod, action.how.route_label
        note = json.dumps({"at": now, "label": pod.meta.labels.get(label)})
        self._note(pod, {DRAINING: note}, {label: "false"}, dry_run=dry_run)
        return f"{label}=false"

    def undrain(self, action: Undrain, _now: float, *, dry_run: bool) -> str:
        """Back into routing, as before."""
        self._serve(action.pod, action.how.route_label, dry_run=dry_run)
        return "serves again"

    def leave_first(self, action: LeaveFirst, _now: float, *, dry_run: bool) -> str:
        """Below every other pod's deletion cost."""
        self._note(action.pod, {COST: str(FIRST)}, {}, dry_run=dry_run)
        return f"{COST}={FIRST}"

    def sleep(self, action: Sleep, now: float, *, dry_run: bool) -> str:
        """Mark it as going to sleep, and tell the engine; the mark says `asleep` once the engine does."""
        pod, how = action.pod, action.how
        engines, url = self._engines(), base(pod, how)
        if dry_run:
            return f"sleeping: {engines.sleeping(url)}"
        since = standing_of(pod).asleep_at or now
        self._stage(pod, since, "going")
        engines.tell(
            key(action), url, sleep=how.sleep_level, first=self._fence, then=lambda: self._stage(pod, since, "asleep")
        )
        return f"POST {url}/sleep?level={how.sleep_level}"

    def wake(self, action: Wake, now: float, *, dry_run: bool) -> str:
        """Mark it as waking, tell the engine, and let it serve once it is awake."""
        pod, how = action.pod, action.how
        engines, url = self._engines(), base(pod, how)
        if dry_run:
            return f"sleeping: {engines.sleeping(url)}"
        stands = standing_of(pod)
        asked = stands.waking_at if stands.stage == "waking" and stands.waking_at is not None else now
        self._stage(pod, stands.asleep_at or now, "waking", asked)

        def awake() -> None:
            woken = json.dumps({"asked": asked, "served": max(asked, engines.clock())})
            self._serve(pod, how.route_label, dry_run=False, woken=woken)

        engines.tell(key(action), url, sleep=None, first=self._fence, then=awake)
        return f"POST {url}/wake_up"

    def _engines(self) -> Engines:
        if self.engines is None:
            raise ApiError(404, "NotServed", "engines cannot be told anything from here")
        return self.engines

    def _fence(self) -> None:
        if self._api.fence is not None:
            self._api.fence()

    def _stage(self, pod: Pod, at: float, stage: str, waking: float | None = None) -> None:
        said = {"at": at, "stage": stage, **({} if waking is None else {"waking": waking})}
        self._note(pod, {ASLEEP: json.dumps(said)}, {}, dry_run=False)

    def _serve(self, pod: Pod, label: str, *, dry_run: bool, woken: str | None = None) -> None:
        before = standing_of(pod).label
        gone: dict[str, str | None] = {DRAINING: None, ASLEEP: None, COST: None}
        self._note(pod, gone if woken is None else {**gone, WOKEN: woken}, {label: before}, dry_run=dry_run)

    def _note(
        self, pod: Pod, annotations: dict[str, str | None], labels: dict[str, str | None], *, dry_run: bool
    ) -> None:
        """Write on this very pod; one that has gone, or been replaced by one of its name, needs nothing."""
        meta: Json = {"uid": pod.meta.uid, "annotations": annotations, **({"labels": labels} if labels else {})}
        try:
            self._api.patch(self._resource(kinds.PODS), *pod.meta.where, {"metadata": meta}, dry_run=dry_run)
        except ApiError as error:
            if not error.absent and not error.replaced:
                raise

    def pull(self, action: PullImage, _now: float, *, dry_run: bool) -> str:
        """A job of one pod on that node, which ends at once and is removed by itself."""
        own, space = action.settings, action.role.namespace
        labels = {MANAGED: "tidegate", "tidegate.dev/pull": "image"}
        body: Json = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": action.name, "namespace": space, "labels": labels},
            "spec": {
                "backoffLimit": 0,
                "activeDeadlineSeconds": round(own.longest_s),
                "ttlSecondsAfterFinished": round(own.again_s),
                "template": {"metadata": {"labels": labels}, "spec": _pulling(action)},
            },
        }
        try:
            self._api.create(self._resource(kinds.JOBS), space, body, dry_run=dry_run)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        return f"Job {action.name}"

    def tell_sources(self, action: TellSources, _now: float, *, dry_run: bool) -> str:
        """The ConfigMap that starting pods take as environment."""
        space, resource = action.role.namespace, self._resource(kinds.CONFIG_MAPS)
        data = {
            SOURCES: ",".join(address for address, _ in action.sources),
            DOMAINS: ",".join(domain for _, domain in action.sources),
        }
        meta: Json = {"name": action.name, "namespace": space, "labels": {MANAGED: "tidegate"}}
        body: Json = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
        try:
            self._api.patch(resource, space, action.name, body, dry_run=dry_run)
        except ApiError as error:
            if not error.absent:
                raise
            self._api.create(resource, space, body, dry_run=dry_run)
        return f"{SOURCES}={data[SOURCES]}"[:300]


def key(action: OnPod) -> str:
    """What telling an engine goes by: the same as the action's own key."""
    return f"{type(action).__name__}:{action.about}"


def _pulling(action: PullImage) -> Json:
    """A pod that is on that node, needs next to nothing there and ends at once; allowed where pods are restricted."""
    box: Json = {
        "name": "pull",
        "image": action.image,
        "command": ["/bin/true"],  # an image without it has been pulled all the same when that fails
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    field = {"key": "metadata.name", "operator": "In", "values": [action.node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "containers": [box],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
        "tolerations": [
            *action.settings.tolerations,
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        ],
        "imagePullSecrets": [{"name": name} for name in action.scalable.secrets],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
