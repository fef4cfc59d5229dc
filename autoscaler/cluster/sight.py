"""Seeing the cluster: a reflector per served kind, and a frozen snapshot of them all."""

from __future__ import annotations

import random
import time
from threading import Event
from typing import TYPE_CHECKING, Any

import structlog

from autoscaler.cluster import kinds
from autoscaler.cluster.api import ApiError
from autoscaler.cluster.objects import (
    Meta,
    Node,
    Pod,
    Scalable,
    meta_of,
    node_of,
    pod_of,
    scalable_of,
    whole,
)
from autoscaler.cluster.reflector import Chosen, Reflector
from autoscaler.cluster.sight_types import Cached, Claim, Follower
from autoscaler.cluster.snapshot import taken
from autoscaler.cluster.training import Training, job_of, jobset_of, volcano_job_of, workload_of
from autoscaler.errors import CannotSee

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from autoscaler.cluster.api import Api, Json, Resource
    from autoscaler.cluster.sight_types import SightRules, Snapshot

log = structlog.get_logger(__name__)

SCALABLES = {
    kinds.DEPLOYMENTS: "Deployment",
    kinds.STATEFULSETS: "StatefulSet",
    kinds.LWS: "LeaderWorkerSet",
    kinds.ADAPTERS: "RoleBasedGroupScalingAdapter",
    kinds.ROLE_SCALERS: "DisaggregatedSetRoleScaler",
    kinds.CLIQUES: "PodClique",
    kinds.CLIQUE_GROUPS: "PodCliqueScalingGroup",
    kinds.DYNAMO_ADAPTERS: "DynamoGraphDeploymentScalingAdapter",
}
TRAINING: Mapping[str, Callable[[Json, tuple[str, ...], tuple[str, ...]], Training]] = {
    kinds.JOBS: job_of,
    kinds.JOBSETS: jobset_of,
    kinds.WORKLOADS: workload_of,
    kinds.VOLCANO_JOBS: volcano_job_of,
}
LIVING = Chosen(selectors={"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"})
"""Pods that are over hold nothing; a busy batch cluster keeps tens of thousands of them."""
DISCOVER_EVERY_S = 600.0
"""New kinds (an operator installed meanwhile) are looked for this often."""


def follower_of(found: Json, resource: str) -> Follower:
    """What is kept of an HPA or a ScaledObject."""
    spec = found.get("spec") or {}
    target = spec.get("scaleTargetRef") or {}
    names = ("minReplicas", "maxReplicas") if resource == kinds.HPAS else ("minReplicaCount", "maxReplicaCount")
    low, high = (spec.get(name) for name in names)
    kind = str(target.get("kind") or "Deployment")
    return Follower(meta_of(found), resource, kind, str(target.get("name") or ""), low, high)


def claim_of(found: Json, gpu: Iterable[str]) -> Claim:
    """What is kept of a NodeClaim."""
    status, spec = found.get("status") or {}, found.get("spec") or {}
    true = {one.get("type") for one in status.get("conditions") or () if one.get("status") == "True"}
    stage = next((name for name in ("Initialized", "Registered", "Launched") if name in true), "Requested")
    meta = meta_of(found)
    given = status.get("capacity") or (spec.get("resources") or {}).get("requests") or {}
    gpus = sum(whole(given.get(name, 0)) for name in gpu) or whole(meta.annotations.get("tidegate.dev/gpus", 0))
    return Claim(meta, "Ready" in true or "Initialized" in true, stage, str(status.get("nodeName") or ""), gpus)


