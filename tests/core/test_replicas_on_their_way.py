"""When replicas that were asked for will serve: with GPUs a start from now, without them when some come.

A start takes 60 s, training's GPUs 105 s, a node 600 s (scripted pool; one GPU a replica).
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ENGINE, T0, at, decode, key, prefill, role_rules, rules

from autoscaler.demand import RoleDemand
from autoscaler.memory import Memory
from autoscaler.model import Observation, Role, Stock, Tier, Velocity
from autoscaler.on_the_way import Ground, OnTheWay, on_the_way
from autoscaler.rules import Rules, SupplyRules
from autoscaler.supply import Coming, DomainStock, Gang, Lent, Supply
from autoscaler.supply_plan import Supplied, supply_plan
from autoscaler.tick import Counts, Planned, tick

LADDER = (
    SupplyRules(Tier.START, "gpu", 60.0, 2.5),
    SupplyRules(Tier.PREEMPT, "gpu", 105.0, 2.5, 1.0),
    SupplyRules(Tier.PROVISION, "gpu", 600.0, 2.5, granularity=8),
)
DECODE, PREFILL = key(Role.DECODE), key(Role.PREFILL)
PAIR = rules(role_rules(Role.PREFILL), role_rules(Role.DECODE), supply=LADDER)
ALONE = rules(role_rules(Role.DECODE), supply=LADDER)


def asked(ready: int, starting: int, *, asleep: int = 0, waking: int = 0) -> Counts:
    there = ready + starting
    return Counts(ready, there, starting, there, asked=True, asleep=asleep, waking=waking)


def node(ordered_s_ago: float | None, gpus: int = 8) -> Coming:
    since = None if ordered_s_ago is None else T0 - ordered_s_ago
    return Coming(f"node-{ordered_s_ago}", "gpu", gpus, "launched", since)


def leaving(gpus: int, *, serving: int, told_s_ago: float = 0.0) -> Supply:
    """One domain without a free GPU; training was told to go and holds `gpus` still."""
    one = DomainStock("gpu", (), 4, serving + gpus, 0, gpus, serving, 0)
    return Supply(T0, (one,), (), (Lent("Job/ml/a", "gpu", gpus, T0 - told_s_ago),))


def seen(
    free: int | None, supply: Supply | None = None, *, preemptible: int = 0, provisionable: int = 0
) -> Observation:
    return at(0.0, stocks=(Stock("gpu", free, preemptible, provisionable),), supply=supply)


def found(ready: int, starting: int, observed: Observation) -> OnTheWay:
    return on_the_way({DECODE: asked(ready, starting)}, observed, ALONE)[0][DECODE]


def test_free_gpus_carry_what_fits() -> None:
    """Six prepared GPUs, three serve: of five asked for three start now, for two nothing is there."""
    assert found(3, 5, seen(6)) == OnTheWay((60.0, 3), ungrounded=2)
    assert found(3, 3, seen(6)) == OnTheWay((60.0, 3))


def test_without_a_count_of_free_gpus_all_are_taken_to_have_theirs() -> None:
    assert found(3, 5, seen(None)) == OnTheWay((60.0, 5))
    assert found(3, 0, seen(None)) == OnTheWay()
    assert found(3, 5, at(0.0)) == OnTheWay((60.0, 5))


def test_what_training_is_leaving_serves_when_it_has_left() -> None:
    """It was told 40 s ago: 105 - 40 = 65 s; told 80 s ago, still a whole start of 60 s."""
    assert found(3, 2, seen(3, leaving(4, serving=3, told_s_ago=40.0))) == OnTheWay(waiting=((65.0, 2),))
    assert found(3, 2, seen(3, leaving(4, serving=3, told_s_ago=80.0))) == OnTheWay(waiting=((60.0, 2),))


def test_pods_that_go_within_moments_are_not_counted_twice() -> None:
    """Four GPUs are being left, and count as free already: for the fifth replica nothing is there."""
    assert found(3, 5, seen(7, leaving(4, serving=3))) == OnTheWay((60.0, 4), ungrounded=1)


def test_ordered_nodes_land_in_what_is_left_of_their_lead_time() -> None:
    """600 - 250 = 350 s; an order that nobody knows the time of counts from now; an old one is still a start away."""
    assert found(3, 2, seen(3, Supply(T0, coming=(node(250.0),)))) == OnTheWay(waiting=((350.0, 2),))
    assert found(3, 2, seen(3, Supply(T0, coming=(node(None),)))) == OnTheWay(waiting=((600.0, 2),))
    assert found(3, 2, seen(3, Supply(T0, coming=(node(900.0),)))) == OnTheWay(waiting=((60.0, 2),))


def test_the_sooner_ground_is_filled_first() -> None:
    """One free GPU, then the two of the older node, then the younger one; six asked for, 1 + 2 + 2 have ground."""
    supply = Supply(T0, coming=(node(100.0, 2), node(400.0, 2)))
    assert found(3, 6, seen(4, supply)) == OnTheWay((60.0, 1), ((200.0, 2), (500.0, 2)), ungrounded=1)


def test_roles_take_turns() -> None:
    """Three free GPUs for three prefill and three decode replicas: two and one."""
    counts = {PREFILL: asked(1, 3), DECODE: asked(1, 3)}
    got, _ = on_the_way(counts, seen(5), PAIR)
    assert got[PREFILL] == OnTheWay((60.0, 2), ungrounded=1)
    assert got[DECODE] == OnTheWay((60.0, 1), ungrounded=2)


def test_a_replica_of_two_gpus_does_not_stand_on_one() -> None:
    wide = rules(role_rules(Role.DECODE, gpus=2), supply=LADDER)
    got, spare = on_the_way({DECODE: asked(1, 2)}, seen(5, Supply(T0, coming=(node(0.0, 3),))), wide)
    assert got[DECODE] == OnTheWay((60.0, 1), ((600.0, 1),))
    assert spare == (Ground("gpu", 1, 600.0),)


def test_sleepers_that_wake_have_their_gpus() -> None:
    """Of six GPUs two serve, one wakes up and two sleep on: one of the two that start has a GPU."""
    wakes = replace(ALONE, wakes={DECODE: SupplyRules(Tier.WAKE, "gpu", 13.0, 2.5)})
    got, _ = on_the_way({DECODE: asked(2, 3, asleep=2, waking=1)}, seen(6), wakes)
    assert got[DECODE] == OnTheWay((60.0, 1), ungrounded=1)


def planned(ready: int, starting: int, needed: int, observed: Observation, given: Rules = ALONE) -> Supplied:
    """Decode needs so many from now on."""
    points = ((0.0, needed), (60.0, needed), (105.0, needed), (600.0, needed))
    speed = Velocity(100.0, 0.0, "", "itl")
    demand = RoleDemand(100.0, points, 100.0, speed, "", foreseen=(), planned=ENGINE)
    made = supply_plan({DECODE: demand}, {DECODE: asked(ready, starting)}, observed, given)
    assert made is not None
    return made


def takes(made: Supplied) -> dict[Tier, int]:
    found: dict[Tier, int] = {}
    for take in Planned.of(made).takes.get(str(DECODE), ()):
        found[take.tier] = found.get(take.tier, 0) + take.replicas
    return found


GANG = Gang("Job/ml/a", "gpu", 2, 0, (((), 2),), started_at=T0 - 100.0, checkpoint_at=T0 - 1.0)


def test_training_bridges_until_the_node_lands() -> None:
    """Two replicas wait for a node that is 500 s away; two GPUs of training serve 395 s sooner.

    Two replicas lacking for 395 s cost 2 x 20 x 395 / 3600 = 4.4; two GPUs for the time 2 x 2.5 x 0.11 = 0.6, being
    taken 2 x 1. Nothing more is wanted: the same pods land on training's GPUs.
    """
    supply = Supply(T0, gangs=(GANG,), coming=(node(100.0),))
    made = planned(3, 2, 5, seen(3, supply, preemptible=2))
    assert takes(made) == {Tier.PREEMPT: 2}
    assert Planned.of(made).target(DECODE) == 5


def test_a_node_about_to_land_needs_no_bridge() -> None:
    """Ordered 590 s ago, it serves as soon as training's GPUs would."""
    supply = Supply(T0, gangs=(GANG,), coming=(node(590.0),))
    assert takes(planned(3, 2, 5, seen(3, supply, preemptible=2))) == {}


