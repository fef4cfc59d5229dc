"""`tidegate forecast`: a recorded load diagnosed at the tiers' lead times; bad input ends with 2 and says why."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from autoscaler.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Said = tuple[int, str, str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Exit code, stdout and stderr of `tidegate forecast …`."""

    def run(*arguments: str) -> Said:
        monkeypatch.setattr("sys.argv", ["tidegate", "forecast", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, " ".join(err.split())

    return run


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    """A week in 10-minute bins, a daily wave of 20 to 180, with an hour nobody recorded."""
    rows = [f"{600 * i},{100 + 80 * math.sin(2 * math.pi * i / 144):.6f}" for i in range(1008) if not 300 <= i < 306]
    path = tmp_path / "wave.csv"
    path.write_text("t_s,tokens\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_a_followable_load_is_said_to_be(told: Callable[..., Said], wave: Path) -> None:
    code, out, _ = told("--series", str(wave), "--value", "tokens", "--leads", "start=600,provision=3600", "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    assert (found["bins"], found["bin_s"], found["gaps"]) == (1002, 600.0, 1)
    assert found["daily_share"] == pytest.approx(1.0, abs=0.02)
    start, provision = found["leads"]
    assert (start["name"], start["lead_s"], start["verdict"]) == ("start", 600.0, "follow")
    assert start["advice"].startswith("follow it")
    assert provision["head_room"] > start["head_room"]
    assert provision["growth"]["0.95"] == pytest.approx(1 + provision["head_room"])


def test_the_text_names_every_tier(told: Callable[..., Said], wave: Path) -> None:
    code, out, _ = told("--series", str(wave), "--value", "tokens")
    assert code == 0
    for name in ("wake", "start", "preempt", "provision"):
        assert f"\n{name}: " in out
    assert "judged as one bin" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give --series or --prometheus"),
        (("--series", "{wave}"), "--value"),
        (("--series", "{wave}", "--value", "nope"), "no such column"),
        (("--series", "{wave}.missing", "--value", "tokens"), "missing"),
        (("--series", "{wave}", "--value", "tokens", "--leads", "start=soon"), "'start=soon'"),
        (("--series", "{wave}", "--value", "tokens", "--leads", "start=-3"), "above 0"),
        (("--series", "{wave}", "--value", "tokens", "--step", "0"), "--step 0"),
        (("--series", "{wave}", "--value", "tokens", "--step", "0.01"), "give a --step"),
        (("--prometheus", "http://127.0.0.1:9"), "--query"),
        (("--prometheus", "nonsense", "--query", "up"), "--prometheus nonsense"),
    ],
)
def test_bad_input_ends_with_2(told: Callable[..., Said], wave: Path, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = told(*(each.replace("{wave}", str(wave)) for each in arguments))
    assert code == 2
    assert words in err
    assert out == ""


def test_a_single_value_says_nothing(told: Callable[..., Said], tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("t_s,tokens\n0,5\n", encoding="utf-8")
    code, _, err = told("--series", str(path), "--value", "tokens")
    assert (code, "fewer than two values" in err) == (2, True)
