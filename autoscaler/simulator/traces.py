"""Public traces as workloads: one door, `load`, for every format; a bad file is refused with row, column and remedy."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.simulator.demand_files import MeanTokens, read_burstgpt_bins, read_demand
from autoscaler.simulator.mooncake import read_mooncake
from autoscaler.simulator.requests import LONGEST_DAYS, DemandSeries, Workload, served
from autoscaler.simulator.servegen import read_servegen
from autoscaler.simulator.tables import Ascending, Column, Stamps, Table, header, read_table, tokens
from autoscaler.simulator.trace_files import DAY_S, BadTrace, title, too_long

if TYPE_CHECKING:
    from autoscaler.simulator.requests import Counts, Kinds

_UNIX_S = 1e8
"""Arrivals that begin later than this (3 years) are taken for Unix times."""

_MOST_CLASSES = 128


class Format(StrEnum):
    """Formats of trace files."""

    AZURE = "azure"
    """CSV TIMESTAMP,ContextTokens,GeneratedTokens (Azure LLM inference traces 2023 and 2024)."""
    MOONCAKE = "mooncake"
    """JSON lines with timestamp, input_length, output_length, hash_ids."""
    BURSTGPT = "burstgpt"
    """CSV Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type; or its aggregates per bin."""
    SERVEGEN = "servegen"
    """Published ServeGen rates: totals per bin (agg) or rates per client."""
    REQUESTS = "requests"
    """CSV arrival_s,input_tokens,output_tokens[,cached_tokens][,class]."""
    DEMAND = "demand"
    """CSV t_s,requests,input_tokens,output_tokens per bin."""


def load(
    path: str | Path,
    format: str,  # noqa: A002 - the word the command line and its users say
    *,
    input_tokens: float | None = None,
    output_tokens: float | None = None,
) -> Workload | DemandSeries:
    """Read a trace. Compression by gzip is recognised by content.

    Args:
        path: the file. `FILE#COLUMN` names the column of input tokens (demand) or of classes (requests).
        format: one of `Format`.
        input_tokens: mean input tokens per request, for per-bin files that do not have them.
        output_tokens: mean output tokens per request, likewise.

    Raises:
        BadSettings: a format that does not exist, or means no request can have.
        BadTrace: the file is not a sound trace of that format; says where and what would be right.
    """
    try:
        chosen = Format(format)
    except ValueError:
        raise BadSettings((f"trace format {format!r} does not exist; choose one of {', '.join(Format)}",)) from None
    means = MeanTokens(input_tokens, output_tokens)
    file, column = _fragment(Path(path), chosen)
    loaded: Workload | DemandSeries
    match chosen:
        case Format.AZURE:
            loaded = read_azure(file)
        case Format.MOONCAKE:
            loaded = read_mooncake(file)
        case Format.BURSTGPT:
            per_request = "timestamp" in {name.casefold() for name in header(file)}
            loaded = read_burstgpt(file) if per_request else read_burstgpt_bins(file, means)
        case Format.SERVEGEN:
            loaded = read_servegen(file, means)
        case Format.REQUESTS:
            loaded = read_requests(file, column)
        case Format.DEMAND:
            loaded = read_demand(file, means, column)
    if isinstance(loaded, Workload) and means != MeanTokens():
        loaded = dataclasses.replace(loaded, notes=(*loaded.notes, "mean tokens not used: the file has lengths"))
    return loaded


def _fragment(path: Path, chosen: Format) -> tuple[Path, str | None]:
    """Path and column of FILE#COLUMN; a file whose own name holds a # is left alone."""
    name, mark, column = path.name.partition("#")
    if not mark or path.exists():
        return path, None
    if chosen not in {Format.DEMAND, Format.REQUESTS} or not column:
        raise BadSettings((f"{path}: FILE#COLUMN names a column of demand and requests files, not of {chosen}",))
    return path.with_name(name), column


