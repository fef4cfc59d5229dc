"""A running loop's state without the loop: ticks of two pools, and the page over real HTTP."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from autoscaler.dashboard.api import Dashboard
from autoscaler.dashboard.chronicle import Chronicle, Replica
from autoscaler.dashboard.replay import Replay
from autoscaler.journal import Journal
from autoscaler.model import (
    Decision,
    Foreseen,
    Observation,
    PlanEvidence,
    Role,
    RoleDecision,
    RoleKey,
    RoleObservation,
    Stock,
    Take,
    Tier,
    Velocity,
)
from metrics_adapter.board import Board, Limits
from metrics_adapter.exposition import Telemetry
from metrics_adapter.server import Server, compose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Tick = Callable[[int], tuple[Observation, Decision]]

START = 1_700_000_000.0
CHAT = RoleKey("prod", "chat", Role.COLOCATED)
CODE = RoleKey("prod", "code", Role.COLOCATED)
REPLICA = Replica(2, 5.0, "a100-80gb", "llama-3.1-8b/a100-80gb/tp1", 1, 40)


def tick(number: int) -> tuple[Observation, Decision]:
    """Every 15 s: chat's load swings between 1,000 and 3,000 output tokens/s; one replica makes 500."""
    at = START + 15.0 * number
    load = 2000.0 + 1000.0 * math.sin(number / 10)
    wanted = math.ceil(load * 1.2 / 500)
    before = math.ceil((2000.0 + 1000.0 * math.sin((number - 8) / 10)) * 1.2 / 500)
    seen = Observation(
        at,
        (
            RoleObservation(
                CHAT, at, before, before, ready=before, replicas=wanted, running=40.0, waiting=1.0, kv_usage=0.4,
                prompt_rate=5 * load, first_token_rate=load / 200, generation_rate=load,
            ),
            RoleObservation(CODE, None, 0, 0),
        ),
        (Stock("a100-80gb", 8, 16, 0),),
    )  # fmt: skip
    chat = RoleDecision(
        CHAT, wanted, wanted, before, max(0, wanted - before), load, load * 1.2,
        Velocity(500.0, 0.05, "learned", "itl"), takes=(Take(Tier.START, 1, 115.0),),
        reasons=(f"{load:.0f} tokens/s",), sampled_at=at,
        foreseen=(
            Foreseen(Tier.START, 115.0, 0.95, 1.2 * load, 0.96), Foreseen(Tier.PROVISION, 300.0, 0.9, 1.4 * load),
        ),
    )  # fmt: skip
    code = RoleDecision(CODE, 2, None, None, None, blind="no engine reports")
    plan = PlanEvidence("optimal", 10.0, 12.5, "preempt one gang instead", ("stock[a100-80gb]",), ("a note",))
    return seen, Decision(at, (chat, code), plan)


@pytest.fixture
def chronicle() -> Chronicle:
    found = Chronicle("prometheus", 15.0, START, {str(CHAT): REPLICA, str(CODE): REPLICA})
    for number in range(240):
        found.note(*tick(number))
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    written = Journal(tmp_path / "journal.jsonl", 60_000)
    for number in range(100):
        written.write(*tick(number))
    return tmp_path / "journal.jsonl"


@pytest.fixture
def page(chronicle: Chronicle, journal: Path) -> Iterator[str]:
    """Address of the dashboard."""
    shown = Dashboard(chronicle, Replay(journal, chronicle.replicas))
    meter = Telemetry(Board(Limits(1.0, 1.0), lambda: 0.0))
    with Server(compose([shown.router()], meter), "127.0.0.1", 0) as server:
        yield f"{server.url}/dashboard/"
    shown.close()
