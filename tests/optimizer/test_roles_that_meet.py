"""Pools whose roles have to meet within domains: greedy gives back what is of no use, and pools are planned anew."""

import random

import pytest

from optimizer import (
    Demand,
    Gang,
    Limits,
    Offer,
    Pool,
    Problem,
    Replicas,
    Role,
    Rules,
    ServiceClass,
    Source,
    Tier,
    Variant,
)
from optimizer.algebra import build
from optimizer.greedy import ORDERS, greedy
from optimizer.greedy_state import State
from optimizer.ladder import ladder
from optimizer.point import breaches, complete
from optimizer.polish import polished

DOMAINS = ("d0", "d1", "d2")


def pairs(seed: int) -> Problem:
    """Three pools of prefill and decode, one of a single role, on two kinds of GPU in three domains."""
    rng = random.Random(f"pairs {seed}")  # noqa: S311 - test problems, not secrets
    sources = tuple(
        Source(f"{k}/{d}", Tier.START, k, rng.randint(0, 5), 115.0, 1.0 + (k == "B"), domain=d)
        for k in "AB"
        for d in DOMAINS
    )
    gangs = tuple(Gang(f"g/{d}", "A", 4, 0, 45.0, rng.choice([60.0, 1800.0]), domain=d) for d in DOMAINS)
    offers = tuple(Offer(f"n/{d}", "B", 4, 8.8, 300.0, 600.0, 1, d) for d in DOMAINS)

    def role(name: str) -> Role:
        places = rng.choices(DOMAINS, k=2)
        groups = tuple(Replicas(rng.randint(0, 1), domain=d, release_price=0.02) for d in sorted(set(places)))
        return Role(
            name, tuple(Variant(k, k, 1, c * rng.uniform(0.8, 1.2), 1.0, groups) for k, c in (("A", 5), ("B", 9)))
        )

    def pool(n: int) -> Pool:
        roles = (role("prefill"), role("decode")) if n else (role(""),)
        demand = tuple(Demand(at_s, rng.uniform(5, 30)) for at_s in (0.0, 115.0, 900.0))
        return Pool(f"p{n}", demand, roles, (ServiceClass("", 1.0, rng.uniform(2, 20)),), 0.2 * bool(n))

    rules = Rules(cross_share=rng.choice([0.0, 0.05, 0.5]))
    return Problem(tuple(pool(n) for n in range(4)), sources, gangs, offers, rules=rules)


@pytest.mark.parametrize("seed", range(4))
def test_pools_planned_anew_keep_the_rules_and_are_no_dearer(seed: int) -> None:
    model = build(ladder(pairs(seed)))
    points = [complete(model, *greedy(model.ladder, how=how)) for how in ORDERS]
    assert not [name for point in points for name in breaches(model.program, point)]
    first = min(points, key=model.program.worth)
    finer = polished(model, first, 0.0, Limits(10.0, 0.001))
    assert breaches(model.program, finer) == ()
    assert model.program.worth(finer) <= model.program.worth(first) + 1e-6
    assert all(value == round(value) for value, whole in zip(finer, model.program.whole, strict=True) if whole)


def test_planning_anew_finds_what_one_domain_after_the_other_misses() -> None:
    better = 0
    for seed in range(4):
        model = build(ladder(pairs(seed)))
        first = min((complete(model, *greedy(model.ladder, how=how)) for how in ORDERS), key=model.program.worth)
        finer = polished(model, first, 0.0, Limits(10.0, 0.001))
        better += model.program.worth(finer) < 0.99 * model.program.worth(first)
    assert better >= 2


def test_nothing_is_planned_anew_without_time_or_without_pairs() -> None:
    model = build(ladder(pairs(1)))
    point = complete(model, *greedy(model.ladder))
    assert polished(model, point, 0.0, Limits(0.0, 0.001)) == point


def test_what_is_given_back_leaves_no_trace() -> None:
    steps = ladder(pairs(2))
    state = State(steps)
    before = (state.result(), list(state.spent), list(state.preempted), {key: list(v) for key, v in state.used.items()})
    taken = sum(state.take(w, way.first, len(steps.points), 1, float("inf")) for w, way in enumerate(steps.ways))
    assert taken > 10
    state.give_back(0)
    after = (state.result(), state.spent, state.preempted, state.used)
    assert after[0] == before[0]
    assert after[1] == pytest.approx(before[1])
    assert after[2:] == before[2:]
