"""Plans small enough to reckon by hand; each test carries its arithmetic.

Unless a test says otherwise: one unit serves 10, has one GPU at 1.0 per hour, the horizon is one hour, lacking a unit
for an
hour costs 50. Holding one unit for the hour therefore costs 1.0 and lacking one from t seconds on 50 x (3600 - t) /
3600.
"""

from dataclasses import replace

import pytest

from optimizer import Demand, Need, Plan, Problem, ProblemError, Rules, Source, Starting, Status, check, plan

FREE = Source("free", "start", "A", gpus=4, lead_s=115)
GANG = Source("gang", "preempt", "A", gpus=8, lead_s=160, one_off_price=0.5, preempts=True)
NODE = Source("node", "provision", "A", gpus=None, lead_s=300, one_off_price=2.0)
CHAT = Need("chat", "A", (Demand(0, 20.0),), 10.0, 1, current=2, minimum=0, maximum=20, shortage_price=50.0)


def need(amount: float, **changes: object) -> Need:
    return replace(CHAT, demand=(Demand(0, amount),), **changes)  # type: ignore[arg-type]


def taken(made: Plan) -> dict[str, int]:
    return {take.source: take.units for take in made.taken}


def test_enough_runs_already_and_nothing_moves() -> None:
    made = plan(Problem((CHAT,), (FREE, NODE)))
    assert made.status is Status.OPTIMAL
    assert made.needs["chat"].target == 2
    assert made.taken == ()
    assert made.cost.total == pytest.approx(2 * 1.0)
    assert made.binding == ("capacity[chat@lead=0]",)
    assert made.alternative is None
    assert "no contention" in made.reasons[0]


def test_free_goes_before_preempted_before_provisioned() -> None:
    # 150 demanded is 15 units: 2 run, 13 are missing. Per unit: free 1.0, gang 1.0 + 0.5, node 1.0 + 2.0; lacking one
    # costs
    # more than 45. So 4 free, then 8 of the gang, and the last one from a node.
    made = plan(Problem((need(150.0),), (NODE, GANG, FREE)))
    assert taken(made) == {"free": 4, "gang": 8, "node": 1}
    assert made.needs["chat"].target == 15
    assert made.cost.held == pytest.approx(15 * 1.0)
    assert made.cost.one_off == pytest.approx(8 * 0.5 + 1 * 2.0)
    # 13 units lack for 115 s, 9 for the next 45 s, 1 for the next 140 s.
    assert made.cost.shortage == pytest.approx(50 * (13 * 115 + 9 * 45 + 1 * 140) / 3600)
    assert made.cost.total == pytest.approx(15.0 + 6.0 + made.cost.shortage + 13 * 0.001)
    assert {"stock[free]", "stock[gang]"} <= set(made.binding)


@pytest.mark.parametrize(("node_lead_s", "chosen"), [(200.0, "node"), (900.0, "gang")])
def test_training_is_preempted_only_if_the_node_lands_too_late(node_lead_s: float, chosen: str) -> None:
    # The gang costs 2.0 once, the node 0.5: preempting is 1.5 dearer. It lands at 160 s. Waiting for the node costs
    # 50 x (200 - 160) / 3600 = 0.56 < 1.5, or 50 x (900 - 160) / 3600 = 10.3 > 1.5.
    gang, node = replace(GANG, one_off_price=2.0), replace(NODE, one_off_price=0.5, lead_s=node_lead_s)
    made = plan(Problem((need(30.0),), (gang, node)))
    assert taken(made) == {chosen: 1}


def test_each_tier_is_ordered_on_the_load_at_its_own_lead_time() -> None:
    # 2 units suffice until 300 s, then 5 are needed: nothing has to be preempted or started early, but the node (1.0
    # + 0)
    # and the free GPU (1.0) both land in time. With the node at 0.2 per hour, 3 nodes are ordered and nothing else.
    rising = replace(CHAT, demand=(Demand(0, 20.0), Demand(300, 50.0)))
    node = replace(NODE, one_off_price=0.0, price_per_gpu_hour=0.2)
    made = plan(Problem((rising,), (FREE, GANG, node)))
    assert taken(made) == {"node": 3}
    assert made.cost.shortage == 0.0
    assert made.binding == ("capacity[chat@lead=300]",)


