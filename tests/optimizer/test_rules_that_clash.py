"""What is under way already, against rules that forbid it: what gives way, in which order, and what it is called."""

from dataclasses import replace

import pytest

from optimizer import (
    Demand,
    Effort,
    Limits,
    Offer,
    Pool,
    Problem,
    Quota,
    Ratio,
    Replicas,
    Role,
    Rule,
    Rules,
    ServiceClass,
    Source,
    Status,
    Tier,
    Variant,
    plan,
    simple_pool,
)
from optimizer.algebra import build
from optimizer.greedy import greedy
from optimizer.ladder import ladder
from optimizer.point import breaches, complete

EXACT = Effort(Limits(20.0, 0.0), alternative=False)


def test_what_a_quota_forbids_is_not_awaited() -> None:
    # Two replicas land in 60 s and may hold no GPU. They are given up: 10 units lack for an hour at 5, and letting two
    # go costs twice churn 0.001.
    variant = Variant("", "A", 1, 10.0, 1.0, (Replicas(2, 60.0, source="s"),))
    pool = simple_pool("p", variant, (Demand(0, 10),), shortage_price=5.0)
    rules = Rules(quotas=(Quota("none", 0),))
    made = plan(Problem((pool,), (Source("s", Tier.START, "A", 4, 0.0),), rules=rules), EXACT)
    assert made.objective == pytest.approx(50.002)
    assert made.status is Status.FEASIBLE
    role = made.pools["p"].roles[""]
    assert (role.awaited, role.given_up, role.target) == (0, 2, 0)
    assert "need not be awaited" in made.reasons[0]


def _pair(rules: Rules) -> Problem:
    """Two prefill replicas land at once and no decode can be had, but each may only come with one."""
    prefill = Role("prefill", (Variant("", "A", 1, 10.0, 1.0, (Replicas(2, 60.0),)),))
    decode = Role("decode", (Variant("", "B", 1, 10.0),))
    pool = Pool(
        "p",
        (Demand(0, 10),),
        (prefill, decode),
        (ServiceClass("", 1.0, 5.0),),
        ratios=(Ratio("prefill", "decode", 1.0, 1.0),),
    )
    return Problem((pool,), tuple(Source(k, Tier.START, k, 0, 0.0) for k in "AB"), rules=rules)


def test_a_ratio_gives_way_to_what_is_starting_and_is_named() -> None:
    made = plan(_pair(Rules()), EXACT)
    assert made.relaxed == (str(Rule.RATIO),)
    assert made.status is Status.FEASIBLE
    assert made.pools["p"].roles["prefill"].awaited == 2


def test_where_no_rule_may_give_way_what_is_starting_does() -> None:
    made = plan(_pair(Rules(relax=())), EXACT)
    assert made.relaxed == ()
    assert made.pools["p"].roles["prefill"].given_up == 2


def test_nodes_that_are_paid_for_are_held_whatever_the_budget_says() -> None:
    # A node at 9/h is paid for the next 500 s, against a budget of 1/h: it stays until then and nothing else is held
    # beside it. Points 0, 100 and 500 s: 9 x 500/3600 = 1.25 in all; 10 units at 0.05 lack, on the node they need not:
    # one replica on it from 0 to 500 s (churn 0.001), then 10 x 0.05 x 3100/3600 = 0.430556 of shortage.
    pool = simple_pool("p", Variant("", "A", 1, 10.0), (Demand(0, 10),), shortage_price=0.05)
    offer = Offer("o", "A", 8, 9.0, 100.0, held=1, paid_s=500.0, quota=1)
    spare = Source("s", Tier.START, "A", 4, 0.0, 0.5)
    problem = Problem((pool,), (spare,), offers=(offer,), rules=Rules(budget_per_hour=0.2))
    made = plan(problem, EXACT)
    assert made.objective == pytest.approx(1.25 + 0.001 + 0.430556, abs=1e-6)
    assert made.relaxed == ("budget",)
    assert made.status is Status.OPTIMAL
    assert any("paid for already" in reason for reason in made.reasons)
    strict = plan(replace(problem, rules=Rules(budget_per_hour=0.2, relax=())), EXACT)
    assert strict.status is Status.INFEASIBLE
    assert strict.objective == pytest.approx(made.objective)


def test_greedy_awaits_what_is_starting_even_where_nobody_wants_it() -> None:
    # It lies on a node that is held: without demand opening the node again is worth nothing, but it has to be awaited.
    variant = Variant("", "A", 1, 10.0, 1.0, (Replicas(1, 60.0, source="o"),))
    pool = simple_pool("p", variant, (Demand(0, 0),), shortage_price=5.0)
    offer = Offer("o", "A", 8, 9.0, 100.0, held=1)
    model = build(ladder(Problem((pool,), offers=(offer,))))
    assert breaches(model.program, complete(model, *greedy(model.ladder))) == ()
    assert plan(model.ladder.problem, EXACT).status is Status.OPTIMAL


def test_a_point_outside_its_columns_bounds_is_told() -> None:
    pool = simple_pool("p", Variant("", "A", 1, 10.0, 1.0, (Replicas(1, 60.0),)), (Demand(0, 10),), shortage_price=5.0)
    model = build(ladder(Problem((pool,), (Source("s", Tier.START, "A", 1, 0.0),))))
    none = [0.0] * len(model.program.names)
    assert model.program.names[model.serving[0][0]] in breaches(model.program, none)
