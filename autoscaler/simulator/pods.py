"""Pods of a pool's roles: pending until there are GPUs, starting, ready, draining; asleep where that is allowed."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.model import Start, Step, Tier
from autoscaler.simulator.pairs import Pairs
from autoscaler.simulator.startup import Readers, drawn
from autoscaler.simulator.supply import Held

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from autoscaler.model import Role
    from autoscaler.simulator.replicas import Engines, Replicas
    from autoscaler.simulator.setup import Setup
    from autoscaler.simulator.startup import Startup
    from autoscaler.simulator.supply import Node, Supply, Timers

DRAIN_LOOK_S = 1.0
DRAIN_LOOK_SHARE = 0.1
"""A draining replica is asked whether it is empty every second, or every tenth of the time it has drained."""
STARTS_TOLD = 64
"""Replicas that came up which an observation still tells of."""
PERMIT_S = 120.0
"""So long a policy's leave to preempt training stays good: the HPA follows its wish only seconds later."""


class PodState(StrEnum):
    """Where a pod is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ASLEEP = "asleep"


SERVING = (PodState.READY, PodState.DRAINING)
"""States in which a pod has weights that others can read."""


@dataclass(slots=True, eq=False)
class Pod:
    """One replica.

    Attributes:
        since: when it was asked for, or began to drain. engine: its number in the fleet once ready.
        stage: counts state changes, so that a timer set for an earlier one finds that it is late.
        steps: seconds of each step of its start. together: starts of its role under way when its own began.
        tier: where its GPUs came from.
    """

    role: Role
    since: float
    state: PodState = PodState.PENDING
    node: Node | None = None
    engine: int = -1
    stage: int = 0
    steps: dict[Step, float] = field(default_factory=dict)
    together: int = 1
    tier: Tier = Tier.START


@dataclass(slots=True)
class Permits:
    """GPUs a role's policy has allowed to be taken from training, and ordered as nodes; good until `until`."""

    preempt: int = 0
    buy: int = 0
    until: float = 0.0


