"""How many scenarios a minute a sweep plays: a week as a fluid, as `tidegate whatif` plays it.

    python bench/whatif.py [--scenarios 200] [--workers 2] [--bin-s 60] [--policies token-dynamics]

The load is drawn (a daily wave), so that no data is needed, and nothing is kept: every scenario is really played.
Target: 200 scenarios in 5 minutes on 2 cores. With --fidelity it prints instead how far the fluid, at its pace, is from
the same policy at every tick, and the fluid from playing each request.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from typing import TYPE_CHECKING

import psutil

from autoscaler import whatif
from autoscaler.policies.registry import make
from autoscaler.simulator.simulate import simulate
from autoscaler.whatif.run import Run, outcome, setup_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.simulator.requests import DemandSeries, Workload

WEEK_S = 604_800.0
PEAK_LOADS = (20.0, 30.0, 40.0, 50.0, 60.0)
"""Mean requests/s of the hours that are compared at both fidelities, on at most 12 replicas: from calm to overload."""


def week(bin_s: float) -> whatif.Loads:
    """24 million requests in a daily wave."""
    return whatif.binned(whatif.generated(f"gen:diurnal,rate=4,peak=3,period=86400,duration={WEEK_S:g}", seed=1), bin_s)


def asked(count: int, policies: list[str]) -> tuple[whatif.Scenario, ...]:
    """So many scenarios that differ in growth, start-up and policy."""
    starts = (1.0, 0.7)
    growths = math.ceil(count / (len(starts) * len(policies)))
    values = {
        "growth": [round(8 + 4 * step / growths, 3) for step in range(growths)],
        "supply.start_scale": list(starts),
        "policy.name": policies,
    }
    return whatif.grid(whatif.Scenario(profile="llama-3.1-8b/a100-80gb/tp1"), values)[:count]


def sweep(count: int, workers: int, bin_s: float, policies: list[str]) -> None:
    """Play them all and print what it took."""
    loads = week(bin_s)
    scenarios = asked(count, policies)
    before = os.times()
    began = time.perf_counter()
    outcomes = whatif.swept(scenarios, loads, backend=whatif.run_in_processes(workers))
    took = time.perf_counter() - began
    after = os.times()
    own, children = after.user - before.user, after.children_user - before.children_user
    table = whatif.summary(outcomes)
    print(f"{'scenarios':>10}{'workers':>9}{'bin s':>7}{'seconds':>9}{'a minute':>10}{'CPU s each':>12}{'SLO':>16}")
    slo = f"{table['slo_attainment'].min():.3f}-{table['slo_attainment'].max():.3f}"
    each = (own + children) / len(outcomes)
    rate = len(outcomes) / took * 60
    print(f"{len(outcomes):>10}{workers:>9}{bin_s:>7g}{took:>9.1f}{rate:>10.1f}{each:>12.2f}{slo:>16}")
    print(f"{psutil.cpu_count()} cores, load {os.getloadavg()[0]:.1f} over the last minute, others included")


def fidelity() -> None:
    """The fluid at its pace against every tick, over two days; the fluid against requests, over an hour."""
    print(f"{'two days':<24}{'GPU-h':>9}{'SLO':>8}{'seconds':>9}")
    load = whatif.binned(whatif.generated("gen:diurnal,rate=4,peak=3,period=86400,duration=172800", seed=1), 60.0)
    scenario = whatif.Scenario(growth=10)
    told: Mapping[str, DemandSeries | Workload] = load.pools
    for name, one in (("at news", scenario), ("every 15 s", scenario.model_copy(update={"interval_s": 15.0}))):
        began = time.perf_counter()
        made = outcome(Run(one, "pool", 0), told)
        took = time.perf_counter() - began
        print(f"{name:<24}{made['gpu_hours']:>9.1f}{made['slo_attainment']:>8.4f}{took:>9.1f}")
    print(f"\n{'an hour, requests/s':<24}{'GPU-h':>9}{'fluid':>9}{'':>8}{'SLO':>9}{'fluid':>9}")
    for rate in PEAK_LOADS:
        pool = whatif.generated(f"gen:diurnal,rate={rate:g},peak=2,period=3600,duration=3600", seed=1).pools["pool"]
        setup = setup_of(whatif.Scenario(maximum=12))
        exact, fluid = (simulate(pool, make("token-dynamics", {}), setup, fluid=flows) for flows in (False, True))
        off = fluid.gpu_hours / exact.gpu_hours - 1
        print(
            f"{rate:<24g}{exact.gpu_hours:>9.2f}{fluid.gpu_hours:>9.2f}{off:>8.1%}"
            f"{exact.slo_attainment:>9.3f}{fluid.slo_attainment:>9.3f}"
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--bin-s", type=float, default=60.0)
    parser.add_argument("--policies", default="token-dynamics", help="several with commas")
    parser.add_argument("--fidelity", action="store_true")
    given = parser.parse_args()
    if given.fidelity:
        fidelity()
    else:
        sweep(given.scenarios, given.workers, given.bin_s, given.policies.split(","))


if __name__ == "__main__":
    main()
