"""How far ahead the plan must look: only as far as what is prepared cannot be had in time.

A load foreseen further ahead than a free GPU takes to serve asks for nothing now while the free GPUs are enough for it:
they can still be started when it is nearer, on a bound that is narrower. Only where they are too few must something
slower be ordered, and the bound at that tier's own lead time counts. Example: eight GPUs, of which two serve; starts
take 100 s, nodes 900 s. Six replicas wanted at most in 900 s are no matter yet; ten are, and a node is ordered for two.

Without this a pool kept for hours what an upper quantile far ahead might need: a rush of two hours with nodes to buy
took 20.6 GPU-hours for 98.4 % within the SLO, with it 14.5 for 97.6 %; unlimited free GPUs take 11.7 for 97.0 %
(`notebooks/03_what_the_plan_buys.ipynb`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from autoscaler.model import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.model import Observation, RoleKey
    from autoscaler.rules import RoleRules, Rules

Points = tuple[tuple[float, int], ...]
"""(Seconds ahead, replicas needed then), ascending."""


class Holding(Protocol):
    """The replicas of a role: arrived, still counted on to arrive, and asked for so far."""

    @property
    def arrived(self) -> int:
        """Ready replicas."""
        ...

    @property
    def starting(self) -> int:
        """Replicas on their way."""
        ...

    @property
    def base(self) -> int:
        """Replicas asked for so far."""
        ...

    @property
    def asleep(self) -> int:
        """Replicas beside these that sleep, and that nobody has asked for: only their own role can have their GPUs."""
        ...


def within_reach(
    needs: Mapping[RoleKey, Points], counts: Mapping[RoleKey, Holding], seen: Observation, rules: Rules
) -> dict[RoleKey, Points]:
    """Of the needs of each judged role those that are to be planned for now.

    Those within the lead time of free GPUs always; later ones where all roles on that kind of GPU together want more
    then than is prepared. Kinds without a START rung keep all. More load never leaves fewer.
    """
    found: dict[RoleKey, Points] = {}
    prepared = {stock.accelerator: stock.free for stock in seen.stocks}
    for name in dict.fromkeys(rule.accelerator for rule in rules.roles):
        roles = [rule for rule in rules.roles if rule.accelerator == name]
        judged = [rule for rule in roles if rule.key in needs]
        starts = [rung.lead_s for rung in rules.supply if rung.accelerator == name and rung.tier is Tier.START]
        near, free = max(starts, default=float("inf")), prepared.get(name)
        later = {ahead for rule in judged for ahead, _ in needs[rule.key] if ahead > near}
        short = {at for at in later if free is not None and sum(_gpus(r, needs, counts, at) for r in roles) > free}
        for rule in judged:
            found[rule.key] = tuple(point for point in needs[rule.key] if point[0] <= near or point[0] in short)
    return found


def _gpus(rule: RoleRules, needs: Mapping[RoleKey, Points], counts: Mapping[RoleKey, Holding], at: float) -> int:
    """GPUs that a role may hold at a time ahead; one that is not judged all that it has or was asked for."""
    here = counts[rule.key]
    if rule.key not in needs:
        return rule.gpus * (here.asleep + max(here.arrived + here.starting, here.base))
    needed = max((number for ahead, number in needs[rule.key] if ahead <= at), default=0)
    needed = max(min(needed, rule.maximum), rule.minimum)
    return rule.gpus * max(needed, min(needed, here.arrived) + here.asleep)
