"""What stands around every route: only reads, strict paths, the gate, Status errors, every request counted."""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_to_bytes

import structlog

from metrics_adapter.exposition import PathClass, path_class
from metrics_adapter.wire import READ_ONLY, status

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from metrics_adapter.gate import Gate

_log = structlog.get_logger(__name__)

BROKEN = "internal error while answering; the reason is in Tidegate's log"
TELL_EVERY_S = 60.0
_PLAIN = re.compile(rb"[A-Za-z0-9/._*~:@-]*")
_HEX = frozenset("0123456789abcdefABCDEF")
_FIRST_PRINTABLE = 0x20
_DELETE = 0x7F


class RequestMeter(Protocol):
    """Whoever counts requests."""

    def request(self, path: PathClass, code: int, seconds: float) -> None:
        """One answered request."""


class Direct(Protocol):
    """What is asked often, and so answered ahead of the routes: at 1,500 requests/s those take half of the time."""

    def direct(self, path: str, query: bytes, /) -> Response | None:
        """The response; None when this path is another's. Never waits."""


class Guard:
    """The ASGI app around all routes: method, path, who asks, unexpected errors, count."""

    def __init__(self, app: ASGIApp, meter: RequestMeter, gate: Gate | None, direct: tuple[Direct, ...]) -> None:
        self._app = app
        self._direct = direct
        self._gate = gate
        self._meter = meter
        self._tells_from = 0.0

    def at_once(self, scope: Scope) -> Response | None:
        """The response to a plain GET for which nobody has to be asked; None where `__call__` has to see to it.

        The connection calls it without a task of its own: that, and what goes with it, is a third of an answer.
        """
        began = time.perf_counter()
        path = scope["path"]
        if scope["method"] != "GET" or not _PLAIN.fullmatch(scope["raw_path"]):
            return None
        outcome = None
        if self._gate is not None:
            outcome = self._gate.admits(scope)
            if outcome is None:
                return None
        try:
            response = self._answered(path, scope["query_string"])
        except Exception:  # noqa: BLE001 - as in __call__
            response = self._broken(path)
        if response is None:
            return None
        if self._gate is not None and outcome is not None:
            self._gate.let_in(outcome)
        self._meter.request(path_class(path), response.status_code, time.perf_counter() - began)
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as an ASGI app does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        code = 0

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        refusal = _method_refusal(scope) or _path_refusal(scope)
        try:
            if refusal is None and self._gate is not None:
                refusal = await self._gate.refusal(scope)
            if refusal is None:
                refusal = self._answered(scope["path"], scope["query_string"])
            await (refusal or self._app)(scope, receive, noting)
        except Exception:  # noqa: BLE001 - the last line of defence: any bug in a route becomes a 500 Status and a log entry
            answer = self._broken(scope["path"])
            if not code:
                await answer(scope, receive, noting)
        finally:
            self._meter.request(path_class(scope["path"]), code, time.perf_counter() - began)

    def _broken(self, path: str) -> Response:
        """Called while an exception is handled; told with its trace at most once a minute, whoever asks how often."""
        now = time.monotonic()
        if now >= self._tells_from:
            self._tells_from = now + TELL_EVERY_S
            _log.exception("request failed", path=path, silent_s=TELL_EVERY_S)
        return status(HTTPStatus.INTERNAL_SERVER_ERROR, BROKEN)

    def _answered(self, path: str, query: bytes) -> Response | None:
        for one in self._direct:
            response = one.direct(path, query)
            if response is not None:
                return response
        return None


def _method_refusal(scope: Scope) -> Response | None:
    if scope["method"] in READ_ONLY:
        return None
    response = status(
        HTTPStatus.METHOD_NOT_ALLOWED, f"{scope['method']} is not allowed: this server only answers reads"
    )
    response.headers["Allow"] = ", ".join(READ_ONLY)
    return response


def _path_refusal(scope: Scope) -> Response | None:
    """Paths whose decoded form would read as another path, or as no text at all."""
    raw = scope.get("raw_path") or scope["path"].encode()
    if _PLAIN.fullmatch(raw):
        return None
    text = raw.decode("ascii", errors="replace")
    escapes = text.split("%")[1:]
    if any(len(escape) < 2 or not _HEX.issuperset(escape[:2]) for escape in escapes):  # noqa: PLR2004 - two hex digits
        return status(HTTPStatus.BAD_REQUEST, "malformed percent-encoding in the path")
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return status(HTTPStatus.BAD_REQUEST, "the path is not percent-encoded UTF-8")
    codes = [int(escape[:2], 16) for escape in escapes]
    if any(code < _FIRST_PRINTABLE or code == _DELETE or chr(code) in "/\\" for code in codes):
        return status(HTTPStatus.NOT_FOUND, "no name has a slash or a control character in it")
    return None
