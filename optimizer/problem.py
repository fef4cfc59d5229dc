"""A supply problem: who needs capacity, who can give it, by which rules.

Units of measure, everywhere in this package: time in seconds, prices in one currency, demand and capacity in the pool's
own unit (say requests/s), GPUs and replicas as whole numbers. Nothing here knows what a replica serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

HOUR_S = 3600.0


class ProblemError(ValueError):
    """The problem contradicts itself; `faults` holds one sentence for each contradiction."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Tier(StrEnum):
    """The rungs of the supply ladder, in the order of their usual lead times."""

    CONVERT = "convert"
    WAKE = "wake"
    START = "start"
    PREEMPT = "preempt"
    PROVISION = "provision"


class Rule(StrEnum):
    """Rules that may give way where the minimums cannot be met otherwise."""

    BUDGET = "budget"
    TOPOLOGY = "topology"
    RATIO = "ratio"


class Demand(NamedTuple):
    """Demand from `at_s` seconds ahead until the next point; the first point also holds before its own time.

    `amount` is the demand at the quantile planned for; `burst` what the burst quantile lies above it. Bursts are met by
    what the amount leaves spare and by converted replicas.
    """

    at_s: float
    amount: float
    burst: float = 0.0


class ServiceClass(NamedTuple):
    """A share of a pool's demand, and the price of lacking one unit of it for an hour (its SLO penalty)."""

    key: str
    share: float
    shortage_price: float


@dataclass(frozen=True, slots=True)
class Replicas:
    """Replicas that exist or were asked for, alike in everything that matters to letting them go.

    Attributes:
        count: how many.
        lands_in_s: 0 where they serve; otherwise when they will. They are never ordered again. What lands after the
            horizon is awaited as far as bounds allow, and is no part of the plan's cost.
        domain: network domain they are in.
        source: key of the source, gang or offer whose GPUs they hold; empty where nobody wants these back. Their GPUs
            are then part of that source's stock, and go back to it with them.
        release_price: what letting one go destroys: resident KV to recompute, prefix hits to come.
        drain_s: seconds a GPU is still paid for after its replica was let go.
    """

    count: int
    lands_in_s: float = 0.0
    domain: str = ""
    source: str = ""
    release_price: float = 0.0
    drain_s: float = 0.0


class Wave(NamedTuple):
    """Replicas (None: no limit) that can start at once, and the seconds each needs once it has its GPUs."""

    replicas: int | None
    start_s: float


