"""A supply problem: who needs capacity, who can give it, by which rules; and `check` for its faults.

Units of measure, everywhere in this package: time in seconds, prices in one currency, demand in the need's own capacity
unit per need (say tokens/s), GPUs and units as whole numbers. Nothing here knows what a unit serves.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class ProblemError(ValueError):
    """The problem contradicts itself; `faults` holds one sentence for each contradiction."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Demand(NamedTuple):
    """Demand from `at_s` seconds ahead until the next point; the first point also holds before its own time."""

    at_s: float
    amount: float


class Starting(NamedTuple):
    """Units asked for earlier that have not arrived; all of them should serve `lands_in_s` seconds from now."""

    units: int
    lands_in_s: float


@dataclass(frozen=True, slots=True)
class Need:
    """One consumer of capacity that grows and shrinks in whole units.

    Attributes:
        key: unique name, used in every constraint name and sentence.
        resource: the kind of GPU a unit runs on; only sources of the same kind serve it.
        demand: what has to be served at each time point. A tier with a lead time of 300 s can only help from then on,
            so give the load expected 300 s ahead at that point: each tier is then ordered on the load at its own lead
            time.
        unit_capacity: demand that one unit serves.
        gpus_per_unit: GPUs of one unit.
        current: units that have arrived.
        starting: units asked for that have not arrived; they count from the time they land and are never ordered again.
        minimum, maximum: bounds on the units wanted.
        shortage_price: price of lacking one unit's worth of capacity for one hour.
        price_per_gpu_hour: what a GPU of an arrived or starting unit costs, thus what its release saves.
    """

    key: str
    resource: str
    demand: tuple[Demand, ...]
    unit_capacity: float
    gpus_per_unit: int
    current: int
    minimum: int
    maximum: int
    shortage_price: float
    starting: tuple[Starting, ...] = ()
    price_per_gpu_hour: float = 1.0


