"""The quantile from prices, bounds judged when due, and the reactive hand where the forecast is not relied on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import T0, at, prefill, role_rules, rules

from autoscaler.economics import critical_ratio, tier_quantile
from autoscaler.foresight import Kept, bounds, judged, kept_of, promised
from autoscaler.memory import Memory
from autoscaler.model import Foreseen, Role, Tier
from autoscaler.rules import SupplyRules
from autoscaler.tick import tick
from forecasting.forecaster import Forecast, LastValue, SimpleQuantile
from forecasting.series import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

RULE = role_rules(Role.PREFILL)
RUNG = SupplyRules(Tier.START, "gpu", 200.0, 2.5)
GIVEN = rules(RULE, supply=(RUNG,), quantile=None, fallback_margin=0.3, forecaster=SimpleQuantile())
FLAT = Series.of([(T0 - 60.0 * i, 1000.0) for i in range(300)], 60.0, 400)


@dataclass(frozen=True, slots=True)
class Overconfident:
    """Takes the last value for an upper bound, and is sure of it."""

    def forecast(
        self, series: Series, at: float, horizons: Sequence[float], quantiles: Sequence[float]
    ) -> Forecast | None:
        said = LastValue().forecast(series, at, horizons, quantiles)
        return None if said is None else replace(said, confident=True)


def test_the_newsvendor_by_hand() -> None:
    """Cu = (20 - 2.5) * 200 = 3500, Co = 2.5 * 300 = 750: 3500 / 4250 = 0.8235."""
    assert critical_ratio(RUNG, RULE, 300.0) == pytest.approx(3500 / 4250)


def test_one_off_prices_and_commitments_lower_it_and_gpus_do_not() -> None:
    """600 s kept and 0.5 once: Co = 2.5 * 600 + 0.5 * 3600 = 3300, 3500 / 6800. Twice the GPUs double everything."""
    dear = replace(RUNG, commitment_s=600.0, one_off_price=0.5)
    assert critical_ratio(dear, RULE, 300.0) == pytest.approx(3500 / 6800)
    assert critical_ratio(dear, replace(RULE, gpus=2, shortage_price=40.0), 300.0) == pytest.approx(3500 / 6800)


def test_the_quantile_stays_within_its_limits_and_says_so() -> None:
    assert tier_quantile(RUNG, RULE, GIVEN) == (0.85, "a replica lacking against one idle gives 82%, at least 85%")
    assert tier_quantile(RUNG, replace(RULE, shortage_price=1e6), GIVEN)[0] == 0.99
    assert tier_quantile(RUNG, RULE, replace(GIVEN, quantile=0.7)) == (0.7, "configured")


@given(st.floats(0.01, 1e6), st.floats(0, 1e6), st.floats(1, 1e5), st.floats(0, 1e5))
def test_dearer_shortage_never_lowers_the_quantile(price: float, shortage: float, lead: float, kept: float) -> None:
    rung = SupplyRules(Tier.START, "gpu", lead, price, commitment_s=kept)
    low = critical_ratio(rung, replace(RULE, shortage_price=shortage), 300.0)
    assert 0 <= low <= critical_ratio(rung, replace(RULE, shortage_price=2 * shortage), 300.0) <= 1


def test_bounds_are_judged_when_their_time_has_come() -> None:
    one = Foreseen(Tier.START, 100.0, 0.9, 50.0)
    kept = promised((), (one,), T0, 60.0)
    assert kept_of(kept, Tier.START).pending == ((T0 + 100.0, 50.0, 0.9),)
    assert promised(kept, (one,), T0 + 15.0, 60.0) == kept
    assert judged(kept, 40.0, T0 + 90.0, 60.0) is kept
    held = kept_of(judged(kept, 50.0, T0 + 105.0, 60.0), Tier.START)
    missed = kept_of(judged(kept, 51.0, T0 + 105.0, 60.0), Tier.START)
    late = kept_of(judged(kept, 51.0, T0 + 200.0, 60.0), Tier.START)
    assert (held.coverage, missed.coverage, late.coverage) == (1.0, 0.0, None)
    assert held.pending == missed.pending == late.pending == ()
    # The share planned for begins at a half: a bound at 90 % that held takes 0.05 x 0.1, a miss adds 0.05 x 0.9.
    assert (held.share, missed.share, late.share) == (pytest.approx(0.495), pytest.approx(0.545), 0.5)


def test_a_broken_promise_needs_enough_evidence() -> None:
    """12 independent bounds at 0.9: a coverage below 0.9 - 3 sqrt(0.09 / 12) = 0.64 is no accident."""
    assert not Kept(Tier.START, held=7.0, judged=11.0).broken(0.9, 1.0)
    assert Kept(Tier.START, held=7.0, judged=12.0).broken(0.9, 1.0)
    assert not Kept(Tier.START, held=8.0, judged=12.0).broken(0.9, 1.0)
    assert not Kept(Tier.START, held=7.0, judged=12.0).broken(0.9, 2.0)


def test_a_forecast_that_keeps_its_promise_is_relied_on() -> None:
    """A flat load of 1,000: the bound is 1,000, whatever the margin."""
    foreseen, ahead = bounds(FLAT, (), RULE, GIVEN, T0)
    assert ahead == [1000.0]
    assert not foreseen[0].basis.startswith("reactive")


def test_a_forecast_that_was_wrong_falls_back_on_the_present_load_with_a_margin() -> None:
    """0.3 at one minute is 0.3 sqrt(200 / 60) = 0.548 at 200 s."""
    wrong = (Kept(Tier.START, held=40.0, judged=100.0),)
    foreseen, ahead = bounds(FLAT, wrong, RULE, GIVEN, T0)
    assert ahead[0] == pytest.approx(1000.0 * 1.5477, rel=1e-3)
    assert foreseen[0].basis.startswith("reactive: its bounds held 40% of the time instead of 85%")
    assert foreseen[0].coverage == 0.4


def test_too_little_history_is_reactive_too() -> None:
    young = Series.of([(T0, 1000.0)], 60.0, 400)
    foreseen, ahead = bounds(young, (), RULE, GIVEN, T0)
    assert ahead[0] >= 1547.0
    assert "too little history" in foreseen[0].basis


def test_without_a_margin_the_forecast_is_taken_as_it_is() -> None:
    plain = replace(GIVEN, fallback_margin=0.0, forecaster=LastValue())
    _, ahead = bounds(FLAT, (Kept(Tier.START, held=0.0, judged=100.0),), RULE, plain, T0)
    assert ahead == [1000.0]


def test_a_load_that_outruns_its_bounds_is_noticed_in_the_loop() -> None:
    """The last value as a bound on a load that keeps growing is missed every time; the loop then adds its margin."""
    told = replace(GIVEN, forecaster=Overconfident(), quantile=0.9, supply=(replace(RUNG, lead_s=60.0),), bin_s=15.0)
    memory = Memory()
    said = []
    for number in range(120):
        decision, memory = tick(at(15.0 * number, prefill(2000.0 * 1.01**number)), memory, told)
        said.append(decision.roles[0].foreseen[0])
    first = next(number for number, one in enumerate(said) if one.basis.startswith("reactive"))
    assert said[first].coverage == 0.0
    assert said[first].judged >= 12
    # four bounds fall due within one lead time and say what one says. Faded, (1 - 0.995^n) / 0.005 = 48 at n = 55, and
    # the first was due after four ticks
    assert 57 <= first <= 61
    assert said[first].bound == pytest.approx(1.3 * 2000.0 * 1.01**first)
    assert said[-1].coverage is not None
    assert said[-1].coverage > 0.3
