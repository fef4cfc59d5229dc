"""`tidegate backtest` and `tidegate forecast` against a real Prometheus with days of backfilled load."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from autoscaler.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Said = tuple[int, str, str]

T0 = 1_800_000_000
DAYS = 4
STEP_S = 600
GAP = range(300, 312)
"""Two hours on the third day that nobody recorded."""


def load(number: int) -> float:
    """Tokens/s in a ten-minute bin: a daily wave, and a saw."""
    return 100.0 + 80.0 * math.sin(2 * math.pi * number / 144) + 5.0 * (number % 3)


@pytest.fixture(scope="module")
def address(prometheus_server: Callable[..., Any]) -> Iterator[str]:
    """Two halves of the load as two series, a sample at the start of each bin."""
    lines = ["# TYPE tokens_per_second gauge"]
    for pod in ("a", "b"):
        lines += [
            f'tokens_per_second{{pod="{pod}"}} {load(i) / 2:.6f} {T0 + STEP_S * i}'
            for i in range(DAYS * 144)
            if i not in GAP
        ]
    server = prometheus_server(samples="\n".join(lines) + "\n")
    yield server.url
    server.stop()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Exit code, stdout and stderr of `tidegate …`."""

    def run(*arguments: str) -> Said:
        monkeypatch.setattr("sys.argv", ["tidegate", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, " ".join(err.split())

    return run


def span(address: str, query: str) -> tuple[str, ...]:
    end = T0 + DAYS * 86400 - 1
    return ("--prometheus", address, "--query", query, "--start", str(T0), "--end", str(end), "--step", str(STEP_S))


def test_a_backtest_over_prometheus_is_that_over_the_same_load_in_a_file(
    told: Callable[..., Said], address: str, tmp_path: Path
) -> None:
    file = tmp_path / "load.csv"
    rows = [f"{T0 + STEP_S * i},{load(i):.6f}" for i in range(DAYS * 144) if i not in GAP]
    file.write_text("t_s,tokens\n" + "\n".join(rows) + "\n", encoding="utf-8")
    how = ("--horizons", "600,3600", "--warmup", "172800", "--forecaster", "day-increment", "--json")
    code, out, err = told("backtest", *span(address, "sum(tokens_per_second)"), *how)
    assert code == 0, err
    asked = json.loads(out)
    code, out, err = told("backtest", str(file), "--value", "tokens", "--step", str(STEP_S), *how)
    assert code == 0, err
    recorded = json.loads(out)
    assert [score["horizon_s"] for score in asked] == [600, 3600]
    for one, other in zip(asked, recorded, strict=True):
        # two days of targets but for the gap
        assert one["n"] == other["n"]
        assert 200 < one["n"] <= 288 - len(GAP)
        assert one == pytest.approx(other, rel=1e-3, abs=1e-6)


def test_a_diagnosis_over_prometheus_counts_the_gap(told: Callable[..., Said], address: str) -> None:
    code, out, err = told("forecast", *span(address, "sum(tokens_per_second)"), "--leads", "start=600", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["bins"], found["gaps"], found["bin_s"]) == (DAYS * 144 - len(GAP), 1, STEP_S)
    assert found["mean"] == pytest.approx(105.0, rel=0.05)
    assert found["leads"][0]["verdict"] == "follow"


@pytest.mark.parametrize("command", ["backtest", "forecast"])
@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("tokens_per_second", "2 series; write one that sums to a single series"),
        ("absent_metric", "gives no samples"),
        ("sum(tokens_per_second", "parse error"),
    ],
)
def test_queries_that_are_no_single_load_are_refused(
    told: Callable[..., Said], address: str, command: str, query: str, complaint: str
) -> None:
    code, out, err = told(command, *span(address, query))
    assert (code, out) == (2, "")
    assert complaint in err
