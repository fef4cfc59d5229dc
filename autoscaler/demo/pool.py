"""One emulated pool: traffic, router, engines and score. Time is given; no sockets here.

A request goes to the least loaded ready replica of its first role. When a prefill replica has made its first token, the
request goes on to a decode replica, which fetches the KV over the link and then generates every token (that is what
vLLM's NIXL pair does). While no replica is ready the router holds requests; it never drops one. What a draining replica
has not finished in time starts again from the prompt on another one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.demo.deployment import Deployment, Replica, ReplicaState
from autoscaler.demo.slo import Score
from autoscaler.simulator.engine_types import EngineRequest, EngineRole, EventKind
from autoscaler.simulator.workload import Arrival, ArrivalStream

if TYPE_CHECKING:
    from autoscaler.demo.config import PoolConfig
    from autoscaler.simulator.engine_types import Event


@dataclass(slots=True, eq=False)
class _Flight:
    """A request under way: `at` is when it may enter its next replica, `kept_by` the replica that holds its KV."""

    arrival: Arrival
    at: float
    kept_by: Replica | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Cumulative token counts of a pool: offered by the traffic, served by the engines."""

    offered_prompt: int = 0
    offered_output: int = 0
    served_prompt: int = 0
    served_output: int = 0

    def plus(self, other: Tokens) -> Tokens:
        """Sum by field."""
        return Tokens(
            self.offered_prompt + other.offered_prompt,
            self.offered_output + other.offered_output,
            self.served_prompt + other.served_prompt,
            self.served_output + other.served_output,
        )