def test_what_is_starting_is_never_ordered_again() -> None:
    # 5 units are demanded, 2 run, 3 are starting and land in 100 s: nothing to order.
    made = plan(Problem((need(50.0, starting=(Starting(1, 40.0), Starting(2, 100.0))),), (FREE, NODE)))
    assert made.taken == ()
    assert made.needs["chat"].awaited == 3
    assert made.needs["chat"].target == 5
    # 3 units lack for 40 s, then 2 for 60 s.
    assert made.cost.shortage == pytest.approx(50 * (3 * 40 + 2 * 60) / 3600)
    assert made.needs["chat"].shortage == ((0.0, 30.0), (40.0, 20.0))


def test_what_is_starting_does_not_replace_what_serves_now() -> None:
    # 2 units are demanded and run; 2 more are starting. Letting one go would leave it short until they land.
    made = plan(Problem((need(20.0, starting=(Starting(2, 100.0),)),), (FREE,)))
    assert made.needs["chat"].released == 0
    assert made.needs["chat"].target == 4


def test_a_lowered_maximum_gives_up_what_is_starting_before_what_runs() -> None:
    # 3 run and 2 are starting under a maximum of 3, with demand for 5: a running unit serves from now, a starting one
    # later.
    made = plan(Problem((need(50.0, current=3, maximum=3, starting=(Starting(2, 100.0),)),), (FREE,)))
    chat = made.needs["chat"]
    assert (chat.target, chat.kept, chat.awaited, chat.given_up) == (3, 3, 0, 2)
    assert "maximum[chat]" in made.binding


def test_less_demand_releases_down_to_what_later_points_need() -> None:
    # 5 run; 12 now is 2 units (1.2), 31 from 600 s on is 3.1: the tenth of a unit lacks for 3000 s at 50 = 4.2 > 1.0,
    # so 4.
    falling = replace(CHAT, current=5, demand=(Demand(0, 12.0), Demand(600, 31.0)))
    made = plan(Problem((falling,), (FREE,)))
    assert (made.needs["chat"].kept, made.needs["chat"].released) == (4, 1)
    assert "chat releases 1 unit of 5" in made.reasons


def test_a_shortage_cheaper_than_its_cure_is_left() -> None:
    # 0.01 of a unit lacks for an hour: 0.5 < 1.0.
    made = plan(Problem((need(20.1),), (FREE,)))
    assert made.needs["chat"].target == 2
    assert made.cost.shortage == pytest.approx(0.5)


def test_bounds_hold_against_demand() -> None:
    assert plan(Problem((need(200.0, maximum=5),), (FREE, NODE))).needs["chat"].target == 5
    low = plan(Problem((need(0.0, minimum=3),), (FREE, NODE)))
    assert low.needs["chat"].target == 3
    assert taken(low) == {"free": 1}
    assert low.binding == ("minimum[chat]",)


def test_the_budget_holds_and_goes_to_the_dearer_shortage() -> None:
    # 4.0 per hour pay for 4 GPUs. Both run 1 and want 3; one need's shortage is twice as dear: it gets 3, the other
    # keeps 1.
    vital = need(30.0, key="vital", current=1, shortage_price=100.0)
    plain = need(30.0, key="plain", current=1)
    made = plan(Problem((plain, vital), (replace(FREE, gpus=10),), Rules(budget_per_hour=4.0)))
    assert (made.needs["vital"].target, made.needs["plain"].target) == (3, 1)
    assert made.status is Status.OPTIMAL
    assert "budget" in made.binding


def test_a_budget_below_what_runs_releases_the_cheapest_shortage() -> None:
    vital = need(20.0, key="vital", shortage_price=100.0)
    made = plan(Problem((CHAT, vital), (FREE,), Rules(budget_per_hour=3.0)))
    assert (made.needs["vital"].target, made.needs["chat"].target) == (2, 1)


