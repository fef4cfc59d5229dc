"""external.metrics.k8s.io/v1beta1: what a HorizontalPodAutoscaler asks, answered from the board and nothing else.

Every answer is JSON and every error a Kubernetes Status, whose message an HPA copies into its condition and event.
`Retry-After` is never sent: client-go would repeat the request inside one HPA sync and hold one of its few workers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

from fastapi import APIRouter
from starlette.responses import Response

from metrics_adapter.board import Freshness, Metric, Refusal, RefusalKind, timestamp
from metrics_adapter.quantity import quantity
from metrics_adapter.selectors import EVERYTHING, Selector, key_problem, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

    from metrics_adapter.board import Answer, Board

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
READ_ONLY = ("GET", "HEAD")
MAX_QUERY_FIELDS = 100
MAX_MESSAGE = 1024

_REASONS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "BadRequest",
    HTTPStatus.UNAUTHORIZED: "Unauthorized",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowed",
    HTTPStatus.NOT_ACCEPTABLE: "NotAcceptable",
    HTTPStatus.CONFLICT: "Conflict",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestEntityTooLarge",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Invalid",
    HTTPStatus.TOO_MANY_REQUESTS: "TooManyRequests",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailable",
    HTTPStatus.GATEWAY_TIMEOUT: "Timeout",
}
_NOT_FOUND = frozenset({RefusalKind.UNKNOWN, RefusalKind.DISABLED})


class Discovery(StrEnum):
    """What the resource list names: one metric that always exists, or every metric on the board."""

    STATIC = "static"
    FULL = "full"


class ServedMeter(Protocol):
    """Whoever counts what was read from the board."""

    def served(self, freshness: Freshness) -> None:
        """One answer with numbers was given."""

    def refused(self, kind: RefusalKind) -> None:
        """One answer was refused."""


@dataclass(frozen=True, slots=True)
class ExternalMetrics:
    """The routes of the external metrics API; `group` is configurable because only one server may own the usual one.

    Raises:
        ValueError: a group that is not a DNS subdomain.
    """

    board: Board
    meter: ServedMeter
    group: str = GROUP
    discovery: Discovery = Discovery.STATIC

    def __post_init__(self) -> None:
        if key_problem(f"{self.group}/any"):
            raise ValueError(f"API group {self.group!r}: want a DNS subdomain in lower case, such as {GROUP!r}")

    def router(self) -> APIRouter:
        """Routes for `server.compose`; every shape of path that is not here is 404."""
        router = APIRouter(redirect_slashes=False)
        version = f"/apis/{self.group}/{VERSION}"
        for path, endpoint in (
            ("/apis", self._groups),
            (f"/apis/{self.group}", self._group),
            (version, self._resources),
            (version + "/namespaces/{namespace}/{metric}", self._metric),
        ):
            router.add_route(path, endpoint, methods=list(READ_ONLY))
        return router

    async def _groups(self, _request: Request) -> Response:
        return as_json({"kind": "APIGroupList", "apiVersion": "v1", "groups": [self._described()]})

    async def _group(self, _request: Request) -> Response:
        return as_json({"kind": "APIGroup", "apiVersion": "v1", **self._described()})

    async def _resources(self, _request: Request) -> Response:
        names: Iterable[str] = [Metric.DESIRED]
        snapshot = self.board.latest()
        if self.discovery is Discovery.FULL:
            names = sorted({*Metric, *(metric for _, metric in (snapshot.index if snapshot else ()))})
        resources = [
            {
                "name": name,
                "singularName": "",
                "namespaced": True,
                "kind": "ExternalMetricValueList",
                "verbs": ["get"],
            }
            for name in names
        ]
        group_version = f"{self.group}/{VERSION}"
        return as_json(
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}
        )

    async def _metric(self, request: Request) -> Response:
        try:
            selector = selector_of(request.scope["query_string"])
        except ValueError as error:
            return status(HTTPStatus.BAD_REQUEST, str(error))
        metric = request.path_params["metric"]
        answer = self.board.answer(request.path_params["namespace"], metric, selector)
        if isinstance(answer, Refusal):
            self.meter.refused(answer.kind)
            not_found = answer.kind in _NOT_FOUND
            return status(HTTPStatus.NOT_FOUND if not_found else HTTPStatus.SERVICE_UNAVAILABLE, answer.message)
        body = self._values(metric, answer)
        self.meter.served(answer.freshness)
        return as_json(body)

    def _values(self, metric: str, answer: Answer) -> dict[str, Any]:
        decided = timestamp(answer.at)
        return {
            "kind": "ExternalMetricValueList",
            "apiVersion": f"{self.group}/{VERSION}",
            "metadata": {},
            "items": [
                {
                    "metricName": metric,
                    "metricLabels": dict(reading.labels),
                    "timestamp": decided,
                    "value": quantity(reading.value),
                }
                for reading in answer.readings
            ],
        }

    def _described(self) -> dict[str, Any]:
        version = {"groupVersion": f"{self.group}/{VERSION}", "version": VERSION}
        return {"name": self.group, "versions": [version], "preferredVersion": version}


def selector_of(query: bytes) -> Selector:
    """The selector in a raw query string; the first `labelSelector` counts, other parameters are ignored.

    Raises:
        SelectorError: a selector outside the grammar (a ValueError, too).
        ValueError: bytes that are not UTF-8, or more than 100 parameters.
    """
    try:
        fields = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
        )
    except UnicodeDecodeError as error:
        raise ValueError("the query string is not percent-encoded UTF-8") from error
    except ValueError as error:
        raise ValueError(f"the query string has more than {MAX_QUERY_FIELDS} parameters") from error
    text = next((value for name, value in fields if name == "labelSelector"), "")
    return parse(text) if text else EVERYTHING


def as_json(body: Mapping[str, Any], code: int = HTTPStatus.OK) -> Response:
    """A JSON response that no cache keeps."""
    content = json.dumps(body, separators=(",", ":")).encode()
    return Response(
        content, status_code=code, media_type="application/json", headers={"Cache-Control": "no-cache, private"}
    )


def status(code: int, message: str) -> Response:
    """A Kubernetes Status failure; `message` is what the operator will read, cut to 1,024 characters."""
    return as_json(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…",
            "reason": _REASONS.get(code, ""),
            "code": int(code),
        },
        code,
    )
