"""A linear program with whole numbers, while it is being written: columns and rows as arrays, every one with its name.

Both doors to the solver read it: PuLP for programs a person wants to look at, and HiGHS's own arrays, which take a
hundredth of the time to hand over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Term = tuple[int, float]
"""A column and its coefficient."""
INF = float("inf")


@dataclass(slots=True)
class Program:
    """Minimise `cost` over the columns, each within its bounds, each row within its own.

    The rows are stored one after the other: row r has the entries `starts[r]` to `starts[r + 1]` of `index`, `value`.
    """

    names: list[str] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    index: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    constant: float = 0.0

    def column(
        self, name: str, *, upper: float = INF, lower: float = 0.0, cost: float = 0.0, whole: bool = False
    ) -> int:
        """Add a variable; its number."""
        self.names.append(name)
        self.lower.append(lower)
        self.upper.append(upper)
        self.cost.append(cost)
        self.whole.append(whole)
        return len(self.names) - 1

    def row(self, name: str, terms: Sequence[Term], *, least: float = -INF, most: float = INF) -> None:
        """Add the constraint `least <= terms <= most` under its name; no column may be in it twice."""
        self.rows.append(name)
        self.least.append(least)
        self.most.append(most)
        if terms:
            columns, coefficients = zip(*terms, strict=True)
            self.index.extend(columns)
            self.value.extend(coefficients)
        self.starts.append(len(self.index))

    def terms(self, row: int) -> list[Term]:
        """The entries of one row."""
        span = slice(self.starts[row], self.starts[row + 1])
        return list(zip(self.index[span], self.value[span], strict=True))

    def worth(self, values: Sequence[float]) -> float:
        """The objective at a point."""
        return self.constant + sum(cost * value for cost, value in zip(self.cost, values, strict=True) if value)
