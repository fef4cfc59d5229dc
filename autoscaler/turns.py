"""The loop's turns: it begins anew where pools were declared or taken away, and what outlives that.

Beginning anew costs a reading of the cluster's caches; the doors, the leadership, memory and what is served stay.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING

from autoscaler.sharding import Union, shard

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from autoscaler.build import Parts
    from autoscaler.build_cluster import Reach
    from autoscaler.cluster.custom_resources import Declarations
    from autoscaler.memory import Memory
    from autoscaler.model import Decision
    from autoscaler.publishing import Publisher
    from autoscaler.settings import Settings

CACHES_S = 60.0
"""How long the first tick waits for the cluster's caches; until then the API answers 503, and an HPA holds."""
GONE_S = 86_400.0
"""What was learned of a pool is kept for so long after it was last decided for: it may come back."""


def without_gone(memory: Memory, parts: Parts, now: float) -> Memory:
    """Memory without roles that are no longer there, and have not been for a day."""
    there = {rule.key for rule in parts.rules.roles}
    kept = {key: one for key, one in memory.roles.items() if key in there or (one.decided_at or 0.0) > now - GONE_S}
    return memory if len(kept) == len(memory.roles) else replace(memory, roles=kept)


class Turns:
    """When the loop is to end: for good, or to begin anew with other pools."""

    def __init__(self) -> None:
        self.event = Event()
        self.over = False
        self.hurried = False

    def begin(self) -> None:
        """A turn begins."""
        self.event.clear()
        if self.over:
            self.event.set()

    def again(self) -> None:
        """End this turn; another follows."""
        self.event.set()

    def end(self) -> None:
        """End this turn, the last one; said again: without waiting for those who may still ask."""
        self.hurried = self.over
        self.over = True
        self.event.set()

    def ending(self) -> str | None:
        """Why nobody should begin to ask here any more; None before the end."""
        return "it is ending; ask another replica" if self.over else None

    def drain(self, longest_s: float) -> None:
        """Wait while what has been routed here still arrives, unless somebody is in a hurry."""
        until = time.monotonic() + longest_s
        while self.over and not self.hurried and (left := until - time.monotonic()) > 0.0:
            time.sleep(min(left, 0.05))  # an Event set by a signal's handler could be the one that is waited for


@dataclass(slots=True)
class Others:
    """What outlives a turn where a cluster is watched: the connection, who leads, and the pools declared there."""

    reach: Reach | None = None
    declarations: Declarations | None = None
    union: Union | None = None
    unheard: Callable[[], str | None] = lambda: None

    def open(
        self, settings: Settings, publisher: Publisher, turns: Turns, stack: ExitStack, clock: Callable[[], float]
    ) -> None:
        """Open it, where a cluster is watched. Raises BadSettings: no usable credentials."""
        if not settings.cluster.enabled:
            return
        from autoscaler import build_cluster  # noqa: PLC0415 - the client takes 0.4 s; only here is it needed

        which = shard(settings)
        if not which.alone:
            self.union = Union(which, publisher.publish, settings.serving.hard_age_s, clock)
        publish = publisher.publish if self.union is None else self.union.own
        self.reach = build_cluster.open_reach(settings, publish, stack, clock)
        if self.union is not None:
            build_cluster.listen(settings, self.reach, self.union, stack, clock)
        if (sharing := self.reach.sharing) is not None:
            longest_s = 2 * settings.loop.interval_s + settings.cluster.election.duration_s
            self.unheard = lambda: sharing.unheard(clock(), longest_s)
        if settings.cluster.token_pools.enabled:
            self.declarations = build_cluster.open_declarations(settings, self.reach, turns.again, stack, clock)
            self.declarations.start(CACHES_S, turns.event)

    def unready(self) -> str | None:
        """Why this replica should not be asked; None while it may."""
        return self.unheard()

    def let_go(self) -> None:
        """Let another replica lead, and go on hearing it: what is still asked for here is answered as it decides."""
        if self.reach is not None and self.reach.sharing is not None:
            self.reach.sharing.election.stop()

    def told(self, publish: Callable[[Decision], None]) -> Callable[[Decision], None]:
        """Publishing that joins what other shards decided, and tells the declared pools' statuses too."""
        found, said = self.declarations, publish if self.union is None else self.union.own
        if found is None:
            return said

        def both(decision: Decision) -> None:
            said(decision)
            found.statuses.decided(decision)

        return both
