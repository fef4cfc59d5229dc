"""Where GPUs come from: nodes with free ones, training gangs that can be evicted, nodes that can be bought.

A gang is evicted whole; its GPUs come free when its eviction is over, and what it computed since its last checkpoint is
lost, with what starting again costs. It gets GPUs back once inference has returned as many as it borrowed.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoscaler.nearness import across_s, homes
from autoscaler.simulator.startup import drawn
from autoscaler.simulator.victims import chosen

if TYPE_CHECKING:
    import numpy as np

    from autoscaler.simulator.setup import SupplySetup, TrainingGang
    from autoscaler.simulator.startup import Startup

Act = Callable[[float], None]


class Timers:
    """Things to be done at given times, in order; those of the same time in the order they were asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Act]] = []
        self._asked = 0

    @property
    def next(self) -> float:
        """When the next one is due; infinite without any."""
        return self._heap[0][0] if self._heap else float("inf")

    def at(self, when: float, act: Act) -> None:
        """Do `act` at `when` (seconds); it is told the time."""
        heapq.heappush(self._heap, (when, self._asked, act))
        self._asked += 1

    def fire(self) -> None:
        """Do the next one."""
        when, _, act = heapq.heappop(self._heap)
        act(when)


def anywhere(_domain: int) -> float:
    """No network domain is better than another."""
    return 0.0


@dataclass(slots=True, eq=False)
class Node:
    """A machine: free GPUs, those of replicas and of training that leaves; domain, image, bought, idle since when."""

    domain: int
    size: int
    free: int
    image: bool
    bought: bool = False
    idle_since: float = 0.0
    serving: int = 0
    leaving: int = 0


@dataclass(slots=True, eq=False)
class Gang:
    """A training job. `nodes`: its GPUs by node while it runs; `since`: start of the present run, or its eviction."""

    spec: TrainingGang
    nodes: list[tuple[Node, int]]
    since: float = 0.0
    running: bool = True

    def saved_at(self, now: float) -> float:
        """When it last saved its work: at a checkpoint, or, without any yet, at the start of the present run."""
        every = self.spec.checkpoint_s
        return now - (now - self.since) % every if every > 0 else now

    def loses(self, now: float) -> float:
        """GPU-seconds that its eviction costs: work since it was saved, and starting again."""
        return self.spec.gpus * (now - self.saved_at(now) + self.spec.requeue_s)


@dataclass(slots=True)
class Lost:
    """What training has lost to evictions: GPU-seconds, how many evictions that were, and GPU-seconds it was away."""

    gpu_seconds: float = 0.0
    evictions: int = 0
    away: float = 0.0


