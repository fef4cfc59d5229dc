"""Solve a program with HiGHS under limits, to a typed outcome; nothing printed, nothing left to chance.

One thread, a fixed seed and counted work: the same problem gives the same answer to the byte, however busy the machine,
unless the clock has to end it, which the watch knows (`watch`). Two doors lead to the same solver: PuLP, whose object
for every variable and constraint a person can print and audit, and HiGHS's own arrays. Tests hold the two to the same
answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import highspy
import numpy as np
import pulp

from optimizer.watch import STOPS, Watch, Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.program import Program

SEED = 1
FEASIBLE = 2
"""HiGHS's own number for "a feasible point is known" (`SolutionStatus::kSolutionStatusFeasible`)."""

FRACTION = 1e-6
NEARLY = 0.8
"""Fractions above this are rounded up together."""
MOST_STEPS = 300
MOST_NUMBER = 2**31 - 1
REACH = 0.5
"""Share of the time limit that the work of a search is reckoned to take: a machine half as fast does it in time too."""
PATIENCE = 2.0
"""Times the time limit after which the clock ends a search, whatever work is left."""
SECONDS_PER_STEP = 2e-5
SECONDS_PER_ENTRY = 1e-8
"""Of one step of the simplex method, by entries of the program: twice what 10,000 to 30,000 of them took."""


class Door(StrEnum):
    """How the program is handed to HiGHS."""

    ARRAYS = "arrays"
    PULP = "pulp"


@dataclass(frozen=True, slots=True)
class Limits:
    """How far to go: seconds, relative gap at which an answer counts as the best, nodes of the search tree.

    The seconds are turned into work, as much as takes about half of them on a usual machine. The clock is read as well,
    and ends what takes longer than twice as many.
    """

    time_s: float = 5.0
    gap: float = 0.005
    nodes: int | None = None

    def watch(self) -> Watch:
        """A clock that ends what takes far longer than it should."""
        return Watch(PATIENCE * self.time_s)


@dataclass(frozen=True, slots=True)
class Solved:
    """The best point, proven to within `gap` (relative); its objective and the bound that proves it."""

    values: tuple[float, ...]
    objective: float
    gap: float


@dataclass(frozen=True, slots=True)
class TimedOut:
    """A limit was met first; the best point known by then, if any, and the proven bound of the objective."""

    values: tuple[float, ...] | None
    objective: float | None
    gap: float | None


@dataclass(frozen=True, slots=True)
class Infeasible:
    """There is no point that keeps every row."""

    values: None = None
    objective: None = None
    gap: None = None


Outcome = Solved | TimedOut | Infeasible


def quiet() -> highspy.Highs:
    """A solver that prints nothing and always does the same."""
    solver = highspy.Highs()
    for name, value in {"output_flag": False, "threads": 1, "random_seed": SEED}.items():
        solver.setOptionValue(name, value)
    return solver


def _solver(limits: Limits) -> highspy.Highs:
    solver = quiet()
    for name, value in {"mip_rel_gap": limits.gap, "mip_abs_gap": 0.0}.items():
        solver.setOptionValue(name, value)
    if limits.nodes is not None:
        solver.setOptionValue("mip_max_nodes", limits.nodes)
    return solver


def arrays(program: Program) -> highspy.HighsLp:
    """The program as HiGHS takes it."""
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(program.names), len(program.rows)
    lp.col_cost_ = np.asarray(program.cost)
    lp.col_lower_, lp.col_upper_ = np.asarray(program.lower), np.asarray(program.upper)
    lp.row_lower_, lp.row_upper_ = np.asarray(program.least), np.asarray(program.most)
    lp.offset_ = program.constant
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.asarray(program.starts, dtype=np.int32)
    lp.a_matrix_.index_ = np.asarray(program.index, dtype=np.int32)
    lp.a_matrix_.value_ = np.asarray(program.value)
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    lp.integrality_ = [kinds[whole] for whole in program.whole]
    return lp


def as_pulp(program: Program) -> pulp.LpProblem:
    """The program as PuLP objects, columns and rows numbered in their order; `program` has the names a person reads."""
    problem = pulp.LpProblem("supply", pulp.LpMinimize)
    columns = [
        problem.add_variable(
            f"v{number:06d}",
            lower,
            None if upper == float("inf") else upper,
            pulp.LpInteger if whole else pulp.LpContinuous,
        )
        for number, (lower, upper, whole) in enumerate(zip(program.lower, program.upper, program.whole, strict=True))
    ]
    problem.setObjective(pulp.LpAffineExpression(list(zip(columns, program.cost, strict=True)), program.constant))
    for row, (least, most) in enumerate(zip(program.least, program.most, strict=True)):
        terms = [(columns[column], value) for column, value in program.terms(row)]
        senses = [(pulp.LpConstraintEQ, least)] if least == most else []
        if not senses and least > -float("inf"):
            senses.append((pulp.LpConstraintGE, least))
        if not senses or (most < float("inf") and least != most):
            senses.append((pulp.LpConstraintLE, most))
        for kind, bound in senses:
            name = f"c{row:06d}{'lge'[kind + 1]}"
            problem.addConstraint(pulp.LpConstraint(pulp.LpAffineExpression(terms), kind, name, bound))
    return problem


