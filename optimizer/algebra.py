"""The supply problem as an integer program: one `define_*` per family of variables and constraints, each named.

With periods i of h_i hours, replicas x[w,i] of way w serving in i, of which u[w,i] began to, opened blocks n[l,i] of
lot l and shortage y[p,i,k] of pool p in price segment k, minimise

    sum h_i (x price + n price + y price + cross-domain pairs x price) + starts + releases + opened blocks + penalties

subject to

    capacity[p/r@t]    sum of capacity x + shortage >= demand              of every role at every time point
    burst[p/r@t]       the same with converted replicas >= demand + burst
    pairs[p/r/d@t]     what is served within domain d <= capacity of the role in d
    served[p@t]        served within domains + across + shortage = demand
    cross[p@t]         across <= share of what is served
    link[d@t]          load of what is served within d <= link
    minimum, maximum   replicas of a role over all variants: serving or ordered now; serving or on their way
    ratio[p@t]         replicas of one role per replica of another
    stock[l@t]         GPUs occupied <= GPUs of opened blocks, by width where replicas must lie whole in a fragment
    starts[w,i]        x[w,i] - x[w,i-1] <= u[w,i];  kept[w,i]  x[w,i] <= x[w,i-1] of what already exists
    opened, billed     n[l,i] - n[l,i-1] <= b[l,i];  n[l,i] >= blocks opened less than the minimum billing ago
    rested             a gang given back runs for its minimum before it is taken again
    order              gangs of lower priority go first
    budget, max_gpus_preempted, disruption, quota, waves   sums over pools at every time point

Minimums are elastic at a price above everything else, so that a problem whose minimums cannot be met still gets its
best plan and the names of what clashed. Rules in `relaxed` are elastic too. What is starting has to be awaited; where a
rule forbids that (a quota of 0, say) the program has no answer, and `relax` looks for what gives way.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from optimizer.ladder import Held
from optimizer.limits import (
    define_bounds,
    define_budget,
    define_links,
    define_order,
    define_preemption,
    define_quotas,
    define_ratios,
    define_stock,
    define_waves,
)
from optimizer.lots import EPSILON_S, paired
from optimizer.model import Model, gives, role_name
from optimizer.problem import HOUR_S, Rule
from optimizer.program import INF
from optimizer.worth import wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optimizer.ladder import Ladder
    from optimizer.program import Term


def define_replicas(model: Model) -> None:
    """`x`: replicas of each way serving in each period; `u`: those that begin to. What exists only shrinks."""
    program, ladder = model.program, model.ladder
    for w, way in enumerate(ladder.ways):
        stem = f"{w}"
        hours = ladder.hours[way.first :]
        existing = way.held is not Held.SOURCE
        columns = [
            program.column(f"x[{stem},{i}]", upper=way.cap, cost=way.hour_price * span, whole=True)
            for i, span in enumerate(hours, way.first)
        ]
        model.serving.append(columns)
        if existing:
            program.constant += way.release_price * way.cap
            program.cost[columns[-1]] -= way.release_price
            if way.held is Held.STARTING and model.firm(way.pool, way.role):
                program.lower[columns[0]] = way.cap
            for i, (one, after) in enumerate(pairwise(columns), way.first):
                program.row(f"kept[{stem},{i + 1}]", ((after, 1.0), (one, -1.0)), most=0.0)
            model.begun.append([])
            continue
        begun = []
        for i, column in enumerate(columns, way.first):
            start = program.column(f"u[{stem},{i}]", upper=way.cap, cost=way.start_price)
            begun.append(start)
            earlier = [(columns[i - way.first - 1], -1.0)] if i > way.first else []
            program.row(f"starts[{stem},{i}]", ((column, 1.0), *earlier, (start, -1.0)), most=0.0)
        model.begun.append(begun)


def define_blocks(model: Model) -> None:
    """`n`: blocks held of each gang, offer and blockwise source; `b`: those opened; minimum billing and its rest."""
    program, ladder = model.program, model.ladder
    drawn = {lot for way in ladder.ways if way.shelf is not None for lot in ladder.shelves[way.shelf].lots}
    for index, lot in enumerate(ladder.lots):
        if lot.loose or (index not in drawn and not lot.held):
            continue
        most = lot.blocks if lot.blocks is not None else INF
        opened, bought = [], []
        for i, (point, span) in enumerate(zip(ladder.points, ladder.hours, strict=True)):
            upper = min(most, lot.held) if i < lot.ready else most
            lower = lot.held if point < lot.paid_s - EPSILON_S else 0
            opened.append(
                program.column(f"n[{lot.key},{i}]", upper=upper, lower=lower, cost=lot.hold_price * span, whole=True)
            )
            left = max(0.0, lot.min_hold_s - (ladder.problem.horizon_s - point))
            price = lot.open_price + lot.hold_price * left / HOUR_S
            early = i < lot.ready or (lot.held and point < lot.rest_s - EPSILON_S)
            bought.append(program.column(f"b[{lot.key},{i}]", upper=0.0 if early else INF, cost=price))
            earlier = [(opened[i - 1], -1.0)] if i else []
            terms = ((opened[i], 1.0), *earlier, (bought[i], -1.0))
            program.row(f"opened[{lot.key},{i}]", terms, most=0.0 if i else lot.held)
        model.opened[index], model.bought[index] = opened, bought
        _define_billing(model, index)
        _define_rest(model, index)


def _define_billing(model: Model, index: int) -> None:
    """`billed`: blocks bought less than the minimum billing ago stay, beside those that are paid for already."""
    lot, points = model.ladder.lots[index], model.ladder.points
    for i, point in enumerate(points if lot.min_hold_s > 0 else ()):
        young = [j for j in range(i + 1) if point < points[j] + lot.min_hold_s - EPSILON_S]
        if young:
            paid = lot.held if point < lot.paid_s - EPSILON_S else 0
            terms = ((model.opened[index][i], 1.0), *((model.bought[index][j], -1.0) for j in young))
            model.program.row(f"billed[{lot.key},{i}]", terms, least=paid)


def _define_rest(model: Model, index: int) -> None:
    """`rested`: a gang that was given back is taken again only after it had its requeue, minimum run and lead time."""
    lot, points = model.ladder.lots[index], model.ladder.points
    for i in range(2, len(points) if lot.rest_s > 0 else 0):
        near = [j for j in range(i - 1) if points[i] - points[j + 1] < lot.rest_s - EPSILON_S]
        if near:
            terms = [*((model.opened[index][j], 1.0) for j in near), (model.bought[index][i], float(len(near)))]
            model.program.row(f"rested[{lot.key},{i}]", terms, most=float(len(near)))


def define_shortage(model: Model) -> None:
    """`y`: demand lacking, by price segment."""
    for p, pool in enumerate(model.ladder.problem.pools):
        needs = wanted(pool, model.ladder.points, model.ladder.problem.horizon_s)
        model.needs.append(needs)
        columns = []
        for i, (need, span) in enumerate(zip(needs, model.ladder.hours, strict=True)):
            columns.append(
                [
                    model.program.column(f"y[{p},{i},{k}]", upper=segment.width, cost=segment.price * span)
                    for k, segment in enumerate(need.segments)
                ]
            )
        model.lacking.append(columns)


def define_capacity(model: Model) -> None:
    """`capacity[pool/role@t]`: what serves, less what conversion takes, and the shortage cover demand."""
    for p, pool in enumerate(model.ladder.problem.pools):
        for r in range(len(pool.roles)):
            ways = model.of_role(p, r)
            for i, need in enumerate(model.needs[p]):
                if not need.segments:
                    continue
                terms = [
                    (column, model.ladder.ways[w].capacity) for w in ways if (column := model.there(w, i)) is not None
                ]
                terms += [(column, -lost) for _, column, lost in _conversions(model, p, i, giving=r) if lost]
                terms += [(column, 1.0) for column in model.lacking[p][i]]
                model.program.row(f"capacity[{role_name(pool, r)}{model.at(i)}]", terms, least=need.amount)


def _conversions(model: Model, p: int, i: int, *, giving: int) -> Iterator[tuple[int, int, float]]:
    for v, variant in enumerate(model.ladder.problem.pools[p].roles[giving].variants):
        column = model.converted.get((p, giving, v, i))
        if column is not None and variant.convertible is not None:
            yield v, column, variant.convertible.lost


def define_bursts(model: Model) -> None:
    """`convert`: replicas kept ready to; `burst[pool/role@t]`: with them and spare capacity the burst is met."""
    program, ladder = model.program, model.ladder
    for p, pool in enumerate(ladder.problem.pools):
        for i, (need, span) in enumerate(zip(model.needs[p], ladder.hours, strict=True)):
            if need.burst <= 0:
                continue
            helps: dict[str, list[Term]] = {}
            for r, role in enumerate(pool.roles):
                for v, variant in enumerate(role.variants):
                    turn = variant.convertible
                    mine = [w for w in model.of_role(p, r) if ladder.ways[w].variant == v]
                    there = [(column, -1.0) for w in mine if (column := model.there(w, i)) is not None]
                    if turn is None or not there:
                        continue
                    column = program.column(f"convert[{p},{r},{v},{i}]", cost=turn.price_per_hour * span, whole=True)
                    model.converted[p, r, v, i] = column
                    helps.setdefault(turn.role, []).append((column, turn.capacity))
                    program.row(f"convertible[{role_name(pool, r)}{model.at(i)}]", [(column, 1.0), *there], most=0.0)
            lack = program.column(f"z[{p},{i}]", upper=need.burst, cost=pool.burst_price * span)
            model.bursts[p, i] = lack
            for r, role in enumerate(pool.roles):
                ways = model.of_role(p, r)
                terms = [(column, ladder.ways[w].capacity) for w in ways if (column := model.there(w, i)) is not None]
                terms += [(column, 1.0) for column in model.lacking[p][i]]
                terms += [*helps.get(role.key, []), (lack, 1.0)]
                name = f"burst[{role_name(pool, r)}{model.at(i)}]"
                program.row(name, terms, least=need.amount + need.burst)


def meeting(ladder: Ladder, p: int) -> tuple[str, ...]:
    """The domains in which a pool's roles can meet, where that matters; empty where it does not."""
    if not paired(ladder.problem, ladder.problem.pools[p]):
        return ()
    return tuple(sorted({ladder.ways[w].domain for w in ladder.of[p]}))


