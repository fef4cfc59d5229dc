"""When supply goes back and when it may come again: minimum billing, minimum runs, lead times, priorities, by hand."""

import pytest

from optimizer import (
    Action,
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
    Source,
    Tier,
    Variant,
    plan,
    simple_pool,
)

EXACT = Effort(Limits(20.0, 0.0), alternative=False)
ONE = Variant("", "A", 1, 10.0)


def pool(*demand: tuple[float, float], variant: Variant = ONE, price: float = 100.0) -> Pool:
    return simple_pool("chat", variant, tuple(Demand(*point) for point in demand), shortage_price=price)


def moves(made: Plan, do: Do) -> list[Action]:
    return [action for action in made.actions if action.do is do]


def held_then(made: Plan, do: Do) -> list[tuple[str, float, float | None]]:
    return [(action.on, action.lands_s, action.until_s) for action in moves(made, do)]


def test_a_node_within_its_minimum_billing_stays_beside_one_that_is_paid_for() -> None:
    # One node runs and is paid for to the end; two more land at 60 s with an hour of minimum billing. The load falls at
    # 1,800 s: none of the three can go, and two new ones cost 2 an hour each for 60 minutes, whatever is served.
    nodes = Offer("o", "A", 1, 2.0, 60.0, min_billing_s=3600.0, quota=3, held=1, paid_s=4000.0)
    made = plan(Problem((pool((0, 10), (60, 30), (1800, 0)),), offers=(nodes,)), EXACT)
    assert moves(made, Do.RETURN) == []
    assert held_then(made, Do.PROVISION) == [("o", 60.0, None)]
    assert made.cost.held + made.cost.one_off == pytest.approx(3 * 2.0 + 0.003)  # three nodes for an hour, three starts


def test_the_node_whose_minimum_billing_is_over_goes_back() -> None:
    # One node has run long enough, one lands at 60 s for at least 3,000 s. At 1,800 s one is enough: the old one goes.
    nodes = Offer("o", "A", 1, 2.0, 60.0, min_billing_s=3000.0, quota=2, held=1)
    made = plan(Problem((pool((0, 10), (60, 20), (1800, 10)),), offers=(nodes,)), EXACT)
    assert held_then(made, Do.PROVISION) == [("o", 60.0, None)]
    assert [(action.at_s, action.replicas) for action in moves(made, Do.RETURN)] == [(1800.0, 1)]


def test_what_is_held_cannot_be_had_again_before_its_lead_time() -> None:
    # Wanted from 100 s on, 300 s from order to landing: giving the node back for 100 s would leave 200 s without it.
    # 100 s of it cost 36/36 = 1; 200 s of 10 lacking at 100 an hour cost 55.6.
    node = Offer("o", "A", 1, 36.0, 300.0, quota=1, held=1)
    made = plan(Problem((pool((0, 0), (100, 10)),), offers=(node,)), EXACT)
    assert moves(made, Do.RETURN) == []
    assert made.cost.shortage == 0.0
    assert made.cost.held == pytest.approx(36.0)


@pytest.mark.parametrize(
    ("min_run_s", "again"),
    [(0.0, True), (240.0, True), (241.0, False)],
)
def test_a_gang_given_back_runs_for_its_minimum_before_it_is_taken_again(min_run_s: float, again: bool) -> None:
    # Load until 600 s and from 900 s to 1,500 s. Given back at 600 s the gang waits 60 s for its place and has 240 s
    # until 900 s. Taken twice it costs 1,200 s at 1 an hour and 1/60 for each requeue; held throughout, 1,500 s.
    gang = Gang("g", "A", 1, lead_s=0.0, requeue_s=60.0, min_run_s=min_run_s, ran_s=9999.0)
    made = plan(Problem((pool((0, 10), (600, 0), (900, 10), (1500, 0)),), gangs=(gang,)), EXACT)
    assert made.cost.shortage == 0.0
    spans = [(0.0, 600.0), (900.0, 1500.0)] if again else [(0.0, 1500.0)]
    assert [(begin, end) for _, begin, end in held_then(made, Do.PREEMPT)] == spans
    assert made.cost.held == pytest.approx((1200 if again else 1500) / 3600)


