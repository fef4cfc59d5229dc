"""Comma-separated tables, checked cell by cell: the first thing wrong is named with row, column, value and remedy."""

from __future__ import annotations

import csv
import math
import re
from array import array
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.simulator.requests import LARGEST_TOKENS
from autoscaler.simulator.trace_files import BadTrace, lines, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(\.\d{1,12})?(Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII | re.IGNORECASE
)
_SAFE_DIGITS = 18  # fits 64 bits


@dataclass(frozen=True, slots=True)
class Column:
    """A column to read.

    Attributes:
        name: as in the header; capitals and blanks around it do not matter.
        convert: text of a cell to its value; raises ValueError with what is wrong, to be said after the value.
        type_code: of `array.array` for the values ("d", "q"); None: a list of texts.
        required: whether the file must have it.
    """

    name: str
    convert: Callable[[str], Any]
    type_code: str | None = "d"
    required: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """What was read.

    Attributes:
        path: the file.
        values: per column read, its values: numbers as arrays, texts as lists.
        lines: line number in the file of each row.
        ignored: columns of the file nobody asked for.
    """

    path: Path
    values: Mapping[str, Any]
    lines: array[int]
    ignored: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def has(self, name: str) -> bool:
        """Whether the file has that column."""
        return name in self.values

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """The values of a column of numbers."""
        return np.asarray(self.values[name], dtype=np.float64)

    def bad(self, at: int, column: str, value: object, problem: str) -> BadTrace:
        """The complaint about the row at index `at`."""
        return BadTrace(self.path, problem, row=at + 1, line=self.lines[at], column=column, value=str(value))


def header(path: Path) -> tuple[str, ...]:
    """The names in the first line, trimmed.

    Raises:
        BadTrace: an unreadable or empty file, or one whose columns are not separated by commas.
    """
    with closing(lines(path)) as text:
        return _header(path, text)


def read_table(path: Path, columns: Sequence[Column]) -> Table:
    """Read these columns of a comma-separated file with a header line. Blank lines are skipped.

    Raises:
        BadTrace: for the first thing that is wrong.
    """
    with closing(lines(path)) as text:
        names = _header(path, text)
        found = _places(path, names, columns)
        values: dict[str, Any] = {c.name: [] if c.type_code is None else array(c.type_code) for c in found}
        numbers = array("q")
        plan = [(c.name, at, c.convert, values[c.name].append) for c, at in found.items()]
        for line, written in text:
            if not written or written.isspace():
                continue
            numbers.append(line)
            cells = written.split(",") if '"' not in written else _quoted(path, len(numbers), line, written)
            if len(cells) != len(names):
                problem = f"has {len(cells)} values; the header has {len(names)} columns ({', '.join(names)})"
                raise BadTrace(path, problem, row=len(numbers), line=line)
            for name, at, convert, append in plan:
                try:
                    append(convert(cells[at]))
                except ValueError as error:
                    raise BadTrace(
                        path, str(error), row=len(numbers), line=line, column=name, value=cells[at].strip()
                    ) from None
    if not numbers:
        raise BadTrace(path, f"has a header but no rows; expected at least one after {', '.join(names)}")
    taken = {names[at] for at in found.values()}
    return Table(path, values, numbers, tuple(name or "(unnamed)" for name in names if name not in taken))


def _header(path: Path, text: Iterator[tuple[int, str]]) -> tuple[str, ...]:
    line, first = next(((line, first) for line, first in text if first.strip()), (0, ""))
    if not first:
        raise BadTrace(path, "is empty; expected a header line and rows")
    names = tuple(name.strip() for name in (_quoted(path, None, line, first) if '"' in first else first.split(",")))
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and separator in first:
            problem = f"separates its columns by {word}: {shown(first)}; save it with commas (and decimal points)"
            raise BadTrace(path, problem, line=line)
    return names


def _places(path: Path, names: tuple[str, ...], columns: Sequence[Column]) -> dict[Column, int]:
    known = [name.casefold() for name in names]
    found = {column: known.index(column.name.casefold()) for column in columns if column.name.casefold() in known}
    for column in found:
        if known.count(column.name.casefold()) > 1:
            raise BadTrace(path, f"has the column {column.name} more than once", line=1)
    missing = [column.name for column in columns if column.required and column not in found]
    if missing:
        raise wrong_columns(path, names, ",".join(column.name for column in columns if column.required), missing)
    return found


