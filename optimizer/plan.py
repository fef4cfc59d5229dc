"""From a supply problem to a plan with its evidence.

Most of the time pools do not contend: each can take from its own cheapest ways without using up anything shared. Then
every pool planned alone is the exact answer for all (`alone`). Pools on kinds of GPU whose stock or whole blocks get
in the way go to the integer program, in parts that share no limited stock, which is exact too: such parts have no row
in common (`part`). A rule over all pools joins them only where their own answers break it: dropping it can only make
the best plan cheaper, so answers that keep it anyway are the best with it too.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING

from optimizer.actions import Do
from optimizer.alone import alone
from optimizer.alone_answer import answer_of
from optimizer.alone_fit import crowded, spending, too_many
from optimizer.answer import answered
from optimizer.beyond import awaiting, late, without
from optimizer.changes import MOST_TRIED, Change, trials
from optimizer.check import check
from optimizer.evidence import Cost
from optimizer.ground import grounded
from optimizer.ladder import Held, frame
from optimizer.part import Part
from optimizer.parts import fits_together, parts
from optimizer.problem import ProblemError, Rule, Tier
from optimizer.relax import overspent, relaxed
from optimizer.result import Alternative, Effort, Hint, Plan, Status
from optimizer.sentences import sentences

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from optimizer.actions import Action
    from optimizer.alone import Group
    from optimizer.ladder import Frame
    from optimizer.point import Moments
    from optimizer.problem import Problem
    from optimizer.relax import Yielded
    from optimizer.result import Answer, PoolPlan

TOLERANCE = 1e-6
MOST_COMPARED = 200
"""Pools up to which the plan without the dearest tier, and with wider limits, is worked out as well: each costs as much
as the plan."""
MOST_CHANGES = 5
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
    status = _relieved(found, effort.limits.gap, clash=clash)
    return Part(status, found.model, found.values, part.gap if found.gap is None else found.gap, found.gave, words)


def _relieved(found: Yielded, enough: float, *, clash: bool) -> Status:
    """What the best plan with rules relaxed is; where rules clashed it keeps fewer of them than it should."""
    if not found.met:
        return Status.INFEASIBLE
    proven = found.gap is not None and found.gap <= enough + TOLERANCE
    return Status.OPTIMAL if proven and not clash else Status.FEASIBLE


def _together(problem: Problem, effort: Effort, hint: Hint | None, beside: Moments) -> list[Part] | None:
    """Solve the parts apart. None where a rule over all pools is broken by that, with what else is held `beside`."""
    apart = parts(problem)
    share = replace(effort, limits=replace(effort.limits, time_s=effort.limits.time_s / max(1, len(apart))))
    watch = effort.limits.watch()
    found = [grounded(one, share, hint, _title(one), watch) for one in apart]
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
        groups, found = [], [_yielding(grounded(problem, effort, hint, what), effort, what)]
    made = [answer_of(problem, steps, groups)] if groups else []
    made += [
        answered(
            part.model,
            part.values,
            status=part.status,
            gap=part.gap,
            gave=part.gave,
            reason=part.reason,
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
    return Alternative(dearest.value, _total(found), tuple(name for answer in found for name in answer.relaxed))


def _nowhere(problem: Problem, pools: Mapping[str, PoolPlan]) -> Iterator[str]:
    """Roles of pools that lack something for which nothing new can be had in time, one sentence each."""
    steps: Frame | None = None
    for p, pool in enumerate(problem.pools):
        if not pools[pool.key].shortage:
            continue
        steps = steps or frame(problem)
        can = {way.role for way in steps.maker.of_pool(p, pool) if way.held is Held.SOURCE}
        for r, role in enumerate(pool.roles):
            if r not in can:
                kinds = " or ".join(sorted({f"{one.gpus} {one.accelerator}" for one in role.variants}))
                name = f"{pool.key}/{role.key}" if role.key else pool.key
                yield f"{name} can take nothing new: no supply has room for a whole replica ({kinds}) in time"


def _total(found: Sequence[Answer]) -> float:
    return sum((answer.cost for answer in found), Cost()).total


def _changes(problem: Problem, found: Sequence[Answer], gap: float | None, effort: Effort) -> tuple[Change, ...]:
    """What limits would save if they were wider: only what no better search of the plan itself could find as well."""
    binding = [name for answer in found for name in answer.binding]
    some = list(islice(trials(problem, binding), MOST_TRIED))
    limits = replace(effort.limits, time_s=effort.limits.time_s / max(1, len(some)))
    total = _total(found)
    saved = [
        Change(limit, by, total - _total(_answers(wider, replace(effort, limits=limits), None)))
        for limit, by, wider in some
    ]
    least = TOLERANCE + (gap or 0.0) * abs(total)
    ranked = sorted(saved, key=lambda one: (-round(one.saves, 9), one.limit))
    return tuple(one for one in ranked if one.saves > least)[:MOST_CHANGES]


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
    if after := late(problem):
        made_before = plan(without(problem, after), effort, last=last)
        return replace(made_before, pools=MappingProxyType(awaiting(made_before.pools, after)))
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
    comparable = len(problem.pools) <= MOST_COMPARED
    return Plan(
        status=status,
        objective=total.total,
        gap=gap,
        pools=MappingProxyType({pool.key: pools[pool.key] for pool in problem.pools}),
        actions=tuple(made),
        cost=total,
        binding=tuple(dict.fromkeys(name for answer in found for name in answer.binding)),
        relaxed=tuple(dict.fromkeys([*gave, *(name for answer in found for name in answer.relaxed)])),
        reasons=(
            *(answer.reason for answer in found),
            *([OVERSPENT] if over else []),
            *(_nowhere(problem, pools) if effort.changes and comparable else ()),
            *sentences(made),
        ),
        alternative=_without(problem, made, bare) if effort.alternative and comparable else None,
        changes=_changes(problem, found, gap, bare) if effort.changes and comparable else (),
        hint=Hint(
            MappingProxyType({key: value for answer in found for key, value in answer.hint.serving.items()}),
            MappingProxyType({key: value for answer in found for key, value in answer.hint.opened.items()}),
        ),
    )
