"""The fleet against queueing theory: engines that serve one request at a time, with known service times.

A request's service is one step over its whole prompt, b * tokens seconds; with a gateway that lets one request into an
engine, c engines are a queue of c servers with one line. Waiting time = TTFT - service. Mean service is 1 s, arrivals
are Poisson (seed 7), and the first tenth is left out as warm-up.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from validation_table import Line

from autoscaler.model import Role
from autoscaler.simulator.engine_types import EngineProfile
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.wiring import Gateway

Floats = NDArray[np.float64]
TARGET = 0.03
SECONDS_PER_TOKEN = 1e-6
MEAN_TOKENS = 1_000_000
"""A million tokens make a second: whole tokens then round service times to a millionth."""
ONE_AT_A_TIME = EngineProfile(1e-9, SECONDS_PER_TOKEN, 0.0, 0.0, 2**40, 1, 2**31, block_size=2**20)
QUEUES = {
    "M/M/1, 0.6": (1, 0.6, True, 400_000),
    "M/M/2, 0.5": (2, 0.5, True, 300_000),
    "M/M/5, 0.7": (5, 0.7, True, 300_000),
    "M/D/1, 0.7": (1, 0.7, False, 300_000),
}
"""Servers, utilisation, whether service is exponential (else constant), requests."""


def waits(engines: int, utilisation: float, *, exponential: bool, requests: int) -> tuple[Floats, Floats, Floats]:
    """Arrivals, service times and waiting times, s."""
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


def erlang_c_wait(servers: int, utilisation: float) -> float:
    """Mean wait of M/M/c with mean service 1: C(c, a) / (c - a), a = c * utilisation, by Erlang's B recursion."""
    offered = servers * utilisation
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    delayed = blocked / (1 - utilisation * (1 - blocked))
    return delayed / (servers - offered)


def line(name: str) -> Line:
    """One queue. M/D/1 waits half as long as M/M/1 (Pollaczek-Khinchine, no variance of service)."""
    engines, utilisation, exponential, requests = QUEUES[name]
    theory = erlang_c_wait(engines, utilisation) * (1.0 if exponential else 0.5)
    made = waits(engines, utilisation, exponential=exponential, requests=requests)[2][requests // 10 :]
    return Line(f"queue {name}", "mean wait, s", theory, float(made.mean()), TARGET)


def lines() -> list[Line]:
    """All queues."""
    return [line(name) for name in QUEUES]
