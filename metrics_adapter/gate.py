"""The gate before every route: who is it, may they, and if not, why not.

Order and caches are the reference server's: always-allowed health paths, then front proxy certificate, else bearer
token, else 401; then `system:masters`, else a SubjectAccessReview remembered for 10 s. The cluster is asked on a few
threads and never waited for longer than a limit, since an HPA has no deadline of its own and only five workers.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import structlog

from metrics_adapter.identity import (
    ALWAYS_ALLOWED,
    AuthorityError,
    HeaderReader,
    Verdict,
    attributes_of,
    known,
)
from metrics_adapter.wire import status

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from starlette.responses import Response
    from starlette.types import Scope

    from metrics_adapter.client_certificates import ClientCertificate
    from metrics_adapter.identity import Authority, Identity, Known, Trust, TrustSource

_log = structlog.get_logger(__name__)
_Value = TypeVar("_Value")

CLIENT = "tidegate.client"
MAX_TOKEN = 16 * 1024
_BEARER = "bearer "
_SAY_EVERY = 60.0


class Outcome(StrEnum):
    """What the gate found; the bounded label of a count."""

    FRONT_PROXY = "front-proxy"
    TOKEN = "token"  # noqa: S105 - the name of a way to authenticate
    NO_CREDENTIALS = "no-credentials"
    BAD_CERTIFICATE = "bad-certificate"
    WRONG_NAME = "wrong-name"
    NO_USER = "no-user"
    BAD_TOKEN = "bad-token"  # noqa: S105 - likewise
    FORBIDDEN = "forbidden"
    UNAVAILABLE = "unavailable"


class GateMeter(Protocol):
    """Whoever counts what the gate found."""

    def admitted(self, outcome: Outcome) -> None:
        """One request let in, by how it was authenticated."""

    def turned_away(self, outcome: Outcome) -> None:
        """One request refused."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Times in seconds: how long answers of the cluster are remembered, and how long one may take."""

    allow: float = 10.0
    deny: float = 10.0
    token: float = 10.0
    wait: float = 3.0
    threads: int = 4
    pending: int = 128
    entries: int = 4096


class _Remembered(Generic[_Value]):
    """Answers by key, each asked for once at a time and kept for as long as `keep` says."""

    def __init__(
        self, limits: GateLimits, pool: ThreadPoolExecutor, clock: Callable[[], float], keep: Callable[[_Value], float]
    ) -> None:
        self._limits = limits
        self._pool = pool
        self._clock = clock
        self._keep = keep
        self._known: OrderedDict[Hashable, tuple[float, _Value]] = OrderedDict()
        self._asking: dict[Hashable, asyncio.Future[_Value]] = {}

    def known(self, key: Hashable) -> _Value | None:
        found = self._known.get(key)
        if found is None or found[0] <= self._clock():
            return None
        return found[1]

    async def ask(self, key: Hashable, question: Callable[[], _Value]) -> _Value:
        asking = self._asking.get(key)
        if asking is None:
            if len(self._asking) >= self._limits.pending:
                raise AuthorityError(f"{len(self._asking)} questions to the cluster are waiting already")
            asking = asyncio.get_running_loop().run_in_executor(self._pool, question)
            self._asking[key] = asking
            asking.add_done_callback(lambda done: self._answered(key, done))
        try:
            return await asyncio.wait_for(asyncio.shield(asking), self._limits.wait)
        except TimeoutError:
            raise AuthorityError(f"the cluster did not answer within {self._limits.wait:g} s") from None

    def _answered(self, key: Hashable, done: asyncio.Future[_Value]) -> None:
        self._asking.pop(key, None)
        if done.cancelled() or done.exception() is not None:
            return
        value = done.result()
        self._known[key] = (self._clock() + self._keep(value), value)
        self._known.move_to_end(key)
        while len(self._known) > self._limits.entries:
            self._known.popitem(last=False)


