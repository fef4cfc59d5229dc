"""What a plan says would change it, planned again with that change by hand; and plans as values."""

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any

import pytest

from optimizer import (
    Change,
    Demand,
    Disruption,
    Effort,
    Gang,
    Limits,
    Offer,
    Pool,
    Problem,
    ProblemError,
    Quota,
    Rules,
    Source,
    Tier,
    Variant,
    check,
    plan,
    simple_pool,
)

TOLD = Effort(Limits(20.0, 0.0), alternative=False, changes=True)
CHAT = simple_pool("chat", Variant("", "A", 1, 10.0), (Demand(0, 50),), shortage_price=5.0)
WIDE = simple_pool("chat", Variant("", "A", 2, 10.0), (Demand(0, 50),), shortage_price=5.0)
MANY = Source("free", Tier.START, "A", 50, 0.0)
GANGS = tuple(Gang(f"g{n}", "A", 2, priority=n, lead_s=0.0, group="train") for n in range(3))


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        # Each replica serves 10 of 50, worth 50 an hour; it costs 1 for each GPU and 0.001 to start.
        (Problem((CHAT,), (replace(MANY, gpus=3),)), Change("stock[free]", 1, 50 - 1.001)),
        # A fifth GPU is of no use to replicas of two; a fifth and a sixth are.
        (Problem((WIDE,), (replace(MANY, gpus=4),)), Change("stock[free]", 2, 50 - 2.001)),
        (
            Problem((replace(CHAT, roles=(replace(CHAT.roles[0], maximum=3),)),), (MANY,)),
            Change("maximum[chat]", 1, 50 - 1.001),
        ),
        # GPUs at 3: a budget of 7 is enough for two, and one of 10 for three.
        (
            Problem((CHAT,), (replace(MANY, price_per_gpu_hour=3.0),), rules=Rules(budget_per_hour=7.0)),
            Change("budget", 3.0, 50 - 3.001),
        ),
        # Two nodes of two GPUs at 4 an hour serve 40; a third one serves the last 10.
        (Problem((CHAT,), offers=(Offer("o", "A", 2, 4.0, 0.0, quota=2),)), Change("blocks[o]", 1, 50 - 4.001)),
        (Problem((CHAT,), (MANY,), rules=Rules(quotas=(Quota("q", 3),))), Change("quota[q]", 1, 50 - 1.001)),
        # A second gang of two serves 20 for an hour of two GPUs.
        (
            Problem((CHAT,), gangs=GANGS, rules=Rules(max_gpus_preempted=2)),
            Change("max_gpus_preempted", 2, 100 - 2.002),
        ),
        (
            Problem((CHAT,), gangs=GANGS, rules=Rules(disruptions=(Disruption("train", 1),))),
            Change("disruption[train]", 1, 100 - 2.002),
        ),
        (
            Problem((CHAT,), gangs=GANGS, rules=Rules(never_above_priority=0)),
            Change("never_above_priority", 1, 100 - 2.002),
        ),
        # Two replicas nobody needs are kept at 1 an hour each.
        (
            Problem((replace(CHAT, demand=(Demand(0, 0),), roles=(replace(CHAT.roles[0], minimum=2),)),), (MANY,)),
            Change("minimum[chat]", -1, 1.001),
        ),
        # The gang of low priority loses two hours of work at 2, the other nothing.
        (
            Problem(
                (replace(CHAT, demand=(Demand(0, 20),)),),
                gangs=(replace(GANGS[0], since_checkpoint_s=7200.0), replace(GANGS[1], gpus=2)),
            ),
            Change("priority_order", 0, 4.0),
        ),
    ],
)  # fmt: skip
def test_what_is_said_to_save_does(problem: Problem, change: Change) -> None:
    first = plan(problem, TOLD).changes[0]
    assert (first.limit, first.by) == (change.limit, change.by)
    assert first.saves == pytest.approx(change.saves)


def test_nothing_is_said_to_change_a_plan_that_has_all_it_wants() -> None:
    assert plan(Problem((CHAT,), (MANY,)), TOLD).changes == ()
    # One gang is there and enough for 20: no more of it would help, nor of another.
    assert plan(Problem((replace(CHAT, demand=(Demand(0, 20),)),), gangs=GANGS[:1]), TOLD).changes == ()


def test_the_plan_without_a_tier_says_what_it_could_not_keep() -> None:
    least = replace(CHAT, roles=(replace(CHAT.roles[0], minimum=2),))
    made = plan(Problem((least,), (MANY,)))
    assert made.alternative is not None
    assert (made.alternative.without_tier, made.alternative.relaxed) == ("start", ("minimum[chat]",))


