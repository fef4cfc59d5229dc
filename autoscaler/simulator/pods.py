"""Pods of a pool's roles: pending until there are GPUs, starting, ready, draining; asleep where that is allowed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from autoscaler.simulator.startup import Readers, drawn
from autoscaler.simulator.supply import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    from autoscaler.model import Role
    from autoscaler.simulator.engine_types import EngineProfile
    from autoscaler.simulator.setup import Setup
    from autoscaler.simulator.startup import Startup
    from autoscaler.simulator.supply import Node, Supply, Timers

DRAIN_LOOK_S = 1.0
DRAIN_LOOK_SHARE = 0.1
"""A draining replica is asked whether it is empty every second, or every tenth of the time it has drained."""
PERMIT_S = 120.0
"""So long a policy's leave to preempt training stays good: the HPA follows its wish only seconds later."""


class Replicas(Protocol):
    """A fleet as pods see it: replicas that come, stop taking requests, and go."""

    def add(self, role: Role, profile: EngineProfile, noise: Iterator[float] | None, width: float) -> int:
        """One is ready; returns its number."""
        ...

    def close(self, number: int) -> None:
        """It takes no more requests."""
        ...

    def empty(self, number: int) -> bool:
        """Whether it has finished what it had."""
        ...

    def remove(self, number: int) -> None:
        """It is gone, with whatever it held."""
        ...


class PodState(StrEnum):
    """Where a pod is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ASLEEP = "asleep"


@dataclass(slots=True, eq=False)
class Pod:
    """One replica.

    Attributes:
        since: when it was asked for, or began to drain. engine: its number in the fleet once ready.
        stage: counts state changes, so that a timer set for an earlier one finds that it is late.
    """

    role: Role
    since: float
    state: PodState = PodState.PENDING
    node: Node | None = None
    engine: int = -1
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Engines:
    """How engines are made: profile, GPUs of a replica, and noise of their steps."""

    profile: EngineProfile
    gpus: int
    noise: Iterator[float]
    width: float


@dataclass(slots=True)
class Permits:
    """GPUs a role's policy has allowed to be taken from training, and ordered as nodes; good until `until`."""

    preempt: int = 0
    buy: int = 0
    until: float = 0.0


@dataclass(slots=True)
class Book:
    """One role's pods, the replicas its deployment should have, and its history: (s, spec, existing, ready)."""

    pods: list[Pod] = field(default_factory=list)
    spec: int = 0
    permits: Permits = field(default_factory=Permits)
    history: list[tuple[float, int, int, int]] = field(default_factory=list)

    def count(self, *states: PodState) -> int:
        """How many of its pods are in these states."""
        return sum(pod.state in states for pod in self.pods)

    @property
    def existing(self) -> int:
        """`status.replicas`: neither draining nor asleep."""
        return self.count(PodState.PENDING, PodState.STARTING, PodState.READY)


@dataclass(slots=True)
class Pairs:
    """Prefill-decode pairs, all and those across domains, integrated over time."""

    all: int = 0
    across: int = 0
    at: float = 0.0
    all_s: float = 0.0
    across_s: float = 0.0

    def change(self, domains: list[Counter[int]], now: float) -> None:
        """Ready replicas by domain, of the one role and of the other, from `now` on."""
        self.all_s += self.all * (now - self.at)
        self.across_s += self.across * (now - self.at)
        self.at = now
        one, other = domains
        self.all = one.total() * other.total()
        self.across = self.all - sum(count * other[domain] for domain, count in one.items())

    @property
    def share(self) -> float | None:
        """Across domains over all; None while there were no pairs."""
        return self.across_s / self.all_s if self.all_s else None


