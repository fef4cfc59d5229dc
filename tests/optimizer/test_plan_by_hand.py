"""Plans small enough to reckon by hand; each test carries its arithmetic.

Unless a test says otherwise: one replica serves 10, has one GPU at 1.0 per hour, the horizon is one hour, and lacking
one unit for an hour costs 5. Holding a replica for the hour therefore costs 1.0, and lacking one from t seconds on
50 x (3600 - t) / 3600. Moving a replica costs 0.001.
"""

from dataclasses import replace

import pytest

from optimizer import (
    Convertible,
    Demand,
    Disruption,
    Do,
    Domain,
    Effort,
    Gang,
    Limits,
    Offer,
    Plan,
    Pool,
    Problem,
    ProblemError,
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
    Wave,
    check,
    plan,
    simple_pool,
)

FREE = Source("free", Tier.START, "A", gpus=4, lead_s=115)
GANG = Gang("gang", "A", gpus=4, lead_s=160, since_checkpoint_s=1800)
NODE = Offer("node", "A", gpus=4, price_per_hour=4.0, lead_s=300, min_billing_s=600)
EXACT = Effort(Limits(time_s=20.0, gap=0.0))


def pool(*demand: float | tuple[float, float], running: int = 2, key: str = "chat", price: float = 5.0) -> Pool:
    points = tuple(Demand(*point) if isinstance(point, tuple) else Demand(0, point) for point in demand)
    return simple_pool(key, Variant("v", "A", 1, 10.0, 1.0, (Replicas(running),)), points, shortage_price=price)


def bounded(one: Pool, minimum: int = 0, maximum: int = 100, **changes: object) -> Pool:
    role = replace(one.roles[0], minimum=minimum, maximum=maximum, **changes)  # type: ignore[arg-type] # test shorthand
    return replace(one, roles=(role,))


def solved(problem: Problem) -> Plan:
    return plan(problem, EXACT)


def target(made: Plan, key: str = "chat", role: str = "") -> int:
    return made.pools[key].roles[role].target


def done(made: Plan, do: Do) -> list[tuple[str, int, float, float, float | None]]:
    return [(a.on or a.pool, a.replicas, a.at_s, a.lands_s, a.until_s) for a in made.actions if a.do is do]


def test_enough_runs_already_and_nothing_moves() -> None:
    made = solved(Problem((pool(20.0),), (FREE,), offers=(NODE,)))
    assert (made.status, target(made), made.actions) == (Status.OPTIMAL, 2, ())
    assert made.objective == pytest.approx(2 * 1.0)
    assert made.binding == ("capacity[chat@lead=0]",)


def test_free_gpus_go_before_a_gang_before_a_node() -> None:
    # 100 is 10 replicas: 2 run, 8 lack. 4 are free (1.0 each). Of the rest a gang of 4 costs 4 x 0.5 h of lost training
    # = 2.0 and its GPUs' hours; a node lands 140 s later, 4 x 50 x 140 / 3600 = 7.8 more. So free, then the gang.
    made = solved(Problem((pool(100.0),), (FREE,), (GANG,), (NODE,)))
    assert done(made, Do.START) == [("free", 4, 0.0, 115.0, None), ("gang", 4, 160.0, 160.0, None)]
    assert [a[0] for a in done(made, Do.PREEMPT)] == ["gang"]
    assert not done(made, Do.PROVISION)
    # Free GPUs are paid from the order (3600 s), the gang's from 160 s on (3440 s); 8 lack for 115 s, 4 for 45 s.
    assert made.cost.shortage == pytest.approx(50 * (8 * 115 + 4 * 45) / 3600)
    assert made.cost.total == pytest.approx(2 + 4 + 4 * 3440 / 3600 + 2.0 + made.cost.shortage + 8 * 0.001)


def test_gpus_about_to_be_free_go_before_a_gang() -> None:
    # Terminating GPUs serve at 145 s, the gang at 160 s and at a price: nothing is preempted.
    leaving = Source("terminating", Tier.START, "A", gpus=4, lead_s=145)
    made = solved(Problem((pool(60.0),), (leaving,), (GANG,)))
    assert [on for on, *_ in done(made, Do.START)] == ["terminating"]
    assert not done(made, Do.PREEMPT)


