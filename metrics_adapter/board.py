"""The board: the latest published wishes, and whether they are still good enough to be read out.

The control loop publishes an immutable snapshot after every tick; every way out (external metrics, custom metrics,
KEDA, our own exposition) reads it without waiting. An autoscaler downstream never looks at a value's timestamp, so age
is judged here, at the moment of asking, and a number that must not be obeyed becomes a refusal that says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from metrics_adapter.selectors import EVERYTHING, Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

WORKLOAD_LABEL = "tidegate.dev/workload"
ROLE_LABEL = "tidegate.dev/role"
VARIANT_LABEL = "tidegate.dev/variant"
YEAR_9999 = 253402300799


class Metric(StrEnum):
    """The metrics every wish answers for; the unit is replicas, RATIO's is desired over current ones."""

    DESIRED = "tidegate_desired_replicas"
    CURRENT = "tidegate_current_replicas"
    STARTING = "tidegate_starting_replicas"
    RATIO = "tidegate_desired_ratio"
    SHORTAGE = "tidegate_shortage_replicas"


_EVERY_WISH = frozenset(metric.value for metric in Metric)


class RefusalKind(StrEnum):
    """Why there is no number. UNKNOWN and DISABLED mean "not found"; the others mean "not now"."""

    UNKNOWN = "unknown"
    DISABLED = "disabled"
    UNDECIDED = "undecided"
    STALE = "stale"
    BLIND = "blind"
    INFEASIBLE = "infeasible"
    ABSENT = "absent"


class Freshness(StrEnum):
    """How a served decision stands against the soft limit."""

    FRESH = "fresh"
    AGEING = "ageing"


@dataclass(frozen=True, slots=True)
class Refusal:
    """No number, and the sentence that says why; it reaches the operator through the HPA's condition and events."""

    kind: RefusalKind
    message: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Ages of a decision in seconds: up to `soft` it is fresh, up to `hard` ageing but served, beyond it refused."""

    soft: float
    hard: float

    def __post_init__(self) -> None:
        if not 0 < self.soft <= self.hard < math.inf:
            raise ValueError(f"limits soft={self.soft!r} s, hard={self.hard!r} s: want 0 < soft <= hard, both finite")


@dataclass(frozen=True, slots=True)
class Target:
    """The Kubernetes object a wish is about; `resource` is its plural with its group, such as `deployments.apps`."""

    resource: str
    api_version: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What was decided for one role of one workload.

    `values` maps metric names to numbers; a name that is missing was reported by nobody, which is not 0. `sampled_at`
    is when the signals behind the decision were seen (Unix seconds; None: never). `blind`, `disabled` and `infeasible`
    (no plan satisfies the rules, and the last feasible wish must not be read either) are reasons in words, or None.
    `target` is the object that is to be scaled, where it is known.

    Raises:
        ValueError: a value that is negative, NaN or infinite.
    """

    namespace: str
    labels: Mapping[str, str]
    values: Mapping[str, float]
    sampled_at: float | None = None
    blind: str | None = None
    disabled: str | None = None
    infeasible: str | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", MappingProxyType(dict(self.labels)))
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        for name, value in self.values.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"wish for {self.name}: {name} is {value!r}, want a finite number of 0 or more")

    @property
    def name(self) -> str:
        """The wish in words: "chat decode"."""
        known = [self.labels[label] for label in (WORKLOAD_LABEL, ROLE_LABEL, VARIANT_LABEL) if self.labels.get(label)]
        return " ".join(known) or ",".join(f"{k}={v}" for k, v in sorted(self.labels.items())) or "(no labels)"


@dataclass(frozen=True, slots=True)
class Published:
    """One tick's wishes, immutable; `at` is when they were decided (Unix seconds).

    Raises:
        ValueError: two wishes with the same namespace and labels, which an HPA would add up; or no time in `at`.
    """

    at: float
    wishes: tuple[Wish, ...]
    index: Mapping[tuple[str, str], tuple[Wish, ...]] = field(init=False, repr=False, compare=False)
    """Wishes by namespace and metric."""
    labelled: Mapping[tuple[str, str, str], tuple[Wish, ...]] = field(init=False, repr=False, compare=False)
    """Wishes by namespace, label key and label value: an HPA names its workload, and there may be thousands."""

    aimed: Mapping[tuple[str, str], tuple[Wish, ...]] = field(init=False, repr=False, compare=False)
    """Wishes by namespace and the resource of their target, such as `deployments.apps`."""
    named: Mapping[tuple[str, str, str], tuple[Wish, ...]] = field(init=False, repr=False, compare=False)
    """Wishes by namespace, resource and name of their target."""

    def __post_init__(self) -> None:
        if not 0 <= self.at <= YEAR_9999:
            raise ValueError(f"decision time {self.at!r}: want Unix seconds between 0 and {YEAR_9999}")
        seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        index: dict[tuple[str, str], list[Wish]] = {}
        labelled: dict[tuple[str, str, str], list[Wish]] = {}
        aimed: dict[tuple[str, str], list[Wish]] = {}
        named: dict[tuple[str, str, str], list[Wish]] = {}
        for wish in self.wishes:
            identity = (wish.namespace, frozenset(wish.labels.items()))
            if identity in seen:
                raise ValueError(f"two wishes for {wish.name} in namespace {wish.namespace!r}: they would be added up")
            seen.add(identity)
            for metric in {*Metric, *wish.values}:
                index.setdefault((wish.namespace, metric), []).append(wish)
            for key, value in wish.labels.items():
                labelled.setdefault((wish.namespace, key, value), []).append(wish)
            if wish.target is not None:
                aimed.setdefault((wish.namespace, wish.target.resource), []).append(wish)
                named.setdefault((wish.namespace, wish.target.resource, wish.target.name), []).append(wish)
        object.__setattr__(self, "index", _frozen(index))
        object.__setattr__(self, "labelled", _frozen(labelled))
        object.__setattr__(self, "aimed", _frozen(aimed))
        object.__setattr__(self, "named", _frozen(named))

    def matching(self, namespace: str, metric: str, selector: Selector) -> list[Wish]:
        """The namespace's wishes that answer for the metric and satisfy the selector, in published order."""
        candidates = self.index.get((namespace, metric), ())
        for key, value in selector.exact():
            narrower = self.labelled.get((namespace, key, value), ())
            if len(narrower) < len(candidates):
                candidates = narrower
        answers_always = metric in _EVERY_WISH
        return [
            wish for wish in candidates if (answers_always or metric in wish.values) and selector.matches(wish.labels)
        ]


