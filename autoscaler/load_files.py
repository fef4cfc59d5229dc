"""A recorded load from a table (CSV, Parquet) or a Prometheus range query: times in seconds and values, gaps as NaN."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from autoscaler.errors import BadSettings
from metrics_adapter.prometheus import PrometheusSource
from metrics_adapter.signals import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from forecasting.series import Floats
    from metrics_adapter.prometheus_http import PrometheusAccess

EMPTY = frozenset({"", "na", "nan", "null", "none", "n/a", "-"})
"""Cells that say nothing was observed, in lower case."""
LATEST_S = 1e11
"""Unix seconds of the year 5138; beyond it somebody gave milliseconds."""
LARGEST = 1e100
MOST_POINTS = 10_000
"""Points asked of Prometheus at once; it refuses more than 11,000."""


def read_load(path: Path, time: str, value: str) -> tuple[Floats, Floats]:
    """Times (seconds) and values of a table; the time column holds seconds or ISO 8601 (UTC unless it says otherwise).

    Raises:
        BadSettings: the file cannot be read, lacks a column, or a row holds no time, or what is no load.
    """
    table = _table(path)
    for option, name in (("--time", time), ("--value", value)):
        if name not in table.columns:
            raise BadSettings((f"{path}: {option} {name}: no such column; there are {', '.join(map(str, table))}",))
    if not len(table):
        raise BadSettings((f"{path}: no rows",))
    return _times(table[time], path, time), _values(table[value], path, value)


def _table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise BadSettings((f"{path}: no such file",))
    try:
        if path.suffix in {".parquet", ".pq"}:
            if importlib.util.find_spec("pyarrow") is None:
                raise BadSettings((f"{path}: reading Parquet needs pyarrow; pip install 'tidegate[scoreboard]'",))
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, index_col=False)
    except (OSError, EOFError, ValueError, pd.errors.ParserError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadSettings((f"{path}: cannot be read as a table: {said}",)) from None


def _where(path: Path, row: int) -> str:
    """Row as a person counts: the line of a CSV with its header as line 1, the row of a Parquet file from 1."""
    return f"{path} row {row + 1}" if path.suffix in {".parquet", ".pq"} else f"{path} row {row + 1} (line {row + 2})"


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
        raise BadSettings((f"{_where(path, row)}: {name} {str(column.iloc[row])!r} must be {wanted}",))
    late = np.flatnonzero(np.abs(found) > LATEST_S)
    if len(late):
        row = int(late[0])
        raise BadSettings((f"{_where(path, row)}: {name} {column.iloc[row]} is beyond {LATEST_S:g} s: milliseconds?",))
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
        raise BadSettings((f"{_where(path, row)}: {name} {str(column.iloc[row])!r} must be {wanted}",))
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
        raise BadSettings((f"--prometheus {access.url}: {error}",)) from None
    finally:
        source.close()
    if not found:
        raise BadSettings((f"--query {query} gives no samples between {first:.0f} and {last:.0f}",))
    values = np.array(list(found.values()))
    return np.array(list(found)), np.where((values >= 0) & (values <= LARGEST), values, math.nan)