def define_pairs(model: Model) -> None:
    """`pairs`, `served`, `cross`: what roles serve together within a domain, and across domains at a price."""
    program, ladder = model.program, model.ladder
    share = ladder.problem.rules.cross_share
    for p, pool in enumerate(ladder.problem.pools):
        domains = model.domains[p] = meeting(ladder, p)
        for i, need in enumerate(model.needs[p] if domains else ()):
            if not need.segments:
                continue
            within = {d: program.column(f"w[{p},{d},{i}]", upper=need.amount) for d in domains if d}
            cost = pool.cross_price * ladder.hours[i]
            across = program.column(f"c[{p},{i}]", upper=need.amount, cost=cost)
            for r in range(len(pool.roles)):
                for d, column in within.items():
                    ways = [w for w in model.of_role(p, r) if ladder.ways[w].domain == d]
                    terms = [(x, ladder.ways[w].capacity) for w in ways if (x := model.there(w, i)) is not None]
                    name = f"pairs[{role_name(pool, r)}/{d}{model.at(i)}]"
                    program.row(name, [*terms, (column, -1.0)], least=0.0)
            everything = [(column, 1.0) for column in (*within.values(), across, *model.lacking[p][i])]
            program.row(f"served[{pool.key}{model.at(i)}]", everything, least=need.amount, most=need.amount)
            if share is not None:
                terms = [(across, 1.0 - share), *((column, -share) for column in within.values())]
                if Rule.TOPOLOGY in model.relaxed:
                    terms.append((gives(model, Rule.TOPOLOGY), -1.0))
                program.row(f"cross[{pool.key}{model.at(i)}]", terms, most=0.0)
            model.within[p, i], model.across[p, i] = within, across


DEFINITIONS = (
    define_replicas,
    define_blocks,
    define_shortage,
    define_bursts,
    define_capacity,
    define_pairs,
    define_links,
    define_bounds,
    define_ratios,
    define_stock,
    define_waves,
    define_order,
    define_budget,
    define_preemption,
    define_quotas,
)
"""In the order in which they need each other."""


def build(ladder: Ladder, relaxed: frozenset[Rule] = frozenset(), *, awaiting: bool = True) -> Model:
    """Write the whole program; rules in `relaxed` may give way, measured by the columns `Model.gave`.

    Without `awaiting` what is starting may be given up: then there always is an answer.
    """
    model = Model(ladder, relaxed, awaiting)
    for define in DEFINITIONS:
        define(model)
    return model
