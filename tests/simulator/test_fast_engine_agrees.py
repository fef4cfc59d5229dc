"""The fast engine against the step-by-step one: the same tokens at the same moments, on random small workloads."""

from __future__ import annotations

import heapq
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.simulator.engine import Engine
from autoscaler.simulator.engine_types import EngineProfile, EngineRequest, EngineRole, EventKind
from autoscaler.simulator.fast_engine import FastEngine
from autoscaler.simulator.job import Job
from autoscaler.simulator.ledger import Ledger

PROFILES = st.builds(
    EngineProfile,
    step_seconds=st.sampled_from([0.01, 0.02]),
    prefill_token_seconds=st.sampled_from([0.0, 1e-4]),
    sequence_seconds=st.sampled_from([0.0, 3e-4]),
    resident_token_seconds=st.sampled_from([0.0, 1e-6, 1e-4]),
    kv_capacity_tokens=st.integers(160, 640),
    max_running=st.integers(1, 8),
    max_batched_tokens=st.integers(8, 64),
    block_size=st.sampled_from([1, 4, 16]),
)
# Arrivals lie off the grid of step ends: with equality, rounding would decide which of two steps admits a request.
REQUESTS = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(1, 60), st.integers(1, 60), st.integers(0, 59)), min_size=1, max_size=25
).map(lambda drawn: [(at / 1000 + 0.000_137_31 * (n + 1), *rest) for n, (at, *rest) in enumerate(drawn)])


def transfer_seconds(number: int) -> float:
    """Different for every request, so that no KV arrives exactly at a step's end."""
    return 0.05 + 0.000_053_7 * (number + 1)


def by_steps(
    profile: EngineProfile, role: EngineRole, requests: list[tuple[float, int, int, int]]
) -> tuple[dict[int, float], dict[int, float], Engine]:
    """First-token and finish times by the reference engine, KV released (prefill) as soon as a prompt ends."""
    engine = Engine(profile, role)
    first: dict[int, float] = {}
    finish: dict[int, float] = {}
    for number, (at, prompt, output, cached) in enumerate(requests):
        transfer = transfer_seconds(number) if role is EngineRole.DECODE else 0.0
        engine.submit(EngineRequest(number, prompt, output, min(cached, prompt - 1), transfer), at)
    until = 0.0
    while len(finish) < len(requests) and until < 1000.0:
        until += 5.0
        for event in engine.advance(until):
            if event.kind is EventKind.FIRST_TOKEN:
                first[event.request_id] = event.at
            elif event.kind is EventKind.FINISHED:
                finish[event.request_id] = event.at
    return first, finish, engine


def by_spans(
    profile: EngineProfile, role: EngineRole, requests: list[tuple[float, int, int, int]]
) -> tuple[Ledger, FastEngine]:
    """The same by the fast engine, its owner being this loop."""
    ledger = Ledger(len(requests))
    engine = FastEngine(profile, role, ledger)
    inbox = [
        (at, 0, number, Job(number, prompt, output, min(cached, prompt - 1)))
        for number, (at, prompt, output, cached) in enumerate(requests)
    ]
    heapq.heapify(inbox)
    while inbox or engine.end < math.inf:
        if inbox and inbox[0][0] <= engine.end:
            now, kind, _, job = heapq.heappop(inbox)
            if kind == 0:
                engine.submit(job, now)
            else:
                engine.fetched(job, now)
        else:
            now = engine.end
            engine.step()
        for job in engine.fetch:
            heapq.heappush(inbox, (now + transfer_seconds(job.number), 1, job.number, job))
        engine.fetch.clear()
    return ledger, engine


@settings(max_examples=300, deadline=None)
@given(profile=PROFILES, requests=REQUESTS, role=st.sampled_from([EngineRole.COLOCATED, EngineRole.DECODE]))
def test_both_engines_make_the_same_tokens_at_the_same_moments(
    profile: EngineProfile, requests: list[tuple[float, int, int, int]], role: EngineRole
) -> None:
    first, finish, slow = by_steps(profile, role, requests)
    ledger, fast = by_spans(profile, role, requests)
    for number in range(len(requests)):
        assert ledger.first[number] == pytest.approx(first[number], rel=1e-9)
        assert ledger.finish[number] == pytest.approx(finish[number], rel=1e-9)
    counters = slow.counters
    assert fast.steps == counters.steps
    assert fast.generation == counters.generation_tokens
    assert fast.busy == pytest.approx(counters.busy_seconds)
    assert fast.preemptions == counters.preemptions
    assert fast.itl_busy == pytest.approx(counters.itl.total)
    assert fast.itl_tokens == counters.itl.count
    assert fast.ttft_busy == pytest.approx(counters.ttft.total)
    assert fast.prefill_busy == pytest.approx(counters.prefill_time.total)
    assert fast.prompt_tokens == counters.prompt_tokens
    assert fast.computed == counters.prompt_computed_tokens
    assert fast.kv.used == 0
    assert fast.load == 0
    assert fast.backlog == 0


@settings(max_examples=50, deadline=None)
@given(profile=PROFILES, requests=REQUESTS)
def test_a_prefill_engine_that_nobody_empties_agrees_too(
    profile: EngineProfile, requests: list[tuple[float, int, int, int]]
) -> None:
    _, finish, slow = by_steps(profile, EngineRole.PREFILL, requests)
    ledger = Ledger(len(requests))
    fast = FastEngine(profile, EngineRole.PREFILL, ledger)
    jobs = [(at, number, Job(number, p, 1, min(cached, p - 1))) for number, (at, p, _, cached) in enumerate(requests)]
    ended: dict[int, float] = {}
    heapq.heapify(jobs)
    while jobs or fast.end < math.inf:
        if jobs and jobs[0][0] <= fast.end:
            at, _, job = heapq.heappop(jobs)
            fast.submit(job, at)
            continue
        now = fast.end
        fast.step()
        ended |= {job.number: now for job in fast.done}
        fast.done.clear()
    assert ended == pytest.approx(finish, rel=1e-9)
    assert fast.kv.used == slow.gauges().kv_blocks
