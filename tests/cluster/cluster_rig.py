"""What the tests of the cluster share: a connection to the test API server, caches that follow it, and patience."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kubernetes import client

from autoscaler.cluster import kinds
from autoscaler.cluster.api import Api
from autoscaler.cluster.sight import Sight
from autoscaler.cluster.sight_types import PoolRole, SightRules, TargetRef
from autoscaler.model import Role, RoleKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kube_server import ApiServer

    from autoscaler.cluster.sight_types import Snapshot

CHAT = RoleKey("default", "chat", Role.COLOCATED)
H100 = "h100-80gb"


def eventually(holds: Callable[[], Any], why: str, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


def role(key: RoleKey = CHAT, gpus: int = 1, target: str | None = "chat") -> PoolRole:
    ref = TargetRef(kinds.DEPLOYMENTS, "Deployment", target) if target else None
    return PoolRole(key, H100, gpus, ref)


def sight_rules(*roles: PoolRole, **more: Any) -> SightRules:
    said: dict[str, Any] = {
        "canonical": lambda text: H100 if text else "",
        "checkpoints": ("tidegate.dev/last-checkpoint",),
        "topology": ("rack",),
        **more,
    }
    return SightRules(roles or (role(),), **said)


def connected(api: ApiServer, **more: Any) -> Api:
    configuration = client.Configuration(host=api.url)
    configuration.retries = False
    configuration.connection_pool_maxsize = 48
    return Api(client.ApiClient(configuration), timeout_s=5.0, **more)


@contextmanager
def seeing(api: ApiServer, rules: SightRules | None = None, clock: Callable[[], float] = time.time) -> Iterator[Sight]:
    plain = connected(api)
    sight = Sight(plain, rules or sight_rules(), clock=clock)
    sight.start()
    try:
        eventually(lambda: sight.ready, "the caches never filled")
        yield sight
    finally:
        sight.stop()
        plain.close()


def snapshot_when(sight: Sight, holds: Callable[[Snapshot], Any], why: str) -> Snapshot:
    """The first snapshot that shows it."""
    found: list[Snapshot] = []

    def seen() -> bool:
        found.append(sight.snapshot())
        return bool(holds(found[-1]))

    eventually(seen, why)
    return found[-1]
