"""A token-level model of one LLM engine: continuous batching, chunked prefill, paged KV, preemption by recompute.

It follows vLLM V1's scheduler: running sequences first (each decoding one gets a token every step), then unfinished
prompts in order, then the queue, first come first served, while the token budget, the sequence limit and the KV blocks
last. When a decoding sequence needs a block and none is free, the youngest sequence is thrown back to the head of the
queue and computed anew. Pure and deterministic: time is given, nothing is drawn.

Two simplifications: a prompt takes the KV blocks of its whole length when it is scheduled (vLLM takes them chunk by
chunk), and prefix-cache hits take blocks of their own (vLLM shares them). Both err on the side of a fuller cache.

Speed: a decoding sequence costs nothing per step. Its end is filed under the step in which it comes, and the sequences
that cross a block boundary in a step are known by count, since all of them advance by exactly one token.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from autoscaler.simulator.counters import EngineCounters
from autoscaler.simulator.engine_types import EngineRole, Event, EventKind, Gauges
from autoscaler.simulator.sequence import Sequence, Step, count_request

if TYPE_CHECKING:
    from autoscaler.simulator.engine_types import EngineProfile, EngineRequest

# vLLM's NIXL connector took 0.0 to 0.1 s to post a transfer on loopback; the median of a real pair was under 1 ms.
_POST_SECONDS = 0.0005


class Engine:
    """One engine replica.

    Requests are handed in by `submit` with their arrival time, in any order but not before the engine's own time;
    `advance(until)` plays everything that ends by then. How the time is cut into calls makes no difference.
    """

    def __init__(self, profile: EngineProfile, role: EngineRole, now: float = 0.0) -> None:
        self.profile = profile
        self.role = role
        self.now = now
        self.counters = EngineCounters()
        self._arrivals: list[tuple[float, int, Sequence]] = []
        self._waiting: deque[Sequence] = deque()
        self._fetching: list[tuple[float, int, Sequence]] = []
        self._fetched: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._prefilling: dict[int, Sequence] = {}
        self._kept: dict[int, int] = {}
        self._used_blocks = 0
        self._step: Step | None = None
        self._steps_done = 0
        self._decoding = 0
        self._resident = 0
        self._growth = [0] * profile.block_size
        self._ends: dict[int, list[Sequence]] = {}
        self._events: list[Event] = []

    @property
    def load(self) -> int:
        """Requests handed in and not finished."""
        return self.counters.submitted - self.counters.finished

    @property
    def idle(self) -> bool:
        """Nothing in it, not even KV that somebody has yet to fetch."""
        return self.load == 0 and not self._kept

    def gauges(self) -> Gauges:
        """State as of the last step that ended."""
        return Gauges(
            running=len(self._running),
            waiting=len(self._waiting) + len(self._arrivals),
            fetching=len(self._fetching),
            fetched=len(self._fetched),
            kv_blocks=self._used_blocks,
            kv_usage=self._used_blocks / self.profile.usable_blocks,
        )

    def unfinished(self) -> tuple[int, ...]:
        """Ids of the requests handed in and not finished, oldest first."""
        queued = [sequence for _, _, sequence in (*self._arrivals, *self._fetching)]
        everything = [*queued, *self._waiting, *self._fetched, *self._running.values()]
        everything.sort(key=lambda sequence: (sequence.arrived_at, sequence.request.request_id))
        return tuple(sequence.request.request_id for sequence in everything)

    def fits(self, request: EngineRequest) -> bool:
        """Whether the empty engine could ever finish this request."""
        outputs = 1 if self.role is EngineRole.PREFILL else request.output_tokens
        return self.profile.blocks(request.prompt_tokens + outputs - 1) <= self.profile.usable_blocks

    def submit(self, request: EngineRequest, at: float) -> None:
        """Hand in a request arriving at time `at` (seconds).

        Raises:
            ValueError: it arrives in the engine's past, or is longer than the whole KV cache.
        """
        if at < self.now:
            raise ValueError(f"request {request.request_id} arrives at {at}, before the engine's time {self.now}")
        if not self.fits(request):
            raise ValueError(
                f"request {request.request_id} needs {request.prompt_tokens + request.output_tokens - 1} KV tokens; "
                f"this engine holds {self.profile.usable_blocks * self.profile.block_size}"
            )
        outputs = 1 if self.role is EngineRole.PREFILL else request.output_tokens
        sequence = Sequence(request, at, outputs, needs_fetch=self.role is EngineRole.DECODE)
        heapq.heappush(self._arrivals, (at, self.counters.submitted, sequence))
        self.counters.submitted += 1

    def release(self, request_id: int) -> None:
        """Free the KV of a finished prefill, now that it is fetched.

        Raises:
            KeyError: no KV is kept for this request.
        """
        self._used_blocks -= self._kept.pop(request_id)

    def advance(self, until: float) -> list[Event]:
        """Play everything that ends by time `until` (seconds) and return what happened, in order of time."""
        while self._advance_once(until):
            pass
        events, self._events = self._events, []
        events.sort(key=lambda event: event.at)
        return events

    def _advance_once(self, until: float) -> bool:
        """Finish or start a step, or move to the next moment at which one could start; False at `until`."""
        if self._step is not None:
            if self._step.end > until:
                self.now = max(self.now, until)
                return False
            self._finish_step(self._step)
        self._admit_arrivals()
        self._step = self._plan_step()
        if self._step is not None:
            return True
        wakes = [heap[0][0] for heap in (self._arrivals, self._fetching) if heap]
        upcoming = min(wakes, default=until)
        if not wakes or upcoming > until:
            self.now = max(self.now, until)
            return False
        self.now = max(self.now, upcoming)
        return True

    def _admit_arrivals(self) -> None:
        while self._arrivals and self._arrivals[0][0] <= self.now:
            self._waiting.append(heapq.heappop(self._arrivals)[2])
        while self._fetching and self._fetching[0][0] <= self.now:
            at, _, sequence = heapq.heappop(self._fetching)
            request = sequence.request
            self.counters.transfer_time.observe(request.transfer_seconds)
            self.counters.transfer_post_time.observe(min(_POST_SECONDS, request.transfer_seconds))
            self.counters.transfer_bytes.observe(request.transfer_bytes)
            self.counters.transfer_descriptors.observe(float(self.profile.blocks(request.prompt_tokens)))
            self._fetched.append(sequence)
            self._emit(EventKind.KV_FETCHED, sequence, at)

    def _plan_step(self) -> Step | None:
        """Schedule the batch that starts now; None if there is nothing to compute."""
        preempted = self._make_room_for_growth()
        budget = self.profile.max_batched_tokens - self._decoding
        chunks: list[tuple[Sequence, int]] = []
        for sequence in self._prefilling.values():
            budget = self._take_chunk(sequence, budget, chunks)
        while self._fetched and budget > 0 and len(self._running) < self.profile.max_running:
            sequence = self._fetched.popleft()
            self._start(sequence)
            budget = self._take_chunk(sequence, budget, chunks)
        while not preempted and budget > 0 and self._waiting and len(self._running) < self.profile.max_running:
            if not self._take_blocks(self._waiting[0]):
                break
            sequence = self._waiting.popleft()
            if sequence.needs_fetch:
                self._start_fetch(sequence)
            else:
                self._start(sequence)
                budget = self._take_chunk(sequence, budget, chunks)
        if not chunks and not self._decoding:
            return None
        return self._costed(tuple(chunks))

    def _costed(self, chunks: tuple[tuple[Sequence, int], ...]) -> Step:
        tokens = sum(count for _, count in chunks)
        pairs = sum(count * (sequence.stored - sequence.remaining + count / 2) for sequence, count in chunks)
        stored = self._resident + sum(sequence.stored - sequence.remaining for sequence, _ in chunks)
        seconds = self.profile.mixed_step(tokens, pairs, self._decoding + len(chunks), stored)
        return Step(self.now + seconds, seconds, chunks, self._decoding)

    def _take_chunk(self, sequence: Sequence, budget: int, chunks: list[tuple[Sequence, int]]) -> int:
        """Give a prompt its share of the token budget; a fetched one needs none but its first output's slot."""
        if budget <= 0:
            return budget
        count = min(sequence.remaining, budget)
        chunks.append((sequence, count))
        return budget - max(count, 1)

    def _take_blocks(self, sequence: Sequence) -> bool:
        tokens = sequence.request.prompt_tokens + sequence.generated
        blocks = self.profile.blocks(tokens)
        if self._used_blocks + blocks > self.profile.usable_blocks:
            return False
        self._used_blocks += blocks
        sequence.stored = tokens
        return True

    def _start_fetch(self, sequence: Sequence) -> None:
        sequence.needs_fetch = False
        request = sequence.request
        self.counters.external_queries_tokens += request.prompt_tokens
        self.counters.external_hits_tokens += request.prompt_tokens
        heapq.heappush(self._fetching, (self.now + request.transfer_seconds, request.request_id, sequence))

    def _start(self, sequence: Sequence) -> None:
        """Put a sequence into the batch, with what is left to compute of its prompt."""
        request = sequence.request
        first_time = sequence.scheduled_at is None
        if first_time:
            sequence.scheduled_at = self.now
        if self.role is EngineRole.DECODE and first_time:
            sequence.remaining = 0
        else:
            sequence.remaining = sequence.stored - (request.cached_tokens if first_time else 0)
            if first_time:
                self.counters.prefix_queries_tokens += request.prompt_tokens
                self.counters.prefix_hits_tokens += request.cached_tokens
        self._running[request.request_id] = sequence
        self._prefilling[request.request_id] = sequence

    def _make_room_for_growth(self) -> bool:
        """Take the blocks that decoding sequences enter in this step; throw the youngest back while none are left."""
        preempted = False
        slot = (self._steps_done + 1) % self.profile.block_size
        while self._used_blocks + self._growth[slot] > self.profile.usable_blocks:
            self._preempt(next(reversed(self._running.values())))
            preempted = True
        self._used_blocks += self._growth[slot]
        return preempted

    def _preempt(self, sequence: Sequence) -> None:
        if sequence.join_step >= 0:
            grown = self._leave_decoding(sequence)
            sequence.generated += grown
            sequence.last_token_at = self.now
            self._ends[sequence.finish_step].remove(sequence)
        else:
            del self._prefilling[sequence.request.request_id]
        self._used_blocks -= self.profile.blocks(sequence.stored)
        del self._running[sequence.request.request_id]
        sequence.preemptions += 1
        self.counters.preemptions += 1
        self._waiting.appendleft(sequence)
        self._emit(EventKind.PREEMPTED, sequence, self.now)

    def _leave_decoding(self, sequence: Sequence) -> int:
        """Take a sequence out of the decoding set, its stored tokens brought up to date; returns how many it grew."""
        grown = self._steps_done - sequence.join_step
        self._growth[(sequence.join_step + 1 - sequence.stored) % self.profile.block_size] -= 1
        sequence.stored += grown
        sequence.join_step = -1
        self._decoding -= 1
        self._resident -= sequence.stored
        return grown

    def _finish_step(self, step: Step) -> None:
        self._step = None
        self.now = step.end
        self._steps_done += 1
        counters = self.counters
        counters.steps += 1
        counters.busy_seconds += step.seconds
        counters.generation_tokens += step.decoding
        self._resident += step.decoding
        tokens = step.decoding
        if step.decoding:
            counters.itl.observe(step.seconds, step.decoding)
        for sequence in self._ends.pop(self._steps_done, ()):
            sequence.generated += self._leave_decoding(sequence)
            self._finish(sequence)
        for sequence, count in step.chunks:
            sequence.remaining -= count
            if sequence.remaining == 0:
                tokens += self._produce_after_prefill(sequence)
        if tokens:
            counters.iteration_tokens.observe(float(tokens))

    def _produce_after_prefill(self, sequence: Sequence) -> int:
        """The token that ends a prefill (or a recompute); returns the tokens vLLM counts for it in this iteration."""
        counted = 1
        if sequence.first_token_at is None:
            sequence.first_token_at = self.now
            counted += self._count_prompt(sequence)
            self._emit(EventKind.FIRST_TOKEN, sequence, self.now)
        else:
            self.counters.itl.observe(self.now - sequence.last_token_at)
        self.counters.generation_tokens += 1
        sequence.generated += 1
        del self._prefilling[sequence.request.request_id]
        left = sequence.outputs - sequence.generated
        if left == 0:
            self._finish(sequence)
            return counted
        sequence.join_step = self._steps_done
        sequence.finish_step = self._steps_done + left
        self._ends.setdefault(sequence.finish_step, []).append(sequence)
        self._growth[(self._steps_done + 1 - sequence.stored) % self.profile.block_size] += 1
        self._decoding += 1
        self._resident += sequence.stored
        return counted

    def _count_prompt(self, sequence: Sequence) -> int:
        counters, request = self.counters, sequence.request
        counters.prompt_tokens += request.prompt_tokens
        counters.ttft.observe(self.now - sequence.arrived_at)
        if self.role is EngineRole.DECODE:
            counters.prompt_received_tokens += request.prompt_tokens
            return 0
        computed = request.prompt_tokens - request.cached_tokens
        counters.prompt_cached_tokens += request.cached_tokens
        counters.prompt_computed_tokens += computed
        return computed

    def _finish(self, sequence: Sequence) -> None:
        request, counters = sequence.request, self.counters
        del self._running[request.request_id]
        blocks = self.profile.blocks(sequence.stored)
        if self.role is EngineRole.PREFILL:
            self._kept[request.request_id] = blocks
        else:
            self._used_blocks -= blocks
        counters.finished += 1
        count_request(counters, sequence, self.now)
        self._emit(EventKind.FINISHED, sequence, self.now)

    def _emit(self, kind: EventKind, sequence: Sequence, at: float) -> None:
        self._events.append(Event(at, kind, sequence.request.request_id))
