"""The nouns of a frozen view of the cluster: rules of looking, pools, training, nodes, and all of it together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.cluster.objects import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autoscaler.cluster.objects import Meta, Node, Pod, Scalable
    from autoscaler.cluster.training import Group, Mark, Training
    from autoscaler.model import RoleKey, Stock
    from autoscaler.supply import Supply

HOLD = f"{DOMAIN}hold"
"""Kill switch: on Tidegate's own namespace it holds everything, on another what is in it, on a target that pool."""
POOL, ROLE = f"{DOMAIN}pool", f"{DOMAIN}role"
"""Annotations by which an object says that it is the target of a configured pool's role."""
DRAINING, ASLEEP = f"{DOMAIN}draining", f"{DOMAIN}asleep"
"""Annotations on pods that are out of routing, and on those whose engine sleeps: JSON with Unix seconds `at`."""
WOKEN = f"{DOMAIN}woken"
"""Annotation on pods whose engine has slept: JSON of when it was last told to (`asked`) and awake (`served`)."""
GIVEN_BACK = f"{DOMAIN}given-back"
"""Annotation on training that we gave back: Unix seconds."""


@dataclass(frozen=True, slots=True)
class TargetRef:
    """The object a role is scaled by: its kind's key and name, in the pool's namespace."""

    resource: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class PoolRole:
    """What is configured of one role, as far as the cluster matters."""

    key: RoleKey
    accelerator: str
    gpus: int
    target: TargetRef | None = None


@dataclass(frozen=True, slots=True)
class SightRules:
    """How to read the cluster.

    Attributes:
        roles: the configured roles. namespace: our own.
        gpu_resources, accelerator_labels, topology, checkpoints: names, as in the settings.
        canonical: an accelerator label's value to the name used in the settings.
        trusted: namespaces whose training needs no label. below_priority, min_runtime_s, cooldown_s: what is spared.
        evict: whether pods that nothing can suspend may be taken.
        soon_s: GPUs whose pods end within so long count as free.
    """

    roles: tuple[PoolRole, ...]
    namespace: str = "tidegate-system"
    gpu_resources: tuple[str, ...] = ("nvidia.com/gpu",)
    accelerator_labels: tuple[str, ...] = ("nvidia.com/gpu.product",)
    topology: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    canonical: Callable[[str], str] = str.lower
    trusted: frozenset[str] = frozenset()
    below_priority: int = 0
    min_runtime_s: float = 300.0
    cooldown_s: float = 900.0
    evict: bool = False
    soon_s: float = 115.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A NodeClaim. `stage`: the last of Launched, Registered, Initialized that is true, else Requested."""

    meta: Meta
    ready: bool
    stage: str
    node: str
    gpus: int


@dataclass(frozen=True, slots=True)
class WeightsSight:
    """A Fluid dataset's cache: workers asked for, its phase, and how much of it is cached (0..1; None: not said)."""

    workers: int
    phase: str = ""
    cached: float | None = None


@dataclass(frozen=True, slots=True)
class Follower:
    """An HPA or ScaledObject: it owns its target's replicas."""

    meta: Meta
    resource: str
    target_kind: str
    target_name: str
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class Cached:
    """What the caches hold, as they are handed over."""

    pods: Mapping[tuple[str, str], Pod]
    nodes: Mapping[tuple[str, str], Node]
    namespaces: Mapping[tuple[str, str], Meta] = field(default_factory=dict)
    scalables: Sequence[tuple[str, Scalable]] = ()
    training: Sequence[Training] = ()
    followers: Sequence[Follower] = ()
    claims: Sequence[Claim] = ()


@dataclass(frozen=True, slots=True)
class PoolSight:
    """One role's object and pods.

    Attributes:
        target: where its replicas are set; None when it was neither configured nor annotated. scalable: that object.
        pods: its own, terminating ones included. owner: the HPA or ScaledObject that owns its replicas.
        waiting: pods without a place; unschedulable: the scheduler's words about one of them.
        held: why nothing may be done to it; None when it may.
    """

    key: RoleKey
    accelerator: str
    target: TargetRef | None
    scalable: Scalable | None
    pods: tuple[Pod, ...]
    owner: Follower | None
    held: str | None

    @property
    def living(self) -> tuple[Pod, ...]:
        """Pods that are neither over nor terminating."""
        return tuple(pod for pod in self.pods if not pod.over and pod.meta.deleting is None)

    @property
    def waiting(self) -> tuple[Pod, ...]:
        """Living pods that have no node yet."""
        return tuple(pod for pod in self.living if not pod.node)

    @property
    def unschedulable(self) -> str | None:
        """What the scheduler says of a pod it found no place for."""
        return next((pod.unschedulable for pod in self.waiting if pod.unschedulable), None)


@dataclass(frozen=True, slots=True)
class GangSight:
    """A group of training pods, what it holds, and why it may not be taken (None: it may)."""

    group: Group
    accelerator: str
    gpus: int
    terminating: int
    priority: int
    started_at: float | None
    checkpoint_at: float | None
    refused: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at one moment.

    Attributes:
        at: Unix seconds. pools: by role. gangs: training that holds GPUs. lent: training that we suspended.
        supply, stocks: the same for the tick. nodes: by name. claims: nodes ordered, there or not.
        held: why nothing at all may be done. missing: what cannot be read, by kind, and why.
        lost_s: for how long pods or nodes have not been followed; 0 when they are.
        by_node: GPUs that the pools hold or could have, by accelerator and node. busy: nodes where somebody has GPUs.
        shard: which part of the cluster this is. ordered: nodes ordered so far by each shard, by accelerator; without
            an entry there is one shard.
    """

    at: float
    pools: Mapping[RoleKey, PoolSight]
    gangs: tuple[GangSight, ...]
    lent: tuple[tuple[Training, Mark], ...]
    training: tuple[Training, ...]
    supply: Supply
    stocks: tuple[Stock, ...]
    nodes: Mapping[str, Node]
    claims: tuple[Claim, ...]
    held: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    lost_s: float = 0.0
    by_node: Mapping[tuple[str, str], int] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    shard: int = 0
    ordered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def stock(self, accelerator: str) -> Stock | None:
        """The stock of one accelerator type; None when there is none in the cluster."""
        return next((one for one in self.stocks if one.accelerator == accelerator), None)
