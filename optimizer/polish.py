"""A plan made better pool by pool: all others stay as they are, and the solver plans one pool anew.

Large neighbourhood search (Shaw 1998) with the pool as the neighbourhood. Pools whose roles have to meet within network
domains are planned anew together with all blocks: the greedy plan gives them one domain after the other, and what would
fit better across several is found only by looking at all domains together, which the solver can for one pool, but not
for twenty. Other pools are planned anew with the blocks that are open: their paths were chosen from few that fit
together roughly, and each finds what fits exactly in a program of a hundred columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import highspy
import numpy as np

from optimizer.solve import FEASIBLE, quiet
from optimizer.watch import Watch, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.solve import Limits

    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

SECONDS_PER_COLUMN = 4e-4
"""Of a program of one pool and all blocks, at 2.1 GHz; it only has to be of the right order."""
SHARE_OF_TIME = 0.5
"""Of the time limit, for all pools together."""
SECONDS_PER_ENTRY = 3e-8
"""Of the whole program, from which that of one pool is cut."""
PATIENCE = 3.0
"""A pool's program is left after so many times its usual work."""
NODES = 20
SPARE = 0.1
"""Share of the wanted gap to which each pool's program is solved."""
LEAST = 1e-6
HALF = 0.5
DIGITS = 9
"""Costs are compared to so many places, so that the order does not hang on rounding."""


class _Rest:
    """The program as arrays, to be cut down to some of its columns while the others keep their values."""

    def __init__(self, model: Model) -> None:
        program = model.program
        self.index = np.asarray(program.index, dtype=np.int64)
        self.value = np.asarray(program.value)
        self.row = np.repeat(np.arange(len(program.rows)), np.diff(np.asarray(program.starts)))
        self.lower, self.upper = np.asarray(program.lower), np.asarray(program.upper)
        self.least, self.most = np.asarray(program.least), np.asarray(program.most)
        self.cost = np.asarray(program.cost)
        self.whole = np.asarray(program.whole)

    def cut(self, point: Floats, free: Flags) -> highspy.HighsLp:
        """The program over the free columns; what the others take of each row is taken off its bounds."""
        taken = np.where(free, 0.0, point)[self.index] * self.value
        fixed = np.bincount(self.row, weights=taken, minlength=len(self.least))
        inside = free[self.index]
        rows, place = np.unique(self.row[inside], return_inverse=True)
        columns = np.flatnonzero(free)
        number = np.cumsum(free) - 1
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(columns), len(rows)
        lp.col_cost_ = self.cost[columns]
        lp.col_lower_, lp.col_upper_ = self.lower[columns], self.upper[columns]
        lp.row_lower_, lp.row_upper_ = self.least[rows] - fixed[rows], self.most[rows] - fixed[rows]
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        counts = np.bincount(place, minlength=len(rows))
        lp.a_matrix_.start_ = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        lp.a_matrix_.index_ = number[self.index[inside]].astype(np.int32)
        lp.a_matrix_.value_ = self.value[inside]
        kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
        lp.integrality_ = [kinds[whole] for whole in self.whole[columns].tolist()]
        return lp

    def solved(self, point: Floats, free: Flags, spare: float, watch: Watch) -> Floats:
        """The best values of the free columns with the others as they are; the point itself where none is better."""
        columns = np.flatnonzero(free)
        solver = quiet()
        limits = {
            "mip_max_nodes": NODES,
            "mip_heuristic_run_feasibility_jump": False,  # a point is known, better ones are near it
            "mip_rel_gap": 0.0,
            "mip_abs_gap": spare,
        }
        for name, value in limits.items():
            solver.setOptionValue(name, value)
        lp = self.cut(point, free)
        work = Work(len(lp.a_matrix_.index_), PATIENCE * SECONDS_PER_COLUMN * len(columns))
        solver.passModel(lp)
        start = highspy.HighsSolution()
        start.col_value = point[columns].tolist()
        solver.setSolution(start)
        watch.run(solver, work)
        if solver.getInfo().primal_solution_status != FEASIBLE:
            return point
        found = point.copy()
        found[columns] = solver.getSolution().col_value
        found[self.whole] = np.floor(found[self.whole] + HALF)
        return found


def _own(model: Model, p: int) -> list[int]:
    """The columns of one pool."""
    found = [c for w in model.ladder.of[p] for c in (*model.serving[w], *model.begun[w])]
    found += [column for columns in model.lacking[p] for column in columns]
    found += [column for (pool, _), column in model.missing.items() if pool == p]
    found += [column for (pool, _), columns in model.within.items() if pool == p for column in columns.values()]
    keyed = (*model.across.items(), *model.bursts.items())
    found += [column for (pool, _), column in keyed if pool == p]
    return found + [column for (pool, *_), column in model.converted.items() if pool == p]


def affordable(model: Model, limits: Limits, beside: int = 0) -> int:
    """Pools that can be planned anew in a share of the time limit, each together with so many columns of blocks."""
    sizes = [sum(len(model.serving[w]) + len(model.begun[w]) for w in ways) for ways in model.ladder.of]
    size = max(sizes, default=0) + beside
    step_s = SECONDS_PER_COLUMN * size + SECONDS_PER_ENTRY * len(model.program.index)
    return int(limits.time_s * SHARE_OF_TIME / step_s) if step_s > 0.0 else 0


def polished(
    model: Model,
    values: Sequence[float],
    bound: float,
    limits: Limits,
    watch: Watch | None = None,
    *,
    losses: Sequence[float] | None = None,
    steps: int | None = None,
) -> list[float]:
    """A point that is no dearer: pools are planned anew, round and round.

    It ends early at the gap wanted, and where no pool gains.

    Args:
        model: the program.
        values: a point that keeps all rows.
        bound: what no point costs less than.
        limits: time and gap.
        watch: what the clock leaves.
        losses: by pool, what it may cost too much: all pools are planned anew, those that lose most first, with the
            blocks as they are. Without it only pools whose roles have to meet, the dearest first, each with all blocks.
        steps: pools to plan anew at most; as many as there is time for by default, reckoned from their size.
    """
    watch = watch or limits.watch()
    rest = _Rest(model)
    point: Floats = np.asarray(values, dtype=np.float64)
    lots = (*model.opened.values(), *model.bought.values()) if losses is None else ()
    blocks = [c for columns in lots for c in columns]
    own = {p: _own(model, p) for p, domains in model.domains.items() if domains or losses is not None}
    if not own:
        return list(values)
    steps = affordable(model, limits, len(blocks)) if steps is None else steps
    worst = losses or [float(rest.cost[own.get(p, [])] @ point[own.get(p, [])]) for p in range(len(model.needs))]
    order = sorted(own, key=lambda p: (-round(worst[p], DIGITS), p))
    still = 0
    cost = float(rest.cost @ point)
    for step in range(steps):
        whole_cost = abs(cost + model.program.constant)
        if watch.ended or still == len(order) or cost + model.program.constant - bound <= limits.gap * whole_cost:
            break
        free = np.zeros(len(point), dtype=bool)
        free[own[order[step % len(order)]]] = True
        free[blocks] = True
        found = rest.solved(point, free, SPARE * limits.gap * whole_cost, watch)
        less = float(rest.cost @ found)
        still = 0 if less < cost - LEAST else still + 1
        if less < cost - LEAST:
            point, cost = found, less
    return [float(value) for value in point]
