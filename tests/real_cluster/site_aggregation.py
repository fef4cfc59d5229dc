"""How an API server is made to reach what runs beside these tests: a registration, and the ways it can be followed.

An API server routes to a Service's cluster IP, or, with --enable-aggregator-routing, to its endpoints. A Service that
is but a name (ExternalName) it dials itself, needs no proxy for, and takes `localhost` for the machine it runs on; with
that flag it refuses it ("unsupported service type"), and follows one with an EndpointSlice, never a loopback one.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
import pytest
from site_report import API_SERVICES, HPAS, OURS, SERVICES, SLICES

from autoscaler.cluster.api import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from site_of_tests import Site

Json = dict[str, Any]
HOST = "TIDEGATE_TEST_HOST"
"""By which name or address the API server reaches this machine, where that cannot be found out."""
EXTERNAL = "v1beta1.external.metrics.k8s.io"
BY_NAME, BY_ENDPOINT = "by-name", "by-endpoint"
TRY_S = 15.0
"""For one way: the API server tries at once, five times for up to 5 s."""


def dns_names(site: Site) -> list[str]:
    """What the API server checks our certificate for."""
    return [f"{service}.{site.name}.svc" for service in (BY_NAME, BY_ENDPOINT)]


def _addresses(toward: str) -> list[str]:
    """This machine's IPv4 addresses that others can reach: on the way to the API server first. Nothing is sent."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect((toward, 9))
        found.append(str(probe.getsockname()[0]))
    found += [one.address for own in psutil.net_if_addrs().values() for one in own if one.family == socket.AF_INET]
    usable = [text for text in dict.fromkeys(found) if _reachable(text)]
    return usable[:3]


def _reachable(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def ways(server: str) -> list[tuple[str, str]]:
    """(kind of Service, host) to try, the likeliest first, for an API server of that URL."""
    if said := os.environ.get(HOST):
        return [(BY_NAME, said), (BY_ENDPOINT, socket.gethostbyname(said))]
    host = urlsplit(server).hostname or "localhost"
    own = _addresses(host)
    local = host == "localhost" or host.startswith("127.") or host == "::1" or host in own
    named = [*(["localhost"] if local else []), *own]
    return [*((BY_NAME, one) for one in named), *((BY_ENDPOINT, one) for one in own)]


def _service(site: Site, kind: str, host: str, port: int) -> Json:
    """Make the Service lead to that host; gives what an APIService says of it."""
    meta = {"name": kind, "namespace": site.name}
    if kind == BY_NAME:
        spec: Json = {"type": "ExternalName", "externalName": host}
        _applied(site, SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        return {**meta, "port": port}
    ports = [{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}]
    _applied(site, SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}})
    labels = {"kubernetes.io/service-name": kind, "endpointslice.kubernetes.io/managed-by": "tidegate.dev"}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }
    _applied(site, SLICES, slice_)
    return {**meta, "port": 443}


def _applied(site: Site, resource: Any, body: Json) -> None:
    try:
        site.api.create(resource, site.name, body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        changed = {key: value for key, value in body.items() if key in {"spec", "endpoints"}}
        site.api.patch(resource, site.name, body["metadata"]["name"], changed)


@contextmanager
def registered(site: Site, port: int, ca: Path) -> Iterator[None]:
    """The external metrics API, answered by what listens on that port here; skips where somebody else provides it."""
    _forget_our_own(site)
    tried: list[str] = []
    created = False
    try:
        for kind, host in ways(site.server):
            service = _service(site, kind, host, port)
            if not created:
                _register(site, service, ca)
                created = True
            else:
                site.api.patch(API_SERVICES, "", EXTERNAL, {"spec": {"service": service}})
            with suppress(AssertionError):
                site.eventually(lambda: _available(site), "not available", TRY_S)
                break
            tried.append(f"{kind} {host}: {why(site)}")
        else:
            told = "\n  ".join(tried) or "this machine has no address but loopback"
            pytest.fail(f"the API server reaches this machine in no way; name it by {HOST}:\n  {told}", pytrace=False)
        yield
    finally:
        if created:
            with suppress(ApiError):
                site.api.delete(API_SERVICES, "", EXTERNAL)


def _register(site: Site, service: Json, ca: Path) -> None:
    version, _, group = EXTERNAL.partition(".")
    spec = {
        "group": group,
        "version": version,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "caBundle": base64.b64encode(ca.read_bytes()).decode(),
        "service": service,
    }
    meta = {"name": EXTERNAL, "labels": OURS}
    body = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": meta, "spec": spec}
    try:
        site.api.create(API_SERVICES, "", body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        pytest.skip(f"somebody else provides {EXTERNAL} in this cluster")


def _forget_our_own(site: Site) -> None:
    """A run that was killed may have left its registration, which nobody answers for; another's is left alone."""
    with suppress(ApiError):
        found = site.api.get(API_SERVICES, "", EXTERNAL)
        if OURS.items() <= (found["metadata"].get("labels") or {}).items() and not _available(site):
            site.api.delete(API_SERVICES, "", EXTERNAL)


def _available(site: Site) -> bool:
    conditions = site.api.get(API_SERVICES, "", EXTERNAL).get("status", {}).get("conditions", ())
    return any(one["type"] == "Available" and one["status"] == "True" for one in conditions)


def why(site: Site) -> str:
    """What the API server says of the registration, and the HPA of itself."""
    said = []
    for where in ((API_SERVICES, "", EXTERNAL), (HPAS, site.name, "chat")):
        with suppress(ApiError):
            conditions = (site.api.get(*where).get("status") or {}).get("conditions") or ()
            said += [f"{one['type']}={one['status']}: {one.get('message')}" for one in conditions]
    return "; ".join(said)


@contextmanager
def told(more: Callable[[], str]) -> Iterator[None]:
    """Adds to a failure what the server says."""
    try:
        yield
    except AssertionError as error:
        error.add_note(more())
        raise
