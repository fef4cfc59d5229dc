"""What the leader decided, for its followers: a ConfigMap that it writes and they watch, so that answers agree."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster.api import ApiError, NotLeader, Resource
from autoscaler.cluster.reflector import Chosen, Reflector
from autoscaler.journal import plain_decision, read_decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.cluster.api import Api, Json
    from autoscaler.model import Decision, RoleDecision, RoleKey

log = structlog.get_logger(__name__)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
NAME = "tidegate-decision"
TOKEN = "tidegate.dev/token"  # noqa: S105 - an annotation's name; the token is a counter, no secret
"""Annotation with the leader's fencing token."""
KEPT = ("key", "desired", "planned", "ready", "starting", "blind", "sampled_at", "load", "forecast")
"""What followers serve and show; 1,000 roles of it are 45 kB compressed, far below the 1 MiB of an object."""
LEAST = ("key", "desired", "ready", "starting", "blind", "sampled_at")
"""What followers serve: a quarter of it."""
MOST_BYTES = 900_000
"""Of an object's 1 MiB (etcd refuses 1.5 MB requests); the rest is for its metadata."""


def packed(decision: Decision) -> str:
    """A decision in a ConfigMap's value: whole while it fits, else without what is only shown.

    Raises:
        ValueError: there are so many roles that not even that fits.
    """
    plain = plain_decision(decision)
    for names in (KEPT, LEAST):
        roles = [{name: role[name] for name in names if name in role} for role in plain["roles"]]
        text = json.dumps({"at": plain["at"], "roles": roles}, separators=(",", ":"))
        made = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
        if len(made) <= MOST_BYTES:
            return made
    raise ValueError(f"{len(plain['roles'])} roles need {len(made)} bytes, above the {MOST_BYTES} of one ConfigMap")


def unpacked(text: str) -> Decision | None:
    """Inverse of packed; None for anything else."""
    try:
        return read_decision(json.loads(gzip.decompress(base64.b64decode(text))))
    except (ValueError, OSError, EOFError, TypeError, KeyError):
        return None


def read(found: Json) -> tuple[Decision, int] | None:
    """The decision in a ConfigMap, and its leader's token; None where there is none that can be read."""
    decision = unpacked(str((found.get("data") or {}).get("decision", "")))
    token = str(((found.get("metadata") or {}).get("annotations") or {}).get(TOKEN, ""))
    return (decision, int(token) if token.isdecimal() else 0) if decision is not None else None


class Shared:
    """Writes our decisions while we lead, and hands over the leader's while we follow.

    Args:
        api: to write with; fenced, so that a former leader overwrites nothing. plain: to watch with.
        namespace: where the ConfigMap is.
        arrived: called, from the watch's thread, with each decision of the leader.
        clock, chance: for the watch's back-off.
        name: of the ConfigMap.
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
        name: str = NAME,
    ) -> None:
        self._api, self._plain, self._namespace, self._arrived = api, plain, namespace, arrived
        self._name = name
        self.latest: Decision | None = None
        self._token = 0
        self._version = ""
        self._reflector: Reflector[str] = Reflector(
            plain,
            CONFIG_MAPS,
            self._keep,
            clock=clock,
            chance=chance,
            chosen=Chosen(namespace, {"fieldSelector": f"metadata.name={name}"}),
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
        self._version = str(found["metadata"]["resourceVersion"])
        told = read(found)
        if told is None:
            return None
        decision, token = told
        # A newer leader is believed whatever its clock says; an older one's only where the Lease was made anew.
        newer = self.latest is None or decision.at >= self.latest.at
        if token > self._token or newer:
            self._token, self.latest = token, decision
            self._arrived(decision)
        return self._version

    def write(self, decision: Decision, token: int) -> None:
        """Share our decision. One that cannot be written is served here all the same; followers then refuse by age.

        It replaces only what we know to be there: one of ours that was held up in the network, and comes after the next
        leader's, meets another version and is refused by the API server.
        """
        try:
            body = self._body(decision, token)
            try:
                written = self._api.patch(CONFIG_MAPS, self._namespace, self._name, body)
            except ApiError as error:
                if error.absent:
                    del body["metadata"]["resourceVersion"]
                    written = self._api.create(CONFIG_MAPS, self._namespace, body)
                elif error.conflict:
                    written = self._again(body, decision, token)
                else:
                    raise
            self._version = str(written["metadata"]["resourceVersion"])
        except (ApiError, ValueError) as error:
            log.warning("the decision cannot be shared", reason=str(error))

    def _body(self, decision: Decision, token: int) -> Json:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": self._name,
                "namespace": self._namespace,
                "resourceVersion": self._version or None,
                "annotations": {TOKEN: str(token)},
            },
            "data": {"decision": packed(decision)},
        }

    def _again(self, body: Json, decision: Decision, token: int) -> Json:
        """Once more over what is there now, unless a later leader wrote it. Raises ApiError."""
        found = self._plain.get(CONFIG_MAPS, self._namespace, self._name)
        told = read(found)
        if told is not None and told[1] > token and told[0].at >= decision.at:
            raise NotLeader(f"a later leader (token {told[1]}, ours is {token}) has decided already")
        body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
        return self._api.patch(CONFIG_MAPS, self._namespace, self._name, body)


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
