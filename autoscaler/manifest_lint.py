"""Traps in HPA and KEDA manifests that keep replicas from following the wish, each with file, line and what is right.

Every rule was seen to bite: `Value` runs away (3, 9, 27, 81, maxReplicas), the dead band of 10 % swallows 10 -> 11, two
owners make neither scale, a /scale without selector switches the HPA off.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.manifest_lint_keda import scaled_object, trigger_authentication
from autoscaler.manifest_rules import Finding, Severity, behavior, exactly_one, text
from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from autoscaler.manifest_yaml import Manifest
    from autoscaler.settings import Settings

__all__ = ["Finding", "Severity", "lint"]

NO_SCALE = {
    "Pod": "a Pod cannot be scaled",
    "DaemonSet": "a DaemonSet has one pod per node and no /scale",
    "Job": "a Job has no /scale",
    "CronJob": "a CronJob has no /scale",
    "JobSet": "a JobSet has no /scale",
    "NodePool": "its /scale has no selector",
    "LLMInferenceService": "its controller makes an HPA or ScaledObject of its own",
    "RoleBasedGroup": "it has no /scale; name its RoleBasedGroupScalingAdapter",
    "DisaggregatedSet": "it has no /scale; name its DisaggregatedSetRoleScaler",
}


class Api(StrEnum):
    """API versions of HorizontalPodAutoscaler that are no use here."""

    V1 = "autoscaling/v1"
    V2BETA1 = "autoscaling/v2beta1"
    V2BETA2 = "autoscaling/v2beta2"


@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric of an HPA that is ours: where it stands, its source (`external` or `object`), and its name."""

    index: int
    source: str
    name: str


def lint(objects: Sequence[Manifest], settings: Settings | None = None) -> list[Finding]:
    """All findings, in the order of files and lines; with `settings` pools and bounds are compared, too."""
    found: list[Finding] = []
    for made in objects:
        if made.kind == "HorizontalPodAutoscaler":
            found += _hpa(made, settings)
        elif made.kind == "ScaledObject":
            found += scaled_object(made, settings)
        elif made.kind == "TriggerAuthentication":
            found += trigger_authentication(made)
        if made.kind in {"HorizontalPodAutoscaler", "ScaledObject"}:
            found += _target(made, objects)
    found += _owners(objects)
    found += _acted_on(objects, settings)
    return sorted(set(found), key=lambda one: (one.file, one.line, one.severity, one.message))


def _hpa(made: Manifest, settings: Settings | None) -> Iterator[Finding]:
    ours = [metric for metric in _metrics(made) if _is_ours(made, metric)]
    if not ours:
        return
    version = str(made.values.get("apiVersion"))
    if version in set(Api):
        yield made_error(made, f"{version} has no behavior with tolerance; use autoscaling/v2", "apiVersion")
    for metric in ours:
        yield from _metric(made, metric, settings)
    if len(ours) > 1:
        yield made_error(made, "two of our metrics in one HPA: the HPA takes the larger; keep one", "spec", "metrics")
    most = made.at("spec", "maxReplicas")
    if not isinstance(most, int) or isinstance(most, bool):
        what = "is missing" if most is None else f"{text(most)} is no whole number"
        yield made_error(made, f"maxReplicas: {what}; write the configuration's max_replicas", "spec", "maxReplicas")
        most = None
    if made.at("spec", "minReplicas") == 0:
        gate = "minReplicas: 0 needs the HPAScaleToZero gate (alpha until 1.36), else it is refused; use 1, or KEDA"
        yield Finding.of(made, Severity.WARNING, gate, "spec", "minReplicas")
    yield from behavior(made, most, settings, "spec", "behavior")


def _metrics(made: Manifest) -> Iterator[_Metric]:
    for index, metric in made.items("spec", "metrics"):
        for source in ("external", "object", "pods"):
            named = metric.get(source)
            inner = named.get("metric") if isinstance(named, dict) else None
            if isinstance(inner, dict):
                yield _Metric(index, source, str(inner.get("name", "")))


def _is_ours(made: Manifest, metric: _Metric) -> bool:
    labels = made.mapping("spec", "metrics", metric.index, metric.source, "metric", "selector", "matchLabels")
    near = difflib.get_close_matches(metric.name, list(Metric), n=1, cutoff=0.8)
    return "tidegate" in metric.name.lower() or bool(near) or any(str(k).startswith("tidegate.dev/") for k in labels)


def _metric(made: Manifest, metric: _Metric, settings: Settings | None) -> Iterator[Finding]:
    base = ("spec", "metrics", metric.index, metric.source)
    if metric.name != Metric.DESIRED:
        known = metric.name in set(Metric)
        why = "is not the wish" if known else "is no metric that is served"
        yield made_error(
            made, f"metric name {text(metric.name)} {why}; write {Metric.DESIRED}", *base, "metric", "name"
        )
    if metric.source == "pods":
        yield made_error(made, "a Pods metric is averaged over pods; the wish is an External or Object metric", *base)
    yield from _average(made, (*base, "target"))
    if metric.source == "external":
        yield from _selector(made, (*base, "metric", "selector"), settings)


def _average(made: Manifest, place: tuple[str | int, ...]) -> Iterator[Finding]:
    kind = made.at(*place, "type")
    if kind != "AverageValue":
        said = "is missing" if kind is None else text(kind)
        why = "multiplies the wish by the ready pods at every sync and runs away" if kind == "Value" else "is not it"
        message = f"target type {said}: {'nothing says how to read the wish' if kind is None else why}"
        yield made_error(made, f'{message}; write type: AverageValue, averageValue: "1"', *place, "type")
    elif not exactly_one(made.at(*place, "averageValue")):
        shown = text(made.at(*place, "averageValue"))
        yield made_error(
            made, f'averageValue {shown}: replicas are the wish divided by it; write "1"', *place, "averageValue"
        )


