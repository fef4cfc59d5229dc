"""KV blocks shared by prefix: counted once however many use them, kept while nobody needs the room, never lost."""

from __future__ import annotations

import heapq
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.simulator.engine_types import EngineProfile, EngineRole
from autoscaler.simulator.fast_engine import FastEngine
from autoscaler.simulator.job import Job
from autoscaler.simulator.kv_blocks import KvBlocks
from autoscaler.simulator.ledger import Ledger
from autoscaler.simulator.prefix_cache import PrefixCache

PROFILE = EngineProfile(
    0.01, 1e-3, 0.0, 0.0, kv_capacity_tokens=404, max_running=8, max_batched_tokens=512, block_size=4
)
"""100 usable blocks of 4 tokens."""


def engine(ledger: Ledger, profile: EngineProfile = PROFILE, tokens: int = 16) -> FastEngine:
    return FastEngine(profile, EngineRole.COLOCATED, ledger, prefix_block=tokens)


def test_a_shared_prefix_is_computed_once_and_held_once() -> None:
    """Prompts of 40 tokens, 32 of them (two prefix blocks of 16) the same: 10 blocks, then 10 - 8 = 2 more."""
    ledger = Ledger(2)
    made = engine(ledger)
    made.submit(Job(0, 40, 100, 0, (1, 2, 3)), 0.0)
    made.step()
    assert made.computed == 40
    assert made.kv.used == 10 + 1
    made.submit(Job(1, 40, 100, 0, (1, 2, 4)), 0.055)
    made.step()
    made.step()
    # The second prompt has 8 tokens left to compute; each request has made tokens into one further block.
    assert made.computed == 40 + 8
    assert ledger.cached[1] == 32
    assert made.kv.used == 10 + 2 + 2


def test_what_nobody_uses_is_found_again_until_its_room_is_needed() -> None:
    kv = KvBlocks(20, 4)
    cache = PrefixCache(16, kv)
    first, second, large = Job(0, 32, 1, 0, (1, 2)), Job(1, 32, 1, 0, (1, 2)), Job(2, 72, 1, 0, (7, 8, 9, 10, 11))
    for job in (first,):
        assert cache.take(job, 32)
        job.stored = 32
        cache.keep(job)
    cache.give(first)
    assert (kv.used, cache.idle, cache.hits((1, 2))) == (0, 8, 2)
    assert cache.take(large, 72)
    # 18 of 20 blocks are taken: of the 8 remembered ones only 2 could stay, less than a prefix block's 4.
    assert (kv.used, cache.idle, cache.hits((1, 2))) == (18, 0, 0)
    large.stored = 72
    cache.give(large)
    assert cache.found(second) == (0, 0)


def test_the_end_of_a_prompt_is_forgotten_before_its_beginning() -> None:
    kv = KvBlocks(20, 4)
    cache = PrefixCache(16, kv)
    first, other = Job(0, 48, 1, 0, (1, 2, 3)), Job(1, 40, 1, 0, ())
    assert cache.take(first, 48)
    first.stored = 48
    cache.keep(first)
    cache.give(first)
    assert cache.take(other, 40)
    # 10 blocks are free, 12 were remembered: the third prefix block of 4 had to go.
    assert cache.hits((1, 2, 3)) == 2


def test_names_that_mean_parts_of_different_length_share_nothing() -> None:
    kv = KvBlocks(50, 4)
    cache = PrefixCache(16, kv)
    short, long = Job(0, 8, 1, 0, (1,)), Job(1, 32, 1, 0, (1, 2))
    assert cache.take(short, 8)
    short.stored = 8
    cache.keep(short)
    assert cache.found(long) == (0, 0)


PROMPTS = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(1, 120), st.integers(1, 60), st.integers(0, 3), st.integers(0, 4)),
    min_size=1,
    max_size=25,
)


def blocks(number: int, prompt: int, family: int, common: int, tokens: int = 16) -> tuple[int, ...]:
    """The first `common` prefix blocks are the family's, the others the prompt's own; a partly filled one always is."""
    whole, count = prompt // tokens, -(-prompt // tokens)
    return tuple(family * 100 + at if at < min(common, whole) else 10_000 + number * 100 + at for at in range(count))


