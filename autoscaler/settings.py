"""The one door for configuration: YAML and `TIDEGATE_…` environment variables, checked, then frozen.

Environment variables override the file: `TIDEGATE_SOURCE__PROMETHEUS__URL` is `source.prometheus.url`. Lists (pools,
supply) come from the file only, or as JSON (`TIDEGATE_POOLS='[…]'`). Unknown keys are errors everywhere.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from autoscaler.model import Role

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://, for example http://prometheus.monitoring:9090")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(_address)]


class Door(BaseModel):
    """What every part of the configuration has in common: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BasicAuth(Door):
    """HTTP basic authentication."""

    username: str
    password: SecretStr | None = None
    password_file: str | None = Field(None, description="Read again when it changes.")

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("give exactly one of password and password_file")
        return self


class PrometheusSettings(Door):
    """Where the metrics are and how to get at them."""

    url: Url = Field("http://localhost:9090", description="Base address, path prefix included.")
    timeout_s: Seconds = Field(5.0, description="Deadline of one request, retries included. Seconds.")
    retries: int = Field(2, ge=0, le=10, description="Further attempts after a connection error, 429 or 5xx.")
    backoff_s: Seconds = Field(0.2, description="Wait before the first retry, doubling. Seconds.")
    concurrency: int = Field(4, ge=1, le=64, description="Queries in flight at once.")
    discovery_interval_s: Seconds = Field(60.0, description="How often the metric names are looked up again. Seconds.")
    bearer_token: SecretStr | None = Field(None, description="Sent as Authorization: Bearer.")
    bearer_token_file: str | None = Field(None, description="Read again when it changes.")
    basic_auth: BasicAuth | None = None
    tenant: str | None = Field(None, description="Sent as X-Scope-OrgID (Mimir, Cortex, Thanos).")
    headers: dict[str, str] = Field(default_factory=dict, description="Further request headers.")
    ca_file: str | None = Field(None, description="PEM bundle to verify the server with, instead of the system's.")
    cert_file: str | None = Field(None, description="Client certificate (PEM) for mutual TLS.")
    key_file: str | None = Field(None, description="Its key.")
    insecure_skip_verify: bool = Field(
        default=False, description="Do not verify the server's certificate. Trials only."
    )

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        given = [self.bearer_token is not None, self.bearer_token_file is not None, self.basic_auth is not None]
        if sum(given) > 1:
            raise ValueError("give at most one of bearer_token, bearer_token_file and basic_auth")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        return self


class ScrapeTarget(Door):
    """One engine endpoint, and the labels its samples carry."""

    url: Url
    labels: dict[str, str] = Field(default_factory=dict)


class ScrapeSettings(Door):
    """Engine endpoints asked directly, for clusters whose Prometheus is too slow."""

    targets: tuple[ScrapeTarget, ...] = Field((), description="Fixed endpoints.")
    file_sd: str | None = Field(
        None, description="Target list in Prometheus' file_sd format, read again when it changes."
    )
    interval_s: Seconds | None = Field(None, description="Scrape at this pace between ticks too. Seconds.")
    timeout_s: Seconds = Field(4.0, description="Deadline of one round of scrapes. Seconds.")
    concurrency: int = Field(64, ge=1, le=1024, description="Endpoints asked at once.")


class SourceSettings(Door):
    """How to see."""

    kind: Literal["prometheus", "scrape"] = Field(
        "prometheus", description="Ask Prometheus, or the engines themselves."
    )
    window_s: Seconds = Field(60.0, description="Window of all rates; at least four scrape intervals. Seconds.")
    max_age_s: Seconds = Field(60.0, description="Samples older than this do not count. Seconds.")
    namespace_label: str = Field("namespace", description="Label that holds a series' namespace.")
    model_label: str = Field("model_name", description="Label that holds the served model's name.")
    role_label: str = Field("role", description="Label that tells prefill from decode.")
    replica_counts: Literal["targets", "kube-state-metrics"] = Field(
        "targets",
        description="Ready replicas: scrape targets that are up, or kube-state-metrics' series in the same Prometheus.",
    )
    prometheus: PrometheusSettings = PrometheusSettings()
    scrape: ScrapeSettings = ScrapeSettings()


class SloSettings(Door):
    """What users were promised."""

    ttft_s: Seconds = Field(0.4, description="Time to first token. Seconds.")
    itl_s: Seconds = Field(0.1, description="Inter-token latency (TPOT). Seconds.")
    attainment: float = Field(0.95, gt=0.5, lt=1.0, description="Share of requests that should meet the TTFT target.")


class ScaleTarget(Door):
    """The Kubernetes object whose replicas follow."""

    kind: str = Field("Deployment", description="Deployment, StatefulSet or LeaderWorkerSet.")
    name: Name


