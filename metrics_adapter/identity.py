"""Who asks and what for: identities, the attributes access is decided on, and who may decide.

Follows the aggregated API server's contract: a front proxy (the kube-apiserver) proves itself by a client certificate
and names the user in headers; anybody else brings a bearer token; what the user may do is asked of the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
MASTERS = "system:masters"
ALWAYS_ALLOWED = frozenset({"/healthz", "/readyz", "/livez"})
_NO_EXTRA: Mapping[str, tuple[str, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Identity:
    """A user as Kubernetes knows one."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _NO_EXTRA, hash=False)

    def authenticated(self) -> Identity:
        """With the group every authenticated user is in (the reference server adds it, too)."""
        if AUTHENTICATED in self.groups or UNAUTHENTICATED in self.groups:
            return self
        return Identity(self.user, self.uid, (*self.groups, AUTHENTICATED), self.extra)

    def key(self) -> tuple[object, ...]:
        """What tells it from others, `extra` included."""
        return self.user, self.uid, self.groups, tuple(sorted(self.extra.items()))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked for: a resource, or a `path` that is none."""

    verb: str
    path: str = ""
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        """In the words of a Forbidden Status."""
        if self.path:
            return f"{self.verb} path {self.path!r}"
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        where = f" in the namespace {self.namespace!r}" if self.namespace else " at the cluster scope"
        return f"{self.verb} resource {resource!r} in API group {self.group!r}{where}"


@lru_cache(maxsize=4096)
def attributes_of(path: str) -> Attributes:
    """The attributes of a read of this path (k8s.io/apiserver `pkg/endpoints/request/requestinfo.go`)."""
    parts = [part for part in path.split("/") if part]
    if len(parts) <= 3 or parts[0] != "apis":  # noqa: PLR2004 - apis, group, version and something
        return Attributes("get", path=path)
    group, version, *rest = parts[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2:  # noqa: PLR2004 - namespaces, its name and what is in it
            rest = rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    return Attributes("get" if name else "list", "", group, version, namespace, resource, name, subresource)


@dataclass(frozen=True, slots=True)
class Trust:
    """The front proxy as `extension-apiserver-authentication` describes it.

    No `allowed_names` means any certificate signed by the authorities (PEM). `generation` counts the rotations;
    `accepted` are earlier ones whose authorities are all among today's.
    """

    authorities: str
    allowed_names: frozenset[str] = frozenset()
    username_headers: tuple[str, ...] = ("x-remote-user",)
    group_headers: tuple[str, ...] = ("x-remote-group",)
    uid_headers: tuple[str, ...] = ("x-remote-uid",)
    extra_prefixes: tuple[str, ...] = ("x-remote-extra-",)
    generation: int = 1
    accepted: frozenset[int] = frozenset()

    def vouches(self, generation: int) -> bool:
        """Whether a certificate checked at that generation would be accepted now as well."""
        return generation == self.generation or generation in self.accepted

    def names(self, header: str) -> bool:
        """Whether a header (in lower case) carries identity, here or by the usual names."""
        return _is_identity(header) or (
            header in self.username_headers
            or header in self.group_headers
            or header in self.uid_headers
            or header.startswith(self.extra_prefixes)
        )

    def identity(self, headers: Iterable[tuple[bytes, bytes]]) -> Identity | None:
        """The user these headers name; None when they name none."""
        fields = [(name.decode("latin-1").lower(), value.decode("utf-8", "replace")) for name, value in headers]
        user = _first(fields, self.username_headers)
        if not user:
            return None
        groups = tuple(
            value for wanted in self.group_headers for name, value in fields if name == wanted and value.strip()
        )
        extra: dict[str, tuple[str, ...]] = {}
        for prefix in self.extra_prefixes:
            for name, value in fields:
                if name.startswith(prefix):
                    key = unquote(name[len(prefix) :])
                    extra[key] = (*extra.get(key, ()), value)
        return Identity(user, _first(fields, self.uid_headers), groups, MappingProxyType(extra))


class HeaderReader:
    """What one trust makes of headers, remembered: a kube-apiserver names the same few users all day."""

    def __init__(self, trust: Trust | None) -> None:
        self.trust = trust
        names = trust.names if trust is not None else _is_identity
        self._carries = lru_cache(maxsize=_REMEMBERED)(lambda name: names(name.decode("latin-1").lower()))
        self._read = lru_cache(maxsize=_REMEMBERED)(self._reading)

    def identity(self, headers: Iterable[tuple[bytes, bytes]]) -> Known | None:
        """The authenticated user these headers name; None when they name none."""
        carried = tuple([header for header in headers if self._carries(header[0])])
        if sum(len(value) for _, value in carried) > _LONG:
            return self._reading(carried)
        return self._read(carried)

    def without_identity(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The headers without those that name a user."""
        return [header for header in headers if not self._carries(header[0])]

    def _reading(self, carried: tuple[tuple[bytes, bytes], ...]) -> Known | None:
        found = self.trust.identity(carried) if self.trust is not None else None
        return None if found is None else known(found.authenticated())


@dataclass(frozen=True, slots=True)
class Known:
    """An identity with what it is remembered by."""

    who: Identity
    key: tuple[object, ...]
    master: bool


def known(who: Identity) -> Known:
    """An identity, its key, and whether it may do anything."""
    return Known(who, who.key(), MASTERS in who.groups)


_REMEMBERED = 1024
_LONG = 2048
"""Bytes of identity headers beyond which a reading is not kept: nobody's headers fill our memory."""
_IDENTITY_PREFIXES = ("x-remote-extra-",)
_IDENTITY_HEADERS = frozenset({"x-remote-user", "x-remote-group", "x-remote-uid"})


def _is_identity(header: str) -> bool:
    return header in _IDENTITY_HEADERS or header.startswith(_IDENTITY_PREFIXES)


def _first(fields: Iterable[tuple[str, str]], wanted: tuple[str, ...]) -> str:
    found = list(fields)
    return next((value for name in wanted for field, value in found if field == name and value), "")


class AuthorityError(Exception):
    """The cluster could not be asked; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether access is allowed, and what the authoriser said about it."""

    allowed: bool
    reason: str = ""


class Authority(Protocol):
    """Whoever knows tokens and permissions. Methods may block; they are called from worker threads."""

    def review(self, token: str, /) -> Identity | None:
        """Whose token this is; None when it is nobody's. Raises AuthorityError."""

    def decide(self, identity: Identity, attributes: Attributes, /) -> Verdict:
        """Whether this user may do this. Raises AuthorityError."""


class TrustSource(Protocol):
    """Whoever follows the front proxy's certificate authorities."""

    def trust(self) -> Trust | None:
        """The newest; None before the first. Never blocks."""

    def doubt(self) -> None:
        """A certificate was not accepted: perhaps the authorities have rotated. Never blocks."""
