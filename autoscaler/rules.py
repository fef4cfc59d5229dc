"""What the tick is told besides what it sees: frozen values built once from the settings and the hardware profiles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.guards import GuardRules
from autoscaler.model import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.learning import Prior
    from autoscaler.model import RoleKey
    from autoscaler.velocity import Engine, Target
    from forecasting.forecaster import Forecaster


@dataclass(frozen=True, slots=True)
class RoleRules:
    """One role's own rules.

    Attributes:
        key: whose.
        engine: one engine by its profile; KV capacity is replaced by what the engine reports.
        prior: where learning of its step model starts.
        profile: the profile's name, for sentences.
        target: latency targets.
        minimum, maximum: bounds on replicas.
        accelerator: GPU type in the supply.
        gpus: GPUs of one replica.
        shortage_price: price of lacking one replica for an hour.
    """

    key: RoleKey
    engine: Engine
    prior: Prior
    profile: str
    target: Target
    minimum: int
    maximum: int
    accelerator: str
    gpus: int
    shortage_price: float


@dataclass(frozen=True, slots=True)
class SupplyRules:
    """One rung of the ladder for one accelerator: who gives GPUs, when they serve, and at what price.

    `stock` None: taken from the observation (`Stock.free` for start), unlimited when that says nothing either.

    Attributes:
        lead_s: median from the order to the first token, before any start was seen.
        spread: 90th percentile over the median; 1 for a lead time that is taken as it stands.
        commitment_s: what it gives is paid for at least so long.
        short_s: how long a shortage lasts that this rung has no GPUs against; None: its own lead time (`scarcity`).
    """

    tier: Tier
    accelerator: str
    lead_s: float
    price_per_gpu_hour: float
    one_off_price: float = 0.0
    granularity: int = 1
    spread: float = 1.0
    commitment_s: float = 0.0
    lead_basis: str = "configured"
    short_s: float | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a tick.

    Attributes:
        roles: in configuration order; several roles of one pool stand together.
        supply: the ladder's rungs, cheapest tier first.
        forecaster: gives quantiles at several horizons.
        quantile: the upper quantile planned for; None: each tier's own, from prices, between `least_quantile` and
            `most_quantile`.
        lead_quantile: the lead time that is planned for is kept with this probability.
        fallback_margin: head-room on the present load one minute ahead where the forecast cannot be relied on; it grows
            with the square root of the lead. 0: the forecast is taken as it is.
        days: whether ten-minute bins of days are kept as well, and foreseen by the ensemble of forecasters.
        history_s: length of the load history kept. bin_s: its bins.
        window_s: window of the rates seen.
        mix_memory_s: time constant of the requests' mean shape.
        start_deadline_s: asked for so long ago and not arrived: no longer counted on.
        guards: caution.
        horizon_s, time_limit_s, gap, budget_per_hour, max_gpus_preempted: the plan's.
        alternative: whether the plan without its dearest tier is worked out as well: evidence, which costs as much.
        wake_s: median from telling a sleeping engine to its first token, before any was seen to wake; None: none can
            be woken. wake_spread: 90th percentile over it.
        wakes: the rung of waking, for the roles that have sleepers now (`sleepers`).
    """

    roles: tuple[RoleRules, ...]
    supply: tuple[SupplyRules, ...]
    forecaster: Forecaster
    quantile: float | None = 0.9
    least_quantile: float = 0.85
    most_quantile: float = 0.99
    lead_quantile: float = 0.9
    fallback_margin: float = 0.0
    days: bool = False
    history_s: float = 21_600.0
    bin_s: float = 60.0
    window_s: float = 60.0
    mix_memory_s: float = 600.0
    start_deadline_s: float = 900.0
    guards: GuardRules = field(default_factory=GuardRules)
    horizon_s: float = 3600.0
    time_limit_s: float = 2.0
    gap: float = 0.005
    budget_per_hour: float | None = None
    max_gpus_preempted: int | None = None
    alternative: bool = True
    wake_s: float | None = None
    wake_spread: float = 1.0
    wakes: Mapping[RoleKey, SupplyRules] = field(default_factory=dict)

    def rungs(self, rule: RoleRules) -> tuple[SupplyRules, ...]:
        """The rungs a role can draw on, its own sleepers' included."""
        own = self.wakes.get(rule.key)
        found = tuple(rung for rung in self.supply if rung.accelerator == rule.accelerator)
        return found if own is None else (own, *found)

    def leads(self, rule: RoleRules) -> tuple[float, ...]:
        """Lead times of a role's rungs, s, ascending, each once."""
        return tuple(sorted({rung.lead_s for rung in self.rungs(rule)}))

    def wake(self, accelerator: str) -> SupplyRules | None:
        """The rung of waking replicas on this kind of GPU; None where none can be woken.

        A GPU costs what a free one does: its sleeper holds it already, and keeps others from it.
        """
        if self.wake_s is None:
            return None
        return SupplyRules(Tier.WAKE, accelerator, self.wake_s, self.least_price(accelerator), spread=self.wake_spread)

    def least_price(self, accelerator: str) -> float:
        """Price of a GPU of this kind for an hour, by its cheapest rung; 1 where it has none."""
        return min((rung.price_per_gpu_hour for rung in self.supply if rung.accelerator == accelerator), default=1.0)
