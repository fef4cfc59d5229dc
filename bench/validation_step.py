"""The published steps: 20 requests/s for 600 s on Qwen3-32B and H100 under llm-d, at most 10 replicas.

    EPP+KEDA      KEDA on the pool's mean KV usage and queue (llm-d/llm-d-autoscaling issue 1412, policy
                  `keda-epp-shipped`): 4000/1000, 1000/4000 and 1000/1000 prompt/output tokens
    saturation    KEDA on pool saturation and requests in flight (issue 1421, `keda-epp-saturation`): 1000/4000
    static        two replicas, nothing scales (pull request 1171): 4000/1000

Published are P99 TTFT, P99 ITL and mean replicas; start-up 98 to 130 s. Not published, and inferred here:

* Two GPUs a replica and Poisson arrivals.
* The replicas at the start. Their mean over the run tells: 7.29 is what 1 replica makes of 139 s until the second and
  176 s until the tenth is ready, 10.00 can only be 10 from the start (left from the run before), 8.95 lies between.
  So each run of EPP+KEDA opens with the number, of 1 to 10, whose simulated mean is nearest to the published one.
* Which requests count. The load generator stops at 600 s; of two readings that leave out what has no first token
  then, those with a first token are taken: on the static run, where no policy plays a part, this is 532 s against the
  published 545 s (finished requests alone: 474 s; all, served to the end: 4,898 s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from validation_table import Line

from autoscaler.policies.registry import make
from autoscaler.simulator.generate import generate
from autoscaler.simulator.report import request_result
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.score import latencies
from autoscaler.simulator.setup import Setup, SupplySetup
from autoscaler.simulator.simulate import request_world, run_policy

TARGET = 0.25
LASTS = 600.0
START = (math.sqrt(98 * 130), 130.0)
"""Start-up: (median, 90th percentile), s; the published range's geometric middle and its end."""
MOST = 10


@dataclass(frozen=True, slots=True)
class Experiment:
    """One published run. `fixed`: so many replicas throughout; `opening`: at the start, None where it is inferred."""

    name: str
    policy: str
    shape: str
    ttft_p99_s: float
    itl_p99_s: float
    replicas: float
    opening: int | None = None
    fixed: bool = False


KEDA = tuple(
    Experiment("EPP+KEDA", "keda-epp-shipped", *row)
    for row in (
        ("4000/1000", 526.752, 0.07207, 7.29),
        ("1000/4000", 326.691, 0.11168, 10.0),
        ("1000/1000", 254.011, 0.08964, 8.95),
    )
)
EXPERIMENTS = (
    *KEDA,
    Experiment("EPP+KEDA saturation", "keda-epp-saturation", "1000/4000", 450.374, 0.10847, 7.30, opening=1),
    Experiment("static", "keda-epp-shipped", "4000/1000", 544.68, 0.0574, 2.0, opening=2, fixed=True),
)


@dataclass(frozen=True, slots=True)
class Played:
    """What the simulator makes of it; and the opening."""

    ttft_p99_s: float
    itl_p99_s: float
    replicas: float
    opening: int


@cache
def opened(experiment: Experiment, opening: int) -> Played:
    """The experiment from so many replicas, seed 0."""
    load = generate(f"gen:poisson,rate=20,duration={LASTS:g},lengths={experiment.shape}", 0)
    setup = Setup(
        "qwen3-32b/h100-80gb/tp2",
        minimum=opening if experiment.fixed else 1,
        maximum=opening if experiment.fixed else MOST,
        initial=opening,
        settle_s=0.0,
        supply=SupplySetup(start_s=START),
    )
    staged, policy = stage(setup), make(experiment.policy)
    fleet, world = request_world(load, policy, setup, staged, 0)
    run_policy(world, policy, staged.scene)
    outcomes = fleet.ledger.frozen()
    ttft, tpot = latencies(load, outcomes)
    begun = outcomes.first <= LASTS
    replicas = request_result(world, fleet, load, policy, 0).mean_replicas
    late = float(np.percentile(ttft[begun], 99, method="lower"))
    return Played(late, float(np.percentile(tpot[outcomes.finish <= LASTS], 99)), replicas, opening)


def played(experiment: Experiment) -> Played:
    """The experiment from its opening, or from the one whose mean replicas are nearest to the published."""
    if experiment.opening is not None:
        return opened(experiment, experiment.opening)
    plays = [opened(experiment, opening) for opening in range(1, MOST + 1)]
    return min(plays, key=lambda play: abs(play.replicas - experiment.replicas))


def lines_of(experiment: Experiment) -> list[Line]:
    """P99 TTFT, P99 ITL and the mean replicas."""
    made = played(experiment)
    name = f"step, {experiment.name}, {experiment.shape}"
    return [
        Line(name, "P99 TTFT, s", experiment.ttft_p99_s, made.ttft_p99_s, TARGET),
        Line(name, "P99 time per output token, s", experiment.itl_p99_s, made.itl_p99_s, TARGET),
        Line(name, f"replicas, mean, from {made.opening}", experiment.replicas, made.replicas, TARGET),
    ]


def lines() -> list[Line]:
    """All experiments."""
    return [line for experiment in EXPERIMENTS for line in lines_of(experiment)]


def ordering() -> tuple[list[str], list[str]]:
    """The shapes under EPP+KEDA by P99 TTFT, largest first: published and simulated."""
    published = sorted(KEDA, key=lambda one: -one.ttft_p99_s)
    simulated = sorted(KEDA, key=lambda one: -played(one).ttft_p99_s)
    return [one.shape for one in published], [one.shape for one in simulated]
