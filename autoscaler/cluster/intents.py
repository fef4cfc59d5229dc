"""From a decision and a snapshot to what should be done now. Pure, and by levels rather than by edges.

Nothing here depends on what was done a moment ago except through what the snapshot shows and what is still `expected`:
asked again with the same cluster it answers the same, and after a crash it goes on where the cluster stands.

GPUs of one accelerator type:
    missing = sum over roles of (wished replicas x GPUs - GPUs of its living pods that have a node), at least 0 each
    deficit = missing - free - those of training that is leaving
Training is taken for a deficit that the plan meant to cover by preemption, or that pods wait for unschedulable. Nodes
on their way do not count against it: preempted GPUs are the bridge until they land.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.cluster import kinds
from autoscaler.cluster.actions import Action, Clamp, Preempt, SetReplicas
from autoscaler.cluster.hand import short_id
from autoscaler.cluster.training import Mark
from autoscaler.cluster.victims import chosen
from autoscaler.model import Role, RoleKey, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autoscaler.cluster.sight_types import GangSight, PoolRole, PoolSight, SightRules, Snapshot
    from autoscaler.model import Decision, RoleDecision

WAITED_S = 20.0
"""Pods unschedulable for so long are a deficit even if no plan said so: somebody else took their GPUs."""
FRESH_S = 30.0
"""A mark younger than this on training that does not look suspended is not yet stale: caches lag."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one accelerator type stands, in GPUs, and what the plan owes it.

    Attributes:
        missing: of wished replicas without a place. free: to be had now or within moments, beyond what pools hold.
        leaving: of training that is suspended and still holds them. coming: of ordered nodes.
        stuck: pods wait unschedulable. owed: what the plan meant to take, by tier.
    """

    accelerator: str
    missing: int = 0
    free: int = 0
    leaving: int = 0
    coming: int = 0
    stuck: bool = False
    owed: Mapping[Tier, int] = field(default_factory=dict)

    @property
    def deficit(self) -> int:
        """GPUs that nothing on its way from training covers."""
        return max(0, self.missing - self.free - self.leaving)


@dataclass(frozen=True, slots=True)
class Expected:
    """What was done and is not visible yet: gangs told to go, nodes by accelerator; and gangs to be spared."""

    gangs: frozenset[str] = frozenset()
    nodes: Mapping[str, int] = field(default_factory=dict)
    spared: frozenset[str] = frozenset()


def standings(
    decision: Decision,
    seen: Snapshot,
    rules: SightRules,
    owed: Mapping[str, Mapping[Tier, int]],
    expected: Expected,
    node_gpus: Mapping[str, int],
) -> dict[str, Standing]:
    """How each accelerator type stands.

    Args:
        decision: the wishes.
        seen: the cluster.
        rules: whose replicas have how many GPUs.
        owed: what plans meant to take and is not there yet, in GPUs by accelerator and tier.
        expected: what was done and is not visible yet.
        node_gpus: GPUs of an ordered node, by accelerator.
    """
    wishes = {role.key: role.desired for role in decision.roles}
    missing: dict[str, int] = {}
    serving: dict[str, int] = {}
    stuck: set[str] = set()
    for role in rules.roles:
        pool, wish = seen.pools[role.key], _wished(role.key, wishes, seen)
        placed = sum(pod.gpus for pod in pool.living if pod.node)
        serving[role.accelerator] = serving.get(role.accelerator, 0) + placed
        if wish is None or pool.held is not None or pool.scalable is None:
            continue
        lacking = max(0, wish * role.gpus - placed)
        missing[role.accelerator] = missing.get(role.accelerator, 0) + lacking
        if lacking and any(_stuck(pod.meta.created, seen.at) for pod in pool.waiting if pod.unschedulable):
            stuck.add(role.accelerator)
    found = {}
    for accelerator, placed in serving.items():
        stock = seen.stock(accelerator)
        free = (stock.free or 0) - placed if stock else 0
        here = expected.nodes.get(accelerator, 0) * node_gpus.get(accelerator, 0)
        coming = sum(one.gpus for one in seen.supply.coming if one.accelerator == accelerator)
        found[accelerator] = Standing(
            accelerator,
            missing.get(accelerator, 0),
            max(0, free),
            sum(_leaving(gang, seen, rules, expected) for gang in seen.gangs if gang.accelerator == accelerator),
            coming + here,
            accelerator in stuck,
            owed.get(accelerator, {}),
        )
    return found


def _wished(key: RoleKey, wishes: Mapping[RoleKey, int | None], seen: Snapshot) -> int | None:
    """Replicas wished for; what the object says while there is no decision, so that its GPUs are not lent out."""
    scalable = seen.pools[key].scalable
    wish = wishes.get(key)
    return wish if wish is not None else scalable.wanted if scalable is not None else None


def _stuck(created: float | None, now: float) -> bool:
    return created is not None and now - created >= WAITED_S


def _leaving(gang: GangSight, seen: Snapshot, rules: SightRules, expected: Expected) -> int:
    """GPUs of a gang that was told to go and are not counted as free yet."""
    training = gang.group.training
    told = gang.group.key in expected.gangs or (training is not None and training.suspended) or begun(gang) is not None
    if not told:
        return 0
    return sum(
        pod.gpus for pod in gang.group.pods if pod.meta.deleting is None or pod.meta.deleting - seen.at > rules.soon_s
    )


def begun(gang: GangSight) -> Mark | None:
    """The mark of an eviction of this gang that was begun: on any of its pods; None when there is none."""
    marks = (Mark.read(pod.meta.annotations.get("tidegate.dev/preempted")) for pod in gang.group.pods)
    return next((mark for mark in marks if mark is not None), None)


def replicas(
    decision: Decision, seen: Snapshot, how: str, meanwhile: Mapping[RoleKey, int] | None = None
) -> Iterator[Action]:
    """Replicas to set: growth decode first, shrinkage prefill first, so that decode is never flooded.

    Args:
        decision: the wishes.
        seen: the cluster.
        how: the actuator.
        meanwhile: replicas to have while some leave or sleep, where that is not the wish.
    """
    wished = [
        (role, pool)
        for role in decision.roles
        if role.desired is not None
        and role.blind is None
        and (pool := seen.pools.get(role.key)) is not None
        and pool.held is None
    ]
    wished.sort(key=lambda pair: _first(*pair))
    for role, pool in wished:
        wish = (meanwhile or {}).get(role.key, role.desired)
        action = _set(role, pool, how, wish)
        if action is not None:
            yield action


def _first(role: RoleDecision, pool: PoolSight) -> tuple[int, str]:
    now = pool.scalable.wanted if pool.scalable else None
    grows = now is None or (role.desired or 0) >= now
    order = (Role.DECODE, Role.COLOCATED, Role.PREFILL) if grows else (Role.PREFILL, Role.COLOCATED, Role.DECODE)
    return order.index(role.key.role) + (0 if grows else len(order)), str(role.key)


def sets(pool: PoolSight, how: str) -> bool:
    """Whether its replicas are set from here."""
    owned = pool.owner is not None
    return pool.target is not None and pool.scalable is not None and how == ("clamp" if owned else "scale")


def _set(role: RoleDecision, pool: PoolSight, how: str, wish: int | None) -> Action | None:
    owner = pool.owner
    if wish is None or pool.target is None or pool.scalable is None:
        return None
    if how == "clamp" and owner is not None:
        low = max(wish, 1) if owner.resource == kinds.HPAS else wish  # an HPA's minReplicas is at least 1
        high = max(low, 1)
        return None if (owner.low, owner.high) == (low, high) else Clamp(role.key, owner, wish, role.sentence)
    if how == "scale" and owner is None and pool.scalable.wanted != wish:
        return SetReplicas(role.key, pool.target, wish, pool.scalable.wanted, role.sentence)
    return None


def owned_by_others(seen: Snapshot) -> Iterator[tuple[RoleKey, str]]:
    """Roles whose replicas /scale must not set, and why."""
    for key, pool in seen.pools.items():
        if pool.owner is not None:
            kind = "HPA" if pool.owner.resource == kinds.HPAS else "ScaledObject"
            yield key, f"{kind} {pool.owner.meta.name} owns its replicas; /scale would fight it"


def preemptions(
    found: Mapping[str, Standing], decision: Decision, seen: Snapshot, rules: SightRules, expected: Expected, token: int
) -> Iterator[Action]:
    """Gangs to take now, those whose taking was begun first."""
    for gang in seen.gangs:
        mark = begun(gang) or (gang.group.training.mark if gang.group.training else None)
        if (
            mark is not None
            and not (gang.group.training and gang.group.training.suspended)
            and _unfinished(gang, mark, seen)
        ):
            yield Preempt(RoleKey.parse(mark.role), gang, mark, "finishing a preemption that was begun")
    busy = expected.gangs | expected.spared
    for accelerator, stands in found.items():
        owed = stands.owed.get(Tier.PREEMPT, 0)
        wanted = stands.deficit if stands.stuck else min(stands.deficit, owed)
        if wanted <= 0:
            continue
        able = [
            gang
            for gang in seen.gangs
            if gang.accelerator == accelerator and gang.refused is None and gang.group.key not in busy
        ]
        role = _neediest(accelerator, decision, seen, rules)
        if role is None:
            continue
        for gang in chosen(able, wanted, role.gpus, seen, rules):
            action = f"preempt-{short_id(gang.group.key, gang.started_at, role.key)}"
            mark = Mark(action, seen.at, accelerator, gang.gpus, str(role.key), token)
            lost = seen.at - (gang.checkpoint_at or gang.started_at or seen.at)
            whose = f"of priority {gang.priority} it would lose {lost:.0f} s of work on {gang.gpus} GPUs"
            why = f"{role.key} lacks {wanted} GPUs; {whose}, the least"
            yield Preempt(role.key, gang, mark, why)


def _unfinished(gang: GangSight, mark: Mark, seen: Snapshot) -> bool:
    """Whether a marked gang still has pods to go: eviction stopped midway, or Volcano was not told yet."""
    training = gang.group.training
    atomic = training is not None and training.resource != kinds.VOLCANO_JOBS
    if atomic:
        return False  # mark and suspension are one write: running again means that somebody resumed it
    old = training is not None and seen.at - mark.at > FRESH_S + WAITED_S
    return not old and any(pod.meta.deleting is None for pod in gang.group.pods)


def _neediest(accelerator: str, decision: Decision, seen: Snapshot, rules: SightRules) -> PoolRole | None:
    """The role that lacks most GPUs of this type; None when none lacks any."""
    wishes = {role.key: role.desired for role in decision.roles}

    def lacks(role: PoolRole) -> int:
        placed = sum(pod.gpus for pod in seen.pools[role.key].living if pod.node)
        return (_wished(role.key, wishes, seen) or 0) * role.gpus - placed

    able = [role for role in rules.roles if role.accelerator == accelerator and seen.pools[role.key].held is None]
    worst = max(able, key=lacks, default=None)
    return worst if worst is not None and lacks(worst) > 0 else None
