"""Fixed counts (`static-peak`, `static-mean`): no autoscaling at all, the two ends every autoscaler must beat.

    replicas = what the peak (or the mean) load needs by `velocity`, computed once by whoever knows the trace

`replicas_for` is that computation; its result goes in as knobs. A role without a knob gets its maximum under
`static-peak` and keeps what it starts with under `static-mean`. Counts hold blind or not: nothing is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.model import Decision, Role
from autoscaler.policies.role_steps import DIRECT, Wish, decided, reports, require_not_negative, require_positive
from autoscaler.velocity import (
    Mix,
    colocated_engines,
    decode_engines,
    decode_velocity,
    prefill_engines,
    prefill_velocity,
)

if TYPE_CHECKING:
    from autoscaler.model import Observation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules


@dataclass(frozen=True, slots=True)
class Static:
    """Fixed counts by role.

    Attributes:
        name: on the command line.
        prefill, decode, colocated: replicas; None as in the module's words.
        fill: whether a role without a count gets its maximum instead of keeping what it has.
        interval_s: between looks, of which none changes anything. follow: written directly.
    """

    name: str = "static-peak"
    prefill: int | None = None
    decode: int | None = None
    colocated: int | None = None
    fill: bool = True
    interval_s: float = 60.0
    follow: Follow = DIRECT

    def __post_init__(self) -> None:
        require_not_negative(self, "prefill", "decode", "colocated")
        require_positive(self, "interval_s")

    def start(self, scene: Scene) -> None:
        """Nothing is remembered."""

    def decide(self, seen: Observation, memory: None, scene: Scene) -> tuple[Decision, None]:
        """The same at every tick."""
        told_of = reports(seen)
        counts = {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.COLOCATED: self.colocated}
        made = []
        for rule in scene.roles:
            count = counts[rule.key.role]
            if count is None and self.fill:
                count = rule.maximum
            made.append(decided(rule, told_of.get(rule.key), Wish(count, "fixed")))
        return Decision(seen.at, tuple(made), failure=seen.failure), memory


def replicas_for(rule: RoleRules, requests_per_s: float, prompt: float, output: float) -> int:
    """Replicas of a role for a steady load, within its bounds.

    Args:
        rule: the role's engine, targets and bounds; one engine per replica.
        requests_per_s: arrivals.
        prompt: mean uncached prompt tokens.
        output: mean output tokens; residents are prompt + output / 2.
    """
    mix = Mix(prompt, output, max(prompt + output / 2, 1.0))
    prompts, outputs = requests_per_s * prompt, requests_per_s * output
    if rule.key.role is Role.PREFILL:
        count = prefill_engines(prompts, 0.0, prefill_velocity(rule.engine)[0], prompt, rule.target)
    elif rule.key.role is Role.DECODE:
        velocity, _, batch = decode_velocity(rule.engine, mix.resident, rule.target.itl_s)
        count = decode_engines(outputs, 0.0, velocity, batch, rule.target)
    else:
        count = colocated_engines(prompts, outputs, 0.0, 0.0, rule.engine, mix, rule.target)
    return min(max(count, rule.minimum), rule.maximum)
