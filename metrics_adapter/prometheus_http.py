"""Talking to one Prometheus-compatible server: credentials, deadlines, retries, and errors in words.

`prometheus-api-client` knows the API; this module gives it a session that it may not wait on for ever. The package
passes one timeout per socket operation and drops warnings and error texts; here every answer is read against a
deadline, warnings are kept, and a failure says what was wrong and what would be right, without any credential in it.
"""

from __future__ import annotations

import io
import json
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import urllib3
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from requests.adapters import HTTPAdapter

from metrics_adapter.signals import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_BODY = 256 << 20  # bytes; 1,000 groups answer with about 100 KiB
_LONG_QUERY = 3_500  # characters; longer ones go as a POST body, because proxies limit the request line to 4-8 KiB
_SECRET_LENGTH = 8  # a shorter header value ("1", "team-a") is a name, and blotting it out would spoil the message
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_HINTS = {
    401: "the credentials are missing or wrong (bearer token or basic auth)",
    403: "these credentials may not query",
    404: "there is no query API at this address: is a path prefix missing?",
    429: "too many requests",
}


@dataclass(frozen=True, slots=True)
class PrometheusAccess:
    """Where a Prometheus-compatible server is and how to get in.

    Attributes:
        url: base address including any path prefix, e.g. `http://prometheus.monitoring:9090`. User and password in it
            are taken as basic auth.
        timeout_s: all queries of one look together, retries included, seconds.
        retries: further attempts per query after a connection error, 408, 429 or 5xx.
        backoff_s: wait before the first retry, seconds; doubles each time; `Retry-After` wins when longer.
        bearer_token: sent as `Authorization: Bearer`.
        bearer_token_file: the same, read anew for each request, because mounted tokens rotate hourly.
        username: for basic auth.
        password: for basic auth.
        password_file: the same, read anew for each request.
        client_cert: PEM file with the client certificate (mTLS).
        client_key: PEM file with its key; None when it is in the same file.
        ca_file: PEM file with the CA that signed the server's certificate; None: the system's.
        insecure_skip_verify: accept any server certificate.
        headers: sent with every request, e.g. `{"X-Scope-OrgID": "team-a"}` for a multi-tenant server.
    """

    url: str
    timeout_s: float = 10.0
    retries: int = 2
    backoff_s: float = 0.2
    bearer_token: str | None = field(default=None, repr=False)
    bearer_token_file: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    ca_file: str | None = None
    insecure_skip_verify: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"url: {self.address!r} is not an http:// or https:// address")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s: {self.timeout_s} must be above 0")
        if self.retries < 0 or self.backoff_s < 0:
            raise ValueError(f"retries and backoff_s: {self.retries} and {self.backoff_s} must not be negative")
        bearer = self.bearer_token is not None or self.bearer_token_file is not None
        if bearer and (self.username is not None or parts.username is not None):
            raise ValueError("bearer_token and username exclude one another: a request has one Authorization header")
        if self.bearer_token is not None and self.bearer_token_file is not None:
            raise ValueError("bearer_token and bearer_token_file exclude one another")
        if self.client_key is not None and self.client_cert is None:
            raise ValueError("client_key without client_cert: name the certificate as well")

    @property
    def address(self) -> str:
        """The URL without user, password, query and trailing slash."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")).rstrip("/")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said: the decoded `data` (or its `result`), and its warnings."""

    data: Any
    warnings: tuple[str, ...] = ()


class _Call(threading.local):
    """The request a thread is in the middle of."""

    deadline: float = 0.0
    response: requests.Response | None = None


