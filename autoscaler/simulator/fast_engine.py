"""The engine model of engine.py, fast enough for fleets: steps that only decode are played many at a time.

While nobody joins or leaves a batch of n sequences with R stored tokens, its k next steps take

    f * (k*A + d*n*k*(k - 1)/2)    with A = a + c*n + d*R, seconds,

because R grows by n per step. Such a span ends at the next finish (a heap over step numbers), when KV runs out, or at
the first step that ends after an arrival that can be admitted (the quadratic solved for k). So a request costs a few
heap operations, however many tokens it makes. Scheduling, chunking, KV blocks and preemption are those of engine.py,
and a test holds the two against each other step by step. f is 1, or noise with mean 1: a step's relative deviation is
log-normal, and that of k independent steps together has 1/sqrt(k) of its width.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from autoscaler.simulator.engine_types import EngineRole
from autoscaler.simulator.job import PrefixCache
from autoscaler.simulator.kv_blocks import KvBlocks
from autoscaler.simulator.spans import Finishes, span_seconds, steps_to_pass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autoscaler.simulator.engine_types import EngineProfile
    from autoscaler.simulator.job import Job
    from autoscaler.simulator.ledger import Ledger

_NEVER: Final = math.inf


class FastEngine:
    """One engine. Its owner calls `submit` at arrivals and `step` whenever `end` has come, in order of time.

    Attributes:
        end: when the present segment (one mixed step, or a span of decode steps) ends; infinite when idle.
        kv: its blocks. load: requests in it, not finished. backlog: uncached prompt tokens not yet computed.
        done: finished jobs the owner has not collected (prefill role: their KV is kept until `release`).
        fetch: decode role: jobs whose KV blocks are taken and whose transfer is to be started by the owner.
        Others: cumulative counts behind vLLM's metric families; times in seconds.
    """

    def __init__(
        self,
        profile: EngineProfile,
        role: EngineRole,
        ledger: Ledger,
        number: int = 0,
        noise: tuple[Iterator[float], float] | None = None,
        prefix_block: int = 0,
        tells_first: bool = True,
    ) -> None:
        """An idle engine, called `number` in the ledger, where it writes what becomes of requests.

        `noise`: standard normal deviates, and the standard deviation of the logarithm of a step's duration;
        `prefix_block`: tokens per prefix block, 0 where jobs say themselves what is cached; `tells_first`: whether its
        first token is the one the client sees.
        """
        self.profile = profile
        self.number = number
        self._role = role
        self._ledger = ledger
        self._noise = noise
        self._tells_first = tells_first and role is not EngineRole.PREFILL
        self._prefix = PrefixCache(prefix_block)
        self._budget, self._most = profile.max_batched_tokens, profile.max_running
        self.kv = KvBlocks(profile.usable_blocks, profile.block_size)
        self.waiting: deque[Job] = deque()
        self._fetched: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._prefill: dict[int, Job] = {}
        self._finishes = Finishes(self._running)
        self._chunks: list[tuple[Job, int]] = []
        self._decoding = self._resident = self._k = 0
        self._begun = self._a1 = self._q = 0.0
        self._factor = 1.0
        self.end = _NEVER
        self.done: list[Job] = []
        self.fetch: list[Job] = []
        self.load = self.backlog = self.steps = 0
        self.busy = self.itl_busy = self.prefill_busy = self.ttft_busy = 0.0
        self.completions = self.computed = self.first_tokens = self.generation = 0
        self.itl_tokens = self.preemptions = self.prompt_tokens = 0

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._running)

    @property
    def kv_usage(self) -> float:
        """Used share of KV blocks, 0..1, as of the last segment that ended."""
        return self.kv.used / self.kv.usable

    def fits(self, prompt: int, outputs: int) -> bool:
        """Whether the empty engine could ever finish such a request."""
        made = 1 if self._role is EngineRole.PREFILL else outputs
        return self.profile.blocks(prompt + made - 1) <= self.kv.usable

    def hits(self, blocks: Sequence[int]) -> int:
        """How many of the leading prefix blocks its cache holds."""
        return self._prefix.hits(blocks)

    def submit(self, job: Job, now: float) -> bool:
        """Take a request that arrives now (it must fit); True when `end` changed."""
        job.arrived = now
        self.load += 1
        if self._role is not EngineRole.DECODE:
            self.backlog += job.prompt - job.cached
        self.waiting.append(job)
        return self._noticed(now, blocked=len(self.waiting) > 1)

    def fetched(self, job: Job, now: float) -> bool:
        """Decode role: this job's KV has arrived; True when `end` changed."""
        self._fetched.append(job)
        return self._noticed(now, blocked=False)

    def release(self, job: Job, now: float) -> bool:
        """Prefill role: free a finished prompt's KV, now that it is fetched; True when `end` changed."""
        self.kv.give(job.stored)
        return bool(self.waiting) and self._noticed(now, blocked=False)

    def abandon(self, job: Job, now: float) -> bool:
        """Decode role: this job's KV will never come; True when `end` changed."""
        self.kv.give(job.stored)
        self.load -= 1
        return bool(self.waiting) and self._noticed(now, blocked=False)

    def _noticed(self, now: float, *, blocked: bool) -> bool:
        """Start, or end the span early, so that what just came is looked at; True when `end` changed."""
        if self.end == _NEVER:
            self._plan(now)
            # The plan may start nothing but transfers, which the owner collects from `fetch`.
            return True
        if self._k == 1 or blocked or len(self._running) >= self._most:
            return False
        steps = steps_to_pass((now - self._begun) / self._factor, self._a1, self._q)
        if steps >= self._k:
            return False
        self._k = steps
        self.end = self._begun + self._factor * span_seconds(steps, self._a1, self._q)
        return True

    def step(self) -> float:
        """Complete the segment that ends at `end`, plan the next one, and return when that ends."""
        k, now, decoding = self._k, self.end, self._decoding
        seconds = now - self._begun
        self.busy += seconds
        self.steps += k
        if decoding:
            made = decoding * k
            self.generation += made
            self.itl_tokens += made
            self.itl_busy += decoding * seconds
            self._resident += made
            if k > 1:
                self.kv.used += self.kv.grown(self.steps - k + 2, k - 1, decoding)
            self._end_decoding(now)
        if self._chunks:
            self._end_chunks(now)
        self._plan(now)
        return self.end

    def _end_decoding(self, now: float) -> None:
        while (job := self._finishes.due(self.steps)) is not None:
            job.generated += self._leave_decoding(job)
            self._finish(job, now)

    def _leave_decoding(self, job: Job) -> int:
        grown = self.steps - job.join
        self.kv.leave(job.join + 1, job.stored)
        job.stored += grown
        job.join = -1
        self._decoding -= 1
        self._resident -= job.stored
        return grown

    def _end_chunks(self, now: float) -> None:
        for job, count in self._chunks:
            job.remaining -= count
            if job.scheduled is not None and job.first is None and self._role is not EngineRole.DECODE:
                self.backlog -= count
            if job.remaining == 0:
                self._produce(job, now)
        self._chunks = []

    def _produce(self, job: Job, now: float) -> None:
        """The token that ends a prefill, or a recompute after a preemption."""
        self.generation += 1
        if job.first is None:
            job.first = now
            self.first_tokens += 1
            self.prompt_tokens += job.prompt
            self.ttft_busy += now - job.arrived
            if self._role is not EngineRole.DECODE:
                self.computed += job.prompt - job.cached
            if self._tells_first:
                self._ledger.first[job.number] = now
            if job.blocks:
                self._prefix.keep(job, (self.kv.usable - self.kv.used) * self.kv.size)
        else:
            self.itl_busy += now - job.last
            self.itl_tokens += 1
        job.generated += 1
        del self._prefill[job.number]
        left = job.outputs - job.generated
        if left == 0:
            self._finish(job, now)
            return
        job.join = self.steps
        job.finish = self.steps + left
        self._finishes.add(job)
        self.kv.join(self.steps + 1, job.stored)
        self._decoding += 1
        self._resident += job.stored

    def _finish(self, job: Job, now: float) -> None:
        del self._running[job.number]
        self.load -= 1
        self.completions += 1
        if job.first is not None and job.scheduled is not None:
            self.prefill_busy += job.first - job.scheduled
        if self._role is EngineRole.PREFILL:
            self.done.append(job)
            return
        self.kv.give(job.stored)
        self._ledger.finish[job.number] = now
        self._ledger.engine[job.number] = self.number

    def _plan(self, now: float) -> None:
        """Schedule what starts now: a mixed step, a span of decode steps, or nothing."""
        held_back = False
        if self._decoding:
            kv = self.kv
            while kv.used + kv.entered(self.steps + 1) > kv.usable:
                self._preempt(next(reversed(self._running.values())), now)
                held_back = True
            kv.used += kv.entered(self.steps + 1)
        if self.waiting or self._prefill or self._fetched:
            self._schedule(now, held_back=held_back)
        decoding, chunks = self._decoding, self._chunks
        if not decoding and not chunks:
            self.end = _NEVER
            return
        cost = self.profile
        a, b = cost.step_seconds, cost.prefill_token_seconds
        c, d = cost.sequence_seconds, cost.resident_token_seconds
        self._begun = now
        if chunks:
            tokens = stored = 0
            for job, count in chunks:
                tokens += count
                stored += job.stored - job.remaining
            seconds = a + b * tokens + c * (decoding + len(chunks)) + d * (self._resident + stored)
            self._k, self._a1, self._q = 1, seconds, 0.0
        else:
            self._a1 = seconds = a + c * decoding + d * self._resident
            self._q = d * decoding
            steps = 1 if held_back else self._finishes.soonest() - self.steps
            self._k = k = self.kv.lasts(self.steps + 1, steps, decoding)
            seconds = span_seconds(k, seconds, self._q)
        if self._noise is not None:
            deviates, width = self._noise
            spread = width / math.sqrt(self._k)
            self._factor = math.exp(next(deviates) * spread - spread * spread / 2)
            seconds *= self._factor
        self.end = now + seconds

    def _schedule(self, now: float, *, held_back: bool) -> None:
        """Give out the step's token budget: unfinished prompts first, then fetched ones, then the queue."""
        budget = self._budget - self._decoding
        chunks = self._chunks
        for job in self._prefill.values():
            if budget <= 0:
                break
            count = min(job.remaining, budget)
            chunks.append((job, count))
            budget -= count or 1
        while self._fetched and budget > 0 and len(self._running) < self._most:
            budget = self._start(self._fetched.popleft(), budget, now)
        while not held_back and budget > 0 and self.waiting and len(self._running) < self._most:
            job = self.waiting[0]
            tokens = job.prompt + job.generated
            if not self.kv.take(tokens):
                break
            job.stored = tokens
            self.waiting.popleft()
            if self._role is EngineRole.DECODE and job.scheduled is None:
                self.fetch.append(job)
            else:
                budget = self._start(job, budget, now)

    def _start(self, job: Job, budget: int, now: float) -> int:
        """Put a job into the batch with its first chunk; returns the budget left."""
        if job.scheduled is None:
            job.scheduled = now
            if job.blocks and self._role is not EngineRole.DECODE:
                cached = self._prefix.use(job)
                self.backlog += job.cached - cached
                job.cached = cached
            fetched = self._role is EngineRole.DECODE
            job.remaining = 0 if fetched else job.stored - job.cached
            self._ledger.cached[job.number] = job.cached
        else:
            job.remaining = job.stored
        self._running[job.number] = job
        self._prefill[job.number] = job
        count = min(job.remaining, budget)
        self._chunks.append((job, count))
        return budget - (count or 1)

    def _preempt(self, job: Job, now: float) -> None:
        if job.join >= 0:
            job.generated += self._leave_decoding(job)
            job.last = now
        else:
            if job.first is None and self._role is not EngineRole.DECODE:
                # What was computed is lost: all of it waits again, the cached part too.
                self.backlog += job.prompt - job.remaining
            del self._prefill[job.number]
        self.kv.give(job.stored)
        del self._running[job.number]
        self.preemptions += 1
        self._ledger.preempted[job.number] += 1
        self.waiting.appendleft(job)

    def so_far(self, now: float) -> tuple[int, float, int, int]:
        """Inside a span at `now`: (decode tokens made, their request-seconds, steps ended, KV blocks entered)."""
        inside = self.end < _NEVER and now > self._begun and self._decoding > 0
        steps = steps_to_pass((now - self._begun) / self._factor, self._a1, self._q) - 1 if inside else 0
        steps = min(self._k - 1, steps)
        if steps <= 0:
            return 0, 0.0, 0, 0
        seconds = self._factor * span_seconds(steps, self._a1, self._q)
        return (
            self._decoding * steps,
            self._decoding * seconds,
            steps,
            self.kv.grown(self.steps + 2, steps, self._decoding),
        )

    def unfinished(self) -> list[Job]:
        """Every job handed in and not finished, in no particular order; those under transfer are the owner's."""
        return [*self.waiting, *self._fetched, *self._running.values()]
