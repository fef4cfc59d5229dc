"""`tidegate explain` on journals that are missing, empty, damaged, half-written, or good."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from autoscaler.cli import main
from autoscaler.journal import Journal
from autoscaler.model import Decision, Observation, Role, RoleDecision, RoleKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

AT = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `tidegate explain …`, as the console script ends."""
    monkeypatch.setattr("sys.argv", ["tidegate", "explain", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, " ".join(err.split())


def decision(at: float, wishes: dict[str, int]) -> Decision:
    roles = (RoleDecision(RoleKey("serving", pool, Role.COLOCATED), desired) for pool, desired in wishes.items())
    return Decision(at=at, roles=tuple(roles))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    written(path, [{"chat": 2, "agents": 1}, {"chat": 2, "agents": 3}, {"chat": 4, "agents": 3}])
    return path


def written(path: Path, ticks: Sequence[dict[str, int]]) -> None:
    journal = Journal(path, most_bytes=10**9)
    for tick, wishes in enumerate(ticks):
        journal.write(Observation(AT + 15 * tick, ()), decision(AT + 15 * tick, wishes))


def test_the_last_decisions_as_sentences(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(monkeypatch, capsys, str(journal), "--last", "1")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "2027-01-15 08:00:30Z  serving/chat/colocated: 4 replicas",
        "2027-01-15 08:00:30Z  serving/agents/colocated: 3 replicas",
    ]


def test_changes_of_one_pool_as_json(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = told(monkeypatch, capsys, str(journal), "--changes", "--pool", "serving/chat", "--json")
    assert code == 0
    assert [(entry["at"], entry["sentences"]) for entry in json.loads(out)] == [
        (AT + 30, ["serving/chat/colocated: 4 replicas"])  # the first tick has none before it to differ from
    ]


def test_a_pool_that_is_not_there_is_told_with_the_nearest(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(monkeypatch, capsys, str(journal), "--pool", "serving/chad")
    assert (code, out) == (2, "")
    assert "did you mean serving/chat?" in err


def test_a_last_line_cut_short_is_left_out(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = journal.read_bytes()
    for cut in (1, 7, len(whole.splitlines(keepends=True)[-1]) - 1):
        journal.write_bytes(whole[:-cut])
        code, out, _ = told(monkeypatch, capsys, str(journal), "--json")
        if cut == 1:  # only the line end is lost: the tick is whole
            assert (code, len(json.loads(out))) == (0, 3)
        else:
            assert (code, len(json.loads(out))) == (0, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00\xff\xfe\n", "journal.jsonl:1: not a journal line"),
        (b"[]\n", "journal.jsonl:1: not a journal line: list instead of an object"),
        (b'{"v": 9}\n', "journal.jsonl:1: not a journal line: version 9; this program reads version 1"),
        (b'{"v": 1}\n', "journal.jsonl:1: not a journal line: 'seen' is missing"),
        (b'{"v": 1, "seen": {}, "decision": {}}\n', "journal.jsonl:1: not a journal line"),
        (b'{"v": 1, "se\n', "journal.jsonl:1: not a journal line"),
        (b"[" * 100_000 + b"\n", "nested too deeply to be a journal"),
    ],
)
def test_damage_is_told_with_its_line(
    content: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    code, out, err = told(monkeypatch, capsys, str(path))
    assert (code, out) == (2, "")
    assert said in err


def test_damage_in_the_middle_is_told_too(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text(lines[0] + "garbage\n" + lines[2], encoding="utf-8")
    code, _, err = told(monkeypatch, capsys, str(journal))
    assert code == 2
    assert "journal.jsonl:2: not a journal line" in err


def test_nothing_to_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "journal.jsonl"
    empty.touch()
    code, out, err = told(monkeypatch, capsys, str(empty))
    assert (code, out) == (0, "")
    assert "holds no such decision" in err
    assert told(monkeypatch, capsys, str(empty), "--json")[:2] == (0, "[]\n")
    code, _, err = told(monkeypatch, capsys, str(tmp_path / "none"))
    assert code == 2
    assert "there is no such journal; `tidegate run` writes one" in err
    code, _, err = told(monkeypatch, capsys, str(tmp_path))
    assert code == 2
    assert "Is a directory" in err


def test_the_journal_is_found_through_configuration_and_environment(
    journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_LOOP__JOURNAL_FILE", str(journal))
    assert "chat/colocated: 4 replicas" in told(monkeypatch, capsys)[1]
    monkeypatch.delenv("TIDEGATE_LOOP__JOURNAL_FILE")
    config = tmp_path / "tidegate.yaml"
    pools = "pools: [{name: a, roles: {colocated: {max_replicas: 4}}}]\n"
    config.write_text(f"{pools}loop: {{journal_file: '{journal}'}}\n", encoding="utf-8")
    assert "chat/colocated: 4 replicas" in told(monkeypatch, capsys, "--config", str(config))[1]
    config.write_text(f"{pools}loop: {{journal_file: null}}\n", encoding="utf-8")
    code, _, err = told(monkeypatch, capsys, "--config", str(config))
    assert code == 2
    assert "loop.journal_file is empty" in err
