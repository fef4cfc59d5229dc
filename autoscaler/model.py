"""The nouns: what is seen, what is known of a pool, what was decided and why. Imports no other room.

Three counts, never one: `desired` (wanted), `starting` (asked for, not arrived), `ready` (arrived). Absence is None
("nobody reported"), never 0. Every observation carries the time of its own samples; age is judged on that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from autoscaler.supply import Supply  # noqa: TC001 - the journal's reader needs the class itself


class Role(StrEnum):
    """What the replicas of a workload do."""

    __hash__ = str.__hash__  # an enum's own is written in Python; keys with a role in them are looked up all the time

    PREFILL = "prefill"
    DECODE = "decode"
    COLOCATED = "colocated"


class Tier(StrEnum):
    """Where capacity comes from, nearest first.

    Converting (decode replicas that compute prompts) is done by the simulated world alone, waking by the live one.
    """

    RUNNING = "running"
    CONVERT = "convert"
    WAKE = "wake"
    START = "start"
    PREEMPT = "preempt"
    PROVISION = "provision"


class Step(StrEnum):
    """What a start consists of, in this order; a tier has those that apply to it."""

    NODE = "node"
    IMAGE = "image"
    SCHEDULE = "schedule"
    WEIGHTS = "weights"
    ENGINE = "engine"
    REGISTRATION = "registration"
    WAKE = "wake"


@dataclass(frozen=True, slots=True, order=True)
class RoleKey:
    """One scalable thing: a role of a pool."""

    namespace: str
    pool: str
    role: Role

    def __str__(self) -> str:
        """`namespace/pool/role`, the form used in logs, journals and series keys."""
        return f"{self.namespace}/{self.pool}/{self.role}"

    @classmethod
    def parse(cls, text: str) -> RoleKey:
        """Inverse of str(). Raises ValueError when `text` is not `namespace/pool/role`."""
        parts = text.split("/")
        if len(parts) != 3:  # noqa: PLR2004 - namespace, pool, role
            raise ValueError(f"{text!r} is not of the form namespace/pool/role")
        return cls(parts[0], parts[1], Role(parts[2]))


@dataclass(frozen=True, slots=True)
class EngineObservation:
    """One engine of a role by itself, for policies that look at them one by one. Sources that aggregate leave it out.

    Attributes:
        name: its pod, or pod and data-parallel rank; observations list engines in the order of names.
        running, waiting: requests. kv_usage: used share of KV, 0..1. kv_capacity: KV tokens it holds.
        kv_peak, waiting_peak: highest of the last minute's samples.
        waiting_tokens: uncached prompt tokens not yet computed, waiting or in the batch.
    """

    name: str
    running: float
    waiting: float
    kv_usage: float
    kv_capacity: float
    kv_peak: float
    waiting_peak: float
    waiting_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Start:
    """One replica's start that is over: from being asked for to serving.

    Attributes:
        name: of the pod; a start is learned from once, however often it is told.
        tier: where its GPUs came from.
        asked_at, served_at: Unix time it was asked for, and of its first token (or readiness, where no more is known).
        steps: (step, seconds) as far as told; what they leave of the whole counts as registration.
        together: starts of its role under way when it began, itself included.
    """

    name: str
    tier: Tier
    asked_at: float
    served_at: float
    steps: tuple[tuple[Step, float], ...] = ()
    together: int = 1


@dataclass(frozen=True, slots=True)
class RoleObservation:
    """What the engines of one role said. Rates are tokens/s, requests/s or seconds/s summed over the reporting engines.

    Attributes:
        key: whose it is.
        sampled_at: Unix time of the oldest newest-sample relied on; None when nothing fresh was reported.
        reporting: engines with fresh samples; `rate_engines` of them had two samples, so count in the rates.
        engines_per_replica: data-parallel engines behind one replica (1 unless several report from one target).
        ready: replicas that have arrived; None when nobody said.
        replicas: replicas that exist, ready or not (`status.replicas`); None when nobody said.
        stale: engines known to the source whose samples are too old or not finite.
        running: requests in running batches. waiting: queued in the engines. queued_at_gateway: held before them.
        kv_usage: mean used share of KV cache, 0..1. kv_capacity: KV tokens one engine holds.
        prompt_rate: prompt tokens/s with prefix hits; computed_rate: those really computed here.
        generation_rate: output tokens/s. first_token_rate, completion_rate: requests/s.
        prefill_busy: request-seconds/s in prefill. itl_busy / itl_tokens: mean inter-token latency, s.
        ttft_busy: seconds/s of TTFT, over first_token_rate its mean.
        step_rate: iterations/s. preemption_rate: requests/s thrown back for want of KV.
        transfer_bytes, transfer_busy: KV bytes/s and seconds/s on the link.
        arrival_rate, arrival_tokens: requests/s, and their prompt tokens/s with prefix hits, that came in at the
            gateway for this role, served or not; None where no gateway tells (and for decode, which prefill feeds).
        engines: the engines one by one, where the source tells them apart.
        starts: replicas that have come up lately; the same one may be told again and again.
        asleep: replicas that hold their GPUs while their engine sleeps, and can be woken; waking: told to wake, not
            serving yet. None: nobody said. Neither is `ready`; of the two only those waking are among `replicas`.
    """

    key: RoleKey
    sampled_at: float | None = None
    reporting: int = 0
    rate_engines: int = 0
    engines_per_replica: int = 1
    ready: int | None = None
    replicas: int | None = None
    stale: int = 0
    running: float | None = None
    waiting: float | None = None
    queued_at_gateway: float | None = None
    kv_usage: float | None = None
    kv_capacity: float | None = None
    prompt_rate: float | None = None
    computed_rate: float | None = None
    generation_rate: float | None = None
    first_token_rate: float | None = None
    completion_rate: float | None = None
    prefill_busy: float | None = None
    itl_busy: float | None = None
    itl_tokens: float | None = None
    ttft_busy: float | None = None
    step_rate: float | None = None
    preemption_rate: float | None = None
    transfer_bytes: float | None = None
    transfer_busy: float | None = None
    arrival_rate: float | None = None
    arrival_tokens: float | None = None
    engines: tuple[EngineObservation, ...] = ()
    starts: tuple[Start, ...] = ()
    asleep: int | None = None
    waking: int | None = None

    @property
    def itl(self) -> float | None:
        """Mean inter-token latency, s, over the window; None without tokens."""
        if self.itl_busy is None or not self.itl_tokens:
            return None
        return self.itl_busy / self.itl_tokens

    @property
    def ttft(self) -> float | None:
        """Mean time to first token, s, over the window; None without first tokens."""
        if self.ttft_busy is None or not self.first_token_rate:
            return None
        return self.ttft_busy / self.first_token_rate


@dataclass(frozen=True, slots=True)
class Stock:
    """GPUs of one accelerator type. None means not known, not unlimited.

    Attributes:
        free: prepared for the pools: what they hold already and what they could start on at once.
        preemptible: that training holds and would give up. provisionable: to be had as new nodes.
    """

    accelerator: str
    free: int | None = None
    preemptible: int | None = None
    provisionable: int | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything seen at one tick.

    Attributes:
        at: Unix time of the tick.
        roles: one per configured role, in configuration order; blind ones included.
        stocks: what supply there is, by accelerator.
        source: `prometheus`, `scrape`, `simulation`.
        notes: what a person should know about how this was seen.
        failure: why the source as a whole could not be read; None when it could.
        supply: the cluster's stock in detail; None where no cluster is watched.
    """

    at: float
    roles: tuple[RoleObservation, ...]
    stocks: tuple[Stock, ...] = ()
    source: str = ""
    notes: tuple[str, ...] = ()
    failure: str | None = None
    supply: Supply | None = None


