"""Where the prepared GPUs are too few for as much load as there has been, and what is lacking must come from training.

A shortage lasts as long as an order made when it shows takes. For a free GPU that is a start; but where a load such as
there was of late needs more GPUs than are prepared, the ones that will lack come when training has left, and free ones
are worth having ahead for as long. Example (`economics`): a replica lacking costs 100 an hour, one running 2.5; a start
takes 98 s, training's GPUs 244 s: instead of 97.5 x 98 / (97.5 x 98 + 2.5 x 300) = 93 % the free ones are ordered on
97.5 x 244 / (97.5 x 244 + 750) = 97 %.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from autoscaler.demand import engine_now, velocity_now
from autoscaler.model import Role, Tier

if TYPE_CHECKING:
    from autoscaler.memory import Memory, RoleMemory
    from autoscaler.model import Observation, Stock
    from autoscaler.rules import RoleRules, Rules


def with_scarce_stock(rules: Rules, seen: Observation, memory: Memory) -> Rules:
    """The rules with `short_s` of free GPUs, where training's are what comes after them.

    Independent of how many replicas there are, so that it does not keep itself up, and never less for a higher load.
    """
    taken = {rung.accelerator: rung.lead_s for rung in rules.supply if rung.tier is Tier.PREEMPT}
    scarce = {}
    for stock in seen.stocks:
        lead_s, own = taken.get(stock.accelerator), _own(seen, stock)
        if lead_s is None or own is None or not stock.preemptible:
            continue
        roles = (rule for rule in rules.roles if rule.accelerator == stock.accelerator)
        if sum(_peak_gpus(memory.of(rule.key), rule) for rule in roles) > own:
            scarce[stock.accelerator] = lead_s
    if not scarce:
        return rules
    supply = tuple(
        replace(rung, short_s=max(rung.lead_s, scarce[rung.accelerator]))
        if rung.tier is Tier.START and rung.accelerator in scarce
        else rung
        for rung in rules.supply
    )
    return replace(rules, supply=supply)


def _own(seen: Observation, stock: Stock) -> int | None:
    """GPUs for the pools without those that training waits for; None where that is not told."""
    if stock.free is None:
        return None
    lent = seen.supply.lent if seen.supply is not None else ()
    return max(0, stock.free - sum(one.gpus for one in lent if one.accelerator == stock.accelerator))


def _peak_gpus(known: RoleMemory, rule: RoleRules) -> int:
    """GPUs that the highest load remembered would keep busy; 0 while none is remembered."""
    series = known.prompt_load if rule.key.role is Role.PREFILL else known.output_load
    if series.newest is None:
        return 0
    engine, learned = engine_now(known, rule)
    each = velocity_now(known, rule, engine, learned).tokens * known.engines_per_replica
    most = max(series.newest[1], float(series.values.max()))
    return rule.gpus * min(rule.maximum, math.ceil(max(most, 0.0) / each)) if each > 0 else 0
