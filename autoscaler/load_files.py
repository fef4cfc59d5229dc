"""A recorded load from a table (CSV, Parquet) or a Prometheus range query: times in seconds and values, gaps as NaN."""

from __future__ import annotations

import importlib.util
import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from autoscaler.errors import BadSettings
from autoscaler.settings_types import masked
from metrics_adapter.prometheus import PrometheusSource
from metrics_adapter.signals import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from forecasting.series import Floats
    from metrics_adapter.prometheus_http import PrometheusAccess

EMPTY = frozenset({"", "na", "nan", "null", "none", "n/a", "-"})
"""Cells that say nothing was observed, in lower case."""
PARQUET, PARQUET_ENDINGS, GZIP = b"PAR1", frozenset({".parquet", ".pq"}), b"\x1f\x8b"
"""How such files begin, and end in their names."""
LATEST_S = 1e11
"""Unix seconds of the year 5138; beyond it somebody gave milliseconds."""
LARGEST = 1e100
MOST_POINTS = 10_000
"""Points asked of Prometheus at once; it refuses more than 11,000."""


def read_load(path: Path, time: str, value: str) -> tuple[Floats, Floats]:
    """Times (seconds) and values of a table; the time column holds seconds or ISO 8601 (UTC unless it says otherwise).

    Parquet and gzip are known by their content. Lines without any value are skipped.

    Raises:
        BadSettings: the file cannot be read, lacks a column, or a row holds no time, or what is no load.
    """
    table = _table(path)
    for option, name in (("--time", time), ("--value", value)):
        there = list(table.columns).count(name)
        if not there:
            raise BadSettings((f"{path}: {option} {name}: no such column; there are {', '.join(map(str, table))}",))
        if there > 1:
            raise BadSettings((f"{path}: {option} {name}: {there} columns have this name; rename all but one",))
    if not len(table):
        raise BadSettings((f"{path}: no rows",))
    return _times(table[time], path, time), _values(table[value], path, value)


def _table(path: Path) -> pd.DataFrame:
    """All columns, named as the file does; rows of CSV as text, their index the line less two."""
    try:
        if path.is_dir():
            raise BadSettings((f"{path}: is a folder; name a file, CSV or Parquet",))
        if not path.exists():
            raise BadSettings((f"{path}: no such file",))
        with path.open("rb") as file:
            start = file.read(4)
        if start == PARQUET or path.suffix in PARQUET_ENDINGS:
            return _parquet(path)
        return _csv(path, packed=start.startswith(GZIP))
    except (OSError, EOFError, ValueError, zlib.error, pd.errors.ParserError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
        raise BadSettings((f"{path}: cannot be read as a table: {said}{hint}",)) from None


def _parquet(path: Path) -> pd.DataFrame:
    if importlib.util.find_spec("pyarrow") is None:
        raise BadSettings((f"{path}: reading Parquet needs pyarrow; pip install 'tidegate[scoreboard]'",))
    table = pd.read_parquet(path)
    named = [name for name in table.index.names if name is not None]
    return table.reset_index(named) if named else table.reset_index(drop=True)


def _csv(path: Path, *, packed: bool) -> pd.DataFrame:
    # The header is read as a row: pandas would rename columns of one name, and drop what a longer row has too much.
    rows = pd.read_csv(
        path,
        header=None,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,
        encoding="utf-8-sig",
        compression="gzip" if packed else None,
    )
    table = rows.iloc[1:].reset_index(drop=True)
    table.columns = pd.Index([str(name).strip() for name in rows.iloc[0]])
    silent = _bare(table.iloc[:, 0])
    for column in range(1, table.shape[1]):
        if not silent.any():
            return table
        silent[silent] = _bare(table.iloc[silent, column])
    return table.loc[~silent]


def _bare(column: pd.Series) -> np.ndarray:
    bare: np.ndarray = (column.isna() | (column.str.strip() == "")).to_numpy(copy=True)
    return bare


def _where(path: Path, column: pd.Series, at: int) -> str:
    """Row as a person counts: the line of a CSV with its header as line 1, the row of a Parquet file from 1."""
    row, table = int(column.index[at]), path.suffix in PARQUET_ENDINGS
    return f"{path} row {row + 1}" if table else f"{path} row {row + 1} (line {row + 2})"


def _blank(column: pd.Series) -> np.ndarray:
    texts = column.astype(str).str.strip().str.lower()
    found: np.ndarray = (column.isna() | texts.isin(EMPTY)).to_numpy()
    return found


def _numbers(column: pd.Series) -> np.ndarray:
    found: np.ndarray = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=math.nan)
    return found


