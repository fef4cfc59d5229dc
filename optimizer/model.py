"""The integer program of a supply problem while it is being written: where each family of columns is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from optimizer.ladder import Held
from optimizer.problem import HOUR_S
from optimizer.program import Program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optimizer.ladder import Ladder
    from optimizer.problem import Pool, Rule
    from optimizer.program import Term
    from optimizer.worth import Wanted


@dataclass(slots=True)
class Model:
    """The program and where its parts are.

    `serving[w]` and `begun[w]` hold the columns of way w from its first period on, `opened[l]` and `bought[l]` those of
    a lot's blocks, `lacking[p][i]` those of the shortage, `missing[p, r]` the replicas below a minimum, `within[p, i]`
    what is served per domain, `across[p, i]` what crosses, `converted[p, r, v, i]` replicas ready to convert,
    `bursts[p, i]` burst capacity lacking, `gave` the violation of relaxed rules. Without `awaiting` everything that is
    starting may be given up.
    """

    ladder: Ladder
    relaxed: frozenset[Rule]
    awaiting: bool = True
    program: Program = field(default_factory=Program)
    needs: list[tuple[Wanted, ...]] = field(default_factory=list)
    serving: list[list[int]] = field(default_factory=list)
    begun: list[list[int]] = field(default_factory=list)
    opened: dict[int, list[int]] = field(default_factory=dict)
    bought: dict[int, list[int]] = field(default_factory=dict)
    lacking: list[list[list[int]]] = field(default_factory=list)
    missing: dict[tuple[int, int], int] = field(default_factory=dict)
    within: dict[tuple[int, int], dict[str, int]] = field(default_factory=dict)
    across: dict[tuple[int, int], int] = field(default_factory=dict)
    converted: dict[tuple[int, int, int, int], int] = field(default_factory=dict)
    gave: list[tuple[Rule, int]] = field(default_factory=list)
    domains: dict[int, tuple[str, ...]] = field(default_factory=dict)
    bursts: dict[tuple[int, int], int] = field(default_factory=dict)

    def at(self, i: int) -> str:
        """A time point, for names."""
        return f"@lead={self.ladder.points[i]:g}"

    def there(self, w: int, i: int) -> int | None:
        """The column of way w serving in period i; None where it cannot yet."""
        first = self.ladder.ways[w].first
        return self.serving[w][i - first] if i >= first else None

    def pending(self, w: int, i: int, seconds: float) -> Iterator[int]:
        """The columns of starts of way w under way in period i, each for `seconds` before it serves."""
        way = self.ladder.ways[w]
        for j, column in enumerate(self.begun[w], way.first):
            if j > i and self.ladder.before(j, seconds) <= i:
                yield column

    def occupied(self, w: int, i: int, each: float) -> Iterator[Term]:
        """Terms of the replicas of way w that hold GPUs in period i."""
        column = self.there(w, i)
        if column is None and self.ladder.ways[w].held is not Held.SOURCE:
            column = self.serving[w][0]
        if column is not None:
            yield column, each
        yield from ((begun, each) for begun in self.pending(w, i, self.ladder.ways[w].occupied_s))

    def asked(self, w: int, i: int, each: float) -> Iterator[Term]:
        """Terms of the replicas of way w wanted in period i: serving, or ordered by then."""
        way = self.ladder.ways[w]
        column = self.there(w, i)
        if column is None and way.held is not Held.SOURCE:
            column = self.serving[w][0]
        if column is not None:
            yield column, each
        yield from ((begun, each) for begun in self.pending(w, i, way.lead_s))

    def counted(self, w: int, i: int) -> int:
        """The column that counts for a minimum in period i: what serves then, or as soon as the way can serve.

        Pending starts would not do: they are only bounded from below, and a start that never serves is cheap.
        """
        return self.serving[w][max(0, i - self.ladder.ways[w].first)]

    def firm(self, p: int, r: int) -> bool:
        """Whether everything starting for a role has to be awaited: unless a bound lies below what is asked for."""
        ways = (self.ladder.ways[w] for w in self.of_role(p, r))
        asked = sum(way.cap for way in ways if way.held is not Held.SOURCE)
        maximum = self.ladder.problem.pools[p].roles[r].maximum
        return self.awaiting and asked <= maximum and not self.ladder.over_budget

    def of_role(self, p: int, r: int) -> list[int]:
        """The ways of one role."""
        return [w for w in self.ladder.of[p] if self.ladder.ways[w].role == r]


def minimum_price(ladder: Ladder) -> float:
    """Penalty for one replica below a minimum: dearer than any replica, its block and all shortage it could serve."""
    hours = ladder.problem.horizon_s / HOUR_S
    worst = [one.shortage_price for pool in ladder.problem.pools for one in pool.classes]
    lack = max(worst, default=0.0) * max((way.capacity for way in ladder.ways), default=0.0) * hours
    way = max((w.hour_price * hours + w.start_price + w.release_price for w in ladder.ways), default=0.0)
    block = max((b.hold_price * max(hours, b.min_hold_s / HOUR_S) + b.open_price for b in ladder.lots), default=0.0)
    widest = max((w.gpus for w in ladder.ways), default=1)
    return 2.0 * widest * (lack + way + block + 1.0)


def role_name(pool: Pool, r: int) -> str:
    """A role in the names of constraints."""
    return f"{pool.key}/{pool.roles[r].key}" if pool.roles[r].key else pool.key


def gives(model: Model, rule: Rule) -> int:
    """A column for how far a relaxed rule gives way."""
    column = model.program.column(f"gave[{rule},{len(model.gave)}]")
    model.gave.append((rule, column))
    return column
