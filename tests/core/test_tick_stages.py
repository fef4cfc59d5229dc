"""A tick tells where it is, so that a caller with a clock can say where its time went."""

from __future__ import annotations

from scripted import at, decode, role_rules, rules

from autoscaler.memory import Memory
from autoscaler.model import Role
from autoscaler.tick import Stage, tick


def test_the_stages_end_in_order_and_change_nothing() -> None:
    ended: list[Stage] = []
    seen, wanted = at(0.0, decode(3000.0)), rules(role_rules(Role.DECODE))
    assert tick(seen, Memory(), wanted, ended.append) == tick(seen, Memory(), wanted)
    assert ended == [Stage.OBSERVE, Stage.LEARN, Stage.FORECAST, Stage.PLAN, Stage.GUARD]