def test_a_gang_bridges_until_a_cheap_node_lands_and_is_given_back() -> None:
    # 4 replicas lack. Training is worth 3 per GPU-hour, a node 1: from 300 s on the node is 8 per hour cheaper. Waiting
    # for it instead would cost 4 x 50 x 140 / 3600 = 7.8; bridging costs 4 x 3 x 140 / 3600 = 0.47 and 4 x 3 x 60 s of
    # lost work = 0.2.
    dear = replace(GANG, price_per_gpu_hour=3.0, since_checkpoint_s=60)
    made = solved(Problem((pool(60.0),), (), (dear,), (NODE,)))
    assert done(made, Do.PREEMPT) == [("gang", 1, 0.0, 160.0, 300.0)]
    assert done(made, Do.PROVISION) == [("node", 1, 0.0, 300.0, None)]
    assert made.cost.shortage == pytest.approx(4 * 50 * 160 / 3600)


@pytest.mark.parametrize(("lost_s", "chosen"), [(600.0, Do.PREEMPT), (36000.0, Do.PROVISION)])
def test_nodes_are_bought_only_when_preemption_is_dearer(lost_s: float, chosen: Do) -> None:
    # Lost work: 4 x 600 s = 0.67, or 4 x 10 h = 40; the 140 s until the node cost 7.8.
    made = solved(Problem((pool(60.0),), (), (replace(GANG, since_checkpoint_s=lost_s),), (NODE,)))
    assert bool(done(made, chosen))
    assert made.status is Status.OPTIMAL


def test_an_order_that_can_wait_is_left_to_a_later_plan() -> None:
    # Load rises at 1800 s; a free GPU takes 115 s. Starting now would pay 1685 s for nothing.
    made = solved(Problem((pool((0, 20.0), (1800, 40.0)),), (FREE,)))
    assert target(made) == 2
    assert done(made, Do.START) == [("free", 2, 1685.0, 1800.0, None)]
    assert not any(action.now for action in made.actions)


@pytest.mark.parametrize(("price", "kept"), [(0.0, 1), (0.5, 2)])
def test_hysteresis_comes_from_what_getting_it_back_costs(price: float, kept: int) -> None:
    # Load dips from 2 replicas to 1 until 1200 s. Keeping the second costs 1200 / 3600 = 0.33. Letting it go and
    # starting again pays the 115 s of the start = 0.032, twice 0.001, and `price` for its state: 0.034 or 0.534.
    groups = (Replicas(2, release_price=price),)
    dipping = simple_pool(
        "chat", Variant("v", "A", 1, 10.0, 1.0, groups), (Demand(0, 10.0), Demand(1200, 20.0)), shortage_price=5.0
    )
    assert target(solved(Problem((dipping,), (FREE,)))) == kept


def test_the_replica_with_the_least_state_goes_first() -> None:
    # 3 run, 1 is needed: the one whose KV and prefix hits are worth 0.4 stays, those at 0.1 and 0.2 go (0.3 < 2 x 1.0).
    groups = (Replicas(1, release_price=0.1), Replicas(1, release_price=0.4), Replicas(1, release_price=0.2))
    one = simple_pool("chat", Variant("v", "A", 1, 10.0, 1.0, groups), (Demand(0, 10.0),), shortage_price=5.0)
    made = solved(Problem((one,), (FREE,)))
    assert made.cost.released == pytest.approx(0.1 + 0.2 + 2 * 0.001)
    assert target(made) == 1


def test_a_long_drain_is_paid_for() -> None:
    # Releasing saves 1.0; draining for two hours would cost 2.0.
    one = simple_pool(
        "chat", Variant("v", "A", 1, 10.0, 1.0, (Replicas(1, drain_s=7200),)), (Demand(0, 0.0),), shortage_price=5.0
    )
    assert target(solved(Problem((one,), (FREE,)))) == 1


