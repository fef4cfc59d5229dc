"""What a HorizontalPodAutoscaler (autoscaling/v2, Kubernetes 1.36) does with an External metric, as a pure function.

The maths of target type `AverageValue`: with n replicas now, target T and the sum S of all items served,

    ratio = S / (T * n);  within 1 +- tolerance: keep n;  else ceil(S / T)

then stabilisation, the rate policies of `behavior`, and the bounds. A size outside the bounds is corrected before the
metric is even asked; 0 replicas with minReplicas > 0 switches the HPA off. An answer that is an error, empty or
unreadable changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

_LARGEST_REPLICAS = 2**31 - 1


class PolicyKind(StrEnum):
    """Unit of a policy's value."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several policies counts."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `value` pods (or percent of the replicas at the period's start) in `period_seconds`."""

    kind: PolicyKind
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """`behavior.scaleUp` or `behavior.scaleDown`; `tolerance` as a share, e.g. 0.1."""

    policies: tuple[Policy, ...]
    select: SelectPolicy = SelectPolicy.MAX
    stabilization_seconds: float = 0.0
    tolerance: float = 0.0


PROMPT_UP = ScalingRules((Policy(PolicyKind.PERCENT, 1000, 15), Policy(PolicyKind.PODS, 1000, 15)))
PROMPT_DOWN = ScalingRules((Policy(PolicyKind.PERCENT, 100, 15),))


@dataclass(frozen=True, slots=True)
class HpaSpec:
    """The fields of the object that matter here.

    Attributes:
        min_replicas: >= 0; 0 needs the HPAScaleToZero gate in a real cluster.
        max_replicas: >= max(1, min_replicas).
        average_value_milli: the target in thousandths; "1" is 1000.
        up: rules for growing.
        down: rules for shrinking.
    """

    min_replicas: int
    max_replicas: int
    average_value_milli: int = 1000
    up: ScalingRules = PROMPT_UP
    down: ScalingRules = PROMPT_DOWN


@dataclass(frozen=True, slots=True)
class Served:
    """A readable answer: the items' values in thousandths, at least one."""

    milli: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NotServed:
    """No usable answer, and the words the condition shows for it."""

    message: str


@dataclass(frozen=True, slots=True)
class HpaMemory:
    """What the controller remembers between syncs: its own recommendations and changes, each with its time."""

    recommendations: tuple[tuple[float, int], ...] = ()
    added: tuple[tuple[float, int], ...] = ()
    removed: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HpaStatus:
    """Outcome of one sync.

    Attributes:
        replicas: what the target's spec.replicas is to be.
        active: condition ScalingActive.
        reason: that condition's reason, e.g. FailedGetExternalMetric.
        message: that condition's message.
    """

    replicas: int
    active: bool
    reason: str
    message: str


