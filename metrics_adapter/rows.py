"""From rows of a query result to one value per group: dictionary look-ups, whatever the number of groups.

A query returns one row per combination of the label values that groups are told apart by. A group may match on fewer
labels than a row has; then several rows are its own, and they are merged.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from metrics_adapter.queries import FAMILY_LABEL, VALUE_LABEL
from metrics_adapter.signals import Reading, Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from metrics_adapter.signals import Group

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One element of an instant vector.

    Attributes:
        labels: as returned.
        value: the sample; may be NaN.
    """

    labels: Mapping[str, str]
    value: float


def parse(result: Any) -> list[Row]:
    """The rows of an instant vector.

    Raises:
        ValueError: the result is not one.
    """
    try:
        return [Row(item["metric"], float(item["value"][1])) for item in result]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"the answer is not an instant vector: {str(result)[:80]}") from error


class Join:
    """Knows which rows belong to which group.

    Groups that match on the same label names share one index, so joining costs rows x distinct label sets.
    """

    def __init__(self, groups: Sequence[Group], names: Collection[str]) -> None:
        """Match on those of these label names that a group matches on; a group with none of them takes every row."""
        self._wanted: dict[Key, dict[Key, list[str]]] = defaultdict(lambda: defaultdict(list))
        for group in groups:
            wanted = tuple(sorted(name for name in group.match if name in names))
            self._wanted[wanted][tuple(group.match[name] for name in wanted)].append(group.key)

    def __call__(self, rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
        """Pairs of group key and row."""
        for row in rows:
            for names, values in self._wanted.items():
                for key in values.get(tuple(row.labels.get(name, "") for name in names), ()):
                    yield key, row


def merged(pairs: Iterable[tuple[str, Row]], merge: Callable[[float, float], float]) -> dict[str, float]:
    """Group key -> its rows' values merged two at a time; values that are not finite are left out."""
    out: dict[str, float] = {}
    for key, row in pairs:
        if math.isfinite(row.value):
            out[key] = merge(out[key], row.value) if key in out else row.value
    return out


def add(a: float, b: float) -> float:
    """Sum of two rows."""
    return a + b


def weighted_mean(pairs: Iterable[tuple[str, Row]], weight: Callable[[Row], float]) -> dict[str, float]:
    """Group key -> mean of its rows weighted by `weight`; rows without weight or value are left out."""
    total: dict[str, float] = defaultdict(float)
    weights: dict[str, float] = defaultdict(float)
    for key, row in pairs:
        share = weight(row)
        if share > 0 and math.isfinite(row.value):
            total[key] += row.value * share
            weights[key] += share
    return {key: total[key] / weights[key] for key in total}


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything one look returned; None for what was not asked or failed.

    Attributes:
        engines: engines that report, by label set and family.
        seen: engines that have series, fit or not; None when all of them are fit.
        oldest: Unix time of the oldest newest-sample among those that report.
        replicas: scrape targets behind them.
        rated: those of them that have rates.
        targets: scrape targets by label set and "0" or "1" for the last scrape.
        capacity: engines per combination of KV capacity labels.
        products: label combinations that make up a KV capacity, most trusted first.
        signals: rows per signal; KV_CAPACITY has the value in a label and the engines that have it as its value.
    """

    engines: Sequence[Row] | None = None
    seen: Sequence[Row] | None = None
    oldest: Sequence[Row] | None = None
    replicas: Sequence[Row] | None = None
    rated: Sequence[Row] | None = None
    targets: Sequence[Row] | None = None
    capacity: Sequence[Row] | None = None
    products: Sequence[tuple[str, ...]] = ()
    signals: Mapping[Signal, Sequence[Row]] = field(default_factory=dict)


def assemble(groups: Sequence[Group], labels: Collection[str], tables: Tables) -> dict[str, Reading]:
    """One reading per group, from rows told apart by these labels."""
    join = Join(groups, labels)
    reporting = merged(join(tables.engines or ()), add)
    seen = merged(join(tables.seen or ()), add)
    oldest = merged(join(tables.oldest or ()), min)
    replicas = merged(join(tables.replicas or ()), add)
    rated = merged(join(tables.rated or ()), add)
    families: dict[str, dict[str, None]] = defaultdict(dict)
    for key, row in join(tables.engines or ()):
        families[key][row.labels.get(FAMILY_LABEL, "")] = None
    signals = _signals(join, tables)
    targets = _targets(groups, tables.targets)
    readings = {}
    for group in groups:
        key = group.key
        count = round(reporting.get(key, 0))
        known, up = targets.get(key, (None, None))
        readings[key] = Reading(
            key=key,
            # without an engine that reports, only what stands in front of engines has anything to say
            signals={s: v[key] for s, v in signals.items() if key in v and (count or s is Signal.GATEWAY_QUEUE)},
            sampled_at=oldest.get(key),
            reporting=count,
            replicas_reporting=round(replicas.get(key, 0)),
            targets=known,
            targets_up=up,
            stale=max(0, round(seen.get(key, count)) - count),
            engines=tuple(families[key]) if key in families else (),
            rate_engines=round(rated.get(key, 0)),
        )
    return readings


def _signals(join: Join, tables: Tables) -> dict[Signal, dict[str, float]]:
    """Signal -> group key -> value; rates made of differences are not below 0."""
    engines: dict[frozenset[tuple[str, str]], float] = defaultdict(float)
    for row in tables.engines or ():
        engines[_place(row)] += row.value
    out: dict[Signal, dict[str, float]] = {}
    for signal, rows in tables.signals.items():
        if signal is Signal.KV_USAGE:
            out[signal] = weighted_mean(join(rows), lambda row: engines[_place(row)])
        elif signal is Signal.KV_USAGE_MAX:
            out[signal] = merged(join(rows), max)
        elif signal is not Signal.KV_CAPACITY:
            out[signal] = {key: max(0.0, value) for key, value in merged(join(rows), add).items()}
    counted = [(row, _number(row.labels.get(VALUE_LABEL, ""))) for row in tables.signals.get(Signal.KV_CAPACITY, ())]
    counted += [(row, _product(row, tables.products)) for row in tables.capacity or ()]
    weights = [(Row(row.labels, value), row.value) for row, value in counted if value is not None and value > 0]
    share = {id(row): weight for row, weight in weights}
    capacity = weighted_mean(join(row for row, _ in weights), lambda row: share[id(row)])
    if capacity:
        out[Signal.KV_CAPACITY] = capacity
    return out


def _place(row: Row) -> frozenset[tuple[str, str]]:
    return frozenset(pair for pair in row.labels.items() if pair[0] not in {FAMILY_LABEL, VALUE_LABEL})


def _number(text: str) -> float | None:
    """A label's value as a number; vLLM writes "None" for what is not set."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _product(row: Row, products: Sequence[tuple[str, ...]]) -> float | None:
    for names in products:
        values = [_number(row.labels.get(name, "")) for name in names]
        if all(value is not None and value > 0 for value in values):
            return math.prod(value for value in values if value is not None)
    return None


def _targets(groups: Sequence[Group], rows: Sequence[Row] | None) -> dict[str, tuple[int, int]]:
    """Group key -> (known, up), for the groups with a match label that scrape targets have."""
    if rows is None:
        return {}
    present = {name for row in rows for name, value in row.labels.items() if value and name != VALUE_LABEL}
    tellable = [group for group in groups if not group.match or any(name in present for name in group.match)]
    join = Join(tellable, present)
    known = merged(join(rows), add)
    up = merged(join(row for row in rows if row.labels.get(VALUE_LABEL) == "1"), add)
    return {group.key: (round(known.get(group.key, 0)), round(up.get(group.key, 0))) for group in tellable}
