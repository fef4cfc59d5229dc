"""Mooncake traces: one JSON object per line with arrival, lengths and the ids of the prompt's prefix blocks."""

from __future__ import annotations

import json
import math
from array import array
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.simulator.requests import BLOCK_TOKENS, LARGEST_TOKENS, Workload, served
from autoscaler.simulator.trace_files import BadTrace, lines, title, too_long

if TYPE_CHECKING:
    from pathlib import Path

    from autoscaler.simulator.requests import Hashes

_FIELDS = '{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [block, ...]}'


@dataclass(slots=True)
class _Rows:
    """Requests read so far; `hashed` None until the first row shows whether rows have block ids."""

    path: Path
    row: int = 0
    line: int = 0
    arrival_s: array[float] = field(default_factory=lambda: array("d"))
    prompt: array[int] = field(default_factory=lambda: array("q"))
    output: array[int] = field(default_factory=lambda: array("q"))
    blocks: list[Hashes] = field(default_factory=list)
    hashed: bool | None = None
    last_ms: float = 0.0

    def add(self, line: int, text: str) -> None:
        self.row, self.line = self.row + 1, line
        record = self._record(text)
        self.arrival_s.append(self._time(record) / 1000.0)
        self.prompt.append(self._tokens(record, "input_length"))
        self.output.append(self._tokens(record, "output_length"))
        ids = record.get("hash_ids")
        if self.hashed is None:
            self.hashed = ids is not None
        if self.hashed != (ids is not None):
            raise self.bad("is missing here; give it in every row or in none", "hash_ids")
        if ids is not None:
            self.blocks.append(self._hashes(ids, self.prompt[-1]))

    def bad(self, problem: str, column: str | None = None, value: object = None) -> BadTrace:
        said = None if value is None else value if isinstance(value, str) else json.dumps(value)
        return BadTrace(self.path, problem, row=self.row, line=self.line, column=column, value=said)

    def _record(self, text: str) -> dict[str, object]:
        try:
            record = json.loads(text)
        except RecursionError:
            raise self.bad("is nested too deeply to be a trace; expected one flat JSON object per line") from None
        except ValueError as error:
            raise self.bad(f"is not JSON ({error}); expected {_FIELDS}", value=text) from None
        if not isinstance(record, dict):
            raise self.bad(f"is not a JSON object; expected {_FIELDS}", value=record)
        for name in ("timestamp", "input_length", "output_length"):
            if name not in record:
                raise self.bad(f"has the fields {', '.join(map(str, record)) or 'none'}; {name} missing of {_FIELDS}")
        return record

    def _time(self, record: dict[str, object]) -> float:
        value = record["timestamp"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value) or value < 0:
            raise self.bad("is not a time in milliseconds >= 0", "timestamp", value)
        if value < self.last_ms:
            problem = f"comes after {self.last_ms:g} in the row above; times must not decrease: sort the file"
            raise self.bad(problem, "timestamp", value)
        if problem := too_long(float(value) / 1000.0):
            raise self.bad(f"{problem.removesuffix('seconds?')}milliseconds?", "timestamp", value)
        self.last_ms = float(value)
        return self.last_ms

    def _tokens(self, record: dict[str, object], name: str) -> int:
        value = record[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value) or value % 1:
            raise self.bad("is not a whole number of tokens", name, value)
        if not 0 <= value <= LARGEST_TOKENS:
            how = "negative" if value < 0 else "too many"
            raise self.bad(f"is {how}; tokens of a request must be 0..{LARGEST_TOKENS:,}", name, value)
        return int(value)

    def _hashes(self, ids: object, prompt: int) -> Hashes:
        if not isinstance(ids, list) or not all(type(one) is int and abs(one) < 2**62 for one in ids):
            raise self.bad("is not a list of whole numbers below 2^62", "hash_ids", ids)
        most = -(-prompt // BLOCK_TOKENS)
        # Whether the last block, partly filled, has an id of its own differs between traces.
        if not prompt // BLOCK_TOKENS <= len(ids) <= most:
            problem = f"has {len(ids)} ids for {prompt} tokens; expected {most}, one per {BLOCK_TOKENS} tokens"
            raise self.bad(problem, "hash_ids")
        hashes = np.array(ids, dtype=np.int64)
        hashes.flags.writeable = False
        return hashes


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer too large for a float
        return False


def read_mooncake(path: Path) -> Workload:
    """A Mooncake trace (FAST'25 release): milliseconds, lengths, block ids of 512 tokens. Time 0 is the file's own.

    Raises:
        BadTrace: for the first thing that is wrong.
    """
    rows = _Rows(path)
    with closing(lines(path)) as text:
        for line, written in text:
            if written and not written.isspace():
                rows.add(line, written)
    if not rows.output:
        raise BadTrace(path, f"is empty; expected lines of {_FIELDS}")
    prompt, output, notes = served(np.asarray(rows.prompt), np.asarray(rows.output))
    blocks = tuple(rows.blocks) if rows.hashed else None
    return Workload(title(path), np.asarray(rows.arrival_s), prompt, output, blocks=blocks, notes=notes)
