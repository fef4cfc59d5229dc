"""The settings under `cluster`: whether and how Tidegate watches Kubernetes and acts on it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from autoscaler.settings_types import (
    Door,
    File,
    Gpus,
    Namespace,
    ObjectName,
    Replicas,
    Seconds,
    SecondsOrNone,
    SomeGpus,
    SomeReplicas,
    Text,
    Url,
)

Mode = Literal["off", "shadow", "active"]


def _qualified(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if not name or (slash and not prefix) or len(name) > 63 or any(c.isspace() for c in text):  # noqa: PLR2004 - RFC 1123
        raise ValueError("must be a Kubernetes label or annotation name, such as topology.kubernetes.io/zone")
    return text


Qualified = Annotated[str, Field(min_length=1, max_length=317), AfterValidator(_qualified)]


class TierModes(Door):
    """Which kinds of action may be carried out; empty: as `mode` says."""

    replicas: Mode | None = Field(None, description="Setting replicas through /scale, or clamping an HPA.")
    preempt: Mode | None = Field(None, description="Taking GPUs from training, and giving them back.")
    provision: Mode | None = Field(None, description="Ordering nodes.")
    weights: Mode | None = Field(None, description="Loading weights ahead of pods.")
    release: Mode | None = Field(None, description="Marking which pods should go first, and draining them.")
    sleep: Mode | None = Field(None, description="Putting engines to sleep, and waking them.")


class PreemptionSettings(Door):
    """Which training may be taken, and how."""

    namespaces: tuple[Namespace, ...] = Field(
        (), description="Training in these needs no label; elsewhere `tidegate.dev/preemptible: true` says that it may."
    )
    below_priority: int = Field(0, description="Only pods of a priority below this are training that may be taken.")
    min_runtime_s: SecondsOrNone = Field(300.0, description="Training younger than this is left alone.")
    cooldown_s: SecondsOrNone = Field(900.0, description="Training given back is left alone for so long.")
    give_back_after_s: SecondsOrNone = Field(
        120.0, description="GPUs must have been free, and no pool waiting, for so long before training returns."
    )
    checkpoint_annotations: tuple[Qualified, ...] = Field(
        ("tidegate.dev/last-checkpoint", "volcano.sh/last-checkpoint-time"),
        description="Annotations with the time of the last checkpoint (RFC 3339 or Unix seconds).",
    )
    evict: bool = Field(
        default=False, description="Evict the pods of training that nothing can suspend, as its budgets allow."
    )


class NodeClaimSettings(Door):
    """Karpenter: create standalone NodeClaims."""

    kind: ClassVar[str] = "nodeclaim"
    spec: dict[str, Any] = Field(..., description="Spec of karpenter.sh/v1 NodeClaim.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels of its node.")


class NodePoolSettings(Door):
    """Karpenter: replicas of a static NodePool."""

    kind: ClassVar[str] = "nodepool"
    name: ObjectName = Field(..., description="The NodePool; it must have spec.replicas.")


class ProvisioningRequestSettings(Door):
    """cluster-autoscaler: all nodes at once or none."""

    kind: ClassVar[str] = "provisioning-request"
    namespace: Namespace = Field(..., description="Where the request and its pod template are made.")
    class_name: Text = Field(
        "best-effort-atomic-scale-up.autoscaling.x-k8s.io", description="The request's provisioningClassName."
    )
    parameters: dict[str, str] = Field(default_factory=dict, description="The request's parameters.")
    pod_spec: dict[str, Any] = Field(..., description="Spec of a pod that fills one node.")


class BufferSettings(Door):
    """cluster-autoscaler, Karpenter: replicas of a CapacityBuffer."""

    kind: ClassVar[str] = "capacity-buffer"
    namespace: Namespace = Field(..., description="Where it is.")
    name: ObjectName = Field(..., description="Its name; one chunk of it must be one node.")


class WebhookSettings(Door):
    """Anything else: a POST that asks for so many nodes in all."""

    kind: ClassVar[str] = "webhook"
    url: Url = Field(..., description="Where to POST {accelerator, nodes, action}; repeated with the same action id.")


class ProvisionSettings(Door):
    """How nodes of one accelerator type are ordered: exactly one of the ways below."""

    accelerator: Text = Field(..., description="GPU type, as in `supply`.")
    node_gpus: SomeGpus = Field(..., description="GPUs of one node.")
    max_nodes: SomeReplicas = Field(..., description="Never more ordered nodes than this.")
    release_after_s: Seconds = Field(600.0, description="A node we ordered that served nobody for so long is returned.")
    nodeclaim: NodeClaimSettings | None = Field(None, description="Karpenter's NodeClaims.")
    nodepool: NodePoolSettings | None = Field(None, description="A static NodePool of Karpenter.")
    provisioning_request: ProvisioningRequestSettings | None = Field(None, description="cluster-autoscaler.")
    capacity_buffer: BufferSettings | None = Field(None, description="A CapacityBuffer.")
    webhook: WebhookSettings | None = Field(None, description="Anything else.")

    @property
    def ways(self) -> tuple[Provisioner, ...]:
        """The ways that are given."""
        all_ways = (self.nodeclaim, self.nodepool, self.provisioning_request, self.capacity_buffer, self.webhook)
        return tuple(way for way in all_ways if way is not None)

    @property
    def by(self) -> Provisioner:
        """The one way."""
        return self.ways[0]

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if len(self.ways) != 1:
            given = ", ".join(way.kind for way in self.ways) or "none"
            raise ValueError(
                "give exactly one of nodeclaim, nodepool, provisioning_request, capacity_buffer and webhook; "
                f"given: {given}"
            )
        return self


Provisioner = NodeClaimSettings | NodePoolSettings | ProvisioningRequestSettings | BufferSettings | WebhookSettings


class WeightsSettings(Door):
    """Where a pool's weights are kept close to its pods."""

    namespace: Namespace = Field(..., description="The pool's namespace, where its Fluid dataset is.")
    pool: Text = Field(..., description="The pool.")
    dataset: ObjectName = Field(..., description="Fluid Dataset that holds the weights.")
    runtime: Literal["AlluxioRuntime", "JuiceFSRuntime"] = Field("AlluxioRuntime", description="Its runtime's kind.")
    min_workers: SomeReplicas = Field(1, description="Never fewer cache workers.")
    max_workers: SomeReplicas = Field(8, description="Never more cache workers.")


