"""What the leader decided, for its followers: a ConfigMap that it writes and they watch, so that answers agree."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster.api import ApiError, Resource
from autoscaler.cluster.reflector import Chosen, Reflector
from autoscaler.journal import plain_decision, read_decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.cluster.api import Api, Json
    from autoscaler.model import Decision, RoleDecision, RoleKey

log = structlog.get_logger(__name__)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
NAME = "tidegate-decision"
KEPT = ("key", "desired", "planned", "ready", "starting", "blind", "sampled_at", "load", "forecast")
"""What followers serve and show; 1,000 roles of it are 30 kB compressed, far below the 1 MiB of an object."""


def packed(decision: Decision) -> str:
    """A decision in a ConfigMap's value."""
    plain = plain_decision(decision)
    roles = [{name: role[name] for name in KEPT if name in role} for role in plain["roles"]]
    text = json.dumps({"at": plain["at"], "roles": roles}, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def unpacked(text: str) -> Decision | None:
    """Inverse of packed; None for anything else."""
    try:
        return read_decision(json.loads(gzip.decompress(base64.b64decode(text))))
    except (ValueError, OSError, EOFError, TypeError, KeyError):
        return None


class Shared:
    """Writes our decisions while we lead, and hands over the leader's while we follow.

    Args:
        api: to write with; fenced, so that a former leader overwrites nothing. plain: to watch with.
        namespace: where the ConfigMap is.
        arrived: called, from the watch's thread, with each decision of the leader.
        clock, chance: for the watch's back-off.
    """

    def __init__(
        self,
        api: Api,
        plain: Api,
        namespace: str,
        arrived: Callable[[Decision], None],
        *,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._api, self._namespace, self._arrived = api, namespace, arrived
        self.latest: Decision | None = None
        self._reflector: Reflector[str] = Reflector(
            plain,
            CONFIG_MAPS,
            self._keep,
            clock=clock,
            chance=chance,
            chosen=Chosen(namespace, {"fieldSelector": f"metadata.name={NAME}"}),
        )

    @property
    def synced(self) -> bool:
        """Whether it is known what was decided last, if anything was."""
        return self._reflector.cache.synced or self._reflector.cache.refused is not None

    def start(self) -> None:
        """Begin to watch."""
        self._reflector.start()

    def stop(self) -> None:
        """End."""
        self._reflector.stop()

    def _keep(self, found: Json) -> str | None:
        decision = unpacked(str((found.get("data") or {}).get("decision", "")))
        if decision is None:
            return None
        if self.latest is None or decision.at >= self.latest.at:
            self.latest = decision
            self._arrived(decision)
        return str(found["metadata"]["resourceVersion"])

    def write(self, decision: Decision, token: int) -> None:
        """Share our decision. One that cannot be written is served here all the same; followers then refuse by age."""
        body: Json = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": NAME,
                "namespace": self._namespace,
                "annotations": {"tidegate.dev/token": str(token)},
            },
            "data": {"decision": packed(decision)},
        }
        try:
            try:
                self._api.patch(CONFIG_MAPS, self._namespace, NAME, body)
            except ApiError as error:
                if not error.absent:
                    raise
                self._api.create(CONFIG_MAPS, self._namespace, body)
        except ApiError as error:
            log.warning("the decision cannot be shared", reason=error.message)


def floored(decision: Decision, before: Decision, until: float) -> Decision:
    """A new leader's decision that takes nothing back from the former's before it has watched for itself.

    Args:
        decision: ours.
        before: the former leader's last.
        until: Unix seconds; afterwards ours stands alone.
    """
    if decision.at >= until:
        return decision
    last: dict[RoleKey, int] = {role.key: role.desired for role in before.roles if role.desired is not None}
    return replace(
        decision, roles=tuple(_floor(role, last.get(role.key), until - decision.at) for role in decision.roles)
    )


def _floor(role: RoleDecision, last: int | None, left_s: float) -> RoleDecision:
    if last is None or (role.desired is not None and role.desired >= last):
        return role
    why = f"held at the former leader's {last} for another {left_s:.0f} s"
    return replace(role, desired=last, guards=(*role.guards, ("failover", why)))
