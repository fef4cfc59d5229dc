"""What a HorizontalPodAutoscaler (autoscaling/v2, Kubernetes 1.36) does with an External metric, as a pure function.

The proposal for target type `AverageValue`, stabilisation and the rate policies of `behavior` are in
`autoscaler.policies.hpa_maths`; here is one whole sync, with the bounds and what an answer does. A size outside the
bounds is corrected before the metric is even asked; 0 replicas with minReplicas > 0 switches the HPA off. An answer
that is an error, empty or unreadable changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoscaler.policies.hpa_maths import (
    HpaMemory,
    Policy,
    PolicyKind,
    ScalingRules,
    average_value_proposal,
    changed,
    limited,
    stabilised,
)

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
    return average_value_proposal(
        sum(milli), spec.average_value_milli, status_replicas, spec.down.tolerance, spec.up.tolerance
    )


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
        return status, changed(spec.up, spec.down, memory, now, wanted, bounded)
    if isinstance(answer, NotServed):
        message = f"the HPA was unable to compute the replica count: {answer.message}"
        return HpaStatus(wanted, active=False, reason="FailedGetExternalMetric", message=message), memory
    asked = proposal(spec, existing, answer.milli)
    steady, memory = stabilised(spec.up, spec.down, memory, now, wanted, asked)
    allowed = limited(spec.up, spec.down, memory, now, wanted, steady)
    replicas_next = min(max(allowed, spec.min_replicas), spec.max_replicas)
    message = "the HPA was able to successfully calculate a replica count from external metric"
    status = HpaStatus(replicas_next, active=True, reason="ValidMetricFound", message=message)
    return status, changed(spec.up, spec.down, memory, now, wanted, replicas_next)