class _Transport(HTTPAdapter):
    """Sends with the time that is left and reads the whole body within it (a trickling server resets any timeout)."""

    def __init__(self, call: _Call, pool: int) -> None:
        self.call = call
        super().__init__(pool_connections=1, pool_maxsize=pool)

    def send(self, request: requests.PreparedRequest, *_args: Any, **options: Any) -> requests.Response:
        """Like the adapter's own, with the deadline for a timeout and the body already read."""
        left = self.call.deadline - time.monotonic()
        if left <= 0:
            raise requests.Timeout("no time left")
        response = super().send(request, **{**options, "stream": True, "timeout": left})
        try:
            body = self._body(response.raw)
        except urllib3.exceptions.ReadTimeoutError as error:
            response.raw.close()
            raise requests.ReadTimeout(error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            response.raw.close()
            raise error if isinstance(error, requests.RequestException) else requests.ConnectionError(error) from error
        response.raw.release_conn()
        response.raw = io.BytesIO(body)
        self.call.response = response
        return response

    def _body(self, raw: urllib3.HTTPResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        while chunk := raw.read1(1 << 20, decode_content=True):
            parts.append(chunk)
            size += len(chunk)
            if time.monotonic() > self.call.deadline:
                raise requests.ReadTimeout("the answer did not end in time")
            if size > _MAX_BODY:
                raise requests.ConnectionError(f"the answer is longer than {_MAX_BODY >> 20} MiB")
        return b"".join(parts)


class PrometheusClient:
    """A thread-safe client; one per server. Every method raises SourceError, and nothing else, on failure."""

    def __init__(self, access: PrometheusAccess, connections: int = 4) -> None:
        self.access = access
        self._call = _Call()
        self._closing = threading.Event()
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"  # compressing took Prometheus longer than sending
        self._session.verify = False if access.insecure_skip_verify else (access.ca_file or True)
        if access.client_cert is not None:
            cert, key = access.client_cert, access.client_key
            self._session.cert = cert if key is None else (cert, key)
        if access.insecure_skip_verify:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self._get, self._post = (
            PrometheusConnect(
                access.address, dict(access.headers), session=self._session, auth=self._authorised, method=method
            )
            for method in ("GET", "POST")
        )
        for prefix in (access.address, "http://", "https://"):  # the last two: wherever a redirect may lead
            self._session.mount(prefix, _Transport(self._call, connections))

    def close(self) -> None:
        """Release connections; safe to call twice."""
        self._closing.set()
        self._session.close()

    def query(self, text: str, at: float | None, deadline: float) -> Answer:
        """The result of an instant query at Unix time `at` (None: the server's own now)."""
        connect = self._post if len(text) > _LONG_QUERY else self._get
        params = {"timeout": f"{max(1, round((deadline - time.monotonic()) * 1000))}ms"}
        if at is not None:
            params["time"] = f"{at:.3f}"
        return self._ask(lambda: connect.custom_query(text, params), deadline)

    def query_range(self, text: str, start: float, end: float, step: float, deadline: float) -> Answer:
        """The result of a range query, `step` in seconds."""
        params = {"query": text, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return self._ask(lambda: self._api("query_range", params), deadline)

    def label_values(self, label: str, params: Mapping[str, Any], deadline: float) -> Answer:
        """Values of a label; `params` as the HTTP API has them."""
        return self._ask(lambda: self._get.get_label_values(label, dict(params)), deadline)

    def series(self, params: Mapping[str, Any], deadline: float) -> Answer:
        """Label sets of series; `params` as the HTTP API has them."""
        return self._ask(lambda: self._api("series", params), deadline)

    def _api(self, path: str, params: Mapping[str, Any]) -> Any:
        """For what the package only offers in whole seconds of local time."""
        response = self._session.get(
            f"{self.access.address}/api/v1/{path}",
            params=dict(params),
            headers=dict(self.access.headers),
            auth=self._authorised,
        )
        if not response.ok:
            raise PrometheusApiClientException(response.text)
        data = response.json()["data"]
        return data["result"] if isinstance(data, dict) else data

    def _authorised(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Adds the Authorization header; moves a long query from the address into the body."""
        credential = self._credential()
        if credential is not None:
            request.headers["Authorization"] = credential
        if request.method == "POST" and request.url is not None:
            request.url, _, query = request.url.partition("?")
            request.headers["Content-Type"] = "application/x-www-form-urlencoded"
            request.prepare_body(query, None)
        return request

    def _credential(self) -> str | None:
        access = self.access
        token = access.bearer_token
        if access.bearer_token_file is not None:
            token = self._secret("bearer_token_file", access.bearer_token_file)
        if token is not None:
            return f"Bearer {token}"
        parts = urlsplit(access.url)
        username = access.username if access.username is not None else unquote(parts.username or "")
        if not username:
            return None
        password = access.password if access.password is not None else unquote(parts.password or "")
        if access.password_file is not None:
            password = self._secret("password_file", access.password_file)
        return "Basic " + b64encode(f"{username}:{password}".encode()).decode()

    def _secret(self, name: str, path: str) -> str:
        try:
            value = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self._failed(f"{name} {path} cannot be read: {error}") from error
        if not value:
            raise self._failed(f"{name} {path} is empty")
        return value

    def _ask(self, ask: Callable[[], Any], deadline: float) -> Answer:
        """The answer, tried again while that makes sense and there is time."""
        attempt = 0
        while True:
            if self._closing.is_set():
                raise self._failed("the source has been closed")
            self._call.deadline, self._call.response = deadline, None
            try:
                return Answer(ask(), self._warnings())
            except (requests.RequestException, PrometheusApiClientException, OSError) as error:
                cause, again = self._cause(error)
                pause = max(self.access.backoff_s * 2**attempt, self._retry_after())
                attempt += 1
                if not again or attempt > self.access.retries or time.monotonic() + pause >= deadline:
                    tried = f" (tried {attempt} times)" if attempt > 1 else ""
                    quotes_a_header = isinstance(error, requests.exceptions.InvalidHeader)
                    raise self._failed(cause + tried) from (None if quotes_a_header else error)
                self._closing.wait(pause)
            except (ValueError, KeyError, TypeError):
                raise self._failed(self._nonsense()) from None

    def _failed(self, cause: str) -> SourceError:
        return SourceError(f"Prometheus at {self.access.address}: {self._without_secrets(cause)}")

    def _without_secrets(self, text: str) -> str:
        """A server may echo what it was sent, and libraries quote what they refuse to send."""
        access = self.access
        secrets = [access.bearer_token, access.password, unquote(urlsplit(access.url).password or "")]
        secrets += [value for value in access.headers.values() if len(value) >= _SECRET_LENGTH]
        for path in (access.bearer_token_file, access.password_file):
            if path is not None and Path(path).is_file():
                secrets.append(Path(path).read_text(encoding="utf-8", errors="replace").strip())
        username = access.username or unquote(urlsplit(access.url).username or "")
        secrets += [b64encode(f"{username}:{secret}".encode()).decode() for secret in secrets if secret]
        for secret in sorted({s for s in secrets if s}, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _warnings(self) -> tuple[str, ...]:
        response = self._call.response
        if response is None or b'"warnings"' not in response.content:
            return ()
        said = response.json()
        warnings = said.get("warnings") if isinstance(said, dict) else None
        return tuple(self._without_secrets(str(w)) for w in warnings or ())

    def _retry_after(self) -> float:
        value = self._call.response.headers.get("Retry-After", "") if self._call.response is not None else ""
        return float(value) if value.isascii() and value.isdigit() else 0.0

    def _nonsense(self) -> str:
        response = self._call.response
        if response is None:
            return "the request cannot be sent: a credential or header holds a character that HTTP does not allow"
        kind = response.headers.get("Content-Type", "no content type")
        said = f"answered with {kind} ({len(response.content)} bytes)"
        return f"{said}, which is not a Prometheus reply (a login page, or another server?)"

    def _cause(self, error: Exception) -> tuple[str, bool]:
        """The failure in words, and whether trying again makes sense."""
        response = self._call.response
        if isinstance(error, requests.exceptions.JSONDecodeError | requests.exceptions.InvalidHeader):
            return self._nonsense(), False
        if isinstance(error, PrometheusApiClientException) and response is not None:
            status = response.status_code
            said = self._error_text(response)
            hint = _HINTS.get(status, "")
            return ": ".join(p for p in (f"answered {status} {response.reason}", hint, said) if p), status in _RETRIED
        if isinstance(error, requests.exceptions.SSLError):
            return f"TLS failed: {_innermost(error)}", False
        if isinstance(error, requests.Timeout):
            return f"no answer within {self.access.timeout_s:g} s", True
        if isinstance(error, requests.ConnectionError):
            return f"cannot be reached: {_innermost(error)}", True
        return str(error), False

    @staticmethod
    def _error_text(response: requests.Response) -> str:
        """The server's own explanation, if it gave one as Prometheus does, else the start of what it said."""
        try:
            said = response.json()
        except ValueError:
            return " ".join(response.text.split())[:200]
        text = said.get("error") if isinstance(said, dict) else None
        return " ".join(str(text).split())[:500] if text else json.dumps(said)[:200]


def _innermost(error: BaseException) -> str:
    """The root of a chain of wrapped exceptions, which alone says something."""
    while True:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((a for a in error.args if isinstance(a, BaseException)), None) or error.__cause__
        if inner is None:
            return str(error).rpartition(">: ")[2] or type(error).__name__
        error = inner
