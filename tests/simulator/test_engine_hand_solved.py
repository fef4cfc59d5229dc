"""The engine model on cases small enough to solve by hand.

Unless said otherwise a step takes 10 ms + 0.1 ms per prompt token + 1 ms per sequence, and KV reads are free.
"""

import pytest

from autoscaler.simulator.engine import Engine
from autoscaler.simulator.engine_types import EngineProfile, EngineRequest, EngineRole, EventKind

PLAIN = EngineProfile(
    step_seconds=0.010,
    prefill_token_seconds=0.0001,
    sequence_seconds=0.001,
    resident_token_seconds=0.0,
    kv_capacity_tokens=4096,
    max_running=8,
    max_batched_tokens=256,
    block_size=16,
)


def tiny(blocks: int, **changes: float) -> EngineProfile:
    """PLAIN with `blocks` usable blocks of 4 tokens."""
    figures = {
        "step_seconds": 0.010,
        "prefill_token_seconds": 0.0001,
        "sequence_seconds": 0.001,
        "resident_token_seconds": 0.0,
        "kv_capacity_tokens": 4 * (blocks + 1),
        "max_running": 8,
        "max_batched_tokens": 64,
        "block_size": 4,
    }
    return EngineProfile(**(figures | changes))


def times(engine: Engine, until: float, kind: EventKind) -> dict[int, float]:
    return {event.request_id: event.at for event in engine.advance(until) if event.kind is kind}


def test_one_request_takes_its_prefill_step_and_then_one_step_per_token() -> None:
    engine = Engine(PLAIN, EngineRole.COLOCATED)
    engine.submit(EngineRequest(1, prompt_tokens=100, output_tokens=4), at=5.0)
    events = engine.advance(6.0)
    # Prefill: 10 + 100 * 0.1 + 1 = 21 ms. Then 3 tokens of 10 + 1 = 11 ms each.
    assert [(event.kind, event.at) for event in events] == [
        (EventKind.FIRST_TOKEN, pytest.approx(5.021)),
        (EventKind.FINISHED, pytest.approx(5.054)),
    ]
    counters = engine.counters
    assert counters.ttft.total == pytest.approx(0.021)
    assert (counters.itl.count, counters.itl.total) == (3, pytest.approx(0.033))
    assert counters.time_per_output_token.total == pytest.approx(0.011)
    assert counters.decode_time.total == pytest.approx(0.033)
    assert (counters.prompt_computed_tokens, counters.generation_tokens) == (100, 4)
    # vLLM counts a prompt in the iteration of its first token: 101, 1, 1, 1.
    assert (counters.iteration_tokens.count, counters.iteration_tokens.total) == (4, 104)


def test_a_long_prompt_is_computed_in_chunks() -> None:
    engine = Engine(PLAIN, EngineRole.COLOCATED)
    engine.submit(EngineRequest(1, prompt_tokens=300, output_tokens=1), at=0.0)
    # 256 tokens: 10 + 25.6 + 1 = 36.6 ms; the other 44: 10 + 4.4 + 1 = 15.4 ms.
    assert times(engine, 1.0, EventKind.FINISHED) == {1: pytest.approx(0.052)}
    assert engine.counters.steps == 2


def test_a_second_request_joins_the_running_batch() -> None:
    engine = Engine(PLAIN, EngineRole.COLOCATED)
    engine.submit(EngineRequest(1, prompt_tokens=100, output_tokens=3), at=0.0)
    engine.submit(EngineRequest(2, prompt_tokens=50, output_tokens=2), at=0.005)
    first = Engine.advance(engine, 1.0)
    at = {(event.request_id, event.kind): event.at for event in first}
    # 1 starts alone: 21 ms. Then one mixed step, 50 prompt tokens and two sequences: 10 + 5 + 2 = 17 ms, to 38 ms.
    # Then a step for the last token of each: 10 + 2 = 12 ms, to 50 ms.
    assert at[1, EventKind.FIRST_TOKEN] == pytest.approx(0.021)
    assert at[2, EventKind.FIRST_TOKEN] == pytest.approx(0.038)
    assert at[1, EventKind.FINISHED] == pytest.approx(0.050)
    assert at[2, EventKind.FINISHED] == pytest.approx(0.050)
    # 2 waited from 5 ms until the step at 21 ms.
    assert engine.counters.queue_time.total == pytest.approx(0.016)


def test_kv_reads_slow_a_step_by_the_tokens_stored() -> None:
    engine = Engine(tiny(100, resident_token_seconds=0.001), EngineRole.COLOCATED)
    engine.submit(EngineRequest(1, prompt_tokens=10, output_tokens=3), at=0.0)
    # Prefill 10 + 1 + 1 = 12 ms, nothing stored yet. Then 11 ms + 10 stored = 21 ms, then 11 + 11 = 22 ms.
    assert times(engine, 1.0, EventKind.FINISHED) == {1: pytest.approx(0.055)}


def test_cached_prompt_tokens_are_not_computed() -> None:
    engine = Engine(PLAIN, EngineRole.COLOCATED)
    engine.submit(EngineRequest(1, prompt_tokens=100, output_tokens=1, cached_tokens=80), at=0.0)
    assert times(engine, 1.0, EventKind.FINISHED) == {1: pytest.approx(0.013)}
    counters = engine.counters
    assert (counters.prompt_tokens, counters.prompt_computed_tokens, counters.prompt_cached_tokens) == (100, 20, 80)
    assert (counters.prefix_queries_tokens, counters.prefix_hits_tokens) == (100, 80)


