"""Where minimums cannot be met, or rules clash: what gives way, in the declared order and as little as need be.

For each prefix of the order three programs are solved: the fewest replicas below a minimum, then the least violation of
the relaxed rules at that, then the least cost at both. The first prefix that meets every minimum is kept. Rules clash
where what is starting has to be awaited and a quota or a ratio forbids it; last of all it is given up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from optimizer.algebra import build
from optimizer.lots import EPSILON_S
from optimizer.problem import Rule
from optimizer.solve import Infeasible, Limits, solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.model import Model
    from optimizer.problem import Problem
    from optimizer.solve import Outcome

TOLERANCE = 1e-6


def _present(problem: Problem) -> tuple[Rule, ...]:
    """The rules that may give way and that the problem has."""
    there = {
        Rule.BUDGET: problem.rules.budget_per_hour is not None,
        Rule.TOPOLOGY: problem.rules.cross_share is not None,
        Rule.RATIO: any(pool.ratios for pool in problem.pools),
    }
    return tuple(rule for rule in problem.rules.relax if there[rule])


def overspent(problem: Problem) -> bool:
    """Whether nodes that are paid for already cost more per hour than the budget: nothing else is held then."""
    paid = sum(offer.held * offer.price_per_hour for offer in problem.offers if offer.paid_s > EPSILON_S)
    budget = problem.rules.budget_per_hour
    return budget is not None and paid > budget + TOLERANCE


def _staged(model: Model, limits: Limits) -> Outcome:
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
            return outcome
        reached = sum(outcome.values[column] for column in columns)
        program.row("at most", [(column, 1.0) for column in columns], most=reached + TOLERANCE)
    program.cost = cost
    return solve(program, limits)


class Yielded(NamedTuple):
    """The program with rules relaxed, its point, the rules that gave way, whether all minimums are met, and its gap."""

    model: Model
    values: Sequence[float]
    gave: tuple[str, ...]
    met: bool
    gap: float | None = None


def relaxed(model: Model, values: Sequence[float], limits: Limits, *, clash: bool = False) -> Yielded | None:
    """A better point with rules relaxed. None where the solver found nothing in time.

    With `clash` no point keeps the rules as they are: the first prefix of rules that lets there be one is taken where
    none meets all minimums, and where even all of them do not, what is starting need not be awaited any more.
    """
    rules = _present(model.ladder.problem)
    rest: Yielded | None = None if clash else Yielded(model, values, (), met=False)
    trials = [(most, True) for most in range(1, len(rules) + 1)]
    if clash:
        trials += [(most, False) for most in range(len(rules) + 1)]
    for most, awaiting in trials:
        if rest is not None and awaiting != rest.model.awaiting:
            break
        trial = build(model.ladder, frozenset(rules[:most]), awaiting=awaiting)
        outcome = _staged(trial, limits)
        if isinstance(outcome, Infeasible):
            continue
        if outcome.values is None:
            return None
        found = outcome.values
        gave = {rule for rule, column in trial.gave if found[column] > TOLERANCE}
        met = all(found[column] <= TOLERANCE for column in trial.missing.values())
        made = Yielded(trial, found, tuple(str(rule) for rule in rules if rule in gave), met, outcome.gap)
        if met:
            return made
        rest = rest or made
    return rest


def given_way(model: Model, values: Sequence[float]) -> tuple[str, ...]:
    """Minimums that are not met, by name."""
    names = []
    for (p, r), column in model.missing.items():
        if values[column] > TOLERANCE:
            pool = model.ladder.problem.pools[p]
            role = pool.roles[r].key
            names.append(f"minimum[{pool.key}/{role}]" if role else f"minimum[{pool.key}]")
    return tuple(names)
