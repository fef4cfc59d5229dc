"""What the Kubernetes API says about who asks us: tokens, permissions, the front proxy, and who owns an API group.

Needs `system:auth-delegator` (TokenReview, SubjectAccessReview) and, in kube-system, the role
`extension-apiserver-authentication-reader`.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog
from cryptography import x509

from autoscaler.cluster.api import ApiError, Resource
from metrics_adapter.identity import AuthorityError, Identity, Trust, Verdict

if TYPE_CHECKING:
    from autoscaler.cluster.api import Api
    from metrics_adapter.identity import Attributes

log = structlog.get_logger(__name__)

TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False)
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
API_SERVICES = Resource("apiregistration.k8s.io", "v1", "apiservices", "APIService", namespaced=False)
TRUST_NAMESPACE = "kube-system"
TRUST_NAME = "extension-apiserver-authentication"
DOUBT_EVERY_S = 2.0
"""A certificate that is not accepted has the ConfigMap read again, at most so often."""


class KubernetesAuthority:
    """Asks the API server about tokens and permissions. Thread-safe; each question is one request, never repeated."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def review(self, token: str, /) -> Identity | None:
        """Whose token this is; None when it is nobody's. Raises AuthorityError."""
        said = self._asked(TOKEN_REVIEWS, {"token": token})
        if said.get("authenticated") is not True:
            return None
        user = said.get("user") or {}
        if not user.get("username"):
            return None
        extra = {str(key): tuple(map(str, values)) for key, values in (user.get("extra") or {}).items()}
        groups = tuple(map(str, user.get("groups") or ()))
        return Identity(str(user["username"]), str(user.get("uid") or ""), groups, extra)

    def decide(self, identity: Identity, attributes: Attributes, /) -> Verdict:
        """Whether this user may do this. Raises AuthorityError."""
        spec: dict[str, Any] = {"user": identity.user}
        if identity.uid:
            spec["uid"] = identity.uid
        if identity.groups:
            spec["groups"] = list(identity.groups)
        if identity.extra:
            spec["extra"] = {key: list(values) for key, values in identity.extra.items()}
        if attributes.path:
            spec["nonResourceAttributes"] = {"path": attributes.path, "verb": attributes.verb}
        else:
            names = ("namespace", "verb", "group", "version", "resource", "name", "subresource")
            found = {name: getattr(attributes, name) for name in names}
            spec["resourceAttributes"] = {name: value for name, value in found.items() if value}
        said = self._asked(ACCESS_REVIEWS, spec)
        allowed = said.get("allowed") is True and said.get("denied") is not True
        return Verdict(allowed, str(said.get("reason") or said.get("evaluationError") or ""))

    def _asked(self, resource: Resource, spec: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "spec": spec}
        try:
            found = self._api.create(resource, "", body).get("status")
        except ApiError as error:
            raise AuthorityError(f"{resource.kind} failed: {error}") from None
        if not isinstance(found, dict):
            raise AuthorityError(f"{resource.kind} was answered without a status")
        return found


def trust_of(config: dict[str, Any], generation: int) -> Trust:
    """The front proxy's description in the ConfigMap.

    Raises:
        ValueError: no authorities, authorities that are no PEM, or a list that is none; names the key.
    """
    data = config.get("data") or {}
    authorities = str(data.get("requestheader-client-ca-file") or "")
    if not authorities.strip():
        raise ValueError(
            "requestheader-client-ca-file is empty: the API server has no front proxy (aggregation is off)"
        )
    try:
        x509.load_pem_x509_certificates(authorities.encode())
    except ValueError as error:
        raise ValueError(f"requestheader-client-ca-file holds no PEM certificates: {error}") from None
    base = Trust(authorities, frozenset(_listed(data, "requestheader-allowed-names")), generation=generation)
    return replace(
        base,
        username_headers=_headers(data, "requestheader-username-headers") or base.username_headers,
        group_headers=_headers(data, "requestheader-group-headers") or base.group_headers,
        uid_headers=_headers(data, "requestheader-uid-headers") or base.uid_headers,
        extra_prefixes=_headers(data, "requestheader-extra-headers-prefix") or base.extra_prefixes,
    )


def _listed(data: dict[str, Any], key: str) -> tuple[str, ...]:
    text = data.get(key)
    if not text:
        return ()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{key} is {str(text)[:80]!r}: want a JSON list of strings")
    return tuple(found)


def _headers(data: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(name.lower() for name in _listed(data, key) if name)


class FollowedTrust:
    """The front proxy's authorities, read again every `every_s` and soon after a certificate was not accepted.

    What cannot be read leaves the last that could in force. Start it, stop it.
    """

    def __init__(self, api: Api, every_s: float) -> None:
        self._api = api
        self._every_s = every_s
        self._current: Trust | None = None
        self._doubted = threading.Event()
        self._end = threading.Event()
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._follow, name="tidegate-trust", daemon=True)

    def trust(self) -> Trust | None:
        """The newest; None before the first."""
        return self._current

    def unready(self) -> str | None:
        """Why nobody can come in through the front proxy yet; None once its authorities have been read."""
        if self._current is not None:
            return None
        return f"the front proxy's authorities could not be read: {self._problem or 'not tried yet'}"

    def doubt(self) -> None:
        """A certificate was not accepted: look soon."""
        self._doubted.set()

    def start(self) -> None:
        """Read once, and then again and again on a thread."""
        self.read()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        self._doubted.set()
        self._thread.join()

    def read(self) -> None:
        """Read now; a failure is logged once until it changes or ends."""
        before = self._current
        try:
            found = trust_of(
                self._api.get(CONFIG_MAPS, TRUST_NAMESPACE, TRUST_NAME), before.generation if before else 1
            )
        except (ApiError, ValueError) as error:
            problem = f"{TRUST_NAMESPACE}/{TRUST_NAME}: {error}"
            if problem != self._problem:
                log.error("front proxy not known", reason=problem, kept=before is not None)  # noqa: TRY400 - an outage, no bug: the reason is enough
            self._problem = problem
            return
        self._problem = None
        if found == before:
            return
        if before is not None and found.authorities != before.authorities:
            found = replace(found, generation=before.generation + 1)
            if _pems(before.authorities) <= _pems(found.authorities):
                found = replace(found, accepted=before.accepted | {before.generation})
        elif before is not None:
            found = replace(found, accepted=before.accepted)
        self._current = found
        log.info("front proxy known", allowed_names=sorted(found.allowed_names) or "any", rotation=found.generation)

    def _follow(self) -> None:
        while not self._end.is_set():
            self._doubted.wait(self._every_s)
            if not self._end.is_set():
                self.read()
                self._end.wait(DOUBT_EVERY_S)
                self._doubted.clear()


def _pems(authorities: str) -> set[x509.Certificate]:
    return set(x509.load_pem_x509_certificates(authorities.encode()))


def owner(api: Api, group: str, version: str) -> tuple[str, str] | None:
    """Namespace and name of the Service behind an API group's version; None when nobody registered it.

    Raises:
        ApiError: it could not be asked. An APIService without a Service is the API server's own: `("", "")`.
    """
    try:
        service = (api.get(API_SERVICES, "", f"{version}.{group}").get("spec") or {}).get("service") or {}
    except ApiError as error:
        if error.absent:
            return None
        raise
    return str(service.get("namespace", "")), str(service.get("name", ""))
