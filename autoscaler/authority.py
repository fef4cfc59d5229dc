"""The metrics API's gate from settings: whether there is one, and with what it asks the cluster."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster.api import Api, ApiError
from autoscaler.cluster.authentication import FollowedTrust, KubernetesAuthority, owner
from autoscaler.cluster.connection import connect
from autoscaler.errors import BadSettings
from metrics_adapter.custom import VERSIONS
from metrics_adapter.external import VERSION
from metrics_adapter.gate import Gate, GateLimits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from autoscaler.settings import ServingSettings
    from metrics_adapter.gate_meter import GateCounts

log = structlog.get_logger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def delegated(serving: ServingSettings) -> bool:
    """Whether the cluster decides who may ask.

    Raises:
        BadSettings: nobody would, on an address that others can reach, and nobody said that this is meant.
    """
    wanted = serving.authentication
    if wanted.mode != "auto":
        return wanted.mode == "delegated"
    if wanted.kubeconfig is not None or wanted.context is not None or "KUBERNETES_SERVICE_HOST" in os.environ:
        return True
    if is_loopback(serving.host):
        return False
    raise BadSettings(((
        f"serving.authentication.mode: auto finds no cluster to ask, and serving.host {serving.host} can be reached "
        "from other machines; name serving.authentication.kubeconfig, listen on 127.0.0.1, or say `none` to let "
        "anybody ask"
    ),))  # fmt: skip


def cluster(serving: ServingSettings) -> Api:
    """A connection of its own, so that checks never queue behind actions. Raises BadSettings. Close it."""
    wanted = serving.authentication
    return Api(connect(wanted.kubeconfig, wanted.context), timeout_s=wanted.timeout_s)


def opened(serving: ServingSettings, meter: GateCounts, stack: ExitStack) -> tuple[Gate, FollowedTrust] | None:
    """The gate and the authorities it follows; None when anybody may ask. Raises BadSettings."""
    if not delegated(serving):
        log.info("the metrics API asks nobody who they are", host=serving.host)
        return None
    api = cluster(serving)
    stack.callback(api.close)
    trust = FollowedTrust(api, serving.authentication.refresh_s)
    trust.start()
    stack.callback(trust.stop)
    times = serving.authentication
    limits = GateLimits(allow=times.allow_cache_s, deny=times.deny_cache_s, wait=times.timeout_s)
    gate = Gate(KubernetesAuthority(api), trust, meter, limits)
    stack.callback(gate.close)
    for api_service, good, said in owners(serving, api):
        meter.owned(api_service, good=good)
        (log.info if good else log.warning)("API group", said=said)
    return gate, trust


def owners(serving: ServingSettings, api: Api) -> Iterator[tuple[str, bool, str]]:
    """For each APIService of ours: its name, whether nobody else has it, and a sentence."""
    ours = (serving.service.namespace, serving.service.name)
    served = [(serving.group, VERSION), *((serving.custom_group, version) for version in VERSIONS)]
    for group, version in served:
        api_service = f"{version}.{group}"
        try:
            found = owner(api, group, version)
        except ApiError as error:
            yield api_service, False, f"APIService {api_service} cannot be read: {error}"
            continue
        if found is None:
            yield (
                f"{version}.{group}",
                True,
                f"APIService {api_service} is not registered: nobody asks us through it",
            )
        elif found == ours:
            yield api_service, True, f"APIService {api_service} is ours ({'/'.join(ours)})"
        else:
            whose = "/".join(found) if any(found) else "the API server itself"
            yield (
                api_service,
                False,
                (
                    f"APIService {api_service} belongs to {whose}, not to {'/'.join(ours)}: HPAs do not reach us "
                    "through it; use KEDA's external scaler or another group (serving.group, serving.custom_group)"
                ),
            )


def registered(serving: ServingSettings) -> list[tuple[bool, str]]:
    """For `tidegate check`: who owns our API versions, where a cluster is asked; what would keep us from starting."""
    wanted = serving.authentication
    configured = wanted.kubeconfig is not None or wanted.context is not None or "KUBERNETES_SERVICE_HOST" in os.environ
    if not configured and wanted.mode != "delegated" and (wanted.mode == "none" or is_loopback(serving.host)):
        return []
    try:
        delegated(serving)
        api = cluster(serving)
    except BadSettings as error:
        return [(False, str(error))]
    try:
        return [(good, said) for _, good, said in owners(serving, api)]
    finally:
        api.close()
