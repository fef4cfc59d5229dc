"""Days of history in the tick: the ensemble beside the last changes, the better of them planned for, and kept."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scripted import T0, at, prefill, role_rules, rules

from autoscaler.foresight import Kept, bounds, judged, promised
from autoscaler.foresight_days import GRID, QUANTILES, Ahead, bin_mean, followed, name_of, nobody
from autoscaler.memory import Memory, RoleMemory, saw
from autoscaler.model import Foreseen, Role, Tier
from autoscaler.rules import SupplyRules
from autoscaler.saved import from_saved, to_saved
from autoscaler.tick import tick
from forecasting.forecaster import SimpleQuantile
from forecasting.series import Series
from forecasting.staggered import Outlook, Past

if TYPE_CHECKING:
    from forecasting.staggered import Crowd

RULE = role_rules(Role.PREFILL)
NAME = name_of(RULE.key, "prompts")
RUNG = SupplyRules(Tier.PROVISION, "gpu", 720.0, 2.5)
GIVEN = rules(RULE, supply=(RUNG,), quantile=0.9, fallback_margin=0.3, forecaster=SimpleQuantile(), days=True)
FLAT = Series.of([(T0 - 60.0 * i, 1000.0) for i in range(300)], 60.0, 400)
OUTLOOK = Outlook(GRID, math.floor(T0 / 600) - 1, ((800.0, 900.0, 1100.0, 1300.0),) * 4, seen=144.0)
"""The same at every horizon."""
BETTER = Kept(Tier.PROVISION, changes_loss=100.0, days_loss=60.0, compared=120.0)


def day_load(when: float) -> float:
    """Tokens/s: between 1,000 and 9,000 in a day, with a saw of a tenth from minute to minute."""
    return 5000.0 - 4000.0 * math.cos(2 * math.pi * when / 86400.0) + 500.0 * (when // 60 % 3 - 1)


def test_a_quantile_between_two_lies_between_their_bounds_by_the_normal_deviate() -> None:
    """0.9 has 1.2816, 0.85 has 1.0364 and 0.95 has 1.6449: 0.2452 / 0.6085 = 0.403 of the way from 900 to 1,100."""
    said = Ahead((800.0, 900.0, 1100.0, 1300.0), 144.0)
    assert said.bound(0.85, 1.0) == pytest.approx(900.0)
    assert said.bound(0.9, 1.0) == pytest.approx(980.6, abs=0.1)
    assert said.bound(0.9, 2.0) == pytest.approx(800 + 2 * 180.6, abs=0.2)
    assert said.bound(0.99, 1.0) == pytest.approx(1300.0)
    assert Ahead((10.0, 10.0, 10.0, 400.0), 144.0).bound(0.999, 0.0) == 10.0
    assert Ahead((10.0, 20.0, 30.0, 40.0), 144.0).bound(0.1, 4.0) == 0.0
    assert GRID.quantiles == QUANTILES


def test_the_ensemble_is_planned_for_once_its_bounds_have_cost_less() -> None:
    """Its 90 % bound of 980.6 lies below the present load of 1,000, which is its least."""
    by_changes, _ = bounds(FLAT, (), RULE, GIVEN, T0, OUTLOOK)
    assert by_changes[0].candidates == (1000.0, 1000.0)
    assert by_changes[0].basis.startswith("last value")
    wider = (replace(BETTER, width=2.0),)
    chosen, least = bounds(FLAT, wider, RULE, GIVEN, T0, OUTLOOK)
    assert least == [pytest.approx(800 + 2 * 180.6, abs=0.2)]
    assert "ensemble of forecasters over 144 bins of 10 minutes" in chosen[0].basis
    assert "60% of those by the last changes" in chosen[0].basis
    young = (replace(wider[0], compared=119.0),)
    worse = (replace(wider[0], days_loss=101.0),)
    for record in (young, worse):
        assert bounds(FLAT, record, RULE, GIVEN, T0, OUTLOOK)[1] == [1000.0]


def test_without_a_day_the_evidence_says_so() -> None:
    for outlook, words in (
        (None, "the ensemble has not caught up with the history"),
        (replace(OUTLOOK, seen=143.0), "the ensemble has 143 of the 144 bins it needs"),
        (replace(OUTLOOK, bin_=OUTLOOK.bin_ - 10), "the ensemble does not see so far"),
    ):
        found, _ = bounds(FLAT, (BETTER,), RULE, GIVEN, T0, outlook)
        assert found[0].basis.endswith(words)
        assert found[0].candidates == ()


def test_lead_times_up_to_a_minute_stay_with_the_last_changes() -> None:
    short = replace(GIVEN, supply=(replace(RUNG, lead_s=60.0),))
    assert bounds(FLAT, (replace(BETTER, width=2.0),), RULE, short, T0, OUTLOOK)[1] == [1000.0]


def test_both_are_judged_by_what_came() -> None:
    """Bounds of 50 and 80 at 90 % on a load of 60: a miss costs 0.9 x 10 = 9, a bound 20 too high 0.1 x 20 = 2."""
    one = Foreseen(Tier.PROVISION, 720.0, 0.9, 80.0, candidates=(50.0, 80.0))
    kept = promised((), (one,), T0, 60.0)
    assert kept[0].pending == ((T0 + 720.0, 80.0, 0.9, 50.0, 80.0),)
    after = judged(kept, 60.0, T0 + 720.0, 60.0)[0]
    assert (after.changes_loss, after.days_loss, after.compared) == pytest.approx((9.0, 2.0, 1.0))
    assert (after.share, after.width) == pytest.approx((0.5 + 0.05 * 0.9, 1.0 - 0.05 * 0.1))
    assert after.coverage == 1.0


def test_a_bin_is_the_mean_of_its_minutes_where_half_of_them_were_seen() -> None:
    series = Series.of([(60.0 * i, float(i)) for i in range(10, 20)], 60.0, 400)
    assert bin_mean(series, 1) == pytest.approx(14.5)
    assert bin_mean(series, 0) is None
    assert bin_mean(series, 2) is None
    half = Series.of([(60.0 * i, 7.0) for i in range(15, 20)], 60.0, 400)
    assert bin_mean(half, 1) == 7.0
    assert bin_mean(Series.of([(60.0 * i, 7.0) for i in range(16, 20)], 60.0, 400), 1) is None


def lived(hours: float, known: Memory, start: float = 0.0, every: float = 120.0) -> Memory:
    """What is remembered after so long; only `saw`, since what is wanted of it is not asked."""
    for number in range(round(hours * 3600 / every)):
        when = start + every * number
        known = saw(known, at(when, prefill(day_load(when))), GIVEN)
    return known


@pytest.fixture(scope="module")
def after_a_day() -> Memory:
    """25 hours, seen every two minutes."""
    return lived(25.0, Memory())


def crowd_of(memory: Memory) -> Crowd:
    crowd = memory.days
    while any(group.waiting for group in crowd.groups):
        crowd = followed(crowd, memory.roles, GIVEN, memory.at or 0.0)
    return crowd


def test_the_loop_gathers_days_and_foresees_the_rise_of_the_morning(after_a_day: Memory) -> None:
    outlook = crowd_of(after_a_day).outlook(NAME)
    assert outlook is not None
    assert outlook.seen >= 144
    history = crowd_of(after_a_day).histories()[NAME]
    hour = np.array([day_load(36000.0 + 120.0 * i) for i in range(5)]).mean()
    first = history.newest - len(history.values) + 1
    assert history.values[math.floor((T0 + 36000.0) / 600) - first] == pytest.approx(hour, rel=0.02)
    decision, memory = tick(at(25 * 3600.0, prefill(day_load(25 * 3600.0))), after_a_day, GIVEN)
    assert len(decision.roles[0].foreseen[0].candidates) == 2
    assert len(memory.of(RULE.key).kept[0].pending[-1]) == 5


def test_a_restart_goes_on_with_the_days_it_had(after_a_day: Memory) -> None:
    """The histories are saved, and stepped again: the same bounds but for the single precision they are saved in."""
    restored = from_saved(json.loads(json.dumps(to_saved(after_a_day), allow_nan=False)))
    assert to_saved(restored) == to_saved(after_a_day)
    again, known = crowd_of(restored).outlook(NAME), crowd_of(after_a_day).outlook(NAME)
    assert again is not None
    assert known is not None
    assert again.bin_ == known.bin_
    np.testing.assert_allclose(again.bounds, known.bounds, rtol=1e-3)
    wanted = tick(at(25 * 3600.0, prefill(3000.0)), replace(after_a_day, days=nobody()), GIVEN)[0].roles[0].desired
    assert tick(at(25 * 3600.0, prefill(3000.0)), restored, GIVEN)[0].roles[0].desired == wanted


def test_two_of_the_same_histories_decide_the_same(after_a_day: Memory) -> None:
    """Work is counted and not timed, so a replay cannot fall behind."""
    seen = [at(25 * 3600.0 + 60.0 * i, prefill(day_load(25 * 3600.0 + 60.0 * i))) for i in range(30)]
    runs = []
    for _ in range(2):
        memory, said = after_a_day, []
        for one in seen:
            decision, memory = tick(one, memory, GIVEN)
            said.append(decision)
        runs.append(said)
    assert runs[0] == runs[1]


def test_off_or_on_too_wide_bins_nothing_is_gathered() -> None:
    memory = {RULE.key: RoleMemory(prompt_load=FLAT)}
    for changed in (replace(GIVEN, days=False), replace(GIVEN, bin_s=301.0)):
        assert followed(nobody(), memory, changed, T0).groups == ()
    assert followed(nobody(), memory, GIVEN, T0).groups[0].newest == math.floor(T0 / 600) - 1


ONE = {"names": ["a"], "newest": 5, "values": b64encode(np.ones(3, "<f4").tobytes()).decode()}


@pytest.mark.parametrize(
    "changed",
    [
        {"names": []},
        {"names": ["a", "b"]},
        {"names": [1]},
        {"names": None},
        {"newest": "today"},
        {"newest": 1.5},
        {"newest": True},
        {"values": "not base64!"},
        {"values": b64encode(b"123").decode()},
        {"values": b64encode(np.array([-1.0], "<f4").tobytes()).decode()},
        {"values": b64encode(np.array([np.inf], "<f4").tobytes()).decode()},
        {"values": b64encode(np.ones(10_000, "<f4").tobytes()).decode()},
    ],
)
def test_damaged_days_are_refused(changed: dict[str, Any]) -> None:
    plain = to_saved(Memory()) | {"days": {"version": 1, "step_s": 600.0, "groups": [ONE | changed]}}
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        from_saved(plain)


def test_days_of_another_version_are_left_out_and_the_rest_is_read() -> None:
    for days in (None, {"version": 2}, {"version": 1, "step_s": 60.0, "groups": []}):
        assert from_saved(to_saved(Memory()) | {"days": days}) == Memory()
    without = to_saved(Memory())
    del without["days"]
    assert from_saved(without) == Memory()
    told = from_saved(to_saved(Memory()) | {"days": {"version": 1, "step_s": 600.0, "groups": [ONE]}})
    assert told.days.histories()["a"].values.tolist() == [1.0, 1.0, 1.0]
    assert isinstance(told.days.histories()["a"], Past)
