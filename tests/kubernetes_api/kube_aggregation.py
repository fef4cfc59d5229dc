"""Plays the API server's aggregation layer: which registered APIs can be reached, and requests handed on to them.

As kube-aggregator does: the Service is resolved to an address (by its name or cluster IP; or by its endpoints), a
discovery document tells whether it is available, and a request is handed on over TLS, with the server's certificate
checked for `<service>.<namespace>.svc` against the caBundle, with the front proxy's own, and the user in headers.
"""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import urllib3
from kube_kinds import Kind
from kube_store import Refused, stamp

if TYPE_CHECKING:
    from kube_kinds import Json
    from kube_store import Store

API_SERVICE = Kind("apiregistration.k8s.io", "v1", "apiservices", "APIService", namespaced=False)
SLICE = Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", status=False)
CLIENT_S = 5.0
"""How long a discovery document is waited for."""


@dataclass
class Aggregation:
    """The layer.

    Attributes:
        store: where APIServices and Services are. proxy: files of the front proxy's certificate and key; None: none.
        by_endpoints: as --enable-aggregator-routing. user, groups: who asks.
    """

    store: Store
    proxy: tuple[str, str] | None = None
    by_endpoints: bool = False
    user: str = "kubernetes-admin"
    groups: tuple[str, ...] = ("system:masters", "system:authenticated")

    def __post_init__(self) -> None:
        self.store.know([API_SERVICE, SLICE])

    def check(self) -> None:
        """The availability controller looks at every registration once."""
        for found in self.store.all(API_SERVICE.api_version, API_SERVICE.kind):
            spec = found["spec"]
            try:
                code = self._ask(found, f"/apis/{spec['group']}/{spec['version']}", "system:kube-aggregator")[0]
                why = None if code == HTTPStatus.OK else f"bad status: {code}"
            except (urllib3.exceptions.HTTPError, OSError, Refused, LookupError) as error:
                why = f"failing or missing response: {error}"
            condition = {
                "type": "Available",
                "status": "False" if why else "True",
                "reason": "FailedDiscoveryCheck" if why else "Passed",
                "message": why or "all checks passed",
                "lastTransitionTime": stamp(),
            }
            where = "", found["metadata"]["name"]
            if where[1] in {one["metadata"]["name"] for one in self.store.all(API_SERVICE.api_version, "APIService")}:
                self.store.set_status(API_SERVICE.api_version, "APIService", where, {"conditions": [condition]})

    def handed_on(self, path: str) -> tuple[int, bytes] | None:
        """The answer of whoever provides the API of this path; None where it is the server's own."""
        parts = path.partition("?")[0].strip("/").split("/")
        if parts[0] != "apis" or len(parts) < 3:
            return None
        name = f"{parts[2]}.{parts[1]}"
        there = {one["metadata"]["name"]: one for one in self.store.all(API_SERVICE.api_version, "APIService")}
        if (found := there.get(name)) is None:
            return None
        conditions = found.get("status", {}).get("conditions", ())
        if not any(one["type"] == "Available" and one["status"] == "True" for one in conditions):
            return int(HTTPStatus.SERVICE_UNAVAILABLE), b"service unavailable"
        try:
            return self._ask(found, path, self.user)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return int(HTTPStatus.SERVICE_UNAVAILABLE), f"error trying to reach service: {error}".encode()

    def _ask(self, found: Json, path: str, user: str) -> tuple[int, bytes]:
        spec = found["spec"]
        host, port = self._address(spec["service"])
        context = ssl.create_default_context(cadata=base64.b64decode(spec["caBundle"]).decode())
        if self.proxy is not None:
            context.load_cert_chain(*self.proxy)
        name = f"{spec['service']['name']}.{spec['service']['namespace']}.svc"
        headers = urllib3.HTTPHeaderDict({"X-Remote-User": user})
        for group in self.groups:
            headers.add("X-Remote-Group", group)
        with urllib3.HTTPSConnectionPool(
            host, port, ssl_context=context, server_hostname=name, assert_hostname=name, timeout=CLIENT_S, retries=False
        ) as pool:
            answer = pool.request("GET", path, headers=headers)
            return answer.status, answer.data

    def _address(self, service: Json) -> tuple[str, int]:
        namespace, name, port = service["namespace"], service["name"], service["port"]
        spec = self.store.one("v1", "Service", namespace, name)["spec"]
        if not self.by_endpoints:
            if spec.get("type") == "ExternalName":
                return spec["externalName"], port
            raise LookupError(f"nothing routes to the cluster IP of {name} here")
        if spec.get("type") == "ExternalName":
            raise LookupError('unsupported service type "ExternalName"')
        wanted = next(one["name"] for one in spec["ports"] if one["port"] == port)
        for one in self.store.all("discovery.k8s.io/v1", "EndpointSlice"):
            if one["metadata"]["labels"].get("kubernetes.io/service-name") == name:
                return one["endpoints"][0]["addresses"][0], next(p["port"] for p in one["ports"] if p["name"] == wanted)
        raise LookupError(f"no endpoints available for service {name!r}")
