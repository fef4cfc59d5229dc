"""Reaching the API server: which credentials, how many connections, how many writes."""

from __future__ import annotations

import ssl
from threading import Lock
from typing import TYPE_CHECKING

from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from urllib3.util.ssl_ import create_urllib3_context
from yaml import YAMLError

from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS = 48
"""Pool size: one connection per watched kind and a few for requests; beyond it urllib3 would reconnect each time."""


class RateLimit:
    """A token bucket: `burst` at once, `per_second` on average. Thread-safe."""

    def __init__(
        self, per_second: float, burst: int, clock: Callable[[], float], sleep: Callable[[float], object]
    ) -> None:
        self._per_second, self._burst = per_second, float(burst)
        self._clock, self._sleep = clock, sleep
        self._tokens, self._at = float(burst), clock()
        self._lock = Lock()

    def take(self) -> float:
        """Take one, waiting for it as long as need be; returns how long that was, s."""
        with self._lock:
            now = self._clock()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_second)
            self._at = now
            self._tokens -= 1.0
            wait = max(0.0, -self._tokens / self._per_second)
        if wait:
            self._sleep(wait)
        return wait


def connect(kubeconfig: str | None, context: str | None) -> client.ApiClient:
    """The official client: by kubeconfig, else by the pod's service account, else by the user's own kubeconfig.

    Raises:
        BadSettings: none of them can be used.
    """
    made = client.Configuration()
    try:
        if kubeconfig is not None or context is not None:
            config.load_kube_config(kubeconfig, context, made)  # type: ignore[no-untyped-call]  # untyped there
        else:
            try:
                config.load_incluster_config(made)  # type: ignore[no-untyped-call]  # untyped there
            except ConfigException:
                config.load_kube_config(client_configuration=made)  # type: ignore[no-untyped-call]  # untyped there
    except (ConfigException, YAMLError, OSError, ValueError, KeyError, TypeError) as error:
        where = kubeconfig or "no service account in this pod, and no usable ~/.kube/config"
        said = " ".join((str(error) or type(error).__name__).split())[:200]
        raise BadSettings((f"cluster.kubeconfig: {where}: {said}; name a kubeconfig that works",)) from None
    made.retries = False
    made.connection_pool_maxsize = CONNECTIONS
    made.keep_alive = True
    connected = client.ApiClient(made)
    connected.rest_client.pool_manager.connection_pool_kw["ssl_context"] = _context(checks=made.verify_ssl)
    return connected


def _context(*, checks: bool) -> ssl.SSLContext:
    """Certificates are checked as kubectl does: Python 3.13 asks besides for extensions that many clusters' CAs lack.

    The CA and the client's certificate are put into it by urllib3, as the kubeconfig says.
    """
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED if checks else ssl.CERT_NONE)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
