"""The journal: one JSON line per tick with what was seen and what was decided, enough to replay and to explain.

    {"v": 1, "seen": {…Observation…}, "decision": {…Decision…}}

None fields are left out. Lines are appended in one write each, so that a reader never sees half of one but the last.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from autoscaler.errors import BadJournal
from autoscaler.model import Decision, Observation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1
BLOCK = 65_536
_SEEN = TypeAdapter(Observation)
_DECISION = TypeAdapter(Decision)


def plain_decision(decision: Decision) -> dict[str, Any]:
    """A decision as JSON's own types; absent values are left out."""
    return _object(_DECISION.dump_python(decision, mode="json", exclude_none=True))


def read_decision(plain: Any) -> Decision:
    """Inverse of plain_decision. Raises ValueError for anything else."""
    return _DECISION.validate_python(_object(plain))


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} instead of an object")
    return value


class Journal:
    """An append-only file that is turned over to `<name>.1` when it grows beyond `most_bytes`."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self.most_bytes = most_bytes
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, seen: Observation, decision: Decision) -> None:
        """Append one tick."""
        told = _SEEN.dump_json(seen, exclude_none=True)  # this way what is not finite becomes null
        line = b'{"v":%d,"seen":%b,"decision":%b}\n' % (VERSION, told, _DECISION.dump_json(decision, exclude_none=True))
        if self.path.exists():
            _drop_torn_end(self.path)
            if self.path.stat().st_size + len(line) > self.most_bytes:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
        with self.path.open("ab") as file:
            file.write(line)


def _drop_torn_end(path: Path) -> None:
    """Cut off a last line that a crash or a full disk left without its end; the next would be glued to it."""
    with path.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        if end == 0 or (file.seek(end - 1) and file.read(1) == b"\n"):
            return
        keep = 0
        for start in range((end - 1) // BLOCK * BLOCK, -1, -BLOCK):
            file.seek(start)
            newline = file.read(min(BLOCK, end - start)).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
        file.truncate(keep)


def read(path: Path) -> Iterator[tuple[Observation, Decision]]:
    """All ticks of a journal, oldest first; the turned-over file before the present one.

    A last line cut short by a crash is left out; any other damage is an error.

    Raises:
        BadJournal: naming file and line.
    """
    older = path.with_name(path.name + ".1")
    if not path.exists() and not older.exists():
        raise BadJournal(f"{path}: there is no such journal; `tidegate run` writes one to loop.journal_file")
    for file in (older, path):
        if file.exists():
            yield from _read_one(file)


def _read_one(file: Path) -> Iterator[tuple[Observation, Decision]]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                pair = entry(line)
            except (ValueError, KeyError, TypeError) as error:
                if not line.endswith("\n"):
                    return
                raise BadJournal(f"{file}:{number}: not a journal line: {first_line(error)}") from None
            yield pair


def entry(line: str) -> tuple[Observation, Decision]:
    """One line's observation and decision. Raises ValueError, KeyError or TypeError for anything else."""
    told = _object(json.loads(line))
    if told.get("v") != VERSION:
        raise ValueError(f"version {told.get('v')!r}; this program reads version {VERSION}")
    return _SEEN.validate_python(told["seen"]), _DECISION.validate_python(told["decision"])


def first_line(error: Exception) -> str:
    """Why a line is not a journal's, in words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error)
