"""Needs further ahead than a free GPU takes to serve count only where the free GPUs will be too few.

A start takes 60 s, training's GPUs 105 s, a node 600 s (scripted pool; one GPU a replica).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ENGINE, at, decode, key, prefill, role_rules, rules, times

from autoscaler.demand import RoleDemand
from autoscaler.memory import Memory
from autoscaler.model import Observation, Role, RoleKey, Stock, Tier, Velocity
from autoscaler.reach import Points, within_reach
from autoscaler.rules import Rules, SupplyRules
from autoscaler.supply_plan import supply_plan
from autoscaler.tick import Counts, tick

LADDER = (
    SupplyRules(Tier.START, "gpu", 60.0, 2.5),
    SupplyRules(Tier.PREEMPT, "gpu", 105.0, 2.5, 1.0),
    SupplyRules(Tier.PROVISION, "gpu", 600.0, 2.5),
)
DECODE, PREFILL = key(Role.DECODE), key(Role.PREFILL)
GIVEN = rules(role_rules(Role.DECODE), supply=LADDER)
PAIR = rules(role_rules(Role.PREFILL), role_rules(Role.DECODE), supply=LADDER)
NEAR = ((0.0, 2), (60.0, 3))


def needs(*later: int) -> Points:
    """2 replicas now, 3 when a free GPU serves, and so many at 105 and at 600 s."""
    return (*NEAR, *zip((105.0, 600.0), later, strict=True))


def demanded(points: Points) -> RoleDemand:
    return RoleDemand(100.0, points, 100.0, Velocity(100.0, 0.0, "", "itl"), "", foreseen=(), planned=ENGINE)


def there(ready: int = 2, *, asleep: int = 0, base: int | None = None) -> Counts:
    return Counts(ready, ready, 0, ready if base is None else base, asked=True, asleep=asleep)


def stocked(free: int | None, accelerator: str = "gpu") -> Observation:
    return at(0.0, stocks=(Stock(accelerator, free, 8, 8),))


@pytest.mark.parametrize(
    ("free", "kept"),
    [
        (8, NEAR),
        (6, NEAR),
        # six wanted in 600 s where five are prepared: something slower has to be ordered
        (5, (*NEAR, (600.0, 6))),
        (4, (*NEAR, (600.0, 6))),
        (3, (*NEAR, (105.0, 4), (600.0, 6))),
        # nobody says how many there are: the plan takes them for as many as needed, and so does this
        (None, NEAR),
    ],
)
def test_what_the_prepared_gpus_can_still_give_is_not_asked_for_yet(free: int | None, kept: object) -> None:
    assert within_reach({DECODE: needs(4, 6)}, {DECODE: there()}, stocked(free), GIVEN) == {DECODE: kept}


def test_all_roles_draw_on_the_same_gpus() -> None:
    """4 + 4 at 105 s and 6 + 6 at 600 s: ten GPUs are enough for the one and too few for the other."""
    both = {DECODE: needs(4, 6), PREFILL: needs(4, 6)}
    found = within_reach(both, {DECODE: there(), PREFILL: there()}, stocked(10), PAIR)
    assert found == {PREFILL: (*NEAR, (600.0, 6)), DECODE: (*NEAR, (600.0, 6))}


def test_a_role_that_is_not_judged_keeps_what_it_was_asked_for() -> None:
    """Prefill is blind with five replicas asked for: of ten GPUs five are left, and six are wanted."""
    counts = {DECODE: there(), PREFILL: there(3, base=5)}
    assert within_reach({DECODE: needs(4, 6)}, counts, stocked(10), PAIR)[DECODE] == (*NEAR, (600.0, 6))
    counts = {DECODE: there(), PREFILL: there(3, base=4)}
    assert within_reach({DECODE: needs(4, 6)}, counts, stocked(10), PAIR)[DECODE] == NEAR


def test_sleepers_keep_their_gpus_from_the_others() -> None:
    """Prefill needs 4 later, has 2 and 5 sleep: 7 stay held, and 7 + 6 is more than twelve; with 4 asleep 6 + 6 fit."""
    both = {DECODE: needs(4, 6), PREFILL: needs(4, 4)}
    found = within_reach(both, {DECODE: there(), PREFILL: there(asleep=5)}, stocked(12), PAIR)
    assert found[DECODE] == (*NEAR, (600.0, 6))
    fits = within_reach(both, {DECODE: there(), PREFILL: there(asleep=4)}, stocked(12), PAIR)
    assert fits[DECODE] == NEAR


def test_without_free_gpus_as_a_rung_everything_counts() -> None:
    slow = replace(GIVEN, supply=LADDER[1:])
    assert within_reach({DECODE: needs(4, 6)}, {DECODE: there()}, stocked(50), slow)[DECODE] == needs(4, 6)


def test_replicas_are_not_kept_for_what_may_be_in_ten_minutes() -> None:
    """Seven serve, three are needed soon and seven perhaps in ten minutes, when seven free GPUs are a minute away."""
    made = supply_plan({DECODE: demanded(needs(4, 7))}, {DECODE: there(7)}, stocked(8), GIVEN)
    assert made is not None
    assert made.plan.pools[str(DECODE)].roles[""].target == 3
    scarce = supply_plan({DECODE: demanded(needs(4, 7))}, {DECODE: there(7)}, stocked(6), GIVEN)
    assert scarce is not None
    assert scarce.plan.pools[str(DECODE)].roles[""].target == 7


counts_of = st.integers(0, 40)


@given(counts_of, counts_of, counts_of, counts_of, st.integers(0, 60))
def test_more_load_never_leaves_fewer_needs(one: int, more: int, other: int, further: int, free: int) -> None:
    def most(given: dict[RoleKey, Points]) -> int:
        found = within_reach(given, {DECODE: there(), PREFILL: there()}, stocked(free), PAIR)
        return max(number for _, number in found[DECODE])

    less = {DECODE: needs(one, one + other), PREFILL: needs(other, other)}
    full = {DECODE: needs(one + more, one + more + other), PREFILL: needs(other + further, other + further)}
    assert most(less) <= most(full)


def ticked(load: float, free: int, given: Rules) -> int | None:
    """What decode is asked for after five quiet minutes of such a load."""
    memory, last = Memory(), None
    for when in times(300.0, every=15.0):
        seen = at(when, prefill(1000.0, 2), decode(load, 4), stocks=(Stock("gpu", free, 8, 8),))
        last, memory = tick(seen, memory, given)
    assert last is not None
    return next(role.desired for role in last.roles if role.key == DECODE)


def test_the_whole_tick_orders_further_ahead_only_where_gpus_will_lack() -> None:
    """With a margin on the present load the bound 600 s ahead is wider than the one 60 s ahead."""
    doubtful = replace(PAIR, fallback_margin=0.3)
    enough, short = ticked(2000.0, 40, doubtful), ticked(2000.0, 6, doubtful)
    assert enough is not None
    assert short is not None
    assert enough < short
