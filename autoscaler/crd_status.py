"""What a TokenPool's status should say, from the refusal or the newest decision. Pure; who writes it is elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from autoscaler.crd import LONGEST_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoscaler.crd_pools import Declared, Refusal
    from autoscaler.model import RoleDecision

Json = dict[str, Any]
COUNTS = {"desired": "desiredReplicas", "ready": "readyReplicas", "starting": "startingReplicas"}
OWN = ("observedGeneration", *COUNTS.values(), "roles", "conditions")
"""The fields of the status that are ours: all of them."""


def status_of(
    pool: Declared, refusal: Refusal | None, roles: Sequence[RoleDecision] | None, now: float, *, disabled: bool = False
) -> Json:
    """The whole status.

    Args:
        pool: whose; its present conditions tell since when each has been as it is.
        refusal: why it is not accepted; None when it is.
        roles: what was decided last for its roles; None: nothing yet.
        now: Unix seconds.
        disabled: it says `enabled: false`.
    """
    conditions = [_accepted(refusal), _ready(refusal, roles, disabled=disabled)]
    if roles and refusal is None:
        conditions.append(_limited(roles))
    made: Json = {"observedGeneration": pool.generation}
    if roles and refusal is None:
        made |= _counts(roles)
    made["conditions"] = [_dated(one, pool, now) for one in conditions]
    return made


def patch_of(wanted: Json, there: Mapping[str, Any]) -> Json | None:
    """The merge patch that makes the one of the other; None when they say the same."""
    gone = {name: None for name in OWN if name in there and name not in wanted}
    changed = {name: value for name, value in wanted.items() if there.get(name) != value}
    return {**changed, **gone} or None


def urgent(wanted: Json, there: Mapping[str, Any]) -> bool:
    """Whether somebody waits for it: the spec has been looked at, or a condition turned."""
    return wanted["observedGeneration"] != there.get("observedGeneration") or _turned(wanted) != _turned(there)


def _turned(status: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    return {str(one.get("type")): (one.get("status"), one.get("reason")) for one in status.get("conditions") or ()}


def _accepted(refusal: Refusal | None) -> Json:
    if refusal is None:
        return _condition("Accepted", "True", "Accepted", "")
    return _condition("Accepted", "False", refusal.reason, refusal.message)


def _ready(refusal: Refusal | None, roles: Sequence[RoleDecision] | None, *, disabled: bool) -> Json:
    if refusal is not None:
        return _condition("Ready", "False", "NotAccepted", "nothing is decided for a pool that is not accepted")
    if disabled:
        return _condition("Ready", "False", "Disabled", "`enabled: false`")
    blind = [f"{role.key.role}: {role.blind}" for role in roles or () if role.blind is not None]
    if blind:
        return _condition("Ready", "False", "Blind", "; ".join(blind))
    if not roles or any(role.desired is None for role in roles):
        return _condition("Ready", "Unknown", "Waiting", "nothing was decided yet")
    return _condition("Ready", "True", "Decided", "every role has a wish, from what is seen now")


def _limited(roles: Sequence[RoleDecision]) -> Json:
    short = [f"{role.key.role}: short of {role.shortage:.0f} replicas" for role in roles if role.shortage > 0]
    if short:
        return _condition("ScalingLimited", "True", "Shortage", "; ".join(short))
    return _condition("ScalingLimited", "False", "Sufficient", "what is needed was planned")


def _condition(kind: str, status: str, reason: str, message: str) -> Json:
    return {"type": kind, "status": status, "reason": reason, "message": message[:LONGEST_MESSAGE]}


def _counts(roles: Sequence[RoleDecision]) -> Json:
    """Counts by role and in all; one that a role does not know is left out of both."""
    made: Json = {}
    for name, total in COUNTS.items():
        known = [getattr(role, name) for role in roles]
        if all(count is not None for count in known):
            made[total] = sum(known)
    each = []
    for role in sorted(roles, key=lambda one: one.key.role):
        counts = {name: getattr(role, name) for name in COUNTS if getattr(role, name) is not None}
        each.append({"role": role.key.role.value, **counts})
    return {**made, "roles": each}


def _dated(condition: Json, pool: Declared, now: float) -> Json:
    """With since when it has been so: its status' last turn, not its message's."""
    before = next((one for one in pool.status.get("conditions") or () if one.get("type") == condition["type"]), None)
    if before is not None and before.get("status") == condition["status"] and before.get("lastTransitionTime"):
        since = before["lastTransitionTime"]
    else:
        since = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {**condition, "observedGeneration": pool.generation, "lastTransitionTime": since}
