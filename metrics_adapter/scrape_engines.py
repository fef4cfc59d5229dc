"""From the samples of one target to what each engine behind it says, in the words of the vocabularies."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from metrics_adapter.engines import Kind, Over, Recipe, Term, Vocabulary, select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from metrics_adapter.exposition_text import Labels, Sample
    from metrics_adapter.scrape_history import SeriesKey
    from metrics_adapter.signals import Signal

Values = tuple[Over, tuple[float, ...]]
"""How to combine a signal over engines, and one engine's contribution: several numbers where it publishes several
shares or capacities (SGLang's data-parallel ranks), each of which is one of those a mean or maximum is taken over."""
_ByName = dict[str, list["Sample"]]


@dataclass(frozen=True, slots=True)
class CounterTerm:
    """A counter of a recipe, bound to the series of one engine.

    Attributes:
        factor: multiplies the rate.
        series: summed over the outer tuple; of each inner one the fastest counts (they repeat each other).
    """

    factor: float
    series: tuple[tuple[SeriesKey, ...], ...]


@dataclass(frozen=True, slots=True)
class EngineView:
    """What one engine (or gateway) said in one scrape.

    Attributes:
        family: vocabulary name.
        labels: of the engine's presence series, with the target's labels over them.
        engines: how many engines this is: 1, or the data-parallel ranks of a family whose series are not kept apart by
            rank; 0 for a gateway and for families after the first of a target, which only fill in what that one does
            not say.
        sampled_at: Unix time of the presence sample (the oldest of several).
        flaw: why it does not report, namely a NaN, infinite or negative presence gauge; None if it does.
        dropped: other gauges that are NaN, infinite or negative and are therefore not part of `levels`.
        levels: signals made of gauges.
        flows: signals made of counters, to be turned into rates when they are read.
    """

    family: str
    labels: Mapping[str, str]
    engines: int
    sampled_at: float
    flaw: str | None
    dropped: tuple[str, ...]
    levels: Mapping[Signal, Values]
    flows: Mapping[Signal, tuple[Over, tuple[CounterTerm, ...]]]

    def signals(self, rate: Callable[[SeriesKey], float | None]) -> dict[Signal, Values]:
        """Levels and rates together; a rate that cannot be told yet is left out."""
        found = dict(self.levels)
        for signal, (over, terms) in self.flows.items():
            rates = [_term_rate(term, rate) for term in terms]
            known = [value for value in rates if value is not None]
            if len(known) == len(rates):
                found[signal] = over, (max(0.0, math.fsum(known)),)  # differences of rates may dip below 0 by rounding
        return found

    def series(self) -> Iterable[SeriesKey]:
        """Every counter series the rates need."""
        return (key for _, terms in self.flows.values() for term in terms for same in term.series for key in same)


def view_target(samples: Iterable[Sample], at: float, target_labels: Mapping[str, str]) -> tuple[EngineView, ...]:
    """The engines (and gateways) that a target's samples speak of, families in order of precedence.

    Args:
        samples: one scrape, known names at least.
        at: Unix time of the scrape; counts for samples without a time stamp of their own.
        target_labels: labels the scraper attaches.
    """
    by_name: _ByName = defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)
    views: list[EngineView] = []
    for vocabulary in _vocabularies(frozenset(by_name)):
        first = vocabulary.engine and not any(view.engines for view in views)
        for presence, own in _engines(vocabulary, by_name):
            engines = len(_apart(presence, vocabulary.repeats)) if first else 0
            views.append(_view(vocabulary, presence, own, at, target_labels, engines))
    return tuple(views)


@lru_cache(maxsize=1024)  # one entry per engine build in the fleet
def _vocabularies(available: frozenset[str]) -> tuple[Vocabulary, ...]:
    return select(available)


def _engines(vocabulary: Vocabulary, by_name: _ByName) -> Iterable[tuple[list[Sample], _ByName]]:
    """Each engine's presence samples (of the first presence name it has), and all samples that are its own.

    Engines of one target differ in the labels `vocabulary.ranks`. A gateway's series speak of different pools, so
    each presence series of a gateway stands alone.
    """
    if not vocabulary.engine:
        for sample in by_name[vocabulary.presences[0]]:
            yield [sample], {sample.name: [sample]}
        return
    presence: dict[Labels, list[Sample]] = {}
    for name in vocabulary.presences:
        fresh: dict[Labels, list[Sample]] = defaultdict(list)
        for sample in by_name[name]:
            fresh[_rank(sample, vocabulary.ranks)].append(sample)
        presence = {**fresh, **presence}
    own: dict[Labels, _ByName] = {rank: defaultdict(list) for rank in presence}
    for name, samples in by_name.items():
        for sample in samples:
            mine = own.get(_rank(sample, vocabulary.ranks))
            if mine is not None:
                mine[name].append(sample)
    for rank, seen in presence.items():
        yield seen, own[rank]


