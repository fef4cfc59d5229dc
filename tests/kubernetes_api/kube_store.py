"""The test API server's memory: objects with resource versions, what happened to them, and the rules of writing."""

from __future__ import annotations

import copy
import json
import re
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Condition, RLock
from typing import TYPE_CHECKING, Any

from kube_builtin import built_in_problems, tainted_until_ready
from kube_kinds import BUILT_IN, Json, Kind, custom_kinds, kinds_of
from kube_schema import immutable_problems, problems, with_defaults
from kube_selectors import field_test, label_test, object_test

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
Name = tuple[str, str]
SYSTEM = frozenset({"default", "kube-system", "kube-public", "kube-node-lease"})
"""Namespaces that an API server makes for itself."""


class Refused(Exception):  # noqa: N818 - an answer of the API, not a fault of the test server
    """An answer other than success, as a Status object tells it."""

    def __init__(
        self, code: int, reason: str, message: str, details: Json | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Happening:
    """One change: what an object became, and what it was."""

    version: int
    kind: Kind
    type: str
    now: Json
    before: Json | None


@dataclass(slots=True)
class Entry:
    """An object and its JSON, made once."""

    value: Json
    text: bytes = b""

    def encoded(self) -> bytes:
        if not self.text:
            self.text = json.dumps(self.value, separators=(",", ":")).encode()
        return self.text


def stamp(at: datetime | None = None) -> str:
    """A metav1.Time."""
    return (at or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Store:
    """Everything stored. Objects are never changed in place, so readers need no copies.

    Attributes:
        version: the latest resource version.
        oldest: watches from before it are Gone.
        keep: how many changes are remembered for watches.
        rules: what CEL refuses of a custom resource: takes the object, its schema and what it replaces. None: nothing
            but what the schema calls immutable.
    """

    version: int = 1000
    oldest: int = 1000
    keep: int = 20_000
    kinds: dict[tuple[str, str, str], Kind] = field(default_factory=dict)
    objects: dict[tuple[str, str], dict[Name, Entry]] = field(default_factory=dict)
    happened: deque[Happening] = field(default_factory=deque)
    pages: dict[str, tuple[int, list[Entry]]] = field(default_factory=dict)
    rules: Callable[[Json, Json, Json | None], list[str]] | None = None

    def __post_init__(self) -> None:
        self.lock = RLock()
        self.changed = Condition(self.lock)
        self.know(BUILT_IN)

    def know(self, kinds: Iterable[Kind]) -> None:
        """Serve these kinds."""
        for kind in kinds:
            self.kinds[kind.group, kind.version, kind.plural] = kind
            self.objects.setdefault(kind.key, {})

    def install(self, *files: str) -> None:
        """Serve the kinds of real CustomResourceDefinitions. Raises OSError."""
        for file in files:
            self.know(custom_kinds(file))

    def by_kind(self, api_version: str, kind: str) -> Kind:
        """The kind of an object's apiVersion and kind."""
        return next(k for k in self.kinds.values() if k.api_version == api_version and k.kind == kind)

    # reading

    def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """Raises Refused."""
        with self.lock:
            found = self.objects[kind.key].get((namespace, name))
        if found is None:
            raise Refused(404, "NotFound", f'{kind.plural}.{kind.group} "{name}" not found', {"name": name})
        return found.value

    def test(self, kind: Kind, namespace: str, labels: str, fields: str) -> Callable[[Json], bool]:
        """Whether an object is asked for. Raises BadSelector."""
        fits, where = label_test(labels), field_test(fields, kind.plural)
        return lambda found: (
            (not namespace or found["metadata"].get("namespace") == namespace)
            and fits(found["metadata"].get("labels") or {})
            and where(found)
        )

    def listed(self, kind: Kind, wanted: Callable[[Json], bool]) -> tuple[int, list[Entry]]:
        """The resource version, and what is there, in the order of names."""
        with self.lock:
            there = self.objects[kind.key]
            return self.version, [there[name] for name in sorted(there) if wanted(there[name].value)]

    def since(self, kind: Kind, version: int, wait_s: float) -> tuple[int, list[Happening]]:
        """What happened after a version; waits so long for something. Raises Refused when too old."""
        with self.lock:
            if version < self.oldest:
                raise Refused(410, "Expired", f"too old resource version: {version} ({self.oldest})")
            if self.version == version:
                self.changed.wait(wait_s)
            if version < self.oldest:
                raise Refused(410, "Expired", f"too old resource version: {version} ({self.oldest})")
            new: list[Happening] = []
            for happening in reversed(self.happened):
                if happening.version <= version:
                    break
                if happening.kind.key == kind.key:
                    new.append(happening)
            return self.version, new[::-1]

    def compact(self) -> None:
        """Forget what happened: whoever resumes, or follows a `continue` token, is told 410."""
        with self.lock:
            self.happened.clear()
            self.pages.clear()
            self.version += 1
            self.oldest = self.version
            self.changed.notify_all()

    # writing

    def create(self, kind: Kind, namespace: str, body: Json, *, dry_run: bool = False) -> Json:
        """Raises Refused."""
        made = copy.deepcopy(body)
        meta = made.setdefault("metadata", {})
        if "name" not in meta and "generateName" in meta:
            meta["name"] = f"{meta['generateName']}{uuid.uuid4().hex[:5]}"
        name = meta.get("name", "")
        if meta.get("resourceVersion"):
            raise Refused(500, "InternalError", "resourceVersion should not be set on objects to be created")
        if kind.namespaced:
            if meta.setdefault("namespace", namespace) != namespace:
                raise Refused(400, "BadRequest", "the namespace of the object does not match the request's")
            self._needs_namespace(namespace)
        made.setdefault("apiVersion", kind.api_version)
        made.setdefault("kind", kind.kind)
        if kind.status:
            made.pop("status", None)
        with self.lock:
            if (namespace, name) in self.objects[kind.key]:
                raise Refused(409, "AlreadyExists", f'{kind.plural} "{name}" already exists', {"name": name})
            meta.update(uid=str(uuid.uuid4()), creationTimestamp=meta.get("creationTimestamp") or stamp(), generation=1)
            if kind.plural == "customresourcedefinitions" and not dry_run:
                self.know(kinds_of(made))
            stored = self._put(kind, made, None, dry_run=dry_run)
            if kind.plural == "namespaces" and not dry_run:  # what the controller manager does at once
                self.create(self.kinds["", "v1", "serviceaccounts"], name, {"metadata": {"name": "default"}})
            return stored

    def _needs_namespace(self, namespace: str) -> None:
        key = ("", "namespaces")
        if namespace not in SYSTEM and ("", namespace) not in self.objects[key]:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')

    def change(
        self,
        kind: Kind,
        name: Name,
        how: Callable[[Json], Json],
        *,
        part: str = "",
        dry_run: bool = False,
    ) -> Json:
        """Replace an object by `how` of it; `part` is "status" for that subresource. Raises Refused."""
        with self.lock:
            before = self.get(kind, *name)
            made = how(before)
            meta, was = made.setdefault("metadata", {}), before["metadata"]
            asked = meta.get("resourceVersion")
            if asked and asked != was["resourceVersion"]:
                raise Refused(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on {kind.plural} "{name[1]}": the object has been modified; '
                    "please apply your changes to the latest version and try again",
                    {"name": name[1]},
                )
            if meta.get("name", name[1]) != name[1]:
                raise Refused(400, "BadRequest", "the name of the object does not match the name on the URL")
            if meta.get("uid", was["uid"]) != was["uid"]:
                why = f'metadata.uid: Invalid value: "{meta["uid"]}": field is immutable'
                raise Refused(422, "Invalid", f'{kind.kind} "{name[1]}" is invalid: {why}')
            for kept in ("uid", "name", "namespace", "creationTimestamp", "generation", "deletionTimestamp"):
                if kept in was:
                    meta[kept] = was[kept]
            if part == "status":
                made = {**before, "status": made.get("status", {}), "metadata": {**was}}
            elif kind.status:
                made = {**made, **({"status": before["status"]} if "status" in before else {})}
                if "status" not in before:
                    made.pop("status", None)
            if made.get("spec") != before.get("spec"):
                made["metadata"]["generation"] = was.get("generation", 1) + 1
            return self._put(kind, made, before, dry_run=dry_run)

    def _put(self, kind: Kind, made: Json, before: Json | None, *, dry_run: bool) -> Json:
        if kind.plural == "nodes":
            made = tainted_until_ready(made, before)
        self._check(kind, made, before)
        meta = made["metadata"]
        name = meta.get("namespace", "") if kind.namespaced else "", meta["name"]
        if before is not None and {**made, "metadata": {**meta, "resourceVersion": ""}} == {
            **before,
            "metadata": {**before["metadata"], "resourceVersion": ""},
        }:
            return before
        if dry_run:
            return made
        made["metadata"] = {**meta, "resourceVersion": str(self.version + 1)}
        self.objects[kind.key][name] = Entry(made)
        self._tell(kind, "ADDED" if before is None else "MODIFIED", made, before)
        awaited = kind.plural == "pods" and meta.get("deletionGracePeriodSeconds") != 0
        if meta.get("deletionTimestamp") and not meta.get("finalizers") and not awaited:
            self._remove(kind, name)
        return made

    def _check(self, kind: Kind, made: Json, before: Json | None) -> None:
        if kind.schema is not None:
            filled = with_defaults(made, kind.schema)
            made.update(filled)
            found = list(problems(made, kind.schema))
            if before is not None:
                found += immutable_problems(made, before, kind.schema)
            if self.rules is not None and not found:
                found += self.rules(made, kind.schema, before)
        else:
            found = list(built_in_problems(kind.kind, made))
        name = made["metadata"].get("name", "")
        if not _NAME.fullmatch(name) or len(name) > 253:
            found.append(f"metadata.name: {name!r} is no RFC 1123 subdomain")
        if made.get("apiVersion") != kind.api_version or made.get("kind") != kind.kind:
            found.append(f"apiVersion, kind: {made.get('apiVersion')} {made.get('kind')} is not {kind.kind}")
        if found:
            raise Refused(422, "Invalid", f'{kind.kind} "{name}" is invalid: {"; ".join(found)}')

    def delete(self, kind: Kind, name: Name, options: Json | None = None, *, dry_run: bool = False) -> Json:
        """Raises Refused. Pods on a node stay, terminating, until their kubelet ends them with grace 0."""
        asked = options or {}
        with self.lock:
            found = self.get(kind, *name)
            meta = found["metadata"]
            wanted = asked.get("preconditions") or {}
            for part in ("uid", "resourceVersion"):
                if part in wanted and wanted[part] != meta[part]:
                    what = {"uid": "UID", "resourceVersion": "ResourceVersion"}[part]
                    why = f"{what} in precondition: {wanted[part]}, {what} in object meta: {meta[part]}"
                    raise Refused(409, "Conflict", f"Precondition failed: {why}")
            if dry_run:
                return found
            grace = asked.get("gracePeriodSeconds")
            lingers = kind.plural == "pods" and found.get("spec", {}).get("nodeName") and _running(found)
            if kind.plural == "pods" and grace is None:
                grace = found.get("spec", {}).get("terminationGracePeriodSeconds", 30)
            if (lingers and grace) or meta.get("finalizers"):
                if "deletionTimestamp" in meta and (grace or not meta.get("deletionGracePeriodSeconds")):
                    return found
                marked = {"deletionTimestamp": stamp(), **meta, "deletionGracePeriodSeconds": grace or 0}
                marked["resourceVersion"] = str(self.version + 1)
                made = {**found, "metadata": marked}
                self.objects[kind.key][name] = Entry(made)
                self._tell(kind, "MODIFIED", made, found)
                return made
            return self._remove(kind, name)

    def _remove(self, kind: Kind, name: Name) -> Json:
        gone = self.objects[kind.key].pop(name).value
        gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version + 1)}}
        self._tell(kind, "DELETED", gone, gone)
        for other, below in list(self._owned_by(gone["metadata"]["uid"])):
            self.delete(other, below, {"gracePeriodSeconds": 0} if other.plural != "pods" else {})
        return gone

    def _owned_by(self, uid: str) -> Iterator[tuple[Kind, Name]]:
        """The garbage collector's part: what has this owner."""
        for kind in {kind.key: kind for kind in self.kinds.values()}.values():
            for name, entry in list(self.objects[kind.key].items()):
                if any(owner["uid"] == uid for owner in entry.value["metadata"].get("ownerReferences", ())):
                    yield kind, name

    def _tell(self, kind: Kind, what: str, now: Json, before: Json | None) -> None:
        self.version += 1
        self.happened.append(Happening(self.version, kind, what, now, before))
        while len(self.happened) > self.keep:
            self.oldest = self.happened.popleft().version
        self.changed.notify_all()

    def evict(self, name: Name, body: Json, *, dry_run: bool = False) -> None:
        """The eviction subresource: what PodDisruptionBudgets allow. Raises Refused."""
        pods, budgets = self.kinds["", "v1", "pods"], self.kinds["policy", "v1", "poddisruptionbudgets"]
        with self.lock:
            pod = self.get(pods, *name)
            labels = pod["metadata"].get("labels") or {}
            covering = [
                entry.value
                for (namespace, _), entry in self.objects[budgets.key].items()
                if namespace == name[0] and object_test(entry.value["spec"]["selector"])(labels)
            ]
            if pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]:
                if len(covering) > 1:
                    raise Refused(500, "InternalError", "This pod has more than one PodDisruptionBudget")
                for budget in covering:
                    self._spend(budgets, budget, dry_run=dry_run)
            self.delete(pods, name, body.get("deleteOptions"), dry_run=dry_run)

    def _spend(self, kind: Kind, budget: Json, *, dry_run: bool) -> None:
        allowed = budget.get("status", {}).get("disruptionsAllowed", 0)
        if allowed <= 0:
            cause = {
                "reason": "DisruptionBudget",
                "message": f"The disruption budget {budget['metadata']['name']} needs more healthy pods",
            }
            message = "Cannot evict pod as it would violate the pod's disruption budget."
            raise Refused(429, "TooManyRequests", message, {"causes": [cause]})
        status = {**budget["status"], "disruptionsAllowed": allowed - 1}
        where = budget["metadata"]["namespace"], budget["metadata"]["name"]
        self.change(kind, where, lambda found: {**found, "status": status}, part="status", dry_run=dry_run)

    # convenience for tests

    def put(self, body: Json) -> Json:
        """Create an object with its status, making its namespace; replaces one of that name."""
        kind = self.by_kind(body["apiVersion"], body["kind"])
        namespace = body["metadata"].get("namespace", "default") if kind.namespaced else ""
        with self.lock:
            spaces = self.kinds["", "v1", "namespaces"]
            if namespace not in {"", "default"} and ("", namespace) not in self.objects[spaces.key]:
                self.create(spaces, "", {"metadata": {"name": namespace}})
            name = namespace, body["metadata"]["name"]
            if name in self.objects[kind.key]:
                fresh = copy.deepcopy(body)
                self.change(kind, name, lambda _: fresh)
            else:
                self.create(kind, namespace, body)
            if "status" in body and kind.status:
                self.set_status(body["apiVersion"], body["kind"], name, body["status"])
            return self.get(kind, *name)

    def set_status(self, api_version: str, kind: str, name: Name, status: Json) -> Json:
        """Replace an object's status."""
        return self.change(
            self.by_kind(api_version, kind), name, lambda found: {**found, "status": status}, part="status"
        )

    def all(self, api_version: str, kind: str) -> list[Json]:
        """Every object of a kind, in the order of names."""
        return [entry.value for entry in self.listed(self.by_kind(api_version, kind), lambda _: True)[1]]

    def one(self, api_version: str, kind: str, namespace: str, name: str) -> Json:
        """One object. Raises Refused."""
        return self.get(self.by_kind(api_version, kind), namespace, name)


def _running(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}


def path_value(found: Any, path: str) -> Any:
    """The value at a simple JSON path such as `.spec.replicas`."""
    for part in path.strip(".").split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