class ReleaseSettings(Door):
    """How a pool's replicas are let go: the emptiest first, drained, and some only put to sleep."""

    namespace: Namespace = Field(..., description="The pool's namespace.")
    pool: Text = Field(..., description="The pool; its replicas must be set by actuator scale or clamp.")
    scheme: Literal["http", "https"] = Field("http", description="How its engines are asked.")
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(8000, description="Port of its engines, at their pods' IPs.")
    metrics_path: Annotated[str, Field(pattern=r"^/\S*$", max_length=200)] = Field(
        "/metrics", description="Where an engine says how many requests and KV tokens it has."
    )
    route_label: Qualified = Field(
        "tidegate.dev/serving",
        description='Pod label that a Service or InferencePool selects with value "true"; "false" while a pod drains. '
        "It must not be in the workload's own selector.",
    )
    drain_s: SecondsOrNone = Field(
        0.0, description="A pod that leaves may finish its requests for so long; 0: none is drained, unless it sleeps."
    )
    asleep: Replicas = Field(0, description="So many replicas are put to sleep instead of deleted (Deployments only).")
    sleep_level: Literal[1, 2] = Field(1, description="vLLM's level: 1 keeps weights in host memory, 2 discards them.")


class PullSettings(Door):
    """Pulling a pool's images onto nodes before its pods come there."""

    namespace: Namespace = Field(..., description="The pool's namespace; the jobs are made there.")
    pool: Text = Field(..., description="The pool.")
    at_once: SomeReplicas = Field(4, description="Never more jobs at once: registries and links are shared.")
    longest_s: Seconds = Field(1800.0, description="A pull that takes longer is ended.")
    again_s: Seconds = Field(3600.0, description="A job is removed, and a node looked at anew, so long after its end.")
    tolerations: tuple[dict[str, Any], ...] = Field((), description="Tolerations of the jobs, as for the pool's pods.")


class SourceSettings(Door):
    """Telling loaders which pods have the weights already, for loading from peer to peer."""

    namespace: Namespace = Field(..., description="The pool's namespace.")
    pool: Text = Field(..., description="The pool.")
    config_map: ObjectName = Field(
        ..., description="ConfigMap that its pods take as environment (envFrom): TIDEGATE_WEIGHTS_SOURCES."
    )
    port: Annotated[int, Field(ge=1, le=65_535)] = Field(8001, description="Port where pods hand out their weights.")
    most: SomeReplicas = Field(8, description="So many are named, those in most different network domains first.")


class ActionBudget(Door):
    """How much may be done per hour, whatever was decided."""

    gpus_preempted_per_hour: Gpus = Field(64, description="GPUs taken from training within any hour.")
    nodes_per_hour: Annotated[int, Field(ge=0, le=100_000)] = Field(8, description="Nodes ordered within any hour.")
    actions_per_tick: SomeReplicas = Field(50, description="Actions begun in one tick; the rest follow in the next.")
    writes_per_second: float = Field(5.0, gt=0, le=1000, description="API writes, on average.")


class QuarantineSettings(Door):
    """What fails again and again is left alone for a while."""

    failures: SomeReplicas = Field(3, description="Failures in a row of one action on one object.")
    for_s: Seconds = Field(900.0, description="How long it is then left alone.")


