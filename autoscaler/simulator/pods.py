"""Pods of a pool's roles: pending until there are GPUs, starting, ready, draining; asleep where that is allowed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from autoscaler.model import Start, Step, Tier
from autoscaler.simulator.books import SERVING, Book, Permits, Pod, PodState
from autoscaler.simulator.pairs import Pairs, apart
from autoscaler.simulator.startup import Readers, drawn
from autoscaler.simulator.supply import Held, anywhere

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from autoscaler.model import Role
    from autoscaler.simulator.replicas import Engines, Replicas
    from autoscaler.simulator.setup import Setup
    from autoscaler.simulator.startup import Startup
    from autoscaler.simulator.supply import Node, Supply, Timers

DRAIN_LOOK_S = 1.0
DRAIN_LOOK_SHARE = 0.1
"""A draining replica is asked whether it is empty every second, or every tenth of the time it has drained."""


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
        supply.join(self._lacks, self.place, paired=len(roles) > 1)

    def begin(self, role: Role, count: int) -> None:
        """Replicas that are ready when the world begins, as far as there are GPUs."""
        book = self.books[role]
        book.spec = count
        for _ in range(count):
            pod = Pod(role, 0.0)
            book.add(pod)
            node = self._supply.place(self._gpus, self._apart(role))
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

    def allow(self, permits: Mapping[Role, Permits], wishes: Mapping[Role, int], now: float) -> None:
        """What a decision allows to be taken, and takes it at once for replicas that are only wished for yet.

        Hands preempt when the plan says so; the HPA asks for the pods seconds later.
        """
        for role, permit in permits.items():
            self.books[role].permits = permit
        if permits:
            self._by_permit(now, {role: max(0, wish - self.books[role].spec) for role, wish in wishes.items()})

    def place(self, now: float) -> None:
        """Give free GPUs to pending pods, oldest first; look elsewhere for what is missing."""
        able = [book for book in self.books.values() if book.count(PodState.PENDING)]
        pending = sorted(
            (pod for book in able for pod in book.pods if pod.state is PodState.PENDING), key=lambda pod: pod.since
        )
        for pod in pending:
            node = self._supply.place(self._gpus, self._apart(pod.role))
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

    def _by_permit(self, now: float, ahead: Mapping[Role, int] | None = None) -> None:
        """Take what policies allowed for pods that lack GPUs; `ahead`: replicas wished for that are no pods yet."""
        more = {role: count * self._gpus for role, count in (ahead or {}).items()}
        lacking = min(self._supply.lacking(), self._lacks())
        if lacking and self._setup.supply.scheduler_preempts:
            self._supply.preempt(lacking, now)
        beyond = sum(more.values())
        for role, book in self.books.items():
            permits = book.permits
            if now > permits.until:
                continue
            own = book.count(PodState.PENDING) * self._gpus + more.get(role, 0)
            wanted = min(self._supply.unbridged(beyond), own, permits.preempt)
            if wanted > 0:
                permits.preempt -= min(permits.preempt, self._supply.preempt(wanted, now))
            wanted = min(self._supply.unordered(beyond), permits.buy)
            if wanted > 0:
                permits.buy -= min(permits.buy, self._supply.buy(wanted, now))

    def _autoscale(self, now: float) -> None:
        """The cluster autoscaler: nodes for pods that have been pending for long enough."""
        lacking = min(self._supply.lacking(), self._lacks())
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
        node = self._supply.place(self._gpus, self._apart(pod.role))
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

    def _apart(self, role: Role) -> Callable[[int], float]:
        """How far a network domain is ahead in this role of the other, whose pods there it would work with."""
        if len(self.books) == 1:
            return anywhere
        own: Counter[int] = Counter()
        others: Counter[int] = Counter()
        for mine, book in self.books.items():
            where = own if mine is role else others
            where.update(
                pod.node.domain for pod in book.pods if pod.node is not None and pod.state is not PodState.DRAINING
            )
        # Before any partner has a place, a role packs as one without partners does: it must not spread over domains.
        return apart(own, others) if others else anywhere

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
