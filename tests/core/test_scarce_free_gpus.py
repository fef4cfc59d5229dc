"""Where free GPUs are too few for the load there was, a shortage of them lasts until training's serve.

Sizes, by hand (scripted.py): a decode replica gives 800 tokens/s, so 3,000 tokens/s keep 3.75, that is 4, GPUs busy.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import T0, at, decode, key, role_rules, rules, times

from autoscaler.economics import critical_ratio, tier_quantile
from autoscaler.memory import Memory
from autoscaler.model import Observation, Role, Stock, Tier
from autoscaler.rules import SupplyRules
from autoscaler.scarcity import with_scarce_stock
from autoscaler.supply import Lent, Supply
from autoscaler.tick import tick

LADDER = (SupplyRules(Tier.START, "gpu", 60.0, 2.5), SupplyRules(Tier.PREEMPT, "gpu", 105.0, 2.5, 1.0))
ROLE = role_rules(Role.DECODE, shortage_price=100.0)
GIVEN = rules(ROLE, supply=LADDER, quantile=None, least_quantile=0.5)


def remembered(*loads: float) -> Memory:
    memory = Memory()
    for when, load in zip(times(60.0 * len(loads), every=60.0), loads, strict=True):
        _, memory = tick(at(when, decode(load, 5)), memory, GIVEN)
    return memory


def stocked(free: int | None, preemptible: int | None = 8, lent: int = 0, accelerator: str = "gpu") -> Observation:
    waits = (Lent("gang", "gpu", lent, T0),) if lent else ()
    return at(180.0, stocks=(Stock(accelerator, free, preemptible),), supply=Supply(T0 + 180, lent=waits))


@pytest.mark.parametrize(
    ("seen", "scarce"),
    [
        (stocked(3), True),
        (stocked(4), False),
        # of seven, four are a gang's that waits for them
        (stocked(7, lent=4), True),
        (stocked(8, lent=4), False),
        (stocked(3, preemptible=0), False),
        (stocked(3, preemptible=None), False),
        (stocked(None), False),
        (stocked(3, accelerator="another"), False),
        (at(60.0), False),
    ],
)
def test_a_load_such_as_there_was_decides(seen: Observation, scarce: bool) -> None:
    """300 tokens/s now, 3,000 two minutes ago: each in a bin of its own."""
    found = with_scarce_stock(GIVEN, seen, remembered(3000.0, 300.0, 300.0))
    assert [rung.short_s for rung in found.supply] == [105.0 if scarce else None, None]


def test_nothing_is_scarce_before_any_load_was_seen_or_without_training() -> None:
    assert with_scarce_stock(GIVEN, stocked(0), Memory()) is GIVEN
    plain = replace(GIVEN, supply=LADDER[:1])
    assert with_scarce_stock(plain, stocked(0), remembered(3000.0)) is plain


def test_free_gpus_are_ordered_on_the_quantile_of_the_longer_shortage() -> None:
    """97.5 x 60 = 5,850 against 2.5 x 300 = 750: 88.6 %; lacking for 105 s: 10,237.5 against 750: 93.2 %."""
    scarce = replace(LADDER[0], short_s=105.0)
    assert critical_ratio(LADDER[0], ROLE, 300.0) == pytest.approx(5850 / 6600)
    assert critical_ratio(scarce, ROLE, 300.0) == pytest.approx(10237.5 / 10987.5)
    assert "lacking 105 s until training's GPUs serve" in tier_quantile(scarce, ROLE, GIVEN)[1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 30))
def test_less_load_is_never_scarcer(loads: list[float], less: float, free: int) -> None:
    full = with_scarce_stock(GIVEN, stocked(free), remembered(*loads))
    part = with_scarce_stock(GIVEN, stocked(free), remembered(*(load * less for load in loads)))
    assert full.supply[0].short_s is not None or part.supply[0].short_s is None


def test_the_decision_says_so() -> None:
    memory = remembered(3000.0, 300.0, 300.0)
    seen = replace(stocked(3), roles=at(180.0, decode(300.0, 2)).roles)
    decision, _ = tick(seen, memory, GIVEN)
    start = next(one for one in decision.roles[0].foreseen if one.tier is Tier.START)
    assert start.quantile == pytest.approx(10237.5 / 10987.5)
    assert decision.roles[0].key == key(Role.DECODE)
