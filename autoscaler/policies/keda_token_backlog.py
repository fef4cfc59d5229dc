"""KEDA on seconds of prefill backlog, the llm-d "token-aware autoscaling" guide (`keda-token-backlog`).

    prefill    ceil(in-flight prompt tokens / calibrated velocity / threshold_s)      threshold_s 1.5
    decode     ceil(sum over replicas of KV usage / 0.8)
    colocated  the larger of both (two triggers of one ScaledObject)

Each within the HPA's 10 % keeps. Source: llm-d PR 2466 (`sum(llm_d_epp_inflight_tokens) / 15928`; 15,928 tokens/s =
chunk / median TTFT of Qwen3-32B on 2 H100). The velocity is calibrated by hand there; here it is the knob, or by
default the prefill velocity of the role's hardware profile, which is what that calibration would find.

In-flight tokens are the uncached prompt tokens not yet computed, as the engines tell one by one; otherwise waiting
requests times their mean prompt. Requests held at the gateway count too, by the mean prompt. The original query ends in
`or vector(0)`, so that no data means no backlog and scales down; here no data keeps.

A backlog of 1.5 s per replica is over a TTFT target of 0.25 to 2 s already, and without backlog the prefill role goes
to 1: as shipped it serves few in time in two roles (26 % of the Azure conversation hour ten times over). The guide's
own rule is threshold_s = TTFT target - prompt / velocity, shaved to 60 to 70 %; that is what the grid tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.model import Role
from autoscaler.policies.hpa_maths import DEFAULT_TOLERANCE, average_value_proposal
from autoscaler.policies.role_steps import (
    BEHAVIOUR_DEFAULT,
    RoleStates,
    Wish,
    count_of,
    each_role,
    largest,
    mean_prompt,
    require_not_negative,
    require_positive,
)
from autoscaler.velocity import prefill_velocity

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules


@dataclass(frozen=True, slots=True)
class KedaTokenBacklog:
    """KEDA on prefill seconds and KV usage.

    Attributes:
        name: on the command line.
        velocity: prompt tokens/s of one replica, as calibrated; None takes the profile's.
        threshold_s: backlog a replica may have, s.
        kv_target: KV usage a replica may have, 0..1.
        tolerance: the HPA's dead band.
        interval_s: the HPA's sync period. follow: its behaviour; the tolerance is already spent.
    """

    name: str = "keda-token-backlog"
    velocity: float | None = None
    threshold_s: float = 1.5
    kv_target: float = 0.8
    tolerance: float = DEFAULT_TOLERANCE
    interval_s: float = 15.0
    follow: Follow = BEHAVIOUR_DEFAULT

    def __post_init__(self) -> None:
        require_positive(self, "velocity", "threshold_s", "kv_target", "interval_s")
        require_not_negative(self, "tolerance")

    def start(self, scene: Scene) -> RoleStates[float | None]:  # noqa: ARG002 - the protocol's
        """Per role the last mean prompt seen, for windows without a first token."""
        return RoleStates()

    def decide(
        self, seen: Observation, memory: RoleStates[float | None], scene: Scene
    ) -> tuple[Decision, RoleStates[float | None]]:
        """Proposals for every role."""
        return each_role(seen, memory, scene, None, self._step)

    def _step(
        self, rule: RoleRules, told: RoleObservation, prompt: float | None, _at: float
    ) -> tuple[Wish, float | None]:
        prompt = mean_prompt(told) or prompt
        wishes, role = [], rule.key.role
        if role is not Role.DECODE:
            wishes.append(self._by_backlog(rule, told, prompt))
        if role is not Role.PREFILL:
            wishes.append(self._by_kv(told))
        words = "; ".join(wish.why for wish in wishes)
        return Wish(largest([wish.replicas for wish in wishes], count_of(told)), words), prompt

    def _by_backlog(self, rule: RoleRules, told: RoleObservation, prompt: float | None) -> Wish:
        tokens = backlog_tokens(told, prompt)
        if tokens is None:
            return Wish(None, "waiting requests are not reported")
        each = max(told.engines_per_replica, 1)
        velocity = self.velocity if self.velocity is not None else prefill_velocity(rule.engine)[0] * each
        seconds = tokens / velocity
        wanted = average_value_proposal(seconds, self.threshold_s, count_of(told), self.tolerance, self.tolerance)
        return Wish(wanted, f"{seconds:.2f} s of prefill backlog, target {self.threshold_s:g} s a replica")

    def _by_kv(self, told: RoleObservation) -> Wish:
        if told.kv_usage is None:
            return Wish(None, "KV usage is not reported")
        total = told.kv_usage * told.reporting / max(told.engines_per_replica, 1)
        wanted = average_value_proposal(total, self.kv_target, count_of(told), self.tolerance, self.tolerance)
        return Wish(wanted, f"KV usage sums to {total:.2f}, target {self.kv_target:g} a replica")


def backlog_tokens(told: RoleObservation, prompt: float | None) -> float | None:
    """Prompt tokens in flight: told by the engines, else waiting requests times `prompt`; gateway's queue included."""
    held = (told.queued_at_gateway or 0.0) * (prompt or 0.0)
    if told.engines:
        return sum(engine.waiting_tokens for engine in told.engines) + held
    if told.waiting is None or (told.waiting > 0 and prompt is None):
        return None
    return told.waiting * (prompt or 0.0) + held
