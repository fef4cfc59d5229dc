"""Pools over several shards, and what belongs to all of them split so that nothing is promised twice.

A pool belongs to the shard that draws the highest number for it (rendezvous hashing, Thaler and Ravishankar 1998): of
n shards each has about 1/n of the pools, and when one more comes, only the pools move that it now draws highest for,
about 1/(n+1) of them, none between the others.

GPUs are not arbitrated but split: of a stock of g GPUs shard i of n may use the g(i+1)//n - gi//n that begin at gi//n.
These intervals do not overlap and end at g, whatever any shard knows of the others, is told late, or dies. The price is
that a shard may be short while another has some left. Training is split the same way, gang by gang, by its name.

A node that was ordered says for which pool (an annotation on its NodeClaim), and belongs as a whole to that pool's
shard, under way and when it is there: whoever ordered it counts on it, nobody else does, and when the number of shards
changes it goes with its pool. Only the GPUs of the other nodes are split.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING

from autoscaler.cluster.objects import ACCELERATOR, MANAGED, ORDERED_FOR
from autoscaler.model import Decision, RoleKey, Stock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from autoscaler.build import Parts
    from autoscaler.cluster.sight_types import Claim, Snapshot
    from autoscaler.cluster.training import Training
    from autoscaler.settings import Settings


def shard_of(name: str, of: int) -> int:
    """The shard, 0..of-1, that a name belongs to; the same in every process and on every machine."""
    return max(range(of), key=lambda index: hashlib.blake2b(f"{index}/{name}".encode(), digest_size=8).digest())


def share(total: int, index: int, of: int) -> int:
    """One shard's part of so many indivisible things: the parts of all shards add up to them exactly."""
    return total * (index + 1) // of - total * index // of


def allotted(most: int, there: Sequence[int]) -> list[int]:
    """How many more each shard may order, where they have `there` already: together never more than `most`.

    Each has its share. Where one has more than that, from another number of shards, the last ones wait for it. What a
    shard may order does not depend on what others, within their shares, have ordered meanwhile, so that none needs to
    know. Example: of 10 the shards have 5, 0 and 0; their shares are 3, 3 and 4, so that 0, 3 and 2 may be ordered.
    """
    shares = [share(most, index, len(there)) for index in range(len(there))]
    beyond = sum(max(0, had - mine) for had, mine in zip(there, shares, strict=True))
    rooms = [max(0, mine - had) for had, mine in zip(there, shares, strict=True)]
    for index in reversed(range(len(rooms))):
        waits = min(beyond, rooms[index])
        rooms[index] -= waits
        beyond -= waits
    return rooms


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
    units = {supply.accelerator: (supply.preempt_gang, supply.node_gpus) for supply in parts.settings.supply}
    budget = parts.settings.cluster.budget
    hourly = {name: which.part(getattr(budget, name)) for name in ("gpus_preempted_per_hour", "nodes_per_hour")}
    cluster = parts.settings.cluster.model_copy(update={"budget": budget.model_copy(update=hourly)})
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
                which.part(stock.preemptible, units.get(stock.accelerator, (1, 1))[0]),
                which.part(stock.provisionable, units.get(stock.accelerator, (1, 1))[1]),
            )
            for stock in parts.stocks
        ),
    )


def own_snapshot(seen: Snapshot, which: Shard) -> Snapshot:
    """The cluster as the shard may use it: its pools, nodes ordered for them, its part of other GPUs and training."""
    if which.alone:
        return seen
    gangs = tuple(gang for gang in seen.supply.gangs if which.takes(gang.key))
    takeable: dict[str, int] = {}
    for gang in gangs:
        takeable[gang.accelerator] = takeable.get(gang.accelerator, 0) + gang.gpus
    lent = tuple((training, mark) for training, mark in seen.lent if _for_us(mark.role, which))
    ours = {training.key for training, _ in lent}
    whose = {claim.meta.name: _orderer(claim, which.of) for claim in seen.claims}
    free = _own_gpus(seen, whose, which)
    return replace(
        seen,
        pools={key: pool for key, pool in seen.pools.items() if which.has(key.namespace, key.pool)},
        gangs=tuple(gang for gang in seen.gangs if which.takes(gang.group.key)),
        lent=lent,
        training=tuple(one for one in seen.training if _not_others(one, which)),
        supply=replace(
            seen.supply,
            gangs=gangs,
            lent=tuple(one for one in seen.supply.lent if one.key in ours),
            coming=tuple(
                one if whose.get(one.key) is not None else replace(one, gpus=share(one.gpus, which.index, which.of))
                for one in seen.supply.coming
                if whose.get(one.key) in {None, which.index}
            ),
        ),
        stocks=tuple(
            replace(stock, free=free.get(stock.accelerator, 0), preemptible=takeable.get(stock.accelerator, 0))
            for stock in seen.stocks
        ),
        claims=tuple(claim for claim in seen.claims if whose[claim.meta.name] in {None, which.index}),
        shard=which.index,
        ordered=dict(_ordered(seen, whose, which.of)),
    )


def _orderer(claim: Claim, of: int) -> int | None:
    """The shard a node was ordered for; None where it was not us. For a pool nobody can name the first answers."""
    if MANAGED not in claim.meta.labels:
        return None
    try:
        key = RoleKey.parse(claim.meta.annotations.get(ORDERED_FOR, ""))
    except ValueError:
        return 0
    return shard_of(f"pool/{key.namespace}/{key.pool}", of)


def _own_gpus(seen: Snapshot, whose: Mapping[str, int | None], which: Shard) -> dict[str, int]:
    """GPUs that this shard's pools hold or could have: all of the nodes ordered for them, its share of the others.

    A node that says it was ordered, and for which no claim is seen, is nobody's: another shard may see whose it is.
    """
    found = {claim.node: whose[claim.meta.name] for claim in seen.claims if claim.node}
    own: dict[str, int] = {}
    split: dict[str, int] = {}
    for (accelerator, node), gpus in seen.by_node.items():
        orderer = found.get(node)
        if orderer == which.index:
            own[accelerator] = own.get(accelerator, 0) + gpus
        elif orderer is None and MANAGED not in seen.nodes[node].meta.labels:
            split[accelerator] = split.get(accelerator, 0) + gpus
    return {
        accelerator: own.get(accelerator, 0) + share(split.get(accelerator, 0), which.index, which.of)
        for accelerator in {*own, *split}
    }


def _ordered(seen: Snapshot, whose: Mapping[str, int | None], of: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """How many nodes each shard has ordered, by accelerator."""
    for accelerator in (stock.accelerator for stock in seen.stocks):
        made = [whose[c.meta.name] for c in seen.claims if c.meta.annotations.get(ACCELERATOR) == accelerator]
        yield accelerator, tuple(made.count(index) for index in range(of))


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
