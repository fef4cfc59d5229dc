"""Laws of the engine model: nothing is lost, nothing runs backwards, and how time is cut makes no difference."""

from dataclasses import fields

from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.simulator.counters import EngineCounters, Histogram
from autoscaler.simulator.engine import Engine
from autoscaler.simulator.engine_types import EngineProfile, EngineRequest, EngineRole, Event, EventKind

# 15 usable blocks of 4: small enough that most runs of a few requests preempt.
PROFILE = EngineProfile(
    step_seconds=0.01,
    prefill_token_seconds=0.0005,
    sequence_seconds=0.001,
    resident_token_seconds=0.00001,
    kv_capacity_tokens=64,
    max_running=4,
    max_batched_tokens=16,
    block_size=4,
)
END = 1000.0
Traffic = list[tuple[float, EngineRequest]]


@st.composite
def traffic(draw: st.DrawFn) -> Traffic:
    requests: Traffic = []
    for number in range(draw(st.integers(1, 12))):
        prompt = draw(st.integers(1, 30))
        request = EngineRequest(
            number,
            prompt,
            draw(st.integers(1, 30)),
            cached_tokens=draw(st.integers(0, prompt - 1)),
            transfer_seconds=draw(st.sampled_from([0.0, 0.003, 0.5])),
        )
        requests.append((draw(st.floats(0, 2, allow_nan=False)), request))
    return sorted(requests, key=lambda item: item[0])


def filled(role: EngineRole, requests: Traffic) -> Engine:
    engine = Engine(PROFILE, role)
    for at, request in requests:
        engine.submit(request, at)
    return engine


def played(engine: Engine, cuts: list[float]) -> list[Event]:
    """Advance through the cuts, then twelve times more: a prefill engine's KV is only fetched between calls."""
    events = []
    for until in [*sorted(cuts), *(END + turn for turn in range(12))]:
        new = engine.advance(until)
        events += new
        if engine.role is EngineRole.PREFILL:
            for event in new:
                if event.kind is EventKind.FINISHED:
                    engine.release(event.request_id)
    return events


def flat(counters: EngineCounters) -> list[float]:
    numbers: list[float] = []
    for field in fields(counters):
        value = getattr(counters, field.name)
        if isinstance(value, Histogram):
            numbers += [value.total, value.count, *value.buckets]
        else:
            numbers.append(value)
    return numbers


@settings(max_examples=150, deadline=None)
@given(traffic(), st.sampled_from(list(EngineRole)))
def test_no_request_and_no_token_is_lost(requests: Traffic, role: EngineRole) -> None:
    engine = filled(role, requests)
    events = played(engine, [])
    finished = [event.request_id for event in events if event.kind is EventKind.FINISHED]
    assert sorted(finished) == list(range(len(requests)))
    assert engine.idle
    counters, gauges = engine.counters, engine.gauges()
    outputs = sum(1 if role is EngineRole.PREFILL else request.output_tokens for _, request in requests)
    assert counters.generation_tokens == outputs
    assert counters.prompt_tokens == sum(request.prompt_tokens for _, request in requests)
    assert counters.prompt_tokens == (
        counters.prompt_computed_tokens + counters.prompt_cached_tokens + counters.prompt_received_tokens
    )
    # Each token but a request's first comes after a gap; TTFT is counted once each.
    assert counters.itl.count == outputs - len(requests)
    assert counters.ttft.count == len(requests)
    assert (gauges.running, gauges.waiting, gauges.fetching, gauges.fetched, gauges.kv_blocks) == (0, 0, 0, 0, 0)


@settings(max_examples=100, deadline=None)
@given(
    traffic(),
    st.sampled_from([EngineRole.DECODE, EngineRole.COLOCATED]),
    st.lists(st.floats(0, 5, allow_nan=False), max_size=12),
)
def test_how_time_is_cut_makes_no_difference(requests: Traffic, role: EngineRole, cuts: list[float]) -> None:
    whole, pieces = filled(role, requests), filled(role, requests)
    once, often = played(whole, []), played(pieces, cuts)
    assert sorted(once, key=str) == sorted(often, key=str)
    assert flat(whole.counters) == flat(pieces.counters)


@settings(max_examples=100, deadline=None)
@given(traffic(), st.sampled_from(list(EngineRole)))
def test_counters_never_fall_and_kv_never_overflows(requests: Traffic, role: EngineRole) -> None:
    engine = filled(role, requests)
    before = flat(engine.counters)
    for until in (0.02 * step for step in range(1, 200)):
        engine.advance(until)
        after = flat(engine.counters)
        assert all(new >= old for new, old in zip(after, before, strict=True))
        before = after
        gauges = engine.gauges()
        assert 0 <= gauges.kv_usage <= 1
        assert gauges.running <= PROFILE.max_running


@settings(max_examples=60, deadline=None)
@given(traffic())
def test_events_of_one_request_come_in_their_order(requests: Traffic) -> None:
    engine = filled(EngineRole.DECODE, requests)
    events = played(engine, [])
    assert [event.at for event in events] == sorted(event.at for event in events)
    for at, request in requests:
        mine = [event for event in events if event.request_id == request.request_id]
        kinds = [event.kind for event in mine if event.kind is not EventKind.PREEMPTED]
        assert kinds == [EventKind.KV_FETCHED, EventKind.FIRST_TOKEN, EventKind.FINISHED]
        assert mine[0].at >= at