def _outcome(solver: highspy.Highs, program: Program, values: Sequence[float]) -> Outcome:
    status, info = solver.getModelStatus(), solver.getInfo()
    states = highspy.HighsModelStatus
    if status in {states.kOptimal, states.kModelEmpty}:
        gap = info.mip_gap if status == states.kOptimal and np.isfinite(info.mip_gap) else 0.0
        return Solved(tuple(values), program.worth(values), max(0.0, gap))
    if status in {
        states.kTimeLimit,
        states.kObjectiveTarget,
        states.kSolutionLimit,
        states.kIterationLimit,
        states.kInterrupt,
    }:
        if info.primal_solution_status == FEASIBLE:
            gap = info.mip_gap if np.isfinite(info.mip_gap) else None
            return TimedOut(tuple(values), program.worth(values), gap)
        return TimedOut(None, None, None)
    if status in {states.kInfeasible, states.kUnboundedOrInfeasible}:
        return Infeasible()
    raise RuntimeError(f"HiGHS ended with {status} on a supply program; expected optimal, infeasible or a limit")


def relaxation(program: Program, time_s: float, watch: Watch | None = None) -> tuple[float, ...] | None:
    """The best point with fractions allowed; None where that takes more steps than are reckoned for the seconds."""
    solver = quiet()
    steps = REACH * time_s / (SECONDS_PER_STEP + SECONDS_PER_ENTRY * len(program.index))
    solver.setOptionValue("simplex_iteration_limit", int(min(steps, MOST_NUMBER)))
    lp = arrays(program)
    lp.integrality_ = []
    solver.passModel(lp)
    (watch or Limits(time_s).watch()).run(solver)
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return tuple(solver.getSolution().col_value)


def _through_pulp(program: Program, limits: Limits, watch: Watch, work: Work) -> Outcome:
    problem = as_pulp(program)
    nodes = {} if limits.nodes is None else {"mip_max_nodes": limits.nodes}
    problem.solve(
        pulp.HiGHS(
            msg=False,
            threads=1,
            timeLimit=max(0.0, watch.left_s),
            gapRel=limits.gap,
            gapAbs=0.0,
            random_seed=SEED,
            callbackTuple=(work, None),
            callbacksToActivate=[STOPS],
            **nodes,
        )
    )
    watch.ran(problem.solverModel, 0.0)
    found = [variable.varValue or 0.0 for variable in problem.variables()]
    return _outcome(problem.solverModel, program, found)


def solve(
    program: Program,
    limits: Limits,
    *,
    start: Sequence[float] | None = None,
    enough: float | None = None,
    door: Door = Door.ARRAYS,
    watch: Watch | None = None,
) -> Outcome:
    """Solve a program built by `algebra.build`.

    Args:
        program: columns and rows.
        limits: gap, nodes and the time that is reckoned for it.
        start: a feasible point to begin with (the last plan, the greedy one); the answer is never worse.
        enough: an objective at which to stop; used by the arrays only, like `start`.
        door: how the program is handed over.
        watch: what the clock leaves for it, where it is one of several programs.

    Raises:
        RuntimeError: HiGHS reports a state that such a program cannot be in; a fault of this package.
    """
    if not program.names:
        return Solved((), program.constant, 0.0)
    watch = watch or limits.watch()
    work = Work(len(program.index), REACH * limits.time_s)
    if door is Door.PULP:
        return _through_pulp(program, limits, watch, work)
    solver = _solver(limits)
    solver.passModel(arrays(program))
    if enough is not None:
        solver.setOptionValue("objective_target", enough)
    if start is not None:
        solution = highspy.HighsSolution()
        solution.col_value = list(start)
        solver.setSolution(solution)
    watch.run(solver, work)
    return _outcome(solver, program, solver.getSolution().col_value)


def dive(
    program: Program, ranks: Sequence[Sequence[int]], watch: Watch, up_from: float = 0.0
) -> tuple[float, ...] | None:
    """A good point with whole numbers, found by rounding the relaxation step by step; None where that led nowhere.

    Args:
        program: as for `solve`.
        ranks: whole columns in the order in which they are settled: all fractions of a rank before those of the next.
        watch: what the clock leaves for it.
        up_from: fractions from here on are rounded up, smaller ones down.
    """
    solver = quiet()
    lp = arrays(program)
    lp.integrality_ = []
    solver.passModel(lp)
    tried: tuple[int, float, bool] | None = None
    for _ in range(MOST_STEPS):
        watch.run(solver)
        if watch.ended:
            return None
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            if tried is None:
                return None
            column, low, up = tried
            lower, upper = (program.lower[column], low) if up else (low + 1.0, program.upper[column])
            solver.changeColBounds(column, lower, upper)
            tried = None
            continue
        values = np.asarray(solver.getSolution().col_value)
        step = next((found for rank in ranks if (found := _fractions(values, rank, up_from))), None)
        if step is None:
            return tuple(values.tolist())
        for column, up in step:
            low = float(np.floor(values[column] + FRACTION))
            lower, upper = (low + 1.0, program.upper[column]) if up else (program.lower[column], low)
            solver.changeColBounds(column, lower, upper)
            tried = (column, low, up) if len(step) == 1 else None
    return None


def _fractions(values: NDArray[np.float64], rank: Sequence[int], up_from: float) -> list[tuple[int, bool]]:
    """Of some columns those to round now, and whether up: all that are nearly there, or else the one nearest to it."""
    columns = np.asarray(rank, dtype=np.int64)
    parts = values[columns] - np.floor(values[columns] + FRACTION)
    broken = parts > FRACTION
    if not broken.any():
        return []
    near = columns[parts > NEARLY]
    if len(near):
        return [(int(column), True) for column in near]
    most = int(parts.argmax())
    if parts[most] >= up_from:
        return [(int(columns[most]), True)]
    return [(int(columns[int(np.where(broken, parts, 1.0).argmin())]), False)]