def test_a_plan_with_a_rule_relaxed_says_how_near_it_is_to_the_best() -> None:
    least = replace(CHAT, demand=(Demand(0, 0),), roles=(replace(CHAT.roles[0], minimum=2),))
    made = plan(Problem((least,), (MANY,), rules=Rules(budget_per_hour=1.0)))
    assert (made.relaxed, made.status, made.gap) == (("budget",), "optimal", 0.0)


@pytest.mark.parametrize("stock", [50, 3])
def test_plans_are_values(stock: int) -> None:
    # With 50 free GPUs the pool is planned alone, with 3 by the integer program.
    made: Any = plan(Problem((CHAT,), (replace(MANY, gpus=stock),)))
    assert copy.deepcopy(made) == made
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - what this test has just written
    assert asdict(made)["pools"]["chat"].key == "chat"
    with pytest.raises(FrozenInstanceError):
        made.objective = 0.0
    for mapping in (made.pools, made.pools["chat"].roles, made.pools["chat"].roles[""].by_variant, made.hint.serving):
        with pytest.raises(TypeError):
            mapping["x"] = 1


def test_a_replica_that_fits_nowhere_is_said() -> None:
    # Replicas of eight GPUs, nodes of four.
    big = simple_pool("big", Variant("", "A", 8, 10.0), (Demand(0, 10),), shortage_price=5.0)
    made = plan(Problem((big,), (replace(MANY, gpus=16, fragment=4),)), TOLD)
    assert made.reasons[1:] == ("big can take nothing new: no supply has room for a whole replica (8 A) in time",)


def test_shortage_ends_where_it_ends() -> None:
    # All five start now and serve in 60 s.
    made = plan(Problem((CHAT,), (replace(MANY, lead_s=60.0),)))
    assert made.pools["chat"].shortage == ((0.0, 50.0), (60.0, 0.0))


def strange(**parts: object) -> Any:
    return replace(Problem((CHAT,), (MANY,)), **parts)  # type: ignore[arg-type] # what a notebook may pass


def pool(**parts: object) -> tuple[Pool, ...]:
    return (replace(CHAT, **parts),)  # type: ignore[arg-type] # what a notebook may pass


@pytest.mark.parametrize(
    ("problem", "telling"),
    [
        (strange(sources=None), "sources None must be a tuple of Source"),
        (strange(sources=MANY), "must be a tuple of Source"),
        (strange(pools=({"key": "chat"},)), "pools must hold Pool only, not {'key': 'chat'}"),
        (strange(rules={}), "rules {} must be Rules"),
        (strange(horizon_s="3600"), "horizon_s '3600' must be a number"),
        (strange(points_s=5.0), "points_s 5.0 must be a tuple"),
        (strange(points_s=("now",)), "points_s must be finite"),
        (strange(sources=(replace(MANY, tier="start"),)), "tier 'start' must be one of"),  # type: ignore[arg-type] # likewise
        (strange(sources=(replace(MANY, lead_s=None),)), "lead_s None must be a finite number"),  # type: ignore[arg-type] # likewise
        (strange(sources=(replace(MANY, price_per_gpu_hour=True),)), "price_per_gpu_hour True must be"),
        (strange(pools=pool(demand=((0, 5),))), "demand must hold Demand only, not (0, 5)"),
        (strange(pools=pool(demand=(Demand("0", 5),))), "demand time '0' must be"),  # type: ignore[arg-type] # likewise
        (strange(pools=pool(roles=(replace(CHAT.roles[0], variants=None),))), "variants None must be"),  # type: ignore[arg-type] # likewise
        (strange(rules=Rules(never_above_priority="3")), "never_above_priority '3' must be a number"),  # type: ignore[arg-type] # likewise
    ],
)  # fmt: skip
def test_what_is_no_part_of_a_problem_is_named(problem: Problem, telling: str) -> None:
    assert any(telling in fault for fault in check(problem)), check(problem)
    with pytest.raises(ProblemError):
        plan(problem)


def test_lists_are_as_good_as_tuples() -> None:
    role = replace(CHAT.roles[0], variants=[CHAT.roles[0].variants[0]])  # type: ignore[arg-type] # likewise
    listed = replace(CHAT, demand=[Demand(0, 50)], roles=[role])  # type: ignore[arg-type] # likewise
    assert plan(strange(pools=[listed], sources=[MANY])) == plan(Problem((CHAT,), (MANY,)))
