"""The simulated world tells of replicas that came up, step by step, and the product learns its lead times from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoscaler.model import Step, Tier
from autoscaler.policies.token_dynamics import TokenDynamics
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.setup import Setup, SupplySetup
from autoscaler.simulator.simulate import simulate

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation


def growing(seconds: int) -> Workload:
    """A prompt of 2,000 tokens twenty times a second, after a quiet beginning."""
    arrivals = np.concatenate([np.arange(0, 120, 2.0), np.arange(120, seconds, 0.05)])
    count = len(arrivals)
    return Workload("growing", arrivals, np.full(count, 2000, np.int32), np.full(count, 150, np.int32))


def run(supply: SupplySetup, seconds: int = 1500) -> tuple[list[Observation], list[Decision]]:
    seen: list[Observation] = []
    decided: list[Decision] = []

    def record(observation: Observation, decision: Decision) -> None:
        seen.append(observation)
        decided.append(decision)

    simulate(growing(seconds), TokenDynamics(), Setup(maximum=20, supply=supply), fluid=True, record=record)
    return seen, decided


def test_a_lead_time_told_wrongly_is_corrected_by_what_was_seen() -> None:
    """Starts take 300 s, always; what policies are told is scaled with it, so compare with the learned basis."""
    seen, decided = run(SupplySetup(start_s=(300.0, 300.000001)), 2400)
    starts = seen[-1].roles[0].starts
    assert len(starts) >= 2
    assert {one.tier for one in starts} == {Tier.START}
    assert all(one.served_at - one.asked_at == pytest.approx(300.0, abs=1e-3) for one in starts)
    last = decided[-1].roles[0].foreseen[0]
    assert last.lead_basis == f"p90 of {len(starts)} starts"
    assert last.lead_s == pytest.approx(300.0, rel=0.25)


def test_steps_add_up_to_the_whole() -> None:
    seen, _ = run(SupplySetup())
    starts = seen[-1].roles[0].starts
    assert starts
    for one in starts:
        assert {step for step, _ in one.steps} >= {Step.SCHEDULE, Step.WEIGHTS, Step.ENGINE, Step.REGISTRATION}
        assert sum(seconds for _, seconds in one.steps) == pytest.approx(one.served_at - one.asked_at)
        assert seen[0].at <= one.asked_at < one.served_at <= seen[-1].at


def test_waiting_for_a_new_node_is_a_step_of_that_tier() -> None:
    seen, _ = run(SupplySetup(gpus=1, nodes_to_buy=8), 3000)
    bought = [one for one in seen[-1].roles[0].starts if one.tier is Tier.PROVISION]
    assert bought
    assert all(dict(one.steps)[Step.NODE] > 0 for one in bought)
    assert any(Step.IMAGE in dict(one.steps) for one in bought)