def read_azure(path: Path) -> Workload:
    """An Azure LLM inference trace; time 0 is the first request.

    Raises:
        BadTrace: for the first thing that is wrong.
    """
    columns = [
        Column("TIMESTAMP", Stamps()),
        Column("ContextTokens", tokens, "q"),
        Column("GeneratedTokens", tokens, "q"),
    ]
    table = read_table(path, columns)
    return _workload(table, "TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read_burstgpt(path: Path) -> Workload:
    """BurstGPT's per-request CSV; time 0 is the first request, the class is the Log Type.

    Requests that failed when recorded have 0 response tokens; they are served as 1 token, and a note counts them.

    Raises:
        BadTrace: for the first thing that is wrong.
    """
    columns = [
        Column("Timestamp", Ascending()),
        Column("Request tokens", tokens, "q"),
        Column("Response tokens", tokens, "q"),
        Column("Log Type", str.strip, None, required=False),
    ]
    table = read_table(path, columns)
    return _workload(table, "Timestamp", "Request tokens", "Response tokens", "Log Type")


def read_requests(path: Path, column: str | None = None) -> Workload:
    """The generic CSV `arrival_s,input_tokens,output_tokens[,cached_tokens][,class]`; arrivals are kept as written.

    Args:
        path: the file.
        column: the column of classes, where it is not called `class`.

    Raises:
        BadTrace: for the first thing that is wrong.
    """
    columns = [
        Column("arrival_s", Ascending()),
        Column("input_tokens", tokens, "q"),
        Column("output_tokens", tokens, "q"),
        Column("cached_tokens", tokens, "q", required=False),
        Column(column or "class", str.strip, None, required=column is not None),
    ]
    table = read_table(path, columns)
    return _workload(table, "arrival_s", "input_tokens", "output_tokens", column or "class")


def _workload(table: Table, clock: str, prompt: str, output: str, classes: str | None = None) -> Workload:
    arrival_s = table.numbers(clock)
    notes = [f"columns not used: {', '.join(table.ignored)}"] if table.ignored else []
    if clock == "Timestamp" or arrival_s[0] >= _UNIX_S:
        if arrival_s[0] > 0:
            notes.append(f"time 0 is the first request, at {arrival_s[0]:.6f} s in the file")
        arrival_s = arrival_s - arrival_s[0]
    if problem := too_long(float(arrival_s[-1])):
        at = int(np.argmax(arrival_s > LONGEST_DAYS * DAY_S))
        raise table.bad(at, clock, f"{table.numbers(clock)[at]:.15g}", problem)
    inputs, outputs, repaired = served(np.asarray(table.values[prompt]), np.asarray(table.values[output]))
    notes += repaired
    kind, said = _classes(table, classes)
    cached = _cached(table, inputs, notes)
    return Workload(title(table.path), arrival_s, inputs, outputs, cached=cached, kind=kind, notes=(*notes, *said))


def _cached(table: Table, prompt: np.ndarray, notes: list[str]) -> Counts | None:
    if not table.has("cached_tokens"):
        return None
    cached = np.asarray(table.values["cached_tokens"])
    over = cached > prompt
    if over.any():
        at = int(np.argmax(over))
        raise table.bad(at, "cached_tokens", cached[at], f"is more than the {prompt[at]} input tokens of the request")
    whole = int(np.count_nonzero(cached == prompt))
    if whole:
        notes.append(f"{whole} wholly cached prompts compute their last token all the same")
    at_most: Counts = np.minimum(cached, prompt - 1).astype(np.int32)
    return at_most


def _classes(table: Table, column: str | None) -> tuple[Kinds | None, tuple[str, ...]]:
    """Class numbers: the numbers themselves if all are 0..127, else the place of each label in sorted order."""
    if column is None or not table.has(column):
        return None, ()
    labels: list[str] = table.values[column]
    distinct = sorted(set(labels))
    if all(label.isascii() and label.isdigit() and len(label) <= len(str(_MOST_CLASSES)) for label in distinct):
        distinct.sort(key=int)
        if int(distinct[-1]) < _MOST_CLASSES:
            return np.array([int(label) for label in labels], dtype=np.int8), ()
    if len(distinct) > _MOST_CLASSES:
        problem = f"has {len(distinct)} distinct values; at most {_MOST_CLASSES} classes can be told apart"
        raise BadTrace(table.path, problem, column=column)
    code = {label: at for at, label in enumerate(distinct)}
    said = ", ".join(f"{at} = {label or '(empty)'}" for label, at in code.items())
    return np.array([code[label] for label in labels], dtype=np.int8), (f"classes by {column}: {said}",)
