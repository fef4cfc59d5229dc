"""The tables of `bench/optimizer.py`."""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from optimizer_inferno import compare

from optimizer import (
    Demand,
    Domain,
    Effort,
    Gang,
    Limits,
    Offer,
    Plan,
    Pool,
    Problem,
    Replicas,
    Role,
    Rules,
    ServiceClass,
    Source,
    Tier,
    Variant,
    plan,
)
from optimizer.algebra import build
from optimizer.greedy import greedy
from optimizer.ladder import ladder
from optimizer.model import minimum_price
from optimizer.point import complete

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "data" / "hw_profiles" / "inferno_wva"
POINTS = (0.0, 13.0, 115.0, 160.0, 415.0, 900.0)
PRICE = {"H100": 4.0, "A100": 2.2, "L40S": 1.0}
SPEED = {"H100": 10.0, "A100": 5.5, "L40S": 2.2}


def fleet(pools: int, *, domains: int = 8, pairs: float = 0.0, seed: int = 0, fleets: int = 1) -> Problem:
    """Pools that can each run on three kinds of GPU, all of them scarce, in so many network domains.

    `pairs` of the pools have prefill and decode roles, which should meet within a domain. `fleets` are separate sets of
    GPUs, each for its share of the pools.
    """
    rng = random.Random(f"{pools}/{seed}")  # noqa: S311 - a made-up fleet, no secrets
    sources, gangs, offers = [], [], []
    for fleet_number in range(fleets):
        mine = pools // fleets
        for kind, price in PRICE.items():
            name = f"{kind}/{fleet_number}"
            for d in range(domains):
                stock, domain = rng.randint(0, max(1, 4 * mine // domains)), f"d{d}"
                sources.append(Source(f"free/{name}/{d}", Tier.START, name, stock, 115.0, price, 0.02 * price, domain))
                lost_s = rng.uniform(0, 3600)
                gangs.append(
                    Gang(f"gang/{name}/{d}", name, 8, rng.randint(0, 2), 45.0, lost_s, 300.0, price, domain=domain)
                )
                offers.append(Offer(f"node/{name}/{d}", name, 8, 8.8 * price, 300.0, 600.0, 2, domain))
    made = tuple(_pool(rng, f"p{n}", f"/{n % fleets}", domains, rng.random() < pairs) for n in range(pools))
    places = tuple(Domain(f"d{d}") for d in range(domains))
    return Problem(made, tuple(sources), tuple(gangs), tuple(offers), places, Rules(cross_share=0.05), points_s=POINTS)


def _pool(rng: random.Random, key: str, fleet_name: str, domains: int, paired: bool) -> Pool:
    base, growth = rng.uniform(10, 60), rng.uniform(0.6, 1.8)
    steps = len(POINTS) - 1
    demand = tuple(
        Demand(at_s, base * (1 + (growth - 1) * i / steps) * rng.uniform(0.95, 1.05)) for i, at_s in enumerate(POINTS)
    )
    roles = []
    for role, factor in (("prefill", 2.0), ("decode", 1.0)) if paired else (("", 1.0),):
        variants = []
        for kind, speed in SPEED.items():
            capacity = speed * factor * rng.uniform(0.8, 1.2)
            places = [rng.randrange(domains) for _ in range(int(base / capacity / 3))]
            groups = tuple(
                Replicas(places.count(d), domain=f"d{d}", release_price=rng.uniform(0, 0.1))
                for d in sorted(set(places))
            )
            variants.append(Variant(kind, kind + fleet_name, rng.choice([1, 1, 2]), capacity, PRICE[kind], groups))
        roles.append(Role(role, tuple(variants), 1, 100))
    classes = (ServiceClass("gold", 0.3, rng.uniform(50, 100)), ServiceClass("rest", 0.7, rng.uniform(10, 30)))
    return Pool(key, demand, tuple(roles), classes, 0.2 * paired)


def gpus(problem: Problem) -> int:
    """GPUs held, free and preemptible."""
    held = sum(g.count * v.gpus for p in problem.pools for r in p.roles for v in r.variants for g in v.replicas)
    return held + sum(s.gpus or 0 for s in problem.sources) + sum(gang.gpus for gang in problem.gangs)


def _greedy(problem: Problem) -> tuple[float, float]:
    steps = ladder(problem)
    began = time.perf_counter()
    found = greedy(steps)
    took = time.perf_counter() - began
    model = build(steps)
    return took, model.program.worth(complete(model, *found))


def _speed(title: str, problems: list[Problem], limit_s: float, gap: float) -> None:
    took, busy, gaps, greedy_took, greedy_gaps, states = [], [], [], [], [], set()
    for problem in problems:
        began, worked = time.perf_counter(), time.process_time()
        made: Plan = plan(problem, Effort(Limits(limit_s, gap), alternative=False))
        took.append(time.perf_counter() - began)
        busy.append(time.process_time() - worked)
        gaps.append(1.0 if made.gap is None else made.gap)
        states.add(made.status.value)
        quick, cost = _greedy(problem)
        greedy_took.append(quick)
        bound = made.objective * (1 - gaps[-1])
        greedy_gaps.append((cost - bound) / cost if cost else 0.0)
    p95 = sorted(took)[min(len(took) - 1, int(0.95 * len(took)))]
    print(
        f"{title:38} {gpus(problems[0]):6} {statistics.median(took):8.2f} {p95:8.2f} {max(busy):8.2f} {max(gaps):8.2%} "
        f"{1000 * statistics.median(greedy_took):9.0f} {max(greedy_gaps):8.1%}  {', '.join(sorted(states))}"
    )


def speed(quick: bool) -> None:
    """How long plans take, and how that grows."""
    print("\nTime on one thread (plan: check, model, greedy, decomposition, HiGHS; all GPUs contended unless said)")
    head = ("GPUs", "p50 s", "p95 s", "CPU s", "gap", "greedy ms", "its gap")
    widths = (6, 8, 8, 8, 8, 9, 8)
    print(
        f"{'problem':38} " + " ".join(f"{one:>{width}}" for one, width in zip(head, widths, strict=True)) + "  status"
    )
    times = 3 if quick else 8
    for pools in (5, 10, 20, 50):
        _speed(f"{pools} pools x 3 x 8 x 6", [fleet(pools, seed=n) for n in range(times)], 1.0, 0.005)
    _speed("20 pools, half of them pairs", [fleet(20, seed=n, pairs=0.5) for n in range(2)], 1.0, 0.005)
    _speed("200 pools", [fleet(200, seed=n) for n in range(2)], 5.0, 0.01)
    _speed("200 pools in 10 fleets", [fleet(200, fleets=10, domains=4)], 5.0, 0.01)
    if not quick:
        _speed("1000 pools", [fleet(1000)], 15.0, 0.02)
        _speed("1000 pools in 50 fleets", [fleet(1000, fleets=50, domains=2)], 15.0, 0.02)


def load(limit_s: float = 1.0) -> None:
    """The same problems alone and beside two busy processes: the plans have to be alike to the byte."""
    print("\nAlone and beside two busy processes, limit 1 s")
    print(f"{'problem':38} {'alone s':>8} {'beside s':>8}  plans")
    rows = [(f"{pools} pools", fleet(pools, seed=seed)) for pools in (5, 10, 20) for seed in (0, 1)]
    rows.append(("4 pools of pairs", fleet(4, pairs=1.0)))
    alone = [_timed(problem, limit_s) for _, problem in rows]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        beside = [_timed(problem, limit_s) for _, problem in rows]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    for (title, _), (first_s, first), (second_s, second) in zip(rows, alone, beside, strict=True):
        clocked = any("by the clock" in made.reasons[0] for made in (first, second))
        verdict = "alike" if repr(first) == repr(second) else "the clock ended one" if clocked else "DIFFERENT"
        print(f"{title:38} {first_s:8.2f} {second_s:8.2f}  {verdict}")


def _timed(problem: Problem, limit_s: float) -> tuple[float, Plan]:
    began = time.perf_counter()
    made = plan(problem, Effort(Limits(limit_s, 0.005), alternative=False))
    return time.perf_counter() - began, made


def reference() -> None:
    """Ours against the reference solver's own solutions."""
    if not REFERENCE.is_dir():
        print(f"\nno reference problems at {REFERENCE}")
        return
    print("\nReference problems of Inferno (WVA): cost per hour, and the worst latency over its target")
    print(f"{'problem':8} {'servers':>7} {'theirs':>10} {'worst':>6} {'ours':>10} {'worst':>6} {'cheaper':>8}  status")
    for name in ("small", "large"):
        found = compare(REFERENCE / name, 20.0)
        saved = 1 - found.ours / found.theirs
        print(
            f"{name:8} {found.servers:7} {found.theirs:10.1f} {found.theirs_worst:6.2f} {found.ours:10.1f} "
            f"{found.ours_worst:6.2f} {saved:8.2%}  {found.status}, gap {found.gap or 0.0:.2%}; "
            f"our TTFT is at least {1 / found.ttft_low:.3f} of theirs, ITL within {found.itl_off:.2%}"
        )


def exact(count: int) -> None:
    """Tiny random problems against the test suite's oracle, which tries everything."""
    sys.path.append(str(ROOT / "tests" / "optimizer"))
    from supply_oracle import draw, oracle  # noqa: PLC0415 - lies beside the tests

    wrong = 0
    for seed in range(count):
        problem = draw(seed)
        made = plan(problem, Effort(Limits(30.0, 0.0), alternative=False))
        best = oracle(problem, minimum_price(ladder(problem)))
        wrong += abs(made.objective - best) > 1e-6 * max(1.0, abs(best))
    print(f"\nExact: {count - wrong} of {count} random tiny problems solved to the oracle's cost")


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, without the largest")
    quick = parser.parse_args().quick
    exact(200 if quick else 3000)
    reference()
    speed(quick)
    load()
    print(f"\nlargest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
