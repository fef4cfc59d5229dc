"""Pools over several shards, and what belongs to all of them split so that nothing is promised twice.

A pool belongs to the shard that draws the highest number for it (rendezvous hashing, Thaler and Ravishankar 1998): of
n shards each has about 1/n of the pools, and when one more comes, only the pools move that it now draws highest for,
about 1/(n+1) of them, none between the others.

GPUs are not arbitrated but split: of a stock of g GPUs shard i of n may use the g(i+1)//n - gi//n that begin at gi//n.
These intervals do not overlap and end at g, whatever any shard knows of the others, is told late, or dies. The price is
that a shard may be short while another has some left. Training is split the same way, gang by gang, by its name.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING

from autoscaler.model import Decision, RoleKey, Stock

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.build import Parts
    from autoscaler.cluster.sight_types import Snapshot
    from autoscaler.cluster.training import Training
    from autoscaler.settings import Settings


def shard_of(name: str, of: int) -> int:
    """The shard, 0..of-1, that a name belongs to; the same in every process and on every machine."""
    return max(range(of), key=lambda index: hashlib.blake2b(f"{index}/{name}".encode(), digest_size=8).digest())


def share(total: int, index: int, of: int) -> int:
    """One shard's part of so many indivisible things: the parts of all shards add up to them exactly."""
    return total * (index + 1) // of - total * index // of


@dataclass(frozen=True, slots=True)
class Shard:
    """Which of how many."""

    index: int = 0
    of: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.of == 1

    def named(self, name: str) -> str:
        """A name of the shard's own: its Lease's, its decision's."""
        return name if self.alone else f"{name}-{self.index}-of-{self.of}"

    def excludes(self, name: str, lease: str) -> bool:
        """Whether a Lease of that name is one of another number of shards: they must not be at work beside this one."""
        found = re.fullmatch(rf"{re.escape(lease)}(?:-\d+-of-(\d+))?", name)
        return found is not None and int(found[1] or 1) != self.of

    def has(self, namespace: str, pool: str) -> bool:
        """Whether a pool is this shard's."""
        return self.alone or shard_of(f"pool/{namespace}/{pool}", self.of) == self.index

    def takes(self, gang: str) -> bool:
        """Whether this shard may preempt that training, by its key."""
        return self.alone or shard_of(f"gang/{gang}", self.of) == self.index

    def part(self, total: int | None, unit: int = 1) -> int | None:
        """This shard's part of GPUs that come in units (a gang's, a node's); None stays None."""
        return None if total is None else share(total // unit, self.index, self.of) * unit


def shard(settings: Settings) -> Shard:
    """Which one this process is: the ordinals of a StatefulSet's pods go round the shards."""
    said = settings.cluster.shards
    return Shard(said.ordinal % said.of, said.of)


def own_parts(parts: Parts, which: Shard) -> Parts:
    """The rules of the shard's own pools, with its part of stocks and budgets."""
    if which.alone:
        return parts
    rules = parts.rules
    roles = tuple(rule for rule in rules.roles if which.has(rule.key.namespace, rule.key.pool))
    mine = {rule.key for rule in roles}
    gangs = {supply.accelerator: supply.preempt_gang for supply in parts.settings.supply}
    budget = parts.settings.cluster.budget
    hourly = which.part(budget.gpus_preempted_per_hour) or 0
    cluster = parts.settings.cluster.model_copy(
        update={"budget": budget.model_copy(update={"gpus_preempted_per_hour": hourly})}
    )
    return replace(
        parts,
        settings=parts.settings.model_copy(update={"cluster": cluster}),
        rules=replace(
            rules,
            roles=roles,
            budget_per_hour=None if rules.budget_per_hour is None else rules.budget_per_hour / which.of,
            max_gpus_preempted=which.part(rules.max_gpus_preempted),
        ),
        groups={key: group for key, group in parts.groups.items() if key in mine},
        stocks=tuple(
            Stock(
                stock.accelerator,
                which.part(stock.free),
                which.part(stock.preemptible, gangs.get(stock.accelerator, 1)),
                which.part(stock.provisionable),
            )
            for stock in parts.stocks
        ),
    )


def own_snapshot(seen: Snapshot, which: Shard) -> Snapshot:
    """The cluster as the shard may use it: its pools, its part of the GPUs that are there, its part of training."""
    if which.alone:
        return seen
    gangs = tuple(gang for gang in seen.supply.gangs if which.takes(gang.key))
    takeable: dict[str, int] = {}
    for gang in gangs:
        takeable[gang.accelerator] = takeable.get(gang.accelerator, 0) + gang.gpus
    lent = tuple((training, mark) for training, mark in seen.lent if _for_us(mark.role, which))
    ours = {training.key for training, _ in lent}
    return replace(
        seen,
        pools={key: pool for key, pool in seen.pools.items() if which.has(key.namespace, key.pool)},
        gangs=tuple(gang for gang in seen.gangs if which.takes(gang.group.key)),
        lent=lent,
        training=tuple(one for one in seen.training if _not_others(one, which)),
        supply=replace(seen.supply, gangs=gangs, lent=tuple(one for one in seen.supply.lent if one.key in ours)),
        stocks=tuple(
            replace(stock, free=which.part(stock.free), preemptible=takeable.get(stock.accelerator, 0))
            for stock in seen.stocks
        ),
    )


def _for_us(role: str, which: Shard) -> bool:
    """Whether training was taken for a pool of ours; for one that nobody can name, the first shard answers."""
    try:
        key = RoleKey.parse(role)
    except ValueError:
        return which.index == 0
    return which.has(key.namespace, key.pool)


def _not_others(training: Training, which: Shard) -> bool:
    return training.mark is None or _for_us(training.mark.role, which)


class Union:
    """What all shards decided last, as one decision to be served: any replica answers for any pool.

    Args:
        which: the shard of this process.
        publish: takes the whole.
        oldest_s: a shard not heard for so long is left out, so that nothing old is served beside what is new.
        clock: Unix seconds.
    """

    def __init__(
        self, which: Shard, publish: Callable[[Decision], None], oldest_s: float, clock: Callable[[], float]
    ) -> None:
        self._which, self._publish, self._oldest_s, self._clock = which, publish, oldest_s, clock
        self._lock = Lock()
        self._latest: dict[int, Decision] = {}

    def own(self, decision: Decision) -> None:
        """Our shard has decided."""
        self.heard(self._which.index, decision)

    def heard(self, index: int, decision: Decision) -> None:
        """A shard has decided."""
        with self._lock:
            before = self._latest.get(index)
            if before is not None and decision.at < before.at and self._clock() - before.at <= self._oldest_s:
                return
            self._latest[index] = decision
            self._publish(self.whole())

    def whole(self) -> Decision:
        """The decisions of all shards heard lately. Its time is the oldest of theirs: age is judged on that."""
        now = self._clock()
        fresh = {index: one for index, one in self._latest.items() if now - one.at <= self._oldest_s}
        own = self._latest.get(self._which.index)
        roles = tuple(role for index in sorted(fresh) for role in fresh[index].roles)
        at = min((one.at for one in fresh.values()), default=now - self._oldest_s)
        return Decision(at, roles, own.plan if own is not None else None, own.failure if own is not None else None)
