"""custom.metrics.k8s.io/v1beta1 and v1beta2: the same wishes, asked by the object they are about.

An HPA of type Object asks for the object it scales (`deployments.apps/chat-decode`) and gets the replicas wished for
it: the way beside KEDA, which owns the external API. The metric of a Namespace is the sum over its wishes, or over
those that `metricLabelSelector` picks. One object is one item; wishes that share an object add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from metrics_adapter.board import NO_DECISION, Metric, Refusal, RefusalKind, Target, timestamp
from metrics_adapter.discovery import ApiGroup, ApiResource, Discovery, checked_group
from metrics_adapter.external import refused
from metrics_adapter.quantity import quantity
from metrics_adapter.selectors import EVERYTHING
from metrics_adapter.wire import as_json, selector_of, status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.responses import Response

    from metrics_adapter.board import Answer, Board, Published, Wish
    from metrics_adapter.external import ServedMeter
    from metrics_adapter.selectors import Selector

GROUP = "custom.metrics.k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
"""The preferred one first."""
EVERY = "*"
NAMESPACES = "namespaces"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: metric `metric` of the objects `resource`/`name` (`*`: all that `objects` selects)."""

    namespace: str
    resource: str
    name: str
    metric: str
    objects: Selector = EVERYTHING
    series: Selector = EVERYTHING

    def unknown(self) -> Refusal:
        """The reference server's words (custom-metrics-apiserver, `NewMetricNotFoundError`)."""
        said = f"the server could not find the metric {self.metric} for {self.resource}"
        if self.name == EVERY:
            chosen = f" with selector {self.objects}" if self.objects.requirements else ""
            return Refusal(RefusalKind.UNKNOWN, f"{said}{chosen} in namespace {self.namespace}")
        chosen = f" with selector {self.series}" if self.series.requirements else ""
        return Refusal(RefusalKind.UNKNOWN, f"{said} {self.name}{chosen}")


@dataclass(frozen=True, slots=True)
class CustomMetrics:
    """The custom metrics API; cluster-scoped objects other than namespaces have no metrics here.

    Raises:
        ValueError: a group that is not a DNS subdomain.
    """

    board: Board
    meter: ServedMeter
    group: str = GROUP
    discovery: Discovery = Discovery.STATIC

    def __post_init__(self) -> None:
        checked_group(self.group)

    def described(self) -> ApiGroup:
        """What discovery says about this API."""
        return ApiGroup(self.group, VERSIONS, self._resources)

    def direct(self, path: str, query: bytes) -> Response | None:
        """The response for one of the forms of path; None for every other shape."""
        above, group, version, *rest = path.split("/")[1:] if path.count("/") > 2 else ("", "", "")  # noqa: PLR2004 - /apis/<group>/<version>
        if above != "apis" or group != self.group or version not in VERSIONS or not rest or not all(rest):
            return None
        match rest:
            case ["namespaces", namespace, "metrics", metric] | ["namespaces", namespace, metric]:
                return self.answer(version, Asked(namespace, NAMESPACES, namespace, metric), query)
            case ["namespaces", namespace, resource, name, metric]:
                return self.answer(version, Asked(namespace, resource, name, metric), query)
            case [resource, name, metric]:
                return self.answer(version, Asked("", resource, name, metric), query)
            case _:
                return None

    def answer(self, version: str, asked: Asked, query: bytes) -> Response:
        """The response for one metric of one object, or of all (`*`); `query` is the raw query string."""
        try:
            asked = replace(asked, objects=selector_of(query), series=selector_of(query, "metricLabelSelector"))
        except ValueError as error:
            return status(HTTPStatus.BAD_REQUEST, str(error))
        found = answered(self.board, asked)
        if isinstance(found, Refusal):
            return refused(found, self.meter)
        self.meter.served(found[0][1].freshness)
        items = [_item(version, asked, target, answer) for target, answer in found]
        api_version = f"{self.group}/{version}"
        return as_json({"kind": "MetricValueList", "apiVersion": api_version, "metadata": {}, "items": items})

    def _resources(self) -> tuple[ApiResource, ...]:
        if self.discovery is Discovery.STATIC:
            return (ApiResource(f"deployments.apps/{Metric.DESIRED}", "MetricValueList"),)
        snapshot = self.board.latest()
        aimed = sorted({resource for _, resource in (snapshot.aimed if snapshot else ())})
        metrics = sorted({*Metric, *(metric for _, metric in (snapshot.index if snapshot else ()))})
        found = [ApiResource(f"{resource}/{metric}", "MetricValueList") for resource in aimed for metric in metrics]
        over = (ApiResource(f"{NAMESPACES}/{metric}", "MetricValueList", namespaced=False) for metric in metrics)
        return (*found, *over)