def test_the_preemption_limit_holds() -> None:
    # 8 units are missing and only the gang is there: 3 GPUs may be taken.
    made = plan(Problem((need(100.0),), (GANG,), Rules(max_gpus_preempted=3)))
    assert taken(made) == {"gang": 3}
    assert "max_gpus_preempted" in made.binding


def test_gangs_come_whole() -> None:
    # 3 units are missing. A gang of 4 is paid whole: 4 x (1.0 + 0.5) = 6.0, nodes 3 x 3.0 = 9.0: the gang, using 3 of
    # 4.
    gang = replace(GANG, granularity=4)
    made = plan(Problem((need(50.0),), (gang, NODE)))
    assert taken(made) == {"gang": 3}
    assert made.cost.held == pytest.approx(2 * 1.0 + 4 * 1.0)
    assert made.cost.one_off == pytest.approx(4 * 0.5)


def test_one_missing_unit_is_not_worth_a_whole_gang() -> None:
    # 1 unit is missing: the gang would cost 4 x 1.5 = 6.0, a node 3.0 and 50 x 140 / 3600 = 1.9 of waiting for it.
    made = plan(Problem((need(30.0),), (replace(GANG, granularity=4), NODE)))
    assert taken(made) == {"node": 1}


def test_two_needs_share_a_gang() -> None:
    # 2 units are missing to each: together they fill one gang of 4 (6.0), apart they would need nodes (4 x 3.0).
    pair = (need(40.0, key="a"), need(40.0, key="b"))
    made = plan(Problem(pair, (replace(GANG, granularity=4), NODE)))
    assert [(take.need, take.source, take.units) for take in made.taken] == [("a", "gang", 2), ("b", "gang", 2)]
    assert made.cost.one_off == pytest.approx(4 * 0.5)


def test_scarce_gpus_go_where_they_are_worth_more() -> None:
    # 4 free GPUs; "wide" needs 2 GPUs a unit at 50, "slim" 1 at 50: slim's 4 units win all of them.
    wide, slim = need(60.0, key="wide", gpus_per_unit=2), need(60.0, key="slim")
    made = plan(Problem((wide, slim), (FREE,)))
    assert (made.needs["slim"].taken, made.needs["wide"].taken) == (4, 0)
    assert "stock[free]" in made.binding
    assert "contention for A" in made.reasons[0]


def test_a_private_stock_serves_its_owner_only() -> None:
    sleeping = Source("asleep", "wake", "A", gpus=1, lead_s=13, only_for=("a",))
    made = plan(Problem((need(30.0, key="a"), need(30.0, key="b")), (sleeping, NODE)))
    assert [(take.need, take.source) for take in made.taken] == [("a", "asleep"), ("b", "node")]


def test_minimums_that_cannot_be_met_are_named_with_what_stands_in_the_way() -> None:
    short = need(0.0, minimum=9)
    made = plan(Problem((short,), (FREE,)))
    assert made.needs["chat"].target == 6
    assert made.relaxed == ("minimum[chat]",)
    assert "stock[free]" in made.binding
    assert "chat stays 3 units below its minimum of 9" in made.reasons


def test_the_alternative_prices_the_dearest_tier() -> None:
    # 5 are missing: 4 free and 1 node (3.0). Without nodes one unit lacks from 300 s on: 50 x 3300 / 3600 = 45.8.
    made = plan(Problem((need(70.0),), (FREE, NODE)))
    assert made.alternative is not None
    assert made.alternative.without_tier == "provision"
    assert made.alternative.cost - made.cost.total == pytest.approx(50 * 3300 / 3600 - 3.0 - 0.001)


