"""What is brought close before pods start: images onto nodes, and the names of pods that have the weights.

Pure and by levels, like `intents`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoscaler.cluster import kinds
from autoscaler.cluster.actions import LowerBuffer
from autoscaler.cluster.objects import MANAGED
from autoscaler.cluster.pod_actions import PullImage, TellSources
from autoscaler.cluster.stock import accelerator_of, domain_of
from autoscaler.settings_cluster import BufferSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.cluster.actions import Action
    from autoscaler.cluster.intents import Standing
    from autoscaler.cluster.objects import Node, Pod
    from autoscaler.cluster.sight_types import PoolSight, SightRules, Snapshot
    from autoscaler.settings_cluster import ProvisionSettings, PullSettings, SourceSettings

PULL = "tidegate-pull-"
LANDED_S = 30.0
"""A buffer is lowered when nothing has been missing for so long: pods may still be moving in."""


def pulls(settings: Sequence[PullSettings], seen: Snapshot, rules: SightRules) -> Iterator[Action]:
    """Images to pull: on usable nodes of the pool's GPU type that do not say they have them, the emptiest first.

    A kubelet names its 50 largest images at most, so a node may have one that it does not name: the job then ends at
    once, and stands for `again_s`, so that the node is not asked before that.
    """
    jobs = {
        (one.meta.namespace, one.meta.name): one.over
        for one in seen.training
        if one.resource == kinds.JOBS and one.meta.name.startswith(PULL) and MANAGED in one.meta.labels
    }
    used: dict[str, int] = {}
    for pod in (*(p for s in seen.pools.values() for p in s.living), *(p for g in seen.gangs for p in g.group.pods)):
        used[pod.node] = used.get(pod.node, 0) + pod.gpus
    planned: set[tuple[str, str]] = set(jobs)
    for one in settings:
        left = one.at_once - sum(not over for (space, _), over in jobs.items() if space == one.namespace)
        for pool in _pools(seen, one.namespace, one.pool):
            nodes = [n for n in seen.nodes.values() if n.usable and accelerator_of(n, rules) == pool.accelerator]
            nodes.sort(key=lambda node: (used.get(node.meta.name, 0) - node.gpus, node.meta.name))
            for action in _lacking(one, pool, nodes):
                if left <= 0:
                    break
                if (one.namespace, action.name) not in planned:
                    planned.add((one.namespace, action.name))
                    left -= 1
                    yield action


def _lacking(own: PullSettings, pool: PoolSight, nodes: Sequence[Node]) -> Iterator[PullImage]:
    scalable = pool.scalable
    if scalable is None or pool.held is not None:
        return
    for node in nodes:
        for image in scalable.images:
            if not _has(node, image):
                why = f"{node.meta.name} has {node.gpus} GPUs of {pool.accelerator} and does not name it"
                yield PullImage(pool.key, scalable, image, node.meta.name, own, why)


def _has(node: Node, image: str) -> bool:
    """Whether the kubelet names it, with or without the registry and tag that are understood."""
    last = image.rpartition("/")[2]
    tagged = image if ":" in last or "@" in image else f"{image}:latest"
    first, slash, _ = tagged.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return bool({tagged, tagged if named else f"docker.io/{tagged if slash else f'library/{tagged}'}"} & {*node.images})


def _pools(seen: Snapshot, namespace: str, pool: str) -> list[PoolSight]:
    return [one for key, one in seen.pools.items() if (key.namespace, key.pool) == (namespace, pool)]


def sources(
    settings: Sequence[SourceSettings],
    seen: Snapshot,
    rules: SightRules,
    told: Mapping[str, tuple[tuple[str, str], ...]],
) -> Iterator[Action]:
    """Who has the weights: ready pods, those in most different network domains first, so that links are not shared.

    Args:
        settings: which pools hand out weights.
        seen: the cluster.
        rules: what a network domain is.
        told: what was told last, by `namespace/ConfigMap`.
    """
    for one in settings:
        found = _pools(seen, one.namespace, one.pool)
        able = [pod for pool in found for pod in pool.living if pod.ready and pod.ip and _awake(pod)]
        chosen = tuple(
            (f"[{pod.ip}]:{one.port}" if ":" in pod.ip else f"{pod.ip}:{one.port}", domain)
            for pod, domain in _spread(able, seen, rules)[: one.most]
        )
        if found and chosen and told.get(f"{one.namespace}/{one.config_map}") != chosen:
            why = f"{len(able)} ready pods have the weights"
            yield TellSources(found[0].key, one.config_map, chosen, why)


def _awake(pod: Pod) -> bool:
    return "tidegate.dev/asleep" not in pod.meta.annotations


def _spread(pods: Sequence[Pod], seen: Snapshot, rules: SightRules) -> list[tuple[Pod, str]]:
    """Pods with their domains: one of each domain, then the second of each, and so on."""
    by_domain: dict[str, list[Pod]] = {}
    for pod in sorted(pods, key=lambda pod: (pod.ready_at or 0.0, pod.meta.name)):
        node = seen.nodes.get(pod.node)
        domain = "/".join(domain_of(node, rules)) if node is not None else ""
        by_domain.setdefault(domain, []).append(pod)
    ranked = [(rank, name, pod) for name, there in sorted(by_domain.items()) for rank, pod in enumerate(there)]
    return [(pod, name) for _, name, pod in sorted(ranked, key=lambda one: one[:2])]


def lowered(
    found: Mapping[str, Standing],
    settings: Sequence[ProvisionSettings],
    calm_since: Mapping[str, float],
    buffers: Mapping[str, int],
    now: float,
) -> Iterator[Action]:
    """Buffers to take back: what they ordered is there, and left alone they would order as many again.

    Args:
        found: how each accelerator stands.
        settings: how nodes are ordered.
        calm_since: since when nothing has been missing, by accelerator; Unix seconds.
        buffers: replicas of CapacityBuffers now, by `namespace/name`.
        now: Unix seconds.
    """
    for one in settings:
        stands, since = found.get(one.accelerator), calm_since.get(one.accelerator)
        if not isinstance(one.by, BufferSettings) or stands is None or since is None or stands.missing:
            continue
        before = buffers.get(f"{one.by.namespace}/{one.by.name}", 0)
        if before and now - since >= LANDED_S:
            yield LowerBuffer(one.accelerator, one.by, before, f"nothing has been missing for {now - since:.0f} s")