@pytest.mark.parametrize(("billing_s", "nodes"), [(0.0, 1), (36000.0, 0)])
def test_minimum_billing_is_paid_to_its_end(billing_s: float, nodes: int) -> None:
    # One replica lacks between 300 s and 900 s: 50 x 600 / 3600 = 8.3. The node costs 4 x 600 / 3600 = 0.67 without,
    # and 4 x 10 h = 40 with a minimum billing of ten hours.
    one = pool((0, 20.0), (300, 30.0), (900, 20.0))
    made = solved(Problem((one,), (), (), (replace(NODE, min_billing_s=billing_s),)))
    assert sum(count for _, count, *_ in done(made, Do.PROVISION)) == nodes


def test_a_node_paid_for_already_stays_and_then_goes() -> None:
    # A node held since before is paid until 900 s and nobody needs it: it is given back then, not before.
    made = solved(Problem((pool(20.0),), (), (), (replace(NODE, held=1, paid_s=900.0),)))
    assert done(made, Do.RETURN) == [("node", 1, 900.0, 900.0, None)]


def test_training_gets_its_gpus_back_when_the_load_ends() -> None:
    # The held gang carries 2 replicas of 4; from 600 s on the 2 on own GPUs suffice.
    variant = Variant("v", "A", 1, 10.0, 1.0, (Replicas(2), Replicas(2, source="gang")))
    one = simple_pool("chat", variant, (Demand(0, 40.0), Demand(600, 20.0)), shortage_price=5.0)
    made = solved(Problem((one,), (), (replace(GANG, held=True),)))
    assert done(made, Do.RETURN) == [("gang", 1, 600.0, 600.0, None)]
    assert done(made, Do.RELEASE) == [("gang", 2, 600.0, 600.0, None)]


def test_gangs_go_whole_and_one_replica_is_not_worth_one() -> None:
    # One replica lacks. The gang costs 4 GPUs x 3440 s = 3.8 and 4 x 8 h lost = 32; a node 4 x 3300 s = 3.7 and 1.9.
    made = solved(Problem((pool(30.0),), (), (replace(GANG, since_checkpoint_s=8 * 3600),), (NODE,)))
    assert [on for on, *_ in done(made, Do.START)] == ["node"]


def test_lower_priority_goes_first_even_where_it_loses_more() -> None:
    # Two gangs of 4; priority 1 lost 0.5 h of work, priority 9 none. By price alone the important one would go.
    low, high = replace(GANG, key="low", priority=1), replace(GANG, key="high", priority=9, since_checkpoint_s=0)
    problem = Problem((pool(60.0),), (), (high, low))
    assert [on for on, *_ in done(solved(problem), Do.PREEMPT)] == ["low"]
    free = replace(problem, rules=Rules(priority_order=False))
    assert [on for on, *_ in done(solved(free), Do.PREEMPT)] == ["high"]


def test_never_above_a_priority() -> None:
    made = solved(Problem((pool(60.0),), (), (replace(GANG, priority=5),), rules=Rules(never_above_priority=4)))
    assert made.actions == ()
    assert {amount for _, amount in made.pools["chat"].shortage} == {40.0}


def test_no_more_gangs_of_a_group_than_its_budget_allows() -> None:
    gangs = tuple(replace(GANG, key=f"g{n}", group="research") for n in range(3))
    made = solved(Problem((pool(140.0),), (), gangs, rules=Rules(disruptions=(Disruption("research", 2),))))
    assert len(done(made, Do.PREEMPT)) == 2
    assert "disruption[research]" in made.binding


def test_the_limit_on_preempted_gpus_holds() -> None:
    gangs = tuple(replace(GANG, key=f"g{n}") for n in range(3))
    made = solved(Problem((pool(140.0),), (), gangs, rules=Rules(max_gpus_preempted=8)))
    assert sum(a.gpus for a in made.actions if a.do is Do.PREEMPT) == 8
    assert "max_gpus_preempted" in made.binding


