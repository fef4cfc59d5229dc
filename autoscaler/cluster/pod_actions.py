"""Actions on single pods and ahead of them; values like those of `actions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.cluster.hand import Hand, short_id

if TYPE_CHECKING:
    from autoscaler.cluster.objects import Pod, Scalable
    from autoscaler.model import RoleKey
    from autoscaler.settings_cluster import PullSettings, ReleaseSettings


@dataclass(frozen=True, slots=True)
class Drain:
    """Take a pod out of routing, so that what runs there can finish."""

    role: RoleKey
    pod: Pod
    how: ReleaseSettings
    reason: str
    hand: Hand = Hand.RELEASE

    @property
    def about(self) -> str:
        """The pod."""
        return _pod(self.pod)

    @property
    def what(self) -> str:
        """In words."""
        return f"take out of routing, for at most {self.how.drain_s:g} s"


@dataclass(frozen=True, slots=True)
class Undrain:
    """Back into routing."""

    role: RoleKey
    pod: Pod
    how: ReleaseSettings
    reason: str
    hand: Hand = Hand.RELEASE

    @property
    def about(self) -> str:
        """The pod."""
        return _pod(self.pod)

    @property
    def what(self) -> str:
        """In words."""
        return "put back into routing"


@dataclass(frozen=True, slots=True)
class LeaveFirst:
    """Make a drained pod the first to be deleted."""

    role: RoleKey
    pod: Pod
    how: ReleaseSettings
    reason: str
    hand: Hand = Hand.RELEASE

    @property
    def about(self) -> str:
        """The pod."""
        return _pod(self.pod)

    @property
    def what(self) -> str:
        """In words."""
        return "make it the first to go"


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put a drained pod's engine to sleep: its weights leave the GPU, and waking is quicker than starting."""

    role: RoleKey
    pod: Pod
    how: ReleaseSettings
    reason: str
    hand: Hand = Hand.SLEEP

    @property
    def about(self) -> str:
        """The pod."""
        return _pod(self.pod)

    @property
    def what(self) -> str:
        """In words."""
        return f"put its engine to sleep at level {self.how.sleep_level}"


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake a pod's engine, and put it back into routing once it is awake."""

    role: RoleKey
    pod: Pod
    how: ReleaseSettings
    reason: str
    hand: Hand = Hand.SLEEP

    @property
    def about(self) -> str:
        """The pod."""
        return _pod(self.pod)

    @property
    def what(self) -> str:
        """In words."""
        return "wake its engine"


def _pod(pod: Pod) -> str:
    return f"Pod/{pod.meta.namespace}/{pod.meta.name}"


@dataclass(frozen=True, slots=True)
class PullImage:
    """Have a node pull a pool's image before any pod needs it, by a job that ends at once."""

    role: RoleKey
    scalable: Scalable
    image: str
    node: str
    settings: PullSettings
    reason: str
    hand: Hand = Hand.WEIGHTS

    @property
    def name(self) -> str:
        """The job's: the same for the same node and image, so that a pull repeated meets itself."""
        return f"tidegate-pull-{short_id(self.node, self.image)}"

    @property
    def about(self) -> str:
        """The job."""
        return f"Job/{self.role.namespace}/{self.name}"

    @property
    def what(self) -> str:
        """In words."""
        return f"pull {self.image} on {self.node}"


@dataclass(frozen=True, slots=True)
class TellSources:
    """Where a loader finds the weights in other pods' memory: a ConfigMap that starting pods take as environment."""

    role: RoleKey
    name: str
    sources: tuple[tuple[str, str], ...]
    reason: str
    hand: Hand = Hand.WEIGHTS

    @property
    def about(self) -> str:
        """The ConfigMap."""
        return f"ConfigMap/{self.role.namespace}/{self.name}"

    @property
    def what(self) -> str:
        """In words."""
        return f"name {len(self.sources)} pods as sources of weights"