def wrong_columns(path: Path, names: Sequence[str], expected: str, missing: Sequence[str] = ()) -> BadTrace:
    """The complaint that a header is not the one of the format."""
    lacks = f"; {', '.join(missing)} missing" if missing else ""
    return BadTrace(path, f"found the columns {shown(','.join(names))}; expected {expected}{lacks}", line=1)


def _quoted(path: Path, row: int | None, line: int, written: str) -> list[str]:
    try:
        return next(csv.reader([written], strict=True))
    except csv.Error as error:
        problem = f"has broken quotes ({error}), or a quoted value that goes on in the next line"
        raise BadTrace(path, f"{problem}; write each row on one line", row=row, line=line) from None


def number(text: str) -> float:
    """A finite number; ValueError says why not."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return value
        raise ValueError("is too large; it must be a finite number")
    if not text:
        raise ValueError("is empty; it must be a number")
    if text.lstrip("+-").casefold() in {"nan", "inf", "infinity"}:
        raise ValueError("is not a finite number")
    raise ValueError("is not a number (digits with a decimal point, no separators)")


def amount(text: str) -> float:
    """A finite number >= 0; ValueError says why not."""
    value = number(text)
    if value < 0:
        raise ValueError("is negative; it must be >= 0")
    return value


def tokens(text: str) -> int:
    """Tokens of one request, 0..LARGEST_TOKENS; ValueError says why not."""
    if text.isdigit() and text.isascii() and len(text) <= _SAFE_DIGITS:
        count = int(text)
    else:
        value = number(text)
        if value < 0:
            raise ValueError(f"is negative; tokens of a request must be 0..{LARGEST_TOKENS:,}")
        if value != math.floor(value):
            raise ValueError("is not a whole number of tokens")
        count = int(value)
    if count > LARGEST_TOKENS:
        raise ValueError(f"is more than {LARGEST_TOKENS:,}, the most tokens a request may have")
    return count


class Ascending:
    """Converts times in seconds, >= 0, that must not decrease from row to row."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, text: str) -> float:
        """The time in seconds; ValueError says why not."""
        value = amount(text)
        if value < self._last:
            raise ValueError(f"comes after {self._last:g} in the row above; times must not decrease: sort the file")
        self._last = value
        return value


class Stamps:
    """Converts time stamps, all in one zone and not decreasing, to seconds since the first."""

    def __init__(self) -> None:
        self._first: datetime | None = None
        self._first_part = 0.0
        self._last = 0.0
        self._last_text = ""
        self._zone = ""

    def __call__(self, text: str) -> float:
        """Seconds since the first stamp; ValueError says why not."""
        text = text.strip()
        match = _STAMP.fullmatch(text)
        if match is None:
            raise ValueError("is not a time stamp; expected like 2023-11-16 18:15:46.680590")
        day, clock, fraction, zone = match.groups(default="")
        try:
            whole = datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=UTC)
        except ValueError as error:
            raise ValueError(f"is not a time stamp: {error}") from None
        part = float("0" + fraction) if fraction else 0.0
        if self._first is None:
            self._first, self._first_part, self._zone = whole, part, _zone(zone)
        elif _zone(zone) != self._zone:
            raise ValueError(
                f"has the time zone {zone or 'none'}, the first row {self._zone or 'none'}; "
                "all rows must carry the same one"
            )
        seconds = (whole - self._first).total_seconds() + (part - self._first_part)
        if seconds < self._last:
            raise ValueError(f"comes after {self._last_text} in the row above; times must not decrease: sort the file")
        self._last, self._last_text = seconds, text
        return seconds


def _zone(written: str) -> str:
    """Zone in one spelling: Z, +00, +0000 and +00:00 are the same."""
    if not written:
        return ""
    if written in {"Z", "z"}:
        return "+00:00"
    digits = written[1:].replace(":", "").ljust(4, "0")
    sign = "+" if digits == "0000" else written[0]
    return f"{sign}{digits[:2]}:{digits[2:]}"
