"""Plain JSON to and from the Kubernetes API, through the official client's configuration, credentials and pool.

The client's typed models are left aside: checking 5,000 pods against them costs tens of seconds and hundreds of
megabytes, and custom resources have none. Nothing is retried here: whoever asks decides what a failure means.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import client

from autoscaler.errors import TidegateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kubernetes.client.rest import RESTResponse

    from autoscaler.cluster.connection import RateLimit

Json = dict[str, Any]
FIELD_MANAGER = "tidegate"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
PAGE = 500
"""Objects per page of a list: what client-go's reflectors ask for."""


class ApiError(TidegateError):
    """The API server refused, or could not be reached.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        reason: the Status object's, such as `NotFound`, `AlreadyExists`, `Expired`; `Unreachable` without an answer.
        message: in words. causes: reasons of details.causes. retry_after_s: when the server wants to be asked again.
    """

    def __init__(
        self, status: int, reason: str, message: str, causes: tuple[str, ...] = (), retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message
        self.causes, self.retry_after_s = causes, retry_after_s

    @property
    def gone(self) -> bool:
        """Whether a version or page asked for is no longer kept."""
        return self.status == HTTPStatus.GONE

    @property
    def absent(self) -> bool:
        """Whether the object, or its kind, is not there."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def conflict(self) -> bool:
        """Whether somebody else changed the object meanwhile."""
        return self.status == HTTPStatus.CONFLICT and self.reason != "AlreadyExists"

    @property
    def replaced(self) -> bool:
        """Whether another object has taken the name: a DELETE of the former uid is a conflict, a PATCH invalid."""
        said = {HTTPStatus.CONFLICT: "uid", HTTPStatus.UNPROCESSABLE_ENTITY: "metadata.uid"}
        return self.status in said and said[HTTPStatus(self.status)] in self.message.lower()

    @property
    def forbidden(self) -> bool:
        """Whether RBAC does not allow it."""
        return self.status in {HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED}

    @property
    def passing(self) -> bool:
        """Whether asking again later may help: no answer, overload, an error of the server, a conflict."""
        return self.status in {0, HTTPStatus.TOO_MANY_REQUESTS} or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR


class NotLeader(ApiError):  # noqa: N818 - named as it is said
    """This process must not write (any more): another one leads, or may by now."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "NotLeader", message)


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind as this server serves it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`group/version`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Where its objects are: all, a namespace's, or one."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        where = f"/namespaces/{quote(namespace, safe='')}" if namespace and self.namespaced else ""
        parts = [self.plural, *([quote(name, safe="")] if name else []), *([subresource] if subresource else [])]
        return f"{root}{where}/{'/'.join(parts)}"

    def __str__(self) -> str:
        """`plural.group`, as RBAC and kubectl say it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Watch:
    """The events of one watch request. Iterate once; `shutdown` from another thread ends it."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def __iter__(self) -> Iterator[tuple[str, Json]]:
        """(type, object) as they come. Raises ApiError for an ERROR event and for a broken connection."""
        rest = b""
        try:
            for chunk in self._response.stream(65_536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield _event(line)
            if rest.strip():
                yield _event(rest)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiError(0, "Unreachable", f"the watch broke: {_short(error)}") from None
        finally:
            self._response.close()

    def shutdown(self) -> None:
        """End it, even while another thread waits for an event."""
        try:
            self._response.shutdown()
        except (OSError, ValueError, RuntimeError):
            self._response.close()  # already ended, or not a real socket


def _event(line: bytes) -> tuple[str, Json]:
    event = json.loads(line)
    what, found = event["type"], event["object"]
    if what == "ERROR":
        raise _error(int(found.get("code") or 500), found, None)
    return what, found


class Api:
    """What reflectors read and hands write. Thread-safe.

    Args:
        made: the official client, with `retries` off.
        timeout_s: of one request.
        limit: holds writes back.
        fence: called right before every write; raises when this process must not write (any more).
    """

    def __init__(
        self,
        made: client.ApiClient,
        *,
        timeout_s: float = 10.0,
        limit: RateLimit | None = None,
        fence: Callable[[], None] | None = None,
    ) -> None:
        self._client = made
        self._timeout_s = timeout_s
        self._limit = limit
        self.fence = fence
        self.requests = 0
        self.written = 0

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()

    # reading

    def get(self, resource: Resource, namespace: str, name: str, subresource: str = "") -> Json:
        """One object. Raises ApiError."""
        return self._json("GET", resource.path(namespace, name, subresource))

    def read(self, path: str) -> Json:
        """Whatever a path answers: discovery, mostly. Raises ApiError."""
        return self._json("GET", path)

    def pages(self, resource: Resource, namespace: str = "", **selectors: str) -> Iterator[tuple[list[Json], str]]:
        """Pages of a list with its resource version. Raises ApiError; Gone when a later page came too late."""
        token: str | None = ""
        while token is not None:
            query = {"limit": str(PAGE), **selectors, **({"continue": token} if token else {})}
            page = self._json("GET", resource.path(namespace), query)
            meta = page.get("metadata") or {}
            yield page.get("items") or [], str(meta.get("resourceVersion", ""))
            token = meta.get("continue") or None

    def watch(self, resource: Resource, version: str, window_s: float, namespace: str = "", **selectors: str) -> Watch:
        """Follow changes after a version for so long. Raises ApiError."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(math.ceil(window_s)),
            **selectors,
        }
        answer = self._send(
            "GET", resource.path(namespace), query, None, None, (self._timeout_s, window_s + self._timeout_s)
        )
        if answer.status != HTTPStatus.OK:
            raise _refusal(answer)
        return Watch(answer.response)

    # writing

    def create(self, resource: Resource, namespace: str, body: Json, *, dry_run: bool = False) -> Json:
        """Raises ApiError; reason `AlreadyExists` when one of that name is there."""
        return self._write("POST", resource.path(namespace), body, "application/json", dry_run=dry_run)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Json | list[Json],
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Json:
        """A merge patch for an object, a JSON patch for a list. Raises ApiError."""
        content = JSON_PATCH if isinstance(body, list) else MERGE_PATCH
        return self._write("PATCH", resource.path(namespace, name, subresource), body, content, dry_run=dry_run)

    def replace(self, resource: Resource, namespace: str, name: str, body: Json, *, dry_run: bool = False) -> Json:
        """Raises ApiError; a conflict when its resource version has passed."""
        return self._write("PUT", resource.path(namespace, name), body, "application/json", dry_run=dry_run)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        uid: str = "",
        *,
        grace_s: int | None = None,
        dry_run: bool = False,
    ) -> Json:
        """Delete the object of that uid (any when empty), with its own grace unless one is given. Raises ApiError."""
        body: Json = {"preconditions": {"uid": uid}} if uid else {}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        return self._write("DELETE", resource.path(namespace, name), body, "application/json", dry_run=dry_run)

    def evict(self, pods: Resource, namespace: str, name: str, uid: str, *, dry_run: bool = False) -> None:
        """Evict a pod as its disruption budgets allow. Raises ApiError; status 429 when they do not."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": uid}},
        }
        self._write("POST", pods.path(namespace, name, "eviction"), body, "application/json", dry_run=dry_run)

    def _write(self, method: str, path: str, body: Json | list[Json], content: str, *, dry_run: bool) -> Json:
        query = {"fieldManager": FIELD_MANAGER} if method != "DELETE" else {}
        if dry_run:
            query["dryRun"] = "All"
        if self._limit is not None:
            self._limit.take()
        if self.fence is not None:
            self.fence()
        self.written += 1
        return self._json(method, path, query, body, content)

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | list[Json] | None = None,
        content: str | None = None,
    ) -> Json:
        answer = self._send(method, path, query or {}, body, content, (self._timeout_s, self._timeout_s))
        try:
            text = answer.response.read(decode_content=True)
            found = json.loads(text) if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES else None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: the answer broke off: {_short(error)}") from None
        finally:
            answer.response.release_conn()
        if not isinstance(found, dict):
            raise _refusal(answer, text)
        return found

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json | list[Json] | None,
        content: str | None,
        timeout: tuple[float, float],
    ) -> RESTResponse:
        self.requests += 1
        headers = {"Accept": "application/json", **({"Content-Type": content} if content else {})}
        asked = self._client.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        address = f"{asked[1]}?{urlencode(query)}" if query else asked[1]
        try:
            answer: RESTResponse = self._client.rest_client.request(  # type: ignore[no-untyped-call]  # untyped there
                asked[0], address, headers=asked[2], body=asked[3], _request_timeout=timeout
            )
        except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
            raise ApiError(0, "Unreachable", f"{method} {path}: {_short(error)}") from None
        return answer


def _refusal(answer: RESTResponse, text: bytes | None = None) -> ApiError:
    if text is None:
        text = answer.response.read(decode_content=True)
        answer.response.release_conn()
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    after = answer.headers.get("Retry-After")
    if not isinstance(found, dict):
        found = {"message": text.decode(errors="replace")[:300] or f"HTTP {answer.status}"}
    return _error(int(answer.status), found, after)


def _error(status: int, found: Json, after: str | None) -> ApiError:
    details = found.get("details") or {}
    causes = tuple(str(cause.get("reason", "")) for cause in details.get("causes") or ())
    seconds = float(after) if after is not None and after.isdecimal() else None
    return ApiError(status, str(found.get("reason", "")), str(found.get("message", "")), causes, seconds)


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
