"""Replicas that sleep: engines whose weights have left their GPUs, which they keep, and that wake in seconds.

A sleeper is capacity of its own role alone, nearer than any start (`Tier.WAKE`). A role without any has no such rung:
it is planned for as if nobody could sleep.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoscaler.model import Observation
    from autoscaler.rules import Rules


def with_sleepers(rules: Rules, seen: Observation) -> Rules:
    """The rules with a rung of waking for each role that has replicas asleep or waking."""
    if rules.wake_s is None:
        return rules
    able = {told.key for told in seen.roles if told.asleep or told.waking}
    found = {rule.key: rules.wake(rule.accelerator) for rule in rules.roles if rule.key in able} if able else {}
    wakes = {key: rung for key, rung in found.items() if rung is not None}
    return replace(rules, wakes=wakes) if wakes else rules