class Pods:
    """Makes the pods of every role follow `spec`."""

    def __init__(
        self,
        setup: Setup,
        roles: tuple[Role, ...],
        fleet: Replicas,
        supply: Supply,
        timers: Timers,
        startup: Startup,
        random: np.random.Generator,
        engines: Callable[[], Engines],
    ) -> None:
        self.books = {role: Book() for role in roles}
        self.held = Held()
        self.slow_weights = 1.0
        self._pairs = Pairs()
        self._setup = setup
        self._fleet = fleet
        self._supply = supply
        self._timers = timers
        self._startup = startup
        self._random = random
        self._engines = engines
        self._gpus = engines().gpus
        supply.arrived = self.place

    def begin(self, role: Role, count: int) -> None:
        """Replicas that are ready when the world begins, as far as there are GPUs."""
        book = self.books[role]
        book.spec = count
        for _ in range(count):
            pod = Pod(role, 0.0)
            book.pods.append(pod)
            node = self._supply.place(self._gpus)
            if node is not None:
                self._hold(pod, node, 0.0)
                self._serve(pod, 0.0)
        self._note(role, 0.0)

    def scale(self, role: Role, count: int, now: float) -> None:
        """The deployment's `spec.replicas` is now `count`."""
        book = self.books[role]
        book.spec = count
        missing = count - book.existing
        for _ in range(missing):
            asleep = next((pod for pod in book.pods if pod.state is PodState.ASLEEP), None)
            if asleep is None or not self._wake(asleep, now):
                book.pods.append(Pod(role, now))
        if missing < 0:
            self._shrink(book, -missing, now)
        if missing:
            self.place(now)
        self._note(role, now)

    def place(self, now: float) -> None:
        """Give free GPUs to pending pods, oldest first; look elsewhere for what is missing."""
        pending = sorted(
            (pod for book in self.books.values() for pod in book.pods if pod.state is PodState.PENDING),
            key=lambda pod: pod.since,
        )
        for pod in pending:
            node = self._supply.place(self._gpus)
            if node is None:
                break
            self._hold(pod, node, now)
            self._start(pod, node, now)
        if any(pod.state is PodState.PENDING for pod in pending):
            self._by_permit(now)
            self._timers.at(now + self._setup.supply.autoscaler_delay_s, self._autoscale)
        else:
            self._supply.give_to_training(self.held.gpus, now)

    def kill(self, count: int, now: float) -> None:
        """`count` ready replicas die; their deployment replaces them."""
        ready = [pod for book in self.books.values() for pod in book.pods if pod.state is PodState.READY]
        for pod in ready[:count]:
            self._fleet.remove(pod.engine)
            self._delete(pod, now)
            self.scale(pod.role, self.books[pod.role].spec, now)

    def cross_domain_share(self) -> float | None:
        """Share of prefill-decode pairs of ready replicas in different network domains, over time; None: colocated."""
        return self._pairs.share if len(self.books) > 1 else None

    def _pending(self) -> int:
        """GPUs that pending pods lack and that are not on their way."""
        waiting = sum(book.count(PodState.PENDING) for book in self.books.values()) * self._gpus
        return max(0, waiting - self._supply.free - self._supply.coming)

    def _by_permit(self, now: float) -> None:
        for book in self.books.values():
            permits = book.permits
            if now > permits.until:
                continue
            lacking = min(self._pending(), book.count(PodState.PENDING) * self._gpus)
            wanted = min(lacking, permits.preempt)
            if wanted > 0:
                permits.preempt -= min(permits.preempt, self._supply.preempt(wanted, now))
            wanted = min(self._pending(), permits.buy)
            if wanted > 0:
                permits.buy -= min(permits.buy, self._supply.buy(wanted, now))

    def _autoscale(self, now: float) -> None:
        """The cluster autoscaler: nodes for pods that have been pending for long enough."""
        lacking = self._pending()
        if lacking and self._supply.provisionable and not self._supply.buy(lacking, now):
            self._timers.at(now + 60.0, self._autoscale)

    def _hold(self, pod: Pod, node: Node, now: float) -> None:
        pod.node = node
        self.held.change(self._gpus, now)

    def _start(self, pod: Pod, node: Node, now: float) -> None:
        pod.state = PodState.STARTING
        starting = [p for b in self.books.values() for p in b.pods if p.state is PodState.STARTING]
        serving = sum(book.count(PodState.READY, PodState.DRAINING) for book in self.books.values())
        readers = Readers(sum(p.node is node for p in starting), len(starting), serving)
        after = self._startup.seconds(self._random, readers, image=node.image, slow=self.slow_weights)
        self._later(pod, now + after, self._serve)

    def _serve(self, pod: Pod, now: float) -> None:
        pod.state = PodState.READY
        if pod.node is not None:
            pod.node.image = True
        made = self._engines()
        pod.engine = self._fleet.add(pod.role, made.profile, made.noise, made.width)
        self._note(pod.role, now)

    def _wake(self, pod: Pod, now: float) -> bool:
        node = self._supply.place(self._gpus)
        if node is None:
            return False
        self._hold(pod, node, now)
        pod.state, pod.since = PodState.STARTING, now
        self._later(pod, now + drawn(self._startup.wake, self._random), self._serve)
        return True

    def _shrink(self, book: Book, count: int, now: float) -> None:
        """As a ReplicaSet does: pods without a node first, then those not ready, then the youngest."""
        order = {PodState.PENDING: 0, PodState.STARTING: 1, PodState.READY: 2}
        alive = [pod for pod in book.pods if pod.state in order]
        alive.sort(key=lambda pod: (order[pod.state], -pod.since, -pod.engine))
        for pod in alive[:count]:
            if pod.state is not PodState.READY:
                self._delete(pod, now)
                continue
            pod.state, pod.since = PodState.DRAINING, now
            self._fleet.close(pod.engine)
            self._drain(pod, now)

    def _drain(self, pod: Pod, now: float) -> None:
        """Gone when empty, or when it has had its time."""
        late = now - pod.since >= self._setup.actuation.drain_limit_s
        if not (late or self._fleet.empty(pod.engine)):
            self._later(pod, now + max(DRAIN_LOOK_S, DRAIN_LOOK_SHARE * (now - pod.since)), self._drain)
            return
        self._fleet.remove(pod.engine)
        asleep = self.books[pod.role].count(PodState.ASLEEP)
        if asleep < self._setup.supply.sleepers:
            self._free(pod, now)
            pod.state, pod.engine = PodState.ASLEEP, -1
        else:
            self._delete(pod, now)
        self.place(now)

    def _delete(self, pod: Pod, now: float) -> None:
        pod.stage += 1
        self.books[pod.role].pods.remove(pod)
        self._free(pod, now)
        self._note(pod.role, now)

    def _free(self, pod: Pod, now: float) -> None:
        if pod.node is not None:
            self._supply.release(pod.node, self._gpus, now)
            self.held.change(-self._gpus, now)
            pod.node = None

    def _later(self, pod: Pod, when: float, act: Callable[[Pod, float], None]) -> None:
        pod.stage += 1
        stage = pod.stage

        def due(now: float) -> None:
            if pod.stage == stage:
                act(pod, now)

        self._timers.at(when, due)

    def _domains(self, book: Book) -> Counter[int]:
        """Ready replicas of a role by network domain."""
        return Counter(pod.node.domain for pod in book.pods if pod.state is PodState.READY and pod.node is not None)

    def _note(self, role: Role, now: float) -> None:
        book = self.books[role]
        if len(self.books) > 1:
            self._pairs.change([self._domains(book) for book in self.books.values()], now)
        entry = (now, book.spec, book.existing, book.count(PodState.READY))
        if book.history and book.history[-1][0] == now:
            book.history[-1] = entry
        elif not book.history or book.history[-1][1:] != entry[1:]:
            book.history.append(entry)