class Gate:
    """Authenticates and authorises. Used from one event loop; close it."""

    def __init__(
        self,
        authority: Authority,
        trust: TrustSource,
        meter: GateMeter,
        limits: GateLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or GateLimits()
        self._authority = authority
        self._trust = trust
        self._meter = meter
        self._clock = clock
        self._pool = ThreadPoolExecutor(self._limits.threads, thread_name_prefix="tidegate-gate")
        self._tokens: _Remembered[tuple[Identity | None]] = _Remembered(
            self._limits, self._pool, clock, lambda _: self._limits.token
        )
        self._verdicts: _Remembered[Verdict] = _Remembered(
            self._limits, self._pool, clock, lambda said: self._limits.allow if said.allowed else self._limits.deny
        )
        self._said: dict[Outcome, tuple[float, int]] = {}
        self._reader = HeaderReader(None)

    def close(self) -> None:
        """End the threads; questions that still wait are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def admits(self, scope: Scope) -> Outcome | None:
        """How this request comes in, where that is remembered; None where `refusal` has to find out. Counts nothing."""
        shown: ClientCertificate | None = scope.get("extensions", {}).get(CLIENT)
        trust = self._trust.trust()
        if shown is None or trust is None or not _vouched(shown, trust):
            return None
        found = self._reading(trust).identity(scope["headers"])
        if found is None:
            return None
        if not found.master:
            verdict = self._verdicts.known((found.key, attributes_of(scope["path"])))
            if verdict is None or not verdict.allowed:
                return None
        return Outcome.FRONT_PROXY

    def let_in(self, outcome: Outcome) -> None:
        """Count a request that `admits` let in."""
        self._meter.admitted(outcome)

    async def refusal(self, scope: Scope) -> Response | None:
        """Why this request is not let in; None when it is. Identity headers are gone from the scope afterwards."""
        headers = scope["headers"]
        trust = self._trust.trust()
        scope["headers"] = self._reading(trust).without_identity(headers)
        if scope["path"] in ALWAYS_ALLOWED:
            return None
        try:
            found, outcome, why = self._proxied(headers, scope, trust)
            if found is None:
                found, outcome, why = await self._by_token(headers, outcome, why)
            if found is None:
                return self._turn_away(outcome, HTTPStatus.UNAUTHORIZED, why)
            return await self._authorise(found, scope["path"], outcome)
        except AuthorityError as error:
            why = f"the request could not be checked: {error}"
            return self._turn_away(Outcome.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE, why)

    def _reading(self, trust: Trust | None) -> HeaderReader:
        if self._reader.trust is not trust:
            self._reader = HeaderReader(trust)
        return self._reader

    def _proxied(
        self, headers: list[tuple[bytes, bytes]], scope: Scope, trust: Trust | None
    ) -> tuple[Known | None, Outcome, str]:
        shown: ClientCertificate | None = scope.get("extensions", {}).get(CLIENT)
        if shown is None:
            return None, Outcome.NO_CREDENTIALS, "neither a client certificate nor a bearer token was given"
        if trust is None:
            return None, Outcome.BAD_CERTIFICATE, "the client certificate cannot be checked: no authorities known yet"
        outcome, why = self._certificate_problem(shown, trust)
        if why:
            return None, outcome, why
        found = self._reading(trust).identity(headers)
        if found is None:
            return None, Outcome.NO_USER, "the front proxy named no user"
        return found, Outcome.FRONT_PROXY, ""

    def _certificate_problem(self, shown: ClientCertificate, trust: Trust) -> tuple[Outcome, str]:
        if shown.problem is not None or shown.common_name is None:
            self._trust.doubt()
            return Outcome.BAD_CERTIFICATE, f"the client certificate is {shown.problem or 'unnamed'}"
        if not trust.vouches(shown.generation):
            return Outcome.BAD_CERTIFICATE, "the client certificate was checked before the authorities changed"
        if trust.allowed_names and shown.common_name not in trust.allowed_names:
            self._trust.doubt()
            return Outcome.WRONG_NAME, f"the client certificate's name {shown.common_name!r} is not allowed here"
        return Outcome.FRONT_PROXY, ""

    async def _by_token(
        self, headers: list[tuple[bytes, bytes]], outcome: Outcome, why: str
    ) -> tuple[Known | None, Outcome, str]:
        given = next((value for name, value in headers if name.lower() == b"authorization"), b"").decode("latin-1")
        if not given.lower().startswith(_BEARER):
            return None, outcome, why
        token = given[len(_BEARER) :].strip()
        if not token or len(token) > MAX_TOKEN or not token.isascii():
            return None, Outcome.BAD_TOKEN, "the bearer token is none"
        key = hashlib.sha256(token.encode()).digest()
        reviewed = self._tokens.known(key)
        if reviewed is None:
            reviewed = await self._tokens.ask(key, lambda: (self._authority.review(token),))
        (found,) = reviewed
        if found is None:
            return None, Outcome.BAD_TOKEN, "the bearer token is not valid in this cluster"
        return known(found.authenticated()), Outcome.TOKEN, ""

    async def _authorise(self, found: Known, path: str, outcome: Outcome) -> Response | None:
        if found.master:
            self._meter.admitted(outcome)
            return None
        who, wanted = found.who, attributes_of(path)
        key = (found.key, wanted)
        verdict = self._verdicts.known(key)
        if verdict is None:
            verdict = await self._verdicts.ask(key, lambda: self._authority.decide(who, wanted))
        if verdict.allowed:
            self._meter.admitted(outcome)
            return None
        because = f": {verdict.reason}" if verdict.reason else ""
        return self._turn_away(Outcome.FORBIDDEN, HTTPStatus.FORBIDDEN, f"User {who.user!r} cannot {wanted}{because}")

    def _turn_away(self, outcome: Outcome, code: HTTPStatus, why: str) -> Response:
        self._meter.turned_away(outcome)
        now = self._clock()
        said_at, since = self._said.get(outcome, (-_SAY_EVERY, 0))
        if now - said_at >= _SAY_EVERY:
            self._said[outcome] = (now, 0)
            _log.warning("request turned away", outcome=outcome.value, why=why, more_before=since)
        else:
            self._said[outcome] = (said_at, since + 1)
        said = status(code, f"Unauthorized: {why}" if code is HTTPStatus.UNAUTHORIZED else why)
        if code is HTTPStatus.UNAUTHORIZED:
            said.headers["WWW-Authenticate"] = "Bearer"
            said.headers["Connection"] = "close"  # the next one is checked against today's authorities
        return said


def _vouched(shown: ClientCertificate, trust: Trust) -> bool:
    """Whether nothing is wrong with this certificate; `Gate` finds out what is."""
    return (
        shown.problem is None
        and shown.common_name is not None
        and trust.vouches(shown.generation)
        and (not trust.allowed_names or shown.common_name in trust.allowed_names)
    )
