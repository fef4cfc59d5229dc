"""The shape of a supply problem's file, judged by pydantic; unknown keys are errors. `plan_file` reads it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from autoscaler.plan_schema_supply import (
    MOST,
    Amount,
    Count,
    DomainFile,
    GangFile,
    Key,
    OfferFile,
    Positive,
    Priority,
    Share,
    Some,
    SourceFile,
    Strict,
)
from optimizer import (
    Convertible,
    Demand,
    Disruption,
    Domain,
    Gang,
    Offer,
    Pool,
    Problem,
    Quota,
    Ratio,
    Replicas,
    Role,
    Rule,
    Rules,
    ServiceClass,
    Source,
    Tier,
    Variant,
    Wave,
)
from optimizer.startup import Spread, StartUp, faults, waves
from optimizer.worth import at_quantile


def _once(value: Any) -> Any:
    """Quantiles as a file has them; as numbers each of them is given once."""
    if isinstance(value, dict):
        numbers: dict[float, Any] = {}
        for key in value:
            try:
                level = float(str(key).strip())  # a text in JSON, a number in YAML; not true, which counts as 1
            except ValueError:
                raise ValueError(f"quantile {key!r} is no number; write 0.9 for the 90th percentile") from None
            if not 0.0 <= level <= 1.0:
                raise ValueError(f"quantile {key} must lie between 0 and 1; write 0.9 for the 90th percentile")
            if level in numbers:
                raise ValueError(f"quantile {key} is given twice; keep one")
            numbers[level] = value[key]
    return value


class DemandFile(Strict):
    """Demand from a moment on: one amount, or quantiles of which `rules` choose the planned and the burst one."""

    at_s: Amount = 0.0
    amount: Amount | None = Field(None, description="demand, in the pool's own unit")
    quantiles: Annotated[dict[float, Amount], BeforeValidator(_once)] | None = Field(
        None, min_length=1, description="demand by quantile, 0..1"
    )
    burst: Amount | None = Field(None, description="what a burst adds; with quantiles it is read from them")

    @model_validator(mode="after")
    def _one(self) -> DemandFile:
        if (self.amount is None) == (self.quantiles is None):
            raise ValueError("give amount or quantiles, one of them")
        if self.quantiles is not None:
            for (low, less), (high, more) in pairwise(sorted(self.quantiles.items())):
                if more < less:
                    told = f"{more:g} at {high:g} is below {less:g} at {low:g}"
                    raise ValueError(f"demand must not fall with its quantile: {told}")
        return self

    def plain(self, planned: float, burst: float) -> Demand:
        """The demand at the quantiles chosen."""
        if self.quantiles is None:
            return Demand(self.at_s, self.amount or 0.0, self.burst or 0.0)
        levels = sorted(self.quantiles.items())
        amount = at_quantile(levels, planned)
        extra = max(0.0, at_quantile(levels, burst) - amount) if self.burst is None else self.burst
        return Demand(self.at_s, amount, extra)


class ClassFile(Strict):
    """A share of the demand and the price of lacking one unit of it for an hour."""

    key: str = ""
    share: Share = 1.0
    shortage_price: Amount


class ReplicasFile(Strict):
    """Replicas that run or start."""

    count: Count
    lands_in_s: Amount = 0.0
    domain: str = ""
    source: str = Field("", description="source, gang or offer whose GPUs they hold; empty: their own")
    release_price: Amount = Field(0.0, description="price of the state that goes with one")
    drain_s: Amount = 0.0


class StartUpFile(Strict):
    """The steps of a start and who can feed weights, from which waves follow."""

    weights_gb: Amount
    image_s: Amount = 0.0
    schedule_s: Amount = 8.0
    engine_s: Amount = 12.0
    register_s: Amount = 5.0
    compile_s: Amount = 4.0
    compile_miss_s: Amount = 16.0
    compiled: StrictBool = False
    cache_gb_s: Positive | None = None
    copies: Count = 0
    fan_out: Some = 1
    spread: Spread = Spread.CHAIN
    peer_gb_s: Positive = 10.0
    store_gb_s: Positive | None = 2.5

    @model_validator(mode="after")
    def _sound(self) -> StartUpFile:
        if wrong := faults(StartUp(**self.model_dump())):
            raise ValueError("; ".join(wrong))
        return self


class WaveFile(Strict):
    """Replicas that can start at once (none: no limit), and how long each takes."""

    replicas: Count | None = None
    start_s: Amount


class ConvertibleFile(Strict):
    """What a replica can do for another role."""

    role: str
    capacity: Amount
    lost: Amount = 0.0
    price_per_hour: Amount = 0.0


class VariantFile(Strict):
    """One way to run a role."""

    key: str = ""
    accelerator: Key
    gpus: Some = 1
    capacity: Positive
    price_per_gpu_hour: Amount = 1.0
    replicas: Count | tuple[ReplicasFile, ...] = Field((), description="what exists: a number, or groups")
    start_s: Amount | None = Field(None, description="seconds from GPUs to serving; or waves; or startup")
    waves: tuple[WaveFile, ...] | None = None
    startup: StartUpFile | None = None
    convertible: ConvertibleFile | None = None

    @model_validator(mode="after")
    def _one(self) -> VariantFile:
        if sum(given is not None for given in (self.start_s, self.waves, self.startup)) > 1:
            raise ValueError("give start_s, waves or startup, one of them")
        if self.waves == ():
            raise ValueError("waves must hold at least one")
        return self

    def plain(self) -> Variant:
        """As the optimiser takes it."""
        found: tuple[Wave, ...] = (Wave(None, self.start_s or 0.0),)
        if self.waves is not None:
            found = tuple(Wave(wave.replicas, wave.start_s) for wave in self.waves)
        if self.startup is not None:
            found = waves(StartUp(**self.startup.model_dump()))
        groups = (
            (Replicas(self.replicas),)
            if isinstance(self.replicas, int)
            else tuple(Replicas(**group.model_dump()) for group in self.replicas)
        )
        return Variant(
            self.key,
            self.accelerator,
            self.gpus,
            self.capacity,
            self.price_per_gpu_hour,
            groups,
            found,
            None if self.convertible is None else Convertible(**self.convertible.model_dump()),
        )


class RoleFile(Strict):
    """One part of a pool, every one of which serves all its demand."""

    key: str = ""
    variants: tuple[VariantFile, ...] = Field(min_length=1)
    minimum: Count = 0
    maximum: Count = MOST
    wake_target_s: Amount | None = Field(None, description="go to zero only where something serves again in so long")

    def plain(self) -> Role:
        """As the optimiser takes it."""
        return Role(self.key, tuple(v.plain() for v in self.variants), self.minimum, self.maximum, self.wake_target_s)


class RatioFile(Strict):
    """Replicas of one role per replica of another."""

    role: str
    per: str
    least: Amount = 0.0
    most: Amount


class PoolFile(Strict):
    """One consumer of capacity."""

    key: Key
    demand: Amount | tuple[DemandFile, ...] = Field(description="one amount for all time, or from moment to moment")
    roles: tuple[RoleFile, ...] = Field(min_length=1)
    shortage_price: Amount | None = Field(None, description="price of lacking one unit for an hour; or classes")
    classes: tuple[ClassFile, ...] | None = None
    cross_price: Amount = Field(0.0, description="price of serving one unit for an hour across domains")
    link_per_unit: Amount = 0.0
    ratios: tuple[RatioFile, ...] = ()
    burst_price: Amount = Field(0.0, description="price of lacking one unit of burst capacity for an hour")

    @model_validator(mode="after")
    def _one(self) -> PoolFile:
        if (self.shortage_price is None) == (self.classes is None):
            raise ValueError("give shortage_price or classes, one of them")
        return self

    def plain(self, planned: float, burst: float) -> Pool:
        """As the optimiser takes it."""
        if isinstance(self.demand, tuple):
            demand = tuple(point.plain(planned, burst) for point in self.demand)
        else:
            demand = (Demand(0.0, self.demand),)
        classes = (
            (ServiceClass("", 1.0, self.shortage_price or 0.0),)
            if self.classes is None
            else tuple(ServiceClass(**one.model_dump()) for one in self.classes)
        )
        return Pool(
            self.key,
            demand,
            tuple(role.plain() for role in self.roles),
            classes,
            self.cross_price,
            self.link_per_unit,
            tuple(Ratio(**ratio.model_dump()) for ratio in self.ratios),
            self.burst_price,
        )


class DisruptionFile(Strict):
    """Most gangs of a group held at once."""

    group: str
    most: Count


class QuotaFile(Strict):
    """Most GPUs of a kind for some pools."""

    key: Key
    gpus: Count
    accelerator: str = ""
    pools: tuple[Key, ...] = ()


class RulesFile(Strict):
    """Limits over all pools, and which quantiles of demand to plan for."""

    budget_per_hour: Amount | None = None
    max_gpus_preempted: Count | None = None
    never_above_priority: Priority | None = None
    priority_order: StrictBool = True
    disruptions: tuple[DisruptionFile, ...] = ()
    quotas: tuple[QuotaFile, ...] = ()
    cross_share: Share | None = None
    churn_price: Amount = 0.001
    relax: tuple[Rule, ...] = tuple(Rule)
    quantile: Share = 0.9
    burst_quantile: Share = 0.99

    def plain(self) -> Rules:
        """As the optimiser takes them."""
        bare = self.model_dump(exclude={"quantile", "burst_quantile", "disruptions", "quotas"})
        return Rules(
            **bare,
            disruptions=tuple(Disruption(**one.model_dump()) for one in self.disruptions),
            quotas=tuple(Quota(**one.model_dump()) for one in self.quotas),
        )


class ProblemFile(Strict):
    """A supply problem: seconds, GPUs, replicas, and one currency throughout."""

    pools: tuple[PoolFile, ...] = ()
    sources: tuple[SourceFile, ...] = ()
    gangs: tuple[GangFile, ...] = ()
    offers: tuple[OfferFile, ...] = ()
    domains: tuple[DomainFile, ...] = ()
    rules: RulesFile = RulesFile()
    horizon_s: Positive = 3600.0
    points_s: tuple[Amount, ...] = Field((), description="moments at which things may change; default: every lead time")

    def plain(self) -> Problem:
        """As the optimiser takes it."""
        rules = self.rules
        return Problem(
            tuple(pool.plain(rules.quantile, rules.burst_quantile) for pool in self.pools),
            tuple(Source(**{**one.model_dump(), "tier": Tier(one.tier)}) for one in self.sources),
            tuple(Gang(**one.model_dump()) for one in self.gangs),
            tuple(Offer(**one.model_dump()) for one in self.offers),
            tuple(Domain(**one.model_dump()) for one in self.domains),
            rules.plain(),
            self.horizon_s,
            self.points_s,
        )