def answered(board: Board, asked: Asked) -> Sequence[tuple[Target, Answer]] | Refusal:
    """Each object asked for with what is to be summed for it, from one snapshot; or why nothing may be read."""
    snapshot = board.latest()
    if snapshot is None:
        return NO_DECISION
    found: list[tuple[Target, Answer]] = []
    for target, wishes in _by_object(snapshot, asked).items():
        answer = board.judged(snapshot, wishes, asked.metric)
        if isinstance(answer, Refusal):
            return answer
        found.append((target, answer))
    return found or asked.unknown()


def _by_object(snapshot: Published, asked: Asked) -> dict[Target, list[Wish]]:
    if asked.resource == NAMESPACES:
        wishes = snapshot.matching(asked.namespace, asked.metric, asked.series)
        return {Target(NAMESPACES, "v1", "Namespace", asked.namespace): wishes} if wishes else {}
    near: Sequence[Wish]
    if asked.name == EVERY:
        near = snapshot.aimed.get((asked.namespace, asked.resource), ())
        near = [wish for wish in near if asked.objects.matches(wish.labels)]
    else:
        near = snapshot.named.get((asked.namespace, asked.resource, asked.name), ())
    found: dict[Target, list[Wish]] = {}
    for wish in near:
        answers = wish.target is not None and (asked.metric in _EVERY_METRIC or asked.metric in wish.values)
        if answers and wish.target is not None and asked.series.matches(wish.labels):
            found.setdefault(wish.target, []).append(wish)
    return found


_EVERY_METRIC = frozenset(metric.value for metric in Metric)


def _item(version: str, asked: Asked, target: Target, answer: Answer) -> dict[str, Any]:
    described = {"kind": target.kind, "name": target.name, "apiVersion": target.api_version}
    if target.resource != NAMESPACES:
        described["namespace"] = asked.namespace
    value = quantity(sum(reading.value for reading in answer.readings))
    selector = _as_object(asked.series)
    if version == "v1beta1":
        return {
            "describedObject": described,
            "metricName": asked.metric,
            "timestamp": timestamp(answer.at),
            "value": value,
            "selector": selector,
        }
    return {
        "describedObject": described,
        "metric": {"name": asked.metric, "selector": selector},
        "timestamp": timestamp(answer.at),
        "value": value,
    }


_EXPRESSIONS = {"in": "In", "notin": "NotIn", "exists": "Exists", "!": "DoesNotExist", "!=": "NotIn"}


def _as_object(selector: Selector) -> dict[str, Any] | None:
    """A meta/v1 LabelSelector; None for no selector, and for `<` and `>`, which that form cannot say."""
    if not selector.requirements:
        return None
    labels: dict[str, str] = {}
    expressions: list[dict[str, Any]] = []
    for requirement in selector.requirements:
        operator = requirement.operator.value
        if operator in {"=", "=="} and labels.get(requirement.key, requirement.values[0]) == requirement.values[0]:
            labels[requirement.key] = requirement.values[0]
        elif operator in {"=", "=="}:
            expressions.append({"key": requirement.key, "operator": "In", "values": list(requirement.values)})
        elif operator in _EXPRESSIONS:
            said: dict[str, Any] = {"key": requirement.key, "operator": _EXPRESSIONS[operator]}
            if requirement.values:
                said["values"] = list(requirement.values)
            expressions.append(said)
        else:
            return None
    return {
        **({"matchLabels": labels} if labels else {}),
        **({"matchExpressions": expressions} if expressions else {}),
    }