def test_a_young_gang_runs_its_minimum_first() -> None:
    # It has run 100 of 400 s: it can be taken in 300 s, and serves 160 s later.
    made = solved(Problem((pool(60.0),), (), (replace(GANG, min_run_s=400, ran_s=100),)))
    assert done(made, Do.PREEMPT) == [("gang", 1, 0.0, 460.0, None)]


@pytest.mark.parametrize(("times", "taken"), [(0.0, 1), (9.0, 0)])
def test_what_would_be_taken_again_and_again_is_left_alone(times: float, taken: int) -> None:
    # 1 unit of 10 lacks until the node lands at 300 s, worth 50 x 140 / 3600 = 1.9. Taking loses 4 x 900 s = 1.0, or
    # ten times that if it is expected to be taken nine times again.
    cheap = replace(NODE, price_per_hour=0.4)
    gang = replace(GANG, since_checkpoint_s=900, repreemptions=times, price_per_gpu_hour=1.0)
    made = solved(Problem((pool(30.0),), (), (gang,), (cheap,)))
    assert len(done(made, Do.PREEMPT)) == taken


def test_replicas_lie_whole_within_nodes() -> None:
    # 10 free GPUs in fragments of 4, 4 and 2: two replicas of 4 GPUs fit, not the two and a half of 10 / 4.
    wide = simple_pool("chat", Variant("v", "A", 4, 10.0), (Demand(0, 30.0),), shortage_price=50.0)
    made = solved(Problem((wide,), (replace(FREE, gpus=10, fragment=4),)))
    assert target(made) == 2
    slim = simple_pool("slim", Variant("v", "A", 2, 10.0), (Demand(0, 30.0),), shortage_price=50.0)
    made = solved(Problem((wide, slim), (replace(FREE, gpus=10, fragment=4),)))
    # 3 slim ones serve as much as 3 wide ones with half the GPUs: 2 in a fragment of 4 and 1 in that of 2; 1 wide.
    assert (target(made, "slim"), target(made, "chat")) == (3, 1)


def test_the_ratio_of_prefill_to_decode_is_solved() -> None:
    # A prefill replica serves 30, a decode replica 10. 60 need 2 and 6, whatever there was.
    roles = (Role("prefill", (Variant("", "A", 1, 30.0),)), Role("decode", (Variant("", "A", 1, 10.0),)))
    both = Pool("chat", (Demand(0, 60.0),), roles, (ServiceClass("", 1.0, 5.0),))
    made = solved(Problem((both,), (replace(FREE, gpus=20),)))
    assert (target(made, role="prefill"), target(made, role="decode")) == (2, 6)
    # With 5 GPUs: 1 prefill and 3 decode serve 30, 2 and 3 too; the fifth would serve nothing but as the fourth decode,
    # which finds no prefill. Cheapest: 4.
    made = solved(Problem((both,), (replace(FREE, gpus=5),)))
    assert (target(made, role="prefill"), target(made, role="decode")) == (1, 3)


def pair(*, cross_price: float = 0.0, link: float = 0.0) -> Pool:
    roles = (Role("prefill", (Variant("", "A", 1, 10.0),)), Role("decode", (Variant("", "A", 1, 10.0),)))
    return Pool("chat", (Demand(0, 20.0),), roles, (ServiceClass("", 1.0, 5.0),), cross_price, link)


def in_domains(*gpus: int) -> tuple[Source, ...]:
    return tuple(replace(FREE, key=f"free{n}", gpus=count, domain=f"d{n}") for n, count in enumerate(gpus))


def test_pairs_prefer_one_domain() -> None:
    # 2 prefill and 2 decode replicas; d0 has 4 GPUs, d1 and d2 have 2 each: all pairs fit within a domain.
    made = solved(Problem((pair(cross_price=1.0),), in_domains(4, 2, 2)))
    assert made.cost.cross == 0.0
    assert made.pools["chat"].shortage == ((0.0, 20.0), (115.0, 0.0))  # only until they start


