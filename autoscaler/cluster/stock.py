"""Counting GPUs: which are free where, which training holds how many, and what the pools could have.

GPUs of a usable node: free + terminating + serving + other = allocatable (free is what is left, at least 0).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from autoscaler.cluster.objects import ACCELERATOR
from autoscaler.cluster.sight_types import GIVEN_BACK, GangSight
from autoscaler.cluster.training import PREEMPTIBLE
from autoscaler.model import Stock
from autoscaler.supply import Coming, DomainStock, Gang

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autoscaler.cluster.objects import Node, Pod
    from autoscaler.cluster.sight_types import Claim, SightRules
    from autoscaler.cluster.training import Group
    from autoscaler.supply import Supply


def accelerator_of(node: Node, rules: SightRules) -> str:
    """The GPU type of a node, as the settings call it; "" when no label says."""
    values = (node.meta.labels.get(label) for label in rules.accelerator_labels)
    return rules.canonical(next((value for value in values if value), ""))


def gang_sight(group: Group, types: Mapping[str, str], rules: SightRules, now: float) -> GangSight:
    """A group with what it holds, judged."""
    held: dict[str, int] = {}
    for pod in group.pods:
        kind = types.get(pod.node, "")
        held[kind] = held.get(kind, 0) + pod.gpus
    accelerator = max(held, key=lambda name: (held[name], name))
    starts = [pod.started or pod.scheduled for pod in group.pods]
    started = group.training.started if group.training else None
    begun = started or min((at for at in starts if at is not None), default=None)
    priority = max(pod.priority for pod in group.pods)
    terminating = sum(pod.gpus for pod in group.pods if pod.meta.deleting is not None)
    return GangSight(
        group,
        accelerator,
        sum(held.values()),
        terminating,
        priority,
        begun,
        group.checkpoint_at(rules.checkpoints),
        _why_not(group, begun, priority, terminating, rules, now),
    )


def _why_not(
    group: Group, begun: float | None, priority: int, terminating: int, rules: SightRules, now: float
) -> str | None:
    """Why training may not be taken; None when it may."""
    return _not_allowed(group, priority, rules) or _not_now(group, begun, terminating, rules, now)


def _not_allowed(group: Group, priority: int, rules: SightRules) -> str | None:
    said, training = group.said(PREEMPTIBLE), group.training
    if said is not None and said.lower() != "true":
        return f"it says {PREEMPTIBLE}={said}"
    if said is None and group.namespace not in rules.trusted:
        return f"neither labelled {PREEMPTIBLE}=true nor in a trusted namespace"
    if priority >= rules.below_priority:
        return f"its priority {priority} is not below {rules.below_priority}"
    if training is None and not rules.evict:
        return "nothing can suspend it, and eviction is not allowed"
    if training is not None and training.queued:
        return "Kueue decides when it runs, and its Workload is not seen"
    return None


def _not_now(group: Group, begun: float | None, terminating: int, rules: SightRules, now: float) -> str | None:
    training, returned = group.training, group.said(GIVEN_BACK)
    if training is not None and (training.suspended or training.over):
        return "it is suspended already" if training.suspended else "it has ended"
    if terminating:
        return "its pods are terminating already"
    if begun is None or now - begun < rules.min_runtime_s:
        return f"it has run for less than {rules.min_runtime_s:g} s"
    if returned is not None and _number(returned) + rules.cooldown_s > now:
        return f"it was given back less than {rules.cooldown_s:g} s ago"
    return None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def domains(
    pods: Iterable[Pod], ours: set[int], nodes: Mapping[str, Node], types: Mapping[str, str], rules: SightRules
) -> Iterable[DomainStock]:
    """Usable nodes' GPUs by accelerator and network domain. `ours`: ids of the pools' pods."""
    terminating, serving, other = Counter[str](), Counter[str](), Counter[str]()
    for pod in pods:
        if pod.node and pod.gpus:
            leaving = pod.meta.deleting is not None
            (terminating if leaving else serving if id(pod) in ours else other)[pod.node] += pod.gpus
    sums: dict[tuple[str, tuple[str, ...]], Counter[str]] = {}
    for name, node in nodes.items():
        if not node.usable:
            continue
        place = types[name], domain_of(node, rules)
        used = terminating[name] + serving[name] + other[name]
        sums.setdefault(place, Counter()).update(
            nodes=1,
            gpus=node.gpus,
            free=max(0, node.gpus - used),
            terminating=terminating[name],
            serving=serving[name],
            other=other[name],
        )
    return (
        DomainStock(
            accelerator,
            domain,
            had["nodes"],
            had["gpus"],
            had["free"],
            had["terminating"],
            had["serving"],
            had["other"],
        )
        for (accelerator, domain), had in sums.items()
    )


def domain_of(node: Node, rules: SightRules) -> tuple[str, ...]:
    """Its network domain: label values from the widest level to the narrowest."""
    return tuple(node.meta.labels.get(label, "") for label in rules.topology)


def plain_gang(gang: GangSight, nodes: Mapping[str, Node], rules: SightRules) -> Gang:
    """As the tick sees it."""
    places = Counter[tuple[str, ...]]()
    for pod in gang.group.pods:
        node = nodes.get(pod.node)
        places[domain_of(node, rules) if node else ()] += pod.gpus
    return Gang(
        gang.group.key,
        gang.accelerator,
        gang.gpus,
        gang.priority,
        tuple(sorted(places.items())),
        gang.started_at,
        gang.checkpoint_at,
    )


def coming(claim: Claim, rules: SightRules) -> Coming:
    """A node that was ordered, as the tick sees it."""
    name = claim.meta.annotations.get(ACCELERATOR)
    if name is None:
        values = (claim.meta.labels.get(label) for label in rules.accelerator_labels)
        name = rules.canonical(next((value for value in values if value), ""))
    return Coming(claim.meta.name, name, claim.gpus, claim.stage, claim.meta.created)


def by_node(
    pods: Iterable[Pod],
    ours: set[int],
    nodes: Mapping[str, Node],
    types: Mapping[str, str],
    rules: SightRules,
    now: float,
) -> dict[tuple[str, str], int]:
    """Per accelerator and node what the pools hold and could have, in whole pods of theirs.

    Scattered GPUs are no stock: a node with 3 free ones has room for no pod of 4. What pods hold that end within
    `soon_s` counts as free.
    """
    sizes: dict[str, int] = {}
    for role in rules.roles:
        sizes[role.accelerator] = min(sizes.get(role.accelerator, role.gpus), role.gpus)
    staying, serving = Counter[str](), Counter[str]()
    for pod in pods:
        if not pod.node or not pod.gpus or pod.node not in nodes:
            continue
        if pod.meta.deleting is not None and pod.meta.deleting - now <= rules.soon_s:
            continue
        staying[pod.node] += pod.gpus
        if id(pod) in ours and pod.meta.deleting is None:
            serving[pod.node] += pod.gpus
    found = {}
    for name, node in nodes.items():
        size = min(sizes.get(types[name], 1), node.gpus)  # a replica may span nodes: then each gives all it has
        left = max(0, node.gpus - staying[name])
        found[types[name], name] = serving[name] + (left // size * size if node.usable and size else 0)
    return found


def stocks(supply: Supply, each: Mapping[tuple[str, str], int], rules: SightRules) -> tuple[Stock, ...]:
    """Per accelerator what the pools hold and could have, of `each` node, and what training they could take."""
    there = Counter[str]()
    for (kind, _), gpus in each.items():
        there[kind] += gpus
    takeable = Counter[str]()
    for gang in supply.gangs:
        takeable[gang.accelerator] += gang.gpus
    known = sorted({*there, *(role.accelerator for role in rules.roles)})
    return tuple(Stock(kind, there[kind], takeable[kind]) for kind in known if kind)
