"""Where minimums cannot be met: which rules give way, in their declared order and as little as need be.

For each prefix of the order three programs are solved: the fewest replicas below a minimum, then the least violation of
the relaxed rules at that, then the least cost at both. The first prefix that meets every minimum is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.algebra import build
from optimizer.problem import Rule
from optimizer.solve import Limits, solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.model import Model
    from optimizer.problem import Problem

TOLERANCE = 1e-6


def _present(problem: Problem) -> tuple[Rule, ...]:
    """The rules that may give way and that the problem has."""
    there = {
        Rule.BUDGET: problem.rules.budget_per_hour is not None,
        Rule.TOPOLOGY: problem.rules.cross_share is not None,
        Rule.RATIO: any(pool.ratios for pool in problem.pools),
    }
    return tuple(rule for rule in problem.rules.relax if there[rule])


def _staged(model: Model, limits: Limits) -> Sequence[float] | None:
    program = model.program
    cost = list(program.cost)
    lower_first = [sorted(model.missing.values()), [column for _, column in model.gave]]
    for columns in lower_first:
        program.cost = [0.0] * len(cost)
        for column in columns:
            program.cost[column] = 1.0
        outcome = solve(program, Limits(limits.time_s, 0.0, limits.nodes))
        if outcome.values is None:
            program.cost = cost
            return None
        reached = sum(outcome.values[column] for column in columns)
        program.row("at most", [(column, 1.0) for column in columns], most=reached + TOLERANCE)
    program.cost = cost
    return solve(program, limits).values


def relaxed(
    model: Model, values: Sequence[float], limits: Limits
) -> tuple[Model, Sequence[float], tuple[str, ...], bool] | None:
    """A better point with rules relaxed: the program, the point, what gave way and whether all minimums are met.

    None where the solver found nothing in time.
    """
    rules = _present(model.ladder.problem)
    for most in range(1, len(rules) + 1):
        trial = build(model.ladder, frozenset(rules[:most]))
        found = _staged(trial, limits)
        if found is None:
            return None
        if all(found[column] <= TOLERANCE for column in trial.missing.values()):
            gave = {rule for rule, column in trial.gave if found[column] > TOLERANCE}
            return trial, found, tuple(str(rule) for rule in rules if rule in gave), True
    return model, values, (), False


def given_way(model: Model, values: Sequence[float]) -> tuple[str, ...]:
    """Minimums that are not met, by name."""
    names = []
    for (p, r), column in model.missing.items():
        if values[column] > TOLERANCE:
            pool = model.ladder.problem.pools[p]
            role = pool.roles[r].key
            names.append(f"minimum[{pool.key}/{role}]" if role else f"minimum[{pool.key}]")
    return tuple(names)