def test_what_crosses_is_bounded_and_said() -> None:
    # 3 + 1 GPUs: one pair in d0, the other across: 10 of 20 cross. At most a fifth may: of 10 served within, 2.5 more
    # can, so 12.5 are served at 115 s.
    problem = Problem((pair(cross_price=0.1),), in_domains(3, 1), rules=Rules(cross_share=0.2))
    made = solved(problem)
    assert dict(made.pools["chat"].shortage)[115.0] == pytest.approx(7.5)
    assert "cross[chat]" in made.binding
    free = solved(replace(problem, rules=Rules()))
    assert free.cost.cross == pytest.approx(0.1 * 10 * 3485 / 3600)
    assert dict(free.pools["chat"].shortage)[115.0] == 0.0


def test_the_link_of_a_domain_is_part_of_the_problem() -> None:
    # d0 carries 10 of load, each unit puts 1 on it: 10 are served there, the other pair goes to d1.
    domains = (Domain("d0", link=10.0), Domain("d1", link=10.0))
    made = solved(Problem((pair(cross_price=1.0, link=1.0),), in_domains(4, 4), domains=domains))
    assert {(a.domain, a.replicas) for a in made.actions} == {("d0", 1), ("d1", 1)}


def test_convertible_decoders_are_sized_by_the_burst() -> None:
    # Bursts of 15 above 20. A converted decode replica prefills 10: two are kept ready at 0.01 an hour each, cheaper
    # than two more prefill replicas at 1.0. The burst in decode is not looked at: there is spare capacity of 30.
    decode = Variant("", "A", 1, 10.0, 1.0, (Replicas(5),), convertible=Convertible("prefill", 10.0, 0.0, 0.01))
    roles = (Role("prefill", (Variant("", "A", 1, 10.0, 1.0, (Replicas(2),)),)), Role("decode", (decode,), minimum=5))
    both = Pool("chat", (Demand(0, 20.0, 15.0),), roles, (ServiceClass("", 1.0, 5.0),), burst_price=1.0)
    made = solved(Problem((both,), (FREE,)))
    assert [(a.role, a.replicas) for a in made.actions if a.do is Do.CONVERT] == [("decode", 2)]
    assert made.cost.converted == pytest.approx(2 * 0.01)
    assert made.cost.shortage == 0.0


def test_premium_is_served_first() -> None:
    # 10 of 40 are premium at 20, the rest at 0.05 per unit and hour: a replica of the rest is worth 0.5, less than 1.0.
    classes = (ServiceClass("free", 0.75, 0.05), ServiceClass("premium", 0.25, 20.0))
    one = replace(pool(40.0, running=0), classes=classes)
    made = solved(Problem((one,), (replace(FREE, lead_s=0),)))
    assert target(made) == 1
    assert made.cost.shortage == pytest.approx(30 * 0.05)


def test_the_cheaper_variant_is_taken_while_there_is_any() -> None:
    # B serves 10 for 1.0, A serves 30 for 2.0 (0.67 per 10): 80 are 2 A (60), the stock, and 2 B.
    variants = (Variant("a", "A", 2, 30.0), Variant("b", "B", 1, 10.0))
    one = Pool("chat", (Demand(0, 80.0),), (Role("", variants),), (ServiceClass("", 1.0, 5.0),))
    sources = (replace(FREE, lead_s=0), replace(FREE, key="b", accelerator="B", gpus=9, lead_s=0))
    made = solved(Problem((one,), sources))
    assert dict(made.pools["chat"].roles[""].by_variant) == {"a": 2, "b": 2}


def test_no_more_start_at_once_than_weights_can_be_fed() -> None:
    # 2 at once from a peer in 25 s, any number from the store in 200 s; 6 are needed. At 25 s 2 serve, two more at
    # 50 s, two more at 75 s: all sooner than from the store.
    variant = Variant("v", "A", 1, 10.0, waves=(Wave(2, 25.0), Wave(None, 200.0)))
    one = simple_pool("chat", variant, (Demand(0, 60.0),), shortage_price=5.0)
    problem = Problem((one,), (replace(FREE, gpus=9, lead_s=0),), points_s=(0.0, 25.0, 50.0, 75.0, 200.0))
    made = solved(problem)
    assert [(a.replicas, a.lands_s) for a in made.actions] == [(2, 25.0), (2, 50.0), (2, 75.0)]
    assert "waves[chat/0]" in made.binding


