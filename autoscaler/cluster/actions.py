"""What can be done to a cluster, as values: each says on what, for whom, why, and in which tier's mode it falls.

Every action is idempotent: carried out twice it leaves the cluster as after once. Confirm and undo:

| action | confirmed when | undone by |
|---|---|---|
| SetReplicas, Clamp | the object says so | the same with the former count |
| Preempt | none of its pods holds a GPU | GiveBack |
| GiveBack | it is no longer suspended and carries no mark of ours | Preempt |
| Provision | its node takes pods | ReleaseNode |
| ReleaseNode | the claim is gone | Provision |
| LowerBuffer | the buffer says so | Provision |
| LoadWeights | the runtime says so | the same with the former count |
| MarkCosts, LeaveFirst | the pods say so | the next one, Undrain |
| Drain | the pod is out of routing | Undrain |
| Sleep | its engine says that it sleeps | Wake |
| PullImage | the job has ended | it is removed |
| TellSources | the ConfigMap says so | the next one |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.cluster.hand import Hand
from autoscaler.cluster.pod_actions import Drain, LeaveFirst, PullImage, Sleep, TellSources, Undrain, Wake

if TYPE_CHECKING:
    from autoscaler.cluster.sight_types import Claim, Follower, GangSight, TargetRef
    from autoscaler.cluster.training import Mark, Training
    from autoscaler.model import RoleKey
    from autoscaler.settings_cluster import BufferSettings, ProvisionSettings, WeightsSettings


@dataclass(frozen=True, slots=True)
class SetReplicas:
    """Set a target's replicas through /scale."""

    role: RoleKey
    target: TargetRef
    replicas: int
    before: int | None
    reason: str
    hand: Hand = Hand.REPLICAS

    @property
    def about(self) -> str:
        """The object, `Kind/namespace/name`."""
        return f"{self.target.kind}/{self.role.namespace}/{self.target.name}"

    @property
    def what(self) -> str:
        """In words."""
        return f"set replicas to {self.replicas} (from {'unknown' if self.before is None else self.before})"


@dataclass(frozen=True, slots=True)
class Clamp:
    """Set an HPA's or ScaledObject's bounds to the wish: obeyed at once, whatever its metrics and tolerance say."""

    role: RoleKey
    follower: Follower
    replicas: int
    reason: str
    hand: Hand = Hand.REPLICAS

    @property
    def about(self) -> str:
        """The object."""
        kind = "HorizontalPodAutoscaler" if self.follower.resource.startswith("horizontal") else "ScaledObject"
        return f"{kind}/{self.follower.meta.namespace}/{self.follower.meta.name}"

    @property
    def what(self) -> str:
        """In words."""
        return f"clamp to {self.replicas} (from {self.follower.low}..{self.follower.high})"


@dataclass(frozen=True, slots=True)
class Preempt:
    """Take a whole gang's GPUs, leaving a mark on it by which it is given back."""

    role: RoleKey
    gang: GangSight
    mark: Mark
    reason: str
    hand: Hand = Hand.PREEMPT

    @property
    def about(self) -> str:
        """The gang."""
        return self.gang.group.key

    @property
    def what(self) -> str:
        """In words."""
        return f"preempt {self.gang.gpus} GPUs for {self.role}"


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Let training run again; `resume` False only removes a mark that has become untrue."""

    role: RoleKey | None
    training: Training
    mark: Mark
    reason: str
    resume: bool = True
    hand: Hand = Hand.PREEMPT

    @property
    def about(self) -> str:
        """The training."""
        return self.training.key

    @property
    def what(self) -> str:
        """In words."""
        return f"give back {self.mark.gpus} GPUs" if self.resume else "remove an outdated mark"


@dataclass(frozen=True, slots=True)
class Provision:
    """Order nodes until `total` are on their way. `name`: the first free one, so that a repeated order meets itself."""

    role: RoleKey
    settings: ProvisionSettings
    name: str
    total: int
    reason: str
    hand: Hand = Hand.PROVISION

    @property
    def about(self) -> str:
        """What is ordered."""
        return f"Node/{self.settings.accelerator}/{self.name}"

    @property
    def what(self) -> str:
        """In words."""
        return f"order a node of {self.settings.node_gpus} GPUs by {self.settings.by.kind}: {self.total} on their way"


@dataclass(frozen=True, slots=True)
class ReleaseNode:
    """Return a node that we ordered and nobody uses."""

    claim: Claim
    reason: str
    role: RoleKey | None = None
    hand: Hand = Hand.PROVISION

    @property
    def about(self) -> str:
        """The claim."""
        return f"NodeClaim//{self.claim.meta.name}"

    @property
    def what(self) -> str:
        """In words."""
        return "return the node"


@dataclass(frozen=True, slots=True)
class LoadWeights:
    """Cache workers for weights where pods will start, and the load itself."""

    role: RoleKey
    settings: WeightsSettings
    workers: int
    before: int | None
    reason: str
    hand: Hand = Hand.WEIGHTS

    @property
    def about(self) -> str:
        """The dataset."""
        return f"Dataset/{self.settings.namespace}/{self.settings.dataset}"

    @property
    def what(self) -> str:
        """In words."""
        return f"{self.workers} cache workers (from {'unknown' if self.before is None else self.before})"


@dataclass(frozen=True, slots=True)
class MarkCosts:
    """Say which pods should go first: deletion costs below 0, by KV tokens that would be lost; None: none any more."""

    role: RoleKey
    costs: tuple[tuple[str, int | None], ...]
    reason: str
    hand: Hand = Hand.RELEASE

    @property
    def about(self) -> str:
        """The pods."""
        return f"Pods/{self.role}"

    @property
    def what(self) -> str:
        """In words."""
        return f"deletion costs of {len(self.costs)} pods"


@dataclass(frozen=True, slots=True)
class LowerBuffer:
    """Take back a CapacityBuffer once its nodes are there and in use: left alone it would order as many again."""

    accelerator: str
    buffer: BufferSettings
    before: int
    reason: str
    role: RoleKey | None = None
    hand: Hand = Hand.PROVISION

    @property
    def about(self) -> str:
        """The buffer."""
        return f"CapacityBuffer/{self.buffer.namespace}/{self.buffer.name}"

    @property
    def what(self) -> str:
        """In words."""
        return f"set replicas to 0 (from {self.before})"


Action = (
    SetReplicas
    | Clamp
    | Preempt
    | GiveBack
    | Provision
    | ReleaseNode
    | LowerBuffer
    | LoadWeights
    | MarkCosts
    | Drain
    | Undrain
    | LeaveFirst
    | Sleep
    | Wake
    | PullImage
    | TellSources
)


def key_of(action: Action) -> str:
    """What must not be done twice at once: the kind of action and its object."""
    return f"{type(action).__name__}:{action.about}"
