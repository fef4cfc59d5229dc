"""The journal: read back as written, mended after a crash, turned over in time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from scripted import at, decode, prefill, role_rules, rules, silent, times

from autoscaler.errors import BadJournal
from autoscaler.journal import Journal, plain_decision, read
from autoscaler.loop import replayed
from autoscaler.memory import Memory
from autoscaler.model import Decision, Observation, Role, Stock
from autoscaler.tick import tick

if TYPE_CHECKING:
    from pathlib import Path

RULES = rules(role_rules(Role.PREFILL), role_rules(Role.DECODE))
BIG = 10**9


def ticks(count: int) -> list[tuple[Observation, Decision]]:
    """A pool with everything in it: growth, a blind spell, notes, stocks, odd fractions."""
    memory, found = Memory(), []
    for when in times(15.0 * count):
        roles = prefill(2000.0 + when / 7), decode(400.0 + 9.1 * when / 3)
        if 60 <= when < 120:
            roles = roles[0], silent(Role.DECODE, stale=2)
        seen = at(when, *roles, stocks=(Stock("gpu", free=40),), notes=("half of it",))
        decision, memory = tick(seen, memory, RULES)
        found.append((seen, decision))
    return found


def written(path: Path, pairs: list[tuple[Observation, Decision]], most_bytes: int = BIG) -> Journal:
    journal = Journal(path, most_bytes)
    for seen, decision in pairs:
        journal.write(seen, decision)
    return journal


def test_reads_back_exactly_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    written(path, ticks(12))
    assert list(read(path)) == ticks(12)


def test_replays_to_the_same_decisions(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, ticks(12))
    again = list(replayed((seen for seen, _ in read(path)), RULES, Memory()))
    assert again == ticks(12)


def test_a_failed_tick_is_written_down_too(tmp_path: Path) -> None:
    seen = Observation(1.0, (silent(Role.PREFILL), silent(Role.DECODE)), failure="prometheus: refused")
    pair = seen, tick(seen, Memory(), RULES)[0]
    written(tmp_path / "j", [pair])
    assert list(read(tmp_path / "j")) == [pair]


def test_what_is_not_finite_is_written_as_absent_and_decides_the_same(tmp_path: Path) -> None:
    seen = at(0.0, prefill(2000.0), replace(decode(500.0), kv_usage=float("nan"), running=float("inf")))
    decision = tick(seen, Memory(), RULES)[0]
    written(tmp_path / "j", [(seen, decision)])
    [(told, _)] = read(tmp_path / "j")
    assert (told.roles[1].kv_usage, told.roles[1].running) == (None, None)
    assert plain_decision(tick(told, Memory(), RULES)[0]) == plain_decision(decision)


@pytest.mark.parametrize("cut", [1, 2, 100, 1000])
def test_a_last_line_cut_short_is_left_out_and_then_mended(tmp_path: Path, cut: int) -> None:
    """A process killed in mid-write comes back and writes on: the torn line must not swallow the next one."""
    path, pairs = tmp_path / "journal.jsonl", ticks(5)
    written(path, pairs[:4])
    path.write_bytes(path.read_bytes()[:-cut])
    whole = list(read(path))
    assert whole in (pairs[:3], pairs[:4])  # with only its newline gone the line is still all there
    written(path, pairs[4:])
    assert list(read(path)) == [*pairs[:3], pairs[4]]


def test_a_torn_line_longer_than_a_block_and_without_any_before_it_is_mended(tmp_path: Path) -> None:
    path, pairs = tmp_path / "journal.jsonl", ticks(1)
    path.write_text('{"v":1,' + "x" * 200_000, encoding="utf-8")
    written(path, pairs)
    assert list(read(path)) == pairs


def test_damage_in_the_middle_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, ticks(3))
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for damage in ("{}\n", "garbage\n", '{"v":2}\n', "[]\n", lines[1].replace('"at"', '"AT"', 1)):
        path.write_text(lines[0] + damage + lines[2], encoding="utf-8")
        with pytest.raises(BadJournal, match=r"journal\.jsonl:2: not a journal line"):
            list(read(path))


def test_turned_over_when_full_and_read_oldest_first(tmp_path: Path) -> None:
    path, pairs = tmp_path / "journal.jsonl", ticks(8)
    written(path, pairs[:1])
    line = path.stat().st_size
    written(path, pairs[1:], most_bytes=5 * line)
    assert (tmp_path / "journal.jsonl.1").exists()
    found = list(read(path))
    assert found == pairs[-len(found) :]
    assert len(found) >= 4
    assert path.stat().st_size <= 5 * line


def test_an_empty_journal_has_no_ticks_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(read(tmp_path / "empty")) == []
    with pytest.raises(BadJournal, match="there is no such journal"):
        list(read(tmp_path / "missing"))