@pytest.mark.parametrize(("lead_s", "left"), [(13.0, 0), (115.0, 1)])
def test_to_zero_only_where_something_wakes_in_time(lead_s: float, left: int) -> None:
    # Nothing is asked for. Going to zero is allowed where a replica could serve again within 20 s.
    sleeping = Source("asleep", Tier.WAKE, "A", gpus=2, lead_s=lead_s, only_for=("chat",))
    one = bounded(pool(0.0), wake_target_s=20.0)
    assert target(solved(Problem((one,), (sleeping,)))) == left


def test_the_cheapest_way_to_wake_is_taken() -> None:
    # Waking (13 s) and starting (115 s) cost the same per hour: waking serves 102 s earlier.
    asleep = Source("asleep", Tier.WAKE, "A", gpus=1, lead_s=13, only_for=("chat",))
    made = solved(Problem((pool(30.0),), (FREE, asleep)))
    assert done(made, Do.WAKE) == [("asleep", 1, 0.0, 13.0, None)]
    others = solved(Problem((pool(30.0, key="other"), pool(20.0)), (FREE, asleep)))
    assert not done(others, Do.WAKE)


def test_a_released_gpu_of_a_source_serves_another_pool() -> None:
    # No GPU is free but the one that "low" holds of the source; "high" lacks one and is worth ten times as much.
    low = simple_pool(
        "low", Variant("v", "A", 1, 10.0, 1.0, (Replicas(1, source="free"),)), (Demand(0, 10.0),), shortage_price=0.5
    )
    high = pool(10.0, running=0, key="high")
    made = solved(Problem((low, high), (replace(FREE, gpus=1, lead_s=0),)))
    assert (target(made, "low"), target(made, "high")) == (0, 1)


def test_what_is_starting_is_never_ordered_again() -> None:
    groups = (Replicas(2), Replicas(1, lands_in_s=40.0), Replicas(2, lands_in_s=100.0))
    one = simple_pool("chat", Variant("v", "A", 1, 10.0, 1.0, groups), (Demand(0, 50.0),), shortage_price=5.0)
    made = solved(Problem((one,), (FREE,)))
    assert (target(made), made.pools["chat"].roles[""].awaited, made.actions) == (5, 3, ())
    assert made.cost.shortage == pytest.approx(50 * (3 * 40 + 2 * 60) / 3600)


def test_a_lowered_maximum_gives_up_what_is_starting_before_what_runs() -> None:
    groups = (Replicas(3), Replicas(2, lands_in_s=100.0))
    one = simple_pool("chat", Variant("v", "A", 1, 10.0, 1.0, groups), (Demand(0, 50.0),), shortage_price=5, maximum=3)
    role = solved(Problem((one,), (FREE,))).pools["chat"].roles[""]
    assert (role.target, role.kept, role.given_up) == (3, 3, 2)


def test_quota_and_maximum_hold_and_are_named() -> None:
    made = solved(Problem((pool(90.0),), (FREE,), rules=Rules(quotas=(Quota("team", 3, "A", ("chat",)),))))
    assert target(made) == 3
    assert "quota[team]" in made.binding
    made = solved(Problem((bounded(pool(90.0), maximum=5), pool(20.0, key="other")), (FREE,)))
    assert target(made) == 5
    assert "maximum[chat]" in made.binding


def test_the_budget_goes_to_the_dearer_shortage() -> None:
    vital, plain = pool(30.0, running=1, key="vital", price=10.0), pool(30.0, running=1, key="plain")
    made = solved(Problem((plain, vital), (replace(FREE, gpus=10),), rules=Rules(budget_per_hour=4.0)))
    assert (target(made, "vital"), target(made, "plain")) == (3, 1)
    assert "budget" in made.binding


