"""What must be right in a cluster before it can be seen and acted on, and what to do where it is not."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from autoscaler.cluster import kinds
from autoscaler.cluster.api import ApiError, Resource
from autoscaler.cluster.hand import Hand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autoscaler.cluster.api import Api
    from autoscaler.cluster.sight_types import PoolSight, SightRules, Snapshot
    from autoscaler.settings_cluster import ClusterSettings

REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False
)
Said = tuple[bool, str]
"""Whether it is good, and a sentence."""
RIGHTS: Mapping[Hand, tuple[tuple[str, str, str], ...]] = {
    Hand.PREEMPT: (
        (kinds.JOBS, "", "patch"),
        (kinds.JOBSETS, "", "patch"),
        (kinds.WORKLOADS, "", "patch"),
        (kinds.VOLCANO_JOBS, "", "patch"),
        (kinds.COMMANDS, "", "create"),
    ),
    Hand.RELEASE: ((kinds.PODS, "", "patch"),),
    Hand.SLEEP: ((kinds.PODS, "", "patch"),),
}
"""What each hand writes: kind, subresource, verb. Kinds that are not served need no right."""
BY_ACTUATOR: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "metrics": (),
    "scale": ((kinds.DEPLOYMENTS, "scale", "patch"),),
    "clamp": ((kinds.HPAS, "", "patch"), (kinds.SCALED_OBJECTS, "", "patch")),
}
BY_WAY: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "nodeclaim": ((kinds.NODE_CLAIMS, "", "create"), (kinds.NODE_CLAIMS, "", "delete")),
    "nodepool": ((kinds.NODE_POOLS, "", "patch"),),
    "provisioning-request": ((kinds.REQUESTS, "", "create"), (kinds.POD_TEMPLATES, "", "create")),
    "capacity-buffer": ((kinds.BUFFERS, "", "get"), (kinds.BUFFERS, "", "patch")),
    "webhook": (),
}


def seen_well(seen: Snapshot, rules: SightRules, settings: ClusterSettings) -> Iterator[Said]:
    """Nodes, targets, who owns their replicas, and what cannot be read."""
    if seen.held is not None:
        yield False, f"{seen.held}: the kill switch holds everything; remove the annotation to act again"
    for kind, why in sorted(seen.missing.items()):
        yield False, f"{kind} cannot be read, so what needs it is switched off: {why}"
    yield from _nodes(seen, rules, settings)
    for role in rules.roles:
        pool = seen.pools[role.key]
        if pool.target is None:
            yield True, f"{role.key} has no target: its replicas are not counted, and nothing is set"
        elif pool.scalable is None:
            near = _near(pool.target.name, pool.target.kind, seen)
            yield False, f"{role.key}: there is no {pool.target.kind} {role.key.namespace}/{pool.target.name}{near}"
        elif settings.actuator == "scale" and pool.owner is not None:
            whose = f"{pool.owner.resource.partition('.')[0]} {pool.owner.meta.name}"
            yield (
                False,
                f"{role.key}: {whose} owns its replicas, so /scale would fight it; use actuator metrics or clamp",
            )
        elif settings.actuator == "clamp" and pool.owner is None:
            yield False, f"{role.key}: actuator is clamp, but no HPA or ScaledObject targets {pool.target.name}"
        elif settings.actuator == "metrics" and pool.owner is None:
            yield False, f"{role.key}: no HPA or ScaledObject targets {pool.target.name}, so nobody follows the number"
        elif (label := _own_label(pool, settings)) is not None:
            yield (
                False,
                f"{role.key}: {pool.target.name} selects by {label}, so a drained pod would be replaced: not draining",
            )
        else:
            yield True, f"{role.key}: {pool.scalable.ready} of {pool.scalable.existing} replicas are ready"


def _own_label(pool: PoolSight, settings: ClusterSettings) -> str | None:
    """The routing label, where draining by it would take the pod away from its workload; else None."""
    for one in settings.release:
        here = (one.namespace, one.pool) == (pool.key.namespace, pool.key.pool)
        if here and pool.scalable is not None and one.route_label in pool.scalable.selector:
            return one.route_label
    return None


def _nodes(seen: Snapshot, rules: SightRules, settings: ClusterSettings) -> Iterator[Said]:
    present: dict[str, list[int]] = {}
    for stock in seen.supply.domains:
        sums = present.setdefault(stock.accelerator, [0, 0, 0])
        for index, count in enumerate((stock.nodes, stock.gpus, stock.free)):
            sums[index] += count
    for name, (nodes, gpus, free) in sorted(present.items()):
        yield True, f"{nodes} nodes with {gpus} GPUs of {name or 'unknown type'}, {free} free"
    ordered = {one.accelerator for one in settings.provisioning}
    for wanted in sorted({role.accelerator for role in rules.roles} - present.keys() - ordered):
        there = ", ".join(sorted(filter(None, present))) or "none"
        labels = ", ".join(rules.accelerator_labels)
        yield False, f"no usable node has GPUs of {wanted} (there are: {there}), going by the node labels {labels}"


def _near(name: str, kind: str, seen: Snapshot) -> str:
    known = [pool.scalable.meta.name for pool in seen.pools.values() if pool.scalable and pool.scalable.kind == kind]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def rights(api: Api, served: Mapping[str, Resource], settings: ClusterSettings) -> Iterator[Said]:
    """What the hands may not do though they should: asked of the API server, once per right."""
    wanted: list[tuple[Hand, tuple[str, str, str]]] = [(Hand.REPLICAS, one) for one in BY_ACTUATOR[settings.actuator]]
    wanted += [(Hand.PROVISION, right) for one in settings.provisioning for right in BY_WAY[one.by.kind]]
    wanted += [(hand, right) for hand, all_of_it in RIGHTS.items() for right in all_of_it]
    if settings.images:
        wanted.append((Hand.WEIGHTS, (kinds.JOBS, "", "create")))
    if settings.sources:
        wanted += [(Hand.WEIGHTS, (kinds.CONFIG_MAPS, "", verb)) for verb in ("create", "patch")]
    if settings.preemption.evict:
        wanted.append((Hand.PREEMPT, (kinds.PODS, "eviction", "create")))
    lacking = 0
    for hand, (key, below, verb) in wanted:
        active = (getattr(settings.tiers, hand.value) or settings.mode) == "active"
        resource = served.get(key)
        if not active or resource is None:
            continue
        if not allowed(api, resource, below, verb):
            lacking += 1
            what = f"{resource}/{below}" if below else str(resource)
            yield False, f"may not {verb} {what}, which tier {hand} needs: give the right, or set it to shadow or off"
    if not lacking and any(mode == "active" for mode in (settings.mode, *settings.tiers.model_dump().values())):
        yield True, "every right that the active tiers need is there"


def allowed(api: Api, resource: Resource, below: str, verb: str) -> bool:
    """Whether the API server would let us. Raises ApiError when it does not say."""
    asked = {"group": resource.group, "resource": resource.plural, "verb": verb, "subresource": below}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    found = api.create(REVIEWS, "", body)
    status = found.get("status")
    if not isinstance(status, dict):
        raise ApiError(500, "NoStatus", "the access review has no status")
    return bool(status.get("allowed"))
