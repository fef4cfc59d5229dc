"""What a gateway counts, as policies that look at arrivals use it."""

import numpy as np
import pytest
from rival_scenes import told

from autoscaler.model import Role
from autoscaler.policies.pool_traffic import Traffic, TrafficState, traffic
from autoscaler.simulator.gateway_meter import GatewayMeter
from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.simulator.setup import Actuation

SERVED = {"prompt_rate": 10_000.0, "computed_rate": 8000.0, "first_token_rate": 10.0, "waiting": 50.0}
SERVED |= {"generation_rate": 2000.0, "completion_rate": 10.0}


def test_arrivals_counted_at_the_gateway_are_believed_over_what_was_served() -> None:
    # 15 requests/s of 600 tokens came in; engines served 10/s with a fifth of the prompts cached: 480 are computed.
    seen = told(Role.COLOCATED, arrival_rate=15.0, arrival_tokens=9000.0, **SERVED)
    now, _ = traffic({Role.COLOCATED: seen}, TrafficState(), 0.0)
    assert now is not None
    assert (now.requests, now.prompt, now.output) == (15.0, 600.0, 200.0)
    assert now.computed == pytest.approx(480.0)
    assert now.hit_rate == pytest.approx(0.2)


def test_without_a_gateway_what_piles_up_counts() -> None:
    _, state = traffic({Role.COLOCATED: told(**SERVED)}, TrafficState(), 0.0)
    now, _ = traffic({Role.COLOCATED: told(**(SERVED | {"waiting": 80.0}))}, state, 30.0)
    assert now == Traffic(11.0, 1000.0, 800.0, 200.0)


def test_a_meter_tells_rates_between_scrapes_seen_with_a_lag() -> None:
    # A request a second of 100 tokens, from 0 to 99 s; scrapes every 15 s, seen 1 s later, rates over 60 s.
    load = Workload("steady", np.arange(100.0), np.full(100, 100), np.full(100, 10))
    meter = GatewayMeter(load, Actuation())
    assert meter.rates(0.0) is None
    assert meter.rates(15.9) is None  # the scrape of second 15 is seen at 16
    # Scrapes at 0 (one request) and 15 (16 requests): 15 in 15 s.
    assert meter.rates(16.0) == pytest.approx((1.0, 100.0))
    assert meter.rates(76.0) == pytest.approx((1.0, 100.0))
    # After the end: scrapes of 75 and 135 count 76 and 100.
    assert meter.rates(136.0) == pytest.approx((24 / 60, 2400 / 60))


def test_a_meter_of_a_flow_counts_in_between() -> None:
    flow = DemandSeries("flow", np.array([0.0, 60.0]), 60.0, np.array([60.0, 120.0]), np.array([6e3, 12e3]), np.ones(2))
    meter = GatewayMeter(flow, Actuation())
    # From 30 to 90 s: half of each bin, 30 + 60 requests in 60 s.
    assert meter.rates(91.0) == pytest.approx((1.5, 150.0))