def test_rules_give_way_in_their_order_and_say_so() -> None:
    # A minimum of 3 at 1.0 each against a budget of 2.0: the budget gives way by 1.0 and by no more, though 9 lack.
    problem = Problem((bounded(pool(90.0), minimum=3),), (FREE,), rules=Rules(budget_per_hour=2.0))
    made = solved(problem)
    assert (made.status, made.relaxed, target(made)) == (Status.OPTIMAL, ("budget",), 3)
    stubborn = solved(replace(problem, rules=Rules(budget_per_hour=2.0, relax=())))
    assert (stubborn.status, stubborn.relaxed) == (Status.INFEASIBLE, ("minimum[chat]",))


def test_the_ratio_gives_way_last() -> None:
    # 1 decode replica at least per prefill replica, 2 prefill wanted, but only A is there for prefill and no B.
    roles = (
        Role("prefill", (Variant("", "A", 1, 10.0),), minimum=2),
        Role("decode", (Variant("", "B", 1, 10.0),)),
    )
    both = Pool(
        "chat", (Demand(0, 20.0),), roles, (ServiceClass("", 1.0, 5.0),), ratios=(Ratio("prefill", "decode", 0, 1),)
    )
    sources = (FREE, replace(FREE, key="b", accelerator="B", gpus=1))
    made = solved(Problem((both,), sources, rules=Rules(budget_per_hour=50.0, relax=(Rule.BUDGET, Rule.RATIO))))
    assert made.relaxed == ("ratio",)
    assert (target(made, role="prefill"), target(made, role="decode")) == (2, 1)


def test_minimums_that_cannot_be_met_are_named_with_the_best_effort() -> None:
    made = solved(Problem((bounded(pool(0.0), minimum=9),), (FREE,)))
    assert (made.status, made.relaxed, target(made)) == (Status.INFEASIBLE, ("minimum[chat]",), 6)


def test_the_plan_says_what_the_next_best_costs_and_what_more_would_save() -> None:
    # 6 lack, 4 are free. Without preemption 2 lack for an hour. One more free GPU saves more than it costs.
    made = plan(Problem((pool(80.0),), (FREE,), (GANG,)), replace(EXACT, changes=True))
    assert made.alternative is not None
    assert made.alternative.without_tier == "preempt"
    without = solved(Problem((pool(80.0),), (FREE,)))
    assert made.alternative.cost == pytest.approx(without.objective)
    assert without.objective > made.objective
    assert any(change.limit.startswith("stock[free") and change.saves > 0 for change in made.changes)


def test_no_time_gives_the_greedy_plan_and_says_so() -> None:
    pools = tuple(pool(60.0 + n, key=f"p{n}") for n in range(12))
    problem = Problem(pools, (replace(FREE, gpus=25),), tuple(replace(GANG, key=f"g{n}") for n in range(4)))
    made = plan(problem, Effort(Limits(time_s=0.0, gap=0.0)))
    assert made.status is Status.GREEDY
    assert "out of time" in made.reasons[0]
    assert sum(a.gpus for a in made.actions if a.on == "free") <= 25


def test_nothing_asked_nothing_planned() -> None:
    made = plan(Problem(()))
    assert (made.status, made.actions, made.objective) == (Status.OPTIMAL, (), 0.0)


NAN = float("nan")
CHAT = pool(20.0)


def changed(**changes: object) -> Pool:
    variant = replace(CHAT.roles[0].variants[0], **changes)  # type: ignore[arg-type] # test shorthand
    return replace(CHAT, roles=(replace(CHAT.roles[0], variants=(variant,)),))