@dataclass(frozen=True, slots=True)
class Source:
    """One stock of GPUs that can be turned into units after a lead time.

    Attributes:
        key: unique name.
        tier: the rung of the supply ladder it belongs to, as the caller names it (start, preempt, provision, ...).
        resource: kind of GPU.
        gpus: GPUs in stock; None where the supply is not limited.
        lead_s: seconds from the order until the unit serves.
        price_per_gpu_hour: price of holding one of its GPUs.
        one_off_price: price per GPU due once, at the order (lost training work and requeue, minimum billing of a node).
        granularity: GPUs that come only together (a training gang, a node). All of an opened block are paid for.
            Blocks are pooled: a unit may draw GPUs from two of them.
        preempts: taking from it takes from somebody else; `Rules.max_gpus_preempted` limits the sum.
        only_for: keys of the needs that may use it; empty means every need of the same resource.
    """

    key: str
    tier: str
    resource: str
    gpus: int | None
    lead_s: float
    price_per_gpu_hour: float = 1.0
    one_off_price: float = 0.0
    granularity: int = 1
    preempts: bool = False
    only_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits over all needs together.

    Attributes:
        budget_per_hour: most that all GPUs held may cost per hour, one-off prices apart; None for no limit.
        max_gpus_preempted: most GPUs taken from sources that preempt; None for no limit.
        churn_price: price of moving one unit in either direction. Small: it settles ties in favour of leaving things
        be.
    """

    budget_per_hour: float | None = None
    max_gpus_preempted: int | None = None
    churn_price: float = 0.001


@dataclass(frozen=True, slots=True)
class Problem:
    """Needs, sources and rules, judged over the next `horizon_s` seconds.

    Every unit kept or taken is paid until the horizon, and every shortage before it is paid for as long as it lasts. A
    source whose lead time is not below the horizon never pays for itself: it is used for minimums only.
    """

    needs: tuple[Need, ...]
    sources: tuple[Source, ...]
    rules: Rules = Rules()
    horizon_s: float = 3600.0


def _count(value: object, least: int = 0) -> bool:
    """Whether the value is a whole number not below `least` (floats and NaN are not)."""
    return isinstance(value, Integral) and int(value) >= least


def _amount(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _check_demand(name: str, demand: tuple[Demand, ...]) -> Iterator[str]:
    previous = -1.0
    for at_s, amount in demand:
        if not _amount(at_s) or at_s <= previous:
            yield f"{name}: demand time {at_s} must be finite, not negative and after the one before"
        if not _amount(amount):
            yield f"{name}: demand {amount} at {at_s} s must be finite and not negative"
        previous = at_s


def _check_starting(name: str, starting: tuple[Starting, ...]) -> Iterator[str]:
    for units, lands_in_s in starting:
        if not _count(units):
            yield f"{name}: starting units {units} must be a whole number, not negative"
        if not _amount(lands_in_s):
            yield f"{name}: starting units land in {lands_in_s} s; must be finite and not negative"


def _check_need(need: Need) -> Iterator[str]:
    name = f"need {need.key!r}"
    if not need.demand:
        yield f"{name}: demand is empty; give at least one time point"
    yield from _check_demand(name, need.demand)
    if not (math.isfinite(need.unit_capacity) and need.unit_capacity > 0):
        yield f"{name}: unit_capacity {need.unit_capacity} must be finite and above 0"
    if not _count(need.gpus_per_unit, 1):
        yield f"{name}: gpus_per_unit {need.gpus_per_unit} must be a whole number of at least 1"
    counts = (("current", need.current), ("minimum", need.minimum), ("maximum", need.maximum))
    for field, count in counts:
        if not _count(count):
            yield f"{name}: {field} {count} must be a whole number, not negative"
    if need.minimum > need.maximum:
        yield f"{name}: minimum {need.minimum} is above maximum {need.maximum}"
    yield from _check_starting(name, need.starting)
    prices = (("shortage_price", need.shortage_price), ("price_per_gpu_hour", need.price_per_gpu_hour))
    for field, price in prices:
        if not _amount(price):
            yield f"{name}: {field} {price} must be finite and not negative"


def _check_source(source: Source, keys: frozenset[str]) -> Iterator[str]:
    name = f"source {source.key!r}"
    if source.gpus is not None and not _count(source.gpus):
        yield f"{name}: gpus {source.gpus} must be a whole number, not negative, or None for no limit"
    if not _count(source.granularity, 1):
        yield f"{name}: granularity {source.granularity} must be a whole number of at least 1"
    amounts = (
        ("lead_s", source.lead_s),
        ("price_per_gpu_hour", source.price_per_gpu_hour),
        ("one_off_price", source.one_off_price),
    )
    for field, amount in amounts:
        if not _amount(amount):
            yield f"{name}: {field} {amount} must be finite and not negative"
    for key in source.only_for:
        if key not in keys:
            yield f"{name}: only_for names {key!r}, which is no need"


def _check_rules(problem: Problem) -> Iterator[str]:
    rules = problem.rules
    if rules.budget_per_hour is not None and not _amount(rules.budget_per_hour):
        yield f"rules: budget_per_hour {rules.budget_per_hour} must be finite and not negative, or None"
    if rules.max_gpus_preempted is not None and not _count(rules.max_gpus_preempted):
        yield f"rules: max_gpus_preempted {rules.max_gpus_preempted} must be a whole number, not negative, or None"
    if not _amount(rules.churn_price):
        yield f"rules: churn_price {rules.churn_price} must be finite and not negative"
    if not (math.isfinite(problem.horizon_s) and problem.horizon_s > 0):
        yield f"horizon_s {problem.horizon_s} must be finite and above 0"


def _twice(kind: str, keys: list[str]) -> Iterator[str]:
    for key, count in Counter(keys).items():
        if count > 1:
            yield f"{kind} {key!r} is given {count} times; keys must be unique"
        if not key:
            yield f"a {kind} has an empty key"


def check(problem: Problem) -> tuple[str, ...]:
    """Name every inconsistency of the problem, one sentence each; empty when there is none."""
    keys = [need.key for need in problem.needs]
    known = frozenset(keys)
    faults = [*_check_rules(problem), *_twice("need", keys), *_twice("source", [s.key for s in problem.sources])]
    for source in problem.sources:
        faults.extend(_check_source(source, known))
    supplied = {source.resource for source in problem.sources}
    for need in problem.needs:
        faults.extend(_check_need(need))
        if need.resource not in supplied:
            faults.append(
                f"need {need.key!r}: no source offers resource {need.resource!r}; give one, with 0 GPUs if need be"
            )
    return tuple(faults)
