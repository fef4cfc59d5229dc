"""What is kept of a Kubernetes object: the few fields the snapshot needs. A pod of 8 kB JSON becomes some 700 bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from sys import intern
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from autoscaler.cluster.api import Json

DOMAIN = "tidegate.dev/"
"""Prefix of our own labels and annotations."""
ACCELERATOR = f"{DOMAIN}accelerator"
"""Annotation on nodes we ordered: their GPU type, as the settings call it."""
ORDERED_FOR = f"{DOMAIN}ordered-for"
"""Annotation on nodes we ordered: `namespace/pool/role` of whom they were ordered for."""
MANAGED = f"{DOMAIN}managed-by"
"""Label of what we made ourselves, and of the nodes that come of it: Karpenter hands a claim's labels on."""
KEPT_ANNOTATIONS = (
    DOMAIN,
    "kueue.x-k8s.io/",
    "volcano.sh/last-checkpoint",
    "controller.kubernetes.io/pod-deletion-cost",
)
"""Beginnings of the annotations that are kept; checkpoint annotations named in the settings are added."""


def unix(text: Any) -> float | None:
    """A metav1.Time or MicroTime in Unix seconds; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def whole(quantity: Any) -> int:
    """A count given as a quantity; 0 for what is none. GPUs are whole: "8", "8000m", 8."""
    text = str(quantity)
    if text.isdecimal():
        return int(text)
    if text.endswith("m") and text[:-1].isdecimal():
        return int(text[:-1]) // 1000
    if text.endswith("k") and text[:-1].isdecimal():
        return int(text[:-1]) * 1000
    return 0


def _labels(found: Json | None) -> dict[str, str]:
    return {intern(name): intern(str(value)) for name, value in (found or {}).items()}


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller of an object."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Meta:
    """What all objects have.

    `created`: Unix seconds. `deleting`: when a deleted object's grace ends; None while it is not deleted.
    """

    namespace: str
    name: str
    uid: str
    version: str
    labels: dict[str, str]
    annotations: dict[str, str]
    owner: Owner | None
    created: float | None
    deleting: float | None

    @property
    def where(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.namespace, self.name


def meta_of(found: Json, kept: Collection[str] = ()) -> Meta:
    """The metadata of any object; `kept` names further annotations to keep."""
    meta = found.get("metadata") or {}
    annotations = {
        intern(name): str(value)
        for name, value in (meta.get("annotations") or {}).items()
        if name.startswith(KEPT_ANNOTATIONS) or name in kept
    }
    owners = meta.get("ownerReferences") or ()
    owner = next((one for one in owners if one.get("controller")), owners[0] if owners else None)
    return Meta(
        namespace=intern(meta.get("namespace") or ""),
        name=meta.get("name") or "",
        uid=meta.get("uid") or "",
        version=meta.get("resourceVersion") or "",
        labels=_labels(meta.get("labels")),
        annotations=annotations,
        owner=Owner(
            intern(owner.get("apiVersion", "")), intern(owner.get("kind", "")), owner.get("name", ""), owner["uid"]
        )
        if owner
        else None,
        created=unix(meta.get("creationTimestamp")),
        deleting=unix(meta.get("deletionTimestamp")),
    )


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's place, size and times (Unix seconds; None: not yet).

    Attributes:
        gpus: what it requests. priority, priority_class: as admitted.
        node: where it is bound; "" while pending. phase: as Kubernetes says.
        scheduled, initialized, started, ready_at: when each step was done; the differences are lead times.
        ready: whether it serves now.
        unschedulable: the scheduler's words when it found no place.
        grace_s: how long it may take to end.
        image: of the first container. ip: where its engine answers.
    """

    meta: Meta
    gpus: int
    priority: int
    priority_class: str
    node: str
    phase: str
    scheduled: float | None
    initialized: float | None
    started: float | None
    ready_at: float | None
    ready: bool
    unschedulable: str | None
    grace_s: float
    image: str
    ip: str

    @property
    def over(self) -> bool:
        """Whether it has ended and holds nothing any more."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def holds(self) -> bool:
        """Whether it occupies its node's GPUs, terminating included."""
        return bool(self.node) and not self.over


def gpus_of(spec: Json, resources: Iterable[str]) -> int:
    """GPUs a pod spec asks for: its containers and sidecars together, or its largest init container if that is more."""

    def asked(box: Json) -> int:
        given = box.get("resources") or {}
        requests, limits = given.get("requests") or {}, given.get("limits") or {}
        return sum(whole(requests.get(name, limits.get(name, 0))) for name in names)

    names = tuple(resources)
    sidecars, largest = 0, 0
    for box in spec.get("initContainers") or ():
        if box.get("restartPolicy") == "Always":
            sidecars += asked(box)
        else:
            largest = max(largest, asked(box) + sidecars)
    return max(largest, sidecars + sum(asked(box) for box in spec.get("containers") or ()))


