"""A small stateful Kubernetes API server over real HTTP: the paths, verbs, watches and answers that clients rely on."""

from __future__ import annotations

import base64
import json
import socket
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from kube_builtin import fixed_problems
from kube_faults import Faults
from kube_patch import BadPatch, json_patch, merge, strategic
from kube_selectors import BadSelector, selector_text
from kube_store import Refused, Store, path_value

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from kube_aggregation import Aggregation
    from kube_kinds import Json, Kind

_PATCHES: dict[str, Callable[[Any, Any], Any]] = {
    "application/json-patch+json": json_patch,
    "application/merge-patch+json": merge,
    "application/strategic-merge-patch+json": strategic,
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as the log keeps it."""

    verb: str
    plural: str
    namespace: str
    name: str
    subresource: str
    query: dict[str, str]
    kind: Kind | None = None

    @property
    def writes(self) -> bool:
        return self.verb in {"create", "update", "patch", "delete"}

    @property
    def dry_run(self) -> bool:
        return self.query.get("dryRun") == "All"


@dataclass
class ApiServer:
    """The server. Use as a context manager; `url` is where it listens.

    Attributes:
        store: what is stored; tests look into it and play controllers on it.
        faults: what goes wrong.
        bookmark_s: time between the bookmarks of a watch.
        log: every request answered or refused, in order.
        allows: whether RBAC lets a request pass; all pass when None.
        token: what the Authorization header must bear; anything when None.
        tls: serves HTTPS with it. aggregation: hands requests for registered APIs on.
    """

    store: Store = field(default_factory=Store)
    faults: Faults = field(default_factory=Faults)
    bookmark_s: float = 0.3
    log: list[Request] = field(default_factory=list)
    stopping: bool = False
    allows: Callable[[Request], bool] | None = None
    token: str | None = None
    tls: ssl.SSLContext | None = None
    aggregation: Aggregation | None = None

    def __enter__(self) -> Self:
        self._connections: set[socket.socket] = set()
        handler = type("Handler", (_Handler,), {"api": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        if self.tls is not None:
            self._http.socket = self.tls.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        with self.store.lock:
            self.store.changed.notify_all()
        self._http.shutdown()
        self.drop_connections()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._http.server_address[1]}"

    def kubeconfig(self) -> Json:
        """A kubeconfig that reaches it."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
        }

    def writes(self, *verbs: str) -> list[Request]:
        """The log's writes that were no dry runs, events and leases left out."""
        return [
            one
            for one in self.log
            if one.writes
            and not one.dry_run
            and one.plural not in {"events", "leases"}
            and (not verbs or one.verb in verbs)
        ]

    def go_down(self, seconds: float) -> None:
        """Drop every connection and answer none for so long."""
        self.faults.down(seconds)
        self.drop_connections()

    def drop_connections(self) -> None:
        """Cut every open connection, as a restart does."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ClassVar[ApiServer]
    timeout = 60
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.api._connections.add(self.connection)

    def finish(self) -> None:
        self.api._connections.discard(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        """Silence: tests read `ApiServer.log`."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length) if length else b""
        if self.api.faults.is_down or self.api.stopping:
            self.close_connection = True
            return
        if self.api.faults.slow_s:
            time.sleep(self.api.faults.slow_s)
        if self.api.aggregation is not None and (handed := self.api.aggregation.handed_on(self.path)) is not None:
            self._answer(*handed)
            return
        try:
            body = json.loads(text) if text else None
            self._route(method, body)
        except Refused as refused:
            self._refuse(refused)
        except BadSelector as error:
            self._refuse(Refused(400, "BadRequest", str(error)))
        except BadPatch as error:
            self._refuse(Refused(422, "Invalid", str(error)))
        except json.JSONDecodeError as error:
            self._refuse(Refused(400, "BadRequest", f"the body is not JSON: {error}"))
        except OSError:
            self.close_connection = True

    def _route(self, method: str, body: Any) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        path = [unquote(part) for part in parts.path.strip("/").split("/")]
        if (found := _discovery(self.api.store, path)) is not None:
            self._answer(200, found)
            return
        asked = self._asked(method, path, query)
        self.api.log.append(asked)
        if self.api.token is not None and self.headers.get("Authorization") != f"Bearer {self.api.token}":
            raise Refused(401, "Unauthorized", "Unauthorized")
        review = asked.plural == "selfsubjectaccessreviews"  # everybody may ask
        if not review and self.api.allows is not None and not self.api.allows(asked):
            what = f"{asked.plural}/{asked.subresource}" if asked.subresource else asked.plural
            raise Refused(403, "Forbidden", f"{what} is forbidden: the user cannot {asked.verb} it in this group")
        self.api.faults.check(asked.verb, asked.plural, asked.subresource)
        if asked.plural == "selfsubjectaccessreviews":
            self._answer(201, {**body, "status": {"allowed": self._allowed(body["spec"]["resourceAttributes"])}})
            return
        kind = asked.kind
        if kind is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        if asked.verb == "watch":
            self._watch(kind, asked)
        elif asked.verb == "list":
            self._list(kind, asked)
        else:
            code, found = _HANDLE[asked.verb](self.api.store, kind, asked, body, self.headers)
            if self.api.faults.loses_this(asked.verb, asked.plural):
                self.close_connection = True
                return
            self._answer(code, found)

    def _allowed(self, right: Json) -> bool:
        """As a SelfSubjectAccessReview asks: by `allows`, and by what the faults forbid."""
        kind = next(
            (k for k in self.api.store.kinds.values() if k.key == (right.get("group", ""), right["resource"])), None
        )
        verb, below = right["verb"], right.get("subresource", "")
        like = Request(verb, right["resource"], right.get("namespace", ""), "", below, {}, kind)
        try:
            self.api.faults.check(verb, right["resource"], below)
        except Refused:
            return False
        return self.api.allows is None or self.api.allows(like)

    def _asked(self, method: str, path: list[str], query: dict[str, str]) -> Request:
        group, version, rest = ("", path[1], path[2:]) if path[0] == "api" else (path[1], path[2], path[3:])
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in self.api.store.kinds:
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = [*rest, "", "", ""][:3]
        kind = self.api.store.kinds.get((group, version, plural))
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(method, "get")
        if verb == "get" and not name:
            verb = "watch" if query.get("watch") in {"true", "1"} else "list"
        return Request(verb, plural, namespace, name, subresource, query, kind)

    def _answer(self, code: int, body: Json | bytes, headers: dict[str, str] | None = None) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def _refuse(self, refused: Refused) -> None:
        headers = {"Retry-After": str(refused.retry_after)} if refused.retry_after is not None else None
        self._answer(refused.code, _status(refused), headers)

    def _list(self, kind: Kind, asked: Request) -> None:
        store, query = self.api.store, asked.query
        limit = int(query.get("limit") or 0)
        if query.get("continue"):
            page = store.pages.pop(query["continue"], None)
            if page is None:
                raise Refused(410, "Expired", "The provided continue parameter is too old")
            version, entries = page
        else:
            wanted = store.test(kind, asked.namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            version, entries = store.listed(kind, wanted)
        meta: Json = {"resourceVersion": str(version)}
        if limit and len(entries) > limit:
            token = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()
            store.pages[token] = version, entries[limit:]
            meta |= {"continue": token, "remainingItemCount": len(entries) - limit}
            entries = entries[:limit]
        head = json.dumps({"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta})
        items = b",".join(entry.encoded() for entry in entries)
        self._answer(200, head[:-1].encode() + b',"items":[' + items + b"]}")

    def _watch(self, kind: Kind, asked: Request) -> None:
        store, query = self.api.store, asked.query
        wanted = store.test(kind, asked.namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))
        version, first = int(query.get("resourceVersion") or 0), []
        if version == 0:
            version, first = store.listed(kind, wanted)
        until = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for entry in first:
            self._event("ADDED", entry.value)
        bookmarks = query.get("allowWatchBookmarks") in {"true", "1"}
        marked = time.monotonic()
        while time.monotonic() < until and not self.api.stopping and not self.api.faults.is_down:
            try:
                version, happenings = store.since(kind, version, min(0.1, self.api.bookmark_s))
            except Refused as refused:
                self._event("ERROR", _status(refused))
                break
            for happening in happenings:
                now, before = wanted(happening.now), happening.before is not None and wanted(happening.before)
                if happening.type == "DELETED":
                    seen = "DELETED" if before else ""
                else:
                    seen = ("MODIFIED" if before else "ADDED") if now else ("DELETED" if before else "")
                if seen:
                    self._event(seen, happening.now)
            if bookmarks and time.monotonic() - marked >= self.api.bookmark_s:
                marked = time.monotonic()
                self._event("BOOKMARK", _bookmark(kind, version))
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, what: str, found: Json) -> None:
        text = json.dumps({"type": what, "object": found}).encode() + b"\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(text), text))
        self.wfile.flush()


def _bookmark(kind: Kind, version: int) -> Json:
    return {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": {"resourceVersion": str(version)}}


def _status(refused: Refused) -> Json:
    found: Json = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": refused.message,
        "reason": refused.reason,
        "code": refused.code,
    }
    if refused.details:
        found["details"] = refused.details
    return found


def _discovery(store: Store, path: list[str]) -> Json | None:
    """What is served, for the discovery paths; None for all others."""
    if path == ["version"]:
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.2-test"}
    if path == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == ["apis"]:
        groups: dict[str, list[str]] = {}
        for group, version, _ in store.kinds:
            if group and version not in groups.setdefault(group, []):
                groups[group].append(version)
        items = [
            {"name": group, "versions": [{"groupVersion": f"{group}/{v}", "version": v} for v in versions]}
            for group, versions in groups.items()
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": items}
    if (path[0], len(path)) not in {("api", 2), ("apis", 3)}:
        return None
    group_version = (path[1] if path[0] == "apis" else "", path[-1])
    served = [kind for (group, version, _), kind in store.kinds.items() if (group, version) == group_version]
    if not served:
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    items = [_resource(kind, "") for kind in served]
    items += [_resource(kind, "/status") for kind in served if kind.status]
    items += [_resource(kind, "/scale") for kind in served if kind.scale]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "/".join(part for part in group_version if part),
        "resources": items,
    }


def _resource(kind: Kind, below: str) -> Json:
    verbs = ["get", "update", "patch"] if below else ["get", "list", "watch", "create", "update", "patch", "delete"]
    return {
        "name": kind.plural + below,
        "singularName": kind.kind.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": verbs,
    }


def _get(store: Store, kind: Kind, asked: Request, _body: Any, _headers: Any) -> tuple[int, Json]:
    found = store.get(kind, asked.namespace, asked.name)
    return 200, _scale(kind, found) if asked.subresource == "scale" else found


def _create(store: Store, kind: Kind, asked: Request, body: Any, _headers: Any) -> tuple[int, Json]:
    if asked.subresource == "eviction":
        store.evict((asked.namespace, asked.name), body, dry_run=asked.dry_run)
        return 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
    if asked.subresource or asked.name:
        raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    return 201, store.create(kind, asked.namespace, body, dry_run=asked.dry_run)


def _update(store: Store, kind: Kind, asked: Request, body: Any, _headers: Any) -> tuple[int, Json]:
    return 200, _write(store, kind, asked, lambda _: body)


def _patch(store: Store, kind: Kind, asked: Request, body: Any, headers: Any) -> tuple[int, Json]:
    how = _PATCHES.get(headers.get("Content-Type", "").split(";")[0])
    if how is None or (how is strategic and kind.custom):
        raise Refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
    return 200, _write(store, kind, asked, lambda found: how(found, body))


def _write(store: Store, kind: Kind, asked: Request, how: Callable[[Json], Json]) -> Json:
    where = asked.namespace, asked.name
    if asked.subresource == "scale":
        if kind.scale is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")

        def scaled(found: Json) -> Json:
            made = how(_scale(kind, found))
            replicas = made.get("spec", {}).get("replicas", 0)
            if not isinstance(replicas, int) or replicas < 0:
                raise Refused(422, "Invalid", f"spec.replicas: {replicas!r} must be at least 0")
            meta = {**found["metadata"], "resourceVersion": made["metadata"].get("resourceVersion", "")}
            return {**found, "metadata": meta, "spec": {**found["spec"], "replicas": replicas}}

        return _scale(kind, store.change(kind, where, scaled, dry_run=asked.dry_run))
    if asked.subresource not in {"", "status"}:
        raise Refused(404, "NotFound", "the server could not find the requested resource")

    def checked(found: Json) -> Json:
        made = how(found)
        if wrong := list(fixed_problems(kind.kind, made, found) if not (asked.subresource or kind.custom) else ()):
            raise Refused(422, "Invalid", f'{kind.kind} "{asked.name}" is invalid: {"; ".join(wrong)}')
        if asked.verb == "update" and not made["metadata"].get("resourceVersion") and conditional(kind):
            why = "metadata.resourceVersion: Invalid value: 0: must be specified for an update"
            raise Refused(422, "Invalid", f'{kind.kind} "{asked.name}" is invalid: {why}')
        return made

    return store.change(kind, where, checked, part=asked.subresource, dry_run=asked.dry_run)


def conditional(kind: Kind) -> bool:
    """Whether a PUT must say which version it replaces."""
    return kind.custom or kind.plural in {"leases", "customresourcedefinitions", "horizontalpodautoscalers"}


def _scale(kind: Kind, found: Json) -> Json:
    if kind.scale is None:
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    spec, status, selector = kind.scale
    if kind.custom:
        said = path_value(found, selector) if selector else None
    else:
        said = selector_text(found["spec"].get("selector", {}))
    meta = {k: v for k, v in found["metadata"].items() if k in {"name", "namespace", "uid", "resourceVersion"}}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": meta,
        "spec": {"replicas": path_value(found, spec) or 0},
        "status": {"replicas": path_value(found, status) or 0, **({"selector": said} if said else {})},
    }


def _delete(store: Store, kind: Kind, asked: Request, body: Any, _headers: Any) -> tuple[int, Json]:
    options = dict(body or {})
    if "gracePeriodSeconds" in asked.query:
        options["gracePeriodSeconds"] = int(asked.query["gracePeriodSeconds"])
    return 200, store.delete(kind, (asked.namespace, asked.name), options, dry_run=asked.dry_run)


_HANDLE: dict[str, Callable[[Store, Kind, Request, Any, Any], tuple[int, Json]]] = {
    "get": _get,
    "create": _create,
    "update": _update,
    "patch": _patch,
    "delete": _delete,
}
