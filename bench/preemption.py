"""What it is worth to take training's GPUs for bursts shorter than a node takes to come.

    python bench/preemption.py [--seeds 3] [--layout colocated] [--start fast]

An hour and a half of Poisson arrivals at 20 requests/s with three bursts to 60 requests/s, of 240 to 300 s each; a new
node takes 300 s (median) to 720 s (90th percentile). Prepared GPUs are enough for the base load alone. Twelve gangs of
4 to 16 GPUs train, of three priorities, saving their work every 15 minutes to two hours; which, is drawn by seed. Our
policy runs with

    unlimited           free GPUs for all it wants: what the others are held against
    lowest-least-lost   our choice of gangs: lowest priority first, of those the least lost work per GPU, near partners
    least-lost          the same whatever their priority: what keeping to priorities costs
    priority            lowest priority first, then the youngest, as kube-scheduler and Kueue choose
    random              by lot
    with nodes          our choice, and nodes to buy
    nodes only          no training to take

beside it an HPA on queue length behind a scheduler that preempts for every pending pod, and two that are told of each
burst when it begins, and its size: on free GPUs (`told, unlimited`) and on training's with our choice (`told`), all
prepared GPUs serving from the start. What lies between these two is lost to the time training takes to leave, and is
lost to anybody who does not know of bursts before they come. Targets: SLO attainment within a point of unlimited; at
most half of the training GPU-hours that either other choice loses; GPUs back within one minimum run time (300 s) of the
load's end; at most 5 % of KV across network domains.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.model import Decision, RoleDecision, Take, Tier
from autoscaler.policies.registry import make
from autoscaler.policies.role_steps import OBEYED
from autoscaler.simulator.need import needed_replicas
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.scenes import stage
from autoscaler.simulator.setup import Layout, Setup, SupplySetup, TrainingGang, Victims
from autoscaler.simulator.simulate import simulate

if TYPE_CHECKING:
    from autoscaler.model import Observation, Role
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.simulator.result import Result

LASTS = 5400.0
BURSTS = ((900.0, 240.0), (2500.0, 300.0), (4100.0, 270.0))
"""(begin, length) of each, s."""
RAMP_S = 60.0
"""A burst comes and goes within a minute."""
BASE, PEAK = 20.0, 60.0
GANGS, NODES = 12, 8
PREPARED = {Layout.COLOCATED: 10, Layout.DISAGGREGATED: 14}
"""GPUs: what the base load takes, and a few."""
TOLD_BIN_S = 15.0
MINIMUM_RUN_S, MOST_LOST, MOST_ACROSS = 300.0, 0.5, 0.05
STARTS = {
    "usual": SupplySetup(),
    "fast": SupplySetup(start_s=(25.0, 45.0), eviction_s=(5.0, 10.0)),
}
"""Start-ups: the sum of the learned steps, after 45 s (150 s) that training takes to leave; or with a ready launcher,
weights by P2P and compiled artefacts, and training that is killed where it stands."""


def gangs(seed: int) -> tuple[TrainingGang, ...]:
    """Twelve gangs: GPUs, priority, seconds between checkpoints, 120 s to start again, and how long they have run."""
    random = np.random.default_rng([seed, 1])
    made = zip(
        random.choice([4, 8, 8, 16], GANGS).tolist(),
        random.integers(0, 3, GANGS).tolist(),
        random.choice([900.0, 1800.0, 3600.0, 7200.0], GANGS).tolist(),
        random.uniform(0.0, 7200.0, GANGS).tolist(),
        strict=True,
    )
    return tuple(TrainingGang(gpus, priority, every, 120.0, ran) for gpus, priority, every, ran in made)


def rate(at: float) -> float:
    """Requests/s at a time."""
    share = 0.0
    for begin, length in BURSTS:
        share = max(share, min(1.0, (at - begin) / RAMP_S, (begin + length - at) / RAMP_S))
    return BASE + (PEAK - BASE) * share


def load(seed: int) -> Workload:
    """Arrivals at `rate`, sizes log-normal with the Azure conversation trace's means (1,155 in, 211 out)."""
    random = np.random.default_rng(seed)
    drawn = np.sort(random.uniform(0.0, LASTS, int(PEAK * LASTS)))
    keep = random.uniform(0.0, PEAK, len(drawn)) < np.array([rate(at) for at in drawn.tolist()])
    arrival = drawn[keep]
    prompt = np.clip(random.lognormal(np.log(1155) - 0.4, 0.9, len(arrival)), 1, 8000).astype(np.int32)
    output = np.clip(random.lognormal(np.log(211) - 0.25, 0.7, len(arrival)), 1, 1500).astype(np.int32)
    return Workload(f"bursts {seed}", arrival, prompt, output, horizon_s=LASTS)


