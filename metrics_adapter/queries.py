"""PromQL texts: one instant query per signal, aggregated by the labels the groups are told apart by.

The number of queries depends on how many signals the server knows, never on how many groups there are: every query
returns one row per distinct combination of label values, and the caller joins rows to groups.

An engine whose presence gauge is stale or not finite must not count anywhere. Filtering every signal by the presence
gauge costs three to five times the plain sum (measured: 40 ms against 200 ms for 8,000 engines), so a *roll call* asks
first which targets are unfit, and the other queries leave out those few by name: `X unless on (target) unfit`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metrics_adapter.engines import Kind, Over, Recipe, Term, Vocabulary
from metrics_adapter.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

TARGET_LABELS = ("cluster", "job", "namespace", "pod", "instance")
"""Labels that together name one scrape target; those a set-up does not have are simply empty everywhere."""

FAMILY_LABEL = "tidegate_family"
VALUE_LABEL = "tidegate_value"

HANDLE = "instance"
"""The label by which unfit targets are narrowed down before they are identified exactly."""

_MAX_NARROWED = 500  # beyond this the regular expression costs more than looking at every series
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_AGGREGATION = {Over.SUM: "sum", Over.MEAN: "avg", Over.MAX: "max"}

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """What every query of one look has in common.

    Attributes:
        labels: label names rows are told apart by (the union of the groups' match labels, those in `common` aside).
        common: label pairs all groups share; every series read is restricted to them.
        targets: labels that name one scrape target.
        window_s: range of rate(), seconds.
        max_age_s: samples older than this are stale, seconds.
    """

    labels: tuple[str, ...]
    common: Pairs
    targets: tuple[str, ...]
    window_s: float
    max_age_s: float


@dataclass(frozen=True, slots=True)
class Unfit:
    """Targets to leave out, as found by the roll call; None: nothing to leave out, (): look at every series.

    Attributes:
        stale: handles of targets with an engine whose presence is too old or not finite.
        gone: handles of targets that reported within the rate window and do so no more; their rates would linger.
    """

    stale: tuple[str, ...] | None = None
    gone: tuple[str, ...] | None = None


def is_label_name(name: str) -> bool:
    """Whether Prometheus can have a label of this name (and it is not one of its internal ones)."""
    return _LABEL_NAME.fullmatch(name) is not None


def quoted(value: str) -> str:
    """A PromQL string literal."""
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'


def selector(
    metric: str,
    pairs: Iterable[tuple[str, str]] = (),
    *,
    also: Iterable[tuple[str, str, str]] = (),
    narrow: Sequence[str] | None = None,
) -> str:
    """`metric{a="b",...}`, with `also` as further matchers and `narrow` as alternatives for the handle label."""
    matchers = [f"{name}{operator}{literal}" for name, operator, literal in also]
    matchers += [f"{name}={quoted(value)}" for name, value in pairs]
    if narrow:
        matchers.append(f"{HANDLE}=~{quoted('|'.join(re.escape(value) for value in narrow))}")
    return f"{metric}{{{','.join(matchers)}}}" if matchers else metric


def narrowed(handles: Sequence[str]) -> tuple[str, ...] | None:
    """Handles found by the roll call as `Unfit` wants them: None when there are none, () when they cannot narrow."""
    if not handles:
        return None
    return () if "" in handles or len(handles) > _MAX_NARROWED else tuple(sorted(set(handles)))


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _by(*names: Sequence[str]) -> str:
    return "(" + ", ".join(dict.fromkeys(name for group in names for name in group)) + ")"


def _either(parts: Sequence[str], scope: Scope) -> str:
    """First present wins, judged per target."""
    return parts[0] if len(parts) == 1 else f" or on {_by(scope.targets)} ".join(f"({part})" for part in parts)


def _once(vocabulary: Vocabulary, expression: str) -> str:
    """Series that repeat one another count once."""
    return f"max without {_by(vocabulary.repeats)} ({expression})" if vocabulary.repeats else expression


def _presence(vocabulary: Vocabulary, scope: Scope, shape: Callable[[str], str]) -> str:
    """`shape` applied to each presence selector of the family; first present wins."""
    parts = [_once(vocabulary, shape(selector(name, scope.common))) for name in vocabulary.presences]
    return _either(parts, scope)


def _stale(vocabulary: Vocabulary, scope: Scope, narrow: tuple[str, ...]) -> str:
    """Presence series that are too old, or NaN, infinite or negative: exactly those whose root times 0 is not 0."""
    parts = []
    for name in vocabulary.presences:
        series = selector(name, scope.common, narrow=narrow)
        parts.append(f"(timestamp({series}) < time() - {scope.max_age_s:g})")
        parts.append(f"(sqrt({series}) * 0 != 0)")
    return " or ".join(parts)


def _gone(vocabulary: Vocabulary, scope: Scope, narrow: tuple[str, ...]) -> str:
    """Presence series seen within the rate window that have ended (a failed scrape, a target that was removed)."""
    parts = []
    for name in vocabulary.presences:
        series = selector(name, scope.common, narrow=narrow)
        parts.append(f"(last_over_time({series}[{_duration(scope.window_s)}]) unless {series})")
    return " or ".join(parts)


def _fit(expression: str, vocabulary: Vocabulary, scope: Scope, unfit: Unfit, *, rates: bool) -> str:
    """The expression without the series of unfit engines."""
    parts = []
    if unfit.stale is not None:
        parts.append(_stale(vocabulary, scope, unfit.stale))
    if rates and unfit.gone is not None:
        parts.append(_gone(vocabulary, scope, unfit.gone))
    if not parts:
        return expression
    return f"({expression}) unless on {_by(scope.targets, vocabulary.ranks)} ({' or '.join(parts)})"


def _term(vocabulary: Vocabulary, term: Term, scope: Scope, also: Sequence[Term] = ()) -> str:
    """One term's series, per second if a counter; `>= 0` also drops NaN, which would poison a sum.

    `also`: terms that differ from it only in the value of their one `where` label; read in the same go.
    """
    where = [(name, "=", quoted(value)) for name, value in term.where]
    if also:
        values = "|".join(re.escape(t.where[0][1]) for t in (term, *also))
        where = [(term.where[0][0], "=~", quoted(values))]
    series = selector(term.metric, scope.common, also=where)
    value = f"rate({series}[{_duration(scope.window_s)}])" if term.kind is Kind.COUNTER else series
    return _once(vocabulary, f"{value} >= 0 < Inf" if term.kind is Kind.GAUGE else f"{value} >= 0")


def _alike(recipe: Recipe) -> bool:
    """Whether the terms are one metric under several values of one label, to be summed: one selector reads them all.

    For 8,000 engines that takes 65 ms instead of 95 ms.
    """
    first = recipe.terms[0]
    same = all(replace(term, where=first.where) == first for term in recipe.terms)
    keys = {tuple(name for name, _ in term.where) for term in recipe.terms}
    return same and len(first.where) == len(keys) == 1 and not recipe.product and first.factor == 1.0


def _recipe(vocabulary: Vocabulary, recipe: Recipe, scope: Scope) -> str:
    """One engine's value; terms are first summed per engine, because they may differ in other labels."""
    if len(recipe.terms) == 1 and recipe.terms[0].factor == 1.0:
        return _term(vocabulary, recipe.terms[0], scope)
    if _alike(recipe):
        return _term(vocabulary, recipe.terms[0], scope, recipe.terms[1:])
    engine = _by(scope.labels, scope.targets, vocabulary.ranks)
    parts = []
    for term in recipe.terms:
        value = f"sum by {engine} ({_term(vocabulary, term, scope)})"
        parts.append(value if term.factor == 1.0 else f"{value} * {term.factor:g}")
    return (" * " if recipe.product else " + ").join(parts)


def _plain(vocabulary: Vocabulary, signal: Signal) -> tuple[Recipe, ...]:
    return tuple(recipe for recipe in vocabulary.recipes.get(signal, ()) if not recipe.label_product)


def _engines(vocabularies: Sequence[Vocabulary], signal: Signal, scope: Scope, unfit: Unfit) -> str | None:
    """The signal per engine, over all families that know it; None when none does."""
    families = []
    for vocabulary in vocabularies:
        recipes = _plain(vocabulary, signal)
        if recipes:
            value = _either([_recipe(vocabulary, recipe, scope) for recipe in recipes], scope)
            rates = any(term.kind is Kind.COUNTER for recipe in recipes for term in recipe.terms)
            families.append(_fit(value, vocabulary, scope, unfit, rates=rates))
    return _either(families, scope) if families else None


def signal_query(
    vocabularies: Sequence[Vocabulary], signal: Signal, scope: Scope, unfit: Unfit = Unfit()
) -> str | None:
    """The signal aggregated by the scope's labels; None when no family has it in plain samples."""
    speaking = [v for v in vocabularies if v.engine]
    value = _engines(speaking, signal, scope, unfit)
    if value is None:
        return None
    over = next(_plain(v, signal)[0].over for v in speaking if _plain(v, signal))
    if signal is Signal.KV_CAPACITY:
        return f'count_values by {_by(scope.labels)} ("{VALUE_LABEL}", {value})'
    return f"{_AGGREGATION[over]} by {_by(scope.labels)} ({value})"


def capacity_products(vocabularies: Sequence[Vocabulary]) -> tuple[tuple[str, ...], ...]:
    """Combinations of info labels whose product is an engine's KV capacity in tokens, most trusted first."""
    recipes = (r for v in vocabularies if v.engine for r in v.recipes.get(Signal.KV_CAPACITY, ()))
    return tuple(dict.fromkeys(recipe.label_product for recipe in recipes if recipe.label_product))


def capacity_query(vocabularies: Sequence[Vocabulary], scope: Scope, unfit: Unfit = Unfit()) -> str | None:
    """Number of engines per combination of the info labels that hold the KV capacity; None when no family has any.

    The info gauge lacks labels that tell groups apart (vLLM's has no `model_name`), so they are taken over from the
    presence gauge of the same engine.
    """
    parts = []
    for vocabulary in (v for v in vocabularies if v.engine):
        infos = [r.terms[0].metric for r in vocabulary.recipes.get(Signal.KV_CAPACITY, ()) if r.label_product]
        if infos:
            engine = (*scope.targets, *vocabulary.ranks)
            there = _fit(_presence(vocabulary, scope, str), vocabulary, scope, unfit, rates=False)
            lent = [name for name in scope.labels if name not in engine]
            info = _either(list(dict.fromkeys(infos)), scope)
            one = f"(max by {_by(engine, lent)} ({there}) * 0 + 1)"
            parts.append(f"(({info}) * on {_by(engine)} group_left {_by(lent)} {one})")
    if not parts:
        return None
    return f"count by {_by(scope.labels, *capacity_products(vocabularies))} ({' or '.join(parts)})"


def gateway_query(vocabularies: Sequence[Vocabulary], scope: Scope) -> str | None:
    """Requests held in front of the engines; fresh samples only, one name per target (old and new are emitted both)."""
    families = []
    for vocabulary in (v for v in vocabularies if not v.engine):
        names = [r.terms[0].metric for r in vocabulary.recipes.get(Signal.GATEWAY_QUEUE, ())]
        series = [selector(name, scope.common) for name in names]
        fresh = [f"(({s} >= 0) < Inf) and (timestamp({s}) >= time() - {scope.max_age_s:g})" for s in series]
        families.append(_either(fresh, scope))
    return f"sum by {_by(scope.labels)} ({' or '.join(f'({f})' for f in families)})" if families else None


def unfit_queries(vocabularies: Sequence[Vocabulary], scope: Scope) -> tuple[str, str]:
    """The roll call: handles of targets that are stale, and of those that have gone within the rate window."""
    speaking = [v for v in vocabularies if v.engine]
    stale = " or ".join(_stale(v, scope, ()) for v in speaking)
    gone = " or ".join(_gone(v, scope, ()) for v in speaking)
    return f"count by ({HANDLE}) ({stale})", f"count by ({HANDLE}) ({gone})"


def _roll(vocabularies: Sequence[Vocabulary], scope: Scope, unfit: Unfit, shape: Callable[[str], str] = str) -> str:
    """Presence of every engine of every family that is fit."""
    parts = [_fit(_presence(v, scope, shape), v, scope, unfit, rates=False) for v in vocabularies if v.engine]
    return _either(parts, scope)


def lately_query(presence: str, scope: Scope) -> str:
    """How many engines reported at any time that a rate or a level may reach back to."""
    return (
        f"count(last_over_time({selector(presence, scope.common)}[{_duration(max(scope.window_s, scope.max_age_s))}]))"
    )


def engines_query(
    vocabularies: Sequence[Vocabulary], scope: Scope, unfit: Unfit = Unfit(), *, tell: bool = False
) -> str:
    """Engines that report, by label set and family; with `tell`, NaN where one is negative or not finite."""
    speaking = [v for v in vocabularies if v.engine]
    parts = []
    for index, vocabulary in enumerate(speaking):
        there = _fit(_presence(vocabulary, scope, str), vocabulary, scope, unfit, rates=False)
        if index:
            others = " or ".join(_presence(v, scope, str) for v in speaking[:index])
            there = f"({there}) unless on {_by(scope.targets)} ({others})"
        by = _by(scope.labels)
        count = f"sum by {by} (sqrt({there}) * 0 + 1)" if tell else f"count by {by} ({there})"
        parts.append(f'label_replace({count}, "{FAMILY_LABEL}", "{vocabulary.name}", "", "")')
    return " or ".join(parts)


def seen_query(vocabularies: Sequence[Vocabulary], scope: Scope) -> str:
    """Engines that have series at all, fit or not."""
    return f"count by {_by(scope.labels)} ({_roll(vocabularies, scope, Unfit())})"


def replicas_query(vocabularies: Sequence[Vocabulary], scope: Scope, unfit: Unfit = Unfit()) -> str:
    """Scrape targets with at least one engine that reports."""
    per_target = f"count by {_by(scope.labels, scope.targets)} ({_roll(vocabularies, scope, unfit)})"
    return f"count by {_by(scope.labels)} ({per_target})"


def oldest_query(vocabularies: Sequence[Vocabulary], scope: Scope, unfit: Unfit = Unfit()) -> str:
    """Unix time of the oldest newest-sample among the engines that report."""
    return f"min by {_by(scope.labels)} ({_roll(vocabularies, scope, unfit, 'timestamp({})'.format)})"


def rated_query(vocabularies: Sequence[Vocabulary], scope: Scope, unfit: Unfit = Unfit()) -> str | None:
    """Engines that report and have enough samples in the window for a rate (two); None when no family counts."""
    parts = []
    for vocabulary in (v for v in vocabularies if v.engine):
        signals = (s for s in (Signal.GENERATION_RATE, Signal.COMPLETION_RATE) if _plain(vocabulary, s))
        signal = next(signals, None)
        if signal is None:
            continue
        if signal is Signal.GENERATION_RATE and vocabulary.ranks:  # one series per engine: counting them is enough
            parts.append(_engines([vocabulary], signal, scope, unfit) or "")
        else:
            there = _fit(_presence(vocabulary, scope, str), vocabulary, scope, unfit, rates=False)
            value = _engines([vocabulary], signal, scope, Unfit())
            parts.append(f"({there}) and on {_by(scope.targets, vocabulary.ranks)} ({value})")
    return f"count by {_by(scope.labels)} ({_either(parts, scope)})" if parts else None


def targets_query(scope: Scope) -> str:
    """Scrape targets by label set and whether the last scrape succeeded ("0" or "1").

    Not restricted to the common labels: `up` lacks some of them (an engine's own `model_name`), and which is not known.
    """
    names = sorted({*scope.labels, *(name for name, _ in scope.common)})
    return f'count_values by {_by(names)} ("{VALUE_LABEL}", up)'


def uncovered_query(vocabulary: Vocabulary, recipe: Recipe, scope: Scope) -> str:
    """Engines that cannot answer by this recipe; an empty answer means that no later alternative is needed."""
    on = f"on {_by(scope.targets, vocabulary.ranks)}"
    have = f" and {on} ".join(selector(t.metric, t.where) for t in recipe.terms)
    return f"count(({' or '.join(vocabulary.presences)}) unless {on} ({have}))"
