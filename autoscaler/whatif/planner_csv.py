"""Demand as planners export it: commas, semicolons or tabs, dates, column names of their own, gaps.

Strict readers say what is wrong with a file; this one takes what can mean only one thing, and notes what it took.
"""

from __future__ import annotations

import csv
import gzip
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.simulator.requests import DemandSeries
from autoscaler.simulator.trace_files import BadTrace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    Row = tuple[float, float, float, float]

NAMES: Mapping[str, tuple[str, ...]] = {
    "t_s": ("ts", "t", "time", "timestamp", "date", "datetime", "bucket", "timebucket", "starttime", "timestamputc"),
    "requests": ("requests", "numrequests", "requestcount", "nrequests", "calls", "count", "reqs", "numcalls"),
    "input_tokens": (
        *("inputtokens", "prompttokens", "tokensin", "contexttokens", "numinputtokens", "totalinputtokens"),
        *("totalprompttokens", "ntokensin", "intokens"),
    ),
    "output_tokens": (
        *("outputtokens", "completiontokens", "generatedtokens", "generationtokens", "tokensout", "numoutputtokens"),
        *("totaloutputtokens", "totalcompletiontokens", "outtokens"),
    ),
}
"""Column names understood, in lower case without signs, by what they are."""
A_ROW_A_REQUEST = (
    "For one row per request use --format requests (columns arrival_s in seconds, input_tokens, output_tokens) "
    "or --format azure (TIMESTAMP, ContextTokens, GeneratedTokens)"
)
MOST_UNSEEN = 0.25
"""Share of bins that may be missing; beyond it demand would be made up."""
MILLISECONDS = 1e11
"""Numbers of time above this (the year 5138 in seconds) are milliseconds."""
MOST = 1e15
MOST_BINS = 10_000_000


def planner_csv(path: Path, input_tokens: float | None = None, output_tokens: float | None = None) -> DemandSeries:
    """A demand file with its quirks.

    Args:
        path: the file, `.gz` as well.
        input_tokens: mean of a request, where there is no such column.
        output_tokens: likewise.

    Raises:
        BadTrace: it cannot be read, or means nothing for certain: file, row, column, value, and what would be right.
    """
    table, separator = _table(path)
    header, rows = table[0], table[1:]
    where = _columns(path, header, needs={"input_tokens": input_tokens, "output_tokens": output_tokens})
    comma = separator == ";" and not any("." in cell for row in rows for cell in row[1:])
    found = []
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise BadTrace(path, f"has {len(row)} columns; the header has {len(header)}", row=number, line=number + 1)
        at = _time(path, number, header[where["t_s"]], row[where["t_s"]])
        requests = _amount(path, number, header, row, where["requests"], comma=comma)
        tokens = [
            requests * mean if name not in where else _amount(path, number, header, row, where[name], comma=comma)
            for name, mean in (("input_tokens", input_tokens or 0.0), ("output_tokens", output_tokens or 0.0))
        ]
        found.append((at, requests, tokens[0], tokens[1]))
    taken = [f"{what} from column {header[at].strip()!r}" for what, at in where.items() if header[at].strip() != what]
    return _binned(path, found, taken)


