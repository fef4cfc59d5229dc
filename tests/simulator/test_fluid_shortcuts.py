"""What the fluid works out at once or remembers is what it would find one by one."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.model import Role, RoleKey
from autoscaler.policies.registry import make
from autoscaler.simulator.fluid import FluidFleet
from autoscaler.simulator.fluid_load import INPUT_SIGMA, fluid_load
from autoscaler.simulator.fluid_pace import Recalled
from autoscaler.simulator.fluid_senses import FluidSenses
from autoscaler.simulator.gateway_meter import GatewayMeter
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.scenes import engine_profile, stage
from autoscaler.simulator.setup import Actuation, Layout, Setup, Slo
from autoscaler.simulator.simulate import simulate
from autoscaler.simulator.telemetry import Beside
from autoscaler.velocity import Engine, Mix, StepModel, Target, colocated_engines, waiting_tail
from forecasting.damped import DampedQuantile
from forecasting.series import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from autoscaler.model import Observation
    from forecasting.forecaster import Forecast

KEY = RoleKey("default", "pool", Role.COLOCATED)


def demand(rates: Sequence[float], prompt: float = 1000.0, output: float = 200.0, bin_s: float = 60.0) -> DemandSeries:
    requests = np.asarray(rates, dtype=np.float64) * bin_s
    times: NDArray[np.float64] = np.arange(len(rates), dtype=np.float64) * bin_s
    return DemandSeries("drawn", times, bin_s, requests, requests * prompt, requests * output)


def test_a_gateway_tells_a_flow_as_its_sums_say() -> None:
    load = demand([3.0, 7.0, 0.0, 20.0])
    meter = GatewayMeter(load, Actuation(scrape_s=15.0, lag_s=5.0, window_s=60.0))
    # At 125 s the last scrape seen is that of 120 s, the first in the window that of 60 s: the second minute.
    assert meter.rates(125.0) == pytest.approx((7.0, 7000.0))
    # At 140 s: from 75 s to 135 s, three quarters of the second minute and a quarter of the third.
    assert meter.rates(140.0) == pytest.approx((7.0 * 0.75, 7000.0 * 0.75))
    # Long after the end nothing comes.
    assert meter.rates(10_000.0) == (0.0, 0.0)


@given(mean=st.floats(1.0, 50_000.0))
def test_size_classes_are_the_pieces_of_a_log_normal(mean: float) -> None:
    slo = Slo()
    (classes,) = fluid_load(demand([1.0], prompt=mean), slo).classes
    assert sum(share for share, _, _ in classes) == pytest.approx(1.0, abs=1e-8)
    assert sum(share * tokens for share, tokens, _ in classes) == pytest.approx(mean, rel=1e-6)
    normal = NormalDist(math.log(mean) - INPUT_SIGMA**2 / 2, INPUT_SIGMA)
    edge, limit = slo.ttft_s[0]
    below = normal.cdf(math.log(edge))
    told = [share for share, _, one in classes if one == limit]
    assert sum(told) == pytest.approx(below, abs=1e-8)


def fleet_of(count: int) -> tuple[FluidFleet, Setup]:
    setup = Setup()
    profile = engine_profile(stage(setup).profile, setup.block_size)
    fleet = FluidFleet(fluid_load(demand([10.0] * 10), setup.slo), profile, setup.slo, None)
    for _ in range(count):
        fleet.add(Role.COLOCATED, profile, None, 0.0, 0)
    return fleet, setup


def test_engines_are_counted_with_and_without_those_that_faults_hide() -> None:
    fleet, setup = fleet_of(4)
    senses = FluidSenses(fleet, setup.actuation, 1000.0)
    senses.look(0.0)
    beside = Beside(4, 5, (), (10.0, 10_000.0))
    fleet.advance(30.0)
    first = senses.role(KEY, 30.0, beside)
    # One look makes no rate.
    assert (first.reporting, first.rate_engines, first.computed_rate) == (4, 0, None)
    assert (first.sampled_at, first.ready, first.replicas, first.arrival_rate) == (1030.0, 4, 5, 10.0)
    fleet.advance(50.0)
    fleet.add(Role.COLOCATED, fleet.profile, None, 0.0, 0)
    senses.look(50.0)
    fleet.advance(60.0)
    second = senses.role(KEY, 60.0, beside)
    # The fifth came 10 s ago: it reports, and has not been scraped twice.
    assert (second.reporting, second.rate_engines, second.stale) == (5, 4, 0)
    senses.unscraped.update({0, 4})
    senses.hidden.add(1)
    third = senses.role(KEY, 60.0, beside)
    # Of five one is hidden and two are stale; the young one is among the stale.
    assert (third.reporting, third.rate_engines, third.stale) == (2, 2, 2)
    assert third.running == pytest.approx((second.running or 0.0) * 2 / 5)
    fleet.close(2)
    fleet.remove(2)
    senses.unscraped.clear()
    senses.hidden.clear()
    fleet.advance(70.0)
    # Four are left, and the young one has been there for longer than the 15 s between two scrapes.
    assert senses.role(KEY, 70.0, beside).rate_engines == 4


class Counting:
    """A forecaster that counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def forecast(
        self, series: Series, at: float, horizons: Sequence[float], quantiles: Sequence[float]
    ) -> Forecast | None:
        self.asked += 1
        return DampedQuantile().forecast(series, at, horizons, quantiles)


