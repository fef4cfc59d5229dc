"""The program over all units at once: one path for each, and the supply that all share (Dantzig and Wolfe 1960).

Columns: one for each path of a unit; `held` and `begun` for each lane (a kind of supply on one shelf) and period; the
program's own columns of opened and bought blocks. Rows: every shared row of the program, with what existing replicas
and lanes occupy; `hold`: what paths hold of a kind lies on its lanes; `start`: every start of a path is a start on some
lane; `flow`: what a lane holds more than before was begun on it; `one`: each unit takes one path.

Lanes serve all units alike, so which unit's replica lies where is settled afterwards: a relaxation, as are the prices
that its dual values put on what units take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import highspy
import numpy as np

from optimizer.ladder import Held
from optimizer.pricing import NEVER, Prices
from optimizer.program import INF, Program
from optimizer.solve import arrays, quiet
from optimizer.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.point import Open
    from optimizer.pricing import Path
    from optimizer.program import Term
    from optimizer.units import Unit

    Floats = NDArray[np.float64]

SHARED = ("stock[", "budget", "quota[", "max_gpus_preempted", "disruption[", "order[", "opened[", "billed[", "rested[")
"""Rows over several pools, or over blocks, which belong to none."""
SLACK = 1e-6


class Lane(NamedTuple):
    """A way of one pool that stands for those of all pools like it, and its columns of `held` and `begun`."""

    kind: int
    way: int
    first: int
    held: tuple[int, ...]
    begun: tuple[int, ...]


class Shared:
    """Entries of the program's columns in its shared rows."""

    def __init__(self, program: Program) -> None:
        picked = [row for row, name in enumerate(program.rows) if name.startswith(SHARED)]
        self.rows = picked
        number = np.full(len(program.rows), -1)
        number[picked] = np.arange(len(picked))
        of = np.repeat(number, np.diff(np.asarray(program.starts)))
        inside = of >= 0
        columns = np.asarray(program.index, dtype=np.int64)[inside]
        order = np.argsort(columns, kind="stable")
        self.row = of[inside][order]
        self.value = np.asarray(program.value)[inside][order]
        self.begin = np.searchsorted(columns[order], np.arange(len(program.names) + 1)).tolist()
        self.known: dict[int, list[Term]] = {}

    def terms(self, column: int) -> list[Term]:
        """(shared row, coefficient) of a column."""
        if column not in self.known:
            span = slice(self.begin[column], self.begin[column + 1])
            self.known[column] = list(zip(self.row[span].tolist(), self.value[span].tolist(), strict=True))
        return self.known[column]