def _table(path: Path) -> tuple[list[list[str]], str]:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise BadTrace(path, f"cannot be read: {error}; expected a CSV file in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) < 3:  # noqa: PLR2004 - a header, and two rows to know how wide a bin is
        raise BadTrace(path, f"has {len(lines)} lines; expected a header and at least two rows")
    separator = max(",;\t", key=lines[0].count)
    try:
        return list(csv.reader(lines, delimiter=separator)), separator
    except csv.Error as error:
        raise BadTrace(path, f"is no CSV file: {error}") from None


def _columns(path: Path, header: Sequence[str], needs: Mapping[str, float | None]) -> dict[str, int]:
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in header]
    found: dict[str, int] = {}
    for what, names in NAMES.items():
        there = [at for at, name in enumerate(plain) if name in names]
        if len(there) > 1:
            both = " and ".join(repr(header[at]) for at in there)
            raise BadTrace(path, f"{both} may both be {what}; name one of them {what}", line=1)
        if there:
            found[what] = there[0]
    missing = [what for what in NAMES if what not in found and needs.get(what) is None]
    if not missing:
        return found
    told = ", ".join(name.strip() for name in header)
    problem = f"found the columns {told}; which is {' and which '.join(missing)}?"
    if missing == ["requests"]:
        raise BadTrace(path, f"{problem} {A_ROW_A_REQUEST}", line=1)
    hint = " (or give history.input_tokens and history.output_tokens, means of a request)"
    said = hint if any("tokens" in what for what in missing) else ""
    raise BadTrace(path, f"{problem} Name it so{said}", line=1)


def _time(path: Path, number: int, name: str, text: str) -> float:
    """Unix seconds (or seconds from anywhere): a number, milliseconds, or a date as ISO 8601 has it; UTC if unsaid."""
    said = text.strip()
    try:
        value = float(said)
        if math.isfinite(value):
            return value / 1000.0 if abs(value) > MILLISECONDS else value
    except ValueError:
        try:
            when = datetime.fromisoformat(said)
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass
    right = "expected seconds, or a date such as 2026-03-01T12:00:00Z"
    raise BadTrace(path, f"is no time; {right}", row=number, line=number + 1, column=name.strip(), value=text)


def _amount(path: Path, number: int, header: Sequence[str], row: Sequence[str], at: int, *, comma: bool) -> float:
    text = row[at].strip()
    try:
        value = float(text.replace(",", ".") if comma else text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MOST:
        right = f"expected a number 0..{MOST:g}"
        raise BadTrace(
            path, f"is not right; {right}", row=number, line=number + 1, column=header[at].strip(), value=text
        )
    return value


def _binned(path: Path, rows: list[Row], notes: list[str]) -> DemandSeries:
    """Rows on a grid of their usual distance; bins that are missing hold the one before."""
    ordered = sorted(rows, key=lambda row: row[0])
    if ordered != rows:
        notes.append("rows sorted by time")
    times = np.array([row[0] for row in ordered])
    steps = np.diff(times)
    if (steps <= 0).any():
        raise BadTrace(path, f"two rows have the time {times[int(np.argmin(steps))]:g}; expected one row per bin")
    width = float(np.median(steps))
    where = np.rint((times - times[0]) / width).astype(np.int64)
    if (np.abs(steps / width - np.rint(steps / width)) > 0.01).any() or (np.diff(where) == 0).any():  # noqa: PLR2004 - of a bin
        odd = float(steps[int(np.argmax(np.abs(steps / width - np.rint(steps / width))))])
        raise BadTrace(path, f"rows are usually {width:g} s apart, but two are {odd:g} s; expected bins of one width")
    bins = int(where[-1]) + 1
    unseen = 1.0 - len(rows) / bins
    if bins > MOST_BINS or unseen > MOST_UNSEEN:
        raise BadTrace(
            path,
            f"{unseen:.0%} of its bins of {width:g} s are missing; at most {MOST_UNSEEN:.0%} may be, or demand "
            "is made up: fill in zeros where nothing came",
        )
    if unseen:
        notes.append(f"{bins - len(rows)} missing bins ({unseen:.1%}) hold the one before")
    last = np.searchsorted(where, np.arange(bins), side="right") - 1
    values = np.array([row[1:] for row in ordered])[last]
    requests, prompt, output = values.T
    lost = (requests == 0) & (prompt + output > 0)
    if lost.any():
        raise BadTrace(path, "has tokens but no requests; expected both or neither", row=int(np.argmax(lost)) + 1)
    grid = np.arange(bins, dtype=np.float64) * width
    return DemandSeries(str(path), grid, width, requests.copy(), prompt.copy(), output.copy(), tuple(notes))