def proposal(spec: HpaSpec, status_replicas: int, milli: tuple[int, ...]) -> int:
    """Replicas the metric asks for, before behaviour and bounds.

    A sum below zero ends at the largest integer, as the controller's own conversion does ("-1" scales to maxReplicas).
    """
    total, target = sum(milli), spec.average_value_milli
    if status_replicas > 0:
        ratio = total / (target * status_replicas)
        if 1 - spec.down.tolerance <= ratio <= 1 + spec.up.tolerance:
            return status_replicas
    wanted = -(-total // target)
    return wanted if 0 <= wanted <= _LARGEST_REPLICAS else _LARGEST_REPLICAS


def sync(
    spec: HpaSpec,
    memory: HpaMemory,
    now: float,
    replicas: tuple[int, int],
    answer: Served | NotServed,
) -> tuple[HpaStatus, HpaMemory]:
    """One pass of the controller.

    Args:
        spec: the object.
        memory: what the last pass returned; `HpaMemory()` at first.
        now: Unix seconds.
        replicas: the target's spec.replicas and status.replicas.
        answer: what the external metrics API said.

    Returns:
        The status, its `replicas` being the new spec.replicas, and the memory for the next pass.
    """
    wanted, existing = replicas
    if wanted == 0 and spec.min_replicas > 0:
        return HpaStatus(0, active=False, reason="ScalingDisabled", message="scaling is disabled: 0 replicas"), memory
    if not spec.min_replicas <= wanted <= spec.max_replicas:
        bounded = min(max(wanted, spec.min_replicas), spec.max_replicas)
        status = HpaStatus(bounded, active=True, reason="OutOfBounds", message=f"{wanted} is outside the bounds")
        return status, _changed(spec, memory, now, wanted, bounded)
    if isinstance(answer, NotServed):
        message = f"the HPA was unable to compute the replica count: {answer.message}"
        return HpaStatus(wanted, active=False, reason="FailedGetExternalMetric", message=message), memory
    asked = proposal(spec, existing, answer.milli)
    steady, memory = _stabilised(spec, memory, now, wanted, asked)
    replicas_next = _limited(spec, memory, now, wanted, steady)
    message = "the HPA was able to successfully calculate a replica count from external metric"
    status = HpaStatus(replicas_next, active=True, reason="ValidMetricFound", message=message)
    return status, _changed(spec, memory, now, wanted, replicas_next)


def _stabilised(spec: HpaSpec, memory: HpaMemory, now: float, current: int, asked: int) -> tuple[int, HpaMemory]:
    """Grow no further than the least, shrink no further than the most, recommended within the windows."""
    up = min([asked, *(n for at, n in memory.recommendations if at > now - spec.up.stabilization_seconds)])
    down = max([asked, *(n for at, n in memory.recommendations if at > now - spec.down.stabilization_seconds)])
    longest = max(spec.up.stabilization_seconds, spec.down.stabilization_seconds)
    kept = tuple(entry for entry in memory.recommendations if entry[0] > now - longest)
    steady = min(max(current, up), down)
    return steady, HpaMemory((*kept, (now, asked)), memory.added, memory.removed)


def _limited(spec: HpaSpec, memory: HpaMemory, now: float, current: int, asked: int) -> int:
    if asked > current:
        most = max(_up_limit(spec.up, memory, now, current), current)
        return min(asked, most, spec.max_replicas)
    if asked < current:
        least = min(_down_limit(spec.down, memory, now, current), current)
        return max(asked, least, spec.min_replicas)
    return asked


def _up_limit(rules: ScalingRules, memory: HpaMemory, now: float, current: int) -> int:
    if rules.select is SelectPolicy.DISABLED:
        return current
    limits = []
    for policy in rules.policies:
        start = _at_period_start(policy, memory, now, current)
        grown = start + policy.value
        if policy.kind is PolicyKind.PERCENT:
            grown = math.ceil(start * (100 + policy.value) / 100)
        limits.append(grown)
    return min(limits) if rules.select is SelectPolicy.MIN else max(limits)


def _down_limit(rules: ScalingRules, memory: HpaMemory, now: float, current: int) -> int:
    if rules.select is SelectPolicy.DISABLED:
        return current
    limits = []
    for policy in rules.policies:
        start = _at_period_start(policy, memory, now, current)
        shrunk = start - policy.value
        if policy.kind is PolicyKind.PERCENT:
            shrunk = int(start * (100 - policy.value) / 100)
        limits.append(shrunk)
    # For shrinking, Max means the largest change: the policy that leaves fewest.
    return max(limits) if rules.select is SelectPolicy.MIN else min(limits)


def _at_period_start(policy: Policy, memory: HpaMemory, now: float, current: int) -> int:
    since = now - policy.period_seconds
    added = sum(count for at, count in memory.added if at > since)
    removed = sum(count for at, count in memory.removed if at > since)
    return current - added + removed


def _changed(spec: HpaSpec, memory: HpaMemory, now: float, before: int, after: int) -> HpaMemory:
    """Note the change, and forget those older than any policy looks back."""
    reach = max(policy.period_seconds for policy in (*spec.up.policies, *spec.down.policies))
    added = tuple(entry for entry in memory.added if entry[0] > now - reach)
    removed = tuple(entry for entry in memory.removed if entry[0] > now - reach)
    if after > before:
        added = (*added, (now, after - before))
    elif after < before:
        removed = (*removed, (now, before - after))
    return HpaMemory(memory.recommendations, added, removed)
