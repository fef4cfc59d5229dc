import itertools
import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.simulator.workload import ArrivalStream, Lengths, RateProfile, RequestMix

FIXED = RequestMix(Lengths(100, 0.0, 1, 1000), Lengths(10, 0.0, 1, 1000))


def stream(
    knots: list[tuple[float, float]], seed: int = 1, mix: RequestMix = FIXED, period: float | None = None
) -> ArrivalStream:
    return ArrivalStream(RateProfile(tuple(knots), period), mix, seed)


def test_rate_is_linear_between_knots_and_flat_outside() -> None:
    rate = RateProfile(((10, 2.0), (20, 4.0), (20, 10.0), (30, 0.0)))
    assert [rate.at(t) for t in (0, 10, 15, 20, 25, 30, 99)] == [2, 2, 3, 10, 5, 0, 0]


def test_a_period_begins_again() -> None:
    rate = RateProfile(((0, 1.0), (10, 3.0)), period=10)
    assert [rate.at(t) for t in (5, 15, 25)] == [2, 2, 2]


def test_as_many_arrive_as_the_area_under_the_rate_says() -> None:
    # A ramp from 0 to 100 in 40 s, then 100 for 10 s: 2000 + 1000 expected, give or take
    # 4 standard deviations, 4 * sqrt(3000) = 219.
    arrivals = stream([(0, 0), (40, 100)]).until(50)
    assert abs(len(arrivals) - 3000) < 219
    # Half of a ramp's area lies before 40 / sqrt(2) = 28.3 s: 1000 of its 2000; 4 * sqrt(1000) = 126.
    assert abs(sum(arrival.at < 40 / math.sqrt(2) for arrival in arrivals) - 1000) < 126


def test_gaps_are_exponential() -> None:
    arrivals = stream([(0, 50.0)]).until(200)
    gaps = [later.at - sooner.at for sooner, later in itertools.pairwise(arrivals)]
    # Mean 1/50; a share e^-1 of them is longer than the mean. 10,000 gaps: 4 * sqrt(0.2325 / 10000) = 0.02.
    assert sum(gaps) / len(gaps) == pytest.approx(0.02, rel=0.04)
    assert sum(gap > 0.02 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 60, allow_nan=False), max_size=10), st.integers(0, 1000))
def test_how_time_is_cut_moves_no_request(cuts: list[float], seed: int) -> None:
    knots = [(0, 1.0), (20, 5.0), (20, 12.0), (25, 0.0), (40, 0.0), (50, 3.0)]
    whole = stream(knots, seed, period=55).until(60)
    pieces = stream(knots, seed, period=55)
    parts = [arrival for cut in [*sorted(cuts), 60] for arrival in pieces.until(cut)]
    assert [(a.number, a.prompt_tokens, a.output_tokens) for a in whole] == [
        (a.number, a.prompt_tokens, a.output_tokens) for a in parts
    ]
    assert [a.at for a in parts] == pytest.approx([a.at for a in whole], abs=1e-6)


def test_twice_the_load_is_the_same_requests_in_half_the_time() -> None:
    once, twice = stream([(0, 2.0)]).until(40), stream([(0, 2.0)]).until(20, factor=2.0)
    assert [a.at for a in twice] == pytest.approx([a.at / 2 for a in once])


def test_no_load_brings_nothing_and_loses_nothing() -> None:
    paused = stream([(0, 2.0)])
    assert paused.until(100, factor=0.0) == []
    assert len(paused.until(200)) == pytest.approx(200, abs=57)


def test_lengths_keep_their_median_and_their_bounds() -> None:
    mix = RequestMix(Lengths(500, 0.8, 100, 3000), Lengths(50, 0.5, 10, 200), 0.5, 0.5, cache_block=16)
    arrivals = stream([(0, 100.0)], mix=mix).until(100)
    prompts = sorted(arrival.prompt_tokens for arrival in arrivals)
    assert prompts[len(prompts) // 2] == pytest.approx(500, rel=0.05)
    assert (prompts[0], prompts[-1]) == (100, 3000)
    cached = [arrival for arrival in arrivals if arrival.cached_tokens]
    assert len(cached) / len(arrivals) == pytest.approx(0.5, abs=0.03)
    assert all(a.cached_tokens % 16 == 0 and a.cached_tokens <= a.prompt_tokens * 0.5 + 1 for a in cached)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: RateProfile(()), "knots is empty"),
        (lambda: RateProfile(((0, -1.0),)), "rate >= 0"),
        (lambda: RateProfile(((5, 1.0), (4, 1.0))), "order of time"),
        (lambda: RateProfile(((0, 1.0),), period=0), "period is 0"),
        (lambda: Lengths(0, 1, 1, 2), "median > 0"),
        (lambda: Lengths(5, 1, 3, 2), "smallest <= largest"),
        (lambda: RequestMix(FIXED.prompt, FIXED.output, cached_share=1.5), "cached_share is 1.5"),
    ],
)
def test_impossible_traffic_is_refused(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()
