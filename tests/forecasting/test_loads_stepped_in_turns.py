"""Groups of loads that take turns: the bounds of all at once, with bounded work, through gaps, churn and clocks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecasting import Grid
from forecasting.intervals import Bounded
from forecasting.points import DayIncrement, Last
from forecasting.staggered import Crowd, Past

GRID = Grid(3600.0, horizons=(1, 2), quantiles=(0.5, 0.9))
"""Hours: 24 bins a day, 192 kept."""
QUICK = Bounded((Last(), DayIncrement()))
LOADS = np.random.default_rng(3).gamma(5.0, 20.0, (3, 240))


def told(name: str, bin_: int) -> float | None:
    return float(LOADS[int(name), bin_]) if 0 <= bin_ < 240 else None


def caught_up(crowd: Crowd) -> Crowd:
    while any(group.waiting for group in crowd.groups):
        crowd = crowd.worked(QUICK)
    return crowd


def test_turn_by_turn_says_what_all_at_once_says() -> None:
    """Bins 100 to 219 one by one, against the forecaster's own step over the same bins."""
    crowd = Crowd(GRID).laid_out(("0", "1", "2"))
    for bin_ in range(100, 220):
        crowd = crowd.heard(bin_, told).worked(QUICK)
    state = QUICK.begin(GRID, 3)
    for bin_ in range(100, 220):
        state = QUICK.step(state, bin_, LOADS[:, bin_])
    for row, name in enumerate(("0", "1", "2")):
        outlook = crowd.outlook(name)
        assert outlook is not None
        assert (outlook.bin_, outlook.seen) == (219, 120.0)
        assert np.asarray(outlook.bounds) == pytest.approx(QUICK.ahead(state)[row])


def test_a_history_is_stepped_as_a_fit_would_but_little_at_a_time() -> None:
    """A hundred bins of three loads are 1.5 + 0.045 ms each while older than four days (96 bins), then 4.225."""
    past = {name: Past(219, LOADS[int(name), 120:220]) for name in ("0", "1", "2")}
    crowd = Crowd(GRID).laid_out(("0", "1", "2"), past)
    first = crowd.worked(QUICK, work=30.0)
    # 4 x 1.545 = 6.18, which leaves room for five of 4.225
    assert len(first.groups[0].waiting) == 100 - 9
    assert first.outlook("0") is None
    done = caught_up(crowd)
    whole = QUICK.fit(GRID, LOADS[:, 120:220], 219)
    outlook = done.outlook("2")
    assert outlook is not None
    assert np.asarray(outlook.bounds) == pytest.approx(QUICK.ahead(whole)[2])


def test_one_step_is_made_whatever_it_costs() -> None:
    crowd = Crowd(GRID).laid_out(("0",), {"0": Past(9, np.ones(10))})
    assert len(crowd.worked(QUICK, work=0.0).groups[0].waiting) == 9


def test_an_outlook_is_read_at_the_next_longer_horizon() -> None:
    """After bin 219 (it ends at hour 220): 220.5 h lies in bin 220, one ahead; 222 h lies three ahead, beyond two."""
    crowd = caught_up(Crowd(GRID).laid_out(("0",), {"0": Past(219, LOADS[0, 120:220])}))
    outlook = crowd.outlook("0")
    assert outlook is not None
    assert outlook.at(220.5 * 3600) == outlook.bounds[0]
    assert outlook.at(221.0 * 3600) == outlook.bounds[1]
    assert outlook.at(222.0 * 3600) is None
    assert crowd.outlook("nobody") is None


def test_bins_missed_are_gaps_and_not_zeros() -> None:
    crowd = Crowd(GRID).laid_out(("0", "1"), {"0": Past(5, np.ones(6)), "1": Past(3, np.array([2.0, math.nan, 4.0]))})
    crowd = crowd.heard(7, lambda name, bin_: 9.0 if (name, bin_) == ("0", 7) else None)
    histories = caught_up(crowd).histories()
    np.testing.assert_array_equal(histories["0"].values, [1, 1, 1, 1, 1, 1, math.nan, 9])
    np.testing.assert_array_equal(
        histories["1"].values, [math.nan, 2, math.nan, 4, math.nan, math.nan, math.nan, math.nan]
    )


def test_a_load_of_another_time_is_begun_anew() -> None:
    """Away for longer than the history, or a clock that went back: what was known is of no use, and costs no steps."""
    crowd = caught_up(Crowd(GRID).laid_out(("0",), {"0": Past(100, np.ones(100))}))
    for bin_ in (100 + 8 * 24, 93, 10**12, -(10**6)):
        later = crowd.heard(bin_, lambda _name, _bin: 5.0)
        assert later.groups[0].state is None
        assert later.histories()["0"].values.tolist() == [5.0]
        assert later.histories()["0"].newest == bin_
    assert crowd.heard(95, told).groups == crowd.groups


def test_nothing_is_kept_of_loads_never_seen() -> None:
    crowd = Crowd(GRID).laid_out(("0",)).heard(50, lambda _name, _bin: None)
    assert crowd.groups[0].newest is None
    assert crowd.worked(QUICK) is crowd
    assert crowd.histories() == {}


def test_loads_that_come_and_go_do_not_leave_a_group_each() -> None:
    crowd = Crowd(GRID)
    names: tuple[str, ...] = ()
    for number in range(12):
        names = (*names, f"load {number}")
        crowd = caught_up(crowd.laid_out(names).heard(number, lambda _name, bin_: float(bin_)))
        assert len(crowd.groups) <= 2 * 1 + 2 + 1
    assert set(crowd.places) == set(names)
    assert crowd.histories()["load 0"].values[-12:].tolist() == list(range(12))
    assert set(crowd.laid_out(("load 3",)).histories()) >= {"load 3"}
    assert crowd.laid_out(()).groups == ()


def test_groups_take_turns_in_hearing() -> None:
    """Three groups, two of them told in each call: all have heard after two."""
    names = tuple(str(number) for number in range(300))
    crowd = Crowd(GRID).laid_out(names)
    assert [len(group.names) for group in crowd.groups] == [128, 128, 44]
    once = crowd.heard(7, lambda _name, _bin: 1.0)
    assert [group.newest for group in once.groups] == [7, 7, None]
    assert [group.newest for group in once.heard(7, lambda _name, _bin: 1.0).groups] == [7, 7, 7]
