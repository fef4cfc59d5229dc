"""For every pool that may shrink: ask its engines, and plan who goes, who sleeps and who comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.cluster.intents import sets
from autoscaler.cluster.release import Asked, letting_go, standing_of
from autoscaler.cluster.sight_types import ASLEEP, DRAINING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from autoscaler.cluster.actions import Action
    from autoscaler.cluster.engines import EngineLook, Engines
    from autoscaler.cluster.objects import Pod
    from autoscaler.cluster.sight_types import PoolSight, Snapshot
    from autoscaler.model import Decision, RoleDecision, RoleKey
    from autoscaler.settings_cluster import ReleaseSettings


@dataclass(slots=True)
class Plan:
    """What letting go comes to now.

    Attributes:
        actions: to be done first. meanwhile: replicas to have until they are done, by role.
        resident: KV tokens that would be lost, by pod name. waiting: something is still to finish.
    """

    actions: list[Action] = field(default_factory=list)
    meanwhile: dict[RoleKey, int] = field(default_factory=dict)
    resident: dict[str, float] = field(default_factory=dict)
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class Sleepers:
    """A pool's replicas that hold GPUs and serve nothing, as their engines sleep.

    Attributes:
        asleep: those that can be woken. waking: on their way back. stuck: those that nobody here would wake, with
            `stuck_gpus`. ready: of all of these, as Kubernetes has it: an engine that sleeps answers its probes.
    """

    asleep: int = 0
    waking: int = 0
    stuck: int = 0
    stuck_gpus: int = 0
    ready: int = 0


def sleepers(pool: PoolSight, able: Callable[[Pod], bool]) -> Sleepers:
    """Count them. `able`: whether a pod's engine would be woken."""
    found = [(pod, standing_of(pod).stage) for pod in pool.living if ASLEEP in pod.meta.annotations]
    resting = [pod for pod, stage in found if stage and stage != "waking"]
    stuck = [pod for pod in resting if not able(pod)]
    return Sleepers(
        len(resting) - len(stuck),
        sum(stage == "waking" for _, stage in found),
        len(stuck),
        sum(pod.gpus for pod in stuck),
        sum(pod.ready for pod, stage in found if stage),
    )


def plan(
    decision: Decision,
    seen: Snapshot,
    settings: Collection[ReleaseSettings],
    engines: Engines | None,
    *,
    actuator: str,
    drains: Callable[[RoleKey], bool],
    sleeps: Callable[[RoleKey], bool],
    unable: Collection[str],
) -> Plan:
    """Plan it.

    Args:
        decision: the wishes.
        seen: the cluster.
        settings: how pools let go.
        engines: to ask; None where none can be asked.
        actuator: how replicas are set.
        drains: whether a role's pods may be drained.
        sleeps: whether its engines may be told to sleep and wake.
        unable: pods whose engines would not sleep or wake.
    """
    found = Plan()
    by_pool = {(one.namespace, one.pool): one for one in settings}
    for role in decision.roles:
        pool, how = seen.pools.get(role.key), by_pool.get((role.key.namespace, role.key.pool))
        if how is None or not _concerned(role, pool) or pool is None or role.desired is None:
            continue
        looks: Mapping[str, EngineLook] = {}
        if engines is not None:
            looks = engines.look([pod for pod in pool.living if ASLEEP not in pod.meta.annotations], how)
            found.resident |= {name: look.worth for name, look in looks.items() if look.worth is not None}
        marked = any(name in pod.meta.annotations for pod in pool.living for name in (DRAINING, ASLEEP))
        if not (how.drain_s or how.asleep or marked) or not drains(role.key) or not sets(pool, actuator):
            continue
        asked = Asked(role.desired, pool, how, looks, seen.at, sleeps(role.key), unable)
        letting = letting_go(asked)
        if letting is not None:
            found.actions += letting.actions
            found.meanwhile[role.key] = letting.replicas
            found.waiting = found.waiting or letting.waiting
    return found


def _concerned(role: RoleDecision, pool: PoolSight | None) -> bool:
    """Whether anybody is to go, is on the way, or sleeps; engines of a steady or growing pool are not asked."""
    if pool is None or pool.scalable is None or pool.held is not None or role.desired is None or role.blind is not None:
        return False
    marked = any(name in pod.meta.annotations for pod in pool.living for name in (DRAINING, ASLEEP))
    return marked or role.desired < len(pool.living)
