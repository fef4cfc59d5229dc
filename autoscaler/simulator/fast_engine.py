"""The engine model of engine.py, fast enough for fleets: steps that only decode are played many at a time.

While nobody joins or leaves a batch of n sequences with R stored tokens, its k next steps take

    f * (k*A + d*n*k*(k - 1)/2)    with A = a + c*n + d*R, seconds,

because R grows by n per step. Such a span ends at the next finish (a heap over step numbers), when KV runs out, or at
the first step that ends after an arrival that can be admitted (the quadratic solved for k). So a request costs a few
heap operations, however many tokens it makes. Scheduling, chunking, KV blocks and preemption are those of engine.py,
and a test holds the two against each other step by step. f is 1, or noise with mean 1 (spans.noise_factor).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Final

from autoscaler.simulator.engine_types import EngineRole
from autoscaler.simulator.job import work
from autoscaler.simulator.kv_blocks import KvBlocks
from autoscaler.simulator.prefix_cache import PrefixCache
from autoscaler.simulator.spans import (
    NOTHING,
    Finishes,
    SoFar,
    Told,
    noise_factor,
    queued_before,
    span_seconds,
    steps_to_pass,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from autoscaler.simulator.engine_types import EngineProfile
    from autoscaler.simulator.job import Job
    from autoscaler.simulator.ledger import Ledger

_NEVER: Final = math.inf


class FastEngine:
    """One engine. Its owner calls `submit` at arrivals and `step` whenever `end` has come, in order of time.

    Attributes:
        end: when the present segment (one mixed step, or a span of decode steps) ends; infinite when idle.
        prompt_seconds: decode role: prompts it computes itself (convertible decoder) may make a step this long.
        kv, prefix: its blocks, its prefix cache. load: requests not finished. backlog: prompt tokens yet to compute.
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
        self._budget, self._most = profile.max_batched_tokens, profile.max_running
        self.kv = KvBlocks(profile.usable_blocks, profile.block_size)
        self.prefix = PrefixCache(prefix_block, self.kv)
        self.waiting: deque[Job] = deque()
        self._converted: deque[Job] = deque()
        self._fetched: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._prefill: dict[int, Job] = {}
        self._finishes = Finishes(self._running)
        self._chunks: list[tuple[Job, int]] = []
        self._decoding = self._resident = self._k = 0
        self._begun = self._a1 = self._q = 0.0
        self._factor = 1.0
        self.end = _NEVER
        self.prompt_seconds = math.inf
        self._told = Told(0, 0, 0)
        self.done: list[Job] = []
        self.fetch: list[Job] = []
        self.load = self.backlog = self.steps = 0
        self.busy = self.itl_busy = self.prefill_busy = self.ttft_busy = 0.0
        self.completions = self.computed = self.first_tokens = self.generation = 0
        self.itl_tokens = self.preemptions = self.prompt_tokens = 0

    def told(self, now: float) -> Told:
        """The gauges as vLLM sets them: at the end of a step, before the next one's batch is made."""
        steps, blocks = self.so_far(now)[2:]
        if steps == 0 and self.end < _NEVER:
            return self._told
        return Told(len(self._running), self._queued(steps), self.kv.used + blocks)

    def _queued(self, steps: int) -> int:
        """Requests queued, as told once so many steps of the segment have ended."""
        began = self._begun + self._factor * span_seconds(steps - 1, self._a1, self._q) if steps else math.inf
        return queued_before(self.waiting, began) + queued_before(self._converted, began)

    def fits(self, prompt: int, outputs: int) -> bool:
        """Whether the empty engine could ever finish such a request."""
        made = 1 if self._role is EngineRole.PREFILL else outputs
        return self.profile.blocks(prompt + made - 1) <= self.kv.usable

    def prompt_tokens_a_step(self) -> int:
        """Prompt tokens it would compute beside what it decodes now, within `prompt_seconds`."""
        return self.profile.spare_tokens(self.prompt_seconds, self._decoding + 1, self._resident)

    def submit(self, job: Job, now: float, *, converted: bool = False) -> bool:
        """Take a request that arrives now (it must fit); True when `end` changed.

        `converted`: a decode engine is to compute this prompt itself instead of fetching its KV.
        """
        job.arrived = now
        job.fetches = self._role is EngineRole.DECODE and not converted
        self.load += 1
        if not job.fetches:
            self.backlog += job.prompt - job.cached
        (self._converted if converted else self.waiting).append(job)
        return self._noticed(now, blocked=len(self.waiting) + (len(self._converted) if converted else 0) > 1)

    def fetched(self, job: Job, now: float) -> bool:
        """Decode role: this job's KV has arrived; True when `end` changed."""
        self._fetched.append(job)
        return self._noticed(now, blocked=False)

    def release(self, job: Job, now: float) -> bool:
        """Prefill role: free a finished prompt's KV, now that it is fetched; True when `end` changed."""
        self.prefix.give(job)
        return bool(self.waiting or self._converted) and self._noticed(now, blocked=False)

    def abandon(self, job: Job, now: float) -> bool:
        """Decode role: this job's KV will never come; True when `end` changed."""
        self.load -= 1
        return self.release(job, now)

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
                self.prefix.trim()
            self._end_decoding(now)
        if self._chunks:
            self._end_chunks(now)
        self._told = Told(len(self._running), self._queued(k), self.kv.used)
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
            if job.first is None and not job.fetches:
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
            self.ttft_busy += now - job.arrived + self.profile.frontend_seconds
            if not job.fetches:
                self.computed += job.prompt - job.cached
            if self._tells_first or (self._role is EngineRole.DECODE and not job.fetches):
                self._ledger.first[job.number] = now + self.profile.frontend_seconds
        else:
            self.itl_busy += now - job.last
            self.itl_tokens += 1
        if job.blocks:
            self.prefix.keep(job)
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
        self.prefix.give(job)
        self._ledger.finish[job.number] = now + self.profile.frontend_seconds
        self._ledger.engine[job.number] = self.number

    def _plan(self, now: float) -> None:
        """Schedule what starts now: a mixed step, a span of decode steps, or nothing."""
        held_back = False
        kv = self.kv
        if self._decoding:
            while kv.used + kv.entered(self.steps + 1) > kv.usable:
                self._preempt(next(reversed(self._running.values())), now)
                held_back = True
            kv.used += kv.entered(self.steps + 1)
            self.prefix.trim()
        if self.waiting or self._prefill or self._fetched or self._converted:
            self._schedule(now, held_back=held_back)
        decoding, chunks = self._decoding, self._chunks
        if not decoding and not chunks:
            self.end = _NEVER
            return
        cost = self.profile
        self._begun = now
        if chunks:
            tokens, pairs, stored = work(chunks)
            seconds = cost.mixed_step(tokens, pairs, decoding + len(chunks), self._resident + stored)
            self._k, self._a1, self._q = 1, seconds, 0.0
        else:
            self._q = cost.resident_token_seconds * decoding
            seconds = cost.step_seconds + cost.sequence_seconds * decoding
            self._a1 = seconds = seconds + cost.resident_token_seconds * self._resident
            steps = 1 if held_back else self._finishes.soonest() - self.steps
            self._k = k = self.kv.lasts(self.steps + 1, steps, decoding)
            seconds = span_seconds(k, seconds, self._q)
        if self._noise is not None:
            self._factor = noise_factor(self._noise, self._k)
            seconds *= self._factor
        self.end = now + seconds

    def _schedule(self, now: float, *, held_back: bool) -> None:
        """Give out the step's token budget: unfinished prompts first, then fetched ones, then the queue."""
        budget = self._budget - self._decoding
        begun: Iterable[Job] = self._prefill.values()
        if self.backlog and self.prompt_seconds < _NEVER:
            # Requests to decode come first; prompts taken over from prefill replicas get what the step's target leaves.
            begun = list(begun)
            budget = self._admit(budget, now, held_back=held_back, prompts=False)
            budget = min(budget, self.prompt_tokens_a_step())
        chunks = self._chunks
        for job in begun:
            if budget <= 0:
                break
            count = min(job.remaining, budget)
            chunks.append((job, count))
            budget -= count or 1
        self._admit(budget, now, held_back=held_back)

    def _admit(self, budget: int, now: float, *, held_back: bool, prompts: bool = True) -> int:
        """Fetched requests join the batch, queued ones start, prompts to compute only if wanted; the budget left."""
        while self._fetched and budget > 0 and len(self._running) < self._most:
            budget = self._start(self._fetched.popleft(), budget, now)
        while not held_back and budget > 0 and len(self._running) < self._most:
            queue = self.waiting or self._converted
            fetches = bool(queue) and queue[0].fetches and queue[0].scheduled is None
            if not (queue and (prompts or fetches)):
                break
            job = queue[0]
            tokens = job.prompt + job.generated
            if not self.prefix.take(job, tokens):
                break
            job.stored = tokens
            queue.popleft()
            if fetches:
                self.fetch.append(job)
            else:
                budget = self._start(job, budget, now)
        return budget

    def _start(self, job: Job, budget: int, now: float) -> int:
        """Put a job into the batch with its first chunk; returns the budget left."""
        first_time = job.scheduled is None
        if first_time and job.fetches:
            job.remaining = 0
        else:
            cached = self.prefix.spared(job)
            job.remaining = job.stored - cached
            if first_time:
                self.backlog += job.cached - cached
                job.cached = cached
                self._ledger.cached[job.number] = cached
            elif job.first is None:
                self.backlog -= cached
        if first_time:
            job.scheduled = now
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
            if job.first is None and not job.fetches:
                # What was computed is lost: all of it waits again, the cached part too.
                self.backlog += job.prompt - job.remaining
            del self._prefill[job.number]
        self.prefix.give(job)
        del self._running[job.number]
        self.preemptions += 1
        self._ledger.preempted[job.number] += 1
        self.waiting.appendleft(job)

    def so_far(self, now: float) -> SoFar:
        """What the running span has done by `now`."""
        inside = self.end < _NEVER and now > self._begun and self._decoding > 0
        steps = steps_to_pass((now - self._begun) / self._factor, self._a1, self._q) - 1 if inside else 0
        steps = min(self._k - 1, steps)
        if steps <= 0:
            return NOTHING
        seconds = self._factor * span_seconds(steps, self._a1, self._q)
        blocks = self.kv.grown(self.steps + 2, steps, self._decoding)
        return SoFar(self._decoding * steps, self._decoding * seconds, steps, blocks)

    def unfinished(self) -> list[Job]:
        """Every job handed in and not finished, in no particular order; those under transfer are the owner's."""
        return [*self.waiting, *self._converted, *self._fetched, *self._running.values()]
