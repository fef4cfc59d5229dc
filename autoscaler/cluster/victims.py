"""Which training to take: whole gangs, the lowest priority first, that free room for whole replicas at least cost.

A gang of a higher priority is taken only where those below it make no room. Within a priority the cost decides: work
since the last checkpoint (since the start when there is none), and GPUs apart from where a pool of two roles serves
(`nearness`), both in seconds per GPU. Gangs are taken in this order until enough whole replicas fit; then those that
turn out not to be needed are left, the highest priority and the dearest first, and what is taken is exchanged one by
one for what loses less in all (`exchange`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from autoscaler.cluster.stock import domain_of
from autoscaler.exchange import improved
from autoscaler.nearness import across_s, paired_homes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoscaler.cluster.sight_types import GangSight, SightRules, Snapshot


def chosen(gangs: Sequence[GangSight], wanted: int, size: int, seen: Snapshot, rules: SightRules) -> list[GangSight]:
    """The gangs to take for `wanted` GPUs in replicas of `size` each; all that help when there are not enough.

    Args:
        gangs: those that may be taken, all of one accelerator type.
        wanted: GPUs lacking.
        size: GPUs that must be free on one node at once (at most a node's own).
        seen: where pods are and what is free.
        rules: what a network domain is.
    """
    space = _Space(_free(seen), size, seen)
    cost = {gang.group.key: _cost_s(gang, seen, rules) for gang in gangs}
    taken: list[GangSight] = []
    for gang in sorted(gangs, key=lambda one: (one.priority, cost[one.group.key], one.group.key)):
        if space.gained >= wanted:
            break
        if space.change(gang, 1) > 0 or not _fits_alone(gang, size, seen):
            taken.append(gang)
        else:
            space.change(gang, -1)
    enough = min(wanted, space.gained)

    def swap(one: GangSight, other: GangSight | None) -> bool:
        space.change(one, -1)
        if other is not None:
            space.change(other, 1)
        if space.gained >= enough:
            return True
        if other is not None:
            space.change(other, -1)
        space.change(one, 1)
        return False

    return improved(
        taken,
        [gang for gang in gangs if gang not in taken] if enough == wanted else [],
        rank=lambda gang: gang.priority,
        cost=lambda gang: gang.gpus * cost[gang.group.key],
        swap=swap,
    )


class _Space:
    """GPUs, in whole replicas, that leaving gangs add to what is free; kept up node by node."""

    def __init__(self, free: Counter[str], size: int, seen: Snapshot) -> None:
        self._free = free
        self._size = {name: min(size, node.gpus) or 1 for name, node in seen.nodes.items()}
        self._freed: Counter[str] = Counter()
        self.gained = 0

    def change(self, gang: GangSight, sign: int) -> int:
        """A gang leaves (1) or stays after all (-1); returns by how much the gain changed."""
        before = self.gained
        for pod in gang.group.pods:
            if pod.node in self._free:
                self.gained -= self._at(pod.node)
                self._freed[pod.node] += sign * pod.gpus
                self.gained += self._at(pod.node)
        return self.gained - before

    def _at(self, node: str) -> int:
        free, size = self._free[node], self._size[node]
        return ((free + self._freed[node]) // size - free // size) * size


def _cost_s(gang: GangSight, seen: Snapshot, rules: SightRules) -> float:
    """What taking it costs, in seconds of work per GPU."""
    since = gang.checkpoint_at or gang.started_at
    lost = max(0.0, seen.at - since) if since is not None else 0.0
    return lost + across_s(_places(gang, seen, rules).items(), _near(gang.accelerator, seen))


def _places(gang: GangSight, seen: Snapshot, rules: SightRules) -> Counter[tuple[str, ...]]:
    """Its GPUs by network domain."""
    found = Counter[tuple[str, ...]]()
    for pod in gang.group.pods:
        if (node := seen.nodes.get(pod.node)) is not None:
            found[domain_of(node, rules)] += pod.gpus
    return found


def _near(accelerator: str, seen: Snapshot) -> frozenset[tuple[str, ...]]:
    """Network domains to join with GPUs of this kind."""
    pools = [(key.namespace, key.pool) for key, pool in seen.pools.items() if pool.accelerator == accelerator]
    domains = (one for one in seen.supply.domains if one.accelerator == accelerator)
    return paired_homes(pools, {one.domain: one.serving for one in domains})


def _free(seen: Snapshot) -> Counter[str]:
    """GPUs without a pod, terminating ones included, by usable node."""
    free = Counter({name: node.gpus for name, node in seen.nodes.items() if node.usable})
    held: Counter[str] = Counter()
    for node, gpus in _holders(seen):
        held[node] += gpus
    return Counter({name: max(0, count - held[name]) for name, count in free.items()})


def _holders(seen: Snapshot) -> Iterable[tuple[str, int]]:
    for pool in seen.pools.values():
        yield from ((pod.node, pod.gpus) for pod in pool.pods if pod.node and pod.meta.deleting is None)
    for gang in seen.gangs:
        yield from ((pod.node, pod.gpus) for pod in gang.group.pods if pod.meta.deleting is None)


def _fits_alone(gang: GangSight, size: int, seen: Snapshot) -> bool:
    """Whether the gang could make room for a replica at all without others being taken too."""
    return all(pod.gpus >= min(size, seen.nodes[pod.node].gpus) for pod in gang.group.pods if pod.node in seen.nodes)
