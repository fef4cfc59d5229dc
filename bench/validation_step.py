"""The published step: 20 requests/s for 600 s from one replica, at most 10, Qwen3-32B on H100, under llm-d.

Published: P99 TTFT 526 s (4,000 prompt and 1,000 output tokens), 327 to 450 s (1000/4000), 254 s (1000/1000); 7.1 to
10 replicas on average; start-up 98 to 130 s (llm-d/llm-d-autoscaling pull request 1404, issues 1412 and 1421). Those
runs were scaled by KEDA on pool-average KV usage and queue depth, without the Workload Variant Autoscaler. No policy
here has that pair of triggers: saturation V2 as shipped and KEDA on the queue stand in for it.

Not published with the figures, and assumed here: two GPUs a replica, Poisson arrivals, and how the gateway holds
requests back (stated both ways: `at once`, none held; `held`, an engine gets no more than its KV cache holds at the
mean length). Nor whether requests unfinished at 600 s count: `drained` counts all, however late, `cut` those finished.
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
PLAYS = (("wva-v2-shipped", False), ("wva-v2-shipped", True), ("keda-queue", True))
"""Policy, and whether the gateway holds requests back."""
KV_TOKENS = 323_552
LASTS = 600.0
READINGS = ("drained", "cut")
START = (math.sqrt(98 * 130), 130.0)
"""Start-up: (median, 90th percentile), s; the published range's geometric middle and its end."""


def names(play: tuple[str, bool]) -> str:
    """A play as the table calls it."""
    return f"step, {play[0]}, {'held' if play[1] else 'at once'}"


@cache
def played(play: tuple[str, bool], shape: str) -> tuple[float, float, float]:
    """(P99 TTFT drained, P99 TTFT cut, mean replicas) of one shape, seed 0; infinite where the last never come."""
    prompt, output = (int(one) for one in shape.split("/"))
    load = generate(f"gen:poisson,rate=20,duration={LASTS:g},lengths={shape}", 0)
    setup = Setup(
        "qwen3-32b/h100-80gb/tp2",
        maximum=10,
        initial=1,
        gateway_limit=KV_TOKENS // (prompt + output // 2) if play[1] else None,
        # An hour and a half is enough for the last of them on what has been started by then.
        settle_s=5400.0,
        supply=SupplySetup(start_s=START),
    )
    staged, policy = stage(setup), make(play[0])
    fleet, world = request_world(load, policy, setup, staged, 0)
    run_policy(world, policy, staged.scene)
    outcomes = fleet.ledger.frozen()
    ttft, _ = latencies(load, outcomes)
    drained = np.nan_to_num(ttft, nan=math.inf)
    replicas = request_result(world, fleet, load, policy, 0).mean_replicas
    late, soon = (float(np.percentile(one, 99, method="lower")) for one in (drained, ttft[outcomes.finish <= LASTS]))
    return late, soon, replicas


def play_lines(play: tuple[str, bool]) -> list[Line]:
    """P99 TTFT of all shapes in both readings, and the mean replicas."""
    found = []
    for shape, (low, high) in PUBLISHED.items():
        upto = None if low == high else high
        for how, value in zip(READINGS, played(play, shape), strict=False):
            found.append(Line(names(play), f"{shape} P99 TTFT, s, {how}", low, value, TARGET, upto))
    mean = fmean(played(play, shape)[2] for shape in PUBLISHED)
    return [*found, Line(names(play), "replicas, mean", REPLICAS[0], mean, TARGET, REPLICAS[1])]


def lines() -> list[Line]:
    """All plays."""
    return [line for play in PLAYS for line in play_lines(play)]


def ordering(play: tuple[str, bool], how: str) -> list[str]:
    """The shapes by simulated P99 TTFT in one reading, largest first."""
    return sorted(PUBLISHED, key=lambda shape: -played(play, shape)[READINGS.index(how)])
