"""What an allocation costs and which rules it breaks: one judge for every way of finding one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimizer.ladder import HOUR_S, Held, opened, short, used

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optimizer.ladder import Ladder
    from optimizer.problem import Problem

TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Cost:
    """Price of a plan until the horizon, in the problem's currency, split by what it is paid for.

    `held` is GPU time, `one_off` what is due at the order, `shortage` lacking capacity, `below_minimum` the penalty for
    minimums that could not be met, `churn` units moved.
    """

    held: float
    one_off: float
    shortage: float
    below_minimum: float
    churn: float

    @property
    def total(self) -> float:
        """Everything together: the objective that the plan minimises."""
        return self.held + self.one_off + self.shortage + self.below_minimum + self.churn


def minimum_price(problem: Problem) -> float:
    """Penalty for one unit below a minimum.

    Twice the dearest unit (bought with a whole block) plus its dearest shortage, times the GPUs of the largest unit:
    one unit of a minimum then outweighs every unit of others that its GPUs could have been.
    """
    hours = problem.horizon_s / HOUR_S
    widest = max((need.gpus_per_unit for need in problem.needs), default=1)
    running = max((need.price_per_gpu_hour * need.gpus_per_unit * hours for need in problem.needs), default=0.0)
    shortage = max((need.shortage_price * hours for need in problem.needs), default=0.0)
    buying = max(
        (
            (source.price_per_gpu_hour * hours + source.one_off_price) * max(source.granularity, widest)
            for source in problem.sources
        ),
        default=0.0,
    )
    return 2.0 * widest * (running + shortage + buying + problem.rules.churn_price + 1e-3)


def below(ladder: Ladder, counts: Sequence[int]) -> int:
    """Units missing to the minimum."""
    return max(0, ladder.least - sum(counts))


def price(problem: Problem, steps: Sequence[Ladder], allocation: Sequence[Sequence[int]]) -> Cost:
    """Reckon the cost of an allocation (units on each rung of each ladder)."""
    hours = problem.horizon_s / HOUR_S
    held = shortage = 0.0
    missing = moved = 0
    for ladder, counts in zip(steps, allocation, strict=True):
        running = ladder.firm
        for rung, count in zip(ladder.rungs, counts, strict=True):
            if rung.held is Held.SOURCE:
                moved += count
            else:
                running += count
                moved += rung.cap - count
        held += running * ladder.need.gpus_per_unit * ladder.need.price_per_gpu_hour * hours
        shortage += sum(map(float.__mul__, ladder.weights, short(ladder, counts)))
        missing += below(ladder, counts)
    one_off = 0.0
    for source, gpus in zip(problem.sources, used(problem, steps, allocation), strict=True):
        if gpus:
            taken = opened(gpus, source.granularity)
            held += taken * source.price_per_gpu_hour * hours
            one_off += taken * source.one_off_price
    penalty = missing * minimum_price(problem) if missing else 0.0
    return Cost(held, one_off, shortage, penalty, moved * problem.rules.churn_price)


def spending(problem: Problem, steps: Sequence[Ladder], allocation: Sequence[Sequence[int]]) -> float:
    """Price per hour of every GPU the allocation holds."""
    total = 0.0
    for ladder, counts in zip(steps, allocation, strict=True):
        units = ladder.firm
        units += sum(count for rung, count in zip(ladder.rungs, counts, strict=True) if rung.held is not Held.SOURCE)
        total += units * ladder.need.gpus_per_unit * ladder.need.price_per_gpu_hour
    for source, gpus in zip(problem.sources, used(problem, steps, allocation), strict=True):
        total += opened(gpus, source.granularity) * source.price_per_gpu_hour
    return total


def preempted(problem: Problem, gpus: Sequence[int]) -> int:
    """GPUs taken from somebody else, whole blocks, given the GPUs used of each source."""
    return sum(opened(n, s.granularity) for s, n in zip(problem.sources, gpus, strict=True) if s.preempts)


def broken_global(problem: Problem, steps: Sequence[Ladder], allocation: Sequence[Sequence[int]]) -> Iterator[str]:
    """Name the limits over all needs together that the allocation breaks."""
    budget, limit = problem.rules.budget_per_hour, problem.rules.max_gpus_preempted
    if budget is not None and spending(problem, steps, allocation) > budget * (1 + 1e-9) + TOLERANCE:
        yield "budget"
    if limit is not None and preempted(problem, used(problem, steps, allocation)) > limit:
        yield "max_gpus_preempted"


def broken(problem: Problem, steps: Sequence[Ladder], allocation: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Name every hard rule that is broken: stock, bounds, budget, preemption. Minimums are priced, not listed."""
    names = list(broken_global(problem, steps, allocation))
    for source, gpus in zip(problem.sources, used(problem, steps, allocation), strict=True):
        if source.gpus is not None and opened(gpus, source.granularity) > source.gpus:
            names.append(f"stock[{source.key}]")
    for ladder, counts in zip(steps, allocation, strict=True):
        if any(not 0 <= count <= rung.cap for rung, count in zip(ladder.rungs, counts, strict=True)):
            names.append(f"supply[{ladder.need.key}]")
        if sum(counts) > ladder.most:
            names.append(f"maximum[{ladder.need.key}]")
    return tuple(names)
