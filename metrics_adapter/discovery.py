"""Discovery: which groups, versions and resources there are, plain and aggregated.

A kube-apiserver asks for `/apis` in the aggregated form with the ETag it has, and falls back to one list per version;
its availability check asks for that list five times at once, every 30 s. Everything here is reckoned from what is in
memory, and never depends on decisions being fresh: were discovery to fail, namespaces could no longer be deleted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.responses import Response

from metrics_adapter.selectors import key_problem
from metrics_adapter.wire import READ_ONLY, as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

AGGREGATED = ("v2", "v2beta1")
"""Versions of apidiscovery.k8s.io that are spoken."""


class Discovery(StrEnum):
    """What the resource list names: one metric that always exists, or every metric on the board."""

    STATIC = "static"
    FULL = "full"


def checked_group(group: str) -> None:
    """Raises ValueError when the API group is not a DNS subdomain."""
    if key_problem(f"{group}/any"):
        raise ValueError(f"API group {group!r}: want a DNS subdomain in lower case, such as 'external.metrics.k8s.io'")


@dataclass(frozen=True, slots=True)
class ApiResource:
    """One entry of a resource list; for custom metrics its name is `deployments.apps/metric`."""

    name: str
    kind: str
    namespaced: bool = True

    def plain(self) -> dict[str, Any]:
        """As in an APIResourceList."""
        return {
            "name": self.name,
            "singularName": "",
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": ["get"],
        }

    def aggregated(self, group: str, version: str) -> dict[str, Any]:
        """As in an APIGroupDiscoveryList."""
        return {
            "resource": self.name,
            "responseKind": {"group": group, "version": version, "kind": self.kind},
            "scope": "Namespaced" if self.namespaced else "Cluster",
            "singularResource": "",
            "verbs": ["get"],
        }


@dataclass(frozen=True, slots=True)
class ApiGroup:
    """A group with its versions, the preferred one first, and the resources it has at the moment of asking."""

    name: str
    versions: tuple[str, ...]
    resources: Callable[[], Sequence[ApiResource]]

    def plain(self) -> dict[str, Any]:
        """As in an APIGroupList."""
        versions = [{"groupVersion": f"{self.name}/{version}", "version": version} for version in self.versions]
        return {"name": self.name, "versions": versions, "preferredVersion": versions[0]}

    def aggregated(self) -> dict[str, Any]:
        """As in an APIGroupDiscoveryList."""
        return {
            "metadata": {"name": self.name, "creationTimestamp": None},
            "versions": [
                {
                    "version": version,
                    "resources": [resource.aggregated(self.name, version) for resource in self.resources()],
                    "freshness": "Current",
                }
                for version in self.versions
            ],
        }


@dataclass(frozen=True, slots=True)
class Documents:
    """The routes of discovery.

    Raises:
        ValueError: two groups of one name.
    """

    groups: tuple[ApiGroup, ...]

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError(f"API groups {', '.join(names)}: each needs a name of its own")

    def router(self) -> APIRouter:
        """Routes for `server.compose`."""
        router = APIRouter(redirect_slashes=False)
        router.add_route("/apis", self._all, methods=list(READ_ONLY))
        for group in self.groups:
            router.add_route(f"/apis/{group.name}", _answering(group), methods=list(READ_ONLY))
            for version in group.versions:
                path = f"/apis/{group.name}/{version}"
                router.add_route(path, _answering(group, version), methods=list(READ_ONLY))
        return router

    async def _all(self, request: Request) -> Response:
        spoken = aggregated_version(request.headers.get("accept", ""))
        if spoken is None:
            groups = [group.plain() for group in self.groups]
            return as_json({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        items = [group.aggregated() for group in self.groups]
        body = {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"apidiscovery.k8s.io/{spoken}",
            "metadata": {},
            "items": items,
        }
        tag = f'"{hashlib.sha256(json.dumps(body).encode()).hexdigest().upper()}"'
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag, "Vary": "Accept"})
        media = f"application/json;g=apidiscovery.k8s.io;v={spoken};as=APIGroupDiscoveryList"
        response = as_json(body, media_type=media)
        response.headers.update({"ETag": tag, "Vary": "Accept"})
        return response


def aggregated_version(accept: str) -> str | None:
    """The version of the aggregated form that an Accept header prefers; None for the plain form."""
    for offer in accept.split(","):
        media, *parameters = (part.strip().lower() for part in offer.split(";"))
        said = dict(part.split("=", 1) for part in parameters if "=" in part)
        if media not in {"application/json", "application/*", "*/*"}:
            continue
        if "as" not in said and "g" not in said:
            return None
        wanted = said.get("v", "")
        about = said.get("g"), said.get("as")
        if about == ("apidiscovery.k8s.io", "apigroupdiscoverylist") and wanted in AGGREGATED:
            return wanted
    return None


def _answering(group: ApiGroup, version: str | None = None) -> Callable[[Request], Any]:
    async def one_group(_request: Request) -> Response:
        return as_json({"kind": "APIGroup", "apiVersion": "v1", **group.plain()})

    async def one_version(_request: Request) -> Response:
        return as_json({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": f"{group.name}/{version}",
            "resources": [resource.plain() for resource in group.resources()],
        })  # fmt: skip

    return one_group if version is None else one_version