@settings(max_examples=150, deadline=None)
@given(PROMPTS, st.integers(150, 600), st.sampled_from([4, 5, 16]))
def test_blocks_in_use_are_those_of_the_requests_and_all_come_back(
    drawn: list[tuple[int, int, int, int, int]], capacity: int, size: int
) -> None:
    """Whatever is shared: KV never overflows, at most what requests would hold apart is used, and 0 at the end."""
    profile = EngineProfile(0.01, 1e-4, 1e-4, 1e-6, max(capacity, 15 * size + 181), 6, 64, size)
    ledger = Ledger(len(drawn))
    made = engine(ledger, profile)
    inbox = [
        (at / 1000 + 1e-7 * number, number, Job(number, prompt, out, 0, blocks(number, prompt, family, common)))
        for number, (at, prompt, out, family, common) in enumerate(drawn)
    ]
    jobs = [job for _, _, job in inbox]
    heapq.heapify(inbox)
    while inbox or made.end < math.inf:
        if inbox and inbox[0][0] <= made.end:
            at, _, job = heapq.heappop(inbox)
            assert made.fits(job.prompt, job.outputs)
            made.submit(job, at)
        else:
            made.step()
        apart = sum(profile.blocks(job.stored + made.steps - job.join) for job in made.unfinished() if job.join >= 0)
        apart += sum(
            profile.blocks(job.stored) for job in made.unfinished() if job.join < 0 and job.scheduled is not None
        )
        assert 0 <= made.kv.used <= made.kv.usable
        assert made.kv.used <= apart + len(jobs)
    assert made.kv.used == 0
    assert made.load == made.backlog == 0
    assert made.completions == len(drawn)
    assert made.generation == sum(out for _, _, out, _, _ in drawn)
    assert made.computed + sum(ledger.cached) == sum(prompt for _, prompt, _, _, _ in drawn)
    assert all(not job.held and job.shared == 0 for job in jobs)


def test_the_front_end_delays_tokens_but_not_the_engine() -> None:
    """100 tokens at 1 ms and a step of 10 ms: the first token at 0.11 s, at the client 0.05 s later."""
    late = EngineProfile(0.01, 1e-3, 0.0, 0.0, 404, 8, 512, 4, frontend_seconds=0.05)
    ledger = Ledger(1)
    made = FastEngine(late, EngineRole.COLOCATED, ledger)
    made.submit(Job(0, 100, 2, 0), 0.0)
    assert made.step() == pytest.approx(0.12)
    made.step()
    assert ledger.first[0] == pytest.approx(0.16)
    assert ledger.finish[0] == pytest.approx(0.17)


def test_attention_grows_with_the_square_of_a_prompt_however_it_is_cut() -> None:
    """1,000 tokens make 1000^2 / 2 pairs; in chunks of 250 the same: sum of 250 * (done + 125) is 500,000."""
    pairs = 1e-6
    for chunk, steps in ((1000, 1), (250, 4)):
        profile = EngineProfile(0.01, 0.0, 0.0, 0.0, 4096, 8, chunk, 16, attention_pair_seconds=pairs)
        made = FastEngine(profile, EngineRole.COLOCATED, Ledger(1))
        made.submit(Job(0, 1000, 1, 0), 0.0)
        for _ in range(steps):
            end = made.end
            made.step()
        assert end == pytest.approx(steps * 0.01 + 0.5)


def test_a_curve_is_read_between_its_points_beyond_them_and_not_below_the_first() -> None:
    curve = EngineProfile(0.01, 1.0, 0.0, 0.0, 4096, 8, 4096, 16, prefill_curve=((100, 0.05), (200, 0.06), (400, 0.10)))
    read = [curve.mixed_step(tokens, 0.0, 0, 0) for tokens in (1, 100, 150, 300, 600)]
    assert read == pytest.approx([0.05, 0.05, 0.055, 0.08, 0.14])
    assert curve.mixed_step(0, 0.0, 0, 0) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "points", [((100, 0.05),), ((200, 0.05), (100, 0.06)), ((100, 0.0), (200, 0.1)), ((0, 0.1), (5, 0.2))]
)
def test_a_curve_that_cannot_be_read_is_refused(points: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(ValueError, match="prefill_curve"):
        EngineProfile(0.01, 0.0, 0.0, 0.0, 4096, 8, 4096, 16, prefill_curve=points)
