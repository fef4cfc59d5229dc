from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from autoscaler import load_files
from autoscaler.cli import app
from autoscaler.errors import BadSettings
from metrics_adapter.prometheus_http import PrometheusAccess

if TYPE_CHECKING:
    from pathlib import Path

FIGURES = {"horizon_s", "coverage", "over_provision", "shortfall", "wape", "pinball", "n"}


def loads(days: float = 3.0, step: int = 600) -> tuple[list[int], list[float]]:
    rng = np.random.default_rng(0)
    times = np.arange(0, int(days * 86400), step)
    values = (100 + 50 * np.sin(times / 86400 * 6.283)) * np.exp(0.1 * rng.standard_normal(len(times)))
    return times.tolist(), values.tolist()


def written(path: Path, rows: list[str], header: str = "t_s,load") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def said(*arguments: str) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["backtest", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def refused(*arguments: str) -> str:
    with pytest.raises(BadSettings) as refusal:
        CliRunner().invoke(app, ["backtest", *arguments], catch_exceptions=False)
    assert refusal.value.exit_code == 2
    return str(refusal.value)


USUAL = ("--value", "load", "--step", "600", "--warmup", "86400")


def test_prints_a_list_of_scores_in_the_order_of_the_horizons(tmp_path: Path) -> None:
    times, values = loads()
    file = written(tmp_path / "load.csv", [f"{t},{v}" for t, v in zip(times, values, strict=True)])
    scores = said(str(file), "--time", "t_s", *USUAL, "--horizons", "3600,600", "--quantile", "0.9")
    assert [score["horizon_s"] for score in scores] == [3600, 600]
    # 3 days of 144 bins, 144 to warm up: origins 144 .. 431 - h have a target, 288 - h of them
    assert [score["n"] for score in scores] == [282, 287]
    for score in scores:
        assert set(score) == FIGURES
        # pinball at 0.9 = 0.9 shortfall + 0.1 over-provision
        assert score["pinball"] == pytest.approx(0.9 * score["shortfall"] + 0.1 * score["over_provision"])


def test_empty_cells_missing_rows_times_as_text_and_parquet_are_the_same_load(tmp_path: Path) -> None:
    times, values = loads()
    gone = set(range(200, 230))
    known = [(t, v) for place, (t, v) in enumerate(zip(times, values, strict=True)) if place not in gone]
    empty = [f"{t},{'' if place in gone else v}" for place, (t, v) in enumerate(zip(times, values, strict=True))]
    files = [
        written(tmp_path / "empty.csv", empty),
        written(tmp_path / "missing.csv", [f"{t},{v}" for t, v in known]),
        written(tmp_path / "stamped.csv", [f"{pd.Timestamp(t, unit='s').isoformat()}Z,{v}" for t, v in known]),
        written(tmp_path / "backwards.csv", [f"{t},{v}" for t, v in reversed(known)]),
    ]
    packed = tmp_path / "packed.csv.gz"
    packed.write_bytes(gzip.compress(files[0].read_bytes()))
    table = tmp_path / "load.parquet"
    pd.DataFrame({"t_s": times, "load": [np.nan if p in gone else v for p, v in enumerate(values)]}).to_parquet(table)
    asked = (*USUAL, "--horizons", "600", "--forecaster", "last-value")
    found = [said(str(file), *asked) for file in (*files, packed, table)]
    assert all(scores == found[0] for scores in found)
    assert found[0][0]["n"] == 287 - 30


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (["0,1", "600,2", "1200,many"], "row 3 (line 4): load 'many' must be a number from 0"),
        (["0,1", "600,-2"], "row 2 (line 3): load '-2' must be a number from 0"),
        (["0,1", "600,inf"], "row 2 (line 3): load 'inf' must be a number from 0"),
        (["0,1", ",2"], "row 2 (line 3): t_s '' must be seconds or an ISO 8601 time"),
        (["0,1", "noon,2"], "row 2 (line 3): t_s 'noon' must be seconds or an ISO 8601 time"),
        (["1700000000000,1", "1700000600000,2"], "beyond 1e+11 s: milliseconds?"),
        (["0,", "600,"], "no value at all"),
        (
            ["0,1", "600,2"],
            "holds 2 bins of --step 600 s, and the first forecast is judged after 145 of them (--warmup",
        ),
        (["0,1", "60000000000,2"], "is the time in seconds"),
        ([], "no rows"),
    ],
)
def test_rows_that_are_no_load_are_named(tmp_path: Path, rows: list[str], complaint: str) -> None:
    file = written(tmp_path / "load.csv", rows)
    assert complaint in refused(str(file), *USUAL, "--horizons", "600")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--value", "loud"), "--value loud: no such column; there are t_s, load"),
        (("--value", "load", "--time", "when"), "--time when: no such column"),
        ((), "--value: name the column"),
        ((*USUAL, "--horizons", "600,700"), "horizon 700 s must be a whole number of steps of 600 s"),
        ((*USUAL, "--horizons", "soon"), "--horizons 'soon' must be seconds"),
        ((*USUAL, "--horizons", "600,600"), "must differ from one another"),
        ((*USUAL, "--quantile", "95"), "--quantile 95.0 must lie strictly between 0 and 1"),
        (("--value", "load", "--step", "0"), "--step 0.0 must be finite and above 0"),
        (("--value", "load", "--warmup", "-1"), "--warmup -1.0 must be finite and not negative"),
        ((*USUAL, "--forecaster", "oracle"), "forecaster 'oracle' is not one of ensemble, last-value"),
        ((*USUAL, "--plot", "load.gif"), "--plot load.gif: must end in .png"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, arguments: tuple[str, ...], complaint: str) -> None:
    times, values = loads(2)
    file = written(tmp_path / "load.csv", [f"{t},{v}" for t, v in zip(times, values, strict=True)])
    assert complaint in refused(str(file), *arguments)