def test_a_gang_held_from_before_is_not_given_back_for_a_moment() -> None:
    # Wanted from 45 s on. Given back now it would have to queue for 60 s and be evicted again in 10 s: too late.
    gang = Gang("g", "A", 1, lead_s=10.0, requeue_s=60.0, held=True)
    made = plan(Problem((pool((0, 0), (45, 10)),), gangs=(gang,)), EXACT)
    assert moves(made, Do.RETURN) == []
    assert made.cost.held == pytest.approx(1.0)


def test_lower_priority_goes_first_where_the_one_between_cannot_go_yet() -> None:
    # Priorities 1, 5 and 9; that of 5 has its minimum run ahead of it. 9 would lose nothing, 1 loses an hour of two
    # GPUs and still goes first.
    gangs = (
        Gang("low", "A", 2, priority=1, since_checkpoint_s=3600.0),
        Gang("middle", "A", 2, priority=5, min_run_s=3000.0),
        Gang("high", "A", 2, priority=9),
    )
    made = plan(Problem((pool((0, 0), (100, 20), (1000, 0)),), gangs=gangs), EXACT)
    assert [action.on for action in moves(made, Do.PREEMPT)] == ["low"]
    assert made.cost.one_off == pytest.approx(2.0 + 0.002)


@pytest.mark.parametrize("lands_s", [0.0, 60.0])
def test_replicas_on_gpus_that_come_only_together_are_kept(lands_s: float) -> None:
    # Two replicas on GPUs of a source that gives them by twos, 100 s away: they hold them already.
    variant = Variant("", "A", 1, 10.0, replicas=(Replicas(2, lands_s, source="pairs"),))
    pairs = Source("pairs", Tier.START, "A", 4, 100.0, granularity=2)
    made = plan(Problem((pool((0, 20), variant=variant),), (pairs,)), EXACT)
    assert made.actions == ()
    assert made.pools["chat"].roles[""].target == 2
    assert made.cost.held == pytest.approx(2.0)  # two GPUs for an hour at 1


def test_what_lands_after_the_horizon_is_awaited_and_keeps_its_gpus() -> None:
    # Two replicas on the only two GPUs land in 4,000 s: nobody else has these, and the minimum of two counts them.
    variant = Variant("", "A", 1, 10.0, replicas=(Replicas(2, 4000.0, source="free"),))
    chat = simple_pool("chat", variant, (Demand(0, 20),), shortage_price=5.0, minimum=2)
    made = plan(Problem((chat,), (Source("free", Tier.START, "A", 2, 0.0),)), EXACT)
    role = made.pools["chat"].roles[""]
    assert (made.actions, made.relaxed) == ((), ())
    assert (role.target, role.awaited, dict(role.by_variant)) == (2, 2, {"": 2})
    assert made.pools["chat"].shortage == ((0.0, 20.0),)


def test_a_gang_is_not_given_back_from_under_what_lands_after_the_horizon() -> None:
    # One of its two GPUs is held for a replica that lands in 4,000 s; the other is there at once, at no cost.
    variant = Variant("", "A", 1, 10.0, replicas=(Replicas(1, 4000.0, source="g"),))
    made = plan(Problem((pool((0, 10), variant=variant),), gangs=(Gang("g", "A", 2, held=True),)), EXACT)
    assert [(action.do, action.on, action.lands_s) for action in made.actions] == [(Do.START, "g", 0.0)]
    assert made.cost.shortage == 0.0
    assert made.pools["chat"].roles[""].target == 2


def test_what_runs_does_not_go_for_what_lands_after_the_horizon() -> None:
    # At most two: both run and serve. Of the two on their way none is awaited.
    variant = Variant("", "A", 1, 10.0, replicas=(Replicas(2), Replicas(2, 4000.0)))
    chat = simple_pool("chat", variant, (Demand(0, 20),), shortage_price=5.0, maximum=2)
    made = plan(Problem((chat,), (Source("free", Tier.START, "A", 0, 0.0),)), EXACT)
    role = made.pools["chat"].roles[""]
    assert (role.kept, role.awaited, role.given_up, role.target) == (2, 0, 2, 2)
    assert made.pools["chat"].shortage == ()
