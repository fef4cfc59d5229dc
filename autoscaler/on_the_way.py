"""When the replicas on their way will serve: only those that GPUs are there for can do so a start from now.

Replicas asked for beyond the free GPUs wait, for training to leave or for a node. Counted as if they had GPUs, they hid
the shortage that training's GPUs should bridge until the node is there. With nodes to buy and two roles in starts of 35
s the plan then met 74.6 % of the SLO, and unlimited free GPUs 79.6 % (`bench/preemption.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from autoscaler.model import Tier
from autoscaler.reach import Holding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.model import Observation, RoleKey
    from autoscaler.rules import RoleRules, Rules
    from autoscaler.supply import Supply


Group = tuple[float, int]
"""(Seconds until they serve, how many replicas)."""


class Standing(Holding, Protocol):
    """The replicas of a role, and which of those on their way only wake up."""

    @property
    def waking(self) -> int:
        """Those of `starting` that are being woken."""
        ...


@dataclass(frozen=True, slots=True)
class OnTheWay:
    """The replicas of a role that were asked for and do not serve yet.

    Attributes:
        starting: (seconds until they serve, how many) of those that have their GPUs; None without any.
        waiting: the same of those whose GPUs are on their way, in the order in which these come.
        ungrounded: how many wait for GPUs that neither are there nor have been ordered, as far as is seen.
    """

    starting: Group | None = None
    waiting: tuple[Group, ...] = ()
    ungrounded: int = 0

    @property
    def groups(self) -> tuple[Group, ...]:
        """All that can be counted on."""
        return self.waiting if self.starting is None else (self.starting, *self.waiting)

    @property
    def waits(self) -> Iterator[str]:
        """What is to be said of those that wait for GPUs."""
        for lands_s, number in self.waiting:
            yield f"{number} asked for before wait for GPUs on their way, serving in {lands_s:.0f} s"


@dataclass(slots=True)
class Ground:
    """GPUs that replicas can be put on, and when these then serve, seconds from now."""

    accelerator: str
    gpus: int
    lands_s: float


def on_the_way(
    counts: Mapping[RoleKey, Standing], seen: Observation, rules: Rules
) -> tuple[dict[RoleKey, OnTheWay], tuple[Ground, ...]]:
    """Each role's replicas on their way, on the GPUs of its kind that there are or will be; and which will be left.

    Those that wake up have theirs. The others are put on free GPUs first, then on what is being left, then on nodes
    that were ordered, each at what remains of that tier's lead time, and never sooner than a start. Roles on the same
    kind of GPU take turns. Where it is not told how many GPUs are free, all are taken to have theirs.
    """
    found: dict[RoleKey, OnTheWay] = {}
    spare: list[Ground] = []
    stocks = {stock.accelerator: stock for stock in seen.stocks}
    for name in dict.fromkeys(rule.accelerator for rule in rules.roles):
        roles = [rule for rule in rules.roles if rule.accelerator == name]
        leads = {rung.tier: rung.lead_s for rung in rules.supply if rung.accelerator == name}
        stock, start_s = stocks.get(name), min(leads.values(), default=0.0)
        waits = {rule.key: counts[rule.key].starting - waking(rule, counts[rule.key], rules) for rule in roles}
        if stock is None or stock.free is None:
            found |= {key: OnTheWay((start_s, number) if number else None) for key, number in waits.items()}
            continue
        held = sum(
            rule.gpus
            * (counts[rule.key].arrived + counts[rule.key].asleep + counts[rule.key].starting - waits[rule.key])
            for rule in roles
        )
        later = list(_later(stock.free, name, leads, seen))
        found |= _settled(roles, waits, Ground(name, stock.free - held, start_s), later)
        spare += [ground for ground in later if ground.gpus > 0]
    return found, tuple(spare)


def waking(rule: RoleRules, counts: Standing, rules: Rules) -> int:
    """Replicas on their way that only wake up; where none can be woken they start as others do."""
    return counts.waking if rule.key in rules.wakes else 0


def _later(free: int, name: str, leads: Mapping[Tier, float], seen: Observation) -> Iterator[Ground]:
    """GPUs that are being left, and those of nodes that were ordered."""
    if seen.supply is None:
        return
    start_s = min(leads.values(), default=0.0)
    told_at = max((one.since for one in seen.supply.lent if one.accelerator == name), default=seen.at)
    going_s = leads.get(Tier.PREEMPT, start_s) - (seen.at - told_at)
    yield Ground(name, _leaving(name, free, seen.supply), max(start_s, going_s))
    node_s = leads.get(Tier.PROVISION, start_s)
    for one in sorted(seen.supply.coming, key=lambda one: (one.since is None, one.since or 0.0, one.key)):
        if one.accelerator == name:
            ordered_at = one.since if one.since is not None else seen.at
            yield Ground(name, one.gpus, max(start_s, node_s - (seen.at - ordered_at)))


def _leaving(name: str, free: int, supply: Supply) -> int:
    """GPUs whose pods are going and that are not counted as free yet (those that go within moments are)."""
    domains = [one for one in supply.domains if one.accelerator == name]
    going = sum(one.terminating for one in domains)
    return max(0, min(going, sum(one.free + one.terminating + one.serving for one in domains) - free))


def _settled(
    roles: Sequence[RoleRules], waits: Mapping[RoleKey, int], free: Ground, later: Sequence[Ground]
) -> dict[RoleKey, OnTheWay]:
    """Replicas put on GPUs one by one, the roles taking turns."""
    left = dict(waits)

    def put(ground: Ground) -> dict[RoleKey, int]:
        taken = dict.fromkeys(left, 0)
        able = [rule for rule in roles if left[rule.key] and rule.gpus <= ground.gpus]
        while able:
            for rule in able:
                if rule.gpus <= ground.gpus:
                    ground.gpus -= rule.gpus
                    left[rule.key] -= 1
                    taken[rule.key] += 1
            able = [rule for rule in able if left[rule.key] and rule.gpus <= ground.gpus]
        return taken

    now = put(free)
    then = [(ground.lands_s, put(ground)) for ground in later]
    return {
        key: OnTheWay(
            (free.lands_s, now[key]) if now[key] else None,
            tuple((lands_s, taken[key]) for lands_s, taken in then if taken[key]),
            lacking,
        )
        for key, lacking in left.items()
    }