class Convertible(NamedTuple):
    """What a replica of one role can do for another: `capacity` for `role`, at the loss of `lost` of its own.

    `price_per_hour` is the price of keeping one ready to convert.
    """

    role: str
    capacity: float
    lost: float = 0.0
    price_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a role: on which GPUs, how many for one replica, and how much it serves.

    Attributes:
        key: unique within its role.
        accelerator: the kind of GPU; only sources of the same kind serve it.
        gpus: GPUs of one replica; they lie within one fragment of a source (a node, an NVLink domain).
        capacity: demand one replica serves, in the pool's unit.
        price_per_gpu_hour: what a GPU of an existing replica costs (where `Replicas.source` does not say).
        replicas: what exists, in groups.
        waves: how many can start at once and how long that takes, fastest first (see `startup.waves`).
        convertible: what else its replicas can do; None for nothing.
    """

    key: str
    accelerator: str
    gpus: int
    capacity: float
    price_per_gpu_hour: float = 1.0
    replicas: tuple[Replicas, ...] = ()
    waves: tuple[Wave, ...] = (Wave(None, 0.0),)
    convertible: Convertible | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """One part of a pool; every unit of demand passes through every role.

    Bounds are in replicas, over all variants. With a `wake_target_s` the role goes to zero only where some way serves
    again within so many seconds; otherwise one replica stays.
    """

    key: str
    variants: tuple[Variant, ...]
    minimum: int = 0
    maximum: int = 1_000_000
    wake_target_s: float | None = None


class Ratio(NamedTuple):
    """Replicas of `role` per replica of `per`: at least `least`, at most `most`."""

    role: str
    per: str
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Pool:
    """One consumer of capacity.

    Attributes:
        key: unique name, used in every constraint name and sentence.
        demand: what has to be served from each time point on.
        roles: every one of them serves all demand; the scarcest decides.
        classes: shares of the demand by what lacking them costs.
        cross_price: price of serving one unit for an hour by roles in different network domains.
        link_per_unit: load that one unit puts on its domain's link.
        ratios: bounds on replicas of one role per replica of another.
        burst_price: price of lacking one unit of burst capacity for an hour (its penalty times how likely it is).
    """

    key: str
    demand: tuple[Demand, ...]
    roles: tuple[Role, ...]
    classes: tuple[ServiceClass, ...]
    cross_price: float = 0.0
    link_per_unit: float = 0.0
    ratios: tuple[Ratio, ...] = ()
    burst_price: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """A stock of GPUs that can be had after a lead time.

    Attributes:
        key: unique name.
        tier: the rung of the ladder.
        accelerator: kind of GPU.
        gpus: GPUs in stock, those held by replicas that name this source included; None where it is not limited.
        lead_s: seconds until a GPU is there; the wave's `start_s` follows, but not for one that wakes: it serves then.
        price_per_gpu_hour: price of holding one GPU.
        one_off_price: price per GPU due at every order.
        domain: network domain.
        fragment: GPUs that lie together; a replica never spans two fragments. None where it may.
        granularity: GPUs that come only together and are paid for together.
        only_for: keys of the pools that may use it; empty for all.
    """

    key: str
    tier: Tier
    accelerator: str
    gpus: int | None
    lead_s: float
    price_per_gpu_hour: float = 1.0
    one_off_price: float = 0.0
    domain: str = ""
    fragment: int | None = None
    granularity: int = 1
    only_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Gang:
    """A training job that gives its GPUs only as a whole.

    Taking it costs GPUs x (time since its checkpoint + time in the queue afterwards) x (1 + repreemptions) of training,
    and its GPU hours for as long as it is held.

    Attributes:
        key: unique name.
        accelerator, domain, fragment: as for a source.
        gpus: all its GPUs.
        priority: higher is more important; gangs of lower priority go first.
        lead_s: seconds until its GPUs are free (checkpoint, eviction).
        since_checkpoint_s: work that is lost.
        requeue_s: seconds it waits and restarts after it got its GPUs back.
        price_per_gpu_hour: what training is worth.
        min_run_s, ran_s: it may be taken only after it ran for so long; and how long it has. Given back, it waits for
            `requeue_s` and runs for its minimum before it is taken again.
        repreemptions: times it is expected to be taken again before it has run for its minimum (thrash guard).
        group: name under which `Rules.disruptions` limits how many are taken.
        held: it was taken before, and is to be given back.
    """

    key: str
    accelerator: str
    gpus: int
    priority: int = 0
    lead_s: float = 45.0
    since_checkpoint_s: float = 0.0
    requeue_s: float = 0.0
    price_per_gpu_hour: float = 1.0
    min_run_s: float = 0.0
    ran_s: float = 0.0
    repreemptions: float = 0.0
    domain: str = ""
    fragment: int | None = None
    group: str = ""
    held: bool = False

    @property
    def loss(self) -> float:
        """Price of taking it once."""
        hours = (self.since_checkpoint_s + self.requeue_s) / HOUR_S
        return self.gpus * hours * self.price_per_gpu_hour * (1.0 + self.repreemptions)


@dataclass(frozen=True, slots=True)
class Offer:
    """Nodes of one type that can be bought.

    Attributes:
        key: unique name.
        accelerator, domain: as for a source.
        gpus: of one node; a replica never spans two.
        price_per_hour: of one node.
        lead_s: seconds from the order until its GPUs are there.
        min_billing_s: every node is paid for at least so long.
        quota: nodes that may be held, those held already included; None for no limit.
        held: nodes bought before. paid_s: seconds for which all of these are paid already.
        one_off_price: price of one node due at its order.
    """

    key: str
    accelerator: str
    gpus: int
    price_per_hour: float
    lead_s: float
    min_billing_s: float = 0.0
    quota: int | None = None
    domain: str = ""
    held: int = 0
    paid_s: float = 0.0
    one_off_price: float = 0.0


class Domain(NamedTuple):
    """A network domain and the load its link can carry; None for no limit."""

    key: str
    link: float | None = None


class Disruption(NamedTuple):
    """At most so many gangs of a group are held at once."""

    group: str
    most: int


class Quota(NamedTuple):
    """At most so many GPUs of an accelerator (empty: any) for some pools (empty: all), at any time."""

    key: str
    gpus: int
    accelerator: str = ""
    pools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits over all pools together.

    Attributes:
        budget_per_hour: most that all GPUs held may cost per hour, one-off prices apart; None for no limit.
        max_gpus_preempted: most GPUs held of gangs and other preempting sources; None for no limit.
        never_above_priority: gangs of higher priority are not touched; None for no cutoff.
        priority_order: a gang goes only after all those of lower priority with the same kind of GPU and domain that a
            replica fits into.
        disruptions: limits on gangs by group.
        quotas: limits on GPUs by pool and kind.
        cross_share: most of a pool's served demand that may cross domains; None for no limit.
        churn_price: price of moving one replica in either direction: leaving things be wins ties.
        relax: rules that give way, in this order, where the minimums cannot be met otherwise.
    """

    budget_per_hour: float | None = None
    max_gpus_preempted: int | None = None
    never_above_priority: int | None = None
    priority_order: bool = True
    disruptions: tuple[Disruption, ...] = ()
    quotas: tuple[Quota, ...] = ()
    cross_share: float | None = None
    churn_price: float = 0.001
    relax: tuple[Rule, ...] = (Rule.BUDGET, Rule.TOPOLOGY, Rule.RATIO)


@dataclass(frozen=True, slots=True)
class Problem:
    """Pools, supply and rules, judged over the next `horizon_s` seconds.

    `points_s` are the moments at which things may change; lead times are rounded up to them. Without them every lead
    time, demand time and landing time is one. A supply whose lead time is not below the horizon is never used.
    """

    pools: tuple[Pool, ...]
    sources: tuple[Source, ...] = ()
    gangs: tuple[Gang, ...] = ()
    offers: tuple[Offer, ...] = ()
    domains: tuple[Domain, ...] = ()
    rules: Rules = Rules()
    horizon_s: float = HOUR_S
    points_s: tuple[float, ...] = ()
