"""The kinds of action there are modes for, and names that are the same for the same things."""

from __future__ import annotations

import hashlib
from enum import StrEnum


class Hand(StrEnum):
    """Kinds of action, each with a mode of its own (`cluster.tiers`)."""

    REPLICAS = "replicas"
    PREEMPT = "preempt"
    PROVISION = "provision"
    WEIGHTS = "weights"
    RELEASE = "release"
    SLEEP = "sleep"


def short_id(*parts: object) -> str:
    """A name's end that is the same for the same parts: 10 hexadecimal digits."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:10]
