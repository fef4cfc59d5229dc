"""A cluster that can be acted on: the test API server, the rest of Kubernetes played, sight and hands over it."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import kube_objects as make
import urllib3
from cluster_rig import CHAT, connected, eventually, sight_rules
from kube_controllers import Played

from autoscaler.cluster.actuators import Actuators
from autoscaler.cluster.audit import Audit, Events
from autoscaler.cluster.hands import Hands
from autoscaler.cluster.sight import Sight
from autoscaler.model import Decision, RoleDecision, RoleKey, Take, Tier
from autoscaler.settings_cluster import ClusterSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kube_server import ApiServer

    from autoscaler.cluster.api import Api
    from autoscaler.cluster.hands_state import Outcome
    from autoscaler.cluster.sight_types import SightRules, Snapshot

YES = {"tidegate.dev/preemptible": "true"}


def wish(desired: int | None, key: RoleKey = CHAT, blind: str | None = None, **takes: int) -> RoleDecision:
    """One role's decision; takes by tier, such as preempt=2 replicas."""
    asked = tuple(Take(Tier(tier), count, 100.0) for tier, count in takes.items())
    return RoleDecision(key, desired, takes=asked, blind=blind)


@dataclass
class Rig:
    """Everything together. `offset_s`: how far the hands' clock is ahead of the real one."""

    api: ApiServer
    played: Played
    plain: Api
    sight: Sight
    rules: SightRules
    settings: ClusterSettings
    audit_file: Path
    offset_s: float = 0.0
    hands: Hands = field(init=False)
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, **more: Any) -> None:
        """The process ends and another begins: nothing is remembered but what the cluster holds."""
        actuators = Actuators(self.plain, lambda: self.sight.served, "tidegate-0", urllib3.PoolManager())
        events = Events(self.plain, lambda: self.sight.served, "tidegate-0")
        self.hands = Hands(self.settings, self.rules, actuators, Audit(self.audit_file), events, **more)

    def act(self, *roles: RoleDecision, resident: dict[str, float] | None = None, **more: Any) -> list[Outcome]:
        """One tick's acting, on caches that have caught up."""
        self.caught_up()
        seen = self.sight.snapshot()
        done = self.hands.act(Decision(seen.at, roles), seen, resident, **more)
        self.outcomes += done
        return done

    def caught_up(self) -> None:
        """Wait until every cache holds what the server does."""

        def same() -> bool:
            counts = self.sight.counts()
            for reflector in self.sight._reflectors.values():
                kind = self.api.store.kinds[
                    reflector.resource.group, reflector.resource.version, reflector.resource.plural
                ]
                there = {
                    name: entry.value["metadata"]["resourceVersion"]
                    for name, entry in self.api.store.objects[kind.key].items()
                }
                cached = {name: getattr(one, "meta", one).version for name, one in reflector.cache.view().items()}
                if reflector.cache.refused is None and cached != there:
                    return False
            return bool(counts)

        eventually(same, "the caches never caught up")

    def until(self, holds: Callable[[Snapshot], Any], *roles: RoleDecision, ticks: int = 40) -> Snapshot:
        """Act and let the cluster go on, until it shows."""
        for _ in range(ticks):
            self.act(*roles)
            self.played.step()
            self.caught_up()
            seen = self.sight.snapshot()
            if holds(seen):
                return seen
        raise AssertionError(f"never came: {[(o.kind, o.action.about, o.said) for o in self.outcomes[-10:]]}")

    def settle(self, steps: int = 3) -> None:
        """Let the cluster go on by itself."""
        for _ in range(steps):
            self.played.step()

    def ready(self, name: str = "chat") -> int:
        return int(self.api.store.one("apps/v1", "Deployment", "default", name)["status"].get("readyReplicas", 0))

    def suspended(self) -> set[str]:
        return {job["metadata"]["name"] for job in self.api.store.all("batch/v1", "Job") if job["spec"].get("suspend")}

    def audit(self) -> list[dict[str, Any]]:
        if not self.audit_file.exists():
            return []
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]


@contextmanager
def acting(api: ApiServer, folder: Path, rules: SightRules | None = None, **settings: Any) -> Iterator[Rig]:
    plain = connected(api)
    rules = rules or sight_rules(min_runtime_s=0.0)
    holder: list[Rig] = []
    sight = Sight(plain, rules, clock=lambda: time.time() + (holder[0].offset_s if holder else 0.0))
    played = Played(api.store)
    sight.start()
    said = ClusterSettings.model_validate(
        {"enabled": True, "mode": "active", "actuator": "scale", "preemption": {"give_back_after_s": 60}, **settings}
    )
    try:
        eventually(lambda: sight.ready, "the caches never filled")
        holder.append(Rig(api, played, plain, sight, rules, said, folder / "actions.jsonl"))
        yield holder[0]
    finally:
        sight.stop()
        plain.close()


def training_cluster(api: ApiServer, jobs: int = 3, gpus: int = 4, replicas: int = 0) -> Played:
    """Nodes of 4 GPUs, each full of a training job that may be taken; the later, the more it would lose."""
    for number in range(jobs):
        api.store.put(make.node(f"n{number}", gpus))
        saved = f"{1767225600 + 600 * (jobs - number)}"  # 2026-01-01 and ten minutes more each, the first the latest
        note = {"tidegate.dev/last-checkpoint": saved}
        api.store.put(make.job(f"train-{number}", 2, gpus // 2, labels=YES, annotations=note))
    api.store.put(make.deployment("chat", replicas))
    played = Played(api.store)
    played.step()
    return played
