"""A part solved so that its replicas can stay where they begin.

Lots that are alike are counted together, which keeps programs small. Counted together two of them can promise what none
of them has: replicas that serve on while the one lot is given back and the other opened. Where a plan does that, the
part is solved again with those lots told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.answer import allocation
from optimizer.part import Part, solved
from optimizer.places import moving
from optimizer.result import Status

if TYPE_CHECKING:
    from optimizer.problem import Problem
    from optimizer.result import Effort, Hint
    from optimizer.watch import Watch

MOST_COLUMNS = 5_000
"""Columns of a part beyond which replicas may move: telling lots apart multiplies them."""


def grounded(problem: Problem, effort: Effort, hint: Hint | None, what: str, watch: Watch | None = None) -> Part:
    """Solve one part (see `part.solved`) with replicas that never move."""
    part = solved(problem, effort, hint, what, watch)
    if part.status is Status.INFEASIBLE or part.gave or len(part.model.program.names) > MOST_COLUMNS:
        return part
    between = moving(part.model.ladder, *allocation(part.model, part.values))
    if not between:
        return part
    again = solved(problem, effort, hint, what, watch, apart=between)
    return part if again.status is Status.INFEASIBLE or again.gave else again