TOLD = "told"
TOLD_MORE = 1.5
"""Replicas that clear the queue of a late start as well, over those that the burst needs (a half more was enough: twice
as many gained a point, and lost twice as much training)."""


@dataclass(frozen=True, slots=True)
class Told:
    """Knows of each burst when it begins; `calm`, `burst`: replicas by role."""

    calm: dict[Role, int]
    burst: dict[Role, int]
    start_at: float
    name: str = TOLD
    interval_s: float = 15.0
    follow: Follow = OBEYED

    @classmethod
    def of(cls, work: Workload, setup: Setup) -> Told:
        """Sized by the load as it will be; the prepared GPUs are shared as the burst's need is."""
        need = {role: int(counts.max()) for role, counts in needed_replicas(work, stage(setup), TOLD_BIN_S).items()}
        each = PREPARED[setup.layout] / sum(need.values())
        calm = {role: max(1, int(count * each)) for role, count in need.items()}
        return cls(calm, {role: math.ceil(TOLD_MORE * count) for role, count in need.items()}, setup.start_at)

    def start(self, scene: Scene) -> None:
        """Nothing is remembered."""

    def decide(self, seen: Observation, memory: None, scene: Scene) -> tuple[Decision, None]:  # noqa: ARG002 - the protocol's
        """The burst's replicas while it lasts, wherever GPUs are found."""
        at = seen.at - self.start_at
        counts = self.burst if any(begin <= at < begin + length for begin, length in BURSTS) else self.calm
        made = [
            RoleDecision(rule.key, counts[rule.key.role], takes=(Take(Tier.PREEMPT, counts[rule.key.role], 0.0),))
            for rule in scene.roles
        ]
        return Decision(seen.at, tuple(made)), None


@dataclass(frozen=True, slots=True)
class Way:
    """A way to find GPUs."""

    name: str
    supply: SupplySetup
    policy: str = "token-dynamics"


def ways(layout: Layout, plain: SupplySetup, seed: int) -> tuple[Way, ...]:
    """All of them; the first has GPUs without end."""
    few = replace(plain, gpus=PREPARED[layout])
    lent = replace(few, gangs=gangs(seed))
    chosen = [Way(rule.value, replace(lent, victims=rule)) for rule in Victims]
    scheduler = replace(lent, victims=Victims.PRIORITY, scheduler_preempts=True)
    return (
        Way("unlimited", plain),
        *chosen,
        Way("with nodes", replace(lent, nodes_to_buy=NODES)),
        Way("nodes only", replace(few, nodes_to_buy=NODES)),
        Way("HPA on queue, priority", scheduler, "hpa-queue"),
        Way("told, unlimited", plain, TOLD),
        Way("told", lent, TOLD),
    )


@dataclass(frozen=True, slots=True)
class Run:
    """A result; for each burst how long after its end training had all its GPUs back (infinite: not by the next)."""

    result: Result
    back_s: tuple[float, ...]


def run(way: Way, layout: Layout, seed: int) -> Run:
    """One way with one seed."""
    setup = Setup(layout=layout, supply=way.supply)
    lent: list[tuple[float, int]] = []

    def note(seen: Observation, _made: Decision) -> None:
        waits = seen.supply.lent if seen.supply is not None else ()
        lent.append((seen.at - setup.start_at, sum(one.gpus for one in waits)))

    work = load(seed)
    policy = Told.of(work, setup) if way.policy == TOLD else make(way.policy, {})
    result = simulate(work, policy, setup, seed=seed, record=note)
    ends = [begin + length for begin, length in BURSTS]
    limits = [begin for begin, _ in BURSTS[1:]] + [LASTS]
    back = []
    for end, limit in zip(ends, limits, strict=True):
        away = [at for at, gpus in lent if end <= at < limit and gpus]
        still = any(gpus for at, gpus in lent if limit - 2 * 15.0 <= at < limit)
        back.append(float("inf") if still else (max(away) - end if away else 0.0))
    return Run(result, tuple(back))


