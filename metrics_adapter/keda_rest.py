"""What KEDA's `metrics-api` scaler asks over HTTP: one JSON document per pool and role.

`GET /keda/v1/namespaces/{namespace}/pools/{pool}[/roles/{role}][?variant=...]` answers
`{"desired": 6, "active": true, ...}`; the trigger's `valueLocation` is `desired`, its `targetValue` "1". A number that
must not be obeyed is a 404 or 503 Status with the reason, which makes KEDA hold the size or take its fallback.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from fastapi import APIRouter

from metrics_adapter.board import Freshness, Refusal, RefusalKind
from metrics_adapter.keda_trigger import BadTrigger, reply, trigger
from metrics_adapter.wire import READ_ONLY, as_json, status

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from metrics_adapter.board import Board
    from metrics_adapter.external import ServedMeter

BASE = "/keda/v1/namespaces/{namespace}/pools/{pool}"
_NOT_FOUND = frozenset({RefusalKind.UNKNOWN, RefusalKind.DISABLED})


def path(namespace: str, pool: str, role: str | None = None) -> str:
    """The path that answers for a pool, or one role of it."""
    base = BASE.format(namespace=namespace, pool=pool)
    return base if role is None else f"{base}/roles/{role}"


@dataclass(frozen=True, slots=True)
class KedaRest:
    """The routes of the JSON answers."""

    board: Board
    meter: ServedMeter

    def router(self) -> APIRouter:
        """Routes for `server.compose`."""
        router = APIRouter(redirect_slashes=False)
        for shape in (BASE, BASE + "/roles/{role}"):
            router.add_route(shape, self._answer, methods=list(READ_ONLY))
        return router

    async def _answer(self, request: Request) -> Response:
        given = request.path_params
        variant = request.query_params.get("variant")
        metadata = {"pool": given["pool"], **{key: given[key] for key in ("role",) if key in given}}
        asked = trigger(given["namespace"], metadata if variant is None else {**metadata, "variant": variant})
        if isinstance(asked, BadTrigger):
            return status(HTTPStatus.BAD_REQUEST, asked.message)
        found = reply(self.board, asked)
        if isinstance(found, BadTrigger):
            return status(HTTPStatus.BAD_REQUEST, found.message)
        if isinstance(found, Refusal):
            self.meter.refused(found.kind)
            unknown = found.kind in _NOT_FOUND
            return status(HTTPStatus.NOT_FOUND if unknown else HTTPStatus.SERVICE_UNAVAILABLE, found.message)
        self.meter.served(found.freshness)
        whole = float(found.replicas).is_integer()
        return as_json({
            "desired": int(found.replicas) if whole else found.replicas,
            "active": found.replicas > 0,
            "ageing": found.freshness is Freshness.AGEING,
            "pool": str(asked),
        })  # fmt: skip