class Master:
    """The program over all units while columns are being added to it."""

    def __init__(
        self, model: Model, units: Sequence[Unit], kinds: Sequence[Sequence[int]], watch: Watch | None = None
    ) -> None:
        self.model, self.units = model, units
        self.watch = watch or Watch(INF)
        self.periods = len(model.ladder.points)
        self.shared = Shared(model.program)
        self.paths: list[tuple[int, Path]] = []
        self.known: set[tuple[object, ...]] = set()
        self.takes: dict[tuple[int, tuple[int, ...]], list[Term]] = {}
        self.kinds = kinds
        self.blocks: dict[int, int] = {}
        self.lanes: list[Lane] = []
        self.place: dict[int, int] = {}
        self.bound: set[int] = set()
        self._existing()
        self.program = self._written()
        self.solver = quiet()
        lp = arrays(self.program)
        self.whole = [n for n, whole in enumerate(self.program.whole) if whole]
        lp.integrality_ = []
        self.solver.passModel(lp)

    def _existing(self) -> None:
        """Existing ways: their own price in each period, and their entries in the shared rows."""
        ladder = self.model.ladder
        self.old = [w for w, way in enumerate(ladder.ways) if way.held is not Held.SOURCE]
        self.row_of = {w: n for n, w in enumerate(self.old)}
        self.release = np.asarray([ladder.ways[w].release_price for w in self.old])
        self.bare = np.full((len(self.old), self.periods), NEVER)
        entries: list[tuple[int, int, float]] = []
        for n, w in enumerate(self.old):
            way = ladder.ways[w]
            self.bare[n, way.first :] = way.hour_price * np.asarray(ladder.hours[way.first :])
            for i, column in enumerate(self.model.serving[w], way.first):
                entries.extend((n * self.periods + i, row, value) for row, value in self.shared.terms(column))
        of, row, value = zip(*entries, strict=True) if entries else ((), (), ())
        self.of, self.row = np.asarray(of, dtype=np.int64), np.asarray(row, dtype=np.int64)
        self.value = np.asarray(value, dtype=np.float64)

    def _written(self) -> Program:
        """The program without paths: rows are collected by column first, then written."""
        source, program = self.model.program, Program()
        rows: list[list[Term]] = [[] for _ in self.shared.rows]
        shape = (len(self.kinds), self.periods)
        hold: dict[tuple[int, int], list[Term]] = {(c, i): [] for c in range(shape[0]) for i in range(shape[1])}
        start: dict[tuple[int, int], list[Term]] = {key: [] for key in hold}
        flows: list[list[Term]] = []
        for column in (c for columns in (*self.model.opened.values(), *self.model.bought.values()) for c in columns):
            self.blocks[column] = self._column(program, column, rows, source.upper[column], source.lower[column])
        for kind, ways in enumerate(self.kinds):
            for n, w in enumerate(ways):
                self.place[w] = n
                lane, flow = self._lane(program, kind, w, rows)
                self.lanes.append(lane)
                flows.extend(flow)
                for i, (held, begun) in enumerate(zip(lane.held, lane.begun, strict=True), lane.first):
                    hold[kind, i].append((held, 1.0))
                    start[kind, i].append((begun, 1.0))
        for row, terms in zip(self.shared.rows, rows, strict=True):
            program.row(source.rows[row], terms, least=source.least[row], most=source.most[row])
        for (c, i), terms in hold.items():
            program.row(f"hold[{c},{i}]", terms, least=0.0)
        for (c, i), terms in start.items():
            program.row(f"start[{c},{i}]", terms, least=0.0)
        for n in range(len(self.units)):
            program.row(f"one[{n}]", (), least=1.0, most=1.0)
        for n, terms in enumerate(flows):
            program.row(f"flow[{n}]", terms, most=0.0)
        program.constant = 0.0
        return program

    def _lane(self, program: Program, kind: int, w: int, rows: list[list[Term]]) -> tuple[Lane, list[list[Term]]]:
        """A lane, and the entries of its `flow` rows."""
        held: list[int] = []
        begun: list[int] = []
        flows: list[list[Term]] = []
        for x, u in zip(self.model.serving[w], self.model.begun[w], strict=True):
            earlier = [(held[-1], -1.0)] if held else []
            held.append(self._column(program, x, rows, INF))
            begun.append(self._column(program, u, rows, INF))
            flows.append([(held[-1], 1.0), *earlier, (begun[-1], -1.0)])
        return Lane(kind, w, self.model.ladder.ways[w].first, tuple(held), tuple(begun)), flows

    def _column(self, program: Program, column: int, rows: list[list[Term]], upper: float, lower: float = 0.0) -> int:
        source = self.model.program
        number = program.column(
            source.names[column], upper=upper, lower=lower, cost=source.cost[column], whole=source.whole[column]
        )
        for row, value in self.shared.terms(column):
            rows[row].append((number, value))
        return number

    def add(self, found: Sequence[tuple[int, Path]]) -> int:
        """Add paths of units as columns; how many were new."""
        cost: list[float] = []
        starts: list[int] = []
        index: list[int] = []
        value: list[float] = []
        for unit, path in found:
            key = (unit, path.new, *sorted(path.kept.items()))
            if key in self.known:
                continue
            self.known.add(key)
            self.paths.append((unit, path))
            cost.append(path.cost)
            starts.append(len(index))
            for row, amount in sorted(self._entries(unit, path).items()):
                index.append(row)
                value.append(amount)
        if cost:
            count = len(cost)
            self.solver.addCols(
                count,
                np.asarray(cost),
                np.zeros(count),
                np.full(count, INF),
                len(index),
                np.asarray(starts, dtype=np.int32),
                np.asarray(index, dtype=np.int32),
                np.asarray(value),
            )
        return len(cost)

    def occupied(self, path: Path) -> dict[int, float]:
        """What the existing replicas of a path take in the shared rows."""
        found: dict[int, float] = {}
        for kept in path.kept.items():
            if kept not in self.takes:
                self.takes[kept] = self._takes(*kept)
            for row, amount in self.takes[kept]:
                found[row] = found.get(row, 0.0) + amount
        return found

    def _takes(self, w: int, numbers: Sequence[int]) -> list[Term]:
        """What so many replicas of an existing way take in each shared row."""
        found: dict[int, float] = {}
        first = self.model.ladder.ways[w].first
        for column, count in zip(self.model.serving[w], numbers[first:], strict=True):
            for row, each in self.shared.terms(column) if count else ():
                found[row] = found.get(row, 0.0) + each * count
        return list(found.items())

    def ways(self, unit: Unit, v: int) -> list[int]:
        """The source ways of a variant of a unit, in the order of its kind's lanes."""
        ways = self.model.ladder.ways
        mine = self.model.of_role(unit.pool, unit.role)
        return [w for w in mine if ways[w].variant == v and ways[w].held is Held.SOURCE]

    def _entries(self, unit: int, path: Path) -> dict[int, float]:
        found = self.occupied(path)
        base = len(self.shared.rows)
        step = len(self.kinds) * self.periods
        for v, numbers in enumerate(path.new):
            kind, before = self.units[unit].kinds[v], 0
            for i, count in enumerate(numbers):
                if kind is not None and count:
                    row = base + kind * self.periods + i
                    found[row] = found.get(row, 0.0) - count
                    if count > before:
                        found[row + step] = found.get(row + step, 0.0) - (count - before)
                before = count
        found[base + 2 * step + unit] = 1.0
        return found

    def relaxed(self) -> tuple[float, Floats, Floats] | None:
        """Objective, dual values of the rows and values of the columns with fractions; None out of time."""
        self.watch.run(self.solver)
        if self.solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            return None
        solution = self.solver.getSolution()
        return (
            self.solver.getInfo().objective_function_value,
            np.asarray(solution.row_dual),
            np.asarray(solution.col_value),
        )

    def fix(self, opened: Open) -> None:
        """Take the blocks of every lot as given from now on."""
        for lot, numbers in opened.items():
            for column, number in zip(self.model.opened[lot], numbers, strict=True):
                self.solver.changeColBounds(self.blocks[column], float(number), float(number))

    def undecided(self, values: Floats) -> int | None:
        """The path followed most by the units that follow several; None where there are none."""
        shares = values[len(self.program.names) :]
        shares = np.where(shares < 1.0 - SLACK, shares, 0.0)
        return int(shares.argmax()) if shares.max() > SLACK else None

    def bind(self, path: int, share: float) -> None:
        """Have a path followed altogether, or not at all."""
        self.bound.add(path)
        column = len(self.program.names) + path
        self.solver.changeColBounds(column, share, share)

    def unbind(self) -> None:
        """Leave all paths open again."""
        for path in sorted(self.bound):
            self.solver.changeColBounds(len(self.program.names) + path, 0.0, INF)
        self.bound.clear()

    def reduced(self, duals: Floats) -> Floats:
        """What each path costs beyond its unit's best at these dual values."""
        lp = self.solver.getLp()
        starts = np.asarray(lp.a_matrix_.start_)[len(self.program.names) :]
        index, value = np.asarray(lp.a_matrix_.index_), np.asarray(lp.a_matrix_.value_)
        sums = np.concatenate(([0.0], np.cumsum(duals[index] * value)))
        found: Floats = np.asarray(lp.col_cost_)[len(self.program.names) :] - np.diff(sums[starts])
        return found

    def prices(self, duals: Floats) -> Prices:
        """What units pay at these dual values."""
        base, step = len(self.shared.rows), len(self.kinds) * self.periods
        shape = (len(self.kinds), self.periods)
        shared = duals[:base]
        charges = np.bincount(self.of, weights=-shared[self.row] * self.value, minlength=self.bare.size)
        all_prices = np.maximum(self.bare + charges.reshape(self.bare.shape), 0.0)
        existing = np.concatenate((all_prices, np.full((1, self.periods), np.inf)))
        hold = np.maximum(duals[base : base + step], 0.0).reshape(shape)
        start = np.maximum(duals[base + step : base + 2 * step], 0.0).reshape(shape)
        return Prices(hold, start, existing, all_prices.sum(axis=1) - self.release)

    def own_bound(self, duals: Floats) -> float:
        """The part of the Lagrangian bound that is not the units': right sides, and columns worth having."""
        base, step = len(self.shared.rows), len(self.kinds) * self.periods
        program = self.program
        least, most = np.asarray(program.least), np.asarray(program.most)
        duals = duals.copy()
        duals[base : base + 2 * step] = np.maximum(duals[base : base + 2 * step], 0.0)
        duals[base + 2 * step : base + 2 * step + len(self.units)] = 0.0
        duals = np.where((duals > 0) & (least == -INF), 0.0, duals)
        duals = np.where((duals < 0) & (most == INF), 0.0, duals)
        side = np.where(duals > 0, least, np.where(duals < 0, most, 0.0))
        total = float(duals @ np.where(duals == 0, 0.0, side))
        reduced = np.asarray(program.cost)
        of = np.repeat(np.arange(len(program.rows)), np.diff(np.asarray(program.starts)))
        np.subtract.at(reduced, np.asarray(program.index, dtype=np.int64), duals[of] * np.asarray(program.value))
        upper = np.where(np.isinf(program.upper), np.where(reduced < -SLACK, INF, 0.0), program.upper)
        at = np.where(reduced < 0, upper, np.asarray(program.lower))
        return total + float(reduced @ at)
