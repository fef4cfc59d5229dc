"""Golden journals: two scripted pools over 40 ticks each, with every sentence the decisions said.

Any change in what is decided, or in how it is said, shows here as a diff to be read. When it is meant, write them anew:

    TIDEGATE_REGOLD=1 pytest tests/golden

and look at the diff of `*.txt` before committing it. `*.jsonl` are journals as `tidegate run` writes them.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scripted import STEP, at, decode, prefill, role_rules, rules, silent

from autoscaler.guards import GuardRules
from autoscaler.journal import Journal, plain_decision, read
from autoscaler.learning import Prior
from autoscaler.loop import replayed
from autoscaler.memory import Memory
from autoscaler.model import Role, RoleObservation, Stock, Tier
from autoscaler.rules import SupplyRules
from autoscaler.tick import tick
from forecasting.forecaster import SimpleQuantile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.model import Decision, Observation

HERE = Path(__file__).parent
TICK_S = 15.0
GUARDS = GuardRules(stabilise_down_s=90.0, hpa_tolerance=0.1)
LADDER = (SupplyRules(Tier.START, "gpu", 60.0, 2.5), SupplyRules(Tier.PREEMPT, "gpu", 105.0, 2.5, 1.0))
PAIR = rules(
    role_rules(Role.PREFILL, prior=Prior(STEP, 0.2), maximum=12),
    role_rules(Role.DECODE, prior=Prior(STEP, 0.2), maximum=20),
    guards=GUARDS,
    supply=LADDER,
    forecaster=SimpleQuantile(),
)
MIXED = replace(PAIR, roles=(role_rules(Role.COLOCATED, "mixed", prior=Prior(STEP, 30.0), profile="unknown"),))
STOCKS = (Stock("gpu", free=14, preemptible=4, provisionable=0),)


def strength(number: int) -> float:
    """Requests/s: 8 ticks of calm, 10 of ramp, 10 at the top (blind in between), 12 of decline to a quarter."""
    if number < 8:
        return 4.0
    if number < 18:
        return 4.0 + 1.2 * (number - 7)
    if number < 28:
        return 16.0
    return max(1.0, 16.0 - 2.0 * (number - 27))


def pair(number: int, ready: tuple[int, ...]) -> tuple[RoleObservation, ...]:
    """Prefill's series vanish for five ticks; in the ramp one of decode's replicas is not heard."""
    rate = strength(number)
    prompts = prefill(1000.0 * rate, ready[0], waiting=max(0.0, 3.0 * (rate - 9.0)))
    answers = decode(200.0 * rate, ready[1])
    if 18 <= number < 23:
        prompts = silent(Role.PREFILL, stale=ready[0])
    if number in {11, 12} and ready[1] > 1:
        answers = replace(answers, reporting=ready[1] - 1, rate_engines=ready[1] - 1)
    return prompts, answers


def mixed(number: int, ready: tuple[int, ...]) -> tuple[RoleObservation, ...]:
    """Both on one engine, whose speed has to be learned: twice what the script's decode alone would be."""
    rate = strength(number)
    if 18 <= number < 23:
        return (silent(Role.COLOCATED, "mixed"),)
    told = decode(200.0 * rate, ready[0], "mixed")
    steps = 7.0 * ready[0]
    running = told.running or 0.0
    itl = STEP.base + 1e-4 * 1000.0 * rate / steps + 1e-3 * running / ready[0]
    return (
        replace(
            told,
            key=MIXED.roles[0].key,
            computed_rate=1000.0 * rate,
            first_token_rate=rate,
            step_rate=steps,
            itl_busy=(told.itl_tokens or 0.0) * itl,
            waiting=max(0.0, 2.0 * (rate - 12.0)),
        ),
    )


SCRIPTS = {"pair": (PAIR, pair), "mixed": (MIXED, mixed)}


def told(name: str) -> Iterator[Observation]:
    """The script. What was asked for is there four ticks later, as it would be with a start-up of a minute."""
    given, script = SCRIPTS[name]
    memory = Memory()
    wishes: list[tuple[int, ...]] = [(2,) * len(given.roles)] * 4
    for number in range(40):
        seen = at(TICK_S * number, *script(number, wishes[-4]), stocks=STOCKS)
        decision, memory = tick(seen, memory, given)
        wishes.append(tuple(role.desired or 0 for role in decision.roles))
        yield seen


def sentences(decisions: list[Decision]) -> str:
    """One line per role and tick, led by the tick's second."""
    start = decisions[0].at
    return "".join(f"{decision.at - start:4.0f} {role.sentence}\n" for decision in decisions for role in decision.roles)


def rounded(value: Any) -> Any:
    """Numbers to nine digits: the last ones may differ between machines."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.9g}") if isinstance(value, float) and math.isfinite(value) else value


@pytest.fixture(params=["pair", "mixed"])
def golden(request: pytest.FixtureRequest) -> str:
    """A journal's name; the journal itself is written anew first when that is asked for."""
    name: str = request.param
    if os.environ.get("TIDEGATE_REGOLD") == "1":
        path = HERE / f"{name}.jsonl"
        path.unlink(missing_ok=True)
        journal, decisions = Journal(path, 10**9), []
        for seen, decision in replayed(told(name), SCRIPTS[name][0], Memory()):
            journal.write(seen, decision)
            decisions.append(decision)
        (HERE / f"{name}.txt").write_text(sentences(decisions), encoding="utf-8")
    return name


def test_the_script_still_tells_the_recorded_story(golden: str) -> None:
    """The observations follow from the decisions (replicas arrive), so a change of either shows here first."""
    recorded = [seen for seen, _ in read(HERE / f"{golden}.jsonl")]
    assert recorded == list(told(golden))


def test_the_recorded_story_is_decided_as_it_was(golden: str) -> None:
    recorded = list(read(HERE / f"{golden}.jsonl"))
    again = replayed((seen for seen, _ in recorded), SCRIPTS[golden][0], Memory())
    for (_, was), (_, now) in zip(recorded, again, strict=True):
        assert rounded(plain_decision(now)) == rounded(plain_decision(was))


def test_and_in_the_same_words(golden: str) -> None:
    recorded = (seen for seen, _ in read(HERE / f"{golden}.jsonl"))
    decisions = [decision for _, decision in replayed(recorded, SCRIPTS[golden][0], Memory())]
    assert sentences(decisions) == (HERE / f"{golden}.txt").read_text(encoding="utf-8")


def test_the_stories_hold_what_they_are_for(golden: str) -> None:
    """Growth, a blind spell without change, recovery, and shrinking in the end."""
    decisions = [decision for _, decision in read(HERE / f"{golden}.jsonl")]
    assert len(decisions) == 40
    last = [role.desired for role in decisions[-1].roles]
    top = [max(decision.roles[index].desired or 0 for decision in decisions) for index in range(len(last))]
    assert all(high > 2 for high in top)
    assert any(now is not None and now < high for now, high in zip(last, top, strict=True))
    blind = [index for index, decision in enumerate(decisions) if decision.blind]
    assert blind == [18, 19, 20, 21, 22]
    for index in blind:
        for before, after in zip(decisions[index - 1].roles, decisions[index].roles, strict=True):
            assert after.desired is not None
            assert before.desired is not None
            assert after.desired >= before.desired
    held = {name for decision in decisions for role in decision.roles for name, _ in role.guards}
    assert {"blind", "young"} <= held
