"""Settings of the aggregated API server beside its address: who may ask, and who we are to the cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoscaler.settings_types import Door, File, Namespace, ObjectName, Seconds, Text


class AuthenticationSettings(Door):
    """Who may ask the metrics API."""

    mode: Literal["auto", "delegated", "none"] = Field(
        "auto",
        description="delegated: as an aggregated API server must (front proxy certificate, TokenReview, "
        "SubjectAccessReview); none: anybody who reaches it; auto: delegated where a cluster is configured or this is "
        "a pod, else none on loopback and a refusal to start elsewhere.",
    )
    kubeconfig: File | None = Field(
        None, description="File to reach the cluster with; empty: the pod's own service account."
    )
    context: Text | None = Field(None, description="Context in it; the current one when empty.")
    refresh_s: Seconds = Field(60.0, description="How often the front proxy's authorities are read again.")
    allow_cache_s: Seconds = Field(10.0, description="A permission given is remembered for so long.")
    deny_cache_s: Seconds = Field(10.0, description="A permission refused is remembered for so long.")
    timeout_s: Seconds = Field(3.0, description="The cluster's answer is waited for so long, then 503.")


class ServiceSettings(Door):
    """The Service that the APIService objects name."""

    name: ObjectName = Field("tidegate", description="Its name.")
    namespace: Namespace = Field("tidegate-system", description="Its namespace.")