class EmulatedPool:
    """A pool's replicas and requests, advanced to given times (Unix seconds, not decreasing)."""

    def __init__(self, config: PoolConfig, seed: int, started_at: float) -> None:
        self.config = config
        self.factor = 1.0
        self.arrived = 0
        self.finished = 0
        self.tokens = Tokens()
        self.score = Score(config.slo.ttft_seconds, config.slo.tpot_seconds)
        self.deployments = {role.role: Deployment(f"{config.name}-{role.role}", role) for role in config.roles}
        self.held: dict[EngineRole, deque[_Flight]] = {role: deque() for role in self.deployments}
        self._started_at = started_at
        self._turn = 0
        self._flights: dict[int, _Flight] = {}
        self._entry = EngineRole.PREFILL if EngineRole.PREFILL in self.deployments else EngineRole.COLOCATED
        self._last = EngineRole.DECODE if EngineRole.DECODE in self.deployments else EngineRole.COLOCATED
        block = self.deployments[self._entry].config.engine.block_size
        self._stream = ArrivalStream(config.workload.rate(), config.workload.mix(block), seed)
        for deployment in self.deployments.values():
            deployment.open(started_at)

    @property
    def in_flight(self) -> int:
        """Requests that arrived and have not finished, wherever they are."""
        return len(self._flights)

    @property
    def rate(self) -> float:
        """Requests/s the traffic has now."""
        return self.factor * self.config.workload.rate().at(self._stream.now)

    def advance(self, now: float) -> None:
        """Let everything happen that happens up to `now`."""
        for deployment in self.deployments.values():
            deployment.advance(now)
        self._take_arrivals(now)
        self._play(self._entry, now)
        if self._last is not self._entry:
            self._play(self._last, now)
        for role, deployment in self.deployments.items():
            for replica in deployment.drained(now):
                self._count_tokens(replica)
                self._start_again(role, replica, now)
        self.score.overdue(now)

    def count_tokens(self) -> Tokens:
        """Cumulative tokens up to the last advance."""
        for deployment in self.deployments.values():
            for replica in deployment.replicas.values():
                self._count_tokens(replica)
        return self.tokens

    def _take_arrivals(self, now: float) -> None:
        for arrival in self._stream.until(now - self._started_at, self.factor):
            at = self._started_at + arrival.at
            flight = _Flight(arrival, at)
            self._flights[arrival.number] = flight
            self.held[self._entry].append(flight)
            self.score.arrived(arrival.number, at)
            self.arrived += 1
            self.tokens = self.tokens.plus(Tokens(arrival.prompt_tokens, arrival.output_tokens))

    def _play(self, role: EngineRole, now: float) -> None:
        """Route what is held for a role, then run its engines."""
        ready = self.deployments[role].in_state(ReplicaState.READY)
        held = self.held[role]
        while held and ready:
            flight = held.popleft()
            replica = min(ready, key=_prompt_load if role is EngineRole.PREFILL else _request_load)
            self._turn += 1
            replica.turn = self._turn
            self._submit(flight, replica)
        for replica in list(self.deployments[role].replicas.values()):
            if replica.engine is not None:
                for event in replica.engine.advance(now):
                    self._handle(role, replica, event)

    def _submit(self, flight: _Flight, replica: Replica) -> None:
        engine, arrival = replica.engine, flight.arrival
        if engine is None:
            raise RuntimeError(f"{replica.pod} is ready without an engine")
        transferred = arrival.prompt_tokens * self.config.kv_bytes_per_token
        decode = engine.role is EngineRole.DECODE
        request = EngineRequest(
            arrival.number,
            arrival.prompt_tokens,
            arrival.output_tokens,
            cached_tokens=0 if decode else arrival.cached_tokens,
            transfer_seconds=self._transfer_seconds(transferred) if decode else 0.0,
            transfer_bytes=transferred if decode else 0.0,
        )
        replica.owed_tokens += arrival.prompt_tokens - arrival.cached_tokens
        engine.submit(request, max(flight.at, engine.now))

    def _transfer_seconds(self, transferred: float) -> float:
        return self.config.link_latency_seconds + transferred / self.config.link_bytes_per_second

    def _handle(self, role: EngineRole, replica: Replica, event: Event) -> None:
        flight = self._flights[event.request_id]
        arrival = flight.arrival
        if event.kind is EventKind.KV_FETCHED:
            self._release_kv(flight)
        elif event.kind is EventKind.FIRST_TOKEN and role is self._last:
            self.score.first_token(arrival.number, event.at)
        elif event.kind is EventKind.FINISHED:
            replica.owed_tokens -= arrival.prompt_tokens - arrival.cached_tokens
            if role is self._last:
                del self._flights[arrival.number]
                self.finished += 1
                self.score.finished(arrival.number, event.at, arrival.output_tokens)
            else:
                flight.at, flight.kept_by = event.at, replica
                self.held[self._last].append(flight)

    def _release_kv(self, flight: _Flight) -> None:
        keeper, flight.kept_by = flight.kept_by, None
        if keeper is not None and keeper.engine is not None:
            keeper.engine.release(flight.arrival.number)

    def _start_again(self, role: EngineRole, replica: Replica, now: float) -> None:
        """Send what a departing replica has not finished back to the router, as if it came now, the oldest first."""
        if replica.engine is None:
            return
        for number in reversed(replica.engine.unfinished()):
            flight = self._flights[number]
            if role is not self._entry:
                self._release_kv(flight)
            flight.at = now
            self.held[self._entry].appendleft(flight)

    def _count_tokens(self, replica: Replica) -> None:
        if replica.engine is None:
            return
        counters = replica.engine.counters
        prompt, output = replica.counted
        role = replica.engine.role
        # Only the entry role computes prompts and only the last one's tokens reach the user.
        new_prompt = counters.prompt_tokens - prompt if role is self._entry else 0
        new_output = counters.generation_tokens - output if role is self._last else 0
        replica.counted = (counters.prompt_tokens, counters.generation_tokens)
        self.tokens = self.tokens.plus(Tokens(0, 0, new_prompt, new_output))


def _prompt_load(replica: Replica) -> tuple[int, int]:
    return replica.owed_tokens, replica.turn


def _request_load(replica: Replica) -> tuple[int, int]:
    return replica.engine.load if replica.engine is not None else 0, replica.turn
