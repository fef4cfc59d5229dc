"""Scores, start-up sums and the oracle on cases small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.policies.registry import make
from autoscaler.profiles import load_profiles
from autoscaler.simulator.ledger import Ledger
from autoscaler.simulator.oracle import held_s, oracle, shaved
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.scenes import profile_named, stage
from autoscaler.simulator.score import bad_minutes, direction_changes, follows, over_ask, served, stepwise, ttft_targets
from autoscaler.simulator.setup import Setup, Slo, SupplySetup
from autoscaler.simulator.simulate import simulate
from autoscaler.simulator.startup import Readers, Startup


def test_ttft_targets_go_by_the_size_of_the_input() -> None:
    prompt = np.array([1, 255, 256, 1023, 1024, 100_000], dtype=np.int32)
    assert ttft_targets(prompt, Slo()).tolist() == [0.25, 0.25, 0.4, 0.4, 2.0, 2.0]


def test_a_request_is_served_well_only_within_both_targets_and_unfinished_ones_are_misses() -> None:
    # Four requests of 100 tokens in and 11 out, at 0 s: 10 gaps. TTFT targets 250 ms, TPOT 100 ms.
    load = Workload("four", np.zeros(4), np.full(4, 100, np.int32), np.full(4, 11, np.int32), horizon_s=10.0)
    ledger = Ledger(4)
    for number, (first, finish) in enumerate([(0.2, 1.1), (0.3, 1.2), (0.2, 1.4), (0.2, math.nan)]):
        ledger.first[number], ledger.finish[number] = first, finish
    score = served(load, ledger.frozen(), Slo())
    # Well; TTFT 300 ms; TPOT 120 ms; never finished.
    assert (score.attainment, score.ttft_ok, score.tpot_ok) == (0.25, 0.75, 0.5)
    assert (score.requests, score.finished, score.tokens) == (4, 3, 33)
    assert score.goodput == pytest.approx(0.1)
    assert score.tpot[0] == pytest.approx(0.09)
    assert score.recovery_s == 60.0


def test_series_measures_by_hand() -> None:
    assert stepwise([(0.0, 2), (10.0, 5)], np.array([0.0, 9.9, 10.0, 99.0])).tolist() == [2, 2, 5, 5]
    # Up, up, down, up: two turns. Standing still is no turn.
    assert direction_changes([1, 2, 2, 4, 3, 3, 5]) == 2
    assert bad_minutes([(9, 10), (10, 10), (5, 10), (0, 1), (10, 10)], 0.95) == 120.0
    # A wish of 6 where within 300 s at most 3 were needed.
    needed = np.array([1] * 60 + [3] + [1] * 60)
    asked = np.full(121, 1)
    asked[70] = 6
    assert over_ask(asked, needed, 15.0) == 2.0


def test_supply_that_follows_need_a_minute_late_is_found_to_do_so() -> None:
    need = np.sin(np.arange(400) / 20.0) + 2.0
    now, lag = follows(np.roll(need, 4)[8:], need[8:], 15.0)
    assert lag == 60.0
    assert now == pytest.approx(math.cos(4 / 20), abs=0.02)


def test_start_up_is_the_sum_of_its_steps_and_readers_share_a_source() -> None:
    book = load_profiles()
    profile = profile_named(book, "llama-3.1-8b/a100-80gb/tp1")
    startup = Startup.of(SupplySetup(weights="object-store"), profile, book)
    # 16.06 GB at 0.4 GB/s, shared by the loads of a node.
    assert startup.weights_s(Readers(1, 1, 0), 1.0) == pytest.approx(40.15)
    assert startup.weights_s(Readers(4, 9, 0), 1.0) == pytest.approx(4 * 40.15)
    peers = Startup.of(SupplySetup(weights="object-store", peers=True), profile, book)
    # 2 replicas serve and 4 read at 5 GB/s each: 2.5 GB/s a reader. None serves: the store.
    assert peers.weights_s(Readers(4, 4, 2), 1.0) == pytest.approx(16.06 / 2.5)
    assert peers.weights_s(Readers(1, 1, 0), 2.0) == pytest.approx(2 * 40.15)
    randoms = [np.random.default_rng(seed) for seed in range(400)]
    drawn = [sum(startup.steps(random, Readers(1, 1, 0), image=True).values()) for random in randoms]
    # Medians 8 + 6 + 16 + 6 + 5 and 40.15 for weights: their sum is below the median of the sum.
    assert 8 + 6 + 16 + 6 + 5 + 40.15 < np.median(drawn) < 1.2 * (8 + 6 + 16 + 6 + 5 + 40.15)
    assert startup.lead().p50_s == pytest.approx(np.median(drawn), rel=0.05)


def test_the_oracle_keeps_an_engine_over_short_gaps_and_restarts_it_over_long_ones() -> None:
    # Bins of 10 s: needed, gap of 20 s, needed, gap of 60 s, needed; a start takes 30 s: 3 * 10 + 20 + 30.
    counts = np.array([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1])
    assert held_s(counts, np.full(11, 10.0), 30.0) == 80.0
    # Begins without it: 20 s before its first need are all it can have been started earlier.
    assert held_s(np.array([0, 0, 1]), np.full(3, 10.0), 30.0) == 30.0


def test_the_oracle_gives_up_requests_where_an_engine_saved_costs_the_fewest() -> None:
    # 2.1 engines for 21 requests: the third serves 1 of them. 1.9 for 19: the second serves 9. 1 may be missed.
    assert shaved(np.array([2.1, 1.9]), np.array([21.0, 19.0]), 1.0, 0, 9).tolist() == [2, 2]
    assert shaved(np.array([2.1, 1.9]), np.array([21.0, 19.0]), 10.0, 0, 9).tolist() == [2, 1]
    assert shaved(np.array([2.1, 1.9]), np.array([21.0, 19.0]), 0.0, 0, 9).tolist() == [3, 2]


@given(
    engines=st.lists(st.floats(0.0, 20.0), min_size=1, max_size=30),
    less=st.floats(0.0, 1.0),
    more=st.floats(0.0, 1.0),
)
def test_missing_more_never_needs_more(engines: list[float], less: float, more: float) -> None:
    low, high = sorted((less, more))
    load = np.array(engines)
    requests = load * 10
    few = shaved(load, requests, high * requests.sum(), 0, 100)
    many = shaved(load, requests, low * requests.sum(), 0, 100)
    assert few.sum() <= many.sum()
    assert (many <= np.ceil(load)).all()


def test_no_policy_beats_the_oracle_at_its_own_attainment() -> None:
    random = np.random.default_rng(5)
    arrival = np.cumsum(random.exponential(1 / 30.0, 27_000))
    arrival = arrival[arrival < 900]
    prompt = np.clip(random.lognormal(6.5, 0.9, len(arrival)), 1, 8000).astype(np.int32)
    output = np.clip(random.lognormal(5.0, 0.7, len(arrival)), 1, 1000).astype(np.int32)
    load = Workload("poisson", arrival, prompt, output, horizon_s=900.0)
    setup = Setup()
    bound_of = stage(setup)
    for name in ("token-dynamics", "static-mean"):
        result = simulate(load, make(name, {}), setup)
        assert result.slo_attainment > 0.5
        assert oracle(load, bound_of, result.slo_attainment).gpu_hours <= result.gpu_hours
