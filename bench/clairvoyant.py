"""What knowing the load would be worth: a policy that is told it, in the same world as ours.

    python bench/clairvoyant.py [--seeds 2] [--cases conv,code]

The oracle of the scoreboard is a bound: replicas appear when needed, without starts. This one lives in our policy's
world: same router, same start-ups, whole replicas. It plans

    N(t) = the most of ceil(c x engines' worth of load within +- 60 s) over the next 150 s,

begins with what it needs, and c is what its user dials. No policy that has to see load before it acts is expected
below its curve by more than chance; how far ours lies above is what not knowing costs.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scoreboard import CASES, MEASURE, Case

from autoscaler.model import Decision, RoleDecision
from autoscaler.policies.registry import OWN, make
from autoscaler.policies.role_steps import DIRECT
from autoscaler.simulator.need import Sums
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.setup import Layout, Setup
from autoscaler.simulator.simulate import simulate
from autoscaler.velocity import Mix, colocated_share

if TYPE_CHECKING:
    from autoscaler.model import Observation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.result import Result

STEP_S, AROUND_S, AHEAD_S = 15.0, 60.0, 150.0
DIALS = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.5, 5.0)
"""c: replicas over what the load fills when engines are as full as the ITL target lets them be."""


@dataclass(frozen=True, slots=True)
class Knowing:
    """Plans `counts` (by 15 s), whatever it is shown."""

    counts: tuple[int, ...]
    start_at: float
    name: str = "knowing"
    interval_s: float = STEP_S
    follow: Follow = DIRECT

    def start(self, scene: Scene) -> None:
        """Nothing is remembered."""

    def decide(self, seen: Observation, memory: None, scene: Scene) -> tuple[Decision, None]:  # noqa: ARG002 - the protocol's
        """The count of now."""
        index = min(max(round((seen.at - self.start_at) / STEP_S), 0), len(self.counts) - 1)
        return Decision(seen.at, tuple(RoleDecision(rule.key, self.counts[index]) for rule in scene.roles)), None


def worth(load: Workload, setup: Setup) -> np.ndarray:
    """Engines' worth of load around each moment: prompt and output rates over what one engine can do of them."""
    rule = stage(setup).scene.roles[0]
    moments = np.arange(0.0, load.duration, STEP_S)
    sums = Sums.of(load, 0.0)
    begin, end = np.maximum(moments - AROUND_S, 0.0), np.minimum(moments + AROUND_S, load.duration)
    _, prompts, outputs = sums.within(begin, end)
    prompt, output = float(load.prompt.mean()), float(load.output.mean())
    per_prompt, per_output = colocated_share(rule.engine, Mix(prompt, output, prompt + output / 2), rule.target.itl_s)
    return np.asarray((prompts * per_prompt + outputs * per_output) / np.maximum(end - begin, 1.0))


def counts(worth_of: np.ndarray, dial: float) -> tuple[int, ...]:
    """Replicas by 15 s: enough for all that comes while one starts."""
    need = np.maximum(np.ceil(worth_of * dial - 1e-9), 1).astype(int)
    ahead = int(AHEAD_S // STEP_S) + 1
    return tuple(int(need[index : index + ahead].max()) for index in range(len(need)))


def table(case: Case, seeds: int) -> None:
    """Ours, and the curve of who knows the load."""
    load = case.spec(MEASURE, quick=True).load(0)
    print(
        f"\n{case.name}: {load.name}, {case.quick}, mean of {seeds} seeds\n{'policy':<16}{'c':>6}{'SLO':>9}{'GPU-h':>9}"
    )
    ours = [simulate(load, make(OWN, {}), case.setup, seed=seed) for seed in range(seeds)]
    _row(OWN, "", ours)
    load_worth = worth(load, case.setup)
    for dial in DIALS:
        planned = counts(load_worth, dial)
        setup = Setup(case.profile, layout=case.layout, initial=planned[0])
        policy = Knowing(planned, setup.start_at)
        _row("knows the load", f"{dial:.2f}", [simulate(load, policy, setup, seed=seed) for seed in range(seeds)])


def _row(name: str, dial: str, results: list[Result]) -> None:
    share = statistics.fmean(one.slo_attainment for one in results)
    cost = statistics.fmean(one.gpu_hours for one in results)
    print(f"{name:<16}{dial:>6}{share:>9.1%}{cost:>9.2f}", flush=True)


def main() -> None:
    """Print a table for each case."""
    able = {one.name: one for one in CASES if one.quick and one.layout is Layout.COLOCATED}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cases", default=",".join(able), help="names with commas: " + ", ".join(able))
    given = parser.parse_args()
    if unknown := [name for name in given.cases.split(",") if name not in able]:
        parser.error(f"no case {', '.join(unknown)}; there are: {', '.join(able)}")
    for name in given.cases.split(","):
        table(able[name], given.seeds)


if __name__ == "__main__":
    main()
