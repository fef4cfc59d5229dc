"""CSV files as planners export them: what can mean only one thing is taken and noted, the rest is refused in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoscaler import whatif
from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.trace_files import BadTrace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
HEAD = "t_s,requests,input_tokens,output_tokens"


def row(number: int, at: str = "", separator: str = ",") -> str:
    """Bins of five minutes: 300, 301, 302, … requests of 1,000 + 200 tokens."""
    requests = 300 + number
    return separator.join([at or str(300 * number), str(requests), str(1000 * requests), str(200 * requests)])


def read(path: Path, lines: list[str]) -> DemandSeries:
    path.write_text("\n".join(lines) + "\n")
    found = whatif.from_trace(path).pools["pool"]
    assert isinstance(found, DemandSeries)
    return found


def iso(number: int) -> str:
    return (BEGIN + timedelta(minutes=5 * number)).isoformat()


def zulu(number: int) -> str:
    return f"{BEGIN + timedelta(minutes=5 * number):%Y-%m-%dT%H:%M:%SZ}"


def naive(number: int) -> str:
    return f"{BEGIN + timedelta(minutes=5 * number):%Y-%m-%d %H:%M}"


def milliseconds(number: int) -> str:
    return str(round(1000 * (BEGIN.timestamp() + 300 * number)))


@pytest.mark.parametrize("at", [iso, zulu, naive, milliseconds])
def test_dates_and_milliseconds_are_times(at: Callable[[int], str], tmp_path: Path) -> None:
    found = read(
        tmp_path / "d.csv", ["timestamp,requests,input_tokens,output_tokens", *(row(n, at(n)) for n in range(6))]
    )
    assert found.bin_s == 300
    assert found.t_s.tolist() == [0, 300, 600, 900, 1200, 1500]
    assert found.requests.tolist() == [300, 301, 302, 303, 304, 305]
    assert "t_s from column 'timestamp'" in found.notes


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_names(separator: str, tmp_path: Path) -> None:
    head = separator.join(["Time", "Num Requests", "prompt_tokens", "Completion-Tokens"])
    found = read(tmp_path / "d.csv", [head, *(row(n, separator=separator) for n in range(4))])
    assert (found.prompt[1], found.output[1]) == (301_000, 60_200)
    assert len(found.notes) == 4


def test_decimal_commas_between_semicolons(tmp_path: Path) -> None:
    head = HEAD.replace(",", ";")
    found = read(tmp_path / "d.csv", [head, "0;1,5;1500,0;300", "60;2,5;2500,0;500"])
    assert found.requests.tolist() == [1.5, 2.5]


def test_missing_bins_hold_the_one_before_and_are_noted(tmp_path: Path) -> None:
    found = read(tmp_path / "d.csv", [HEAD, *(row(n) for n in range(12) if n not in {4, 5})])
    assert found.requests[3:7].tolist() == [303, 303, 303, 306]
    assert "2 missing bins (16.7%) hold the one before" in found.notes


def test_rows_out_of_order_are_sorted_and_noted(tmp_path: Path) -> None:
    found = read(tmp_path / "d.csv", [HEAD, *(row(n) for n in (3, 1, 0, 2))])
    assert np.diff(found.requests).tolist() == [1, 1, 1]
    assert "rows sorted by time" in found.notes


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "expected a header and at least two rows"),
        ([HEAD], "expected a header and at least two rows"),
        (["Date,Calls,TokensIn,TokensOut", "01/03/2026 00:00,1,1,1", "01/03/2026 00:05,1,1,1"], "2026-03-01T12:00:00Z"),
        (["when,requests,input_tokens,output_tokens", "0,1,1,1", "60,1,1,1"], "which is t_s?"),
        (["time,input_tokens,output_tokens", "0,1,1", "60,1,1"], "--format requests"),
        (["time,requests", "0,1", "60,1"], "which is input_tokens and which output_tokens?"),
        (["time,date,requests,input_tokens,output_tokens", "0,0,1,1,1", "60,60,1,1,1"], "may both be t_s"),
        ([HEAD, "0,NaN,1,1", "60,1,1,1"], "expected a number 0..1e+15"),
        ([HEAD, "0,-1,1,1", "60,1,1,1"], "expected a number 0..1e+15"),
        ([HEAD, "0,1,1,1", "60,1,1"], "3 columns; the header has 4"),
        ([HEAD, "0,1,1,1", "60,1,1,1", "60,1,1,1"], "expected one row per bin"),
        ([HEAD, "0,1,1,1", "60,1,1,1", "120,1,1,1", "150,1,1,1"], "expected bins of one width"),
        ([HEAD, *(row(n) for n in (0, 1, 2, 20))], "are missing; at most 25%"),
        ([HEAD, "0,0,1,1", "60,1,1,1"], "has tokens but no requests"),
    ],
)
def test_what_cannot_be_told_for_certain_is_refused(lines: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadTrace) as refused:
        read(tmp_path / "d.csv", lines)
    assert said in str(refused.value)
    assert "d.csv" in str(refused.value)