class Supply:
    """All GPUs of one accelerator type."""

    def __init__(
        self, setup: SupplySetup, most: int, startup: Startup, timers: Timers, random: np.random.Generator
    ) -> None:
        self._setup = setup
        self._startup = startup
        self._timers = timers
        self._random = random
        self.prepared = most if setup.gpus is None else setup.gpus
        self.nodes: list[Node] = []
        self.gangs: list[Gang] = []
        self.lost = Lost()
        self.leaving = 0
        self.ordered: list[float] = []
        self.to_buy = setup.nodes_to_buy
        self.refusing = False
        self.held = 0
        self._paired = False
        self._pools: list[tuple[Callable[[], int], Act]] = []
        for size in _split(self.prepared, setup.node_gpus):
            self._node(size, image=setup.image_cached)
        for spec in setup.gangs:
            parts = [(self._node(size, image=setup.image_cached), size) for size in _split(spec.gpus, setup.node_gpus)]
            for node, size in parts:
                node.free -= size
            self.gangs.append(Gang(spec, parts, since=-spec.ran_s))

    @property
    def free(self) -> int:
        """GPUs nobody holds."""
        return sum(node.free for node in self.nodes)

    @property
    def preemptible(self) -> int:
        """GPUs that running gangs hold."""
        return sum(gang.spec.gpus for gang in self.gangs if gang.running)

    @property
    def lent(self) -> int:
        """GPUs of gangs that were evicted and wait."""
        return sum(gang.spec.gpus for gang in self.gangs if not gang.running)

    @property
    def provisionable(self) -> int:
        """GPUs of nodes that can still be bought."""
        return self.to_buy * self._setup.node_gpus

    @property
    def wanted(self) -> int:
        """GPUs that pending pods of all pools lack."""
        return sum(lacks() for lacks, _ in self._pools)

    @property
    def coming(self) -> int:
        """GPUs of nodes that were ordered."""
        return len(self.ordered) * self._setup.node_gpus

    def lacking(self, ahead: int = 0) -> int:
        """Of those, and of `ahead` more that are about to be, the ones that are neither free nor on their way."""
        return max(0, self.wanted + ahead - self.free - self.leaving - self.coming)

    def unbridged(self, ahead: int = 0) -> int:
        """The same without nodes on their way: training's GPUs are the bridge until these land."""
        return max(0, self.wanted + ahead - self.free - self.leaving)

    def unordered(self, ahead: int = 0) -> int:
        """The same without training that leaves: it gets its GPUs back, and nodes are for afterwards."""
        return max(0, self.wanted + ahead - self.free - self.coming)

    def join(self, lacks: Callable[[], int], place: Act, *, paired: bool = False) -> None:
        """A pool lives on this supply: how many GPUs its pending pods lack, and what to do when GPUs may be free.

        `paired`: it has two roles, which are better near each other.
        """
        self._paired |= paired
        self._pools.append((lacks, place))

    def arrived(self, now: float) -> None:
        """GPUs may have come free: every pool looks, in the order in which they joined."""
        for _, place in self._pools:
            place(now)

    def place(self, gpus: int, apart: Callable[[int], float] = anywhere) -> Node | None:
        """Take `gpus` on a node that has them; None if none has.

        One with the image before one without, then the domain that is least `apart`, then the fullest.
        """
        able = [node for node in self.nodes if node.free >= gpus]
        if not able:
            return None
        node = min(able, key=lambda node: (not node.image, apart(node.domain), node.bought, node.free))
        node.free -= gpus
        node.serving += gpus
        self.held += gpus
        return node

    def release(self, node: Node, gpus: int, now: float) -> None:
        """Give GPUs back."""
        node.free += gpus
        node.serving -= gpus
        self.held -= gpus
        if node.bought and node.free == node.size:
            node.idle_since = now
            self._timers.at(now + self._setup.node_idle_s, lambda at: self._give_back(node, at))

    def preempt(self, gpus: int, now: float) -> int:
        """Evict gangs for at least `gpus`, or all there are; returns the GPUs on their way."""
        got = 0
        running = [gang for gang in self.gangs if gang.running]
        for gang in chosen(running, gpus, self._setup.victims, self._price(now), self._random):
            self.lost.gpu_seconds += gang.loses(now)
            self.lost.evictions += 1
            gang.running, gang.since = False, now
            nodes, gang.nodes = gang.nodes, []
            for node, size in nodes:
                node.leaving += size
            after = drawn(self._startup.eviction, self._random)
            self._timers.at(now + after, lambda at, nodes=nodes: self._evicted(nodes, at))  # type: ignore[misc]
            got += gang.spec.gpus
        self.leaving += got
        return got

    def _price(self, now: float) -> Callable[[Gang], float]:
        """What taking a gang costs in seconds of work per GPU: lost, and for GPUs apart from those that serve."""
        near = homes(self._serving()) if self._paired else frozenset()

        def price(gang: Gang) -> float:
            places = ((node.domain, gpus) for node, gpus in gang.nodes)
            return gang.loses(now) / gang.spec.gpus + across_s(places, near)

        return price

    def _serving(self) -> Counter[int]:
        """GPUs of replicas by network domain."""
        found: Counter[int] = Counter()
        for node in self.nodes:
            found[node.domain] += node.serving
        return found

    def buy(self, gpus: int, now: float) -> int:
        """Order nodes for at least `gpus`; returns the GPUs on their way. Refused orders bring none."""
        got = 0
        while got < gpus and self.to_buy and not self.refusing:
            self.to_buy -= 1
            got += self._setup.node_gpus
            self.ordered.append(now)
            after = drawn(self._startup.node, self._random)
            self._timers.at(now + after, lambda at, since=now: self._bought(since, at))  # type: ignore[misc]
        return got

    def give_to_training(self, now: float) -> None:
        """Let evicted gangs run again on what inference has borrowed and given back; look again when one may."""
        bought = sum(node.size for node in self.nodes if node.bought)
        borrowed = max(0, self.held - self.prepared - bought)
        waiting = [gang for gang in self.gangs if not gang.running]
        spare = sum(gang.spec.gpus for gang in waiting) - borrowed - self.leaving
        for gang in sorted(waiting, key=lambda gang: -gang.spec.priority):
            own = self._for_training()
            size = gang.spec.gpus
            soonest = gang.since + self._setup.training_returns_s
            if now < soonest:
                self._timers.at(soonest, self.arrived)
                continue
            if size > spare or sum(node.free for node in own) < size:
                continue
            spare -= size
            for node in own:
                part = min(node.free, size)
                if part:
                    node.free -= part
                    size -= part
                    gang.nodes.append((node, part))
            self.lost.away += gang.spec.gpus * (now - gang.since)
            gang.running, gang.since = True, now

    def _for_training(self) -> list[Node]:
        """Prepared nodes with free GPUs, those of domains with least serving first: where replicas are, more may come.

        As a gang that is queued with a preferred topology takes a domain it finds free, and not the rest of another.
        """
        serving = self._serving()
        own = [node for node in self.nodes if node.free and not node.bought]
        return sorted(own, key=lambda node: serving[node.domain])

    def _evicted(self, nodes: list[tuple[Node, int]], now: float) -> None:
        for node, size in nodes:
            node.free += size
            node.leaving -= size
            self.leaving -= size
        self.arrived(now)

    def _bought(self, since: float, now: float) -> None:
        self.ordered.remove(since)
        node = self._node(self._setup.node_gpus, image=False)
        node.bought, node.idle_since = True, now
        self._timers.at(now + self._setup.node_idle_s, lambda at: self._give_back(node, at))
        self.arrived(now)

    def _give_back(self, node: Node, now: float) -> None:
        idle = now - node.idle_since >= self._setup.node_idle_s
        if node in self.nodes and node.free == node.size and idle:
            self.nodes.remove(node)
            self.to_buy += 1

    def _node(self, size: int, *, image: bool) -> Node:
        node = Node(len(self.nodes) // self._setup.domain_nodes, size, size, image)
        self.nodes.append(node)
        return node


def _split(gpus: int, size: int) -> list[int]:
    """GPUs on nodes of at most `size`: 20 on nodes of 8 are 8, 8 and 4."""
    whole, rest = divmod(gpus, size)
    return [size] * whole + ([rest] if rest else [])


@dataclass(slots=True)
class Held:
    """GPU-seconds held so far, integrated whenever the number changes."""

    gpus: int = 0
    at: float = 0.0
    gpu_seconds: float = 0.0
    until: float = field(default=float("inf"))

    def change(self, by: int, now: float) -> None:
        """`by` more GPUs are held from `now` on; nothing counts after `until`."""
        end = min(now, self.until)
        if end > self.at:
            self.gpu_seconds += self.gpus * (end - self.at)
            self.at = end
        self.gpus += by
