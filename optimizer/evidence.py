"""Why a plan is what it is: the constraints that bind, and sentences a person can check against the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.climb import EPSILON, Climb
from optimizer.ladder import Held, opened, used
from optimizer.price import TOLERANCE, below, preempted, spending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optimizer.ladder import Counts, Ladder, Rung
    from optimizer.problem import Problem


class Slack:
    """What the limits shared by several needs have left under an allocation."""

    __slots__ = ("gpus", "money", "preempt", "problem")

    def __init__(self, problem: Problem, steps: Sequence[Ladder], allocation: Sequence[Sequence[int]]) -> None:
        """Measure once; `gpus`: in unopened whole blocks and loose ones in opened blocks, None if unlimited."""
        taken = used(problem, steps, allocation)
        budget, limit = problem.rules.budget_per_hour, problem.rules.max_gpus_preempted
        self.problem = problem
        self.gpus = [
            None if source.gpus is None else source.gpus - source.gpus % source.granularity - gpus
            for source, gpus in zip(problem.sources, taken, strict=True)
        ]
        self.money = None if budget is None else budget - spending(problem, steps, allocation)
        self.preempt = None if limit is None else limit - preempted(problem, taken)

    def exhausted(self, place: int, gpus_per_unit: int) -> bool:
        """Whether the source has too little left for one more unit."""
        left = self.gpus[place]
        return left is not None and left < gpus_per_unit

    def blocker(self, rung: Rung, gpus_per_unit: int) -> str | None:
        """The limit that keeps one more unit of this rung away; None if no limit does."""
        source = self.problem.sources[rung.place]
        if self.exhausted(rung.place, gpus_per_unit):
            return f"stock[{source.key}]"
        block = opened(gpus_per_unit, source.granularity)
        if self.money is not None and self.money + TOLERANCE < block * source.price_per_gpu_hour:
            return "budget"
        if source.preempts and self.preempt is not None and self.preempt < block:
            return "max_gpus_preempted"
        return None


def states(steps: Sequence[Ladder], allocation: Sequence[Counts]) -> tuple[Climb, ...]:
    """The climbs that end at an allocation: what is lacking (or spare, if negative) at each point."""
    ends = tuple(Climb(ladder) for ladder in steps)
    for state, counts in zip(ends, allocation, strict=True):
        for index, count in enumerate(counts):
            if count:
                state.add(index, count)
    return ends


def _sizing(ladder: Ladder, state: Climb) -> str | None:
    """The time point that sets the size: the most demanding of those that one unit fewer would leave short."""
    if not state.total + ladder.firm:
        return None
    tight = [(-demanded, t) for t, demanded in enumerate(ladder.lacking) if state.lacking[t] > -1.0 + TOLERANCE]
    return f"capacity[{ladder.need.key}@lead={ladder.points[min(tight)[1]]:g}]" if tight else None


def _supply_limits(ladder: Ladder, state: Climb, slack: Slack) -> Iterator[str]:
    """Limits that stand in the way of a unit that would pay, or that forced a dearer one."""
    short = below(ladder, state.counts) > 0
    if not short and max(state.lacking) <= 0.0 and state.total <= state.counts[0]:
        return
    values = state.gains()
    width = ladder.need.gpus_per_unit
    dearest = max(
        (r.cost for r, n in zip(ladder.rungs, state.counts, strict=True) if n and r.held is Held.SOURCE), default=0.0
    )
    for rung in ladder.rungs:
        if rung.held is not Held.SOURCE:
            continue
        if values[rung.first] - rung.cost > EPSILON or short:
            if state.total >= ladder.most:
                yield f"maximum[{ladder.need.key}]"
            elif (name := slack.blocker(rung, width)) is not None:
                yield name
        elif rung.cost < dearest and slack.exhausted(rung.place, width):
            yield f"stock[{slack.problem.sources[rung.place].key}]"


def binding(problem: Problem, steps: Sequence[Ladder], ends: Sequence[Climb]) -> tuple[str, ...]:
    """Names of the constraints that made the plan what it is, in the order of the needs.

    A capacity constraint binds at the time point that would be short with one unit fewer; a minimum binds where demand
    alone would ask for less; a maximum, a stock, the budget or the preemption limit where one more unit would pay or a
    dearer source had to be used.
    """
    names: dict[str, None] = {}
    slack = Slack(problem, steps, [state.counts for state in ends])
    for ladder, state in zip(steps, ends, strict=True):
        sizing = _sizing(ladder, state)
        if sizing is not None:
            names[sizing] = None
        elif ladder.need.minimum and state.total == ladder.least:
            names[f"minimum[{ladder.need.key}]"] = None
        names.update(dict.fromkeys(_supply_limits(ladder, state, slack)))
    return tuple(names)


def _plural(count: int, noun: str = "unit") -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _takes(problem: Problem, ladder: Ladder, counts: Sequence[int]) -> Iterator[str]:
    for rung, count in zip(ladder.rungs, counts, strict=True):
        if rung.held is not Held.SOURCE or not count:
            continue
        source = problem.sources[rung.place]
        lands = f"landing in {source.lead_s:g} s"
        gpus = _plural(count * ladder.need.gpus_per_unit, "GPU")
        yield f"{ladder.need.key} takes {_plural(count)} ({gpus}) from {source.key} ({source.tier}), {lands}"


def sentences(problem: Problem, steps: Sequence[Ladder], ends: Sequence[Climb]) -> Iterator[str]:
    """One sentence for each thing that changes or is lacking; nothing for needs that stay as they are."""
    for ladder, state in zip(steps, ends, strict=True):
        need, counts, lacking = ladder.need, state.counts, state.lacking
        yield from _takes(problem, ladder, counts)
        for rung, count in zip(ladder.rungs, counts, strict=True):
            if rung.held is not Held.SOURCE and count < rung.cap:
                verb = "releases" if rung.held is Held.ARRIVED else "gives up while still starting"
                yield f"{need.key} {verb} {_plural(rung.cap - count)} of {rung.cap}"
        missing = below(ladder, counts)
        if missing:
            yield f"{need.key} stays {_plural(missing)} below its minimum of {need.minimum}"
        worst = max(range(len(lacking)), key=lambda t: (lacking[t], -t))
        if lacking[worst] > TOLERANCE:
            yield f"{need.key} lacks {lacking[worst]:.3g} units' worth of capacity from {ladder.points[worst]:g} s"