def _selector(made: Manifest, place: tuple[str | int, ...], settings: Settings | None) -> Iterator[Finding]:
    labels = made.mapping(*place, "matchLabels")
    if WORKLOAD_LABEL not in labels:
        if any(item.get("key") == WORKLOAD_LABEL for _, item in made.items(*place, "matchExpressions")):
            return
        yield made_error(
            made,
            f"no selector for {WORKLOAD_LABEL}: all workloads of the namespace are added up; "
            f"write selector.matchLabels {{{WORKLOAD_LABEL}: <pool>, {ROLE_LABEL}: <role>}}",
            *place,
        )
        return
    if settings is None:
        return
    pool, role = str(labels[WORKLOAD_LABEL]), labels.get(ROLE_LABEL)
    names = {one.name: one for one in settings.pools if one.namespace == made.namespace}
    if pool not in names:
        near = difflib.get_close_matches(pool, names, n=1, cutoff=0.0)
        hint = f"the nearest is {near[0]!r}" if near else "there is none"
        message = f"{WORKLOAD_LABEL} {text(pool)}: no such pool in namespace {made.namespace}; {hint}"
        yield made_error(made, message, *place, "matchLabels", WORKLOAD_LABEL)
        return
    roles = [one.value for one in names[pool].roles]
    if role is None and len(roles) > 1:
        message = f"no {ROLE_LABEL} in the selector, and pool {pool!r} has {' and '.join(roles)}: they are added up"
        yield made_error(made, f"{message}; name one", *place, "matchLabels")
    elif role is not None and role not in roles:
        message = f"{ROLE_LABEL} {text(role)}: pool {pool!r} has {' and '.join(roles)} only"
        yield made_error(made, message, *place, "matchLabels", ROLE_LABEL)


def _target(made: Manifest, objects: Iterable[Manifest]) -> Iterator[Finding]:
    target = made.mapping("spec", "scaleTargetRef")
    kind = str(target.get("kind") or ("Deployment" if made.kind == "ScaledObject" else ""))
    if not target.get("name"):
        yield made_error(made, "scaleTargetRef.name: is missing; name the object to scale", "spec", "scaleTargetRef")
    if kind in NO_SCALE:
        message = f"scaleTargetRef.kind {kind}: {NO_SCALE[kind]}, so it cannot be scaled by an HPA"
        yield made_error(made, message, "spec", "scaleTargetRef", "kind")
    for crd in objects:
        if crd.kind == "CustomResourceDefinition" and crd.at("spec", "names", "kind") == kind:
            version = str(target.get("apiVersion", "")).rpartition("/")[2]
            yield from _crd(made, crd, kind, version)


def _crd(made: Manifest, crd: Manifest, kind: str, version: str) -> Iterator[Finding]:
    for index, one in crd.items("spec", "versions"):
        scale = crd.mapping("spec", "versions", index, "subresources", "scale")
        if one.get("name") == version and not scale.get("labelSelectorPath"):
            what = "no labelSelectorPath in its /scale" if scale else "no /scale subresource"
            message = f"{kind} {version} has {what} ({crd.file}:{crd.line('spec', 'versions', index)})"
            message += ": the HPA stops with InvalidSelector; name a kind whose /scale has a selector"
            yield made_error(made, message, "spec", "scaleTargetRef")


def _owner_key(made: Manifest) -> tuple[str, str, str, str]:
    target = made.mapping("spec", "scaleTargetRef")
    kind = str(target.get("kind") or "Deployment")
    group = str(target.get("apiVersion") or "apps/v1").rpartition("/")[0]
    return made.namespace, group, kind, str(target.get("name"))


def _owners(objects: Iterable[Manifest]) -> Iterator[Finding]:
    first: dict[tuple[str, str, str, str], Manifest] = {}
    for made in objects:
        if made.kind not in {"HorizontalPodAutoscaler", "ScaledObject"} or not made.at(
            "spec", "scaleTargetRef", "name"
        ):
            continue
        other = first.setdefault(_owner_key(made), made)
        if other is not made:
            where = f"{other.kind} {other.name} ({other.file}:{other.line()})"
            namespace, _, kind, name = _owner_key(made)
            message = f"{kind} {namespace}/{name} is scaled by {where} already: two owners undo each other; keep one"
            yield made_error(made, message, "spec", "scaleTargetRef")


def _acted_on(objects: Iterable[Manifest], settings: Settings | None) -> Iterator[Finding]:
    """Objects that Tidegate itself scales, by the configuration."""
    if settings is None or not settings.cluster.enabled or settings.cluster.actuator != "scale":
        return
    fallback = settings.cluster.tiers.replicas or settings.cluster.mode
    ours = {
        (pool.namespace, str(own.target.kind), str(own.target.name))
        for pool in settings.pools
        for own in pool.roles.values()
        if pool.enabled and own.target is not None and (pool.mode or fallback) == "active"
    }
    for made in objects:
        if made.kind not in {"HorizontalPodAutoscaler", "ScaledObject"}:
            continue
        namespace, _, kind, name = _owner_key(made)
        if (namespace, kind, name) in ours:
            message = f"{kind} {namespace}/{name} is scaled by Tidegate itself (cluster.actuator: scale): two owners"
            yield made_error(
                made, f"{message} undo each other; use actuator: metrics, or no HPA", "spec", "scaleTargetRef"
            )


def made_error(made: Manifest, message: str, *place: str | int) -> Finding:
    """An error at a place of an object."""
    return Finding.of(made, Severity.ERROR, message, *place)
