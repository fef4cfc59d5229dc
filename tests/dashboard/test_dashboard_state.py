"""What the dashboard remembers: bounded, and true to the ticks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autoscaler.dashboard.chronicle import Chronicle
from autoscaler.dashboard.replay import Replay
from autoscaler.dashboard.series import COARSE, FINE, MOST_POINTS, RoleSeries
from autoscaler.errors import BadJournal
from autoscaler.model import Decision, Observation, Role, RoleDecision, RoleKey, Stock, Take, Tier
from autoscaler.supply import Coming, DomainStock, Lent, Supply

if TYPE_CHECKING:
    from pathlib import Path

KEY = RoleKey("prod", "chat", Role.COLOCATED)


def test_ticks_are_kept_as_they_are_and_older_ones_as_minutes() -> None:
    series = RoleSeries()
    for second in range(3600):  # one a second: the ring of ticks holds the last 900
        series.put(float(second), {"load": float(second), "desired": second // 600})
    told = series.between(0.0)
    assert told["t"][-1] == 3599
    # Minute 10 holds ticks 600..659: their mean load, and the last count of them.
    at = told["t"].index(600.0)
    assert told["load"][at] == pytest.approx(629.5)
    assert told["desired"][at] == 1
    assert len(told["t"]) <= MOST_POINTS
    times = [value for value in told["t"] if value is not None]
    assert times == sorted(times)


def test_a_day_and_more_has_a_fixed_size() -> None:
    series = RoleSeries()
    for minute in range(3 * COARSE):
        series.put(60.0 * minute, {"load": 1.0})
    assert series.coarse.rows.shape[0] == COARSE
    assert series.fine.rows.shape[0] == FINE
    assert series.coarse.rows.nbytes + series.fine.rows.nbytes < 140_000


def test_what_nobody_told_is_a_gap_never_zero() -> None:
    series = RoleSeries()
    series.put(0.0, {"load": None, "ready": 3})
    series.put(15.0, {"load": 2.0})
    told = series.between(0.0)
    assert told["load"] == [None, 2.0]
    assert told["ready"] == [3.0, None]
    assert not np.isnan(series.fine.times[:2]).any()


def test_decisions_are_changes_with_their_reasons(chronicle: Chronicle) -> None:
    listed = chronicle.decisions(before=None, limit=1000, key=None)
    assert [entry["id"] for entry in listed] == sorted((entry["id"] for entry in listed), reverse=True)
    assert all(entry["before"] != entry["desired"] for entry in listed)
    whole = chronicle.decision(listed[0]["id"])
    assert whole is not None
    assert whole["plan"]["next_best"] == "preempt one gang instead"
    assert whole["role"]["takes"] == [{"tier": "start", "replicas": 1, "lead_s": 115.0}]
    only = chronicle.decisions(before=listed[5]["id"], limit=3, key="prod/chat/colocated")
    assert len(only) == 3
    assert only[0]["id"] < listed[5]["id"]


def test_cost_is_what_the_pool_pays_over_what_it_makes(chronicle: Chronicle) -> None:
    chat = next(role for role in chronicle.overview()["roles"] if role["key"] == "prod/chat/colocated")
    # 5 an hour each, over load tokens/s: ready x 5 / (load x 3600) x 1e6.
    assert chat["cost_per_million"] == pytest.approx(chat["ready"] * 5.0 / (chat["load"] * 3600) * 1e6)
    blind = next(role for role in chronicle.overview()["roles"] if role["key"] == "prod/code/colocated")
    assert blind["cost_per_million"] is None


def test_what_is_in_flight_lands_when_its_tier_said() -> None:
    found = Chronicle("t", 15.0, 0.0, {})

    def told(at: float, desired: int, ready: int, *takes: Take) -> None:
        role = RoleDecision(KEY, desired, desired, ready, desired - ready, takes=takes)
        found.note(Observation(at, ()), Decision(at, (role,)))

    told(0.0, 2, 2)
    told(15.0, 5, 2, Take(Tier.START, 2, 100.0), Take(Tier.PROVISION, 1, 300.0))
    flights = found.overview()["roles"][0]["flights"]
    assert [(one["tier"], one["replicas"], one["lands_at"]) for one in flights] == [
        ("start", 2, 115),
        ("provision", 1, 315),
    ]
    told(120.0, 5, 4)
    assert [one["tier"] for one in found.overview()["roles"][0]["flights"]] == ["provision"]
    told(330.0, 5, 5)
    assert found.overview()["roles"][0]["flights"] == []


def test_sleepers_that_wake_are_in_flight_too_and_land_first() -> None:
    found = Chronicle("t", 15.0, 0.0, {})
    for at, desired, ready, takes in (
        (0.0, 2, 2, ()),
        (15.0, 5, 2, (Take(Tier.WAKE, 2, 18.0), Take(Tier.START, 1, 200.0))),
        (45.0, 5, 4, ()),
    ):
        role = RoleDecision(KEY, desired, desired, ready, desired - ready, takes=takes)
        found.note(Observation(at, ()), Decision(at, (role,)))
        if at == 15.0:
            flights = found.overview()["roles"][0]["flights"]
            assert [(one["tier"], one["lands_at"]) for one in flights] == [("wake", 33), ("start", 215)]
    assert [one["tier"] for one in found.overview()["roles"][0]["flights"]] == ["start"]


def test_a_journal_is_replayed_tick_by_tick_across_a_turned_over_file(journal: Path) -> None:
    assert journal.with_name(journal.name + ".1").exists()  # 100 ticks do not fit in 60 kB
    replay = Replay(journal)
    replay.refresh()
    span = replay.span()
    assert span.first_at is not None
    assert span.last_at == 1_700_000_000.0 + 15 * 99
    for number in (0, span.ticks // 2, span.ticks - 1):
        assert replay.chronicle(number).at == span.first_at + 15 * number
    with pytest.raises(BadJournal, match="has ticks 0 to"):
        replay.chronicle(span.ticks)


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b'{"v":9}\n', b"[1]\n", b"[" * 100_000 + b"\n"])
def test_a_file_that_is_no_journal_is_named_with_the_tick_that_cannot_be_read(journal: Path, damage: bytes) -> None:
    with journal.open("ab") as file:
        file.write(damage)
    replay = Replay(journal)
    replay.refresh()
    with pytest.raises(BadJournal, match=r"journal.jsonl: tick \d+: not a journal line"):
        replay.span()


def test_a_journal_that_is_being_written_shows_whole_lines_only(journal: Path) -> None:
    replay = Replay(journal)
    replay.refresh()
    before = replay.span().ticks
    with journal.open("ab") as file:
        file.write(b'{"v":1,"seen":{"at":')
    replay.refresh()
    assert replay.span().ticks == before
    assert math.isfinite(replay.span().last_at or math.nan)


def test_gpus_lent_by_training_are_told_until_and_after_they_are_given_back() -> None:
    found = Chronicle("t", 15.0, 0.0, {})

    def told(at: float, *lent: Lent) -> dict[str, Any]:
        domain = DomainStock("h100", ("zone-a", "rack-1"), 4, 32, 6, 2, 8, 16)
        supply = Supply(at, (domain,), lent=lent, coming=(Coming("node", "h100", 8, "ordered"),))
        found.note(Observation(at, (), (Stock("h100", 8, 16, 0),), supply=supply), Decision(at, ()))
        return found.overview()

    first = Lent("Job/train/big", "h100", 8, 5.0)
    second = Lent("Job/train/small", "h100", 4, 10.0)
    assert told(0.0)["loans"] == []
    overview = told(15.0, second, first)
    assert [(one["key"], one["until"]) for one in overview["loans"]] == [
        ("Job/train/big", None),
        ("Job/train/small", None),
    ]
    # 8 + 4 GPUs lent; 16 more could be.
    assert (overview["stocks"][0]["lent"], overview["stocks"][0]["preemptible"], overview["stocks"][0]["coming"]) == (
        12,
        16,
        8,
    )
    assert overview["domains"] == [
        {
            "name": "zone-a/rack-1",
            "accelerator": "h100",
            "nodes": 4,
            "gpus": 32,
            "free": 8,
            "serving": 8,
            "other": 16,
        }
    ]
    overview = told(30.0, second)
    assert [(one["key"], one["until"]) for one in overview["loans"]] == [
        ("Job/train/small", None),
        ("Job/train/big", 30.0),
    ]
    for at in range(45, 45 + 15 * 80, 15):
        overview = told(float(at), Lent(f"Job/train/{at}", "h100", 8, float(at)))
    assert len(overview["loans"]) <= 1 + 50


def test_without_a_cluster_nothing_is_said_of_loans(chronicle: Chronicle) -> None:
    overview = chronicle.overview()
    assert overview["loans"] is None
    assert overview["stocks"][0]["lent"] is None
    assert overview["domains"] == []
