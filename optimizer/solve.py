"""Solve the integer program with HiGHS under a limit, to a typed outcome; nothing printed, nothing left to chance.

One thread and a fixed seed: the same problem gives the same answer to the byte, unless the time limit is met.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import highspy
import pulp

from optimizer.evidence import Slack
from optimizer.ladder import Held

if TYPE_CHECKING:
    from optimizer.algebra import Model
    from optimizer.ladder import Counts

SEED = 1
FEASIBLE = 2
"""HiGHS's own number for "a feasible point is known" (`SolutionStatus::kSolutionStatusFeasible`)."""


@dataclass(frozen=True, slots=True)
class Solved:
    """The best allocation, proven to within `gap` (relative)."""

    allocation: tuple[Counts, ...]
    gap: float


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The limit was met first; the best allocation known by then, if any, and its gap."""

    incumbent: tuple[Counts, ...] | None
    gap: float | None


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Not every minimum can be met: which ones, with the limits that stand in their way, and the best there is."""

    names: tuple[str, ...]
    allocation: tuple[Counts, ...]
    gap: float


Outcome = Solved | TimedOut | Infeasible


def _allocation(model: Model) -> tuple[Counts, ...]:
    return tuple(tuple(round(unit.varValue or 0.0) for unit in units) for units in model.units)


def _clash(model: Model, allocation: tuple[Counts, ...]) -> tuple[str, ...]:
    """Minimums with units missing, then the limits that keep one more unit away from them."""
    short = [model.steps[i] for i, missing in model.missing.items() if round(missing.varValue or 0.0) > 0]
    slack = Slack(model.problem, model.steps, allocation)
    names = dict.fromkeys(f"minimum[{ladder.need.key}]" for ladder in short)
    for ladder in short:
        sources = (rung for rung in ladder.rungs if rung.held is Held.SOURCE)
        blockers = (slack.blocker(rung, ladder.need.gpus_per_unit) for rung in sources)
        names.update(dict.fromkeys(name for name in blockers if name is not None))
    return tuple(names)


def solve(model: Model, *, time_limit_s: float, gap: float = 0.0) -> Outcome:
    """Solve a model built by `algebra.build`.

    Args:
        model: the program.
        time_limit_s: seconds the solver may use.
        gap: relative gap at which the answer counts as the best.

    Raises:
        RuntimeError: HiGHS reports a state that such a model cannot be in; a fault of this package.
    """
    if not any(model.units):
        return Solved(tuple(() for _ in model.units), 0.0)
    solver = pulp.HiGHS(
        msg=False, threads=1, timeLimit=max(0.0, time_limit_s), gapRel=gap, gapAbs=0.0, random_seed=SEED
    )
    model.program.solve(solver)
    status = model.program.solverModel.getModelStatus()
    info = model.program.solverModel.getInfo()
    known = info.primal_solution_status == FEASIBLE
    if status == highspy.HighsModelStatus.kOptimal:
        allocation, reached = _allocation(model), max(0.0, info.mip_gap)
        names = _clash(model, allocation)
        return Infeasible(names, allocation, reached) if names else Solved(allocation, reached)
    if status == highspy.HighsModelStatus.kTimeLimit:
        return TimedOut(_allocation(model), info.mip_gap) if known else TimedOut(None, None)
    raise RuntimeError(
        f"HiGHS ended with {status} on a supply model, which always has an answer; expected optimal or time limit"
    )