def test_out_of_time_is_said_and_every_rule_still_holds() -> None:
    many = tuple(need(37.0 + i, key=f"n{i}", gpus_per_unit=1 + i % 3, shortage_price=40.0 + i) for i in range(40))
    made = plan(Problem(many, (replace(FREE, gpus=25), replace(GANG, gpus=16, granularity=8))), time_limit_s=0.0)
    assert made.status is Status.GREEDY
    assert made.gap is None
    assert "out of time" in made.reasons[0]
    assert sum(take.gpus for take in made.taken if take.source == "free") <= 25
    assert sum(take.gpus for take in made.taken if take.source == "gang") <= 16


def test_too_many_contending_needs_are_planned_greedily_and_it_is_said() -> None:
    # 4 free GPUs for two needs that lack 4 each: the greedy plan serves the dearer shortage first.
    vital, plain = need(60.0, key="vital", shortage_price=100.0), need(60.0, key="plain")
    made = plan(Problem((plain, vital), (FREE,)), most_needs=1)
    assert made.status is Status.GREEDY
    assert "2 needs contend" in made.reasons[0]
    assert (made.needs["vital"].taken, made.needs["plain"].taken) == (4, 0)


def test_nothing_asked_nothing_planned() -> None:
    made = plan(Problem((), ()))
    assert (made.status, made.taken, made.cost.total) == (Status.OPTIMAL, (), 0.0)


NAN = float("nan")


@pytest.mark.parametrize(
    ("problem", "telling"),
    [
        (Problem((CHAT, CHAT), (FREE,)), "need 'chat' is given 2 times"),
        (Problem((CHAT,), (FREE, FREE)), "source 'free' is given 2 times"),
        (Problem((replace(CHAT, minimum=5, maximum=4),), (FREE,)), "minimum 5 is above maximum 4"),
        (Problem((replace(CHAT, resource="B"),), (FREE,)), "no source offers resource 'B'"),
        (Problem((need(NAN),), (FREE,)), "demand nan at 0 s"),
        (Problem((need(-1.0),), (FREE,)), "demand -1.0 at 0 s"),
        (Problem((replace(CHAT, demand=()),), (FREE,)), "demand is empty"),
        (Problem((replace(CHAT, demand=(Demand(5, 1.0), Demand(5, 2.0))),), (FREE,)), "after the one before"),
        (Problem((replace(CHAT, unit_capacity=0.0),), (FREE,)), "unit_capacity 0.0"),
        (Problem((replace(CHAT, gpus_per_unit=0),), (FREE,)), "gpus_per_unit 0"),
        (Problem((replace(CHAT, current=-1),), (FREE,)), "current -1"),
        (Problem((replace(CHAT, starting=(Starting(-1, 5.0),)),), (FREE,)), "starting units -1"),
        (Problem((replace(CHAT, starting=(Starting(1, NAN),)),), (FREE,)), "land in nan s"),
        (Problem((replace(CHAT, shortage_price=NAN),), (FREE,)), "shortage_price nan"),
        (Problem((CHAT,), (replace(FREE, gpus=-1),)), "gpus -1"),
        (Problem((CHAT,), (replace(FREE, lead_s=float("inf")),)), "lead_s inf"),
        (Problem((CHAT,), (replace(FREE, granularity=0),)), "granularity 0"),
        (Problem((CHAT,), (replace(FREE, only_for=("ghost",)),)), "only_for names 'ghost'"),
        (Problem((CHAT,), (FREE,), Rules(budget_per_hour=NAN)), "budget_per_hour nan"),
        (Problem((CHAT,), (FREE,), Rules(max_gpus_preempted=-1)), "max_gpus_preempted -1"),
        (Problem((CHAT,), (FREE,), Rules(churn_price=-0.1)), "churn_price -0.1"),
        (Problem((CHAT,), (FREE,), horizon_s=0.0), "horizon_s 0.0"),
    ],
)
def test_every_inconsistency_is_named_and_refused(problem: Problem, telling: str) -> None:
    assert any(telling in fault for fault in check(problem)), check(problem)
    with pytest.raises(ProblemError) as refused:
        plan(problem)
    assert telling in str(refused.value)


def test_a_sound_problem_has_no_faults() -> None:
    assert check(Problem((CHAT,), (FREE, GANG, NODE), Rules(10.0, 4))) == ()
