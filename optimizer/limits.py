"""Constraints of the integer program that limit: bounds, stocks, priorities, money, quotas.

Each `define_*` writes one family; `algebra` says what they all are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.ladder import Held
from optimizer.model import gives, minimum_price, role_name
from optimizer.problem import Rule, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.ladder import Ladder
    from optimizer.model import Model
    from optimizer.program import Term


def define_links(model: Model) -> None:
    """`link[domain@t]`: load within a domain."""
    for domain in model.ladder.problem.domains:
        if domain.link is None:
            continue
        for i in range(len(model.ladder.points)):
            terms = [
                (within[domain.key], model.ladder.problem.pools[p].link_per_unit)
                for (p, at), within in model.within.items()
                if at == i and domain.key in within and model.ladder.problem.pools[p].link_per_unit
            ]
            if terms:
                model.program.row(f"link[{domain.key}{model.at(i)}]", terms, most=domain.link)


def define_bounds(model: Model) -> None:
    """`minimum` (elastic) and `maximum` of replicas wanted at every time point."""
    program, ladder = model.program, model.ladder
    price = minimum_price(ladder)
    for p, pool in enumerate(ladder.problem.pools):
        for r, role in enumerate(pool.roles):
            ways = model.of_role(p, r)
            name = role_name(pool, r)
            reach = sum(ladder.ways[w].cap for w in ways)
            minimum = ladder.minimums[p][r]
            if minimum > 0:
                model.missing[p, r] = program.column(f"m[{p},{r}]", upper=minimum, cost=price, whole=True)
            for i in range(len(ladder.points)):
                if reach > role.maximum:
                    terms = [term for w in ways for term in model.asked(w, i, 1.0)]
                    program.row(f"maximum[{name}{model.at(i)}]", terms, most=role.maximum)
                if minimum > 0:
                    terms = [*((model.counted(w, i), 1.0) for w in ways), (model.missing[p, r], 1.0)]
                    program.row(f"minimum[{name}{model.at(i)}]", terms, least=minimum)


def define_ratios(model: Model) -> None:
    """`ratio[pool@t]`: replicas serving of one role per replica of another."""
    for p, pool in enumerate(model.ladder.problem.pools):
        numbers = {role.key: r for r, role in enumerate(pool.roles)}
        for ratio in pool.ratios:
            for i in range(len(model.ladder.points)):
                own = [c for w in model.of_role(p, numbers[ratio.role]) if (c := model.there(w, i)) is not None]
                per = [c for w in model.of_role(p, numbers[ratio.per]) if (c := model.there(w, i)) is not None]
                name = f"{pool.key}:{ratio.role}/{ratio.per}{model.at(i)}"
                slack: list[Term] = []
                if Rule.RATIO in model.relaxed:
                    slack = [(gives(model, Rule.RATIO), -1.0)]
                most = [*((c, 1.0) for c in own), *((c, -ratio.most) for c in per), *slack]
                model.program.row(f"ratio_most[{name}]", most, most=0.0)
                if ratio.least > 0:
                    least = [*((c, -1.0) for c in own), *((c, ratio.least) for c in per), *slack]
                    model.program.row(f"ratio_least[{name}]", least, most=0.0)


def _users(ladder: Ladder) -> dict[int, list[int]]:
    users: dict[int, list[int]] = {}
    for w, way in enumerate(ladder.ways):
        if way.shelf is not None:
            users.setdefault(way.shelf, []).append(w)
    return users


def define_stock(model: Model) -> None:
    """`stock[shelf@t]`: GPUs occupied by replicas of each width or wider lie within the slots of the open blocks."""
    ladder = model.ladder
    for place, ways in sorted(_users(ladder).items()):
        shelf = ladder.shelves[place]
        if not shelf.limited:
            continue
        widths = sorted({ladder.ways[w].gpus for w in ways}) if shelf.whole else [1]
        for i in range(len(ladder.points)):
            for width in widths:
                wide = [w for w in ways if ladder.ways[w].gpus >= width]
                terms = [term for w in wide for term in model.occupied(w, i, ladder.ways[w].gpus)]
                if not terms:
                    continue
                slots = [(lot, ladder.lots[lot].slots(width)) for lot in shelf.lots]
                most = float(sum(gpus for _, gpus in slots)) if shelf.loose else 0.0
                if not shelf.loose:
                    terms += [(model.opened[lot][i], -float(gpus)) for lot, gpus in slots]
                name = shelf_name(ladder, place)
                detail = f"/{width}" if len(widths) > 1 else ""
                model.program.row(f"stock[{name}{detail}{model.at(i)}]", terms, most=most)


def shelf_name(ladder: Ladder, place: int) -> str:
    """A shelf by its lots: the first and how many more."""
    lots = ladder.shelves[place].lots
    return ladder.lots[lots[0]].key + (f"+{len(lots) - 1}" if len(lots) > 1 else "")


def define_waves(model: Model) -> None:
    """`waves`: no more replicas of a variant start at once than its sources of weights can feed."""
    ladder = model.ladder
    groups: dict[tuple[int, int, int, int], list[int]] = {}
    for w, way in enumerate(ladder.ways):
        if way.shelf is not None and way.held is Held.SOURCE and ladder.shelves[way.shelf].tier is not Tier.WAKE:
            groups.setdefault((way.pool, way.role, way.variant, way.wave), []).append(w)
    for (p, r, v, n), ways in groups.items():
        wave = ladder.problem.pools[p].roles[r].variants[v].waves[n]
        if wave.replicas is None:
            continue
        for i in range(len(ladder.points)):
            terms = [(column, 1.0) for w in ways for column in model.pending(w, i, wave.start_s)]
            if terms:
                name = f"waves[{role_name(ladder.problem.pools[p], r)}/{n}{model.at(i)}]"
                model.program.row(name, terms, most=wave.replicas)


def define_order(model: Model) -> None:
    """`order[gang@t]`: a gang is held only while all of lower priority that a replica fits into are."""
    ladder = model.ladder
    if not ladder.problem.rules.priority_order:
        return
    places: dict[tuple[str, str], list[int]] = {}
    for index in model.opened:
        if ladder.lots[index].priority is not None:
            places.setdefault((ladder.lots[index].accelerator, ladder.lots[index].domain), []).append(index)
    for gangs in places.values():
        levels: dict[int, list[int]] = {}
        for index in gangs:
            levels.setdefault(ladder.lots[index].priority or 0, []).append(index)
        ranks = sorted(levels)
        for n, high in enumerate(ranks):
            below = [levels[rank] for rank in reversed(ranks[:n])]
            for index in (index for index in levels[high] if not ladder.lots[index].held):
                lot = ladder.lots[index]
                for i in range(lot.ready, len(ladder.points)):
                    lower = _next_below(ladder, below, i)
                    if lower:
                        terms = [(model.opened[index][i], float(len(lower)))]
                        terms += [(model.opened[g][i], -1.0) for g in lower]
                        model.program.row(f"order[{lot.key}{model.at(i)}]", terms, most=0.0)


def _next_below(ladder: Ladder, below: Sequence[Sequence[int]], i: int) -> list[int]:
    """Gangs that have to be held first: ranks downwards until one has a gang that itself waits for those below it."""
    found: list[int] = []
    for level in below:
        ready = [g for g in level if ladder.lots[g].ready <= i]
        found += ready
        if any(not ladder.lots[g].held for g in ready):
            break
    return found


def define_budget(model: Model) -> None:
    """`budget@t`: the price per hour of all that is held; never less than that of nodes that are paid for already."""
    budget = model.ladder.problem.rules.budget_per_hour
    if budget is None:
        return
    slack: list[Term] = [(gives(model, Rule.BUDGET), -1.0)] if Rule.BUDGET in model.relaxed else []
    for i in range(len(model.ladder.points)):
        terms = [t for w, way in enumerate(model.ladder.ways) if way.spend for t in model.occupied(w, i, way.spend)]
        for place, opened in model.opened.items():
            if model.ladder.lots[place].hold_price:
                terms.append((opened[i], model.ladder.lots[place].hold_price))
        if terms:
            model.program.row(f"budget{model.at(i)}", [*terms, *slack], most=max(budget, model.ladder.paid_for(i)))


def define_preemption(model: Model) -> None:
    """`max_gpus_preempted@t`, `disruption[group@t]`: what is held of somebody else's."""
    ladder, rules = model.ladder, model.ladder.problem.rules
    users = _users(ladder)
    taking = [index for index, lot in enumerate(ladder.lots) if lot.tier is Tier.PREEMPT]
    loose = [place for place in users if ladder.shelves[place].loose and ladder.shelves[place].tier is Tier.PREEMPT]
    for i in range(len(ladder.points)):
        if rules.max_gpus_preempted is not None:
            terms: list[Term] = [
                (model.opened[index][i], float(ladder.lots[index].block_gpus))
                for index in taking
                if index in model.opened
            ]
            for w in (w for place in loose for w in users[place]):
                terms.extend(model.occupied(w, i, float(ladder.ways[w].gpus)))
            if terms:
                model.program.row(f"max_gpus_preempted{model.at(i)}", terms, most=rules.max_gpus_preempted)
        for limit in rules.disruptions:
            members = [index for index in taking if ladder.lots[index].group == limit.group and index in model.opened]
            if members:
                name = f"disruption[{limit.group}{model.at(i)}]"
                model.program.row(name, [(model.opened[index][i], 1.0) for index in members], most=limit.most)


def define_quotas(model: Model) -> None:
    """`quota[key@t]`: GPUs held by some pools of some kind."""
    ladder = model.ladder
    for quota in ladder.problem.rules.quotas:
        pools = {p for p, pool in enumerate(ladder.problem.pools) if not quota.pools or pool.key in quota.pools}
        for i in range(len(ladder.points)):
            terms: list[Term] = []
            for w, way in enumerate(ladder.ways):
                variant = ladder.problem.pools[way.pool].roles[way.role].variants[way.variant]
                if way.pool in pools and quota.accelerator in {"", variant.accelerator}:
                    terms.extend(model.occupied(w, i, float(way.gpus)))
            if terms:
                model.program.row(f"quota[{quota.key}{model.at(i)}]", terms, most=quota.gpus)
