"""Ten replicas do not serve ten times what one does: learned while queues stand behind all of them."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import T0, role_rules, rules

from autoscaler.demand import role_demand
from autoscaler.learning import Learned, Levels, Prior
from autoscaler.memory import Memory, RoleMemory, Shape
from autoscaler.model import Role, RoleKey, RoleObservation
from autoscaler.saved import from_saved, to_saved
from autoscaler.skew import MOST_LOSS, Skew, spread
from autoscaler.velocity import StepModel
from forecasting.series import Series

STEP = StepModel(base=0.01, per_prompt_token=1e-4, per_running=0.0, per_resident_token=0.0)
"""A chunk of 1,000 tokens takes 0.01 + 0.1 = 0.11 s: 9,091 tokens/s when never idle."""
PRIOR = Prior(STEP, 0.35)
KEY = RoleKey("prod", "chat", Role.PREFILL)


def window(engines: int, share: float, queue_each: float = 5.0) -> tuple[RoleObservation, Levels]:
    """A minute in which each engine was busy for `share` of the time, with so long a queue."""
    steps = share / 0.11 * engines
    seen = RoleObservation(KEY, engines, 0.0, rate_engines=engines, step_rate=steps, computed_rate=steps * 1000.0)
    return seen, Levels(None, queue_each * engines, queue_each * engines)


def taught(windows: list[tuple[int, float]], prior: Prior = PRIOR) -> Skew:
    skew = Skew()
    for index, (engines, share) in enumerate(windows):
        seen, levels = window(engines, share)
        skew = spread(skew, Learned(), prior, seen, at=60.0 * (index + 1), levels=levels, window_s=60.0)
    return skew


def test_the_published_run_is_learned_from_its_way_up() -> None:
    # 138,875 tokens/s at one replica and 93,000 each at ten: 93,000 / 138,875 = 0.67 = 10^-0.174.
    loss = -math.log10(93_000 / 138_875)
    skew = taught([(n, n**-loss) for n in (1, 2, 3, 4, 6, 8, 10) for _ in range(10)])
    assert skew.loss == pytest.approx(loss, abs=0.02)
    assert 0.08 < skew.certain < loss
    # Evenly spread, five would do; N^(1 - 0.174) = 5 has N = 7.02. With the doubt taken off it is less.
    assert 5.8 < skew.engines(5.0) <= 7.1
    assert skew.serving(skew.engines(5.0)) * skew.engines(5.0) == pytest.approx(5.0)


def test_a_profile_that_is_off_is_not_taken_for_skew() -> None:
    # Every window says 0.7 whatever the number: the engine is 30 % faster than its profile, nothing is lost to numbers.
    skew = taught([(n, 0.7) for n in (1, 4, 10) for _ in range(20)])
    assert skew.engines(10.0) == 10.0


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0.92, 1.08)), max_size=80))
def test_noise_asks_for_next_to_nothing(windows: list[tuple[int, float]]) -> None:
    assert taught(windows).engines(20.0) <= 20.0 * 1.6


@given(
    st.lists(st.tuples(st.integers(1, 200), st.floats(1e-6, 50.0)), max_size=40),
    st.floats(0.0, 500.0),
    st.floats(0.0, 500.0),
)
def test_more_need_is_never_fewer_engines_and_skew_never_takes_any(
    windows: list[tuple[int, float]], one: float, other: float
) -> None:
    skew = taught(windows)
    less, more = sorted((one, other))
    assert less <= skew.engines(less) <= skew.engines(more) < math.inf
    assert 0.0 <= skew.certain <= MOST_LOSS


def test_nothing_is_learned_without_a_queue_behind_every_engine() -> None:
    seen, levels = window(10, 0.3, queue_each=0.5)
    assert spread(Skew(), Learned(), PRIOR, seen, at=60.0, levels=levels, window_s=60.0) == Skew()


def test_overlapping_windows_weigh_only_what_is_new() -> None:
    seen, levels = window(10, 0.67)
    once = spread(Skew(), Learned(), PRIOR, seen, at=60.0, levels=levels, window_s=60.0)
    again = spread(once, Learned(), PRIOR, seen, at=60.0, levels=levels, window_s=60.0)
    assert again == once
    assert replace(once, at=None) != Skew()


def test_planning_reckons_with_it_and_says_so() -> None:
    """Five decode replicas by the even reckoning (tests of demand): 5^(1 / 0.826) = 7.02, so 8 at a certain 0.174."""
    rule = role_rules(Role.DECODE)
    known = RoleMemory(
        output_load=Series.of([(T0, 3000.0)], rules(rule).bin_s, 360),
        shape=Shape(None, 200.0, 500.0),
        kv_capacity=100_000.0,
        skew=Skew(loss=0.174, loss_variance=0.0),
    )
    found = role_demand(known, None, rule, rules(rule), T0)
    assert found.at[0] == (0.0, 8)
    assert "8 of them serve 70% of that each" in found.words


def test_it_outlives_a_restart() -> None:
    skew = taught([(n, n**-0.17) for n in (1, 3, 9)])
    memory = Memory({KEY: RoleMemory(skew=skew)}, 1e6)
    assert from_saved(json.loads(json.dumps(to_saved(memory)))).of(KEY).skew == skew
    old = to_saved(memory)
    del old["roles"][str(KEY)]["skew"]
    assert from_saved(old).of(KEY).skew == Skew()
