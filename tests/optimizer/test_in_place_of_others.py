"""What takes another's place when it lands is not wanted beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supply_oracle import draw

from optimizer import (
    Demand,
    Do,
    Effort,
    Limits,
    Offer,
    Plan,
    Problem,
    Replicas,
    Source,
    Tier,
    Variant,
    plan,
    simple_pool,
)

if TYPE_CHECKING:
    from optimizer import RolePlan

EXACT = Effort(Limits(time_s=20.0, gap=0.0))
NONE_FREE = Source("free", Tier.START, "A", gpus=0, lead_s=100)
NODE = Offer("node", "A", gpus=8, price_per_hour=8.0, lead_s=900)


def made(pools: int) -> Plan:
    """Each has 6 replicas on GPUs at 1 an hour and needs 9 in 900 s; a node of 8 GPUs is paid for as a whole."""
    wanted = (Demand(0, 6.0), Demand(900, 9.0))
    variant = Variant("v", "A", 1, 1.0, 1.0, (Replicas(6),))
    several = tuple(simple_pool(f"chat-{n}", variant, wanted, shortage_price=50.0) for n in range(pools))
    return plan(Problem(several, (NONE_FREE,), offers=(NODE,)), EXACT)


def role(done: Plan, n: int = 0) -> RolePlan:
    return done.pools[f"chat-{n}"].roles[""]


def test_a_node_that_is_paid_for_anyway_relieves_what_ran_before() -> None:
    """8 start on the node and 5 of the 6 are let go as they land: 1 + 8 = 9, never 14."""
    done = made(1)
    assert [(one.do, one.replicas, one.now) for one in done.actions] == [
        (Do.PROVISION, 1, True),
        (Do.START, 8, True),
        (Do.RELEASE, 5, False),
    ]
    assert (role(done).target, role(done).at_once) == (14, 9)


def test_a_release_later_does_not_make_room_for_what_lands_before() -> None:
    """Two more from 100 s on, four fewer from 1,000 s on: eight serve at once between."""
    wanted = (Demand(0, 6.0), Demand(100, 8.0), Demand(1000, 4.0))
    variant = Variant("v", "A", 1, 1.0, 1.0, (Replicas(6),))
    free = Source("free", Tier.START, "A", gpus=4, lead_s=100)
    one = plan(Problem((simple_pool("chat-0", variant, wanted, shortage_price=50.0),), (free,)), EXACT)
    assert (role(one).target, role(one).at_once) == (8, 8)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 100_000))
def test_never_less_than_there_is_nor_more_than_all(seed: int) -> None:
    for pool in plan(draw(seed), EXACT).pools.values():
        for one in pool.roles.values():
            assert one.kept + one.awaited <= one.at_once <= one.target


@pytest.mark.parametrize("pools", [1, 12])
def test_planned_together_or_alone(pools: int) -> None:
    done = made(pools)
    assert {role(done, n).at_once for n in range(pools)} == {9}
