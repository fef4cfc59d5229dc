"""A pool whose replicas can be let go, put to sleep and woken: pods at addresses where engines answer."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import kube_objects as make
import urllib3
from acting_rig import Rig, acting, wish
from cluster_rig import eventually
from vllm_double import Engine, engines

from autoscaler.cluster.actuators import Actuators
from autoscaler.cluster.engines import Engines
from autoscaler.settings_cluster import ReleaseSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import ApiServer

    from autoscaler.cluster.hands_state import Outcome

ROUTED = "tidegate.dev/serving"


class Pool(Rig):
    """A rig whose pods are engines that answer."""

    engines: list[Engine]
    doors: Engines

    def restart(self, **more: Any) -> None:
        """Another process: it, too, can ask engines."""
        super().restart(**more)
        if hasattr(self, "doors"):
            self.wire()

    def wire(self) -> None:
        actuators = Actuators(
            self.plain, lambda: self.sight.served, "tidegate-0", urllib3.PoolManager(), engines=self.doors
        )
        self.hands._actuators = actuators

    def pods(self) -> dict[str, dict[str, Any]]:
        """Living pods, by the address of their engine."""
        return {
            pod["status"]["podIP"]: pod
            for pod in self.api.store.all("v1", "Pod")
            if "podIP" in pod.get("status", {}) and "deletionTimestamp" not in pod["metadata"]
        }

    def routed(self) -> set[str]:
        """Addresses that a Service would send requests to."""
        return {at for at, pod in self.pods().items() if pod["metadata"]["labels"].get(ROUTED) == "true"}

    def note(self, address: str, name: str) -> dict[str, Any]:
        text = (self.pods()[address]["metadata"].get("annotations") or {}).get(f"tidegate.dev/{name}", "{}")
        found: dict[str, Any] = json.loads(text)
        return found

    @property
    def replicas(self) -> int:
        return int(self.api.store.one("apps/v1", "Deployment", "default", "chat")["spec"]["replicas"])

    def tick(self, desired: int, ticks: int = 1, forward_s: float = 0.0) -> list[Outcome]:
        """So many ticks with a wish, the cluster going on after each."""
        done: list[Outcome] = []
        for _ in range(ticks):
            self.offset_s += forward_s
            done += self.act(wish(desired))
            self.played.step()
        self.caught_up()
        return done


@contextmanager
def pool(api: ApiServer, folder: Path, replicas: int, **release: Any) -> Iterator[Pool]:
    """So many engines, serving; the n-th holds (n + 1) times 10 % of its KV in use."""
    found = make.deployment("chat", replicas)
    found["spec"]["template"]["metadata"]["labels"] |= {ROUTED: "true"}
    api.store.put(make.node("n1", 16))
    api.store.put(found)
    with engines(replicas + 2) as (port, there), acting(api, folder) as rig:
        for number, one in enumerate(there):
            one.requests, one.usage = 1, 0.1 * (number + 1)
        rig.played.addresses += [one.address for one in there]
        rig.__class__ = Pool
        assert isinstance(rig, Pool)
        rig.settings = rig.settings.model_copy(
            update={"release": (ReleaseSettings(namespace="default", pool="chat", port=port, **release),)}
        )
        http = urllib3.PoolManager()
        rig.engines, rig.doors = there, Engines(http, lambda: time.time() + rig.offset_s)
        rig.restart()
        rig.settle()
        rig.caught_up()
        try:
            yield rig
        finally:
            rig.doors.close()
            http.clear()


def asleep(rig: Pool, count: int) -> None:
    """Wait until so many engines sleep, and the pods say so."""

    def settled() -> bool:
        rig.caught_up()
        stages = [rig.note(at, "asleep").get("stage") for at in rig.pods()]
        return stages.count("asleep") == count and {*stages} <= {"asleep", None}

    eventually(settled, "the engines never slept, or never woke")


def name_of(rig: Pool, engine: Engine) -> str:
    return str(rig.pods()[engine.address]["metadata"]["name"])