def test_tables_as_people_keep_them_are_the_same_load(tmp_path: Path) -> None:
    times, values = loads(1.5)
    rows = [f"{t},{v}" for t, v in zip(times, values, strict=True)]
    plain = written(tmp_path / "plain.csv", rows)
    spaced = written(tmp_path / "spaced.csv", [row.replace(",", " , ") for row in rows], "t_s, load ")
    windows = tmp_path / "windows.csv"
    windows.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(['"t_s","load"', "", *rows, " ", ","]).encode() + b"\r\n\r\n")
    packed = tmp_path / "packed.csv"  # gzip that does not say so in its name
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    indexed = tmp_path / "indexed"  # likewise Parquet, its times in the index
    pd.DataFrame({"load": values}, index=pd.Index(times, name="t_s")).to_parquet(indexed)
    asked = (*USUAL, "--horizons", "600", "--forecaster", "last-value")
    found = [said(str(file), *asked) for file in (plain, spaced, windows, packed, indexed)]
    assert all(scores == found[0] for scores in found)


def test_a_row_is_named_by_its_line_where_others_are_blank(tmp_path: Path) -> None:
    file = written(tmp_path / "load.csv", ["0,1", "", "600,2", "1200,-5"])
    assert "row 4 (line 5): load '-5'" in refused(str(file), *USUAL)
    assert "Expected 2 fields in line 3, saw 3" in refused(str(written(file, ["0,1", "600,2,9"])), *USUAL)
    assert "2 columns have this name" in refused(str(written(file, ["0,1,2"], "t_s,load,load")), *USUAL)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    assert "is a folder" in refused(str(tmp_path), *USUAL)
    assert "no such file" in refused(str(tmp_path / "none.csv"), *USUAL)
    for name in ("broken.csv.gz", "broken.parquet", "broken.csv"):
        (tmp_path / name).write_bytes(b"\x00\xff\x13garbage\n\x88" * 20)
        assert name in refused(str(tmp_path / name), *USUAL)
    (tmp_path / "nothing.csv").write_bytes(b"")
    assert "cannot be read as a table" in refused(str(tmp_path / "nothing.csv"), *USUAL)
    assert "one of them" in refused("--value", "load")
    assert "needs --query" in refused("--prometheus", "http://127.0.0.1:1")


def test_a_table_and_a_picture_for_people(tmp_path: Path) -> None:
    times, values = loads(2)
    file = written(tmp_path / "load.csv", [f"{t},{v}" for t, v in zip(times, values, strict=True)])
    picture = tmp_path / "load.png"
    asked = [str(file), *USUAL, "--horizons", "600,3600", "--forecaster", "day-shape", "--plot", str(picture)]
    result = CliRunner().invoke(app, ["backtest", *asked], catch_exceptions=False)
    assert result.exit_code == 0
    assert "3600 s" in result.stdout
    assert "over_provision" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_load_of_zeros_has_no_figures_relative_to_its_mean(tmp_path: Path) -> None:
    file = written(tmp_path / "load.csv", [f"{t},0" for t in range(0, 2 * 86400, 600)])
    (score,) = said(str(file), *USUAL, "--horizons", "600", "--forecaster", "last-value")
    assert score["coverage"] == 1.0
    assert score["over_provision"] is None


class Asked:
    """Stands in for a Prometheus that has one series, and notes the ranges it is asked for."""

    ranges: tuple[tuple[float, float], ...] = ()

    def __init__(self, access: PrometheusAccess) -> None:
        self.access = access

    def range(self, query: str, start: float, end: float, step: float) -> list[Any]:
        Asked.ranges += ((start, end),)
        points = [(t, float("nan") if t == 600.0 else t) for t in np.arange(start, end + 1e-9, step).tolist()]
        return [({}, points)] * (2 if query == "many" else 1)

    def close(self) -> None:
        """Nothing to release."""


def test_a_long_range_is_asked_for_in_pieces_prometheus_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_files, "PrometheusSource", Asked)
    Asked.ranges = ()
    access = PrometheusAccess("http://127.0.0.1:9")
    times, values = load_files.query_load(access, "load", 0.0, 600.0 * 25_000, 600.0)
    assert len(Asked.ranges) == 3
    assert max((end - start) / 600.0 for start, end in Asked.ranges) < 11_000
    assert np.array_equal(times, 600.0 * np.arange(25_001))
    assert np.isnan(values[1])
    assert values[2] == 1200.0
    with pytest.raises(BadSettings, match="2 series; write one that sums"):
        load_files.query_load(access, "many", 0.0, 6000.0, 600.0)
    with pytest.raises(BadSettings, match="must be before --end"):
        load_files.query_load(access, "load", 6000.0, 0.0, 600.0)


def test_a_prometheus_that_cannot_be_asked_is_named() -> None:
    found = refused("--prometheus", "http://127.0.0.1:1", "--query", "up", "--start", "0", "--end", "6000")
    assert "--prometheus http://127.0.0.1:1" in found


@pytest.mark.parametrize(
    "address", ["http://me:s3cr3t@127.0.0.1:1", "ftp://me:s3cr3t@127.0.0.1:1", "http://me:s3cr3t@:1"]
)
def test_a_password_in_the_address_is_never_repeated(address: str) -> None:
    found = refused("--prometheus", address, "--query", "up")
    assert "--prometheus" in found
    assert "me:***@" in found
    assert "s3cr3t" not in found
