"""llm-d Workload Variant Autoscaler, saturation V1 (`wva-v1`; the default before v0.9).

Per role group, over the reporting replicas with their peaks of the last minute, kv and q:

    saturated   kv >= 0.80 or q >= 5;  n = replicas that are not
    spare       kv: mean over those of (0.80 - kv); q: mean of (5 - q); both 0 if n = 0
    +1          spare kv < 0.10 or spare q < 3
    -1          n >= 2, and with n - 1 taking the load of n both spares still suffice, and more than one replica is left
    hold        while any replica is pending

Source: llm-d-incubation/workload-variant-autoscaler internal/saturationv1/analyzer.go. Saturated replicas are left out
of the removal simulation, so one hot replica beside idle ones scales *down*; that is kept. Its wish is a gauge that an
HPA or KEDA follows with `AverageValue: 1`, hence with the HPA's 10 %.
Roles: each role group by itself, one variant each (so the cheapest and the dearest are the same).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.policies.role_steps import (
    WISHED,
    RoleStates,
    Wish,
    count_of,
    each_role,
    engines_of,
    require_not_negative,
    require_positive,
    starting,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.model import Decision, Observation, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules


@dataclass(frozen=True, slots=True)
class WvaV1:
    """WVA's saturation analyzer V1.

    Attributes:
        name: on the command line.
        kv_threshold, queue_threshold: from which a replica is saturated (0..1; requests).
        kv_spare, queue_spare: mean spare below which one more is wanted.
        interval_s: between looks (30 s in the field, 15 in later charts). follow: the HPA behind the gauge.
    """

    name: str = "wva-v1"
    kv_threshold: float = 0.8
    queue_threshold: float = 5.0
    kv_spare: float = 0.1
    queue_spare: float = 3.0
    interval_s: float = 30.0
    follow: Follow = WISHED

    def __post_init__(self) -> None:
        require_positive(self, "kv_threshold", "queue_threshold", "interval_s")
        require_not_negative(self, "kv_spare", "queue_spare")

    def start(self, scene: Scene) -> RoleStates[None]:  # noqa: ARG002 - the protocol's
        """Nothing is remembered."""
        return RoleStates()

    def decide(self, seen: Observation, memory: RoleStates[None], scene: Scene) -> tuple[Decision, RoleStates[None]]:
        """One step at most for every role."""
        return each_role(seen, memory, scene, None, self._step)

    def _step(self, _rule: RoleRules, told: RoleObservation, state: None, _at: float) -> tuple[Wish, None]:
        engines, current, pending = engines_of(told), count_of(told), starting(told)
        if not engines:
            return Wish(None, "KV usage is not reported"), state
        if pending > 0:
            return Wish(current, f"held: {pending} pending"), state
        change, words = self.change([(engine.kv_peak, engine.waiting_peak) for engine in engines])
        if change < 0 and current <= 1:
            change = 0
        return Wish(current + change, words), state

    def change(self, loads: Sequence[tuple[float, float]]) -> tuple[int, str]:
        """+1, -1 or 0 for replicas with these peaks (KV usage, waiting requests), and why."""
        free = [(kv, q) for kv, q in loads if kv < self.kv_threshold and q < self.queue_threshold]
        n = len(free)
        spare_kv = sum(self.kv_threshold - kv for kv, _ in free) / n if n else 0.0
        spare_queue = sum(self.queue_threshold - q for _, q in free) / n if n else 0.0
        words = f"{n} of {len(loads)} not saturated, spare KV {spare_kv:.3f}, spare queue {spare_queue:.3f}"
        if spare_kv < self.kv_spare or spare_queue < self.queue_spare:
            return 1, words
        if n < 2:  # noqa: PLR2004 - one replica cannot give its load to another
            return 0, words
        grown = n / (n - 1)
        kv_after = self.kv_threshold - (self.kv_threshold - spare_kv) * grown
        queue_after = self.queue_threshold - (self.queue_threshold - spare_queue) * grown
        return (-1 if kv_after >= self.kv_spare and queue_after >= self.queue_spare else 0), words
