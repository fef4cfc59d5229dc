"""Which quantile of the load a tier is ordered on: the newsvendor's critical ratio (Arrow, Harris, Marschak 1951).

    q = Cu / (Cu + Co)
    Cu = (shortage price - price of running) x lead time              one replica too few: lacking until another arrives
    Co = price of running x commitment + one-off price                one replica too many: paid for until given back

A shortage lasts as long as an order made when it shows takes, so the slower the tier the more an order too few costs; a
surplus is paid for as long as the tier binds, and at least as long as the wish is stabilised. Example: a replica that
lacks costs 20 an hour, one running 2.5; a start takes 200 s and is kept for 300 s at least:
Cu = 17.5 * 200 = 3500, Co = 2.5 * 300 = 750, q = 3500 / 4250 = 0.824.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoscaler.rules import RoleRules, Rules, SupplyRules


def critical_ratio(rung: SupplyRules, rule: RoleRules, stabilise_s: float) -> float:
    """The newsvendor's ratio for one replica of a role from one rung, 0..1."""
    running = rung.price_per_gpu_hour * rule.gpus
    lasts_s = rung.lead_s if rung.short_s is None else rung.short_s
    short = max(rule.shortage_price - running, 0.0) * lasts_s
    idle = running * max(rung.commitment_s, stabilise_s) + rung.one_off_price * rule.gpus * 3600.0
    return short / (short + idle) if short + idle > 0 else 1.0


def tier_quantile(rung: SupplyRules, rule: RoleRules, rules: Rules) -> tuple[float, str]:
    """The quantile this tier is ordered on for this role, and why in words."""
    if rules.quantile is not None:
        return rules.quantile, "configured"
    ratio = critical_ratio(rung, rule, rules.guards.stabilise_down_s)
    quantile = min(max(ratio, rules.least_quantile), rules.most_quantile)
    words = f"a replica lacking against one idle gives {ratio:.0%}"
    if rung.short_s is not None:
        words += f", lacking {rung.short_s:.0f} s until training's GPUs serve"
    if quantile != ratio:
        words += f", {'at least' if quantile > ratio else 'at most'} {quantile:.0%}"
    return quantile, words