@dataclass(slots=True)
class Book:
    """One role's pods, the replicas its deployment should have, and its history: (s, spec, existing, ready).

    `starts`: the last replicas that came up, in Unix seconds. `tally`: its pods by state.
    """

    pods: list[Pod] = field(default_factory=list)
    spec: int = 0
    permits: Permits = field(default_factory=Permits)
    history: list[tuple[float, int, int, int]] = field(default_factory=list)
    starts: deque[Start] = field(default_factory=lambda: deque(maxlen=STARTS_TOLD))
    tally: dict[PodState, int] = field(default_factory=lambda: dict.fromkeys(PodState, 0))

    def add(self, pod: Pod) -> None:
        """One more pod."""
        self.pods.append(pod)
        self.tally[pod.state] += 1

    def drop(self, pod: Pod) -> None:
        """One less."""
        self.pods.remove(pod)
        self.tally[pod.state] -= 1

    def move(self, pod: Pod, state: PodState) -> None:
        """One of its pods is in this state now."""
        self.tally[pod.state] -= 1
        self.tally[state] += 1
        pod.state = state

    def count(self, state: PodState) -> int:
        """How many of its pods are in this state."""
        return self.tally[state]

    @property
    def existing(self) -> int:
        """`status.replicas`: neither draining nor asleep."""
        tally = self.tally
        return tally[PodState.PENDING] + tally[PodState.STARTING] + tally[PodState.READY]


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
        self._started = 0
        self._pairs = Pairs()
        self._setup = setup
        self._fleet = fleet
        self._supply = supply
        self._timers = timers
        self._startup = startup
        self._random = random
        self._engines = engines
        self._gpus = engines().gpus
        supply.join(self._lacks, self.place)

    def begin(self, role: Role, count: int) -> None:
        """Replicas that are ready when the world begins, as far as there are GPUs."""
        book = self.books[role]
        book.spec = count
        for _ in range(count):
            pod = Pod(role, 0.0)
            book.add(pod)
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
                book.add(Pod(role, now))
        if missing < 0:
            self._shrink(book, -missing, now)
        if missing:
            self._supply.arrived(now)
        self._note(role, now)

    def place(self, now: float) -> None:
        """Give free GPUs to pending pods, oldest first; look elsewhere for what is missing."""
        able = [book for book in self.books.values() if book.count(PodState.PENDING)]
        pending = sorted(
            (pod for book in able for pod in book.pods if pod.state is PodState.PENDING), key=lambda pod: pod.since
        )
        for pod in pending:
            node = self._supply.place(self._gpus)
            if node is None:
                break
            self._hold(pod, node, now)
            self._start(pod, node, now)
        if any(book.count(PodState.PENDING) for book in self.books.values()):
            self._by_permit(now)
            self._timers.at(now + self._setup.supply.autoscaler_delay_s, self._autoscale)
        elif not self._supply.wanted:
            self._supply.give_to_training(now)

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

    def _lacks(self) -> int:
        """GPUs that its pending pods lack."""
        return sum(book.count(PodState.PENDING) for book in self.books.values()) * self._gpus

    def _by_permit(self, now: float) -> None:
        lacking = min(self._supply.lacking, self._lacks())
        if lacking and self._setup.supply.scheduler_preempts:
            self._supply.preempt(lacking, now)
        for book in self.books.values():
            permits = book.permits
            if now > permits.until:
                continue
            lacking = min(self._supply.lacking, book.count(PodState.PENDING) * self._gpus)
            wanted = min(lacking, permits.preempt)
            if wanted > 0:
                permits.preempt -= min(permits.preempt, self._supply.preempt(wanted, now))
            wanted = min(self._supply.lacking, permits.buy)
            if wanted > 0:
                permits.buy -= min(permits.buy, self._supply.buy(wanted, now))

    def _autoscale(self, now: float) -> None:
        """The cluster autoscaler: nodes for pods that have been pending for long enough."""
        lacking = min(self._supply.lacking, self._lacks())
        if lacking and self._supply.provisionable and not self._supply.buy(lacking, now):
            self._timers.at(now + 60.0, self._autoscale)

    def _hold(self, pod: Pod, node: Node, now: float) -> None:
        pod.node = node
        self.held.change(self._gpus, now)

    def _start(self, pod: Pod, node: Node, now: float) -> None:
        self.books[pod.role].move(pod, PodState.STARTING)
        starting = [p for b in self.books.values() for p in b.pods if p.state is PodState.STARTING]
        serving = sum(book.count(state) for book in self.books.values() for state in SERVING)
        readers = Readers(sum(p.node is node for p in starting), len(starting), serving)
        steps = self._startup.steps(self._random, readers, image=node.image, slow=self.slow_weights)
        pod.together = sum(p.role is pod.role for p in starting)
        # waiting for GPUs is part of the start: a node that was bought, a gang that had to leave
        pod.steps = {Step.NODE: now - pod.since, **steps} if now > pod.since else steps
        if now > pod.since:
            pod.tier = Tier.PROVISION if node.bought else Tier.PREEMPT
        self._later(pod, now + sum(steps.values()), self._came_up)

    def _came_up(self, pod: Pod, now: float) -> None:
        self._started += 1
        name = f"{pod.role}-{self._started:06d}"
        begun = self._setup.start_at
        told = Start(name, pod.tier, begun + pod.since, begun + now, tuple(pod.steps.items()), pod.together)
        self.books[pod.role].starts.append(told)
        self._serve(pod, now)

    def _serve(self, pod: Pod, now: float) -> None:
        self.books[pod.role].move(pod, PodState.READY)
        if pod.node is not None:
            pod.node.image = True
        made = self._engines()
        domain = 0 if pod.node is None else pod.node.domain
        pod.engine = self._fleet.add(pod.role, made.profile, made.noise, made.width, domain)
        self._note(pod.role, now)

    def _wake(self, pod: Pod, now: float) -> bool:
        node = self._supply.place(self._gpus)
        if node is None:
            return False
        self._hold(pod, node, now)
        self.books[pod.role].move(pod, PodState.STARTING)
        pod.since = now
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
            book.move(pod, PodState.DRAINING)
            pod.since = now
            self._fleet.close(pod.engine)
            self._drain(pod, now)

    def _drain(self, pod: Pod, now: float) -> None:
        """Gone when empty, or when it has had its time."""
        late = now - pod.since >= self._setup.actuation.drain_limit_s
        if not (late or self._fleet.empty(pod.engine)):
            after = max(DRAIN_LOOK_S, DRAIN_LOOK_SHARE * (now - pod.since), self._fleet.busy_for(pod.engine))
            self._later(pod, min(now + after, pod.since + self._setup.actuation.drain_limit_s), self._drain)
            return
        self._fleet.remove(pod.engine)
        asleep = self.books[pod.role].count(PodState.ASLEEP)
        if asleep < self._setup.supply.sleepers:
            self._free(pod, now)
            self.books[pod.role].move(pod, PodState.ASLEEP)
            pod.engine = -1
        else:
            self._delete(pod, now)
        self._supply.arrived(now)

    def _delete(self, pod: Pod, now: float) -> None:
        pod.stage += 1
        self.books[pod.role].drop(pod)
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
