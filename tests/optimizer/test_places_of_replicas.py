"""Where a plan's replicas lie: in lots that are open, within what each has, for as long as they serve."""

import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from optimizer import (
    Demand,
    Do,
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
    simple_pool,
)
from optimizer.ladder import ladder
from optimizer.places import laid, moving

if TYPE_CHECKING:
    from optimizer.point import Open, Serving

EXACT = Effort(Limits(20.0, 0.0), alternative=False)
POINTS = (0.0, 300.0, 600.0, 900.0)


def pool(key: str, variant: Variant, amounts: list[float]) -> Pool:
    demand = tuple(Demand(at_s, amount) for at_s, amount in zip(POINTS, amounts, strict=True))
    return simple_pool(key, variant, demand, shortage_price=5.0)


def made_up(seed: int) -> Problem:
    pick = random.Random(seed)  # noqa: S311 - problems to try, nothing secret
    gangs = tuple(
        Gang(
            f"g{n}",
            "A",
            pick.choice([2, 4, 8]),
            priority=pick.choice([1, 2]),
            lead_s=pick.choice([10.0, 150.0]),
            price_per_gpu_hour=pick.choice([0.5, 1.0]),
            held=pick.random() < 0.4,
        )
        for n in range(3)
    )
    sources = tuple(Source(f"s{n}", Tier.START, "A", pick.choice([1, 3, 4]), 0.0) for n in range(2))
    offers = (Offer("o", "A", 4, 3.0, 300.0, min_billing_s=pick.choice([0.0, 600.0]), quota=2),)
    pools = tuple(
        pool(
            f"p{n}",
            Variant("", "A", pick.choice([1, 2]), 10.0),
            [float(pick.choice([0, 10, 20, 40])) for _ in POINTS],
        )
        for n in range(2)
    )
    return Problem(pools, sources, gangs, offers, points_s=POINTS)


def capacity(problem: Problem, made: Plan, at_s: float) -> Counter[str]:
    """GPUs there of every lot at a moment, by the actions alone."""
    there = Counter({source.key: source.gpus or 0 for source in problem.sources})
    there += Counter({gang.key: gang.gpus for gang in problem.gangs if gang.held})
    for action in made.actions:
        if action.do in {Do.PREEMPT, Do.PROVISION} and action.lands_s <= at_s < (action.until_s or 1e9):
            there[action.on] += action.gpus
        if action.do is Do.RETURN and action.at_s <= at_s:
            there[action.on] -= action.gpus
    return there


@pytest.mark.parametrize("seed", range(40))
def test_no_lot_holds_more_than_it_has_at_any_moment(seed: int) -> None:
    problem = made_up(seed)
    made = plan(problem, EXACT)
    for at_s in POINTS:
        used = Counter[str]()
        for action in made.actions:
            if action.do is Do.START and action.pool and action.lands_s <= at_s < (action.until_s or 1e9):
                used[action.on] += action.gpus
        assert used <= capacity(problem, made, at_s), at_s


def test_nothing_moves_from_a_gang_given_back_to_one_taken_later() -> None:
    # Two replicas from 300 s to the end, two more from 600 s to 900 s; starting one costs 0.5. While the gang of 4 is
    # there that of 2 is not needed: could replicas move, giving it back would save 2 GPUs x 300 s = 0.17. They cannot,
    # and starting two anew costs 1.
    small = Gang("small", "A", 2, lead_s=150.0, held=True)
    large = Gang("large", "A", 4, lead_s=150.0, held=True)
    chat = pool("chat", Variant("", "A", 1, 10.0), [0.0, 20.0, 40.0, 20.0])
    made = plan(Problem((chat,), gangs=(small, large), rules=Rules(churn_price=0.5), points_s=POINTS), EXACT)
    there = {action.on: (action.lands_s, action.until_s) for action in made.actions if action.do is Do.START}
    assert there == {"small": (300.0, None), "large": (600.0, 900.0)}
    assert made.cost.held == pytest.approx(2 * 3300 / 3600 + 4 * 300 / 3600)
    assert made.cost.one_off == pytest.approx(4 * 0.5)


def test_lots_between_which_replicas_would_move_are_told() -> None:
    gangs = (Gang("small", "A", 2, lead_s=150.0, held=True), Gang("large", "A", 4, lead_s=150.0, held=True))
    steps = ladder(Problem((pool("chat", Variant("", "A", 1, 10.0), [20.0] * 4),), gangs=gangs, points_s=POINTS))
    (way,) = range(len(steps.ways))  # both gangs on one shelf
    keys = [lot.key for lot in steps.lots]
    serving: Serving = ((2, 2, 2, 2),)
    opened: Open = {keys.index("large"): (1, 1, 1, 0), keys.index("small"): (0, 0, 0, 1)}
    assert moving(steps, serving, opened) == {"small", "large"}
    pieces = [(one.begin, one.end, steps.lots[one.lot].key) for one in laid(steps, serving, opened) if one.way == way]
    assert sorted(pieces) == [(0, 3, "large"), (0, 3, "large"), (3, 4, "small"), (3, 4, "small")]


def test_which_of_two_replicas_ends_is_chosen_so_that_both_have_a_place() -> None:
    # One serves in periods 0 and 1, one from 1 on; the first lot is there in 0 and 1, the second from 1 on. What began
    # last would end first, and then the first replica would need a lot for all three.
    gangs = (Gang("first", "A", 1, lead_s=150.0, held=True), Gang("second", "A", 1, lead_s=150.0, held=True))
    points = (0.0, 300.0, 600.0)
    chat = simple_pool("chat", Variant("", "A", 1, 10.0), (Demand(0, 10),), shortage_price=5.0)
    steps = ladder(Problem((chat,), gangs=gangs, points_s=points))
    serving: Serving = ((1, 2, 1),)
    opened: Open = {0: (1, 1, 0), 1: (0, 1, 1)}
    assert moving(steps, serving, opened) == frozenset()
    assert sorted((one.begin, one.end, steps.lots[one.lot].key) for one in laid(steps, serving, opened)) == [
        (0, 2, "first"),
        (1, 3, "second"),
    ]


@pytest.mark.parametrize(("gpus", "served"), [(1, 0), (2, 2), (3, 2), (4, 4)])
def test_a_replica_never_lies_in_two_sources(gpus: int, served: int) -> None:
    # Replicas of two GPUs, two sources alike: with one GPU each there is room for none, with three each for one each.
    chat = simple_pool("chat", Variant("", "A", 2, 10.0), (Demand(0, 100),), shortage_price=5.0)
    sources = (Source("s1", Tier.START, "A", gpus, 0.0), Source("s2", Tier.START, "A", gpus, 0.0))
    assert plan(Problem((chat,), sources), EXACT).pools["chat"].roles[""].target == served


def test_a_node_too_small_for_a_replica_is_no_way_to_wake() -> None:
    # Zero would be cheaper. Nodes of one GPU come in 60 s, within the target, and hold no replica of two.
    variant = Variant("", "A", 2, 10.0, replicas=(Replicas(1),))
    nodes = Offer("o", "A", 1, 1.0, 60.0)
    role = Role("", (variant,), wake_target_s=300.0)
    idle = Pool("idle", (Demand(0, 0),), (role,), (ServiceClass("", 1.0, 5.0),))
    assert plan(Problem((idle,), offers=(nodes,)), EXACT).pools["idle"].roles[""].target == 1
    wide = replace(nodes, gpus=2)
    assert plan(Problem((idle,), offers=(wide,)), EXACT).pools["idle"].roles[""].target == 0
