"""Lead times from the starts that were seen, per role, tier and step; and what the tick makes of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scripted import T0, at, key, prefill, role_rules, rules

from autoscaler.journal import plain_decision
from autoscaler.leadtimes import LeadTimes, lead, learned
from autoscaler.memory import Memory, RoleMemory
from autoscaler.model import Role, Start, Step, Tier
from autoscaler.rules import SupplyRules
from autoscaler.saved import from_saved, to_saved
from autoscaler.tick import tick

RUNG = SupplyRules(Tier.START, "gpu", 115.0, 2.5, spread=200.0 / 115.0)
NONE = LeadTimes.none()


def start(name: str, seconds: float, at_s: float = T0, tier: Tier = Tier.START, **steps: float) -> Start:
    told = tuple((Step(step), took) for step, took in steps.items())
    return Start(name, tier, at_s - seconds, at_s, told)


def many(seconds: list[float], tier: Tier = Tier.START) -> tuple[Start, ...]:
    return tuple(start(f"pod-{tier}-{i}", took, T0 - len(seconds) + i, tier) for i, took in enumerate(seconds))


def test_without_starts_the_configured_median_and_spread_give_the_quantile() -> None:
    """Median 115 and p90 200: planned at p90 for 200 s; with a spread of 1 the figure stands."""
    assert lead(NONE, RUNG, 0.9).seconds == pytest.approx(200.0, rel=1e-3)
    assert lead(NONE, replace(RUNG, spread=1.0), 0.9).seconds == 115.0


def test_twenty_starts_replace_the_configured_lead() -> None:
    """Replicas really take about 40 s; 115 s were configured."""
    took = (40.0 * np.exp(0.2 * np.random.default_rng(5).standard_normal(20))).tolist()
    known = learned(NONE, many(took), T0, (RUNG,))
    found = lead(known, RUNG, 0.9)
    assert found.seconds == pytest.approx(40.0 * math.exp(0.2 * 1.2816), rel=0.2)
    assert found.basis == "p90 of 20 starts"


def test_a_start_counts_once_however_often_it_is_told() -> None:
    told = many([50.0, 60.0])
    known = learned(NONE, told, T0, (RUNG,))
    assert learned(known, told, T0 + 15, (RUNG,)) is known
    assert known.starts(Tier.START) == 2


def test_what_the_steps_leave_of_the_whole_is_registration() -> None:
    """100 s in all, of which 10 scheduling and 70 loading: 20 s until the first token."""
    known = learned(NONE, (start("a", 100.0, schedule=10.0, weights=70.0),), T0, (RUNG,))
    found = {step: math.exp(durations.logs[0]) for (_, step), durations in known.steps.items()}
    assert found == pytest.approx({Step.SCHEDULE: 10.0, Step.WEIGHTS: 70.0, Step.REGISTRATION: 20.0})


def test_a_tier_never_used_borrows_the_steps_it_shares() -> None:
    """Weights turn out to take 600 s on free GPUs: preempted ones will not load them sooner."""
    preempt = SupplyRules(Tier.PREEMPT, "gpu", 160.0, 2.5, spread=1.87)
    before = lead(NONE, preempt, 0.9).seconds
    starts = tuple(start(f"p{i}", 620.0, weights=600.0, engine=20.0) for i in range(20))
    known = learned(NONE, starts, T0, (RUNG, preempt))
    assert lead(known, preempt, 0.9).seconds > 600.0 > before
    assert "other tiers" in lead(known, preempt, 0.9).basis


@pytest.mark.parametrize(
    "wrong",
    [
        start("future", 50.0, T0 + 60),
        start("old", 50.0, T0 - 8000),
        Start("backwards", Tier.START, T0, T0 - 50),
        Start("forever", Tier.START, T0 - 1e7, T0),
        start("nan", math.nan),
    ],
)
def test_starts_nobody_can_have_made_teach_nothing(wrong: Start) -> None:
    assert learned(NONE, (wrong,), T0, (RUNG,)) is NONE


def test_the_tick_orders_ahead_by_what_starts_really_take() -> None:
    """60 s configured, 300 s seen: the bound is that of five minutes, and the decision says why."""
    given = rules(role_rules(Role.PREFILL))
    told = replace(prefill(3000.0), starts=many([300.0] * 20))
    decision, memory = tick(at(0.0, told), Memory(), given)
    one = decision.roles[0].foreseen[0]
    assert one.lead_s == pytest.approx(300.0, rel=0.2)
    assert f"start takes {one.lead_s:.0f} s (p90 of 20 starts)" in decision.roles[0].sentence
    assert memory.of(key(Role.PREFILL)).leads.starts(Tier.START) == 20
    assert given.supply[0].lead_s == 60.0


def test_learned_leads_and_kept_bounds_survive_a_restart() -> None:
    given = rules(role_rules(Role.PREFILL))
    told = replace(prefill(3000.0), starts=many([30.0, 40.0, 50.0]))
    _, memory = tick(at(0.0, told), Memory(), given)
    again = from_saved(json.loads(json.dumps(to_saved(memory))))
    ours, theirs = memory.of(key(Role.PREFILL)), again.of(key(Role.PREFILL))
    assert (theirs.leads, theirs.kept, theirs.under_way) == (ours.leads, ours.kept, ours.under_way)
    first, _ = tick(at(15.0, told), memory, given)
    second, _ = tick(at(15.0, told), again, given)
    assert plain_decision(first) == plain_decision(second)


def test_a_memory_saved_before_leads_were_learned_is_still_read() -> None:
    plain = json.loads(json.dumps(to_saved(Memory({key(Role.PREFILL): RoleMemory(desired=3)}, T0))))
    for name in ("leads", "under_way", "kept"):
        del plain["roles"][str(key(Role.PREFILL))][name]
    assert from_saved(plain).of(key(Role.PREFILL)).desired == 3


@pytest.mark.parametrize("damage", [{"weights": [0.0]}, {"logs": [math.nan]}, {"together": []}, {"count": -1}])
def test_damaged_leads_are_refused(damage: dict[str, object]) -> None:
    known = learned(NONE, many([50.0]), T0, (RUNG,))
    plain = to_saved(Memory({key(Role.PREFILL): RoleMemory(leads=known)}, T0))
    plain["roles"][str(key(Role.PREFILL))]["leads"]["steps"]["start/registration"] |= damage
    with pytest.raises(ValueError, match="where"):
        from_saved(plain)


def test_waiting_for_gpus_is_not_shared_by_those_that_wait() -> None:
    """Sixteen GPUs of a gang took 120 s to come, single ones 10 s: of the next sixteen that is no sixteenfold wait."""
    preempt = SupplyRules(Tier.PREEMPT, "gpu", 160.0, 2.5, spread=1.87)
    alone = tuple(Start(f"a{i}", Tier.PREEMPT, T0 - 60, T0, ((Step.NODE, 10.0), (Step.ENGINE, 50.0))) for i in range(8))
    many_ = tuple(
        Start(f"b{i}", Tier.PREEMPT, T0 - 170, T0 + 0.5, ((Step.NODE, 120.0), (Step.ENGINE, 50.5)), together=16)
        for i in range(8)
    )
    known = learned(NONE, (*alone, *many_), T0 + 1, (RUNG, preempt))
    assert set(known.steps[Tier.PREEMPT, Step.NODE].together) == {0.0}
    assert lead(known, preempt, 0.9, together=16).seconds < 120.0 + 50.5 + 60.0


def test_more_at_once_than_ever_is_not_reckoned_with_beyond_a_nodes_gpus() -> None:
    """One start alone, of which 12 s went to weights: what 40 at once would take, nothing has shown yet."""
    known = learned(NONE, (start("a", 60.0, weights=12.0, engine=48.0),), T0, (RUNG,))
    alone, eight = (lead(known, RUNG, 0.9, together).seconds for together in (1, 8))
    assert alone < eight == lead(known, RUNG, 0.9, together=40).seconds
    crowd = tuple(
        Start(f"c{i}", Tier.START, T0 - 90, T0, ((Step.WEIGHTS, 40.0), (Step.ENGINE, 50.0)), together=20)
        for i in range(6)
    )
    known = learned(known, crowd, T0, (RUNG,))
    twenty = lead(known, RUNG, 0.9, together=20).seconds
    assert lead(known, RUNG, 0.9, together=8).seconds < twenty == lead(known, RUNG, 0.9, together=40).seconds


def test_what_must_be_taken_first_is_never_expected_sooner_than_what_is_free() -> None:
    """Free GPUs took 300 s; of training's, one start of 40 s is known, which says little of the next."""
    given = replace(
        rules(role_rules(Role.PREFILL)),
        supply=(replace(RUNG, lead_s=60.0), SupplyRules(Tier.PREEMPT, "gpu", 105.0, 2.5, spread=1.9)),
    )
    told = replace(prefill(3000.0), starts=(*many([300.0] * 20), *many([40.0] * 20, Tier.PREEMPT)))
    decision, _ = tick(at(0.0, told), Memory(), given)
    leads = {one.tier: one.lead_s for one in decision.roles[0].foreseen}
    assert leads[Tier.PREEMPT] == leads[Tier.START] == pytest.approx(300.0, rel=0.2)
