from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecasting import Event, Period, declared, detect

DAY_S, HOUR_S = 86400.0, 3600.0


def hours(days: int) -> np.ndarray:
    return np.arange(24 * days)


@pytest.mark.parametrize("step_s", [600.0, 3600.0])
def test_a_noisy_daily_load_is_daily(step_s: float) -> None:
    t = np.arange(int(7 * DAY_S / step_s)) * step_s
    noise = np.random.default_rng(0).standard_normal(len(t))
    assert detect(100 + 30 * np.sin(2 * np.pi * t / DAY_S) + 15 * noise, step_s) is Period.DAILY


def test_working_weeks_are_weekly() -> None:
    t = hours(28)
    working = ((t // 24) % 7 < 5) & (t % 24 >= 8) & (t % 24 < 18)
    assert detect(np.where(working, 100.0, 5.0), HOUR_S) is Period.WEEKLY


def test_noise_a_trend_and_a_constant_have_no_period() -> None:
    noise = np.random.default_rng(1).standard_normal(24 * 21)
    assert detect(noise, HOUR_S) is Period.NONE
    assert detect(np.linspace(0, 1000, 24 * 21) + noise, HOUR_S) is Period.NONE
    assert detect(np.full(24 * 21, 7.0), HOUR_S) is Period.NONE
    assert detect(np.full(24 * 21, np.nan), HOUR_S) is Period.NONE
    assert detect(np.array([]), HOUR_S) is Period.NONE


def test_a_day_and_a_half_is_too_short_to_tell_and_gaps_do_not_matter() -> None:
    daily = 100 + 30 * np.sin(2 * np.pi * hours(8) / 24)
    assert detect(daily[:36], HOUR_S) is Period.NONE
    daily[np.random.default_rng(2).random(len(daily)) < 0.3] = np.nan
    assert detect(daily, HOUR_S) is Period.DAILY


def test_a_launch_at_nine_is_a_floor_from_the_lead_time_before() -> None:
    launch = Event(start=9 * HOUR_S, end=10 * HOUR_S, floor=500.0)
    bounds = np.array([100.0, 120.0])
    # at 8:30 ten minutes ahead is before the launch, an hour ahead is within it
    assert declared(bounds, 8.5 * HOUR_S, (600.0, 3600.0), (launch,)).tolist() == [100.0, 500.0]
    # at 9:59:59 it still holds, at 10:00 it is over
    assert declared(bounds, 10 * HOUR_S - 1, (0.0, 600.0), (launch,)).tolist() == [500.0, 500.0]
    assert declared(bounds, 10 * HOUR_S, (0.0, 600.0), (launch,)).tolist() == [100.0, 120.0]


def test_factors_multiply_floors_do_not_and_less_is_not_taken_early() -> None:
    double = Event(0.0, 100.0, factor=2.0)
    triple = Event(0.0, 100.0, factor=3.0, floor=50.0)
    assert declared(np.array([10.0]), 0.0, (10.0,), (double, triple)).tolist() == [60.0]
    assert declared(np.array([5.0]), 0.0, (10.0,), (double, triple)).tolist() == [50.0]
    # a quiet hour from 100 on: at 90, the load until then is not yet quiet
    quiet = Event(100.0, 200.0, factor=0.1)
    assert declared(np.array([10.0]), 90.0, (20.0,), (quiet,)).tolist() == [10.0]
    assert declared(np.array([10.0]), 110.0, (20.0,), (quiet,)).tolist() == [1.0]


def test_a_schedule_repeats_until_it_ends() -> None:
    nightly = Event(2 * HOUR_S, 3 * HOUR_S, floor=9.0, every_s=DAY_S, until=3 * DAY_S)
    at = [2.5 * HOUR_S + day * DAY_S for day in range(5)]
    # begins at 2:00 of days 0, 1 and 2; the one of day 3 would begin after `until`
    assert [nightly.during(t, t) for t in at] == [True, True, True, False, False]
    assert not nightly.during(4 * HOUR_S, 5 * HOUR_S)
    assert nightly.during(4 * HOUR_S, 4 * HOUR_S + DAY_S)


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(1, 500), st.floats(500, 5000))
def test_during_agrees_with_looking_at_every_repetition(at: float, span: float, length: float, every: float) -> None:
    event = Event(1000.0, 1000.0 + length, every_s=every)
    end = at + span
    slow = any(1000.0 + k * every <= end and at < 1000.0 + k * every + length for k in range(200))
    assert event.during(at, end) == slow


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"start": 5.0, "end": 5.0}, "start 5.0 and end 5.0"),
        ({"start": 0.0, "end": float("inf")}, "must be finite"),
        ({"start": 0.0, "end": 5.0, "floor": -1.0}, "floor -1.0"),
        ({"start": 0.0, "end": 5.0, "factor": float("nan")}, "factor nan"),
        ({"start": 0.0, "end": 5.0, "every_s": 4.0}, "every_s 4.0"),
        ({"start": 3.0, "end": 5.0, "until": 1.0}, "until 1.0"),
    ],
)
def test_events_that_make_no_sense_are_refused(wrong: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Event(**wrong)
