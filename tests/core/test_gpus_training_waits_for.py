"""GPUs that a gang waits for go back when letting some of them go lets the whole gang run, and only then."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from scripted import T0, at, decode, key, role_rules, rules, times

from autoscaler.guards import GuardRules
from autoscaler.memory import Memory
from autoscaler.model import Observation, Role, Stock
from autoscaler.supply import Lent, Supply
from autoscaler.supply_plan import awaited
from autoscaler.tick import tick

TWO = rules(role_rules(Role.PREFILL), role_rules(Role.DECODE, gpus=2))


@dataclass(frozen=True)
class Asked:
    """Replicas asked for so far."""

    base: int
    arrived: int = 0
    starting: int = 0
    asleep: int = 0
    waking: int = 0


def waiting(free: int | None, *gangs: int, accelerator: str = "gpu") -> Observation:
    lent = tuple(Lent(f"gang-{n}", accelerator, gpus, T0 - 400) for n, gpus in enumerate(gangs))
    return at(0.0, stocks=(Stock("gpu", free=free),), supply=Supply(T0, lent=lent))


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        # 26 GPUs are prepared or a gang's of 16; 4 + 2 x 4 = 12 are held, 4 + 2 x 3 = 10 are enough: 26 - 10 >= 16
        (waiting(26, 16), True),
        # one GPU fewer: the gang would lack it even then
        (waiting(25, 16), False),
        # 28: it fits beside what is held, and comes back by itself
        (waiting(28, 16), False),
        # of two gangs the small one fits anyway, the large one does when they fall
        (waiting(26, 4, 16), True),
        (waiting(26, 4), False),
        (waiting(None, 16), False),
        (waiting(26), False),
        (waiting(26, 16, accelerator="another"), False),
        (at(0.0, stocks=(Stock("gpu", free=26),)), False),
    ],
)
def test_a_gang_waits_for_what_would_let_it_run_as_a_whole(seen: Observation, found: bool) -> None:
    counts = {key(Role.PREFILL): Asked(4), key(Role.DECODE): Asked(4)}
    least = {key(Role.PREFILL): 4, key(Role.DECODE): 3}
    assert awaited(seen, TWO, counts, least) == (frozenset({"gpu"}) if found else frozenset())


GUARDED = rules(role_rules(Role.DECODE), guards=GuardRules(stabilise_down_s=300.0, hold_s=60.0, most_down=1.0))


def shrinks_at(lent: tuple[Lent, ...]) -> float:
    """3,000 tokens/s for 20 minutes, then 300: when the wish first falls below the 5 replicas that were needed."""
    memory = Memory()
    for when in times(2400):
        told = decode(3000.0 if when < 1200 else 300.0, 5)
        seen = at(when, told, stocks=(Stock("gpu", free=6),), supply=Supply(T0 + when, lent=lent))
        decision, memory = tick(seen, memory, GUARDED)
        if (decision.roles[0].desired or 0) < 5:
            return when
    return float("inf")


def test_what_training_waits_for_goes_back_a_minute_after_it_was_last_planned_for() -> None:
    """Of 6 GPUs a gang of 4 waits; 1 replica is needed from 1,200 s on, or a tick later.

    Without training, 5 stay for the 300 s of stabilisation: a load that changed but once may come back.
    """
    alone = shrinks_at(())
    owed = shrinks_at((Lent("gang", "gpu", 4, T0),))
    assert owed <= 1200 + 15 + 60 + 15
    assert alone >= 1200 + 300
    # a gang of 6 could not run beside the one replica that is needed: nothing is gained by letting go
    assert shrinks_at((replace(Lent("gang", "gpu", 4, T0), gpus=6),)) == alone
