"""The published step: 20 requests/s for 600 s from one replica, at most 10, Qwen3-32B on H100 under llm-d's autoscaler.

Published: P99 TTFT 526 s (4,000 prompt and 1,000 output tokens), 327-450 s (1000/4000), 254 s (1000/1000); 7.1 to 10
replicas on average; start-up 98 to 130 s. Not published with it, and assumed here: two GPUs a replica, Poisson
arrivals, saturation V2 as shipped, a gateway that hands every request on at once. Nor whether requests unfinished at
600 s count, so both are stated: `drained` (all, however late) and `cut` (those finished by 600 s).
"""

from __future__ import annotations

import math
from functools import cache
from statistics import fmean

import numpy as np
from validation_table import Line

from autoscaler.policies.registry import make
from autoscaler.simulator.generate import generate
from autoscaler.simulator.report import request_result
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.score import latencies
from autoscaler.simulator.setup import Setup, SupplySetup
from autoscaler.simulator.simulate import request_world, run_policy

PUBLISHED = {"4000/1000": (526.0, 526.0), "1000/4000": (327.0, 450.0), "1000/1000": (254.0, 254.0)}
"""P99 TTFT by shape, s, largest first."""
REPLICAS = (7.1, 10.0)
TARGET = 0.25
POLICY = "wva-v2-shipped"
LASTS = 600.0
START = (math.sqrt(98 * 130), 130.0)
"""Start-up: (median, 90th percentile), s; the published range's geometric middle and its end."""


@cache
def played(shape: str) -> tuple[float, float, float]:
    """(P99 TTFT drained, P99 TTFT cut, mean replicas) of one shape, seed 0."""
    load = generate(f"gen:poisson,rate=20,duration={LASTS:g},lengths={shape}", 0)
    supply = SupplySetup(start_s=START)
    # An hour and a half is enough for the last of them on what has been started by then.
    setup = Setup("qwen3-32b/h100-80gb/tp2", maximum=10, initial=1, settle_s=5400.0, supply=supply)
    staged, policy = stage(setup), make(POLICY)
    fleet, world = request_world(load, policy, setup, staged, 0)
    run_policy(world, policy, staged.scene)
    outcomes = fleet.ledger.frozen()
    ttft, _ = latencies(load, outcomes)
    drained = np.nan_to_num(ttft, nan=math.inf)
    cut = ttft[outcomes.finish <= LASTS]
    replicas = request_result(world, fleet, load, policy, 0).mean_replicas
    return float(np.percentile(drained, 99, method="lower")), float(np.percentile(cut, 99)), replicas


def shape_lines(shape: str) -> list[Line]:
    """P99 TTFT in both readings."""
    low, high = PUBLISHED[shape]
    upto = None if low == high else high
    name = f"llm-d step 20/s, {shape}"
    return [
        Line(name, f"P99 TTFT, s ({how})", low, value, TARGET, upto)
        for how, value in zip(("drained", "cut"), played(shape), strict=False)
    ]


def lines() -> list[Line]:
    """All shapes, and the mean replicas over them."""
    found = [line for shape in PUBLISHED for line in shape_lines(shape)]
    mean = fmean(played(shape)[2] for shape in PUBLISHED)
    return [*found, Line("llm-d step 20/s", "replicas, mean", REPLICAS[0], mean, TARGET, REPLICAS[1])]


def ordering(how: int) -> list[str]:
    """The shapes by simulated P99 TTFT, largest first; `how`: 0 drained, 1 cut."""
    return sorted(PUBLISHED, key=lambda shape: -played(shape)[how])
