"""What a simulated world is made of: frozen values with units and defaults. Everything in it is part of a result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import StrEnum

from autoscaler.errors import BadSettings


class Layout(StrEnum):
    """How a pool serves."""

    COLOCATED = "colocated"
    DISAGGREGATED = "disaggregated"


class Routing(StrEnum):
    """How the gateway picks an engine."""

    ROUND_ROBIN = "round-robin"
    LEAST_LOADED = "least-loaded"
    PREFIX_AWARE = "prefix-aware"


@dataclass(frozen=True, slots=True)
class Slo:
    """When a request was served well: TTFT by the size of its input, TPOT the same for all (TokenScale's defaults).

    Attributes:
        ttft_s: (inputs below so many tokens, seconds), ascending; `ttft_longest_s` for all longer inputs.
        tpot_s: mean time per output token after the first, seconds.
        attainment: share of requests that should be served well; policies are told it.
    """

    ttft_s: tuple[tuple[int, float], ...] = ((256, 0.25), (1024, 0.4))
    ttft_longest_s: float = 2.0
    tpot_s: float = 0.1
    attainment: float = 0.95


@dataclass(frozen=True, slots=True)
class Actuation:
    """What lies between the engines and the policy, and between the wish and the pods; the same for every policy.

    Attributes:
        scrape_s: seconds between two scrapes of an engine; engines are scraped at phases of their own.
        lag_s: a sample is seen so long after it was taken.
        window_s: rates are over this long. max_age_s: older samples count as stale.
        drain_limit_s: a replica told to stop finishes its requests, at most so long; what is left then fails.
    """

    scrape_s: float = 15.0
    lag_s: float = 1.0
    window_s: float = 60.0
    max_age_s: float = 60.0
    drain_limit_s: float = 300.0


class Victims(StrEnum):
    """Which training gangs are taken, whole, until there are GPUs enough."""

    LOWEST_LEAST = "lowest-least-lost"
    """Of the lowest priority there is those that lose the least work per GPU, and of those none that is not needed; as
    Tidegate's hands choose."""
    LEAST_LOST = "least-lost"
    """Those that lose the least work per GPU whatever their priority: shows what keeping to priorities costs."""
    PRIORITY = "priority"
    """Lowest priority first, among equals the one that started last; as kube-scheduler and Kueue choose."""
    RANDOM = "random"
    """By lot."""


@dataclass(frozen=True, slots=True)
class TrainingGang:
    """A training job that holds GPUs until they are taken: all of them or none.

    Attributes:
        gpus: how many. priority: lower ones are taken first.
        checkpoint_s: seconds between checkpoints; work since the last one is lost when it is evicted.
        requeue_s: seconds of work that starting again costs, on all its GPUs.
        ran_s: for so long it has run when the world begins; so far are its checkpoints along.
    """

    gpus: int = 8
    priority: int = 0
    checkpoint_s: float = 1800.0
    requeue_s: float = 300.0
    ran_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SupplySetup:
    """Where GPUs come from, and how long a replica takes to serve.

    Attributes:
        gpus: prepared GPUs, gangs' excluded; None: as many as all roles may have at most.
        node_gpus: GPUs of a node; domain_nodes: nodes of a network domain.
        gangs: training jobs on further GPUs. victims: which of them are taken.
        scheduler_preempts: pods that pend take training at once, whatever the policy said (priority preemption).
        eviction_s: (median, 90th percentile) until an evicted gang has left; None: the shipped step's, which leaves it
            time to save. Killing at once takes seconds. What is lost is the work since the last checkpoint either way.
        training_returns_s: an evicted gang is not started again sooner, so that GPUs do not go to and fro.
        nodes_to_buy: nodes that can be provisioned.
        autoscaler_delay_s: a pod that pends so long makes the cluster autoscaler buy a node.
        node_idle_s: a bought node without pods is given back after so long.
        start_s: (median, 90th percentile) of the whole start-up; None: the sum of its steps below.
        start_scale: whichever of them, it takes so many times as long (0.7: 30 % faster).
        weights: source of weights in `weight_bandwidth` of lead-times.yaml; peers: serving replicas are read instead
            (at `rdma-unknown`'s rate each, shared by those that read at once) as soon as there is one.
        image_cached, compile_cached: prepared nodes have the image, and torch.compile's artefacts.
        sleepers: replicas of a role kept asleep (their GPUs free for others) instead of being deleted.
        price_per_gpu_hour: None: the accelerator's shipped, illustrative price.
    """

    gpus: int | None = None
    node_gpus: int = 8
    domain_nodes: int = 4
    gangs: tuple[TrainingGang, ...] = ()
    victims: Victims = Victims.LOWEST_LEAST
    scheduler_preempts: bool = False
    eviction_s: tuple[float, float] | None = None
    training_returns_s: float = 300.0
    nodes_to_buy: int = 0
    autoscaler_delay_s: float = 10.0
    node_idle_s: float = 600.0
    start_s: tuple[float, float] | None = None
    start_scale: float = 1.0
    weights: str = "nvme-default"
    peers: bool = False
    image_cached: bool = True
    compile_cached: bool = False
    sleepers: int = 0
    price_per_gpu_hour: float | None = None


class FaultKind(StrEnum):
    """What goes wrong."""

    STALE = "stale"
    """The share `amount` of engines is not scraped; their old samples stay until they are too old."""
    MISSING = "missing"
    """The share `amount` of engines is unknown to the source."""
    UNREADABLE = "unreadable"
    """The metric source as a whole does not answer."""
    KILL = "kill"
    """At `at_s`, `amount` ready replicas die with all they hold (and are started again)."""
    NO_NODES = "no-nodes"
    """Nodes are refused."""
    SLOW_WEIGHTS = "slow-weights"
    """Loading weights takes `amount` times as long."""
    SLOW_ENGINES = "slow-engines"
    """Engines started meanwhile are `amount` times as slow as the profile that policies are told."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: from `at_s` for `for_s` seconds (KILL: at once). Seconds since the start."""

    kind: FaultKind
    at_s: float
    for_s: float = math.inf
    amount: float = 1.0


@dataclass(frozen=True, slots=True)
class Setup:
    """One pool and the world around it.

    Attributes:
        profile: hardware profile, `model/accelerator/tpN`. told_profile: what policies are told instead, when wrong.
        layout: one role or two. minimum, maximum: replicas of each role.
        initial: replicas ready at the start; None: what the mean load of the first five minutes needs.
        routing: the gateway's. gateway_limit: most requests in an engine before the gateway holds them back.
        gateway_most: requests it holds at most; more are shed.
        link_gbps: KV link of one prefill replica, Gbit/s.
        link_across: share of that left between two network domains; crossing switches costs a fifth (HeteroScale).
        convertible: decode replicas, the oldest, that compute prompts when the prefill replicas' backlog is longer
            (TokenScale's convertible decoders), in chunks that keep the TPOT target; more where a decision takes them
            by the tier `convert`. Played request by request only.
        first_token_at_prefill: the client gets its first token from the prefill engine, not with decode's first step.
        noise: standard deviation of the logarithm of a step's duration.
        block_size: tokens per KV block. settle_s: how long after the last arrival requests may still finish.
        start_at: Unix time of second 0, for policies that know the calendar.
        faults: the script.
    """

    profile: str = "llama-3.1-8b/a100-80gb/tp1"
    told_profile: str | None = None
    layout: Layout = Layout.COLOCATED
    minimum: int = 1
    maximum: int = 64
    initial: int | None = None
    slo: Slo = field(default_factory=Slo)
    routing: Routing = Routing.LEAST_LOADED
    gateway_limit: int | None = None
    gateway_most: int | None = None
    link_gbps: float = 100.0
    link_across: float = 0.8
    convertible: int = 0
    first_token_at_prefill: bool = False
    noise: float = 0.0
    block_size: int = 16
    settle_s: float = 120.0
    start_at: float = 1_700_092_800.0
    namespace: str = "default"
    pool: str = "pool"
    actuation: Actuation = field(default_factory=Actuation)
    supply: SupplySetup = field(default_factory=SupplySetup)
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        problems = [*self._numbers(), *_positive(self.actuation, "actuation"), *_positive(self.supply, "supply")]
        if not 0 <= self.minimum <= self.maximum:
            problems.append(f"minimum is {self.minimum} and maximum {self.maximum}; need 0 <= minimum <= maximum")
        if self.initial is not None and not self.minimum <= self.initial <= self.maximum:
            problems.append(f"initial is {self.initial}; it must be {self.minimum}..{self.maximum}, or None")
        if problems:
            raise BadSettings(tuple(problems))

    def _numbers(self) -> list[str]:
        problems = []
        if self.maximum < 1:
            problems.append(f"maximum is {self.maximum}; it must be >= 1")
        if not (math.isfinite(self.link_gbps) and self.link_gbps > 0):
            problems.append(f"link_gbps is {self.link_gbps}; it must be > 0 Gbit/s")
        if not 0 < self.link_across <= 1:
            problems.append(f"link_across is {self.link_across}; it must be above 0 and at most 1")
        if self.convertible < 0:
            problems.append(f"convertible is {self.convertible}; it must be >= 0 replicas")
        if not 0 <= self.noise <= 1:
            problems.append(f"noise is {self.noise}; it must be 0..1 (standard deviation of the logarithm)")
        if self.gateway_limit is not None and self.gateway_limit < 1:
            problems.append(f"gateway_limit is {self.gateway_limit}; it must be >= 1 request, or None")
        return problems


def _positive(part: Actuation | SupplySetup, name: str) -> list[str]:
    """Every number of a part must be >= 0 and not NaN; those that divide time must be > 0."""
    above = {"scrape_s", "window_s", "node_gpus", "domain_nodes", "start_scale"}
    problems = []
    for one in fields(part):
        value = getattr(part, one.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not value >= 0 or (one.name in above and value == 0):
            problems.append(f"{name}.{one.name} is {value}; it must be {'> 0' if one.name in above else '>= 0'}")
    return problems
