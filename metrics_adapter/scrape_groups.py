"""From what every target said to one reading per group."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from metrics_adapter.engines import Over
from metrics_adapter.scrape_engines import EngineView, view_target
from metrics_adapter.scrape_history import History
from metrics_adapter.signals import Group, Reading, Signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from metrics_adapter.exposition_text import Sample
    from metrics_adapter.scrape_engines import Values
    from metrics_adapter.scrape_history import SeriesKey
    from metrics_adapter.scrape_targets import Target

LOOKBACK_S = 300.0
"""How long a target that stopped answering still belongs where its engines belonged, s (Prometheus' look-back)."""


class TargetState:
    """All that is remembered of one target."""

    __slots__ = ("_history", "cause", "labels", "scraped_at", "slow", "target", "up", "views")

    def __init__(self, target: Target, window_s: float) -> None:
        self.target = target
        self.labels: Mapping[str, str] = target.all_labels
        self.up = False
        self.slow = False
        self.cause = "not scraped yet"
        self.scraped_at: float | None = None
        self.views: tuple[EngineView, ...] = ()
        self._history = History(window_s)

    def succeed(self, samples: Iterable[Sample], at: float) -> None:
        """Take a whole scrape begun at Unix time `at`."""
        kept = {(sample.name, sample.labels): sample for sample in samples}
        self.views = view_target(kept.values(), at, self.labels)
        wanted = {key: kept[key] for view in self.views for key in view.series()}
        self._history.add(
            at,
            {
                key: (at if sample.timestamp is None else sample.timestamp, sample.value)
                for key, sample in wanted.items()
                if math.isfinite(sample.value)
            },
        )
        self.up, self.slow, self.cause, self.scraped_at = True, False, "", at

    def fail(self, cause: str, at: float) -> None:
        """Take a scrape that gave nothing usable; where its engines belonged is kept for LOOKBACK_S."""
        self.up, self.cause = False, cause
        if self.scraped_at is not None and at - self.scraped_at > LOOKBACK_S:
            self.views = ()

    def rate(self, key: SeriesKey, now: float) -> float | None:
        """Per-second rate of a counter over the window that ends now (or at the last scrape, if that is later)."""
        return self._history.rate(key, max(now, self.scraped_at or now))

    @property
    def series(self) -> int:
        """Counters remembered."""
        return len(self._history)


@dataclass(slots=True)
class _Tally:
    """A reading in the making."""

    values: dict[Signal, list[Values]] = field(default_factory=lambda: defaultdict(list))
    sampled_at: float | None = None
    reporting: int = 0
    rated: int = 0
    replicas: int = 0
    targets: int = 0
    targets_up: int = 0
    cannot_tell: bool = False
    stale: int = 0
    families: set[str] = field(default_factory=set)

    def reading(self, key: str) -> Reading:
        return Reading(
            key=key,
            signals={signal: _combined(values) for signal, values in self.values.items()},
            sampled_at=self.sampled_at,
            reporting=self.reporting,
            replicas_reporting=self.replicas,
            targets=None if self.cannot_tell else self.targets,
            targets_up=None if self.cannot_tell else self.targets_up,
            stale=self.stale,
            rate_engines=self.rated,
            engines=tuple(sorted(self.families)),
        )


class _Index:
    """Finds groups by labels without trying each: one look-up per distinct set of label names in use."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._by_names: dict[tuple[str, ...], list[Group]] = defaultdict(list)
        for group in groups:
            self._by_names[tuple(sorted(group.match))].append(group)
        self._tables: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[tuple[str, ...], list[str]]] = {}

    def matching(self, labels: Mapping[str, str]) -> list[str]:
        """Keys of groups all of whose pairs hold; a label that is not there equals "", as in PromQL."""
        return [key for names in self._by_names for key in self._find(names, names, labels)]

    def possible(self, labels: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """For a target of which only its own labels are known: groups it belongs to, and groups it might belong to.

        It belongs to a group if the pairs its labels can decide all hold and there is at least one such pair.
        """
        sure: list[str] = []
        perhaps: list[str] = []
        for names in self._by_names:
            decided = tuple(name for name in names if name in labels)
            (sure if decided or not names else perhaps).extend(self._find(names, decided, labels))
        return sure, perhaps

    def _find(self, names: tuple[str, ...], by: tuple[str, ...], labels: Mapping[str, str]) -> list[str]:
        table = self._tables.get((names, by))
        if table is None:
            table = defaultdict(list)
            for group in self._by_names[names]:
                table[tuple(group.match[name] for name in by)].append(group.key)
            self._tables[names, by] = table
        return table.get(tuple(labels.get(name, "") for name in by), [])


def read_groups(
    states: Iterable[TargetState], groups: Sequence[Group], now: float, max_age_s: float
) -> tuple[dict[str, Reading], list[str]]:
    """One reading per group, in order, and what a person should know about engines left out.

    As in Prometheus, an engine is gone as soon as a scrape of its target fails. Of the others those report whose
    presence sample is finite, not negative and at most `max_age_s` from Unix time `now`; the rest are stale.
    """
    index = _Index(groups)
    tallies = {group.key: _Tally() for group in groups}
    notes: list[str] = []
    for state in states:
        notes += _tally_target(state, index, tallies, now, max_age_s)
    return {group.key: tallies[group.key].reading(group.key) for group in groups}, notes


def _tally_target(
    state: TargetState, index: _Index, tallies: Mapping[str, _Tally], now: float, max_age_s: float
) -> list[str]:
    notes: list[str] = []
    answering: set[str] = set()
    known: set[str] = set()
    said: dict[str, set[Signal]] = defaultdict(set)
    for view in state.views:
        keys = index.matching(view.labels)
        known.update(keys if view.engines else ())
        if not state.up:
            continue
        flaw = _why_stale(view, now, max_age_s)
        notes += [f"{state.target.shown}: {why}" for why in (view.dropped if flaw is None else (flaw,))]
        if flaw is not None:
            for key in keys:
                tallies[key].stale += view.engines
        elif keys:
            _tally_view(view, view.signals(lambda key: state.rate(key, now)), keys, tallies, said)
            answering.update(keys if view.engines else ())
    for key in answering:
        tallies[key].replicas += 1
    _tally_presence(state, known, index, tallies)
    return notes


def _why_stale(view: EngineView, now: float, max_age_s: float) -> str | None:
    if view.flaw is None and abs(now - view.sampled_at) > max_age_s:
        return f"its samples are {now - view.sampled_at:.0f} s old, limit {max_age_s:g} s"
    return view.flaw


def _tally_view(
    view: EngineView,
    signals: Mapping[Signal, Values],
    keys: Iterable[str],
    tallies: Mapping[str, _Tally],
    said: Mapping[str, set[Signal]],
) -> None:
    """Add what one reporting engine says; of two families on a target the first that has a signal answers for it."""
    taken = {signal for family, claims in said.items() if family != view.family for signal in claims}
    said[view.family].update(signals)
    for key in keys:
        tally = tallies[key]
        for signal, values in signals.items():
            if signal not in taken:
                tally.values[signal].append(values)
        if view.engines:
            tally.reporting += view.engines
            tally.rated += view.engines if _rated(view, signals) else 0
            if tally.sampled_at is None or view.sampled_at < tally.sampled_at:
                tally.sampled_at = view.sampled_at
            tally.families.add(view.family)


def _rated(view: EngineView, signals: Mapping[Signal, Values]) -> bool:
    """Whether the engine has been scraped often enough for rates."""
    sign = next((s for s in (Signal.GENERATION_RATE, Signal.COMPLETION_RATE) if s in view.flows), None)
    return sign in signals


def _tally_presence(state: TargetState, known: Iterable[str], index: _Index, tallies: Mapping[str, _Tally]) -> None:
    """Count the target where its own labels put it, as the `up` series does; where they are silent, by its engines."""
    sure, perhaps = index.possible(state.labels)
    mine = {*sure, *known} if state.views else set(sure)
    if not state.views:
        for key in perhaps:
            tallies[key].cannot_tell = True
    for key in mine:
        tallies[key].targets += 1
        tallies[key].targets_up += state.up


def _combined(contributions: Sequence[Values]) -> float:
    over = contributions[0][0]
    numbers = [number for _, values in contributions for number in values]
    if over is Over.MAX:
        return max(numbers)
    return math.fsum(numbers) / (len(numbers) if over is Over.MEAN else 1)
