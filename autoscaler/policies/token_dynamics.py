"""Our own policy (`token-dynamics`): `autoscaler.tick.tick` behind the protocol that the rivals answer to.

    upper quantiles of token load at every tier's lead time -> replicas by token velocity -> cheapest plan -> guards

Nothing is decided here: the rules of the tick are built from the scene as `tidegate run` builds them from its settings,
with the same defaults. The HPA behind it is the one the generated manifests describe: no tolerance, no stabilisation
and no rate limit, since the guards have done all that.
Roles: prefill by uncached prompt tokens, decode by output tokens fed by prefill's arrivals, colocated by both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.guards import GuardRules
from autoscaler.memory import Memory
from autoscaler.model import Tier
from autoscaler.policies.role_steps import OBEYED, require_not_negative, require_positive
from autoscaler.rules import Rules, SupplyRules
from autoscaler.tick import tick
from forecasting.damped import DampedQuantile
from forecasting.forecaster import LastValue

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation
    from autoscaler.policies.policy import Follow, Scene

START_S = 115.0
"""Lead of a new replica where the scene names no supply (the settings' default)."""
HISTORY_POINTS = 360
"""Bins of load history, as in `tidegate run`."""


class Foresight(StrEnum):
    """How the load ahead is guessed."""

    DAYS = "days"
    QUANTILE = "quantile"
    LAST_VALUE = "last-value"


@dataclass(frozen=True, slots=True)
class TokenDynamics:
    """Tidegate's tick.

    Attributes:
        name: on the command line.
        forecast: upper quantiles by the load's last hours and, with a day of history, by the ensemble over days; by the
            last hours alone; or the last value.
        quantile: planned for, 0.5..1; None: each tier's own, from prices. lead_quantile: of the lead times.
        fallback_margin: on the present load where the forecast cannot be relied on.
        stabilise_down_s: the wish falls to the highest plan of this long, or, where the load soon reaches less with
            probability hold_quantile, to the highest of hold_s.
        most_up, most_up_replicas, most_down: largest changes per tick (shares; replicas).
        history_s: of the load. window_s: of the rates seen.
        start_deadline_s: asked for so long ago and not arrived: no longer counted on.
        horizon_s: over which costs are compared. time_limit_s, gap: of the solver.
        interval_s: between ticks. follow: the HPA behind it.
    """

    name: str = "token-dynamics"
    forecast: Foresight = Foresight.DAYS
    quantile: float | None = None
    lead_quantile: float = 0.9
    fallback_margin: float = 0.3
    stabilise_down_s: float = 300.0
    hold_s: float = 60.0
    hold_quantile: float = 0.9
    most_up: float = 4.0
    most_up_replicas: int = 8
    most_down: float = 0.5
    history_s: float = 21_600.0
    window_s: float = 60.0
    start_deadline_s: float = 900.0
    horizon_s: float = 3600.0
    time_limit_s: float = 2.0
    gap: float = 0.005
    interval_s: float = 15.0
    follow: Follow = OBEYED

    def __post_init__(self) -> None:
        require_positive(self, "most_up", "most_up_replicas", "most_down", "history_s", "window_s", "interval_s")
        require_positive(self, "start_deadline_s", "horizon_s", "time_limit_s")
        require_not_negative(self, "stabilise_down_s", "hold_s", "gap", "fallback_margin")
        if not 0 < self.hold_quantile < 1:
            raise ValueError(f"hold_quantile {self.hold_quantile}: must lie strictly between 0 and 1")
        if self.quantile is not None and not 0.5 <= self.quantile < 1:  # noqa: PLR2004 - the median is the least that is no gamble
            raise ValueError(f"quantile {self.quantile}: must be at least 0.5 and below 1")

    def rules(self, scene: Scene) -> Rules:
        """The tick's rules for a scene; a scene without supply gets new replicas from free GPUs at price 1."""
        names = dict.fromkeys(role.accelerator for role in scene.roles)
        return Rules(
            roles=scene.roles,
            supply=scene.supply or tuple(SupplyRules(Tier.START, name, START_S, 1.0) for name in names),
            forecaster=LastValue() if self.forecast is Foresight.LAST_VALUE else DampedQuantile(),
            quantile=self.quantile,
            lead_quantile=self.lead_quantile,
            fallback_margin=0.0 if self.forecast is Foresight.LAST_VALUE else self.fallback_margin,
            days=self.forecast is Foresight.DAYS,
            history_s=self.history_s,
            bin_s=max(self.interval_s, self.history_s / HISTORY_POINTS),
            window_s=self.window_s,
            mix_memory_s=max(10 * self.window_s, 4 * self.interval_s),
            start_deadline_s=self.start_deadline_s,
            guards=GuardRules(
                self.stabilise_down_s,
                self.most_up,
                self.most_up_replicas,
                self.most_down,
                self.follow.tolerance,
                self.hold_s,
                self.hold_quantile,
            ),
            horizon_s=self.horizon_s,
            time_limit_s=self.time_limit_s,
            gap=self.gap,
        )

    def start(self, scene: Scene) -> Memory:  # noqa: ARG002 - the protocol's
        """Nothing is remembered yet."""
        return Memory()

    def decide(self, seen: Observation, memory: Memory, scene: Scene) -> tuple[Decision, Memory]:
        """One tick."""
        return tick(seen, memory, self.rules(scene))