def _times(column: pd.Series, path: Path, name: str) -> Floats:
    if isinstance(column.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_any_dtype(column):
        stamps = pd.to_datetime(column, utc=True)
        found = _seconds(stamps)
    else:
        found = _numbers(column)
        if np.isnan(found).all():
            found = _seconds(
                pd.to_datetime(column.astype(str).str.strip(), format="ISO8601", utc=True, errors="coerce")
            )
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        row = int(bad[0])
        wanted = "seconds or an ISO 8601 time, the same in all rows"
        raise BadSettings((f"{_where(path, column, row)}: {name} {str(column.iloc[row])!r} must be {wanted}",))
    late = np.flatnonzero(np.abs(found) > LATEST_S)
    if len(late):
        row = int(late[0])
        raise BadSettings(
            (f"{_where(path, column, row)}: {name} {column.iloc[row]} is beyond {LATEST_S:g} s: milliseconds?",)
        )
    return found


def _seconds(stamps: pd.Series) -> np.ndarray:
    since = (stamps - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    found: np.ndarray = since.to_numpy(dtype=np.float64, na_value=math.nan)
    return found


def _values(column: pd.Series, path: Path, name: str) -> Floats:
    found = _numbers(column)
    blank = _blank(column)
    bad = np.flatnonzero(~blank & ~((found >= 0) & (found <= LARGEST)))
    if len(bad):
        row = int(bad[0])
        wanted = f"a number from 0 to {LARGEST:g}, or empty where nothing was observed"
        raise BadSettings((f"{_where(path, column, row)}: {name} {str(column.iloc[row])!r} must be {wanted}",))
    return np.where(blank, math.nan, found)


def query_load(
    access: PrometheusAccess, query: str, start: float | None, end: float | None, step_s: float
) -> tuple[Floats, Floats]:
    """Times and values of one series, asked for in pieces that the server accepts; two weeks back by default.

    Raises:
        BadSettings: the server cannot be asked, the query gives no series or more than one, or the span is empty.
    """
    source = PrometheusSource(access)
    found: dict[float, float] = {}
    try:
        last = source.server_time() if end is None else end
        first = last - 14 * 86400.0 if start is None else start
        if not first < last:
            raise BadSettings((f"--start {first:.0f} must be before --end {last:.0f}",))
        begin = math.ceil(first / step_s) * step_s
        while begin <= last:
            until = min(last, begin + (MOST_POINTS - 1) * step_s)
            series = source.range(query, begin, until, step_s)
            if len(series) > 1:
                said = f"{len(series)} series; write one that sums to a single series, such as sum(rate(…[5m]))"
                raise BadSettings((f"--query {query} gives {said}",))
            found.update(series[0][1] if series else ())
            begin = until + step_s
    except SourceError as error:
        raise BadSettings((f"--prometheus {masked(access.url)}: {error}",)) from None
    finally:
        source.close()
    if not found:
        raise BadSettings((f"--query {query} gives no samples between {first:.0f} and {last:.0f}",))
    values = np.array(list(found.values()))
    return np.array(list(found)), np.where((values >= 0) & (values <= LARGEST), values, math.nan)
