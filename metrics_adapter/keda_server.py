"""The gRPC server of the external scaler: on a thread of its own, over TLS or mTLS, with health and reflection.

Certificates are read again when their files change: a handshake after the change gets the new ones. A file that cannot
be used is logged, and the ones before it stay.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from metrics_adapter.keda import MOST_STREAMS, SERVICE, ExternalScaler
from metrics_adapter.tls import TlsError, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from metrics_adapter.keda import Scaler

_log = structlog.get_logger(__name__)

LOOK_EVERY = 0.2
"""Seconds between looks at the board's pointer: a change is pushed well within the second that is promised."""
MOST_REQUEST = 256 * 1024
GRACE = 2.0
UNARY_THREADS = 4
"""More only wait for one another's interpreter lock (1: 310 us of CPU a call, 4: 221 us)."""
PUSH_THREADS = 8
MOST_WAITING = 1_000
"""Unary calls that may wait for a thread; beyond it RESOURCE_EXHAUSTED."""
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.so_reuseport", 0),  # an address that is taken is an error, not a lottery between two servers
    ("grpc.max_receive_message_length", MOST_REQUEST),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1024),
    ("grpc.max_connection_age_ms", 300_000),  # KEDA's round robin finds new replicas of ours when it connects again
    ("grpc.max_connection_age_grace_ms", 60_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


class KedaServerError(Exception):
    """A scaler that cannot start or stop; the message names the address."""


@dataclass(frozen=True, slots=True)
class GrpcTls:
    """Certificate and key files (PEM) of the server; with `client_ca`, only clients it signed are let in (mTLS).

    `renew` is called before the files are looked at, for certificates of our own that run out.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None
    renew: Callable[[], object] | None = None


class _Certificates:
    """Reads the files and notices when they change; called by gRPC's threads at each handshake."""

    def __init__(self, tls: GrpcTls, clock: Callable[[], float]) -> None:
        self._tls = tls
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: tuple[object, ...] = ()

    def first(self) -> grpc.ServerCertificateConfiguration:
        """What to start with. Raises TlsError."""
        self._stamp = self._look()
        return self._read()

    def newer(self) -> grpc.ServerCertificateConfiguration | None:
        """The files' content when they have changed and can be used; None: go on with the last."""
        with self._lock:
            try:
                if self._tls.renew is not None:
                    self._tls.renew()
                stamp = self._look()
                if stamp == self._stamp:
                    return None
                self._stamp = stamp
                return self._read()
            except (TlsError, OSError) as error:
                _log.warning("keeping the scaler's certificate: the new one cannot be used", reason=str(error))
                return None

    def _look(self) -> tuple[object, ...]:
        stamps: list[object] = []
        for path in (self._tls.cert, self._tls.key, self._tls.client_ca):
            try:
                stat = path.stat() if path is not None else None
            except OSError:
                stat = None
            stamps.append(stat and (stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(stamps)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        tls = self._tls
        load(tls.cert, tls.key, self._clock())
        try:
            roots = tls.client_ca.read_bytes() if tls.client_ca is not None else None
            if roots is not None and b"-----BEGIN CERTIFICATE-----" not in roots:
                raise TlsError(f"{tls.client_ca}: holds no PEM certificate")
            pair = (tls.key.read_bytes(), tls.cert.read_bytes())
        except OSError as error:
            raise TlsError(f"{error.filename}: {error.strerror}") from None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)


class KedaServer:
    """The scaler on an address; port 0 takes a free one. Also a context manager. A server runs once."""

    def __init__(
        self,
        scaler: Scaler,
        host: str,
        port: int,
        tls: GrpcTls | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.host = host
        self.port = port
        self._scaler = scaler
        self._tls = tls
        self._clock = clock
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    @property
    def address(self) -> str:
        """host:port; the port is the real one once started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def start(self) -> None:
        """Listen, and return once calls are answered.

        Raises:
            KedaServerError: an address that cannot be listened on, a certificate that cannot be used, a second start.
        """
        if self._thread is not None:
            raise KedaServerError(f"{self.address}: this server was started before; make a new one")
        self._thread = threading.Thread(target=self._run, name="tidegate-keda", daemon=True)
        self._thread.start()
        self._up.wait()
        if self._failure is not None:
            self._thread.join()
            raise KedaServerError(f"{self.address}: {self._failure}") from self._failure

    def stop(self) -> None:
        """Health says NOT_SERVING, streams end, running calls finish within 2 s. Safe to call again.

        Raises:
            KedaServerError: the thread hangs.
        """
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join(GRACE + 5.0)
        if self._thread.is_alive():
            raise KedaServerError(f"{self.address}: the scaler did not stop within {GRACE + 5.0:g} s")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits in start()
            self._failure = error
            if self._up.is_set():
                _log.exception("the scaler's server failed", address=self.address)
        finally:
            self._up.set()

    def _serve(self) -> None:
        with ThreadPoolExecutor(UNARY_THREADS, "tidegate-keda") as calls, ThreadPoolExecutor(PUSH_THREADS) as pushes:
            servicer = ExternalScaler(self._scaler, pushes)
            healthy = health.HealthServicer(experimental_non_blocking=True, experimental_thread_pool=pushes)
            server = grpc.server(calls, options=_OPTIONS, maximum_concurrent_rpcs=MOST_STREAMS + MOST_WAITING)
            server.add_generic_rpc_handlers((servicer.handler(),))
            health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
            reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
            self.port = self._bind(server)
            server.start()
            try:
                for name in ("", SERVICE):
                    healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
                self._up.set()
                self._watch(servicer)
            finally:
                healthy.enter_graceful_shutdown()
                servicer.close()
                server.stop(GRACE).wait()

    def _bind(self, server: grpc.Server) -> int:
        try:
            if self._tls is None:
                return server.add_insecure_port(self.address)
            certificates = _Certificates(self._tls, self._clock)
            newer = cast("Callable[[], grpc.ServerCertificateConfiguration]", certificates.newer)  # or None
            credentials = grpc.dynamic_ssl_server_credentials(
                certificates.first(), newer, require_client_authentication=self._tls.client_ca is not None
            )
            return server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise KedaServerError(f"cannot listen there: {' '.join(str(error).split())}") from None

    def _watch(self, servicer: ExternalScaler) -> None:
        """Tell the streams of each new snapshot. The board knows no listeners: one comparison of pointers does it."""
        board = self._scaler.board
        told = board.latest()
        while not self._stop.wait(LOOK_EVERY):
            latest = board.latest()
            if latest is not told:
                told = latest
                servicer.published()