class Sight:
    """Watches what is served, and puts it together.

    Args:
        api: to read with. rules: how to read it.
        clock: Unix seconds.
        changed: called, from a reflector's thread, for every change of a pod.
    """

    def __init__(
        self,
        api: Api,
        rules: SightRules,
        *,
        clock: Callable[[], float] = time.time,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self._api, self.rules, self._clock, self._changed = api, rules, clock, changed
        self._reflectors: dict[str, Reflector[Any]] = {}
        self._chance = random.Random().random  # noqa: S311 - spreads retries, no secret
        self._stop = Event()
        self._discovered_at: float | None = None
        self.served: Mapping[str, Resource] = {}

    def start(self) -> None:
        """Find out what is served and follow it. A server that cannot be asked now is asked again by `snapshot`."""
        try:
            self._discover()
        except ApiError as error:
            log.warning("the API server cannot be asked; trying again", reason=error.message)

    def stop(self) -> None:
        """End all reflectors."""
        self._stop.set()
        for reflector in self._reflectors.values():
            reflector.stop()

    def _discover(self) -> None:
        self.served = kinds.served(self._api)
        self._discovered_at = self._clock()
        for wanted in kinds.WATCHED:
            resource = self.served.get(wanted.key)
            if wanted.key in self._reflectors or resource is None or wanted.key not in KEPT:
                continue
            reflector: Reflector[Any] = Reflector(
                self._api,
                resource,
                self._keeper(wanted.key),
                clock=self._clock,
                chance=self._chance,
                changed=self._changed if wanted.key == kinds.PODS else None,
                chosen=LIVING if wanted.key == kinds.PODS else None,
            )
            self._reflectors = {**self._reflectors, wanted.key: reflector}  # read by other threads meanwhile
            reflector.start()

    def _keeper(self, key: str) -> Callable[[Json], Any]:
        gpu, checkpoints = self.rules.gpu_resources, self.rules.checkpoints
        if key in SCALABLES:
            return lambda found: scalable_of(found, SCALABLES[key])
        if key in TRAINING:
            return lambda found: TRAINING[key](found, gpu, checkpoints)
        if key in {kinds.HPAS, kinds.SCALED_OBJECTS}:
            return lambda found: follower_of(found, key)
        plain: dict[str, Callable[[Json], Any]] = {
            kinds.PODS: lambda found: pod_of(found, gpu, checkpoints),
            kinds.NODES: lambda found: node_of(found, gpu),
            kinds.NODE_CLAIMS: lambda found: claim_of(found, gpu),
        }
        return plain.get(key, meta_of)

    @property
    def ready(self) -> bool:
        """Whether every kind that can be read has been read once, pods and nodes at least."""
        needed = all(key in self._reflectors and self._reflectors[key].cache.synced for key in NEEDED)
        return needed and all(one.cache.synced or one.cache.refused is not None for one in self._reflectors.values())

    def why_not_ready(self) -> str:
        """What is still waited for, in words."""
        if not self._reflectors:
            return "the API server has not answered yet"
        waiting = [key for key, one in self._reflectors.items() if not one.cache.synced and one.cache.refused is None]
        refused = [
            f"{key}: {self._reflectors[key].cache.refused}"
            for key in NEEDED
            if key in self._reflectors and self._reflectors[key].cache.refused is not None
        ]
        return "; ".join([*refused, *([f"waiting for {', '.join(waiting)}"] if waiting else [])])

    def counts(self) -> Mapping[str, int]:
        """Objects cached, by kind."""
        return {key: len(one.cache) for key, one in self._reflectors.items()}

    def snapshot(self) -> Snapshot:
        """What is there now. Raises CannotSee before pods and nodes were ever read."""
        now = self._clock()
        if self._discovered_at is None or now - self._discovered_at >= DISCOVER_EVERY_S:
            self.start()
        if not all(key in self._reflectors and self._reflectors[key].cache.synced for key in NEEDED):
            raise CannotSee(f"kubernetes: {self.why_not_ready()}")
        lost = [self._reflectors[key].cache.lost_at for key in NEEDED]
        missing = {key: one.cache.refused for key, one in self._reflectors.items() if one.cache.refused is not None}
        lost_s = max((now - at for at in lost if at is not None), default=0.0)
        return taken(self._cached(), self.rules, now, missing, max(0.0, lost_s))

    def _cached(self) -> Cached:
        pods: dict[tuple[str, str], Pod] = self._view(kinds.PODS)
        nodes: dict[tuple[str, str], Node] = self._view(kinds.NODES)
        namespaces: dict[tuple[str, str], Meta] = self._view(kinds.NAMESPACES)
        scalables: list[tuple[str, Scalable]] = [(key, one) for key in SCALABLES for one in self._view(key).values()]
        training: list[Training] = [one for key in TRAINING for one in self._view(key).values()]
        followers: list[Follower] = [
            one for key in (kinds.HPAS, kinds.SCALED_OBJECTS) for one in self._view(key).values()
        ]
        claims: list[Claim] = list(self._view(kinds.NODE_CLAIMS).values())
        return Cached(pods, nodes, namespaces, scalables, training, followers, claims)

    def _view(self, key: str) -> dict[tuple[str, str], Any]:
        return self._reflectors[key].cache.view() if key in self._reflectors else {}


NEEDED = (kinds.PODS, kinds.NODES)
"""Without these nothing can be said."""
KEPT = frozenset(
    {
        *NEEDED,
        kinds.NAMESPACES,
        *SCALABLES,
        *TRAINING,
        kinds.HPAS,
        kinds.SCALED_OBJECTS,
        kinds.NODE_CLAIMS,
    }
)
"""Kinds of which something is kept."""
