"""The traps of KEDA's ScaledObject and TriggerAuthentication."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from autoscaler.manifest_rules import Finding, Severity, behavior, exactly_one, text
from metrics_adapter.board import Metric
from metrics_adapter.keda_trigger import KEDA_KEYS, OUR_KEYS, ROLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.manifest_yaml import Manifest
    from autoscaler.settings import Settings

EXTERNAL = frozenset({"external", "external-push"})
ONLY_AUTHENTICATION = ("caCert", "tlsClientCert", "tlsClientKey")
SLOW_POLL_S = 15
_TOP = ("spec",)
_NAME = re.compile(r"\btidegate_[a-z_]+")
_REST = "/keda/v1/namespaces/"


def scaled_object(made: Manifest, settings: Settings | None) -> Iterator[Finding]:
    """Findings of one ScaledObject; none where no trigger is ours."""
    ours = [index for index, trigger in made.items("spec", "triggers") if _is_ours(trigger)]
    if not ours:
        return
    for index in ours:
        yield from _trigger(made, index, settings)
    yield from _siblings(made, len(ours))
    most = made.at("spec", "maxReplicaCount")
    if not isinstance(most, int) or isinstance(most, bool):
        message = "maxReplicaCount: is missing, so 100; write the configuration's max_replicas"
        yield Finding.of(made, Severity.ERROR, message, *_TOP)
        most = None
    least = made.at("spec", "minReplicaCount")
    if least is None:
        message = "minReplicaCount: is missing, so 0: an idle pool is taken away; write it"
        yield Finding.of(made, Severity.WARNING, message, *_TOP)
    idle = made.at("spec", "idleReplicaCount")
    if idle not in {None, 0}:
        message = f"idleReplicaCount {text(idle)}: only 0 works (the HPA corrects any other); leave it out"
        yield Finding.of(made, Severity.ERROR, message, "spec", "idleReplicaCount")
    poll = made.at("spec", "pollingInterval")
    if (30 if poll is None else poll) > SLOW_POLL_S if isinstance(poll, int | None) else True:
        message = f"pollingInterval: {'is missing, so 30 s' if poll is None else text(poll)}; write 5 to 15"
        yield Finding.of(made, Severity.WARNING, message, "spec", "pollingInterval")
    yield from _fallback(made)
    yield from behavior(made, most, settings, "spec", "advanced", "horizontalPodAutoscalerConfig", "behavior")


def trigger_authentication(made: Manifest) -> Iterator[Finding]:
    """A client certificate without its key, or the other way round."""
    given = {entry.get("parameter"): index for index, entry in made.items("spec", "secretTargetRef")}
    for one, other in (("tlsClientCert", "tlsClientKey"), ("tlsClientKey", "tlsClientCert")):
        if one in given and other not in given:
            message = f"parameter {one} without {other}: KEDA needs both for mTLS; add {other}"
            yield Finding.of(made, Severity.ERROR, message, "spec", "secretTargetRef", given[one])


def _is_ours(trigger: dict[Any, Any]) -> bool:
    kind, found = trigger.get("type"), trigger.get("metadata")
    metadata = found if isinstance(found, dict) else {}
    if kind in EXTERNAL:
        address = str(metadata.get("scalerAddress", "")).lower()
        return "tidegate" in address or trigger.get("name") == "tidegate" or bool({"pool", "role"} & metadata.keys())
    if kind == "prometheus":
        return "tidegate" in str(metadata.get("query", ""))
    return kind == "metrics-api" and _REST in str(metadata.get("url", ""))


def _trigger(made: Manifest, index: int, settings: Settings | None) -> Iterator[Finding]:
    base = ("spec", "triggers", index)
    kind, metric = made.at(*base, "type"), made.at(*base, "metricType")
    metadata = made.mapping(*base, "metadata")
    if metric not in {None, "AverageValue"}:
        why = "multiplies the wish by the ready pods at every sync" if metric == "Value" else "is not for such metrics"
        message = f"metricType {text(metric)} {why}; write AverageValue"
        yield Finding.of(made, Severity.ERROR, message, *base, "metricType")
    yield from _target_value(made, base, str(kind), metadata)
    for key, value in metadata.items():
        if not isinstance(value, str):
            message = f'metadata {key}: {text(value)} is no text; KEDA takes text only, write "{value}"'
            yield Finding.of(made, Severity.ERROR, message, *base, "metadata", str(key))
    if made.at(*base, "useCachedMetrics") is True:
        message = "useCachedMetrics: the HPA sees the wish of the last poll; leave it out"
        yield Finding.of(made, Severity.WARNING, message, *base, "useCachedMetrics")
    if kind in EXTERNAL:
        yield from _external(made, base, metadata, settings)
    if kind == "external-push":
        message = "external-push before KEDA 2.18 deactivates at once on a false; use external there"
        yield from (
            ()
            if made.at(*base, "name") == "tidegate"
            else (Finding.of(made, Severity.WARNING, message, *base, "type"),)
        )


def _target_value(
    made: Manifest, base: tuple[str | int, ...], kind: str, metadata: dict[Any, Any]
) -> Iterator[Finding]:
    key = {"prometheus": "threshold", "metrics-api": "targetValue"}.get(kind)
    if key is not None and not exactly_one(metadata.get(key)):
        message = f'metadata {key}: {text(metadata.get(key))}: replicas are the wish divided by it; write "1"'
        yield Finding.of(made, Severity.ERROR, message, *base, "metadata", key)
    if kind == "metrics-api" and metadata.get("valueLocation") != "desired":
        message = f"metadata valueLocation: {text(metadata.get('valueLocation'))}; write desired"
        yield Finding.of(made, Severity.ERROR, message, *base, "metadata", "valueLocation")
    if kind != "prometheus":
        return
    query = str(metadata.get("query", ""))
    for name in _NAME.findall(query):
        if name not in {*Metric, "tidegate_decision_age_seconds", "tidegate_blind"}:
            message = f"metadata query: {name} is no metric of replicas; write {Metric.DESIRED}"
            yield Finding.of(made, Severity.ERROR, message, *base, "metadata", "query")
    if Metric.DESIRED in query and "tidegate_decision_age_seconds" not in query:
        message = "metadata query: an old wish is obeyed for 5 minutes; add `and on(instance) "
        message += "(tidegate_decision_age_seconds < 120)`"
        yield Finding.of(made, Severity.WARNING, message, *base, "metadata", "query")
    if metadata.get("ignoreNullValues", "true") != "false":
        message = 'metadata ignoreNullValues: no answer counts as 0 replicas; write "false"'
        yield Finding.of(made, Severity.ERROR, message, *base, "metadata")


def _external(
    made: Manifest, base: tuple[str | int, ...], metadata: dict[Any, Any], settings: Settings | None
) -> Iterator[Finding]:
    where = (*base, "metadata")
    if not metadata.get("scalerAddress"):
        message = "metadata scalerAddress: is missing; write host:port of the scaler, such as tidegate.ns.svc:9443"
        yield Finding.of(made, Severity.ERROR, message, *where)
    if not {"pool", "poolFromEnv"} & metadata.keys():
        message = "metadata pool: is missing, so every call is refused (INVALID_ARGUMENT); name the pool"
        yield Finding.of(made, Severity.ERROR, message, *where)
    role = metadata.get("role")
    if role is not None and role not in ROLES:
        message = f"metadata role: {text(role)} is not one of {', '.join(ROLES)}"
        yield Finding.of(made, Severity.ERROR, message, *where, "role")
    for key in metadata:
        name = str(key)
        if name in ONLY_AUTHENTICATION:
            message = f"metadata {name}: KEDA reads it from a TriggerAuthentication only; move it there"
            yield Finding.of(made, Severity.ERROR, message, *where, name)
        elif name.removesuffix("FromEnv") not in {*OUR_KEYS, *KEDA_KEYS}:
            near = difflib.get_close_matches(name, OUR_KEYS, n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}?" if near else f"keys are {', '.join(OUR_KEYS)}"
            message = f"metadata {name}: nobody reads this key; {hint}"
            yield Finding.of(made, Severity.ERROR, message, *where, name)
    if metadata.get("unsafeSsl") == "true":
        message = "metadata unsafeSsl: any server is believed; give caCert in a TriggerAuthentication instead"
        yield Finding.of(made, Severity.WARNING, message, *where, "unsafeSsl")
    if settings is not None and isinstance(metadata.get("pool"), str):
        yield from _known_pool(made, where, metadata, settings)


def _known_pool(
    made: Manifest, where: tuple[str | int, ...], metadata: dict[Any, Any], settings: Settings
) -> Iterator[Finding]:
    pools = {pool.name: pool for pool in settings.pools if pool.namespace == made.namespace}
    name, role = metadata["pool"], metadata.get("role")
    if name not in pools:
        near = difflib.get_close_matches(name, pools, n=1, cutoff=0.0)
        hint = f"the nearest is {near[0]!r}" if near else "there is none"
        message = f"metadata pool: {text(name)} is not configured in namespace {made.namespace}; {hint}"
        yield Finding.of(made, Severity.ERROR, message, *where, "pool")
        return
    roles = [one.value for one in pools[name].roles]
    if (role is None and len(roles) > 1) or (role in ROLES and role not in roles):
        said = "is missing" if role is None else text(role)
        message = f"metadata role: {said}, and pool {name} has {' and '.join(roles)}; name one"
        yield Finding.of(made, Severity.ERROR, message, *where, *(() if role is None else ("role",)))


def _siblings(made: Manifest, ours: int) -> Iterator[Finding]:
    triggers = list(made.items("spec", "triggers"))
    if ours > 1:
        message = "two of our triggers in one ScaledObject: the HPA takes the larger; keep one"
        yield Finding.of(made, Severity.ERROR, message, "spec", "triggers")
    if len(triggers) > ours and not made.mapping("spec", "advanced", "scalingModifiers"):
        message = "other triggers beside ours: when one cannot be reached the others stop as well, and the HPA takes "
        message += "the largest; use scalingModifiers, or one ScaledObject with one trigger"
        yield Finding.of(made, Severity.WARNING, message, "spec", "triggers")
    modifiers = made.mapping("spec", "advanced", "scalingModifiers")
    if modifiers and not exactly_one(modifiers.get("target")):
        message = f'scalingModifiers.target {text(modifiers.get("target"))}: write "1"'
        yield Finding.of(made, Severity.ERROR, message, "spec", "advanced", "scalingModifiers")
    if modifiers and modifiers.get("metricType") not in {None, "AverageValue"}:
        message = f"scalingModifiers.metricType {text(modifiers.get('metricType'))} runs away; write AverageValue"
        yield Finding.of(made, Severity.ERROR, message, "spec", "advanced", "scalingModifiers", "metricType")
    names = [trigger.get("name") for _, trigger in triggers]
    if modifiers and None in names:
        message = "scalingModifiers: every trigger needs a name for the formula"
        yield Finding.of(made, Severity.ERROR, message, "spec", "triggers", names.index(None))


def _fallback(made: Manifest) -> Iterator[Finding]:
    fallback = made.mapping("spec", "fallback")
    if not fallback:
        message = "fallback: is missing: while the wish is refused the size is held; write replicas, a safe floor, and "
        yield Finding.of(made, Severity.WARNING, f"{message}behavior: currentReplicasIfHigher", "spec")
    elif fallback.get("behavior", "static") == "static":
        message = "fallback.behavior static: a short outage shrinks a busy pool; write currentReplicasIfHigher"
        yield Finding.of(made, Severity.WARNING, message, "spec", "fallback")
