"""Taking a problem apart: its bound never lies above the best plan, its guide keeps the rules."""

import random

import pytest

from optimizer import (
    Demand,
    Disruption,
    Gang,
    Limits,
    Offer,
    Pool,
    Problem,
    Quota,
    Replicas,
    Role,
    Rules,
    ServiceClass,
    Source,
    Tier,
    Variant,
    Wave,
    check,
)
from optimizer.algebra import build
from optimizer.decompose import decomposed
from optimizer.greedy import greedy
from optimizer.ladder import ladder
from optimizer.point import breaches, complete
from optimizer.solve import Solved, solve

POINTS = (0.0, 45.0, 115.0, 300.0, 900.0)


def mixed(seed: int) -> Problem:
    """Pools with replicas that run, start and hold sources, on every kind of supply, under every kind of rule."""
    rng = random.Random(f"mixed {seed}")  # noqa: S311 - test problems, not secrets
    sources = (
        Source("a", Tier.START, "A", rng.randint(12, 14), 115.0, 1.0, rng.choice([0.0, 0.05]), "d0"),
        Source("b", Tier.START, "B", rng.randint(4, 6), rng.choice([0.0, 45.0]), 1.6, 0.0, "d1", 4),
        Source("w", Tier.WAKE, "A", rng.randint(0, 3), 13.0, 1.2, 0.01, "d0"),
    )
    gangs = (
        Gang("low", "A", 4, 0, 45.0, rng.choice([60.0, 1800.0]), held=rng.random() < 0.2, group="train"),
        Gang("high", "A", 2, 1, 45.0, 600.0, group="train"),
    )
    offers = (
        Offer("n", "B", 4, 7.0, 300.0, 600.0, 2, "d1", rng.choice([0, 0, 1]), rng.choice([0.0, 400.0])),
        Offer("m", "A", 2, 2.4, 115.0, rng.choice([0.0, 3600.0]), None, "d0"),
    )
    rules = Rules(
        budget_per_hour=rng.choice([None, 25.0]),
        max_gpus_preempted=rng.choice([None, 4]),
        disruptions=rng.choice([(), (Disruption("train", 1),)]),
        quotas=rng.choice([(), (Quota("q", 9, "A", ("p0",)),)]),
        cross_share=rng.choice([None, None, 0.3]),
        churn_price=rng.choice([0.001, 0.05]),
    )
    pools = tuple(_pool(rng, f"p{n}") for n in range(rng.randint(2, 3)))
    return Problem(pools, sources, gangs, offers, rules=rules, points_s=POINTS, horizon_s=rng.choice([1200.0, 3600.0]))


def _pool(rng: random.Random, key: str) -> Pool:
    roles = []
    for name in rng.choice([("",), ("",), ("prefill", "decode")]):
        variants = []
        for kind in rng.choice(["A", "B", "AB"]):
            groups = [Replicas(rng.randint(0, 2), 0.0, f"d{rng.randint(0, 1)}", release_price=rng.choice([0.0, 0.2]))]
            groups.append(Replicas(rng.randint(0, 1), rng.choice([45.0, 115.0, 900.0])))
            if kind == "A":
                groups.append(Replicas(rng.randint(0, 1), source="a", drain_s=60.0))
            waves = rng.choice([(Wave(None, 0.0),), (Wave(1, 20.0), Wave(None, 60.0))])
            gpus, capacity = rng.choice([1, 2]), rng.choice([8.0, 10.0, 20.0])
            variants.append(Variant(kind, kind, gpus, capacity, 1.0, tuple(groups), waves))
        roles.append(Role(name, tuple(variants), rng.choice([0, 1]), rng.choice([4, 9])))
    demand = tuple(Demand(at_s, rng.uniform(0, 50), rng.choice([0.0, 5.0])) for at_s in POINTS)
    classes = (ServiceClass("gold", 0.5, rng.choice([1.0, 9.0])), ServiceClass("rest", 0.5, 0.3))
    return Pool(key, demand, tuple(roles), classes, 0.05 * (len(roles) > 1), burst_price=rng.choice([0.0, 0.1]))


@pytest.mark.parametrize("chunk", range(3))
def test_no_plan_costs_less_than_the_bound(chunk: int) -> None:
    near = compared = 0
    for seed in range(chunk * 25, chunk * 25 + 25):
        problem = mixed(seed)
        assert check(problem) == ()
        model = build(ladder(problem))
        quick = greedy(model.ladder)
        outcome = solve(model.program, Limits(20.0, 1e-4))
        assert isinstance(outcome, Solved)
        found = decomposed(model, quick, Limits(5.0, 1e-3))
        if found is None:
            continue
        compared += 1
        assert found.bound <= outcome.objective * (1 + 1e-9) + 1e-6, seed
        near += found.bound >= 0.9 * outcome.objective
        if found.guide is not None:
            values = complete(model, *found.guide)
            assert not [row for row in breaches(model.program, values) if row.startswith("stock[")], seed
    assert compared > 20
    assert near > 3  # it is a bound worth having
