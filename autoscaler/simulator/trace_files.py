"""Text of trace files, line by line, plain or gzip-compressed, with complaints a person can act on."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, BinaryIO, cast

from autoscaler.errors import TidegateError
from autoscaler.simulator.requests import LONGEST_DAYS

if TYPE_CHECKING:
    from collections.abc import Generator
    from io import BufferedReader
    from pathlib import Path

LONGEST_LINE = 4 * 1024 * 1024
"""Bytes. A Mooncake line of a 10-million-token prompt has 20,000 block ids, about 0.2 MB."""

MOST_LINES = 50_000_000
"""The largest public trace (Azure 2024, one week) has 44 million requests."""

DAY_S = 86400.0

_BINARY = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_GZIP = b"\x1f\x8b"
_SHOWN = 60  # characters of a bad value in a message


def too_long(seconds: float) -> str:
    """The complaint that a time lies so many seconds after the trace's time 0, where that is beyond reason; else empty.

    It would otherwise be simulated tick by tick, for hours.
    """
    if seconds <= LONGEST_DAYS * DAY_S:
        return ""
    return f"is {seconds:g} s after time 0; a trace may last at most {LONGEST_DAYS} days: is the time in seconds?"


class BadTrace(TidegateError):  # noqa: N818 - named as it is said
    """A trace file cannot be used.

    Attributes:
        path: the file.
        problem: what is wrong and what would be right.
        row: number of the data row, from 1, the header not counted; None: not about one row.
        line: number of the line in the file, from 1.
        column: name of the column or field.
        value: what stands there, as text.
    """

    exit_code = 2

    def __init__(
        self,
        path: Path,
        problem: str,
        *,
        row: int | None = None,
        line: int | None = None,
        column: str | None = None,
        value: str | None = None,
    ) -> None:
        self.path, self.problem, self.row, self.line, self.column, self.value = path, problem, row, line, column, value
        place = [str(path)]
        if line is not None:
            place.append(f"line {line}" if row is None else f"row {row} (line {line})")
        if column is not None:
            place.append(f"column {column}")
        said = problem if value is None else f"{shown(value)} {problem}"
        super().__init__(f"{', '.join(place)}: {said}")


def shown(value: str) -> str:
    """The value in quotes, cut when long, with control characters made visible."""
    return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}... ({len(value)} characters)"


def lines(path: Path) -> Generator[tuple[int, str], None, None]:
    """Number (from 1) and text of every line, without line ends and byte-order mark; gzip is recognised by content.

    Raises:
        BadTrace: the file cannot be opened or read, is truncated, binary, not UTF-8, or has an endless line.
    """
    number = 0
    if path.exists() and not path.is_file():
        raise BadTrace(path, "is not a regular file; give a file of text, plain or gzip-compressed")
    try:
        with path.open("rb") as raw, _decompressed(path, raw) as stream:
            while text := stream.readline(LONGEST_LINE + 1):
                number += 1
                yield number, _decoded(path, number, text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"the gzip data is truncated or damaged after line {number} ({error}); fetch the file again"
        raise BadTrace(path, problem) from error
    except OSError as error:
        raise BadTrace(path, f"cannot be read: {error.strerror or error}") from error


def _decompressed(path: Path, raw: BufferedReader) -> BinaryIO:
    start = raw.peek(8)[:8]
    if start.startswith(_GZIP):
        return cast("BinaryIO", gzip.GzipFile(fileobj=raw))
    for magic, kind in _BINARY.items():
        if start.startswith(magic):
            raise BadTrace(path, f"is a {kind} file; give UTF-8 text, plain or gzip-compressed")
    return raw


def _decoded(path: Path, number: int, raw: bytes) -> str:
    if number > MOST_LINES:
        raise BadTrace(path, f"has more than {MOST_LINES:,} lines; give a slice of it")
    if len(raw) > LONGEST_LINE:
        problem = f"is longer than {LONGEST_LINE:,} bytes; a trace has one request or bin per line"
        raise BadTrace(path, problem, line=number)
    if b"\0" in raw:
        raise BadTrace(path, "holds a zero byte; give UTF-8 text, this is binary or UTF-16", line=number)
    try:
        text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (byte {raw[error.start]:#04x} at {error.start + 1}); save the file as UTF-8"
        raise BadTrace(path, problem, line=number) from error
    text = text.rstrip("\r\n")
    if "\r" in text:
        raise BadTrace(path, "has a carriage return inside; end lines with LF or CR LF", line=number)
    return text


def title(path: Path) -> str:
    """The file's name without .gz, .csv, .jsonl: what results call the trace."""
    name = path.name
    for suffix in (".gz", ".csv", ".jsonl", ".json", ".txt"):
        name = name.removesuffix(suffix)
    return name or path.name
