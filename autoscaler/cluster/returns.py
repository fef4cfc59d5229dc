"""Giving back, and ordering what lasts: training gets its GPUs again, nodes come and go, weights follow.

Like `intents`, pure and by levels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autoscaler.cluster import kinds
from autoscaler.cluster.actions import Action, GiveBack, LoadWeights, MarkCosts, Provision, ReleaseNode
from autoscaler.cluster.hand import short_id
from autoscaler.cluster.intents import FRESH_S
from autoscaler.cluster.objects import ACCELERATOR, MANAGED
from autoscaler.cluster.sight_types import ASLEEP, DRAINING
from autoscaler.model import RoleKey, Tier
from autoscaler.sharding import allotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.cluster.intents import Standing
    from autoscaler.cluster.objects import Pod
    from autoscaler.cluster.sight_types import Claim, SightRules, Snapshot, WeightsSight
    from autoscaler.model import Decision
    from autoscaler.settings_cluster import ProvisionSettings, WeightsSettings

COST = "controller.kubernetes.io/pod-deletion-cost"
LARGEST_TOKENS = 10**9
"""KV tokens count up to this: far above what an engine holds, and within the 32 bits of a cost."""
MARKED = 50
"""Pods marked at once: at 5 writes/s 10 s, after which the pool shrinks. What leaves beyond them is as it comes."""


def give_backs(
    found: Mapping[str, Standing], seen: Snapshot, calm_since: Mapping[str, float], after_s: float
) -> Iterator[Action]:
    """Training to let run again, the longest waiting first, and marks that have become untrue.

    Args:
        found: how each accelerator stands.
        seen: the cluster.
        calm_since: since when there has been room beyond what is missing, by accelerator; Unix seconds.
        after_s: for how long there must have been.
    """
    room = {accelerator: stands.free - stands.missing for accelerator, stands in found.items()}
    for training, mark in sorted(seen.lent, key=lambda pair: (pair[1].at, pair[0].key)):
        stands, calm = found.get(mark.accelerator), calm_since.get(mark.accelerator)
        unknown = stands is None and mark.accelerator not in {stock.accelerator for stock in seen.stocks}
        if unknown:
            yield GiveBack(_role(mark.role), training, mark, f"no pool uses {mark.accelerator} any more")
        elif calm is not None and seen.at - calm >= after_s and room.get(mark.accelerator, 0) >= mark.gpus:
            room[mark.accelerator] -= mark.gpus
            why = f"{mark.gpus} GPUs have been free beyond need for {seen.at - calm:.0f} s"
            yield GiveBack(_role(mark.role), training, mark, why)
    for training in seen.training:
        stale = training.mark
        if stale is None or training.suspended or seen.at - stale.at < FRESH_S:
            continue
        if training.resource != kinds.VOLCANO_JOBS or seen.at - stale.at > 3 * FRESH_S:
            yield GiveBack(_role(stale.role), training, stale, "somebody else let it run again", resume=False)


def _role(text: str) -> RoleKey | None:
    try:
        return RoleKey.parse(text)
    except ValueError:
        return None


def orders(
    found: Mapping[str, Standing],
    settings: Sequence[ProvisionSettings],
    rules: SightRules,
    seen: Snapshot,
    takeable: Mapping[str, int],
) -> Iterator[Action]:
    """Nodes to order: what the plan meant to, or what waits unschedulable and training cannot cover.

    Args:
        found: how each accelerator stands.
        settings: how nodes are ordered, by accelerator.
        rules: which roles use it.
        seen: the cluster.
        takeable: GPUs of training that may still be taken, by accelerator.
    """
    for one in settings:
        stands = found.get(one.accelerator)
        role = next((role for role in rules.roles if role.accelerator == one.accelerator), None)
        if stands is None or role is None:
            continue
        short = max(0, stands.missing - stands.free - stands.coming)
        owed = max(0, stands.owed.get(Tier.PROVISION, 0) - stands.coming)
        beyond = max(0, stands.deficit - stands.coming - takeable.get(one.accelerator, 0)) if stands.stuck else 0
        nodes = min(math.ceil(min(short, max(owed, beyond)) / one.node_gpus), room(one, seen))
        names, under_way = _names(one.accelerator, seen), math.ceil(stands.coming / one.node_gpus)
        why = f"{short} GPUs of {one.accelerator} are missing beyond what is coming"
        if one.by.kind == "nodeclaim":
            for _ in range(max(0, nodes)):
                yield Provision(role.key, one, next(names), under_way + nodes, why)
        elif nodes > 0:
            yield Provision(role.key, one, next(names), under_way + nodes, why)


def room(one: ProvisionSettings, seen: Snapshot) -> int:
    """Nodes of this kind that may still be ordered here."""
    each = seen.ordered.get(one.accelerator)
    if each is None:
        return one.max_nodes - sum(_made_for(claim, one.accelerator) for claim in seen.claims)
    return allotted(one.max_nodes, each)[seen.shard]


def _made_for(claim: Claim, accelerator: str) -> bool:
    return MANAGED in claim.meta.labels and claim.meta.annotations.get(ACCELERATOR) == accelerator


def _names(accelerator: str, seen: Snapshot) -> Iterator[str]:
    """Names of nodes to order: the first numbers not in use, so that an order repeated meets itself."""
    used = {claim.meta.name for claim in seen.claims}
    number = 0
    shards = len(seen.ordered.get(accelerator, ()))
    whose = f"-{seen.shard}-of-{shards}" if shards else ""
    while True:
        name = f"tidegate-{short_id(accelerator)[:6]}{whose}-{number}"
        number += 1
        if name not in used:
            yield name


def returns(settings: Sequence[ProvisionSettings], seen: Snapshot, idle_since: Mapping[str, float]) -> Iterator[Action]:
    """Nodes we ordered that nobody has used for long. `idle_since`: by claim, Unix seconds."""
    longest = {one.accelerator: one.release_after_s for one in settings}
    for claim in seen.claims:
        since = idle_since.get(claim.meta.name)
        wait = longest.get(claim.meta.annotations.get(ACCELERATOR, ""))
        if since is not None and wait is not None and seen.at - since >= wait:
            yield ReleaseNode(claim, f"unused for {seen.at - since:.0f} s")


def idle(seen: Snapshot) -> set[str]:
    """Claims of ours whose node is there and holds no pod with GPUs."""
    return {
        claim.meta.name
        for claim in seen.claims
        if MANAGED in claim.meta.labels and claim.ready and claim.node and claim.node not in seen.busy
    }


def loads(
    decision: Decision, settings: Sequence[WeightsSettings], workers: Mapping[str, WeightsSight]
) -> Iterator[Action]:
    """Cache workers for the wished replicas, ahead of their pods, and fewer when they are gone.

    Args:
        decision: the wishes.
        settings: which dataset belongs to which pool.
        workers: the caches as they are, by `namespace/dataset`; one that is not known is left alone.
    """
    for one in settings:
        roles = [
            role
            for role in decision.roles
            if (role.key.namespace, role.key.pool) == (one.namespace, one.pool) and role.desired is not None
        ]
        cache = workers.get(f"{one.namespace}/{one.dataset}")
        if not roles or cache is None or any(role.blind for role in roles):
            continue
        now = cache.workers
        wished = sum(role.desired or 0 for role in roles)
        wanted = max(one.min_workers, min(one.max_workers, wished))
        if wanted != now:
            said = f"{cache.cached:.0%} cached" if cache.cached is not None else "how much is cached is not said"
            yield LoadWeights(roles[0].key, one, wanted, now, f"{wished} replicas are wished; {said}")


def costs(decision: Decision, seen: Snapshot, resident: Mapping[str, float]) -> Iterator[Action]:
    """Deletion costs for roles that shrink: below those of all others for the pods that would be missed least.

    Only those that leave are marked, MARKED at most, so that a large pool costs few writes: cost = KV tokens that would
    be lost - 10^9, where a pod without a mark costs 0. Written where the tokens changed by more than a fifth, so that a
    steady pool causes no writes; pods that were marked and are no longer among the least lose their mark.

    Args:
        decision: the wishes.
        seen: the cluster.
        resident: KV tokens that would be lost, by pod name. Pods nobody reports on keep what they have.
    """
    for role in decision.roles:
        pool = seen.pools.get(role.key)
        if pool is None or role.desired is None or pool.held or pool.scalable is None:
            continue
        there = len(pool.living)
        if not 0 <= role.desired < there:
            continue
        own = [pod for pod in pool.living if not {DRAINING, ASLEEP} & pod.meta.annotations.keys()]
        known = sorted(
            (pod for pod in own if pod.meta.name in resident), key=lambda p: (resident[p.meta.name], p.meta.name)
        )
        leaving, staying = known[: min(there - role.desired, MARKED)], known[min(there - role.desired, MARKED) :]
        changed: list[tuple[str, int | None]] = []
        for pod in leaving:
            tokens = max(0, min(LARGEST_TOKENS, round(resident[pod.meta.name])))
            before = _cost(pod)
            if before is None or abs(before + LARGEST_TOKENS - tokens) > max(1.0, 0.2 * tokens):
                changed.append((pod.meta.name, tokens - LARGEST_TOKENS))
        changed += [(pod.meta.name, None) for pod in staying if (_cost(pod) or 0) < 0]
        if changed:
            yield MarkCosts(role.key, tuple(changed), f"{there} pods shrink to {role.desired}; the emptiest go first")


def _cost(pod: Pod) -> int | None:
    """Its deletion cost; None when it has none, or scribble."""
    text = pod.meta.annotations.get(COST, "")
    return int(text) if text.removeprefix("-").isdecimal() else None
