"""The engines of a pool with their gateway: requests in, tokens out, in order of time.

Colocated: gateway -> engine. Disaggregated: gateway -> prefill engine -> KV link -> decode engine. A prefill replica's
link moves one prompt's KV at a time at full bandwidth, so that transfers from one replica share it; its KV is kept
until it has left. A request that no engine can hold, that the full gateway turns away, or whose engine dies, fails.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import TYPE_CHECKING

from autoscaler.model import Role
from autoscaler.simulator.engine_types import EngineRole
from autoscaler.simulator.fast_engine import FastEngine
from autoscaler.simulator.job import Job
from autoscaler.simulator.ledger import Ledger
from autoscaler.simulator.routing import Router
from autoscaler.simulator.wiring import Replica

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.simulator.engine_types import EngineProfile
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.wiring import Gateway, Link

_NEVER = math.inf


class Fleet:
    """All engines of one pool. `advance` plays requests and engines; replicas come and go between calls.

    Attributes:
        ledger: what became of each request. now: simulated seconds. born: replicas ever added.
        moved_bytes, across_bytes: KV that went over links, and that of it between two network domains.
        refused: requests longer than an engine's KV cache. shed: turned away by the full gateway.
    """

    def __init__(self, workload: Workload, gateway: Gateway, link: Link | None = None) -> None:
        self.ledger = Ledger(len(workload))
        self.now = 0.0
        self.refused = self.shed = 0
        self._entry = Role.COLOCATED if link is None else Role.PREFILL
        self._link = link
        self._gateway = gateway
        self._router = Router(gateway.routing, self._entry, link)
        self._arrivals: list[float] = workload.arrival_s.tolist()
        self._prompts: list[int] = workload.prompt.tolist()
        self._outputs: list[int] = workload.output.tolist()
        self._cached: list[int] | None = None if workload.cached is None else workload.cached.tolist()
        self._blocks = workload.blocks
        self._block_tokens = workload.block_tokens
        self._next = 0
        self._heap: list[tuple[float, int]] = []
        self._moving: list[tuple[float, int, int, Job]] = []
        self._moved = 0
        self._replicas: dict[int, Replica] = {}
        self.moved_bytes = self.across_bytes = 0.0
        self._held: deque[Job] = deque()
        self._handed: deque[tuple[Job, int]] = deque()
        self.born = 0
        self._busy_gone = 0.0

    @property
    def held(self) -> int:
        """Requests the gateway holds back."""
        return len(self._held)

    @property
    def left(self) -> int:
        """Requests that have not arrived yet."""
        return len(self._arrivals) - self._next

    @property
    def busy_s(self) -> float:
        """Seconds that engines have computed, those that are gone included."""
        return self._busy_gone + sum(replica.engine.busy for replica in self._replicas.values())

    def numbers(self) -> list[int]:
        """Numbers of all replicas there are, ascending."""
        return sorted(self._replicas)

    def empty(self, number: int) -> bool:
        """Whether nobody waits for anything in this replica."""
        return self._replicas[number].empty

    @property
    def convertible(self) -> int:
        """Decode replicas, the oldest, that may compute prompts."""
        return self._router.convertible

    def convert(self, count: int) -> None:
        """From now on so many decode replicas, the oldest, may compute prompts."""
        self._router.convertible = count

    def busy_for(self, number: int) -> float:  # noqa: ARG002 - the protocol's
        """Not known beforehand: how long a request takes depends on what comes."""
        return 0.0

    def replicas(self) -> Iterator[Replica]:
        """Every replica there is, oldest first."""
        return iter(self._replicas.values())

    def add(
        self,
        role: Role,
        profile: EngineProfile,
        noise: Iterator[float] | None = None,
        width: float = 0.0,
        domain: int = 0,
    ) -> int:
        """A replica has become ready; returns its number.

        Args:
            role: what it does.
            profile: how fast it is.
            noise: standard normal deviates for its steps' durations.
            width: standard deviation of the logarithm of a step's duration.
            domain: its network domain.
        """
        number = self.born
        self.born += 1
        tells_first = not (role is Role.DECODE and self._link is not None and self._link.first_token_at_prefill)
        engine = FastEngine(
            profile,
            EngineRole(role.value),
            self.ledger,
            number,
            noise=None if noise is None or width <= 0 else (noise, width),
            prefix_block=self._block_tokens if self._blocks is not None else 0,
            tells_first=tells_first,
        )
        if role is Role.DECODE and self._link is not None:
            engine.prompt_seconds = self._link.tpot_s
        self._replicas[number] = Replica(engine, role, domain)
        self._router.join(engine, role, domain)
        self._dispatch()
        return number

    def get(self, number: int) -> Replica:
        """The replica of that number. Raises KeyError when it is gone."""
        return self._replicas[number]

    def close(self, number: int) -> None:
        """The replica takes no more requests and finishes those it has."""
        replica = self._replicas[number]
        if replica.accepts:
            replica.accepts = False
            self._router.leave(replica.engine, replica.role, replica.domain)

    def remove(self, number: int) -> None:
        """The replica is gone; what it still held is lost, and so is what waits elsewhere for KV it kept."""
        self.close(number)
        replica = self._replicas.pop(number)
        self._busy_gone += replica.engine.busy
        for job in (*replica.engine.unfinished(), *replica.fetching.values()):
            source = self._replicas.get(job.source)
            if source is not None:
                self._let_go(source, job)

    def inside(self) -> int:
        """Requests that have arrived and may still finish."""
        waiting = [*self._held, *(job for job, source in self._handed if source in self._replicas)]
        for replica in self._replicas.values():
            waiting += [*replica.engine.unfinished(), *replica.fetching.values()]
        return len({job.number for job in waiting})

    def advance(self, until: float) -> None:
        """Play everything up to and including time `until` (seconds since the start; infinite: until all is done)."""
        heap, moving, replicas = self._heap, self._moving, self._replicas
        arrivals, count = self._arrivals, len(self._arrivals)
        upcoming = arrivals[self._next] if self._next < count else _NEVER
        while True:
            end = heap[0][0] if heap else _NEVER
            arrived = moving[0][0] if moving else _NEVER
            nearest = min(upcoming, end, arrived)
            if nearest > until or nearest == _NEVER:
                break
            if upcoming == nearest:
                self.now = upcoming
                self._arrive(self._next)
                self._next += 1
                upcoming = arrivals[self._next] if self._next < count else _NEVER
            elif arrived == nearest:
                self.now, _, number, job = heapq.heappop(moving)
                self._arrived(number, job)
            else:
                replica = replicas.get(heap[0][1])
                # An engine whose segment was cut short, or that is gone, leaves its old end behind.
                if replica is None or replica.engine.end != end:
                    heapq.heappop(heap)
                    continue
                self.now = end
                self._step(replica)
        self.now = until if until < _NEVER else self.now

    def _step(self, replica: Replica) -> None:
        """The segment at the head of the heap ends now."""
        engine = replica.engine
        end = engine.step()
        if end < _NEVER:
            heapq.heapreplace(self._heap, (end, engine.number))
        else:
            heapq.heappop(self._heap)
        if engine.done:
            self._hand_over(replica)
        if engine.fetch:
            self._fetch(replica)
        if self._held:
            self._dispatch()

    def _arrive(self, number: int) -> None:
        """Request `number` of the workload has come to the gateway."""
        job = Job(
            number,
            self._prompts[number],
            self._outputs[number] if self._entry is Role.COLOCATED else 1,
            0 if self._cached is None else self._cached[number],
            () if self._blocks is None else tuple(self._blocks[number].tolist()),
        )
        if self._held or not self._place(job):
            if self._gateway.most is not None and len(self._held) >= self._gateway.most:
                self.shed += 1
                return
            self._held.append(job)

    def _place(self, job: Job) -> bool:
        """Give a job to an engine; False when none may take it now."""
        engine = self._router.entry(job, self._gateway.limit)
        if engine is None:
            return False
        relief = self._router.relief(engine, job.prompt, self._outputs[job.number])
        if relief is not None:
            engine, job.outputs = relief, self._outputs[job.number]
        if not engine.fits(job.prompt, job.outputs):
            self.refused += 1
            return True
        if engine.submit(job, self.now, converted=relief is not None):
            self._changed(engine)
        return True

    def _changed(self, engine: FastEngine) -> None:
        if engine.end < _NEVER:
            heapq.heappush(self._heap, (engine.end, engine.number))
        if engine.fetch:
            self._fetch(self._replicas[engine.number])

    def _dispatch(self) -> None:
        """Hand out what the gateway and the hand-over hold, as far as engines may take it."""
        while self._held and self._place(self._held[0]):
            self._held.popleft()
        while self._handed and self._router.decodes:
            self._to_decode(*self._handed.popleft())

    def _hand_over(self, replica: Replica) -> None:
        """Prompts that ended on a prefill replica go to decode engines; their KV waits here."""
        for done in replica.engine.done:
            replica.kept[done.number] = done
            if self._link is not None and self._link.first_token_at_prefill:
                self.ledger.first[done.number] = self.now
            job = Job(done.number, done.prompt, self._outputs[done.number], 0)
            job.source = replica.engine.number
            if self._router.decodes:
                self._to_decode(job, replica.engine.number)
            else:
                self._handed.append((job, replica.engine.number))
        replica.engine.done.clear()

    def _to_decode(self, job: Job, source: int) -> None:
        replica = self._replicas.get(source)
        if replica is None:
            return
        engine = self._router.decoder(replica.domain)
        if not engine.fits(job.prompt, job.outputs):
            self.refused += 1
            self._let_go(replica, job)
        elif engine.submit(job, self.now):
            self._changed(engine)

    def _fetch(self, replica: Replica) -> None:
        """Decode has room for these: their KV moves when the link of their prefill replica is free."""
        link = self._link
        for job in replica.engine.fetch:
            replica.fetching[job.number] = job
            source = self._replicas.get(job.source)
            if link is None or source is None:
                self._move(self.now, replica, job)
                continue
            size = job.prompt * link.bytes_per_token
            begins = max(self.now, source.link_free)
            near = source.domain == replica.domain
            source.link_free = begins + size / (link.bytes_per_s * (1.0 if near else link.across))
            self.moved_bytes += size
            self.across_bytes += 0.0 if near else size
            replica.transfer_bytes += size
            replica.transfer_busy += source.link_free - self.now
            self._move(source.link_free, replica, job)
        replica.engine.fetch.clear()

    def _move(self, until: float, replica: Replica, job: Job) -> None:
        self._moved += 1
        heapq.heappush(self._moving, (until, self._moved, replica.engine.number, job))

    def _arrived(self, number: int, job: Job) -> None:
        """A job's KV has come to decode engine `number`, if both ends still live."""
        source, replica = self._replicas.get(job.source), self._replicas.get(number)
        if source is not None:
            self._let_go(source, job)
        if replica is None or replica.fetching.pop(job.number, None) is None:
            return
        engine = replica.engine
        if engine.abandon(job, self.now) if source is None else engine.fetched(job, self.now):
            self._changed(engine)

    def _let_go(self, source: Replica, job: Job) -> None:
        """The prefill replica drops this prompt's KV."""
        kept = source.kept.pop(job.number, None)
        if kept is not None and source.engine.release(kept, self.now):
            self._changed(source.engine)
