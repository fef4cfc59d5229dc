"""Reading groups of engines from a Prometheus-compatible server.

One look is two rounds of queries, run a few at a time: the roll call (which targets are unfit, which scrape targets are
known), then one query per signal. Their number depends on the engine families on the server, not on the groups.
Everything is evaluated at the explicit time of the look, so that a look can be repeated over recorded data.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from metrics_adapter import queries, shapes
from metrics_adapter.engines import NAME_PATTERN, Vocabulary, select
from metrics_adapter.history import MOST_POINTS, joined
from metrics_adapter.prometheus_http import PrometheusAccess, PrometheusClient
from metrics_adapter.queries import HANDLE, Scope, Unfit
from metrics_adapter.rows import Row, Tables, assemble, parse
from metrics_adapter.signals import Group, Reading, Readings, Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Future

__all__ = ["PrometheusAccess", "PrometheusSource"]

_Made = TypeVar("_Made")
_LOOKBACK_S = 300.0  # how far back an instant query looks for a sample by default


@dataclass(frozen=True, slots=True)
class _Known:
    """What the server speaks, as found out at `at`."""

    at: float
    vocabularies: tuple[Vocabulary, ...]


@dataclass(frozen=True, slots=True)
class _Capacities:
    """KV capacities as read at `at` for groups told apart by `scope`; they change when engines are configured anew."""

    at: float
    scope: Scope
    rows: Sequence[Row]


@dataclass(slots=True)
class _Look:
    """One look in progress: its deadline, what has been asked and what a person should know."""

    now: float
    deadline: float
    sent: int = 0
    notes: list[str] = field(default_factory=list)
    futures: dict[str, Future[list[Row]]] = field(default_factory=dict)


class PrometheusSource:
    """Reads groups through PromQL; see `MetricSource`.

    Args:
        access: where the server is and how to get in.
        window_s: range of rate(), seconds. At least four scrape intervals, or a missed scrape leaves gaps.
        max_age_s: engines whose newest sample is older do not count, seconds. Beyond 300 s the server's own lookback
            ends first.
        discovery_interval_s: how often the engine families present are looked up, seconds.
        concurrency: queries under way at once.
        signals: what to ask for; each costs a query, on the server mostly.
        target_labels: labels that together name one scrape target.
    """

    name = "prometheus"

    def __init__(
        self,
        access: PrometheusAccess,
        *,
        window_s: float = 60.0,
        max_age_s: float = 60.0,
        discovery_interval_s: float = 60.0,
        concurrency: int = 4,
        signals: Collection[Signal] = frozenset(Signal),
        target_labels: tuple[str, ...] = queries.TARGET_LABELS,
    ) -> None:
        for what, value in (("window_s", window_s), ("max_age_s", max_age_s), ("concurrency", concurrency)):
            if not value > 0:
                raise ValueError(f"{what}: {value} must be above 0")
        self.access = access
        self._window_s, self._max_age_s = window_s, max_age_s
        self._discovery_interval_s = discovery_interval_s
        self._signals = tuple(signal for signal in Signal if signal in signals)
        self._targets = target_labels
        self._client = PrometheusClient(access, concurrency)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="prometheus")
        self._known: _Known | None = None
        self._capacities: _Capacities | None = None
        self._suspicious = False

    def close(self) -> None:
        """Release connections and threads; safe to call twice."""
        self._client.close()
        self._pool.shutdown(cancel_futures=True)

    def read(self, now: float, groups: Sequence[Group]) -> Readings:
        """Read every group as of Unix time `now`; see `MetricSource.read`.

        Raises:
            SourceError: unreachable, refused, timed out or nonsense; or the roll call failed. Any other query that
                fails costs its signal and leaves a note.
        """
        started = time.monotonic()
        look = _Look(now, started + self.access.timeout_s)
        usable = [group for group in groups if self._usable(group, look)]
        found: dict[str, Reading] = {}
        if usable:
            scope = self._scope(usable)
            vocabularies = self._vocabularies(look, scope)
            found = self._readings(look, scope, vocabularies, usable)
            if not any(reading.reporting for reading in found.values()):
                self._known = None  # look again at once: names may have appeared since
        by_key = {group.key: found.get(group.key, Reading(group.key)) for group in groups}
        notes = tuple(dict.fromkeys(look.notes))
        return Readings(now, by_key, look.sent, time.monotonic() - started, notes)

    def names(self, now: float) -> tuple[str, ...]:
        """Metric names on the server that some vocabulary may use."""
        return self.label_values("__name__", f'{{__name__=~"{NAME_PATTERN}"}}', now)

    def label_values(self, label: str, match: str | None = None, now: float | None = None) -> tuple[str, ...]:
        """Values of a label, among the series `match` selects, around Unix time `now`."""
        return self._label_values(label, match, now, self._deadline())

    def series(self, match: str, now: float) -> list[dict[str, str]]:
        """Label sets of the series that `match` selects and that had samples around Unix time `now`."""
        found = self._client.series({"match[]": match, **self._around(now)}, self._deadline()).data
        return self._shaped("a list of series", lambda: [shapes.labels(item) for item in found])

    def server_time(self) -> float:
        """The server's clock, Unix seconds."""
        said = self._client.query("time()", None, self._deadline()).data
        return self._shaped("a scalar", lambda: shapes.scalar(said))

    def range(
        self, query: str, start: float, end: float, step: float
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """A range query: per series its labels and its (Unix time, value) points; times and step in seconds."""
        result = self._client.query_range(query, start, end, step, self._deadline()).data
        return self._shaped("a range of samples", lambda: [shapes.points(item) for item in result])

    def history(
        self,
        groups: Sequence[Group],
        signals: Collection[Signal],
        start: float,
        end: float,
        step: float,
        window_s: float | None = None,
    ) -> dict[Signal, dict[str, list[tuple[float, float]]]]:
        """What signals were over time: (Unix time, value) by signal and group's key. Raises SourceError.

        Rates are over `window_s`; None: the source's own window.
        """
        look = _Look(end, self._deadline())
        usable = [group for group in groups if self._usable(group, look)]
        found: dict[Signal, dict[str, list[tuple[float, float]]]] = {}
        for signal in signals if usable else ():
            scope = self._scope(usable)
            wider = scope if window_s is None else replace(scope, window_s=window_s)
            if text := queries.signal_query(self._vocabularies(look, scope), signal, wider):
                rows = self.range(text, start, end, max(step, (end - start) / MOST_POINTS))
                found[signal] = joined(rows, usable, scope.labels)
        return found

    def _deadline(self) -> float:
        return time.monotonic() + self.access.timeout_s

    def _around(self, now: float) -> dict[str, str]:
        return {"start": f"{now - max(_LOOKBACK_S, self._window_s):.3f}", "end": f"{now:.3f}"}

    def _label_values(self, label: str, match: str | None, now: float | None, deadline: float) -> tuple[str, ...]:
        params: dict[str, Any] = {} if match is None else {"match[]": match}
        if now is not None:
            params |= self._around(now)
        found = self._client.label_values(label, params, deadline).data
        return self._shaped("a list of label values", lambda: shapes.texts(found))

    def _shaped(self, what: str, make: Callable[[], _Made]) -> _Made:
        """What `make` reads from an answer; SourceError where a proxy or another server answered in another shape."""
        try:
            return make()
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SourceError(f"Prometheus at {self.access.address}: the answer is not {what}") from error

    @staticmethod
    def _usable(group: Group, look: _Look) -> bool:
        wrong = [name for name in group.match if not queries.is_label_name(name)]
        if wrong:
            look.notes.append(
                f"group {group.key}: {wrong[0]!r} cannot be a Prometheus label (letters, digits and _ only, as in "
                f"{''.join(c if c.isascii() and c.isalnum() else '_' for c in wrong[0])!r}); it matches nothing"
            )
        return not wrong

    def _scope(self, groups: Sequence[Group]) -> Scope:
        common = set(groups[0].match.items()).intersection(*(group.match.items() for group in groups[1:]))
        labels = tuple(sorted({name for g in groups for name in g.match} - {name for name, _ in common}))
        return Scope(labels, tuple(sorted(common)), self._targets, self._window_s, self._max_age_s)

    def _vocabularies(self, look: _Look, scope: Scope) -> tuple[Vocabulary, ...]:
        known = self._known
        if known is None or not 0 <= look.now - known.at < self._discovery_interval_s:
            look.sent += 1
            match = f'{{__name__=~"{NAME_PATTERN}"}}'
            chosen = select(self._label_values("__name__", match, look.now, look.deadline))
            known = _Known(look.now, tuple(self._pruned(v, look, scope) for v in chosen))
            self._known = known
        if not known.vocabularies:
            look.notes.append("no metric of a known engine or gateway is on this server")
        return known.vocabularies

    def _pruned(self, vocabulary: Vocabulary, look: _Look, scope: Scope) -> Vocabulary:
        """Without the alternatives that no engine needs: each of them would cost every read a query's worth of work."""
        recipes = dict(vocabulary.recipes)
        for signal, alternatives in recipes.items():
            wanted = vocabulary.engine and signal in self._signals
            if wanted and len(alternatives) > 1 and not alternatives[0].label_product:
                self._ask(look, signal, queries.uncovered_query(vocabulary, alternatives[0], scope))
        for signal, alternatives in recipes.items():
            rows = self._rows(look, signal) if signal in look.futures else None
            if rows is not None and not rows:
                recipes[signal] = alternatives[:1]
        look.futures.clear()
        return replace(vocabulary, recipes=recipes)

    def _ask(self, look: _Look, key: str, query: str | None) -> None:
        """Start a query; without one, nothing."""
        if query is None:
            return
        look.sent += 1

        def fetch() -> list[Row]:
            answer = self._client.query(query, look.now, look.deadline)
            look.notes.extend(f"Prometheus warns: {warning}" for warning in answer.warnings)
            try:
                return parse(answer.data)
            except ValueError as error:
                raise SourceError(f"Prometheus at {self.access.address}: {error}") from error

        try:
            look.futures[key] = self._pool.submit(fetch)
        except RuntimeError as error:
            raise SourceError(f"Prometheus at {self.access.address}: the source has been closed") from error

    def _rows(self, look: _Look, key: str, *, required: bool = False) -> list[Row] | None:
        """What a query returned; None when it was not asked or failed (and a note says so)."""
        future = look.futures.get(key)
        if future is None:
            return None
        try:
            return future.result()
        except SourceError as error:
            if required:
                for other in look.futures.values():
                    other.cancel()
                raise
            look.notes.append(f"{key}: {error}")
            return None

    def _readings(
        self, look: _Look, scope: Scope, vocabularies: tuple[Vocabulary, ...], groups: Sequence[Group]
    ) -> dict[str, Reading]:
        self._ask(look, "targets", queries.targets_query(scope))
        if Signal.GATEWAY_QUEUE in self._signals:
            self._ask(look, Signal.GATEWAY_QUEUE, queries.gateway_query(vocabularies, scope))
        if any(v.engine for v in vocabularies) and not self._all_fit(look, scope, vocabularies):
            self._call_roll(look, scope, vocabularies)
        return assemble(groups, scope.labels, self._tables(look, scope, vocabularies))

    def _all_fit(self, look: _Look, scope: Scope, vocabularies: tuple[Vocabulary, ...]) -> bool:
        """Ask as if no engine were unfit, and whether the answers bear that out. Not tried while one was, last time.

        They do when no sample is too old, no engine makes the count NaN, and as many are there as were lately.
        """
        presence = _telling_presence(vocabularies)
        if self._suspicious or presence is None:
            return False
        self._ask(look, "lately", queries.lately_query(presence, scope))
        self._ask_engines(look, scope, vocabularies, Unfit(), tell=True)
        oldest = self._rows(look, "oldest", required=True) or []
        engines = self._rows(look, "engines", required=True) or []
        lately = self._rows(look, "lately")
        aged = any(not row.value >= look.now - self._max_age_s for row in oldest)
        # a sum with a NaN in it equals nothing
        here, then = sum(row.value for row in engines), sum(row.value for row in lately or ())
        self._suspicious = aged or lately is None or here != then
        return not self._suspicious

    def _call_roll(self, look: _Look, scope: Scope, vocabularies: tuple[Vocabulary, ...]) -> None:
        """Find the unfit targets, then ask for everything without them."""
        stale, gone = queries.unfit_queries(vocabularies, scope)
        self._ask(look, "stale", stale)
        self._ask(look, "gone", gone)
        stale_rows = self._rows(look, "stale", required=True) or []
        gone_rows = self._rows(look, "gone")
        self._suspicious = bool(stale_rows or gone_rows is None or gone_rows)
        self._ask_engines(look, scope, vocabularies, Unfit(_handles(stale_rows), _handles(gone_rows or [])))

    def _tables(self, look: _Look, scope: Scope, vocabularies: tuple[Vocabulary, ...]) -> Tables:
        """Waits for everything asked; engines and their sample times must be known, the rest may fail."""
        engines = self._rows(look, "engines", required=True)
        oldest = self._rows(look, "oldest", required=True)
        signals = {signal: rows for signal in Signal if (rows := self._rows(look, signal)) is not None}
        return Tables(
            engines=engines,
            seen=self._rows(look, "seen"),
            oldest=oldest,
            replicas=self._rows(look, "replicas"),
            rated=self._rows(look, "rated"),
            targets=self._rows(look, "targets"),
            capacity=self._capacity(look, scope),
            products=queries.capacity_products(vocabularies),
            signals=signals,
        )

    def _capacity(self, look: _Look, scope: Scope) -> Sequence[Row] | None:
        """KV capacities by label set: those just read, else the last ones read."""
        rows = self._rows(look, "capacity")
        if rows:
            self._capacities = _Capacities(look.now, scope, rows)
        return self._capacities.rows if rows is None and self._capacities is not None else rows

    def _ask_engines(
        self, look: _Look, scope: Scope, vocabularies: tuple[Vocabulary, ...], unfit: Unfit, *, tell: bool = False
    ) -> None:
        self._ask(look, "engines", queries.engines_query(vocabularies, scope, unfit, tell=tell))
        self._ask(look, "oldest", queries.oldest_query(vocabularies, scope, unfit))
        self._ask(look, "replicas", queries.replicas_query(vocabularies, scope, unfit))
        self._ask(look, "rated", queries.rated_query(vocabularies, scope, unfit))
        if unfit.stale is not None:
            self._ask(look, "seen", queries.seen_query(vocabularies, scope))
        if Signal.KV_CAPACITY in self._signals and self._capacity_due(look, scope):
            self._ask(look, "capacity", queries.capacity_query(vocabularies, scope, unfit))
        for signal in self._signals:
            if signal is not Signal.GATEWAY_QUEUE:
                self._ask(look, signal, queries.signal_query(vocabularies, signal, scope, unfit))

    def _capacity_due(self, look: _Look, scope: Scope) -> bool:
        """As often as discovery, but not in the same look: both are dear, and a look should take its usual time."""
        last, known = self._capacities, self._known
        if last is None or last.scope != scope or not 0 <= look.now - last.at < 2 * self._discovery_interval_s:
            return True
        return look.now - last.at >= self._discovery_interval_s and known is not None and known.at < look.now


def _telling_presence(vocabularies: Sequence[Vocabulary]) -> str | None:
    """The gauge whose plain counts show that no engine is unfit; None where engines may be in several of its series.

    The roll call chooses all presence series four times, at 55 ms a time for 8,000 engines; this way it is once.
    """
    speaking = [v for v in vocabularies if v.engine]
    if len(speaking) != 1 or speaking[0].repeats or len(speaking[0].presences) != 1:
        return None
    return speaking[0].presences[0]


def _handles(rows: Sequence[Row]) -> tuple[str, ...] | None:
    return queries.narrowed([row.labels.get(HANDLE, "") for row in rows])
