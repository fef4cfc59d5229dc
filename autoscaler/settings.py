"""The one door for configuration: YAML and `TIDEGATE_…` environment variables, checked, then frozen.

Environment variables override the file: `TIDEGATE_SOURCE__PROMETHEUS__URL` is `source.prometheus.url`. Lists (pools,
supply) come from the file, or as JSON (`TIDEGATE_POOLS='[…]'`). Unknown keys are errors everywhere. Each field's
description and unit are the configuration reference (reference.py).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from autoscaler.model import Role
from autoscaler.settings_checks import problems, series_match
from autoscaler.settings_cluster import ClusterSettings, Mode
from autoscaler.settings_keda import KedaSettings  # noqa: TC001 - pydantic needs the class itself
from autoscaler.settings_serving import AuthenticationSettings, ServiceSettings
from autoscaler.settings_source import PrometheusSettings, SourceSettings
from autoscaler.settings_types import (
    CertificateName,
    Door,
    File,
    Gpus,
    HeaderText,
    Label,
    LowerCase,
    Name,
    Namespace,
    ObjectName,
    Port,
    Price,
    Replicas,
    Seconds,
    SecondsOrNone,
    SomeGpus,
    SomePrice,
    SomeReplicas,
    Spread,
    Text,
)

__all__ = ["PoolSettings", "PrometheusSettings", "RoleSettings", "Settings", "series_match"]


class SloSettings(Door):
    """What users were promised."""

    ttft_s: Seconds = Field(0.4, description="Time to first token (TTFT).")
    itl_s: Seconds = Field(0.1, description="Inter-token latency (ITL, TPOT).")
    attainment: float = Field(0.95, gt=0.5, lt=1.0, description="Share of requests that should meet the TTFT target.")


class ScaleTarget(Door):
    """The Kubernetes object whose replicas follow."""

    kind: Literal[
        "Deployment",
        "StatefulSet",
        "LeaderWorkerSet",
        "RoleBasedGroupScalingAdapter",
        "DisaggregatedSetRoleScaler",
        "PodClique",
        "PodCliqueScalingGroup",
        "DynamoGraphDeploymentScalingAdapter",
    ] = Field("Deployment", description="Kind; kube-state-metrics counts the first two only.")
    name: ObjectName = Field(..., description="Its name, in the pool's namespace.")


class RoleSettings(Door):
    """One role of a pool: which series are its own, and its bounds."""

    match: dict[Label, str] = Field(
        default_factory=dict,
        description="Label values its series carry, beside the pool's; the role label is added when this is empty "
        "and the pool has two roles.",
    )
    min_replicas: Replicas = Field(1, description="Never fewer than this.")
    max_replicas: SomeReplicas = Field(..., description="Never more than this.")
    target: ScaleTarget | None = Field(None, description="The object that is scaled, for its replica counts.")
    profile: Text | None = Field(None, description="Hardware profile, when it differs from the pool's.")

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas: {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class PoolSettings(Door):
    """One model served by one set of replicas per role."""

    name: Name = Field(..., description="The served metric's `tidegate.dev/workload` label; unique in its namespace.")
    namespace: Namespace = Field("default", description="Where its pods are, and where its metric is served.")
    model_name: Text | None = Field(
        None, description="Value of the model label; empty: series are not told apart by model."
    )
    match: dict[Label, str] = Field(default_factory=dict, description="Further label values all its series carry.")
    profile: Text = Field(
        "unknown", description="Hardware profile: model/accelerator/tpN, or `unknown` to learn it all."
    )
    accelerator: Text | None = Field(None, description="GPU type in `supply`; the profile's own when empty.")
    slo: SloSettings = Field(SloSettings(), description="Latency targets.")
    priority: float = Field(1.0, gt=0, le=1000, description="Weight of its shortage against other pools'.")
    link_gbps: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Bandwidth of one prefill replica's KV link.",
        json_schema_extra={"unit": "Gbit/s"},
    )
    roles: dict[Role, RoleSettings] = Field(
        ..., min_length=1, description="Either `colocated`, or `prefill` and `decode`."
    )
    enabled: bool = Field(default=True, description="false: not looked at, and its metric says so.")
    mode: Mode | None = Field(None, description="Most that may be done for it; empty: as `cluster` says.")

    @model_validator(mode="after")
    def _roles_fit(self) -> Self:
        if Role.COLOCATED in self.roles and len(self.roles) > 1:
            raise ValueError("roles: a pool is either colocated or has prefill and decode, not both")
        return self


class SupplySettings(Door):
    """GPUs of one type that the pools may use together."""

    accelerator: Text = Field(..., description="GPU type, as in the profiles or one of their aliases.")
    gpus: Gpus | None = Field(None, description="Prepared GPUs for all pools together; empty: not limited.")
    preemptible_gpus: Gpus = Field(0, description="Held by lower-priority training, to be had by preemption.")
    preempt_gang: SomeGpus = Field(1, description="GPUs that come only together when preempted.")
    provisionable_gpus: Gpus = Field(0, description="To be had as new nodes, those ordered already included.")
    node_gpus: SomeGpus = Field(1, description="GPUs of one new node.")
    price_per_gpu_hour: SomePrice = Field(2.5, description="Price of one GPU for an hour.")
    node_commitment_s: SecondsOrNone = Field(600.0, description="A new node is paid for at least so long.")
    preempt_price_per_gpu: Price = Field(1.0, description="Lost training work and requeue, per GPU taken, once.")
    provision_price_per_gpu: Price = Field(0.5, description="Minimum billing of a new node, per GPU, once.")


class LeadSettings(Door):
    """How long each tier takes from the order to the first token, until starts have been seen; learned from then on.

    The spreads (90th percentile over median) are those of measured starts, 200/115 and waking 18/13, and judged
    325/174 and 720/300 (the profiles' lead-times.yaml). Waking is never planned slower than a start.
    """

    wake_s: Seconds = Field(13.0, description="Waking a sleeping engine (9 to 18 s measured on H100s, llm-d FMA).")
    start_s: Seconds = Field(115.0, description="New replica on a free prepared GPU (measured median, llm-d FMA).")
    preempt_s: Seconds = Field(160.0, description="Start after training has checkpointed and left (+45 s).")
    provision_s: Seconds = Field(300.0, description="New node, image, weights, engine.")
    wake_spread: Spread = Field(1.38, description="90th percentile of `wake_s` over its median; 1: as it stands.")
    start_spread: Spread = Field(1.74, description="The same of `start_s`.")
    preempt_spread: Spread = Field(1.87, description="The same of `preempt_s`.")
    provision_spread: Spread = Field(2.4, description="The same of `provision_s`.")
    quantile: float = Field(0.9, ge=0.5, le=0.999, description="The planned lead time is kept with this probability.")

    @model_validator(mode="after")
    def _ladder(self) -> Self:
        if not self.start_s <= self.preempt_s <= self.provision_s:
            raise ValueError(
                f"start_s {self.start_s:g}, preempt_s {self.preempt_s:g} and provision_s {self.provision_s:g} must not "
                "fall: each tier is at least as slow as the one before"
            )
        return self


class GuardSettings(Door):
    """How cautious to be."""

    stabilise_down_s: SecondsOrNone = Field(300.0, description="The wish falls to the highest plan of this long...")
    hold_s: SecondsOrNone = Field(
        60.0, description="...or of this long, where the load's past says it will not soon need more again."
    )
    hold_quantile: float = Field(0.9, gt=0, lt=1, description="Probability that it does not, within stabilise_down_s.")
    most_up: float = Field(4.0, gt=0, le=1e6, description="Largest growth per tick, as a share of what is there.")
    most_up_replicas: SomeReplicas = Field(8, description="... but at least this many replicas.")
    most_down: float = Field(
        0.5, gt=0, le=1, description="Largest shrinkage per tick, as a share; at least one replica."
    )
    hpa_tolerance: float = Field(
        0.0, ge=0, lt=1, description="Dead band of the HPA that follows; 0.1 where its behaviour sets no tolerance."
    )
    start_deadline_s: Seconds = Field(900.0, description="Asked for so long and not arrived: no longer counted on.")


class ForecastSettings(Door):
    """How far and how surely to look ahead."""

    kind: Literal["last-value", "quantile"] = Field(
        "quantile", description="The load as it is, or its upper quantile by what it did before."
    )
    quantile_by: Literal["prices", "fixed"] = Field(
        "prices",
        description="prices: each tier's own quantile, from what a missing replica costs against an idle one over the "
        "time it is kept; fixed: `quantile` for all.",
    )
    quantile: float = Field(
        0.9, ge=0.5, lt=1.0, description="Upper quantile of the load that is planned for, with quantile_by: fixed."
    )
    least_quantile: float = Field(0.85, ge=0.5, lt=1.0, description="Never less, whatever the prices say.")
    most_quantile: float = Field(0.99, ge=0.5, lt=1.0, description="Never more.")
    fallback_margin: float = Field(
        0.3,
        ge=0,
        le=10,
        description="Head-room on the present load one minute ahead where the forecast is too young or was wrong too "
        "often; grows with the square root of the lead, up to the load itself. 0: the forecast is taken as it is.",
    )
    history_s: Seconds = Field(
        21_600.0,
        description="Load history kept in memory; a start without memory reads as much from Prometheus.",
    )

    @model_validator(mode="after")
    def _quantiles(self) -> Self:
        if self.least_quantile > self.most_quantile:
            raise ValueError(f"least_quantile: {self.least_quantile:g} is above most_quantile {self.most_quantile:g}")
        return self


class PlanSettings(Door):
    """How the plan is made."""

    time_limit_s: Seconds = Field(2.0, description="Of work for the solver; the clock ends it at twice as many.")
    gap: float = Field(0.005, ge=0, lt=1, description="Accepted distance from the optimum, as a share.")
    horizon_s: Seconds = Field(3600.0, description="Span over which costs are compared.")
    budget_per_hour: Annotated[float, Field(gt=0, le=1e12)] | None = Field(
        None, description="Most that all replicas may cost per hour; empty: no limit."
    )
    max_gpus_preempted: Gpus | None = Field(None, description="Most GPUs preempted at once; empty: no limit.")
    shortage_price: SomePrice = Field(20.0, description="Price of one missing replica for an hour, per GPU of it.")


class TlsSettings(Door):
    """Certificate of the external-metrics API."""

    cert_file: File | None = Field(
        None, description="Server certificate (PEM), with key_file; empty: self-signed, kept in `directory`."
    )
    key_file: File | None = Field(None, description="Its key (PEM, no passphrase).")
    directory: File = Field(".tidegate/tls", description="Where the self-signed CA and certificate are kept.")
    names: tuple[CertificateName, ...] = Field(
        (
            "localhost",
            "127.0.0.1",
            "tidegate.tidegate-system.svc",
            "tidegate-headless.tidegate-system.svc.cluster.local",
        ),
        min_length=1,
        description="Names and addresses in the self-signed certificate.",
    )

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        return self


class ServingSettings(Door):
    """The ways out."""

    host: HeaderText = Field("127.0.0.1", description="Where the external-metrics API listens (TLS). 0.0.0.0 in a pod.")
    port: Port = Field(6443, description="Its port; 0 picks a free one.")
    group: ObjectName = Field("external.metrics.k8s.io", description="API group; another where KEDA owns this one.")
    custom_group: ObjectName = Field("custom.metrics.k8s.io", description="API group of the custom metrics.")
    discovery: Literal["static", "full"] = Field(
        "static", description="static: resource lists name one metric; full: every metric there is."
    )
    infeasible: Literal["last", "refuse"] = Field(
        "last", description="While no plan is feasible: the last feasible number is served, or none (503)."
    )
    authentication: AuthenticationSettings = Field(AuthenticationSettings(), description="Who may ask.")
    service: ServiceSettings = Field(ServiceSettings(), description="Our Service, as APIService objects name it.")
    status_host: HeaderText = Field(
        "127.0.0.1", description="Where /metrics, health and the status page listen (plain HTTP). 0.0.0.0 in a pod."
    )
    status_port: Port = Field(8080, description="Their port; 0 picks a free one.")
    dashboard: Literal["auto", "open"] = Field(
        "auto",
        description="auto: on port for those who may ask there, on status_port only where it is loopback; open: on "
        "both, whoever asks.",
    )
    soft_age_s: Seconds = Field(45.0, description="Decisions older than this are marked as ageing.")
    hard_age_s: Seconds = Field(120.0, description="Decisions older than this are refused (503).")
    drain_s: SecondsOrNone = Field(0.0, description="After SIGTERM: not ready, still answering. 5 behind a Service.")
    keda: KedaSettings | None = Field(None, description="KEDA's external scaler (gRPC); empty: not served.")
    tls: TlsSettings = Field(TlsSettings(), description="Certificate of the external-metrics API.")

    @model_validator(mode="after")
    def _ages(self) -> Self:
        if self.soft_age_s > self.hard_age_s:
            raise ValueError(f"soft_age_s: {self.soft_age_s:g} is above hard_age_s {self.hard_age_s:g}")
        if self.port and self.port == self.status_port and self._same_host():
            raise ValueError(f"status_port: {self.port} is the port of the external-metrics API already; use another")
        return self

    def _same_host(self) -> bool:
        return self.host == self.status_host or not {self.host, self.status_host}.isdisjoint({"0.0.0.0", "::"})


class LoopSettings(Door):
    """The control loop, and what it leaves behind."""

    interval_s: Seconds = Field(15.0, description="Time between ticks.")
    memory_file: File | None = Field(
        ".tidegate/memory.json", description="What a restart continues from; empty: nothing is saved."
    )
    journal_file: File | None = Field(
        ".tidegate/journal.jsonl", description="One line per tick: what was seen and decided; empty: none is written."
    )
    journal_mb: float = Field(
        64.0,
        gt=0,
        le=1e6,
        description="The journal is turned over at this size; one older file is kept.",
        json_schema_extra={"unit": "MB"},
    )

    @model_validator(mode="after")
    def _two_files(self) -> Self:
        if self.memory_file is not None and self.memory_file == self.journal_file:
            raise ValueError(f"journal_file: {self.journal_file!r} is the memory_file as well; name another")
        return self


class Settings(Door):
    """The effective configuration."""

    source: SourceSettings = Field(SourceSettings(), description="Where to look.")
    loop: LoopSettings = Field(LoopSettings(), description="The control loop and its files.")
    pools: tuple[PoolSettings, ...] = Field(..., description="What to scale.")
    supply: tuple[SupplySettings, ...] = Field((), description="GPUs to be had; empty: free GPUs without limit.")
    profiles_dir: File | None = Field(None, description="Folder with further hardware profiles (YAML).")
    lead: LeadSettings = Field(LeadSettings(), description="Lead times of the supply.")
    forecast: ForecastSettings = Field(ForecastSettings(), description="The forecast.")
    plan: PlanSettings = Field(PlanSettings(), description="The optimiser.")
    guards: GuardSettings = Field(GuardSettings(), description="Caution.")
    serving: ServingSettings = Field(ServingSettings(), description="The servers.")
    cluster: ClusterSettings = Field(ClusterSettings(), description="Watching Kubernetes, and acting on it.")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], LowerCase] = Field(
        "info", description="Least severe log lines that are written (to stderr)."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        found = list(problems(self))
        if found:
            raise ValueError("\n".join(found))
        return self
