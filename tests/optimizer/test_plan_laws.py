"""Laws of planning on random small problems, against an oracle that tries every path of every replica count."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supply_oracle import draw, oracle

from optimizer import (
    Demand,
    Door,
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
    Status,
    Tier,
    Variant,
    check,
    plan,
    simple_pool,
)
from optimizer.algebra import build
from optimizer.alone import alone
from optimizer.alone_fit import crowded, too_many
from optimizer.greedy import greedy
from optimizer.ladder import frame, ladder
from optimizer.model import minimum_price
from optimizer.point import breaches, complete
from optimizer.solve import Solved, TimedOut, as_pulp, solve

EXACT = Effort(Limits(time_s=30.0, gap=0.0), alternative=False)


@pytest.mark.parametrize("chunk", range(5))
def test_the_plan_is_the_best_of_all_paths(chunk: int) -> None:
    several = 0
    for seed in range(chunk * 120, chunk * 120 + 120):
        problem = draw(seed)
        made = plan(problem, EXACT)
        best = oracle(problem, minimum_price(ladder(problem)))
        assert made.objective == pytest.approx(best, rel=1e-6, abs=1e-6), seed
        several += len(made.actions) > 1
    assert several > 20  # the plans compared do something


def fleet(seed: int, *, pools: int = 3) -> Problem:
    """Pools of several kinds, pairs and variants among them, with every kind of supply."""
    rng = random.Random(seed)  # noqa: S311 - test problems, not secrets
    domains = ["d0", "d1"]
    sources = tuple(
        Source(
            f"free/{k}/{d}", Tier.START, k, rng.randint(0, 4), 115.0, 1.0 + (k == "B"), 0.01, d, rng.choice([None, 4])
        )
        for k in "AB"
        for d in domains
    )
    gangs = tuple(
        Gang(f"gang{n}", "A", rng.choice([2, 4]), n % 2, 45.0, rng.choice([60.0, 1800.0]), domain=rng.choice(domains))
        for n in range(2)
    )
    offers = (Offer("node", "B", 4, 9.0, 300.0, 600.0, 2, rng.choice(domains)),)
    return Problem(
        tuple(_any_pool(rng, f"p{n}", domains) for n in range(pools)),
        sources,
        gangs,
        offers,
        rules=Rules(
            budget_per_hour=rng.choice([None, 12.0]),
            max_gpus_preempted=rng.choice([None, 4]),
            cross_share=rng.choice([None, 0.2]),
        ),
        points_s=(0.0, 45.0, 115.0, 300.0, 900.0),
    )


def _any_pool(rng: random.Random, key: str, domains: list[str]) -> Pool:
    names = rng.choice([("",), ("",), ("prefill", "decode")])
    roles = []
    for name in names:
        kinds = rng.choice([("A",), ("B",), ("A", "B")])
        variants = tuple(
            Variant(
                kind,
                kind,
                rng.choice([1, 2]),
                rng.choice([8.0, 10.0, 20.0]),
                1.0,
                (Replicas(rng.randint(0, 2), 0.0, rng.choice(domains), release_price=rng.choice([0.0, 0.1])),),
            )
            for kind in kinds
        )
        roles.append(Role(name, variants, rng.choice([0, 1]), rng.choice([3, 8])))
    demand = tuple(Demand(at_s, rng.uniform(0, 50)) for at_s in (0.0, 115.0, 900.0))
    return Pool(
        key, demand, tuple(roles), (ServiceClass("", 1.0, rng.choice([0.5, 5.0]) / 2),), 0.05 * (len(names) > 1)
    )


@pytest.mark.parametrize("chunk", range(3))
def test_greedy_keeps_every_rule_and_is_never_better(chunk: int) -> None:
    dearer = 0
    for seed in range(chunk * 20, chunk * 20 + 20):
        steps = ladder(fleet(seed))
        model = build(steps)
        quick = complete(model, *greedy(steps))
        assert breaches(model.program, quick) == (), seed
        outcome = solve(model.program, Limits(60.0, 0.0))
        assert isinstance(outcome, Solved)
        assert model.program.worth(quick) >= outcome.objective - 1e-6, seed
        dearer += model.program.worth(quick) > outcome.objective + 1e-6
    assert dearer > 0  # the comparison means something: greedy is not always right


def test_both_doors_to_the_solver_say_the_same() -> None:
    for seed in range(12):
        program = build(ladder(fleet(seed, pools=2))).program
        arrays = solve(program, Limits(20.0, 0.0))
        audited = solve(program, Limits(20.0, 0.0), door=Door.PULP)
        assert isinstance(arrays, Solved)
        assert isinstance(audited, Solved)
        assert arrays.objective == pytest.approx(audited.objective, abs=1e-6), seed
    assert len(as_pulp(program).variables()) == len(program.names)


def _ample(seed: int) -> Problem:
    """Simple pools whose supply is not limited."""
    rng = random.Random(seed)  # noqa: S311 - likewise
    points = sorted(rng.sample([0, 13, 60, 115, 300, 700], rng.randint(1, 4)))

    def one(key: str) -> Pool:
        worth = rng.choice([0.0, 0.05, 0.3])
        groups = [Replicas(rng.randint(0, 4), release_price=worth)]
        if rng.random() < 0.4:
            groups.append(Replicas(rng.randint(1, 2), lands_in_s=rng.choice([20.0, 115.0]), release_price=worth))
        minimum = rng.choice([0, 0, 1, 3])
        most = max(sum(group.count for group in groups), minimum) + rng.randint(0, 3)
        variant = Variant("", "A", rng.choice([1, 2]), rng.choice([10.0, 7.0]), 0.5, tuple(groups))
        demand = tuple(Demand(at_s, rng.choice([0.0, 5.0, 12.0, 29.0, 60.0])) for at_s in points)
        price = rng.choice([0.0, 0.05, 0.2, 1.0, 5.0])
        return simple_pool(key, variant, demand, shortage_price=price, minimum=minimum, maximum=most)

    sources = (
        Source(
            "s", Tier.START, "A", rng.choice([None, 40]), rng.choice([0.0, 60.0, 115.0]), 1.0, rng.choice([0.0, 0.1])
        ),
        Source("w", Tier.PREEMPT, "A", None, rng.choice([13.0, 300.0]), rng.choice([0.8, 1.5]), rng.choice([0.0, 0.5])),
    )
    return Problem((one("a"), one("b")), sources, horizon_s=1800.0)


def test_pools_planned_alone_are_planned_as_by_the_integer_program() -> None:
    compared = 0
    for seed in range(120):
        problem = _ample(seed)
        steps = frame(problem)
        groups, others = alone(problem, steps)
        if others or crowded(steps, groups) or any(too_many(problem, steps, group) for group in groups):
            continue
        outcome = solve(build(ladder(problem)).program, Limits(20.0, 0.0))
        assert isinstance(outcome, Solved)
        assert plan(problem, EXACT).objective == pytest.approx(outcome.objective, abs=1e-6), seed
        compared += 1
    assert compared > 80


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_what_a_plan_says_adds_up(seed: int) -> None:
    problem = fleet(seed, pools=2)
    assert check(problem) == ()
    made = plan(problem, Effort(Limits(2.0, 0.01), alternative=False))
    for pool in problem.pools:
        for role in pool.roles:
            said = made.pools[pool.key].roles[role.key]
            there = sum(group.count for variant in role.variants for group in variant.replicas)
            assert said.target == said.kept + said.awaited + said.taken == sum(said.by_variant.values())
            assert said.kept + said.released == there
            assert said.target <= role.maximum or said.target == said.kept
            ordered = (a for a in made.actions if a.now and a.tier is not None)
            mine = [a.replicas for a in ordered if (a.pool, a.role) == (pool.key, role.key)]
            assert said.taken == sum(mine)
    assert made.objective == pytest.approx(made.cost.total)
    assert all(action.at_s <= action.lands_s and action.gpus >= action.replicas for action in made.actions)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6))
def test_same_problem_same_plan_to_the_byte(seed: int) -> None:
    effort = Effort(Limits(60.0, 0.01, nodes=200))
    assert repr(plan(fleet(seed, pools=2), effort)) == repr(plan(fleet(seed, pools=2), effort))


def _raised(problem: Problem, factor: float) -> Problem:
    pools = tuple(
        replace(pool, demand=tuple(Demand(d.at_s, d.amount * factor, d.burst) for d in pool.demand))
        for pool in problem.pools
    )
    return replace(problem, pools=pools)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(1.0, 3.0))
def test_more_demand_never_costs_less(seed: int, factor: float) -> None:
    problem = draw(seed)
    assert plan(_raised(problem, factor), EXACT).objective >= plan(problem, EXACT).objective - 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(1.0, 3.0))
def test_more_demand_never_wants_fewer_replicas_with_ample_supply(seed: int, factor: float) -> None:
    problem = _ample(seed)
    problem = replace(problem, sources=tuple(replace(source, gpus=None) for source in problem.sources))

    def total(made: Plan) -> int:
        return sum(pool.roles[""].target for pool in made.pools.values())

    level = replace(problem, pools=tuple(replace(p, demand=(Demand(0, p.demand[0].amount),)) for p in problem.pools))
    assert total(plan(_raised(level, factor), EXACT)) >= total(plan(level, EXACT))


def test_the_last_plan_is_where_the_next_begins() -> None:
    # With no time at all the solver can only answer with where it began: the last plan, better than the greedy one.
    found = 0
    for seed in range(40):
        problem = fleet(seed)
        model = build(ladder(problem))
        quick = model.program.worth(complete(model, *greedy(model.ladder)))
        best = plan(problem, Effort(Limits(5.0, 0.0), alternative=False))
        if "minimum" in str(best.relaxed) or best.objective > quick - 1e-3 or best.relaxed:
            continue
        again = plan(problem, Effort(Limits(0.0, 0.0), alternative=False), last=best)
        assert again.objective <= best.objective + 1e-6, seed
        assert again.status in {Status.GREEDY, Status.OPTIMAL, Status.FEASIBLE}
        found += 1
        if found == 5:
            break
    assert found == 5


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for door in Door:
        solve(build(ladder(fleet(1))).program, Limits(5.0, 0.0), door=door)
    assert capfd.readouterr() == ("", "")


def test_no_time_is_a_typed_outcome() -> None:
    hard = build(ladder(fleet(3, pools=30))).program
    assert isinstance(solve(hard, Limits(0.0, 0.0)), TimedOut)


def test_every_row_and_column_has_a_name_of_its_own() -> None:
    program = build(ladder(fleet(5))).program
    assert len(set(program.names)) == len(program.names)
    assert len(set(program.rows)) == len(program.rows)
