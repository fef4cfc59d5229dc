"""From a supply problem to a plan with its evidence.

Most of the time pools do not contend: each can take from its own cheapest ways without using up anything shared. Then
every pool planned alone is the exact answer for all (`alone`). Pools on kinds of GPU whose stock or whole blocks get
in the way go to the integer program, in parts that share no limited stock, which is exact too: such parts have no row
in common (`part`). A rule over all pools
joins them only where their own answers break it: dropping it can only make the best plan cheaper, so answers that keep
it anyway are the best with it too.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from optimizer.actions import Do
from optimizer.alone import alone
from optimizer.alone_answer import answer_of
from optimizer.alone_fit import crowded, spending, too_many
from optimizer.answer import answered
from optimizer.check import check
from optimizer.evidence import Cost
from optimizer.ladder import frame
from optimizer.part import Part, solved
from optimizer.parts import fits_together, parts
from optimizer.problem import ProblemError, Rule, Tier
from optimizer.relax import overspent, relaxed
from optimizer.result import Alternative, Effort, Hint, Plan, Status
from optimizer.sentences import sentences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.actions import Action
    from optimizer.alone import Group
    from optimizer.ladder import Frame
    from optimizer.point import Moments
    from optimizer.problem import Problem
    from optimizer.relax import Yielded
    from optimizer.result import Answer

TOLERANCE = 1e-6
MOST_COMPARED = 200
"""Pools up to which the plan without the dearest tier is worked out as well: it costs as much as the plan."""
USUAL = Effort()
OVERSPENT = "nodes that are paid for already cost more than the budget; nothing else is held while they are"
NOBODY = ""
"""No pool has an empty key: a source for it alone is one nobody new may draw on."""


def _missing(part: Part) -> bool:
    return any(part.values[column] > TOLERANCE for column in part.model.missing.values())


def _yielding(part: Part, effort: Effort, what: str) -> Part:
    """Let rules give way in their order until the minimums are met."""
    clash = part.status is Status.INFEASIBLE
    if not clash and not _missing(part):
        return part
    found = relaxed(part.model, part.values, effort.limits, clash=clash)
    if found is None:
        return part
    sides = "rules clash" if clash else "minimums clash"
    words = f"{what}: {sides}; " + (f"{' and '.join(found.gave)} gave way" if found.gave else "no rule could give way")
    if not found.model.awaiting:
        words = f"{what}: rules clash with what is starting, which need not be awaited"
    return Part(part.status if found.met and not clash else _relieved(found), *found[:2], None, found.gave, words)


def _relieved(found: Yielded) -> Status:
    return Status.FEASIBLE if found.met else Status.INFEASIBLE


def _together(problem: Problem, effort: Effort, hint: Hint | None, beside: Moments) -> list[Part] | None:
    """Solve the parts apart. None where a rule over all pools is broken by that, with what else is held `beside`."""
    apart = parts(problem)
    share = replace(effort, limits=replace(effort.limits, time_s=effort.limits.time_s / max(1, len(apart))))
    found = [solved(one, share, hint, _title(one)) for one in apart]
    if (len(apart) > 1 or beside) and not fits_together(problem, [(part.model, part.values) for part in found], beside):
        return None
    return [_yielding(part, effort, _title(one)) for part, one in zip(found, apart, strict=True)]


def _apart(problem: Problem, steps: Frame) -> tuple[list[Group], list[int]]:
    """The pools that may be planned alone as they are, and all others."""
    groups, others = alone(problem, steps)
    touched = crowded(steps, groups) | {
        variant.accelerator for p in others for role in problem.pools[p].roles for variant in role.variants
    }
    fine = []
    for group in groups:
        kind = problem.pools[group.pools[0]].roles[0].variants[0].accelerator
        if kind in touched or too_many(problem, steps, group):
            others = [*others, *group.pools]
        else:
            fine.append(group)
    return fine, sorted(others)


def _answers(problem: Problem, effort: Effort, hint: Hint | None) -> list[Answer]:
    """Pools alone where that is exact, the others by the integer program; all by that where a rule over all binds."""
    steps = frame(problem)
    groups, others = _apart(problem, steps)
    beside: Moments = ()
    over_all = problem.rules.budget_per_hour is not None or problem.rules.max_gpus_preempted is not None
    if groups and (others or over_all):
        spent, taken = spending(steps, groups)
        beside = tuple(zip(steps.points, spent, taken, strict=True))
    supply = any(gang.held for gang in problem.gangs) or any(offer.held for offer in problem.offers)
    found: list[Part] | None = []
    if others or (supply and not groups):
        rest = replace(problem, points_s=steps.points, pools=tuple(problem.pools[p] for p in others))
        found = _together(rest, effort, hint, beside)
    elif groups and not fits_together(problem, [], beside):
        found = None
    if found is None:
        what = "rules over all pools"
        problem = replace(problem, points_s=steps.points)
        groups, found = [], [_yielding(solved(problem, effort, hint, what), effort, what)]
    made = [answer_of(problem, steps, groups)] if groups else []
    made += [
        answered(
            part.model,
            part.values,
            status=part.status,
            gap=part.gap,
            gave=part.gave,
            reason=part.reason,
            with_changes=effort.changes,
        )
        for part in found
    ]
    return made


def _title(problem: Problem) -> str:
    if not problem.pools:
        return "supply without pools"
    first, more = problem.pools[0].key, len(problem.pools) - 1
    return f"{first} and {more} more" if more else first


def _status(found: Sequence[Answer]) -> tuple[Status, float | None]:
    worst = max((answer.status for answer in found), key=list(Status).index, default=Status.OPTIMAL)
    total = weighed = 0.0
    for answer in found:
        if answer.gap is None:
            return worst, None
        size = abs(answer.cost.total)
        total += size
        weighed += answer.gap * size
    return worst, weighed / total if total else 0.0


def _without(problem: Problem, made: Sequence[Action], effort: Effort) -> Alternative | None:
    """Plan again without the last rung of the ladder that the plan steps on."""
    tiers = [action.tier for action in made if action.tier is not None and action.do is not Do.RETURN]
    order = list(Tier)
    dearest = max(tiers, key=order.index, default=None)
    if dearest is None or dearest is Tier.CONVERT:
        return None
    barred = replace(
        problem,
        sources=tuple(replace(one, only_for=(NOBODY,)) if one.tier is dearest else one for one in problem.sources),
        gangs=tuple(one for one in problem.gangs if one.held or dearest is not Tier.PREEMPT),
        offers=tuple(replace(one, quota=one.held) if dearest is Tier.PROVISION else one for one in problem.offers),
    )
    found = _answers(barred, effort, None)
    return Alternative(dearest.value, sum((answer.cost for answer in found), Cost()).total)


def plan(problem: Problem, effort: Effort = USUAL, *, last: Plan | None = None) -> Plan:
    """Decide what to keep, take, release and give back for all pools together, at least cost over the horizon.

    Args:
        problem: what is needed, what there is, and the rules.
        effort: limits of the solver and what evidence to work out.
        last: the plan before; the solver begins there where it still holds.

    Raises:
        ProblemError: the problem contradicts itself; the message names every contradiction (see `check`).
    """
    faults = check(problem)
    if faults:
        raise ProblemError(faults)
    found = _answers(problem, effort, last.hint if last is not None else None)
    pools = {key: pool for answer in found for key, pool in answer.pools.items()}
    made = sorted((action for answer in found for action in answer.actions), key=lambda action: action.at_s)
    status, gap = _status(found)
    over = overspent(problem)
    if over and Rule.BUDGET not in problem.rules.relax:
        status = Status.INFEASIBLE
    gave = [str(Rule.BUDGET)] if over else []
    total = sum((answer.cost for answer in found), Cost())
    bare = replace(effort, alternative=False, changes=False)
    return Plan(
        status=status,
        objective=total.total,
        gap=gap,
        pools=MappingProxyType({pool.key: pools[pool.key] for pool in problem.pools}),
        actions=tuple(made),
        cost=total,
        binding=tuple(dict.fromkeys(name for answer in found for name in answer.binding)),
        relaxed=tuple(dict.fromkeys([*gave, *(name for answer in found for name in answer.relaxed)])),
        reasons=(*(answer.reason for answer in found), *([OVERSPENT] if over else []), *sentences(made)),
        alternative=_without(problem, made, bare)
        if effort.alternative and len(problem.pools) <= MOST_COMPARED
        else None,
        changes=tuple(change for answer in found for change in answer.changes),
        hint=Hint(
            MappingProxyType({key: value for answer in found for key, value in answer.hint.serving.items()}),
            MappingProxyType({key: value for answer in found for key, value in answer.hint.opened.items()}),
        ),
    )