def print_table(layout: Layout, name: str, seeds: int) -> None:
    """One layout with one kind of start-up."""
    print(f"\n{layout}, {name} start-up, mean of {seeds} seeds")
    print(
        f"{'way':<24}{'SLO':>8}{'against':>9}{'GPU-h':>8}{'lost GPU-h':>12}{'evicted':>9}{'back, s':>9}"
        f"{'KV across':>11}{'pairs across':>14}"
    )
    drawn = [ways(layout, STARTS[name], seed) for seed in range(seeds)]
    table = {}
    for index, way in enumerate(drawn[0]):
        runs = [run(drawn[seed][index], layout, seed) for seed in range(seeds)]
        table[way.name] = row = summed(runs)
        print(row.text(way.name, table["unlimited"].slo), flush=True)
    print("\n".join(missed(table)))


@dataclass(frozen=True, slots=True)
class Summed:
    """Means over the seeds; `back_s` is the median over bursts with anything to give back."""

    slo: float
    gpu_hours: float
    lost: float
    evicted: float
    back_s: float
    kv: float | None
    pairs: float | None

    def text(self, name: str, free: float) -> str:
        """As a row of the table."""
        kv, pairs = ("-" if one is None else f"{one:.1%}" for one in (self.kv, self.pairs))
        return (
            f"{name:<24}{self.slo:>8.2%}{(self.slo - free) * 100:>+9.2f}{self.gpu_hours:>8.2f}{self.lost:>12.2f}"
            f"{self.evicted:>9.1f}{self.back_s:>9.0f}{kv:>11}{pairs:>14}"
        )


def summed(runs: list[Run]) -> Summed:
    """Over the seeds."""
    made = [one.result for one in runs]
    mean = statistics.fmean
    kv = [one.kv_across_share for one in made if one.kv_across_share is not None]
    pairs = [one.cross_domain_share for one in made if one.cross_domain_share is not None]
    back = [after for one in runs for after in one.back_s if after]
    return Summed(
        mean([one.slo_attainment for one in made]),
        mean([one.gpu_hours for one in made]),
        mean([one.lost_training_gpu_hours for one in made]),
        mean([float(one.evictions) for one in made]),
        statistics.median(back) if back else 0.0,
        mean(kv) if kv else None,
        mean(pairs) if pairs else None,
    )


def missed(table: dict[str, Summed]) -> list[str]:
    """The targets, and whether our way meets them."""
    ours, free = table["lowest-least-lost"], table["unlimited"]
    whole = table["with nodes"]
    late = table["told"].slo - table["told, unlimited"].slo
    said = (
        f"{ours.slo - free.slo:+.2%}; told of each burst as it begins {late:+.2%}, which is the price of the eviction"
    )
    found = [
        ("SLO attainment within a point of unlimited", ours.slo >= free.slo - 0.01, said),
        ("the same with nodes to buy", whole.slo >= free.slo - 0.01, f"{whole.slo - free.slo:+.2%}"),
    ]
    for other in ("priority", "random"):
        share = ours.lost / table[other].lost if table[other].lost else 0.0
        without = table["least-lost"].lost / table[other].lost if table[other].lost else 0.0
        said = f"{share:.0%}; whatever the priority {without:.0%}"
        found.append((f"lost training at most half of {other}'s", share <= MOST_LOST, said))
    found.append((f"GPUs back within {MINIMUM_RUN_S:.0f} s", ours.back_s <= MINIMUM_RUN_S, f"{ours.back_s:.0f} s"))
    if ours.kv is not None:
        found.append(("at most 5 % of KV across domains", ours.kv <= MOST_ACROSS, f"{ours.kv:.1%}"))
    return [f"{'met' if met else 'MISSED':<7} {what}: {said}" for what, met, said in found]


def main() -> None:
    """Print a table for each layout and kind of start-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--layout", choices=list(Layout), action="append")
    parser.add_argument("--start", choices=list(STARTS), action="append")
    given = parser.parse_args()
    for layout in given.layout or Layout:
        for name in given.start or STARTS:
            print_table(Layout(layout), name, given.seeds)


if __name__ == "__main__":
    main()