@dataclass(frozen=True, slots=True)
class Velocity:
    """What one replica of a role can do, and how well that is known.

    Attributes:
        tokens: prefill: uncached prompt tokens/s; decode: output tokens/s at the ITL target; colocated: output
            tokens/s at the ITL target with the present prompt:output mix beside them.
        relative_sd: one standard deviation over `tokens`.
        basis: `profile`, `learned` or `learning`, then why, in words.
        binds: what limits it: `compute`, `itl`, `kv`, `batch`, `link`.
        batch: requests in the running batch at that rate; None for prefill.
    """

    tokens: float
    relative_sd: float
    basis: str
    binds: str
    batch: float | None = None


@dataclass(frozen=True, slots=True)
class Take:
    """Capacity asked of one supply tier."""

    tier: Tier
    replicas: int
    lead_s: float


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What was foreseen for one tier, and how far such bounds have been kept.

    Attributes:
        tier: of the supply. lead_s: planned for it, seconds. lead_basis: what that rests on.
        quantile: probability that the load stays within the bound, and quantile_basis: why this one.
        bound: tokens/s, that far ahead.
        coverage: share of the tier's past bounds that held, faded; None before any could be judged.
        judged: how many that was, faded. basis: what the bound rests on; `reactive: ...` where the forecast is not
            relied on.
        candidates: bounds of both ways of foreseeing, tokens/s, where there was a choice: by the last hours' changes,
            and by days of history.
    """

    tier: Tier
    lead_s: float
    quantile: float
    bound: float
    coverage: float | None = None
    judged: float = 0.0
    basis: str = ""
    lead_basis: str = ""
    quantile_basis: str = ""
    candidates: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RoleDecision:
    """What one role should have, and why.

    Attributes:
        key: whose it is.
        desired: replicas wanted in total, what runs and what starts included. None: nothing can be said yet.
        planned: what the plan wanted before the guards; None when there was no plan (blind).
        ready, starting: arrived; asked for and not arrived. None: not known.
        load: tokens/s arriving now (prefill: uncached prompt tokens; decode and colocated: output tokens).
        forecast: tokens/s at the upper quantile at the lead time that decided. velocity: of one replica.
        takes: where the additional replicas come from.
        shortage: replicas the plan could not find.
        blind: why this role cannot be judged; None when it can.
        guards: name and sentence of each guard that changed the number.
        reasons: the sentence's parts: forecast, binding constraint, tier, next-best cost.
        sampled_at: when the signals behind this were seen.
        foreseen: the bound planned for at each tier's lead time, soonest first.
    """

    key: RoleKey
    desired: int | None = None
    planned: int | None = None
    ready: int | None = None
    starting: int | None = None
    load: float | None = None
    forecast: float | None = None
    velocity: Velocity | None = None
    takes: tuple[Take, ...] = ()
    shortage: float = 0.0
    blind: str | None = None
    guards: tuple[tuple[str, str], ...] = ()
    reasons: tuple[str, ...] = ()
    sampled_at: float | None = None
    foreseen: tuple[Foreseen, ...] = ()

    @property
    def sentence(self) -> str:
        """The decision in words, one line."""
        head = f"{self.key}: " + ("no decision yet" if self.desired is None else f"{self.desired} replicas")
        if self.ready is not None:
            head += f" ({self.ready} ready" + (f", {self.starting} starting)" if self.starting else ")")
        parts = [*([f"blind: {self.blind}"] if self.blind else []), *self.reasons, *(why for _, why in self.guards)]
        return "; ".join([head, *parts])

    @property
    def brief(self) -> str:
        """The gist in a few words, for one line of a live view; `sentence` is the whole of it."""
        if self.blind:
            return f"blind: {self.blind}"
        said = [self.reasons[0].split("; ")[0]] if self.reasons else []
        if self.velocity is not None:
            said.append(f"{self.velocity.tokens:,.0f} a replica")
        if self.shortage > 0:
            said.append(f"short of {self.shortage:.0f}")
        return "; ".join([*said, *(why for _, why in self.guards[-1:])])


@dataclass(frozen=True, slots=True)
class PlanEvidence:
    """How the plan came about, for all roles. Costs: over its horizon, shortage included; `gap`: proven, relative."""

    status: str
    cost: float | None = None
    next_best_cost: float | None = None
    next_best: str | None = None
    binding: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    gap: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One tick's decision for every role, in configuration order."""

    at: float
    roles: tuple[RoleDecision, ...]
    plan: PlanEvidence | None = None
    failure: str | None = None

    @property
    def blind(self) -> bool:
        """Whether any role could not be judged at this tick."""
        return any(role.blind is not None for role in self.roles)