@dataclass(frozen=True, slots=True)
class Reading:
    """One wish's value of the metric asked for."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Answer:
    """All that matched, from one snapshot; `at` is when it was decided (Unix seconds), `age` in seconds when asked."""

    at: float
    age: float
    freshness: Freshness
    readings: tuple[Reading, ...]


class Board:
    """The latest snapshot behind one pointer: publishing swaps it, reading never waits and never sees a mixture."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self._latest: Published | None = None

    def publish(self, snapshot: Published) -> None:
        """Make this what is read from now on."""
        self._latest = snapshot

    def latest(self) -> Published | None:
        """The last published snapshot whatever its age; None before the first."""
        return self._latest

    def now(self) -> float:
        """The clock's Unix seconds that ages are judged against."""
        return self._clock()

    def answer(self, namespace: str, metric: str, selector: Selector = EVERYTHING) -> Answer | Refusal:
        """Every matching wish's value, or the one reason why none may be read.

        One wish that must be refused refuses the whole answer: an HPA sums what it gets, and a partial sum is a
        scale-down.
        """
        snapshot = self._latest
        if snapshot is None:
            return NO_DECISION
        matched = snapshot.matching(namespace, metric, selector)
        if not matched:
            return Refusal(RefusalKind.UNKNOWN, _unknown(namespace, metric, selector))
        return self.judged(snapshot, matched, metric)

    def judged(self, snapshot: Published, matched: Sequence[Wish], metric: str) -> Answer | Refusal:
        """The values of these wishes (one or more) of a snapshot, or the one reason why none may be read."""
        age = self._clock() - snapshot.at
        refusal = _refusal(matched, metric, snapshot.at, age, self.limits)
        if refusal is not None:
            return refusal
        readings = tuple(Reading(wish.labels, wish.values[metric]) for wish in matched)
        return Answer(snapshot.at, age, Freshness.FRESH if age <= self.limits.soft else Freshness.AGEING, readings)


NO_DECISION = Refusal(RefusalKind.UNDECIDED, "no decision yet: the loop has not finished its first tick")

_Key = TypeVar("_Key")


def _frozen(found: Mapping[_Key, list[Wish]]) -> Mapping[_Key, tuple[Wish, ...]]:
    return MappingProxyType({key: tuple(wishes) for key, wishes in found.items()})


@lru_cache(maxsize=16)
def timestamp(at: float) -> str:
    """Unix seconds as Kubernetes writes them: RFC 3339, UTC, whole seconds."""
    return datetime.fromtimestamp(math.floor(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unknown(namespace: str, metric: str, selector: Selector) -> str:
    """The reference server's wording (custom-metrics-apiserver, `NewMetricNotFoundForSelectorError`)."""
    chosen = f" with selector {selector}" if selector.requirements else ""
    return f"the server could not find the metric {metric} for namespaces {namespace}{chosen}"


def _refusal(matched: Sequence[Wish], metric: str, at: float, age: float, limits: Limits) -> Refusal | None:
    for wish in matched:
        if wish.disabled is not None:
            return Refusal(RefusalKind.DISABLED, f"{wish.name} is disabled: {wish.disabled}")
    name = matched[0].name if len(matched) == 1 else f"{len(matched)} workloads such as {matched[0].name}"
    if age > limits.hard:
        return Refusal(
            RefusalKind.STALE,
            f"the last decision for {name} is {_seconds(age)} s old, limit {_seconds(limits.hard)} s: "
            f"the loop has not finished a tick since {timestamp(at)}",
        )
    if not age >= -limits.hard:
        return Refusal(
            RefusalKind.STALE,
            f"the last decision for {name} is stamped {_seconds(-age)} s in the future ({timestamp(at)}): "
            "the clock was set back, its age cannot be told",
        )
    return next((refusal for wish in matched if (refusal := _unread(wish, metric)) is not None), None)


def _unread(wish: Wish, metric: str) -> Refusal | None:
    """Why one wish's value must not be read, its age aside."""
    if wish.blind is not None:
        return Refusal(RefusalKind.BLIND, f"{wish.name} is blind: {wish.blind}; its size is held")
    if wish.infeasible is not None:
        return Refusal(RefusalKind.INFEASIBLE, f"no plan for {wish.name} is feasible: {wish.infeasible}")
    if metric not in wish.values:
        return Refusal(RefusalKind.ABSENT, f"{metric} of {wish.name} is not known: nobody reported it")
    return None


def _seconds(age: float) -> str:
    """Tenths, rounded up: 60.04 s is not "60 s old, limit 60 s"."""
    return f"{math.ceil(age * 10) / 10:.1f}".removesuffix(".0")
