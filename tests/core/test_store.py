"""Memory on disk: replaced in one step, and never half believed."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from scripted import at, decode, role_rules, rules

from autoscaler import store
from autoscaler.errors import BadMemory
from autoscaler.memory import Memory
from autoscaler.model import Role
from autoscaler.saved import to_saved
from autoscaler.tick import tick

if TYPE_CHECKING:
    from pathlib import Path

RULES = rules(role_rules(Role.DECODE))


@pytest.fixture
def memory() -> Memory:
    return tick(at(0.0, decode(1000.0)), Memory(), RULES)[1]


def test_what_was_saved_is_read_back(tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "deep" / "down" / "memory.json"
    store.save(memory, path)
    restored = store.load(path)
    assert restored is not None
    assert to_saved(restored) == to_saved(memory)
    assert [file.name for file in path.parent.iterdir()] == ["memory.json"]


def test_nothing_saved_is_no_error(tmp_path: Path) -> None:
    assert store.load(tmp_path / "memory.json") is None


def test_a_save_that_fails_leaves_the_old_one_whole(
    tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "memory.json"
    store.save(memory, path)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(Memory(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["memory.json"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 2}',
        '{"version": 1, "at": 0, "roles": []}',
        '{"version": 1, "at": 1e999, "roles": {"llm/chat/decode": {"plans": [[0, 1e999]]}}}',
        "\x00" * 64,
        "[" * 100_000,
    ],
)
def test_damage_is_named_with_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "memory.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadMemory, match=r"memory\.json"):
        store.load(path)


def test_every_truncation_is_refused(tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "memory.json"
    store.save(memory, path)
    whole = path.read_text(encoding="utf-8")
    for length in range(0, len(whole) - 1, 37):
        path.write_text(whole[:length], encoding="utf-8")
        with pytest.raises(BadMemory):
            store.load(path)


def test_a_wish_that_is_no_number_is_refused(tmp_path: Path, memory: Memory) -> None:
    path = tmp_path / "memory.json"
    plain = json.loads(json.dumps(to_saved(memory)))
    plain["roles"]["llm/chat/decode"]["desired"] = "5"
    path.write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(BadMemory, match="'5' where a finite number belongs"):
        store.load(path)


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadMemory, match=str(tmp_path)):
        store.load(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadMemory):
        store.load(path)