def test_gpus_on_their_way_that_nobody_waits_for_are_used_before_others_are_taken() -> None:
    """Training leaves four GPUs for two replicas that wait: a third and a fourth need no second gang and no node."""
    supply = replace(leaving(4, serving=3), gangs=(GANG,))
    made = planned(3, 2, 7, seen(3, supply, preemptible=2, provisionable=8))
    assert takes(made) == {Tier.START: 2}
    assert Planned.of(made).target(DECODE) == 7


def test_what_is_needed_is_not_withdrawn_for_want_of_gpus() -> None:
    """Eight wanted, five GPUs and nothing to take: eight stay asked for, and no ninth is."""
    assert Planned.of(planned(5, 3, 8, seen(5))).target(DECODE) == 8
    assert Planned.of(planned(5, 3, 9, seen(5))).target(DECODE) == 8


def test_what_is_no_longer_needed_is() -> None:
    assert Planned.of(planned(5, 3, 6, seen(5))).target(DECODE) == 6
    assert Planned.of(planned(5, 3, 5, seen(5))).target(DECODE) == 5


def test_nor_is_what_the_minimum_asks_for() -> None:
    given = replace(ALONE, roles=(role_rules(Role.DECODE, minimum=8),))
    assert Planned.of(planned(5, 3, 2, seen(5), given)).target(DECODE) == 8


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_more_load_never_asks_for_fewer(ready: int, starting: int, needed: int, more: int, free: int) -> None:
    observed = seen(free, preemptible=3, provisionable=8)
    less = Planned.of(planned(ready, starting, needed, observed)).target(DECODE)
    most = Planned.of(planned(ready, starting, needed + more, observed)).target(DECODE)
    assert less is not None
    assert most is not None
    assert less <= most


def test_the_decision_says_who_waits_and_for_how_long() -> None:
    """Four wanted by the first tick, two serve on the only two GPUs; a node was ordered 100 s ago."""
    given_rules = replace(PAIR, roles=(role_rules(Role.PREFILL), role_rules(Role.DECODE, minimum=4)))
    observed = at(0.0, prefill(1000.0, 1), decode(100.0, 2), stocks=(Stock("gpu", 3, 0, 8),))
    _, memory = tick(observed, Memory(), given_rules)
    later = at(15.0, prefill(1000.0, 1), decode(100.0, 2), stocks=(Stock("gpu", 3, 0, 0),))
    decision, _ = tick(replace(later, supply=Supply(T0, coming=(node(100.0, 1),))), memory, given_rules)
    mine = next(role for role in decision.roles if role.key == DECODE)
    assert mine.desired == 4
    assert "1 asked for before wait for GPUs on their way, serving in 485 s" in mine.reasons
    assert "1 asked for before wait for GPUs that are neither there nor ordered" in mine.reasons
