"""external.metrics.k8s.io/v1beta1: what a HorizontalPodAutoscaler asks, answered from the board and nothing else.

Every answer is JSON and every error a Kubernetes Status, whose message an HPA copies into its condition and event.
`Retry-After` is never sent: client-go would repeat the request inside one HPA sync and hold one of its few workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from metrics_adapter.board import Metric, Refusal, RefusalKind, timestamp
from metrics_adapter.discovery import ApiGroup, ApiResource, Discovery, checked_group
from metrics_adapter.quantity import quantity
from metrics_adapter.wire import READ_ONLY, as_json, selector_of, status

if TYPE_CHECKING:
    from starlette.responses import Response

    from metrics_adapter.board import Answer, Board, Freshness

__all__ = [
    "GROUP",
    "READ_ONLY",
    "VERSION",
    "Discovery",
    "ExternalMetrics",
    "ServedMeter",
    "as_json",
    "refused",
    "status",
]

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
PARTS = 7
"""Of `/apis/<group>/<version>/namespaces/<namespace>/<metric>`, with the empty one before the first slash."""
_NOT_FOUND = frozenset({RefusalKind.UNKNOWN, RefusalKind.DISABLED})


class ServedMeter(Protocol):
    """Whoever counts what was read from the board."""

    def served(self, freshness: Freshness) -> None:
        """One answer with numbers was given."""

    def refused(self, kind: RefusalKind) -> None:
        """One answer was refused."""


@dataclass(frozen=True, slots=True)
class ExternalMetrics:
    """The external metrics API; `group` is configurable because only one server may own the usual one.

    Raises:
        ValueError: a group that is not a DNS subdomain.
    """

    board: Board
    meter: ServedMeter
    group: str = GROUP
    discovery: Discovery = Discovery.STATIC

    def __post_init__(self) -> None:
        checked_group(self.group)

    def described(self) -> ApiGroup:
        """What discovery says about this API."""
        return ApiGroup(self.group, (VERSION,), self._resources)

    def direct(self, path: str, query: bytes) -> Response | None:
        """The response for one metric of one namespace; None for every other shape of path."""
        parts = path.split("/")
        if len(parts) != PARTS or parts[1:5] != ["apis", self.group, VERSION, "namespaces"] or not all(parts[5:]):
            return None
        return self.answer(parts[5], parts[6], query)

    def _resources(self) -> tuple[ApiResource, ...]:
        names: list[str] = [Metric.DESIRED]
        if self.discovery is Discovery.FULL:
            snapshot = self.board.latest()
            names = sorted({*Metric, *(metric for _, metric in (snapshot.index if snapshot else ()))})
        return tuple(ApiResource(name, "ExternalMetricValueList") for name in names)

    def answer(self, namespace: str, metric: str, query: bytes) -> Response:
        """The response for one metric of one namespace; `query` is the raw query string."""
        try:
            selector = selector_of(query)
        except ValueError as error:
            return status(HTTPStatus.BAD_REQUEST, str(error))
        answer = self.board.answer(namespace, metric, selector)
        if isinstance(answer, Refusal):
            return refused(answer, self.meter)
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


def refused(refusal: Refusal, meter: ServedMeter) -> Response:
    """A refusal as a Status: not found where there is no such metric, else service unavailable."""
    meter.refused(refusal.kind)
    code = HTTPStatus.NOT_FOUND if refusal.kind in _NOT_FOUND else HTTPStatus.SERVICE_UNAVAILABLE
    return status(code, refusal.message)
