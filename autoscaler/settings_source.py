"""The settings under `source`: where the metrics are, and how to get at them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from autoscaler.settings_types import (
    Door,
    Endpoint,
    File,
    HeaderName,
    HeaderSecret,
    HeaderText,
    Label,
    Seconds,
    Secret,
    Text,
    Url,
)


class BasicAuth(Door):
    """HTTP basic authentication."""

    username: Text = Field(..., description="User name.")
    password: Secret | None = Field(None, description="Password; or password_file.")
    password_file: File | None = Field(None, description="File that holds it, read again for each request.")

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("give exactly one of password and password_file")
        return self


class PrometheusSettings(Door):
    """Where the metrics are and how to get at them."""

    url: Url = Field("http://localhost:9090", description="Base address, path prefix included.")
    timeout_s: Seconds = Field(5.0, description="Deadline of one look, all queries and retries included.")
    retries: int = Field(2, ge=0, le=10, description="Further attempts after a connection error, 429 or 5xx.")
    backoff_s: Seconds = Field(0.2, description="Wait before the first retry, doubling.")
    concurrency: int = Field(4, ge=1, le=64, description="Queries in flight at once.")
    discovery_interval_s: Seconds = Field(60.0, description="How often the metric names are looked up again.")
    bearer_token: HeaderSecret | None = Field(None, description="Sent as `Authorization: Bearer`.")
    bearer_token_file: File | None = Field(None, description="File that holds it, read again for each request.")
    basic_auth: BasicAuth | None = Field(None, description="User and password, instead of a bearer token.")
    tenant: HeaderText | None = Field(None, description="Sent as `X-Scope-OrgID` (Mimir, Cortex, Thanos).")
    headers: dict[HeaderName, HeaderSecret] = Field(
        default_factory=dict, description="Further request headers; their values are treated as secrets."
    )
    ca_file: File | None = Field(None, description="PEM bundle to verify the server with, instead of the system's.")
    cert_file: File | None = Field(None, description="Client certificate (PEM) for mutual TLS; with key_file.")
    key_file: File | None = Field(None, description="Its key (PEM, no passphrase).")
    insecure_skip_verify: bool = Field(
        default=False, description="Do not verify the server's certificate. Trials only."
    )

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        given = {
            "bearer_token": self.bearer_token is not None,
            "bearer_token_file": self.bearer_token_file is not None,
            "basic_auth": self.basic_auth is not None,
            "user and password in url": "@" in self.url,
        }
        if sum(given.values()) > 1:
            both = ", ".join(name for name, is_given in given.items() if is_given)
            raise ValueError(f"{both}: a request has one Authorization header; keep one of them")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        return self


class ScrapeTarget(Door):
    """One engine endpoint, and the labels its samples carry."""

    url: Endpoint = Field(..., description="Address of the endpoint; `/metrics` is added when it has no path.")
    labels: dict[Label, str] = Field(
        default_factory=dict, description="Labels given to its samples, such as namespace, pod and role."
    )


class ScrapeSettings(Door):
    """Engine endpoints asked directly, for clusters whose Prometheus is too slow."""

    targets: tuple[ScrapeTarget, ...] = Field((), description="Fixed endpoints; or file_sd.")
    file_sd: File | None = Field(
        None, description="Target list in Prometheus' file_sd format, read again when it changes."
    )
    interval_s: Seconds | None = Field(None, description="Scrape at this pace between ticks too; empty: once a tick.")
    timeout_s: Seconds = Field(4.0, description="Deadline of one round of scrapes.")
    concurrency: int = Field(64, ge=1, le=1024, description="Endpoints asked at once.")

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if self.targets and self.file_sd is not None:
            raise ValueError("file_sd: targets are given as well, and only one list is used; keep one of the two")
        return self


class SourceSettings(Door):
    """How to see."""

    kind: Literal["prometheus", "scrape"] = Field(
        "prometheus", description="Ask Prometheus, or the engines themselves."
    )
    window_s: Seconds = Field(60.0, description="Window of all rates; at least four scrape intervals.")
    max_age_s: Seconds = Field(
        60.0, description="Samples older than this do not count (Prometheus itself forgets after 300)."
    )
    namespace_label: Label = Field("namespace", description="Label that holds a series' namespace.")
    model_label: Label = Field("model_name", description="Label that holds the served model's name.")
    role_label: Label = Field("role", description="Label that tells prefill from decode.")
    replica_counts: Literal["targets", "kube-state-metrics"] = Field(
        "targets",
        description="Ready replicas: scrape targets that are up, or kube-state-metrics' series in the same Prometheus.",
    )
    prometheus: PrometheusSettings = Field(PrometheusSettings(), description="For `kind: prometheus`.")
    scrape: ScrapeSettings = Field(ScrapeSettings(), description="For `kind: scrape`.")

    @model_validator(mode="after")
    def _three_labels(self) -> Self:
        names = [self.namespace_label, self.model_label, self.role_label]
        if len(set(names)) < len(names):
            raise ValueError(
                f"namespace_label, model_label and role_label are {', '.join(names)}; name three different labels"
            )
        return self
