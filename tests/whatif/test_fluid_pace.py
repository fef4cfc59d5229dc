"""Deciding when there is news: about the same GPU-hours and attainment as at every tick, from far fewer decisions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoscaler import whatif
from autoscaler.policies.registry import make
from autoscaler.policies.token_dynamics import TokenDynamics
from autoscaler.simulator.fluid_pace import LONGEST_S, Unhurried
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.setup import Fault, FaultKind, Setup
from autoscaler.simulator.simulate import simulate
from autoscaler.whatif.run import Run, outcome

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation
    from autoscaler.simulator.result import Result


def demand(rates: list[float], bin_s: float = 60.0) -> DemandSeries:
    """Requests/s per bin, of 1,000 + 200 tokens."""
    requests = np.array(rates) * bin_s
    return DemandSeries("drawn", np.arange(len(rates)) * bin_s, bin_s, requests, requests * 1000, requests * 200)


def wave(hours: int) -> DemandSeries:
    """Three waves between 10 and 30 requests/s with 3 % of noise."""
    random = np.random.default_rng(5)
    return demand(
        [
            20 + 10 * math.sin(6 * math.pi * minute / (60 * hours)) + float(random.normal(0, 0.6))
            for minute in range(60 * hours)
        ]
    )


def own(**knobs: str) -> TokenDynamics:
    made = make("token-dynamics", knobs)
    assert isinstance(made, TokenDynamics)
    return made


def counted(load: DemandSeries, policy: TokenDynamics | Unhurried, setup: Setup | None = None) -> tuple[Result, int]:
    """The result, and how often it was really decided."""
    made: list[float] = []

    def note(_seen: Observation, decision: Decision) -> None:
        if any(role.desired is not None for role in decision.roles):
            made.append(decision.at)

    return simulate(load, policy, setup, record=note), len(made)


def test_a_wave_is_followed_as_closely_with_a_tenth_of_the_decisions() -> None:
    load = wave(6)
    each, all_ticks = counted(load, own())
    paced, at_news = counted(load, Unhurried.every(60.0, own()))
    assert all_ticks > 1400
    assert at_news < all_ticks / 10
    # A wave of two hours is far faster than the daily ones this is for: there the difference is 1 to 3 %.
    assert paced.gpu_hours == pytest.approx(each.gpu_hours, rel=0.1)
    assert paced.slo_attainment == pytest.approx(each.slo_attainment, abs=0.01)


def test_a_steady_load_is_decided_on_once_in_half_an_hour() -> None:
    load = demand([20.0] * 360)
    paced, at_news = counted(load, Unhurried.every(60.0, own()))
    # 6 h hold 12 times 1,800 s; the beginning, until nothing shrinks any more, takes some more.
    assert at_news < 2 * 6 * 3600 / LONGEST_S + 12
    # 20 requests/s need four replicas: it rests there, or one above.
    assert paced.history["colocated"][-1][3] in {4, 5}
    assert paced.slo_attainment > 0.9


def test_a_jump_is_news_at_once() -> None:
    load = demand([10.0] * 60 + [40.0] * 60)
    decided: list[float] = []

    def note(_seen: Observation, decision: Decision) -> None:
        if any(role.desired is not None for role in decision.roles):
            decided.append(decision.at - Setup().start_at)

    simulate(load, Unhurried.every(60.0, own()), record=note)
    # The load jumps at 3,600 s; the look at 3,660 s is the first with any of it in its window.
    assert any(3600 < at <= 3660 for at in decided)


@pytest.mark.parametrize("kind", [FaultKind.UNREADABLE, FaultKind.KILL, FaultKind.MISSING])
def test_what_goes_wrong_is_news(kind: FaultKind) -> None:
    setup = Setup(faults=(Fault(kind, 5400.0, 600.0, 1.0 if kind is not FaultKind.KILL else 3.0),))
    load = demand([20.0] * 180)
    quiet, calm = counted(load, Unhurried.every(60.0, own()))
    hit, stirred = counted(load, Unhurried.every(60.0, own()), setup)
    assert stirred > calm
    # Nothing is lost for good: the fleet is as large again by the end.
    assert hit.history["colocated"][-1][3] >= quiet.history["colocated"][-1][3]


def test_a_long_interval_still_shrinks() -> None:
    falling = demand([40.0] * 60 + [5.0] * 180)
    scenario = whatif.Scenario(interval_s=200.0)
    made = outcome(Run(scenario, "pool", 0), {"pool": falling})
    ready = [change[3] for change in made["history"]["colocated"]]
    # 40 requests/s need about eight times the replicas of 5: an hour after the fall most are gone.
    assert ready[-1] <= max(ready) / 3


def test_requests_over_days_flow_as_demand_per_minute() -> None:
    loads = whatif.generated("gen:poisson,rate=0.5,duration=100000", seed=1)
    outcomes = whatif.swept([whatif.Scenario()], loads, backend=whatif.run_in_processes(1))
    alone = outcome(Run(whatif.Scenario(), "pool", 0), loads.pools)
    assert "summed per 60 s" in outcomes[0]["notes"][-1]
    assert alone["gpu_hours"] == outcomes[0]["gpu_hours"]
