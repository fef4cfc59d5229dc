"""A journal as the dashboard replays it: any tick by its number, without holding the file in memory."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.dashboard.chronicle import Chronicle
from autoscaler.errors import BadJournal
from autoscaler.journal import entry, first_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from autoscaler.dashboard.chronicle import Replica
    from autoscaler.model import Decision, Observation

BEFORE = 240
"""Ticks read before the shown one, so that its charts have a past: an hour at 15 s."""
MOST_TICKS = 2_000_000


@dataclass(frozen=True, slots=True)
class Span:
    """What a journal covers."""

    ticks: int
    first_at: float | None
    last_at: float | None


class Replay:
    """An index of a journal's lines (12 bytes a tick). Files are read again for each look; the index when they grow."""

    def __init__(self, path: Path, replicas: Mapping[str, Replica] | None = None) -> None:
        self.path = path
        self._replicas = dict(replicas or {})
        self._files = [path.with_name(path.name + ".1"), path]
        self._offsets: list[array[int]] = []
        self._sizes: list[int] = []

    def refresh(self) -> None:
        """Find lines written, or a file turned over, since the last look."""
        sizes = [file.stat().st_size if file.exists() else -1 for file in self._files]
        if sizes == self._sizes:
            return
        self._offsets = [_lines(file) for file in self._files]
        self._sizes = sizes

    def span(self) -> Span:
        """How many ticks there are, and when the first and the last were. Raises BadJournal as chronicle does."""
        ticks = sum(len(offsets) for offsets in self._offsets)
        if not ticks:
            return Span(0, None, None)
        return Span(ticks, self._tick(0)[0].at, self._tick(ticks - 1)[0].at)

    def chronicle(self, number: int) -> Chronicle:
        """The dashboard's state at a tick, with the BEFORE ticks before it.

        Raises:
            BadJournal: no such tick, or a line that cannot be read.
        """
        ticks = self.span().ticks
        if not 0 <= number < ticks:
            raise BadJournal(f"tick {number}: this journal has ticks 0 to {ticks - 1}")
        found = Chronicle("replay", 0.0, 0.0, self._replicas)
        for at in range(max(0, number - BEFORE), number + 1):
            found.note(*self._tick(at))
        return found

    def _tick(self, number: int) -> tuple[Observation, Decision]:
        try:
            return entry(self._text(number))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise BadJournal(f"{self.path}: tick {number}: not a journal line: {first_line(error)}") from None

    def _text(self, number: int) -> str:
        for file, offsets in zip(self._files, self._offsets, strict=True):
            if number < len(offsets):
                with file.open("rb") as opened:
                    opened.seek(offsets[number])
                    return opened.readline().decode("utf-8", errors="replace")
            number -= len(offsets)
        raise BadJournal(f"{self.path}: it became shorter while it was read")


def _lines(file: Path) -> array[int]:
    """Where each whole line begins; a last one without its end is being written."""
    found: array[int] = array("q")
    if not file.exists():
        return found
    offset = 0
    with file.open("rb") as opened:
        for line in opened:
            if line.endswith(b"\n") and line.strip():
                found.append(offset)
                if len(found) > MOST_TICKS:
                    raise BadJournal(f"{file}: more than {MOST_TICKS:,} ticks; replay a part of it")
            offset += len(line)
    return found
