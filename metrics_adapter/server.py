"""The HTTP server: one app out of routers, guarded, on a thread of its own.

`compose` makes the app: only reads, strict paths, Status errors, every request counted. `Server` runs it under uvicorn
beside the control loop. Both hold for the metrics API over TLS and for the plain port with metrics, health and status.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Self, cast

import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from metrics_adapter.guard import BROKEN, Guard
from metrics_adapter.protocol import BoundedProtocol, Room, ServerLimits
from metrics_adapter.wire import status

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from fastapi import APIRouter
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from metrics_adapter.gate import Gate
    from metrics_adapter.guard import Direct, RequestMeter

_log = structlog.get_logger(__name__)

LARGEST_PORT = 65535
MOST_FILES = 65536
_POLL = 0.005
_CLIENT_FAULTS = ("Invalid HTTP request", "Unsupported upgrade")


class ServerError(Exception):
    """A server that cannot start or stop; the message names the address."""


def compose(
    routers: Sequence[APIRouter], meter: RequestMeter, gate: Gate | None = None, direct: Sequence[Direct] = ()
) -> Guard:
    """An app of these routers, behind a gate; what they do not serve is a 404 Status, what they break a 500 Status."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    for router in routers:
        app.include_router(router)
    return Guard(app, meter, gate, tuple(direct))


async def _refused(_request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else HTTPStatus.INTERNAL_SERVER_ERROR
    if code == HTTPStatus.NOT_FOUND:
        return status(code, "the server could not find the requested resource")
    return status(code, str(getattr(error, "detail", error)))


async def _failed(_request: Request, _error: Exception) -> Response:
    return status(HTTPStatus.INTERNAL_SERVER_ERROR, BROKEN)  # the guard logs it


async def _invalid(_request: Request, error: Exception) -> Response:
    problems = error.errors() if isinstance(error, RequestValidationError) else ()
    told = (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems)
    return status(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(told))


def _more_files() -> None:
    """As many open files as this process may have: a crowd of idle connections must not use up the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _ToStructlog(logging.Handler):
    """Where uvicorn's own log goes; what only a client did wrong is not worth an operator's attention."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()
        if message.startswith(_CLIENT_FAULTS):
            _log.debug("uvicorn", message=message)
        else:
            _log.log(record.levelno, "uvicorn", message=message, exc_info=record.exc_info)


def _divert_log() -> None:
    logger = logging.getLogger("uvicorn.error")
    if not any(isinstance(handler, _ToStructlog) for handler in logger.handlers):
        logger.addHandler(_ToStructlog())
        logger.setLevel(logging.WARNING)
        logger.propagate = False


class Server:
    """An app on an address, served by a background thread; port 0 takes a free one. Also a context manager.

    The main thread keeps its signal handlers. A server runs once.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._tls = tls
        self._limits = limits or ServerLimits()
        self._room = Room(self._limits.connections)
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._uvicorn = uvicorn.Server(self._config(app))

    @property
    def url(self) -> str:
        """Where it answers; the port is the real one once started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the thread serves."""
        return self._thread is not None and self._thread.is_alive() and self._up.is_set()

    def start(self) -> None:
        """Listen, and return once requests are answered.

        Raises:
            ServerError: an address that cannot be listened on (taken, not ours, not allowed), or a second start.
        """
        if self._thread is not None:
            raise ServerError(f"{self.url}: this server was started before; make a new one")
        _more_files()
        listener = self._listen()
        self.port = listener.getsockname()[1]
        name = f"tidegate-http-{self.port}"
        self._thread = threading.Thread(target=self._run, args=(listener,), name=name, daemon=True)
        self._thread.start()
        self._up.wait()
        if self._failure is not None:
            self._thread.join()
            raise ServerError(f"{self.url}: the server did not start: {self._failure!r}") from self._failure

    def stop(self) -> None:
        """Stop accepting, let running requests finish within the limit, close the rest. Safe to call again.

        Raises:
            ServerError: the thread hangs, which only an endpoint that never yields can cause.
        """
        if self._thread is None:
            return
        self._uvicorn.should_exit = True
        self._thread.join(self._limits.stop + 5.0)
        if self._thread.is_alive():
            raise ServerError(f"{self.url}: the server did not stop within {self._limits.stop + 5.0:g} s")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _config(self, app: ASGIApp) -> uvicorn.Config:
        _divert_log()
        prompt = app if isinstance(app, Guard) else None
        bounded = partial(BoundedProtocol, limits=self._limits, room=self._room, prompt=prompt)
        protocol = cast("type[asyncio.Protocol]", bounded)
        tls = self._tls
        return uvicorn.Config(
            app,
            http=protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=self._limits.keep_alive,
            timeout_graceful_shutdown=self._limits.stop,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        if not 0 <= self.port <= LARGEST_PORT:
            raise ServerError(f"cannot listen on {self.host} port {self.port}: a port is 0 to {LARGEST_PORT}")
        try:
            listener = socket.create_server((self.host, self.port), family=family, backlog=1024)
        except OSError as error:
            raise ServerError(f"cannot listen on {self.host} port {self.port}: {error.strerror or error}") from error
        # Accepted connections inherit it; without it every answer waits 40 ms for a delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener

    def _run(self, listener: socket.socket) -> None:
        try:
            asyncio.run(self._serve(listener))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - handed to whoever waits in start()
            _log.exception("server failed", url=self.url)
            self._failure = error
        finally:
            listener.close()
            self._up.set()

    async def _serve(self, listener: socket.socket) -> None:
        serving = asyncio.create_task(self._uvicorn.serve([listener]))
        while not (self._uvicorn.started or serving.done()):  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(_POLL)
        if self._uvicorn.started:
            self._up.set()
        try:
            await serving
        finally:
            # A TLS client that never answers our close would otherwise keep its transport past the end of the loop.
            for connection in list(self._uvicorn.server_state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)