class ElectionSettings(Door):
    """One of several replicas acts."""

    enabled: bool = Field(default=True, description="false: this process is the only one.")
    lease: ObjectName = Field("tidegate", description="Name of the Lease, in `cluster.namespace`.")
    duration_s: float = Field(
        10.0,
        ge=1,
        le=600,
        description="Others take over after so long without renewal.",
        json_schema_extra={"unit": "s"},
    )
    renew_deadline_s: Seconds = Field(7.0, description="This process stops acting after so long without renewal.")
    retry_s: Seconds = Field(1.5, description="Time between tries.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.retry_s < self.renew_deadline_s < self.duration_s:
            raise ValueError(
                f"renew_deadline_s: {self.renew_deadline_s:g} must lie between retry_s {self.retry_s:g} and "
                f"duration_s {self.duration_s:g}, or two replicas could act at once"
            )
        return self


class TokenPoolSettings(Door):
    """Pools declared as objects: custom resources of kind TokenPool, beside `pools`, which may then be empty."""

    enabled: bool = Field(default=False, description="true: watch them; their definition must be installed first.")
    namespaces: tuple[Namespace, ...] = Field((), description="Those of these namespaces only; empty: of all.")
    settle_s: SecondsOrNone = Field(
        2.0, description="A change is taken over so long after the last one; the loop then begins anew."
    )
    status_every_s: Seconds = Field(10.0, description="The counts in one's status are written at most so often.")


class ShardSettings(Door):
    """Pools over several processes, where one is not enough. Each shard has its own leader and stand-ins.

    Stocks, training and budgets are split evenly among the shards; none promises what is another's.
    """

    ordinal: Annotated[int, Field(ge=0, le=100_000)] = Field(
        0, description="Number of this process, such as its StatefulSet's pod index; shards are taken in turns."
    )
    of: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Number of shards; two replicas for each leave none without a stand-in. 1: not sharded."
    )


class ClusterSettings(Door):
    """Kubernetes: what is watched there, and what may be done."""

    enabled: bool = Field(default=False, description="true: watch the cluster's stock, and act as `mode` says.")
    kubeconfig: File | None = Field(None, description="File to reach it with; empty: the pod's own service account.")
    context: Text | None = Field(None, description="Context in it; the current one when empty.")
    namespace: Namespace = Field("tidegate-system", description="Tidegate's own namespace: Lease, state, kill switch.")
    mode: Literal["shadow", "active"] = Field("shadow", description="shadow: say what would be done; active: do it.")
    tiers: TierModes = Field(TierModes(), description="Modes by kind of action.")
    actuator: Literal["metrics", "scale", "clamp"] = Field(
        "metrics",
        description="metrics: an HPA or KEDA follows the served number; scale: set /scale of targets that none of "
        "them owns; clamp: set the HPA's minReplicas and maxReplicas.",
    )
    gpu_resources: tuple[Qualified, ...] = Field(
        ("nvidia.com/gpu",), min_length=1, description="Extended resources that count as GPUs."
    )
    accelerator_labels: tuple[Qualified, ...] = Field(
        ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "karpenter.k8s.aws/instance-gpu-name"),
        min_length=1,
        description="Node labels that name the GPU type; the first that a node has counts.",
    )
    topology: tuple[Qualified, ...] = Field(
        ("topology.kubernetes.io/zone", "nvidia.com/gpu.clique"),
        description="Node labels of network domains, the widest first.",
    )
    preemption: PreemptionSettings = Field(PreemptionSettings(), description="Taking GPUs from training.")
    provisioning: tuple[ProvisionSettings, ...] = Field((), description="Ordering nodes, by GPU type.")
    weights: tuple[WeightsSettings, ...] = Field((), description="Weights kept close, by pool.")
    release: tuple[ReleaseSettings, ...] = Field((), description="How replicas are let go, by pool.")
    images: tuple[PullSettings, ...] = Field((), description="Images pulled ahead of pods, by pool.")
    sources: tuple[SourceSettings, ...] = Field((), description="Pods that hand out weights, by pool.")
    budget: ActionBudget = Field(ActionBudget(), description="How much may be done.")
    quarantine: QuarantineSettings = Field(QuarantineSettings(), description="What fails repeatedly.")
    election: ElectionSettings = Field(ElectionSettings(), description="Several replicas of Tidegate.")
    shards: ShardSettings = Field(ShardSettings(), description="Pools over several processes.")
    token_pools: TokenPoolSettings = Field(TokenPoolSettings(), description="Pools declared as objects.")
    audit_file: File | None = Field(
        ".tidegate/actions.jsonl", description="One line per action: what, why, outcome; empty: none is written."
    )
    confirm_s: Seconds = Field(300.0, description="An action not confirmed for so long has failed.")
    hold_when_lost_s: Seconds = Field(
        30.0, description="Nothing is done when the API server was not heard for so long."
    )