def _rank(sample: Sample, ranks: tuple[str, ...]) -> Labels:
    return tuple(pair for pair in sample.labels if pair[0] in ranks)


def _view(
    vocabulary: Vocabulary,
    presence: Sequence[Sample],
    own: _ByName,
    at: float,
    target_labels: Mapping[str, str],
    engines: int,
) -> EngineView:
    levels: dict[Signal, Values] = {}
    flows: dict[Signal, tuple[Over, tuple[CounterTerm, ...]]] = {}
    dropped: set[str] = set()
    for signal, alternatives in vocabulary.recipes.items():
        for recipe in alternatives:
            bound = [_matching(term, own) for term in recipe.terms]
            if not all(bound):
                continue
            if recipe.terms[0].kind is Kind.COUNTER:
                terms = zip(recipe.terms, bound, strict=True)
                flows[signal] = recipe.over, tuple(_counter_term(term, s, vocabulary.repeats) for term, s in terms)
                break
            flaws = {why for series in bound for why in map(_flaw, series) if why}
            dropped |= flaws
            value = None if flaws else _level(recipe, bound, vocabulary.repeats)
            if value is not None:
                levels[signal] = recipe.over, value
            if value is not None or flaws:
                break
    times = [at if sample.timestamp is None else sample.timestamp for sample in presence]
    labels = with_target_labels(dict(presence[0].labels), target_labels)
    flaw = next(filter(None, map(_flaw, presence)), None)
    return EngineView(vocabulary.name, labels, engines, min(times), flaw, tuple(sorted(dropped)), levels, flows)


def _flaw(sample: Sample) -> str | None:
    return None if math.isfinite(sample.value) and sample.value >= 0 else f"{sample.name} is {sample.value:g}"


def _matching(term: Term, own: _ByName) -> list[Sample]:
    samples = own.get(term.metric, [])
    if not term.where:
        return samples
    return [sample for sample in samples if set(term.where) <= set(sample.labels)]


def _apart(samples: Iterable[Sample], repeats: tuple[str, ...]) -> list[list[Sample]]:
    """Samples that repeat each other (differ in `repeats` only) put together."""
    groups: dict[Labels, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[tuple(pair for pair in sample.labels if pair[0] not in repeats)].append(sample)
    return list(groups.values())


def _counter_term(term: Term, samples: Iterable[Sample], repeats: tuple[str, ...]) -> CounterTerm:
    groups = _apart(samples, repeats)
    return CounterTerm(term.factor, tuple(tuple((s.name, s.labels) for s in group) for group in groups))


def _level(recipe: Recipe, bound: Sequence[Sequence[Sample]], repeats: tuple[str, ...]) -> tuple[float, ...] | None:
    """One engine's value of a recipe of gauges; None if an info gauge's labels are not numbers ("None" in vLLM)."""
    if recipe.label_product:
        product = _product_of_labels(dict(bound[0][0].labels), recipe.label_product)
        return None if product is None else (product,)
    terms = [
        [term.factor * max(sample.value for sample in group) for group in _apart(samples, repeats)]
        for term, samples in zip(recipe.terms, bound, strict=True)
    ]
    if len(terms) == 1 and recipe.over is not Over.SUM:
        return tuple(terms[0])
    sums = [math.fsum(values) for values in terms]
    return (math.prod(sums) if recipe.product else math.fsum(sums),)


def _product_of_labels(labels: Mapping[str, str], names: Iterable[str]) -> float | None:
    try:
        value = math.prod(float(labels[name]) for name in names)
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _term_rate(term: CounterTerm, rate: Callable[[SeriesKey], float | None]) -> float | None:
    fastest = [max(known) for same in term.series if (known := [r for key in same if (r := rate(key)) is not None])]
    return term.factor * math.fsum(fastest) if fastest else None


def with_target_labels(exposed: Mapping[str, str], target_labels: Mapping[str, str]) -> dict[str, str]:
    """Exposed labels under the target's: on a clash the exposed one is renamed `exported_…`, as Prometheus does."""
    merged = dict(target_labels)
    for name, value in exposed.items():
        free = name
        while free in target_labels or (free != name and free in exposed):
            free = f"exported_{free}"
        merged[free] = value
    return merged
