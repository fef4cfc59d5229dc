"""The HTTP/1.1 connection: uvicorn's, bounded in what one client may take."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from metrics_adapter.external import status

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client may take. Sizes in bytes, times in seconds.

    A kube-apiserver pools a few connections, drops idle ones after 90 s (so we wait longer: it must be the one to hang
    up) and asks about once a second, every HPA every 15 s; the head of such a request is below 2 KiB.
    """

    head: int = 32 * 1024
    connections: int = 256
    head_timeout: float = 10.0
    keep_alive: int = 120
    stop: int = 5


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with what it leaves open: the size of a request's head, its duration, and Status answers."""

    def __init__(self, *args: Any, limits: ServerLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._usual_app = self.app
        self._head = 0
        self._in_head = True
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first request its deadline; drop what could not even be refused politely."""
        super().connection_made(transport)
        if len(self.connections) > 2 * self._limits.connections:
            transport.abort()
            return
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the head as it comes in: the parser itself would keep on buffering."""
        self._arm()
        self._head += len(data) if self._in_head else 0
        super().data_received(data)
        if self._in_head and self._head > self._limits.head and not self.transport.is_closing():
            self._hang_up()

    def on_headers_complete(self) -> None:
        """Choose who answers: the app, or a refusal."""
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if len(self.url) > self._limits.head:
            self.app = _closing(HTTPStatus.REQUEST_URI_TOO_LONG, f"the URL has more than {self._limits.head} bytes")
        elif size > self._limits.head:
            self.app = _closing(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the headers have more than {self._limits.head} bytes"
            )
        elif len(self.connections) > self._limits.connections:
            self.app = _closing(
                HTTPStatus.SERVICE_UNAVAILABLE, f"more than {self._limits.connections} connections are open"
            )
        else:
            self.app = self._usual_app
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the parser reads nothing more after a request to change the protocol

    def on_message_complete(self) -> None:
        """The request is all here: the next head may come, and takes its own time."""
        self._disarm()
        self._in_head = True
        self._head = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a Status as well."""
        self._send_refusal(HTTPStatus.BAD_REQUEST, msg)

    def _hang_up(self) -> None:
        self._send_refusal(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the request's head has more than {self._limits.head} bytes"
        )

    def _send_refusal(self, code: HTTPStatus, message: str) -> None:
        body = bytes(status(code, message).body)
        head = f"HTTP/1.1 {code.value} {code.phrase}\r\ncontent-type: application/json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._limits.head_timeout, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self.transport.abort()


def _closing(code: HTTPStatus, message: str) -> ASGIApp:
    response = status(code, message)
    response.headers["Connection"] = "close"
    return response