class RoleSettings(Door):
    """One role of a pool: which series are its own, and its bounds."""

    match: dict[str, str] = Field(
        default_factory=dict,
        description="Label values its series carry, beside the pool's; the role label is added when this is empty.",
    )
    min_replicas: int = Field(1, ge=0, le=100_000)
    max_replicas: int = Field(..., ge=1, le=100_000, description="Never more than this.")
    target: ScaleTarget | None = None
    profile: str | None = Field(None, description="Hardware profile, when it differs from the pool's.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class PoolSettings(Door):
    """One model served by one set of replicas per role."""

    name: Name
    namespace: Name = "default"
    model_name: str | None = Field(
        None, description="Value of the model label; empty: series are not told apart by model."
    )
    match: dict[str, str] = Field(default_factory=dict, description="Further label values all its series carry.")
    profile: str = Field(
        "unknown", description="Hardware profile: model/accelerator/tpN, or `unknown` to learn it all."
    )
    accelerator: str | None = Field(None, description="GPU type in `supply`; the profile's own when empty.")
    slo: SloSettings = SloSettings()
    priority: float = Field(1.0, gt=0, le=1000, description="Weight of its shortage against other pools'.")
    link_gbps: float | None = Field(None, gt=0, description="Bandwidth of the KV link of one prefill replica. Gbit/s.")
    roles: dict[Role, RoleSettings] = Field(..., min_length=1)
    enabled: bool = True

    @model_validator(mode="after")
    def _roles_fit(self) -> Self:
        if Role.COLOCATED in self.roles and len(self.roles) > 1:
            raise ValueError("roles: a pool is either colocated or has prefill and decode, not both")
        return self


class SupplySettings(Door):
    """GPUs of one type that the pools may use together."""

    accelerator: str = Field(..., min_length=1)
    gpus: int | None = Field(None, ge=0, description="Prepared GPUs for all pools together; empty: not limited.")
    preemptible_gpus: int = Field(0, ge=0, description="Held by lower-priority training, to be had by preemption.")
    preempt_gang: int = Field(1, ge=1, description="GPUs that come only together when preempted.")
    provisionable_gpus: int = Field(0, ge=0, description="To be had as new nodes.")
    node_gpus: int = Field(1, ge=1, description="GPUs of one new node.")
    price_per_gpu_hour: float = Field(2.5, gt=0)
    preempt_price_per_gpu: float = Field(1.0, ge=0, description="Lost training work and requeue, per GPU taken, once.")
    provision_price_per_gpu: float = Field(0.5, ge=0, description="Minimum billing of a new node, per GPU, once.")


class LeadSettings(Door):
    """How long each tier takes from the order to the first token. Learned figures replace these later. Seconds."""

    start_s: Seconds = Field(115.0, description="New replica on a free prepared GPU (measured median, llm-d FMA).")
    preempt_s: Seconds = Field(160.0, description="Start after training has checkpointed and left (+45 s).")
    provision_s: Seconds = Field(300.0, description="New node, image, weights, engine.")

    @model_validator(mode="after")
    def _ladder(self) -> Self:
        if not self.start_s <= self.preempt_s <= self.provision_s:
            raise ValueError(
                "start_s, preempt_s and provision_s must not fall: each tier is at least as slow as the last"
            )
        return self


class GuardSettings(Door):
    """How cautious to be."""

    stabilise_down_s: float = Field(
        300.0, ge=0, le=86_400, description="The wish falls to the highest plan of this long."
    )
    most_up: float = Field(4.0, gt=0, description="Largest growth per tick, as a share of what is there.")
    most_up_replicas: int = Field(8, ge=1, description="... but at least this many replicas.")
    most_down: float = Field(
        0.5, gt=0, le=1, description="Largest shrinkage per tick, as a share; at least one replica."
    )
    hpa_tolerance: float = Field(
        0.0, ge=0, lt=1, description="Dead band of the HPA that follows; 0.1 without tolerance: 0."
    )
    start_deadline_s: Seconds = Field(900.0, description="Asked for so long and not arrived: no longer counted on.")


class ForecastSettings(Door):
    """How far and how surely to look ahead."""

    kind: Literal["last-value", "quantile"] = "quantile"
    quantile: float = Field(0.9, ge=0.5, lt=1.0, description="Upper quantile of the load that is planned for.")
    history_s: Seconds = Field(21_600.0, description="Load history kept in memory. Seconds.")


class PlanSettings(Door):
    """How the plan is made."""

    time_limit_s: Seconds = Field(2.0, description="The solver's; greedy answers when it is over.")
    gap: float = Field(0.005, ge=0, lt=1, description="Accepted distance from the optimum.")
    horizon_s: Seconds = Field(3600.0, description="Span over which costs are compared. Seconds.")
    budget_per_hour: float | None = Field(None, gt=0, description="Most that all replicas may cost per hour.")
    max_gpus_preempted: int | None = Field(None, ge=0, description="Most GPUs preempted at once.")
    shortage_price: float = Field(20.0, gt=0, description="Price of one missing replica for an hour, per GPU of it.")


class TlsSettings(Door):
    """Certificate of the external-metrics API."""

    cert_file: str | None = Field(
        None, description="Server certificate (PEM); empty: self-signed, kept in `directory`."
    )
    key_file: str | None = None
    directory: str = Field(".tidegate/tls", description="Where the self-signed CA and certificate are kept.")
    names: tuple[str, ...] = Field(
        ("localhost", "127.0.0.1", "tidegate.tidegate-system.svc"),
        description="Names and addresses in the certificate.",
    )

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        return self


class ServingSettings(Door):
    """The ways out."""

    host: str = Field("127.0.0.1", description="Where the external-metrics API listens (TLS). 0.0.0.0 in a pod.")
    port: int = Field(6443, ge=0, le=65_535, description="0 picks a free port.")
    group: str = Field("external.metrics.k8s.io", description="API group; another where KEDA owns this one.")
    status_host: str = Field("127.0.0.1", description="Where /metrics, health and the status page listen (plain HTTP).")
    status_port: int = Field(8080, ge=0, le=65_535, description="0 picks a free port.")
    soft_age_s: Seconds = Field(45.0, description="Decisions older than this are marked as ageing. Seconds.")
    hard_age_s: Seconds = Field(120.0, description="Decisions older than this are refused (503). Seconds.")
    tls: TlsSettings = TlsSettings()

    @model_validator(mode="after")
    def _ages(self) -> Self:
        if self.soft_age_s > self.hard_age_s:
            raise ValueError(f"soft_age_s {self.soft_age_s:g} is above hard_age_s {self.hard_age_s:g}")
        return self


class LoopSettings(Door):
    """The control loop, and what it leaves behind."""

    interval_s: Seconds = Field(15.0, description="Time between ticks. Seconds.")
    memory_file: str | None = Field(".tidegate/memory.json", description="Saved after each tick; a restart continues.")
    journal_file: str | None = Field(
        ".tidegate/journal.jsonl", description="One line per tick: what was seen and decided."
    )
    journal_mb: float = Field(
        64.0, gt=0, description="The journal is turned over at this size; one older file is kept."
    )


class Settings(BaseSettings):
    """The effective configuration."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEGATE_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    source: SourceSettings = SourceSettings()
    loop: LoopSettings = LoopSettings()
    pools: tuple[PoolSettings, ...] = Field(..., min_length=1)
    supply: tuple[SupplySettings, ...] = Field((), description="Empty: start on free GPUs without limit.")
    profiles_dir: str | None = Field(None, description="Folder with further hardware profiles (YAML).")
    lead: LeadSettings = LeadSettings()
    forecast: ForecastSettings = ForecastSettings()
    plan: PlanSettings = PlanSettings()
    guards: GuardSettings = GuardSettings()
    serving: ServingSettings = ServingSettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file (the file arrives as init arguments); nothing else."""
        _ = settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _no_twins(self)
        _stocks_known(self)
        return self


def series_match(settings: Settings, pool: PoolSettings, role: Role) -> dict[str, str]:
    """The label values that make a series belong to this role: namespace, model, the pool's and the role's own."""
    own = pool.roles[role]
    match = {settings.source.namespace_label: pool.namespace}
    if pool.model_name is not None:
        match[settings.source.model_label] = pool.model_name
    match |= pool.match
    if not own.match and len(pool.roles) > 1:
        match[settings.source.role_label] = role.value
    return match | own.match


def _no_twins(settings: Settings) -> None:
    seen: dict[tuple[str, str], int] = {}
    matches: dict[frozenset[tuple[str, str]], str] = {}
    for index, pool in enumerate(settings.pools):
        if (pool.namespace, pool.name) in seen:
            raise ValueError(
                f"pools[{index}].name: {pool.namespace}/{pool.name} is the name of "
                f"pools[{seen[pool.namespace, pool.name]}] already; names must differ within a namespace"
            )
        seen[pool.namespace, pool.name] = index
        for role in pool.roles:
            match = frozenset(series_match(settings, pool, role).items())
            twin = matches.setdefault(match, f"pools[{index}].roles.{role}")
            if twin != f"pools[{index}].roles.{role}":
                raise ValueError(
                    f"pools[{index}].roles.{role}: selects the same series as {twin} "
                    f"({', '.join(f'{k}={v}' for k, v in sorted(match))}); they would be counted twice: "
                    "add a `match` label that tells them apart"
                )


def _stocks_known(settings: Settings) -> None:
    names = [supply.accelerator for supply in settings.supply]
    for index, name in enumerate(names):
        if names.index(name) != index:
            raise ValueError(f"supply[{index}].accelerator: {name!r} is listed already; one entry per accelerator")
    for index, pool in enumerate(settings.pools):
        if names and pool.accelerator is not None and pool.accelerator not in names:
            raise ValueError(
                f"pools[{index}].accelerator: {pool.accelerator!r} is not in supply; there are {', '.join(names)}"
            )
