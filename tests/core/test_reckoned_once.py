"""What lead times alone decide is reckoned when they change, not at every tick; by identity, so never wrongly."""

from __future__ import annotations

from dataclasses import replace

from scripted import T0, role_rules, rules

from autoscaler.leadtimes import LeadTimes, learned, with_learned_leads
from autoscaler.memory import Memory, RoleMemory
from autoscaler.model import Role, Start, Step, Tier
from autoscaler.rules import SupplyRules
from autoscaler.same import Same

RULE = role_rules(Role.PREFILL)
RUNG = SupplyRules(Tier.START, "gpu", 115.0, 2.5, spread=1.7)
RULES = rules(RULE, supply=(RUNG,))


def taught(seconds: float) -> Memory:
    start = Start("a", Tier.START, T0 - seconds, T0, ((Step.ENGINE, seconds),))
    return Memory({RULE.key: RoleMemory(leads=learned(LeadTimes.none(), [start], T0, [RUNG]))})


def test_the_same_is_told_by_identity() -> None:
    one, alike = [1.0], [1.0]
    assert Same(one) == Same(one)
    assert hash(Same(one)) == hash(Same(one))
    assert Same(one) != Same(alike)
    assert Same(one) != one


def test_rules_stay_the_same_object_while_nothing_was_learned() -> None:
    memory = taught(60.0)
    led = with_learned_leads(RULES, memory)
    assert with_learned_leads(RULES, memory) is led
    assert led.supply[0].lead_s != RUNG.lead_s


def test_what_was_learned_is_seen_at_once() -> None:
    slow, fast = (with_learned_leads(RULES, taught(seconds)).supply[0].lead_s for seconds in (400.0, 20.0))
    assert slow > fast


def test_other_rules_are_not_mistaken_for_these() -> None:
    memory = taught(60.0)
    dearer = replace(RULES, supply=(replace(RUNG, price_per_gpu_hour=9.0),))
    assert with_learned_leads(RULES, memory).supply[0].price_per_gpu_hour == 2.5
    assert with_learned_leads(dearer, memory).supply[0].price_per_gpu_hour == 9.0
