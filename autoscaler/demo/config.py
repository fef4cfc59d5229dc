"""Configuration of the emulated fleet: one JSON file, unknown keys refused."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotations at run time
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autoscaler.simulator.engine_types import EngineProfile, EngineRole
from autoscaler.simulator.workload import Lengths, RateProfile, RequestMix

Name = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1000)]
Port = Annotated[int, Field(ge=0, le=65_535)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineConfig(_Strict):
    """An engine's speed and size; see `EngineProfile` for the cost model. Times in seconds, sizes in tokens."""

    step_seconds: Positive
    prefill_token_seconds: Seconds
    sequence_seconds: Seconds
    resident_token_seconds: Seconds
    kv_capacity_tokens: Annotated[int, Field(ge=2)]
    max_running: Annotated[int, Field(ge=1)]
    max_batched_tokens: Annotated[int, Field(ge=1)]
    block_size: Annotated[int, Field(ge=1)] = 16

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        self.profile()
        return self

    def profile(self) -> EngineProfile:
        """The same as the engine model takes it."""
        return EngineProfile(**self.model_dump())


class LengthsConfig(_Strict):
    """Log-normal token counts, cut to the bounds."""

    median: Positive
    sigma: Annotated[float, Field(ge=0, le=4, allow_inf_nan=False)] = 0.0
    smallest: Annotated[int, Field(ge=1)] = 1
    largest: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        self.lengths()
        return self

    def lengths(self) -> Lengths:
        """The same as the workload takes it."""
        return Lengths(self.median, self.sigma, self.smallest, self.largest)


class WorkloadConfig(_Strict):
    """Traffic of one pool: knots of (seconds since the start, requests/s), and what requests look like."""

    knots: Annotated[list[tuple[float, float]], Field(min_length=1)]
    period: Positive | None = None
    prompt: LengthsConfig
    output: LengthsConfig
    cached_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    cached_share: Annotated[float, Field(ge=0, le=1)] = 0.0

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        self.rate()
        return self

    def rate(self) -> RateProfile:
        """The rate profile."""
        return RateProfile(tuple(self.knots), self.period)

    def mix(self, cache_block: int) -> RequestMix:
        """What requests look like, cached prefixes in whole KV blocks."""
        return RequestMix(
            self.prompt.lengths(), self.output.lengths(), self.cached_probability, self.cached_share, cache_block
        )


class RoleConfig(_Strict):
    """One deployment of a pool and its HPA's bounds."""

    role: EngineRole
    engine: EngineConfig
    replicas: Annotated[Count, Field(description="wanted at the start; they are ready at once")] = 1
    min_replicas: Count = 1
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 10
    startup_seconds: Seconds = 5.0
    drain_seconds: Annotated[Seconds, Field(description="after this, what is left goes to other replicas")] = 30.0
    gpus_per_replica: Annotated[int, Field(ge=1, le=64)] = 1

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas is {self.min_replicas}, above max_replicas {self.max_replicas}")
        return self


class SloConfig(_Strict):
    """What a request must keep to count as served well: time to first token, mean time per later token."""

    ttft_seconds: Positive
    tpot_seconds: Positive


class PoolConfig(_Strict):
    """A model served by prefill and decode deployments, or by one colocated one."""

    name: Name
    namespace: Name = "demo"
    model_name: Annotated[str, Field(min_length=1)]
    roles: Annotated[list[RoleConfig], Field(min_length=1, max_length=2)]
    slo: SloConfig
    workload: WorkloadConfig
    kv_bytes_per_token: Positive = 131_072.0
    link_bytes_per_second: Positive = 3.125e9
    link_latency_seconds: Seconds = 0.002

    @model_validator(mode="after")
    def _roles_make_a_pool(self) -> Self:
        roles = sorted(role.role for role in self.roles)
        if roles not in ([EngineRole.COLOCATED], [EngineRole.DECODE, EngineRole.PREFILL]):
            raise ValueError(f"pool {self.name} has roles {roles}; it needs prefill and decode, or colocated alone")
        for role in self.roles:
            longest = self.workload.prompt.largest + self.workload.output.largest
            profile = role.engine.profile()
            if profile.blocks(longest) > profile.usable_blocks:
                raise ValueError(
                    f"pool {self.name}: the longest request has {longest} tokens, which the {role.role} engine's "
                    f"kv_capacity_tokens {role.engine.kv_capacity_tokens} cannot hold"
                )
        return self


class HpaConfig(_Strict):
    """How replicas follow the external metrics API; with `follow` off only POST /scale moves them."""

    follow: bool = True
    base_url: str | None = None
    metric: str = "tidegate_desired_replicas"
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    sync_seconds: Positive = 2.0
    timeout_seconds: Positive = 5.0
    scale_down_stabilization_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _can_follow(self) -> Self:
        if self.follow and not (self.base_url or "").startswith(("https://", "http://")):
            raise ValueError(f"hpa.base_url is {self.base_url!r}; to follow it must be an http(s) URL")
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ValueError("hpa.client_cert_file and hpa.client_key_file go together")
        return self


class PathsConfig(_Strict):
    """Files the fleet writes, each atomically."""

    targets: Annotated[Path, Field(description="Prometheus file_sd list of the replicas that can be scraped")]
    endpoints: Annotated[Path, Field(description="pid and control URL, once it serves")]
    stats: Annotated[Path, Field(description="the last state, at the end")]


class FleetConfig(_Strict):
    """All of it."""

    pools: Annotated[list[PoolConfig], Field(min_length=1)]
    hpa: HpaConfig
    paths: PathsConfig
    seed: Annotated[int, Field(ge=0)] = 0
    control_port: Annotated[Port, Field(description="0: any free one")] = 0
    tick_seconds: Annotated[float, Field(ge=0.01, le=1)] = 0.05
    parent_pid: Annotated[int, Field(ge=1, description="end when this process is no longer the parent")] | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [pool.name for pool in self.pools]
        if len(set(names)) != len(names):
            raise ValueError(f"pools must have different names; got {names}")
        return self
