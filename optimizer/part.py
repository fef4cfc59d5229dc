"""One part of a problem, solved: the greedy plan first, then better ones, and how far from the best they can be.

A small program goes to HiGHS at once, with the greedy plan or the last one as its starting point. A larger one is taken
apart first (`decompose`): that gives a better plan, and a bound that is far nearer than that of the linear relaxation.
HiGHS then gets what time is left, where the program is small enough for it to get somewhere.

All of that is counted, so the same problem is answered alike on a busy machine and on an idle one. The clock is there
for machines on which the work takes longer than the time limit: the reason then says so (`watch`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optimizer.algebra import build
from optimizer.answer import names
from optimizer.decompose import FEW, decomposed
from optimizer.greedy import ORDERS, greedy
from optimizer.ladder import ladder
from optimizer.point import breaches, complete
from optimizer.polish import polished
from optimizer.result import Status
from optimizer.solve import Infeasible, Solved, relaxation, solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.model import Model
    from optimizer.point import Open, Serving
    from optimizer.problem import Problem
    from optimizer.result import Effort, Hint
    from optimizer.watch import Watch

TOLERANCE = 1e-6
CLASH = "no plan keeps all rules"
SMALL = 400
"""Columns up to which the solver needs no guide to begin well."""
SHARE_OF_TIME = 0.4
"""Of the time limit, for the linear relaxation, and for the solver after a problem was taken apart."""
OUT_OF_TIME = "ran out of time by the clock, another run may end elsewhere"
SHARE_FOR_FEW = 0.5
"""The same after a few pools were taken apart: that takes less time, and the solver gets further with them."""
COLUMNS_PER_SECOND = 1200
"""Programs with more than this are beyond the solver in so many seconds once there is a good plan to improve on."""


@dataclass(frozen=True, slots=True)
class Part:
    """An answer for some of the pools."""

    status: Status
    model: Model
    values: Sequence[float]
    gap: float | None
    gave: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class _Best:
    """The best point known, and what no point costs less than."""

    values: Sequence[float]
    cost: float
    bound: float | None = None

    def gap(self) -> float | None:
        """Relative distance between the two."""
        if self.bound is None:
            return None
        return max(0.0, self.cost - self.bound) / abs(self.cost) if self.cost else 0.0


def _begin(model: Model, hint: Hint | None) -> tuple[float, ...] | None:
    """The last plan as a point of this program; None where there is none or it breaks a rule."""
    if hint is None:
        return None
    steps = model.ladder
    n = len(steps.points)
    serving = tuple(hint.serving.get(name, (0,) * n) for name in names(steps))
    opened = {index: hint.opened.get(steps.lots[index].key, (0,) * n) for index in model.opened}
    if any(len(numbers) != n for numbers in (*serving, *opened.values())):
        return None
    values = _point(model, serving, opened)
    return None if values is None else tuple(values)


def _point(model: Model, serving: Serving, opened: Open) -> list[float] | None:
    """An allocation as a point; None where it breaks a rule."""
    values = complete(model, serving, opened)
    return None if breaches(model.program, values) else values


def _guided(model: Model, effort: Effort, watch: Watch) -> list[float] | None:
    """The greedy plan that follows the linear relaxation; None where that is not solved in time."""
    relaxed_values = relaxation(model.program, effort.limits.time_s * SHARE_OF_TIME, watch)
    if relaxed_values is None:
        return None
    n = len(model.ladder.points)
    guide = [[0.0] * (n - len(columns)) + [relaxed_values[c] for c in columns] for columns in model.serving]
    return _point(model, *greedy(model.ladder, guide))


def _better(model: Model, best: _Best, values: Sequence[float] | None) -> _Best:
    if values is None:
        return best
    cost = model.program.worth(values)
    return replace(best, values=values, cost=cost) if cost < best.cost - TOLERANCE else best


def _apart(model: Model, quick: tuple[Serving, Open], best: _Best, effort: Effort, watch: Watch) -> _Best:
    """Take the problem apart for a bound and a better plan; where that cannot be done, follow the relaxation."""
    found = decomposed(model, quick, effort.limits, watch)
    if found is None:
        within = len(model.program.names) <= effort.most_columns
        return _better(model, best, _guided(model, effort, watch) if within else None)
    best = replace(best, bound=found.bound)
    for how in ORDERS[1:] if any(model.domains.values()) else ():
        best = _better(model, best, _point(model, *greedy(model.ladder, how=how)))
    if found.guide is None and best.cost < float("inf"):
        finer = polished(model, best.values, found.bound, effort.limits, watch)
        return best if breaches(model.program, finer) else _better(model, best, finer)
    if found.guide is None:
        return best
    best = _better(model, best, found.values)
    if found.values is None:
        best = _better(model, best, _point(model, *greedy(model.ladder, found.guide[0])))
    return best


def _finished(model: Model, best: _Best, effort: Effort) -> str | None:
    """Why the solver is not asked any more; None where it is."""
    gap, size, limits = best.gap(), len(model.program.names), effort.limits
    if gap is not None and gap <= limits.gap and best.bound is not None:
        return f"solved to a gap of {gap:.2g}"
    if size > effort.most_columns:
        return f"{size} columns, more than the {effort.most_columns} given to the solver"
    if best.bound is not None and size > COLUMNS_PER_SECOND * limits.time_s:
        return f"{size} columns, too many for the solver in {limits.time_s:g} s"
    return None


def solved(
    problem: Problem,
    effort: Effort,
    hint: Hint | None,
    what: str,
    watch: Watch | None = None,
    apart: frozenset[str] = frozenset(),
) -> Part:
    """Solve one part within the time limit; never worse than the greedy plan, or the last one where it still holds.

    Args:
        problem: the pools and what they share.
        effort: the work for this part, as a time limit.
        hint: the last plan.
        what: the part's name in the reason.
        watch: what the clock leaves for all parts together.
        apart: keys of lots that are not counted together with others.
    """
    watch = watch or effort.limits.watch()
    model = build(ladder(problem, apart))
    quick = greedy(model.ladder)
    first = complete(model, *quick)
    wrong = breaches(model.program, first)
    cost = float("inf") if wrong else model.program.worth(first)
    begin = _better(model, _Best(first, cost), _begin(model, hint))
    best = begin
    if len(model.program.names) > SMALL and effort.limits.time_s > 0:
        best = _apart(model, quick, best, effort, watch)
    reason = _finished(model, best, effort)
    if reason is None:
        best, reason = _searched(model, best, effort, watch)
    if watch.ended and reason != CLASH:
        reason = f"{OUT_OF_TIME}; {reason}"
    usable = best.cost < float("inf")
    gap = best.gap() if usable else None
    families = (name.partition("@")[0].partition("[")[0] for name in wrong)
    gave = () if usable else tuple(dict.fromkeys(family for family in families if len(family) > 1))  # columns have one
    if reason == CLASH and not usable:
        return Part(Status.INFEASIBLE, model, best.values, None, gave, f"{what}: {reason}")
    if gap is not None and gap <= effort.limits.gap + TOLERANCE:
        return Part(Status.OPTIMAL, model, best.values, gap, (), f"{what}: {reason}")
    if best.values is begin.values:
        return Part(
            Status.GREEDY, model, best.values, gap, gave, f"{what}: {reason}; nothing better than where it began"
        )
    return Part(Status.FEASIBLE, model, best.values, gap, (), f"{what}: {reason}; the best so far is used")


def _searched(model: Model, best: _Best, effort: Effort, watch: Watch) -> tuple[_Best, str]:
    """What the solver makes of it from there."""
    limits = effort.limits
    if best.bound is not None:
        few = len(model.ladder.problem.pools) <= FEW
        limits = replace(limits, time_s=limits.time_s * (SHARE_FOR_FEW if few else SHARE_OF_TIME))
    start = tuple(best.values) if best.cost < float("inf") else None
    outcome = solve(model.program, limits, start=start, door=effort.door, watch=watch)
    if isinstance(outcome, Infeasible):
        return best, CLASH
    if outcome.values is None:
        return best, "the solver found nothing in its share of work"
    if outcome.gap is not None and outcome.objective is not None:
        low = outcome.objective - outcome.gap * abs(outcome.objective)
        best = replace(best, bound=low if best.bound is None else max(low, best.bound))
    best = _better(model, best, outcome.values)
    if isinstance(outcome, Solved):
        return best, f"solved to a gap of {best.gap() or 0.0:.2g}"
    return best, "the solver's share of work is done" if limits.nodes is None else "the solver's nodes or work are done"