def pod_of(found: Json, resources: Collection[str], kept: Collection[str] = ()) -> Pod:
    """What is kept of a pod."""
    spec, status = found.get("spec") or {}, found.get("status") or {}
    conditions = {one.get("type"): one for one in status.get("conditions") or ()}

    def since(name: str) -> float | None:
        one = conditions.get(name) or {}
        return unix(one.get("lastTransitionTime")) if one.get("status") == "True" else None

    placed = conditions.get("PodScheduled") or {}
    running = [(box.get("state") or {}).get("running") or {} for box in status.get("containerStatuses") or ()]
    begun = [unix(one.get("startedAt")) for one in running]
    boxes: Sequence[Json] = spec.get("containers") or ({},)
    return Pod(
        meta=meta_of(found, kept),
        gpus=gpus_of(spec, resources),
        priority=int(spec.get("priority") or 0),
        priority_class=intern(spec.get("priorityClassName") or ""),
        node=intern(spec.get("nodeName") or ""),
        phase=intern(status.get("phase") or "Pending"),
        scheduled=since("PodScheduled"),
        initialized=since("Initialized"),
        started=max((at for at in begun if at is not None), default=None),
        ready_at=since("Ready"),
        ready=(conditions.get("Ready") or {}).get("status") == "True",
        unschedulable=intern(str(placed.get("message", ""))[:200])
        if placed.get("status") == "False" and placed.get("reason") == "Unschedulable"
        else None,
        grace_s=float(spec.get("terminationGracePeriodSeconds") or 30),
        image=intern(str(boxes[0].get("image", ""))),
        ip=status.get("podIP") or "",
    )


@dataclass(frozen=True, slots=True)
class Node:
    """A node's GPUs and place. `usable`: ready, not cordoned, not leaving, not tainted against everybody."""

    meta: Meta
    gpus: int
    ready: bool
    ready_at: float | None
    cordoned: bool
    taints: tuple[str, ...]
    images: tuple[str, ...]

    @property
    def usable(self) -> bool:
        """Whether new pods may be placed on it, as far as the node itself says."""
        return self.ready and not self.cordoned and self.meta.deleting is None and not LEAVING.intersection(self.taints)


LEAVING = frozenset(
    {
        "karpenter.sh/disrupted",
        "karpenter.sh/unregistered",
        "ToBeDeletedByClusterAutoscaler",
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/out-of-service",
        "node.cloudprovider.kubernetes.io/shutdown",
    }
)
"""Taints of nodes that are going away or not there; others (such as nvidia.com/gpu) are tolerated by GPU pods."""


def node_of(found: Json, resources: Iterable[str]) -> Node:
    """What is kept of a node."""
    spec, status = found.get("spec") or {}, found.get("status") or {}
    ready: Json = next((one for one in status.get("conditions") or () if one.get("type") == "Ready"), {})
    allocatable = status.get("allocatable") or {}
    names = [intern(name) for image in status.get("images") or () for name in image.get("names") or ()]
    return Node(
        meta=meta_of(found),
        gpus=sum(whole(allocatable.get(name, 0)) for name in resources),
        ready=ready.get("status") == "True",
        ready_at=unix(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
        cordoned=bool(spec.get("unschedulable")),
        taints=tuple(
            intern(one.get("key", "")) for one in spec.get("taints") or () if one.get("effect") != "PreferNoSchedule"
        ),
        images=tuple(names),
    )


@dataclass(frozen=True, slots=True)
class Scalable:
    """An object with replicas: what a pool's role is served by.

    Attributes:
        kind: Deployment, StatefulSet, LeaderWorkerSet, or whatever has /scale.
        wanted, existing, ready: spec and status replicas; None when not said.
        selector: labels its pods carry.
        images: of its pods' containers. secrets: names of its image pull secrets. first: its lowest pod's number.
    """

    meta: Meta
    kind: str
    wanted: int | None
    existing: int | None
    ready: int | None
    selector: dict[str, str] = field(default_factory=dict)
    images: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    first: int = 0


LWS_NAME = "leaderworkerset.sigs.k8s.io/name"
LWS_GROUP = "leaderworkerset.sigs.k8s.io/group-index"


def scalable_of(found: Json, kind: str) -> Scalable:
    """What is kept of a Deployment, StatefulSet or LeaderWorkerSet, or of another kind with the usual fields."""
    spec, status, meta = found.get("spec") or {}, found.get("status") or {}, meta_of(found)
    if kind == "LeaderWorkerSet":
        selector = {LWS_NAME: meta.name}
    else:
        given = spec.get("selector")
        selector = (
            _labels(given.get("matchLabels"))
            if isinstance(given, dict)
            else parse_selector(status.get("selector") or status.get("hpaPodSelector"))
        )
    seen = status.get("observedGeneration")
    behind = seen is not None and int(seen) < int((found.get("metadata") or {}).get("generation") or 0)
    existing = status.get("replicas", 0)
    ready = status.get("readyReplicas", None if kind not in READY_SAID else 0)
    return Scalable(
        meta,
        kind,
        int(spec.get("replicas", 1)) if spec.get("replicas", 1) is not None else None,
        None if behind and "replicas" not in status else int(existing),
        int(ready) if ready is not None else None,
        selector,
        *_pulled(spec),
        int((spec.get("ordinals") or {}).get("start") or 0),
    )


def _pulled(spec: Json) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Images of a workload's pods, and the secrets to pull them with."""
    group = spec.get("leaderWorkerTemplate") or {}
    below = (spec.get("template") or group.get("workerTemplate") or {}).get("spec") or {}
    boxes = (*(below.get("initContainers") or ()), *(below.get("containers") or ()))
    images = dict.fromkeys(intern(str(box["image"])) for box in boxes if box.get("image"))
    secrets = tuple(str(one["name"]) for one in below.get("imagePullSecrets") or () if one.get("name"))
    return tuple(images), secrets


READY_SAID = frozenset({"Deployment", "StatefulSet", "LeaderWorkerSet"})
"""Kinds that leave readyReplicas out when it is 0; of others nothing is known then."""


def parse_selector(text: Any) -> dict[str, str]:
    """The equalities of a selector in text form; anything else in it is left out."""
    found = {}
    for part in text.split(",") if isinstance(text, str) else ():
        name, sign, value = part.partition("=")
        if sign and not name.endswith("!"):
            found[intern(name.strip())] = intern(value.lstrip("=").strip())
    return found
