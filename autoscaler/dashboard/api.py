"""The dashboard's own HTTP answers: small JSON documents, read-only, and the page's files."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from autoscaler.dashboard.present import Asked, Simulations
from autoscaler.errors import BadJournal, BadSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from autoscaler.dashboard.chronicle import Chronicle
    from autoscaler.dashboard.replay import Replay

FILES = {
    "": ("dashboard.html", "text/html; charset=utf-8"),
    "dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "uplot.js": ("uplot.js", "text/javascript; charset=utf-8"),
    "uplot.css": ("uplot.css", "text/css; charset=utf-8"),
}
CONTENT_SECURITY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; img-src 'self' data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page talks to its own server only; inline styles are uPlot's positions."""
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
DAY_S = 86_400.0
MOST_ENTRIES = 200


class Dashboard:
    """The page and its data, for a running loop or for a journal alone."""

    def __init__(self, live: Chronicle | None, replay: Replay | None, profiles: str | None = None) -> None:
        """`profiles`: folder of hardware profiles beside the shipped ones, for what-if."""
        self._live = live
        self._replay = replay
        self._simulations = Simulations(profiles)
        self._shown: tuple[int, Chronicle] | None = None

    def close(self) -> None:
        """End a simulation that is still running."""
        self._simulations.close()

    def router(self) -> APIRouter:
        """Routes: the page at `/dashboard/`, its files beside it, its data under `/dashboard/api/`."""
        router = APIRouter(redirect_slashes=False)
        methods = ["GET", "HEAD"]
        for name, (file, kind) in FILES.items():
            content = resources.files("autoscaler").joinpath(f"shipped/dashboard/{file}").read_bytes()
            router.add_route(f"/dashboard/{name}", _static(content, kind), methods=methods)
        for name, answer in (
            ("overview", self._overview),
            ("series", self._series),
            ("decisions", self._decisions),
            ("decision", self._decision),
            ("replay", self._span),
            ("whatif", self._whatif),
        ):
            router.add_route(f"/dashboard/api/{name}", _answering(answer), methods=methods)
        return router

    async def _state(self, request: Request) -> Chronicle:
        """The live state, or that of `?tick=N` of the journal."""
        tick = request.query_params.get("tick")
        if tick is None:
            if self._live is None:
                raise BadSettings(("nothing runs here; give ?tick=N of the journal",))
            return self._live
        if self._replay is None:
            raise BadSettings(("there is no journal here; set loop.journal_file",))
        number = _number(request, "tick", 0, 0, 10**9)
        if self._shown is None or self._shown[0] != int(number):
            self._shown = (int(number), await run_in_threadpool(self._replay.chronicle, int(number)))
        return self._shown[1]

    async def _overview(self, request: Request) -> dict[str, Any]:
        return (await self._state(request)).overview()

    async def _series(self, request: Request) -> dict[str, Any]:
        state = await self._state(request)
        span = _number(request, "span", 3600.0, 60.0, DAY_S)
        key = request.query_params.get("key", "")
        found = state.series(key, (state.at or 0.0) - span)
        if found is None:
            raise BadSettings((f"key {key!r}: no such role, or none with a history",))
        return found

    async def _decisions(self, request: Request) -> dict[str, Any]:
        state = await self._state(request)
        before = request.query_params.get("before")
        return {
            "decisions": state.decisions(
                before=None if before is None else int(_number(request, "before", 0, 0, 10**12)),
                limit=int(_number(request, "limit", 50, 1, MOST_ENTRIES)),
                key=request.query_params.get("key"),
            )
        }

    async def _decision(self, request: Request) -> dict[str, Any]:
        state = await self._state(request)
        number = int(_number(request, "id", 0, 0, 10**12))
        found = state.decision(number)
        if found is None:
            raise BadSettings((f"id {number}: no such decision, or it is too old",))
        return found

    async def _span(self, _request: Request) -> dict[str, Any]:
        if self._replay is None:
            return {"ticks": 0, "first_at": None, "last_at": None, "live": self._live is not None}
        await run_in_threadpool(self._replay.refresh)
        span = await run_in_threadpool(self._replay.span)
        return {
            "ticks": span.ticks,
            "first_at": span.first_at,
            "last_at": span.last_at,
            "live": self._live is not None,
        }

    async def _whatif(self, request: Request) -> dict[str, Any]:
        state = await self._state(request)
        if self._simulations.busy:
            raise BusyError
        asked = Asked(
            request.query_params.get("key", ""),
            _number(request, "growth", 1.0, 0.01, 100),
            _number(request, "start_scale", 1.0, 0.05, 20),
            _number(request, "hours", 2.0, 0.1, 24),
        )
        return await self._simulations.ask(asked, state)


class BusyError(Exception):
    """A simulation is running; one at a time."""


def _static(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_request: Request) -> Response:
        return Response(content, media_type=kind, headers={**HEADERS, "Cache-Control": "no-cache"})

    return answer


def _answering(answer: Callable[[Request], Awaitable[dict[str, Any]]]) -> Callable[[Request], Awaitable[Response]]:
    async def route(request: Request) -> Response:
        try:
            found = await answer(request)
        except BadSettings as error:
            return _json({"error": "; ".join(error.problems)}, HTTPStatus.BAD_REQUEST)
        except BadJournal as error:
            return _json({"error": str(error)}, HTTPStatus.NOT_FOUND)
        except (ValueError, KeyError, TypeError) as error:
            return _json({"error": f"a line of the journal cannot be read: {error}"}, HTTPStatus.BAD_REQUEST)
        except BusyError:
            problem = {"error": "a simulation is running; one at a time"}
            return _json(problem, HTTPStatus.TOO_MANY_REQUESTS)
        except TimeoutError:
            problem = {"error": "the simulation took too long and was given up; ask for fewer hours"}
            return _json(problem, HTTPStatus.SERVICE_UNAVAILABLE)
        return _json(found, HTTPStatus.OK)

    return route


def _json(content: dict[str, Any], code: HTTPStatus) -> Response:
    text = json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)
    headers = {**HEADERS, "Cache-Control": "no-store"}
    return Response(text, status_code=code, media_type="application/json", headers=headers)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value


def _number(request: Request, name: str, default: float, least: float, most: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise BadSettings((f"{name} is {text!r}; it must be a number {least:g}..{most:g}",))
    return value
