"""The fleet against queueing theory: engines that serve one request at a time, with known service times.

A request's service is one step over its whole prompt, b * tokens seconds; with a gateway that lets one request into an
engine, c engines are a queue of c servers with one line. Waiting time = TTFT - service.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from autoscaler.model import Role
from autoscaler.simulator.engine_types import EngineProfile
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.wiring import Gateway

Floats = NDArray[np.float64]
SECONDS_PER_TOKEN = 1e-6
MEAN_TOKENS = 1_000_000
ONE_AT_A_TIME = EngineProfile(1e-9, SECONDS_PER_TOKEN, 0.0, 0.0, 2**40, 1, 2**31, block_size=2**20)
"""A million tokens make a second: whole tokens then round service times to a millionth."""


def waits(engines: int, utilisation: float, *, exponential: bool, requests: int) -> tuple[Floats, Floats, Floats]:
    """Arrivals, service times and waiting times, s, with mean service 1 s and Poisson arrivals."""
    random = np.random.default_rng(7)
    arrival = np.cumsum(random.exponential(1 / (utilisation * engines), requests))
    drawn = random.exponential(MEAN_TOKENS, requests) if exponential else np.full(requests, MEAN_TOKENS)
    prompt = np.clip(np.rint(drawn), 1, 10_000_000).astype(np.int32)
    load = Workload("queue", arrival, prompt, np.ones(requests, dtype=np.int32))
    fleet = Fleet(load, Gateway(limit=1))
    for _ in range(engines):
        fleet.add(Role.COLOCATED, ONE_AT_A_TIME)
    fleet.advance(math.inf)
    service = prompt * SECONDS_PER_TOKEN
    return arrival, service, fleet.ledger.frozen().first - arrival - service


def mean_wait(engines: int, utilisation: float, *, exponential: bool, requests: int) -> float:
    """Mean waiting time, s; the first tenth is left out as warm-up."""
    return float(waits(engines, utilisation, exponential=exponential, requests=requests)[2][requests // 10 :].mean())


def erlang_c_wait(servers: int, utilisation: float) -> float:
    """Mean wait of M/M/c with mean service 1: C(c, a) / (c - a), a = c * utilisation, by Erlang's B recursion."""
    offered = servers * utilisation
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    delayed = blocked / (1 - utilisation * (1 - blocked))
    return delayed / (servers - offered)


def test_erlang_c_is_what_tables_say() -> None:
    # One server: rho / (1 - rho). Two servers at 0.5: C = 1/3, wait = (1/3) / (2 - 1).
    assert erlang_c_wait(1, 0.6) == pytest.approx(1.5)
    assert erlang_c_wait(2, 0.5) == pytest.approx(1 / 3)


def test_one_engine_with_exponential_service_waits_as_m_m_1() -> None:
    # rho / (1 - rho) * service = 0.6 / 0.4 = 1.5 s.
    assert mean_wait(1, 0.6, exponential=True, requests=400_000) == pytest.approx(1.5, rel=0.03)


def test_one_engine_with_constant_service_waits_as_m_d_1() -> None:
    # Half of M/M/1: rho / (2 (1 - rho)) = 0.7 / 0.6.
    assert mean_wait(1, 0.7, exponential=False, requests=300_000) == pytest.approx(0.7 / 0.6, rel=0.03)


@pytest.mark.parametrize(("engines", "utilisation"), [(2, 0.5), (5, 0.7)])
def test_several_engines_behind_one_line_wait_as_m_m_c(engines: int, utilisation: float) -> None:
    expected = erlang_c_wait(engines, utilisation)
    assert mean_wait(engines, utilisation, exponential=True, requests=300_000) == pytest.approx(expected, rel=0.03)


def test_ten_engines_make_every_single_request_wait_as_the_recursion_of_kiefer_and_wolfowitz_says() -> None:
    # First come, first served, c servers: a request starts when it has come and the earliest of them is free.
    arrival, service, waited = waits(10, 0.9, exponential=True, requests=20_000)
    free = [0.0] * 10
    expected = []
    for came, needs in zip(arrival.tolist(), service.tolist(), strict=True):
        begins = max(came, heapq.heappop(free))
        heapq.heappush(free, begins + needs)
        expected.append(begins - came)
    assert waited == pytest.approx(np.array(expected), abs=1e-4)
    assert max(expected) > 1.0
