"""Which training to take: whole gangs whose taking loses the least work and frees room for whole replicas.

Work lost by a gang is GPUs x seconds since its last checkpoint (since its start when it has none). Gangs are taken from
the least lost work per GPU upwards until enough whole replicas fit; then those that turn out not to be needed are left,
the most expensive first. With gangs of one size this is optimal; otherwise it takes at most one gang more than needed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autoscaler.cluster.sight_types import GangSight, Snapshot


def chosen(gangs: Sequence[GangSight], wanted: int, size: int, seen: Snapshot) -> list[GangSight]:
    """The gangs to take for `wanted` GPUs in replicas of `size` each; all that help when there are not enough.

    Args:
        gangs: those that may be taken.
        wanted: GPUs lacking.
        size: GPUs that must be free on one node at once (at most a node's own).
        seen: where pods are and what is free.
    """
    space = _Space(_free(seen), size, seen)
    taken: list[GangSight] = []
    for gang in sorted(gangs, key=lambda one: (_lost(one, seen.at) / max(one.gpus, 1), one.priority, one.group.key)):
        if space.gained >= wanted:
            break
        if space.change(gang, 1) > 0 or not _fits_alone(gang, size, seen):
            taken.append(gang)
        else:
            space.change(gang, -1)
    enough = min(wanted, space.gained)
    for gang in sorted(taken, key=lambda one: (-_lost(one, seen.at), one.group.key)):
        space.change(gang, -1)
        if space.gained >= enough:
            taken.remove(gang)
        else:
            space.change(gang, 1)
    return taken


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


def _lost(gang: GangSight, now: float) -> float:
    since = gang.checkpoint_at or gang.started_at
    return gang.gpus * max(0.0, now - since) if since is not None else 0.0


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
