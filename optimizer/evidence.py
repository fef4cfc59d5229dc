"""Why a plan is what it is: its cost by what is paid for, and the constraints that bind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimizer.ladder import Held

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optimizer.model import Model
    from optimizer.program import Term

TOLERANCE = 1e-6
HALF = 0.5
"""Whole numbers come back from the solver a hair off."""
LIMITS = (
    "stock[",
    "budget",
    "quota[",
    "max_gpus_preempted",
    "disruption[",
    "waves[",
    "maximum[",
    "cross[",
    "link[",
    "ratio_most[",
    "ratio_least[",
    "order[",
)
"""Rows that stand in somebody's way when there is no room left in them."""
OVER_ALL = ("order[", "disruption[", "max_gpus_preempted", "budget")
"""Those that blocks are in, which belong to no pool."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Price of a plan until the horizon, in the problem's currency, split by what it is paid for.

    `held` is GPU time, `one_off` what is due at an order (lost training work, requeue, purchases, minimum billing
    beyond the horizon), `shortage` lacking capacity, bursts included, `cross` pairs across domains, `converted`
    replicas kept ready to convert, `released` the state that goes with released replicas, and churn, `below_minimum`
    the penalty for minimums that could not be met.
    """

    held: float = 0.0
    one_off: float = 0.0
    shortage: float = 0.0
    cross: float = 0.0
    converted: float = 0.0
    released: float = 0.0
    below_minimum: float = 0.0

    @property
    def total(self) -> float:
        """Everything together: the objective that the plan minimises."""
        parts = (self.held, self.one_off, self.shortage, self.cross, self.converted, self.released)
        return sum(parts) + self.below_minimum

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


PARTS = {"x": "held", "n": "held", "u": "one_off", "b": "one_off", "y": "shortage", "z": "shortage", "c": "cross"}


def cost(model: Model, values: Sequence[float]) -> Cost:
    """The price of a point, split."""
    program = model.program
    parts = dict.fromkeys(Cost.__slots__, 0.0)
    for name, price, value in zip(program.names, program.cost, values, strict=True):
        if value and price:
            stem = name.partition("[")[0]
            part = PARTS.get(stem, "converted" if stem == "convert" else "below_minimum")
            parts[part] += price * value
    for w, way in enumerate(model.ladder.ways):
        if way.held is not Held.SOURCE:
            last = values[model.serving[w][-1]]
            parts["held"] += way.release_price * last
            parts["released"] += way.release_price * (way.cap - last)
    return Cost(**parts)


def _unserved(model: Model, values: Sequence[float]) -> set[int]:
    """Pools that lack something, or had to take what is dear."""
    wanting = {
        p for p, periods in enumerate(model.lacking) if any(values[c] > TOLERANCE for row in periods for c in row)
    }
    wanting |= {p for (p, _), column in model.missing.items() if values[column] > TOLERANCE}
    wanting |= {way.pool for w, way in enumerate(model.ladder.ways) if any(values[c] > HALF for c in model.begun[w])}
    wanting |= {p for (p, _), column in model.across.items() if values[column] > TOLERANCE}
    return wanting


def _tight(model: Model, values: Sequence[float]) -> Iterator[tuple[str, int]]:
    """Limits with no room for one more of anything in them."""
    program = model.program
    for row, name in enumerate(program.rows):
        if not name.startswith(LIMITS):
            continue
        terms = program.terms(row)
        room = program.most[row] - sum(value * values[column] for column, value in terms)
        room += sum(-value * (program.upper[column] - values[column]) for column, value in _closed(model, terms))
        least = min((value for _, value in terms if value > 0), default=0.0)
        if room < least - TOLERANCE:
            yield name, row


def _closed(model: Model, terms: Sequence[Term]) -> list[Term]:
    """The blocks in a stock row: what is not open yet is room too."""
    blocks = {column for columns in model.opened.values() for column in columns}
    return [(column, value) for column, value in terms if value < 0 and column in blocks]


def _sizing(model: Model, values: Sequence[float]) -> Iterator[str]:
    """For each role the time point that sets its size: the most demanding that one replica fewer would leave short."""
    for p, pool in enumerate(model.ladder.problem.pools):
        for r, role in enumerate(pool.roles):
            tight: list[tuple[float, int]] = []
            ways = model.of_role(p, r)
            for i, need in enumerate(model.needs[p]):
                have = [(w, values[c]) for w in ways if (c := model.there(w, i)) is not None and values[c] > HALF]
                capacity = sum(model.ladder.ways[w].capacity * count for w, count in have)
                least = min((model.ladder.ways[w].capacity for w, _ in have), default=0.0)
                if need.amount > TOLERANCE and have and capacity - least < need.amount - TOLERANCE:
                    tight.append((-need.amount, i))
            name = f"{pool.key}/{role.key}" if role.key else pool.key
            if tight:
                yield f"capacity[{name}{model.at(min(tight)[1])}]"
            elif model.ladder.minimums[p][r]:
                yield f"minimum[{name}]"


def _family(name: str) -> str:
    """A row's name without its time point."""
    head, _, _ = name.partition("@lead=")
    return head + "]" if "[" in head else head


def binding(model: Model, values: Sequence[float]) -> tuple[str, ...]:
    """Names of the constraints that made the plan what it is: sizes first, then limits without room left."""
    names = dict.fromkeys(_sizing(model, values))
    wanting = _unserved(model, values)
    owner = {c: way.pool for w, way in enumerate(model.ladder.ways) for c in (*model.serving[w], *model.begun[w])}
    owner |= {column: p for (p, _), column in model.across.items()}
    for name, row in _tight(model, values):
        shared = bool(wanting) and name.startswith(OVER_ALL)
        if shared or any(owner.get(column) in wanting for column, _ in model.program.terms(row)):
            names[_family(name)] = None
    return tuple(names)