def test_a_forecast_is_made_once_for_one_question() -> None:
    inner = Counting()
    recalled = Recalled(inner)
    series = Series.of([(60.0 * at, 10.0 + at % 3) for at in range(60)], 60.0)
    same = Series.of([(60.0 * at, 10.0 + at % 3) for at in range(60)], 60.0)
    first = recalled.forecast(series, 3600.0, (60.0,), (0.9,))
    assert recalled.forecast(series, 3600.0, [60.0], [0.9]) is first
    assert inner.asked == 1
    for other, at, ahead, quantile in (
        (same, 3600.0, 60.0, 0.9),
        (series, 3601.0, 60.0, 0.9),
        (series, 3600.0, 90.0, 0.9),
    ):
        assert recalled.forecast(other, at, (ahead,), (quantile,)) == DampedQuantile().forecast(
            other, at, (ahead,), (quantile,)
        )
    assert inner.asked == 4


@given(prompt=st.floats(0, 3e6), output=st.floats(0, 1e6), attainment=st.floats(0.5, 0.999), ttft=st.floats(0.1, 5.0))
def test_the_fewest_engines_that_suffice_are_found(
    prompt: float, output: float, attainment: float, ttft: float
) -> None:
    engine = Engine(StepModel(0.007, 6.9e-5, 6e-5, 1e-8), 400_000.0, 256.0, 2048.0)
    mix, target = Mix(1000.0, 200.0, 1100.0), Target(ttft, 0.05, attainment)
    count = colocated_engines(prompt, output, 0.0, 0.0, engine, mix, target)
    fewer = colocated_engines(prompt * 0.98, output * 0.98, 0.0, 0.0, engine, mix, target)
    assert fewer <= count
    if not output and prompt > 0:
        per = engine.step.per_prompt_token / (1 - engine.step.base / target.itl_s)
        slack = max(ttft - 1000 * per, 0.25 * ttft)
        tails = [
            waiting_tail(many, prompt * per / many, 1000 * per, slack, 1.0) for many in (count - 1, count) if many > 0
        ]
        assert tails[-1] <= 1 - attainment
        assert count == 1 or len(tails) < 2 or tails[0] > 1 - attainment or math.floor(prompt * per) + 1 == count


def prefill_steps(load: DemandSeries, replicas: int) -> tuple[float, float, float]:
    """Seconds of prefill and steps a request, and the share of its time that an engine's steps take."""
    seen: list[Observation] = []
    setup = Setup(layout=Layout.DISAGGREGATED, initial=replicas)
    policy = make("static-mean", {"prefill": str(replicas), "decode": str(replicas)})
    simulate(load, policy, setup, record=lambda told, _: seen.append(told))
    told = seen[5].roles[0]
    profile = stage(setup).profile
    made = engine_profile(profile, setup.block_size)
    assert told.first_token_rate is not None
    assert told.step_rate is not None
    assert told.computed_rate is not None
    assert told.prefill_busy is not None
    busy = (made.step_seconds * told.step_rate + made.prefill_token_seconds * told.computed_rate) / replicas
    return told.prefill_busy / told.first_token_rate, told.step_rate / told.first_token_rate, busy


def test_prompts_share_steps_as_prefill_engines_fill_up() -> None:
    calm, full, over = (prefill_steps(demand([rate] * 10, prompt=989.0), 12) for rate in (30.0, 105.0, 200.0))
    # Alone a prompt has its own step, or several if it is longer than a chunk; together they wait for each other.
    assert calm[1] >= 1.0
    assert calm[0] < full[0]
    assert full[1] < calm[1]
    # However much there is, an engine's steps never take more than all of its time.
    for _, steps, busy in (calm, full, over):
        assert steps > 0
        assert busy <= 1.0 + 1e-6
    assert over[2] == pytest.approx(1.0, abs=1e-6)