def test_when_kv_runs_out_the_youngest_is_thrown_back_and_computed_anew() -> None:
    # Four blocks of 4. Each request: 8 prompt tokens = 2 blocks, and the second token needs a third block.
    engine = Engine(tiny(4), EngineRole.COLOCATED)
    engine.submit(EngineRequest(1, prompt_tokens=8, output_tokens=3), at=0.0)
    engine.submit(EngineRequest(2, prompt_tokens=8, output_tokens=3), at=0.0)
    happened = [(event.request_id, event.kind, round(event.at, 6)) for event in engine.advance(1.0)]
    # Both prompts at once: 10 + 1.6 + 2 = 13.6 ms. No block is left for the next step, so 2 goes. 1 ends after 2 steps
    # of 11 ms, at 35.6 ms. Then 2 is recomputed, 8 + 1 tokens: 10 + 0.9 + 1 = 11.9 ms, and its third token takes 11 ms.
    assert happened == [
        (1, EventKind.FIRST_TOKEN, 0.0136),
        (2, EventKind.FIRST_TOKEN, 0.0136),
        (2, EventKind.PREEMPTED, 0.0136),
        (1, EventKind.FINISHED, 0.0356),
        (2, EventKind.FINISHED, 0.0585),
    ]
    counters = engine.counters
    assert counters.preemptions == 1
    assert counters.request_preemptions.total == 1
    # The recompute counts no prompt tokens again, and 2's second token came 47.5 - 13.6 = 33.9 ms after its first.
    assert counters.prompt_tokens == 16
    assert counters.generation_tokens == 6
    assert counters.itl.total == pytest.approx(0.011 * 2 + 0.0339 + 0.011)
    assert engine.gauges().kv_blocks == 0


def test_the_queue_waits_for_kv_first_come_first_served() -> None:
    engine = Engine(tiny(4), EngineRole.COLOCATED)
    engine.submit(EngineRequest(1, prompt_tokens=12, output_tokens=2), at=0.0)
    engine.submit(EngineRequest(2, prompt_tokens=8, output_tokens=1), at=0.0)
    engine.submit(EngineRequest(3, prompt_tokens=4, output_tokens=1), at=0.0)
    engine.advance(0.001)
    # 1 holds three blocks; 3 would fit into the fourth, but 2 is before it.
    gauges = engine.gauges()
    assert (gauges.running, gauges.waiting, gauges.kv_usage) == (1, 2, 0.75)
    engine.advance(1.0)
    assert engine.counters.finished == 3


def test_a_prefill_engine_ends_at_the_first_token_and_keeps_the_kv_until_fetched() -> None:
    engine = Engine(tiny(4), EngineRole.PREFILL)
    engine.submit(EngineRequest(1, prompt_tokens=12, output_tokens=50), at=0.0)
    engine.submit(EngineRequest(2, prompt_tokens=12, output_tokens=50), at=0.0)
    assert times(engine, 1.0, EventKind.FINISHED) == {1: pytest.approx(0.0122)}
    assert (engine.counters.generation_tokens, engine.gauges().kv_blocks, engine.gauges().waiting) == (1, 3, 1)
    engine.release(1)
    assert times(engine, 2.0, EventKind.FINISHED) == {2: pytest.approx(1.0122)}
    assert not engine.idle
    engine.release(2)
    assert engine.idle
    with pytest.raises(KeyError):
        engine.release(2)


def test_a_decode_engine_fetches_the_kv_and_then_makes_every_token() -> None:
    engine = Engine(PLAIN, EngineRole.DECODE)
    engine.submit(
        EngineRequest(1, prompt_tokens=100, output_tokens=3, transfer_seconds=0.2, transfer_bytes=1e6), at=0.0
    )
    engine.advance(0.1)
    gauges = engine.gauges()
    assert (gauges.running, gauges.fetching, gauges.kv_blocks) == (0, 1, 7)
    events = {event.kind: event.at for event in engine.advance(1.0)}
    # The KV is here at 200 ms; three steps of 11 ms, with no prompt token computed.
    assert events == {
        EventKind.KV_FETCHED: pytest.approx(0.2),
        EventKind.FIRST_TOKEN: pytest.approx(0.211),
        EventKind.FINISHED: pytest.approx(0.233),
    }
    counters = engine.counters
    assert (counters.prompt_received_tokens, counters.prompt_computed_tokens) == (100, 0)
    assert (counters.generation_tokens, counters.iteration_tokens.total) == (3, 3)
    assert (counters.transfer_time.total, counters.transfer_bytes.total) == (pytest.approx(0.2), 1e6)
    assert counters.queue_time.total == pytest.approx(0.2)


def test_requests_nothing_could_serve_are_refused() -> None:
    engine = Engine(tiny(4), EngineRole.COLOCATED)
    with pytest.raises(ValueError, match=r"needs 17 KV tokens; this engine holds 16"):
        engine.submit(EngineRequest(1, prompt_tokens=10, output_tokens=8), at=0.0)
    engine.advance(10.0)
    with pytest.raises(ValueError, match=r"before the engine's time"):
        engine.submit(EngineRequest(1, prompt_tokens=10, output_tokens=1), at=9.0)
    with pytest.raises(ValueError, match=r"cached_tokens 10; it must be 0\.\.9"):
        EngineRequest(1, prompt_tokens=10, output_tokens=1, cached_tokens=10)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step_seconds": 0.0}, "a step must take time"),
        ({"prefill_token_seconds": float("nan")}, "prefill_token_seconds is nan"),
        ({"max_running": 65}, "every running sequence needs a token"),
        ({"kv_capacity_tokens": 7}, "at least 2 blocks of 4"),
    ],
)
def test_impossible_profiles_are_refused(changes: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        tiny(4, **changes)
