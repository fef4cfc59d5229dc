"""The HTTP/1.1 connection: uvicorn's, bounded in what one client may take, and told who is at the other end."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from metrics_adapter.client_certificates import PeerObject
from metrics_adapter.gate import CLIENT
from metrics_adapter.wire import status

if TYPE_CHECKING:
    import asyncio

    from starlette.responses import Response
    from starlette.types import ASGIApp, Scope
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from metrics_adapter.client_certificates import ClientCertificate


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client may take. Sizes in bytes, times in seconds.

    A kube-apiserver pools a few connections, drops idle ones after 90 s (so we wait longer: it must be the one to hang
    up) and asks about once a second, every HPA every 15 s; the head of such a request is below 2 KiB. Beyond
    `connections` the one that was quiet longest makes room, so that a crowd that only holds connections open cannot
    keep those out who ask.
    """

    head: int = 32 * 1024
    body: int = 1024 * 1024
    connections: int = 512
    head_timeout: float = 10.0
    keep_alive: int = 120
    stop: int = 5


@dataclass(frozen=True, slots=True)
class Room:
    """The open connections of one server, the one that was quiet longest first."""

    most: int
    present: OrderedDict[BoundedProtocol, None] = field(default_factory=OrderedDict)

    def enter(self, who: BoundedProtocol) -> None:
        """Let one more in; the quietest leaves when there are too many."""
        self.present[who] = None
        while len(self.present) > self.most:
            quietest = next((one for one in self.present if one is not who and not one.answering), who)
            del self.present[quietest]
            quietest.transport.abort()

    def asked(self, who: BoundedProtocol) -> None:
        """A whole request has come from there."""
        if who in self.present:
            self.present.move_to_end(who)

    def leave(self, who: BoundedProtocol) -> None:
        """It is closed."""
        self.present.pop(who, None)


class Prompt(Protocol):
    """Whoever answers some requests without waiting for anything."""

    def at_once(self, scope: Scope, /) -> Response | None:
        """The response; None where the ASGI app has to give it."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with what it leaves open: sizes and duration of a request, Status answers, the TLS client.

    What `prompt` answers is written as soon as the request is complete, without a task.
    """

    def __init__(
        self, *args: Any, limits: ServerLimits, room: Room, prompt: Prompt | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._room = room
        self._prompt = prompt
        self._ready: Response | None = None
        self._usual_app = self.app
        self._head = 0
        self._body = 0
        self._in_head = True
        self._in_message = False
        self._completed = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._client: ClientCertificate | None = None

    @property
    def answering(self) -> bool:
        """Whether a request is being answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # uvicorn begins with None
        return cycle is not None and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first request its deadline, and note whose connection this is."""
        super().connection_made(transport)
        peer = transport.get_extra_info("ssl_object")
        if isinstance(peer, PeerObject):
            self._client = peer.client()
        self._arm()
        self._room.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._disarm()
        self._room.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the head as it comes in: the parser itself would keep on buffering."""
        self._head += len(data) if self._in_head else 0
        before = self._completed
        super().data_received(data)
        if self._in_message or self._completed == before:  # not for a request that came in one piece: most do
            self._arm()
        if self._in_head and self._head > self._limits.head and not self.transport.is_closing():
            self._hang_up()

    def on_message_begin(self) -> None:
        """A request begins, and with it its time."""
        self._in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Choose who answers: the app, or a refusal."""
        self._in_head = False
        self._body = 0
        cast("dict[str, Any]", self.scope)["extensions"] = {CLIENT: self._client}
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if len(self.url) > self._limits.head:
            self.app = _closing(HTTPStatus.REQUEST_URI_TOO_LONG, f"the URL has more than {self._limits.head} bytes")
        elif size > self._limits.head:
            self.app = _closing(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the headers have more than {self._limits.head} bytes"
            )
        else:
            self.app = self._usual_app
            self._ready = self._prompt_answer()
            if self._ready is not None:
                return
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the parser reads nothing more after a request to change the protocol

    def on_body(self, body: bytes) -> None:
        """Nothing we answer needs a body: drop it, and whoever sends too much of it."""
        self._body += len(body)
        if self._body > self._limits.body and not self.transport.is_closing():
            self.transport.close()

    def on_message_complete(self) -> None:
        """The request is all here: the next head may come, and takes its own time."""
        self._disarm()
        self._in_head = True
        self._head = 0
        self._in_message = False
        self._completed += 1
        self._room.asked(self)
        ready, self._ready = self._ready, None
        if ready is None:
            super().on_message_complete()
        elif not self.transport.is_closing():
            self.transport.write(_as_bytes(ready, self.server_state.default_headers))
            self.on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with a Status as well."""
        self._send_refusal(HTTPStatus.BAD_REQUEST, msg)

    def _prompt_answer(self) -> Response | None:
        """The answer that needs no task; None for what is out of the ordinary, and while another is being given."""
        parser = self.parser
        if self._prompt is None or self.answering or self.pipeline or self.flow.write_paused:
            return None
        if self.expect_100_continue or parser.get_http_version() != "1.1" or parser.get_method() != b"GET":
            return None
        if not parser.should_keep_alive() or parser.should_upgrade():
            return None
        url = httptools.parse_url(self.url)
        scope = cast("dict[str, Any]", self.scope)
        scope["method"] = "GET"
        scope["raw_path"] = url.path
        scope["path"] = url.path.decode("ascii")
        scope["query_string"] = url.query or b""
        return self._prompt.at_once(scope)

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


def _as_bytes(response: Response, more: list[tuple[bytes, bytes]]) -> bytes:
    parts = [STATUS_LINE[response.status_code]]
    for name, value in (*more, *response.raw_headers):
        parts += (name, b": ", value, b"\r\n")
    return b"".join((*parts, b"\r\n", response.body))


def _closing(code: HTTPStatus, message: str) -> ASGIApp:
    response = status(code, message)
    response.headers["Connection"] = "close"
    return response
