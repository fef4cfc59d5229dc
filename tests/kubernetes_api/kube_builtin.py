"""What the real server refuses in built-in kinds and Tidegate could get wrong."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kube_schema import is_quantity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_kinds import Json

_MICRO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_NAME = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


def tainted_until_ready(made: Json, before: Json | None) -> Json:
    """A node as admission and the node lifecycle controller leave it: tainted from its creation until it is ready."""
    taints = [one for one in made.get("spec", {}).get("taints", ()) if one["key"] != NOT_READY["key"]]
    said = {one["type"]: one["status"] for one in made.get("status", {}).get("conditions", ())}
    if before is None or said.get("Ready") != "True":
        taints.append(NOT_READY)
    return {**made, "spec": {**made.get("spec", {}), "taints": taints}}


FIXED = {
    "Deployment": (("spec", "selector"),),
    "Job": (("spec", "selector"), ("spec", "template"), ("spec", "completions"), ("spec", "completionMode")),
    "Pod": (("spec", "nodeName"), ("spec", "priority"), ("spec", "priorityClassName"), ("spec", "restartPolicy")),
    "PriorityClass": (("value",),),
}
"""What no request can change any more, of what Tidegate could try to."""


def fixed_problems(kind: str, made: Json, before: Json) -> Iterator[str]:
    """Fields of a built-in kind that a request changed and must not."""
    for path in FIXED.get(kind, ()):
        now, was = made, before
        for part in path:
            now, was = now.get(part, {}), was.get(part, {})
        if now != was:
            yield f"{'.'.join(path)}: Invalid value: field is immutable"


def built_in_problems(kind: str, made: Json) -> Iterator[str]:
    """Everything wrong with an object of a built-in kind, as far as these tests look."""
    meta = made.get("metadata", {})
    for name, value in (meta.get("labels") or {}).items():
        if not _LABEL_NAME.fullmatch(name):
            yield f"metadata.labels: {name!r} is no label name"
        if not isinstance(value, str) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            yield f"metadata.labels[{name}]: {value!r} is no label value"
    for name, value in (meta.get("annotations") or {}).items():
        if not _LABEL_NAME.fullmatch(name):
            yield f"metadata.annotations: {name!r} is no annotation name"
        if not isinstance(value, str):
            yield f"metadata.annotations[{name}]: {value!r} must be a string"
    yield from CHECKS.get(kind, _nothing)(made)


def _nothing(_made: Json) -> Iterator[str]:
    yield from ()


def _lease(made: Json) -> Iterator[str]:
    spec = made.get("spec", {})
    for name in ("acquireTime", "renewTime"):
        if name in spec and not _MICRO.fullmatch(str(spec[name])):
            yield f"spec.{name}: {spec[name]!r} is no MicroTime (six fractional digits)"
    if "leaseDurationSeconds" in spec and not (
        isinstance(spec["leaseDurationSeconds"], int) and spec["leaseDurationSeconds"] > 0
    ):
        yield f"spec.leaseDurationSeconds: {spec['leaseDurationSeconds']!r} must be a whole number above 0"


def _event(made: Json) -> Iterator[str]:
    if made["apiVersion"] != "events.k8s.io/v1":
        return
    for name in ("reportingController", "reportingInstance", "action", "reason"):
        if not made.get(name) or len(made[name]) > 128:
            yield f"{name}: is required, at most 128 characters"
    if not _MICRO.fullmatch(str(made.get("eventTime"))):
        yield f"eventTime: {made.get('eventTime')!r} is no MicroTime"
    if made.get("type") not in {"Normal", "Warning"}:
        yield f"type: {made.get('type')!r} is neither Normal nor Warning"
    if len(made.get("note", "")) > 1024:
        yield "note: has more than 1024 characters"
    about = made.get("regarding", {}).get("namespace")
    if about and about != made["metadata"].get("namespace"):
        yield "regarding.namespace: does not match the event's"
    if not about and made["metadata"].get("namespace") != "default":
        yield "metadata.namespace: events about objects without a namespace belong into default"


def _job(made: Json) -> Iterator[str]:
    if not isinstance(made.get("spec", {}).get("suspend", False), bool):
        yield "spec.suspend: must be a boolean"


def _replicas(made: Json) -> Iterator[str]:
    replicas = made.get("spec", {}).get("replicas", 1)
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        yield f"spec.replicas: {replicas!r} must be a whole number, at least 0"


def _pod(made: Json) -> Iterator[str]:
    for box in made.get("spec", {}).get("containers", ()):
        for part in ("requests", "limits"):
            for name, value in ((box.get("resources") or {}).get(part) or {}).items():
                if not is_quantity(value):
                    yield f"spec.containers.resources.{part}[{name}]: {value!r} is no quantity"


def _pod_template(made: Json) -> Iterator[str]:
    if not made.get("template", {}).get("spec", {}).get("containers"):
        yield "template.spec.containers: is required"


CHECKS = {
    "Lease": _lease,
    "Event": _event,
    "Job": _job,
    "Deployment": _replicas,
    "StatefulSet": _replicas,
    "ReplicaSet": _replicas,
    "Pod": _pod,
    "PodTemplate": _pod_template,
}
