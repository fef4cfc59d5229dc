"""No policy that serves as many may hold fewer GPU-hours than the oracle's bound."""

from __future__ import annotations

import numpy as np
import pytest

from autoscaler.policies.registry import make
from autoscaler.scoreboard_bounds import bound
from autoscaler.simulator.generate import generate
from autoscaler.simulator.need import Sums
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.setup import Layout, Setup, SupplySetup
from autoscaler.simulator.simulate import simulate

LOADS = (
    "gen:poisson,rate=6,duration=300",
    "gen:onoff,rate=4,duration=600",
)
POLICIES = ("token-dynamics", "keda-epp-saturation", "tokenscale", "heteroscale")


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("spec", LOADS)
def test_no_policy_is_cheaper_than_the_bound_at_its_own_attainment(spec: str, layout: Layout) -> None:
    load = generate(spec, 1)
    setup = Setup(layout=layout, supply=SupplySetup(start_s=(30.0, 45.0)))
    fixed = [make("static-mean", {"colocated": n, "prefill": n, "decode": n}) for n in ("1", "2", "3")]
    for policy in (*fixed, *(make(name) for name in POLICIES)):
        result = simulate(load, policy, setup, seed=1)
        least = bound(load, setup, result.slo_attainment)
        assert result.gpu_hours >= least.gpu_hours - 1e-9, (policy, result.slo_attainment)


def test_more_attainment_never_costs_less() -> None:
    load, setup = generate(LOADS[0], 1), Setup()
    costs = [bound(load, setup, share).gpu_hours for share in (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)]
    assert costs == sorted(costs)


def test_outputs_come_at_their_pace() -> None:
    # One request at 10 s with 50 tokens, a tenth of a second apart: 20 by 12 s, all by 15 s.
    load = Workload("one", np.array([10.0]), np.array([100]), np.array([50]), horizon_s=30.0)
    paced = Sums.of(load, 0.1)
    start = np.array([0.0, 10.0, 12.0, 15.0])
    _, prompt, output = paced.within(start, np.array([10.0, 12.0, 15.0, 30.0]))
    assert output == pytest.approx([0.0, 20.0, 30.0, 0.0])
    assert prompt.sum() == 100.0
