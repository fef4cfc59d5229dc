"""How fast the simulator is: requests a second and memory as the load doubles, and a week of ten pools as a fluid.

    python bench/simulator.py [--requests 387000] [--policy token-dynamics] [--weeks 10] [--only fluid]

Requests have the means of the Azure conversation trace (1,155 tokens in, 211 out, an hour); the load is drawn here, so
that no data is needed. Targets: the full hour in 60 s and 1.5 GiB on one core, ten weeks of fluid in 10 s.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.policies.registry import OWN, make
from autoscaler.policies.token_dynamics import TokenDynamics
from autoscaler.simulator.fluid_pace import Unhurried
from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.simulator.setup import Layout, Setup
from autoscaler.simulator.simulate import simulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOUR_S = 3600.0
WEEK_MINUTES = 7 * 24 * 60
WEEK_LOOK_S = 120.0
"""Between looks of our policy, as `tidegate whatif` plays a week."""


def hour(requests: int) -> Workload:
    """An hour of Poisson arrivals under a slow wave, with log-normal sizes of the trace's means."""
    random = np.random.default_rng(1)
    phase = np.sort(random.uniform(0.0, 1.0, requests))
    arrival = HOUR_S * (phase + 0.04 * np.sin(2 * np.pi * phase) * (1 - phase))
    prompt = np.clip(random.lognormal(np.log(1155) - 0.4, 0.9, requests), 1, 8000).astype(np.int32)
    output = np.clip(random.lognormal(np.log(211) - 0.25, 0.7, requests), 1, 1500).astype(np.int32)
    return Workload(f"drawn hour of {requests}", np.sort(arrival), prompt, output, horizon_s=HOUR_S)


def week(number: int) -> DemandSeries:
    """A week of minutes with a daily wave."""
    random = np.random.default_rng(number)
    at = np.arange(WEEK_MINUTES, dtype=np.float64) * 60.0
    rate: NDArray[np.float64] = (
        60.0 * (1 + 0.6 * np.sin(2 * np.pi * at / 86_400)) * random.lognormal(0.0, 0.1, len(at)) * 60
    )
    return DemandSeries(f"week {number}", at, 60.0, rate, rate * 1155, rate * 211)


def peak_gib() -> float:
    """Most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=387_000)
    parser.add_argument("--policy", default="token-dynamics")
    parser.add_argument("--weeks", type=int, default=10)
    parser.add_argument("--only", choices=["requests", "fluid"], help="one of the tables; default: both")
    given = parser.parse_args()
    if given.only != "fluid":
        by_request(given.requests, given.policy)
    if given.only != "requests":
        as_fluid(given.weeks, given.policy)


def by_request(requests: int, policy: str) -> None:
    """The first table: every request played."""
    print(f"{'layout':<14}{'requests':>10}{'seconds':>9}{'req/s':>9}{'replicas':>9}{'SLO':>8}{'GPU-h':>8}{'GiB':>7}")
    for layout in Layout:
        setup = Setup(layout=layout, maximum=128)
        for part in (4, 2, 1):
            load = hour(requests // part)
            began = time.perf_counter()
            result = simulate(load, make(policy, {}), setup)
            took = time.perf_counter() - began
            print(
                f"{layout:<14}{len(load):>10}{took:>9.1f}{len(load) / took:>9.0f}{result.peak_replicas:>9}"
                f"{result.slo_attainment:>8.3f}{result.gpu_hours:>8.1f}{peak_gib():>7.2f}"
            )


def as_fluid(weeks: int, name: str) -> None:
    """The second: fixed counts, which is what flowing itself takes, and a policy, ours at the pace of `whatif`."""
    own = make(name, {"forecast": "quantile"} if name == OWN else {"interval_s": "60"})
    paced = Unhurried.every(WEEK_LOOK_S, own) if isinstance(own, TokenDynamics) else own
    for policy in (make("static-mean", {}), paced):
        began = time.perf_counter()
        hours = sum(simulate(week(number), policy, Setup()).gpu_hours for number in range(weeks))
        took = time.perf_counter() - began
        print(f"fluid: {weeks} pools for a week under {policy.name}: {took:.1f} s, {hours:,.0f} GPU-hours")


if __name__ == "__main__":
    main()
