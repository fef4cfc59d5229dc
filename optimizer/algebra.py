"""The supply problem as an integer program: one `define_*` per variable family and constraint.

Minimise the price of GPUs held until the horizon, what is due at the order, shortage, units below a minimum, and churn,
subject to

    capacity[need@lead=t]   units landed by t + shortage >= demand(t) in units     at every time point t
    minimum[need]           units + units below the minimum >= minimum
    maximum[need]           units <= maximum
    stock[source]           GPUs of opened blocks <= stock
    whole[source]           GPUs used <= GPUs of opened blocks
    budget                  price per hour of all GPUs held <= budget
    max_gpus_preempted      GPUs of blocks opened by preemption <= limit

Units are integers, blocks too where GPUs come in groups; shortage is continuous. Minimums are elastic at a price above
everything else, so that a problem whose minimums cannot be met still gets its best plan and the names of what clashed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pulp

from optimizer.ladder import HOUR_S, UNLIMITED, Held
from optimizer.price import minimum_price

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.ladder import Ladder
    from optimizer.problem import Problem

Term = tuple["pulp.LpVariable", float]


@dataclass(slots=True)
class Model:
    """The program while it is being written and after.

    `units[i][r]` are the units of need i on rung r, `lacking[i][t]` its shortage variables by time point,
    `missing[i]` its units below the minimum, `blocks[s]` the opened blocks of source s, `rows` the constraints by
    name. Sources nobody may draw on have no variable.
    """

    problem: Problem
    steps: Sequence[Ladder]
    program: pulp.LpProblem
    units: list[list[pulp.LpVariable]] = field(default_factory=list)
    lacking: list[dict[int, pulp.LpVariable]] = field(default_factory=list)
    missing: dict[int, pulp.LpVariable] = field(default_factory=dict)
    blocks: dict[int, pulp.LpVariable] = field(default_factory=dict)
    rows: dict[str, pulp.LpConstraint] = field(default_factory=dict)

    def variable(self, stem: str, most: float | None, *, integer: bool) -> pulp.LpVariable:
        """A variable from 0 to `most`. PuLP sorts by name, so the stems are numbered to keep one order on every run."""
        return self.program.add_variable(stem, 0, most, pulp.LpInteger if integer else pulp.LpContinuous)

    def require(self, name: str, terms: Sequence[Term], sense: int, bound: float) -> None:
        """Add the constraint `terms (sense) bound` under its name."""
        row = pulp.LpConstraint(pulp.LpAffineExpression(list(terms)), sense, f"c{len(self.rows):06d}", bound)
        self.rows[name] = row
        self.program.addConstraint(row)


def define_units(model: Model) -> None:
    """Units on each rung: kept, still awaited, taken."""
    for i, ladder in enumerate(model.steps):
        most = max(0, ladder.most)
        model.units.append(
            [
                model.variable(f"u{i:05d}_{r:03d}", min(rung.cap, most), integer=True)
                for r, rung in enumerate(ladder.rungs)
            ]
        )


def define_shortage(model: Model) -> None:
    """Units lacking at each time point that lasts and where something may lack."""
    for i, ladder in enumerate(model.steps):
        points = enumerate(zip(ladder.lacking, ladder.weights, strict=True))
        model.lacking.append(
            {
                t: model.variable(f"v{i:05d}_{t:03d}", None, integer=False)
                for t, (lack, price) in points
                if lack > 0 and price > 0
            }
        )


def define_blocks(model: Model) -> None:
    """Blocks opened of each source; continuous where a block is one GPU, as whole units make it whole anyway."""
    drawn = {rung.place for ladder in model.steps for rung in ladder.rungs if rung.held is Held.SOURCE}
    for place in sorted(drawn):
        model.blocks[place] = model.variable(
            f"w{place:05d}", None, integer=model.problem.sources[place].granularity > 1
        )


def define_capacity(model: Model) -> None:
    """`capacity[need@lead=t]`: what has landed by t, and the shortage, cover the demand at t."""
    for i, ladder in enumerate(model.steps):
        for t, lacking in model.lacking[i].items():
            terms = [(unit, 1.0) for unit, rung in zip(model.units[i], ladder.rungs, strict=True) if rung.first <= t]
            name = f"capacity[{ladder.need.key}@lead={ladder.points[t]:g}]"
            model.require(name, [*terms, (lacking, 1.0)], pulp.LpConstraintGE, ladder.lacking[t])


def define_bounds(model: Model) -> None:
    """`minimum[need]` (elastic) and `maximum[need]`."""
    for i, ladder in enumerate(model.steps):
        terms = [(unit, 1.0) for unit in model.units[i]]
        model.require(f"maximum[{ladder.need.key}]", terms, pulp.LpConstraintLE, max(0, ladder.most))
        if ladder.least > 0:
            model.missing[i] = model.variable(f"m{i:05d}", ladder.least, integer=True)
            terms.append((model.missing[i], 1.0))
            model.require(f"minimum[{ladder.need.key}]", terms, pulp.LpConstraintGE, ladder.least)


def define_stock(model: Model) -> None:
    """`stock[source]` and `whole[source]`: units draw on opened blocks, blocks on the stock."""
    users: dict[int, list[Term]] = {place: [] for place in model.blocks}
    for ladder, units in zip(model.steps, model.units, strict=True):
        for rung, unit in zip(ladder.rungs, units, strict=True):
            if rung.held is Held.SOURCE:
                users[rung.place].append((unit, float(ladder.need.gpus_per_unit)))
    for place, blocks in model.blocks.items():
        source = model.problem.sources[place]
        terms = [*users[place], (blocks, -float(source.granularity))]
        model.require(f"whole[{source.key}]", terms, pulp.LpConstraintLE, 0.0)
        stock = UNLIMITED if source.gpus is None else source.gpus // source.granularity
        if stock < UNLIMITED:
            model.require(f"stock[{source.key}]", [(blocks, 1.0)], pulp.LpConstraintLE, stock)


def define_budget(model: Model) -> None:
    """`budget`: the price per hour of all that is held."""
    budget = model.problem.rules.budget_per_hour
    if budget is None:
        return
    committed = 0.0
    terms: list[Term] = []
    for ladder, units in zip(model.steps, model.units, strict=True):
        committed += ladder.firm * ladder.need.gpus_per_unit * ladder.need.price_per_gpu_hour
        terms.extend(
            (u, rung.spend) for u, rung in zip(units, ladder.rungs, strict=True) if rung.held is not Held.SOURCE
        )
    for place, blocks in model.blocks.items():
        source = model.problem.sources[place]
        terms.append((blocks, source.granularity * source.price_per_gpu_hour))
    model.require("budget", terms, pulp.LpConstraintLE, budget - committed)


def define_preemption(model: Model) -> None:
    """`max_gpus_preempted`: GPUs taken from somebody else."""
    limit = model.problem.rules.max_gpus_preempted
    if limit is None:
        return
    sources = model.problem.sources
    terms = [
        (blocks, float(sources[place].granularity)) for place, blocks in model.blocks.items() if sources[place].preempts
    ]
    if terms:
        model.require("max_gpus_preempted", terms, pulp.LpConstraintLE, limit)


def define_objective(model: Model) -> None:
    """What the plan costs until the horizon."""
    hours = model.problem.horizon_s / HOUR_S
    penalty = minimum_price(model.problem)
    churn = model.problem.rules.churn_price
    terms: list[Term] = [(missing, penalty) for missing in model.missing.values()]
    for i, ladder in enumerate(model.steps):
        terms.extend((lacking, ladder.weights[t]) for t, lacking in model.lacking[i].items())
        for rung, unit in zip(ladder.rungs, model.units[i], strict=True):
            terms.append((unit, churn if rung.held is Held.SOURCE else rung.cost))
    for place, blocks in model.blocks.items():
        source = model.problem.sources[place]
        per_gpu = source.price_per_gpu_hour * hours + source.one_off_price
        terms.append((blocks, source.granularity * per_gpu))
    model.program.setObjective(pulp.LpAffineExpression(terms))


def build(problem: Problem, steps: Sequence[Ladder]) -> Model:
    """Write the whole program."""
    model = Model(problem, steps, pulp.LpProblem("supply", pulp.LpMinimize))
    define_units(model)
    define_shortage(model)
    define_blocks(model)
    define_capacity(model)
    define_bounds(model)
    define_stock(model)
    define_budget(model)
    define_preemption(model)
    define_objective(model)
    return model
