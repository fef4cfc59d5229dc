"""How long pods took to come up, step by step, as their own conditions say: the cluster's word for learned lead times.

    created -> scheduled -> container started -> ready
      node or schedule     image                engine (weights are within it)

A pod whose node is younger than itself came by a new node. Only starts of the last hour are told: readiness that came
and went later would look like a slow start. An engine that was woken says so on its pod.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoscaler.cluster.release import woken_of
from autoscaler.model import Start, Step, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.cluster.objects import Node, Pod
    from autoscaler.cluster.sight_types import Snapshot
    from autoscaler.model import RoleKey

LOOK_BACK_S = 3600.0


def starts(seen: Snapshot) -> Mapping[RoleKey, tuple[Start, ...]]:
    """Starts of the last hour by role, in the order in which they served."""
    found = {}
    for key, pool in seen.pools.items():
        begun = [
            (pod.meta.created, pod)
            for pod in pool.pods
            if pod.meta.created is not None and seen.at - pod.meta.created <= LOOK_BACK_S
        ]
        over = [
            Start(one.name, one.tier, one.asked_at, one.served_at, one.steps, together(one.asked_at, begun))
            for _, pod in begun
            if (one := start_of(pod, seen.nodes.get(pod.node))) is not None
        ]
        over += [one for pod in pool.pods if (one := wake_of(pod, seen.at)) is not None]
        if over:
            found[key] = tuple(sorted(over, key=lambda one: (one.served_at, one.name)))
    return found


def wake_of(pod: Pod, now: float) -> Start | None:
    """A pod's last waking, as a start of one step; None where it never slept, or long ago."""
    woken = woken_of(pod)
    if woken is None or now - woken[1] > LOOK_BACK_S:
        return None
    asked, served = woken
    name = f"{pod.meta.namespace}/{pod.meta.name}/woken-{asked:.0f}"
    return Start(name, Tier.WAKE, asked, served, ((Step.WAKE, served - asked),))


def together(asked_at: float, begun: list[tuple[float, Pod]]) -> int:
    """Starts of a role under way when one was asked for, itself included; those not ready yet are."""
    return sum(at <= asked_at and (pod.ready_at is None or pod.ready_at > asked_at) for at, pod in begun) or 1


def start_of(pod: Pod, node: Node | None) -> Start | None:
    """One pod's start; None while it is not ready, or where its times contradict one another."""
    created, ready = pod.meta.created, pod.ready_at
    if created is None or ready is None or not pod.ready or ready < created:
        return None
    made = node.meta.created if node is not None else None
    fresh = made is not None and made >= created
    steps: list[tuple[Step, float]] = []
    before = created
    marks = ((Step.NODE if fresh else Step.SCHEDULE, pod.scheduled), (Step.IMAGE, pod.started), (Step.ENGINE, ready))
    for step, at in marks:
        if at is not None and before <= at <= ready:
            steps.append((step, at - before))
            before = at
    name = f"{pod.meta.namespace}/{pod.meta.name}"
    return Start(name, Tier.PROVISION if fresh else Tier.START, created, ready, tuple(steps))