@pytest.mark.parametrize(
    ("problem", "telling"),
    [
        (Problem((CHAT, CHAT), (FREE,)), "pool 'chat' is given 2 times"),
        (Problem((CHAT,), (FREE, FREE)), "'free' is given 2 times"),
        (Problem((bounded(CHAT, minimum=5, maximum=4),), (FREE,)), "minimum 5 is above maximum 4"),
        (Problem((changed(accelerator="B"),), (FREE,)), "nothing offers accelerator 'B'"),
        (Problem((pool(NAN),), (FREE,)), "demand at 0 s nan"),
        (Problem((pool(-1.0),), (FREE,)), "demand at 0 s -1.0"),
        (Problem((replace(CHAT, demand=()),), (FREE,)), "demand is empty"),
        (Problem((pool((5, 1.0), (5, 2.0)),), (FREE,)), "after the one before"),
        (Problem((changed(capacity=0.0),), (FREE,)), "capacity 0.0"),
        (Problem((changed(gpus=0),), (FREE,)), "gpus 0"),
        (Problem((changed(gpus=True),), (FREE,)), "gpus True"),
        (Problem((changed(replicas=(Replicas(-1),)),), (FREE,)), "replicas count -1"),
        (Problem((changed(replicas=(Replicas(1, source="ghost"),)),), (FREE,)), "replicas on 'ghost'"),
        (Problem((changed(replicas=(Replicas(9, source="free"),)),), (FREE,)), "replicas hold 9 of its 4 GPUs"),
        (Problem((changed(waves=(Wave(1, 30.0), Wave(None, 20.0))),), (FREE,)), "fastest first"),
        (Problem((changed(convertible=Convertible("prefill", 1.0)),), (FREE,)), "converts to role 'prefill'"),
        (Problem((replace(CHAT, classes=(ServiceClass("", 0.5, 1.0),)),), (FREE,)), "must add up to 1"),
        (Problem((replace(CHAT, ratios=(Ratio("x", "", 0, 1),)),), (FREE,)), "ratio of 'x' per ''"),
        (Problem((CHAT,), (replace(FREE, gpus=-1),)), "gpus -1"),
        (Problem((CHAT,), (replace(FREE, lead_s=float("inf")),)), "lead_s inf"),
        (Problem((CHAT,), (replace(FREE, granularity=0),)), "granularity 0"),
        (Problem((CHAT,), (replace(FREE, only_for=("ghost",)),)), "only_for names 'ghost'"),
        (Problem((CHAT,), (replace(FREE, tier=Tier.CONVERT),)), "make variants convertible"),
        (Problem((CHAT,), (FREE,), (replace(GANG, ran_s=NAN),)), "ran_s nan"),
        (Problem((CHAT,), (FREE,), (), (replace(NODE, held=3, quota=2),)), "held 3 is above its quota 2"),
        (
            Problem((changed(gpus=2), replace(pool(1.0, key="b"), roles=changed(gpus=3).roles)), (), (), (NODE,)),
            "divide",
        ),
        (Problem((CHAT,), (replace(FREE, domain="x"),), domains=(Domain("d"),)), "'x', which is no domain"),
        (Problem((CHAT,), (FREE,), rules=Rules(budget_per_hour=NAN)), "budget_per_hour nan"),
        (Problem((CHAT,), (FREE,), rules=Rules(max_gpus_preempted=-1)), "max_gpus_preempted -1"),
        (Problem((CHAT,), (FREE,), rules=Rules(cross_share=1.5)), "cross_share 1.5"),
        (Problem((CHAT,), (FREE,), rules=Rules(quotas=(Quota("q", 1, "", ("ghost",)),))), "names 'ghost'"),
        (Problem((CHAT,), (FREE,), horizon_s=0.0), "horizon_s 0.0"),
        (Problem((CHAT,), (FREE,), points_s=(5.0, 1.0)), "points_s"),
    ],
)
def test_every_inconsistency_is_named_and_refused(problem: Problem, telling: str) -> None:
    assert any(telling in fault for fault in check(problem)), check(problem)
    with pytest.raises(ProblemError) as refused:
        plan(problem)
    assert telling in str(refused.value)


def test_a_sound_problem_has_no_faults() -> None:
    assert check(Problem((CHAT,), (FREE,), (GANG,), (NODE,), rules=Rules(10.0, 4))) == ()
