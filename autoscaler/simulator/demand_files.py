"""Demand per bin of time from tables: the generic `demand` format and the published BurstGPT aggregates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.simulator.requests import LARGEST_TOKENS, LONGEST_DAYS, DemandSeries
from autoscaler.simulator.tables import Ascending, Column, Table, amount, header, read_table, wrong_columns
from autoscaler.simulator.trace_files import BadTrace, title, too_long

if TYPE_CHECKING:
    from pathlib import Path

    from autoscaler.simulator.requests import Floats

_DAY_S = 86400.0
_COLUMNS = ("requests", "input_tokens", "output_tokens")
_EXPECTED = "t_s,requests,input_tokens,output_tokens"


@dataclass(frozen=True, slots=True)
class MeanTokens:
    """Mean tokens per request, for what a file does not have. None: not given.

    Raises:
        BadSettings: a mean that no request can have.
    """

    prompt: float | None = None
    output: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("input_tokens", self.prompt), ("output_tokens", self.output)):
            if value is not None and not 1 <= value <= LARGEST_TOKENS:
                raise BadSettings((f"{name} is {value}; it must be 1..{LARGEST_TOKENS:,} tokens per request",))


def read_demand(path: Path, means: MeanTokens, column: str | None = None) -> DemandSeries:
    """A CSV with `t_s` (seconds at which the bin begins, evenly spaced) and totals per bin.

    One of requests, input_tokens and output_tokens is enough; the others follow from the mean tokens per request.

    Args:
        path: the file.
        means: for the columns that are missing.
        column: the column that holds the input tokens, where it is called something else.

    Raises:
        BadTrace: for the first thing that is wrong, or a missing column without its mean.
    """
    renamed = {"input_tokens": column} if column is not None else {}
    wanted = [Column(renamed.get(name, name), amount, required=name in renamed) for name in _COLUMNS]
    table = read_table(path, [Column("t_s", Ascending()), *wanted])
    given: dict[str, Floats] = {}
    for name in _COLUMNS:
        if table.has(renamed.get(name, name)):
            given[name] = table.numbers(renamed.get(name, name))
    if not given:
        names = ("t_s", *table.ignored)
        raise wrong_columns(
            path, names, f"{_EXPECTED}, or a column of input tokens named after the path as FILE#COLUMN"
        )
    name = title(path) if column is None else f"{title(path)}#{column}"
    return series(name, table, given, means, ignored_note(table))


def read_burstgpt_bins(path: Path, means: MeanTokens) -> DemandSeries:
    """The published BurstGPT aggregates: requests per hour, tokens per minute, or both per day.

    Totals of tokens are split between input and output in the ratio of the two means.

    Raises:
        BadTrace: for the first thing that is wrong, or a mean that is missing.
    """
    names = {name.casefold() for name in header(path)}
    if {"t_s", "all"} <= names:
        table = read_table(path, [Column("t_s", Ascending()), Column("all", amount)])
        return series(title(path), table, {"requests": table.numbers("all")}, means, ignored_note(table))
    if "total_tokens" not in names or not names & {"t_s", "day"}:
        expected = "Timestamp,Request tokens,Response tokens (per request) or t_s,all or t_s,total_tokens or "
        raise wrong_columns(path, header(path), expected + "day,requests,total_tokens (aggregates)")
    clock = "t_s" if "t_s" in names else "day"
    columns = [Column(clock, Ascending()), Column("total_tokens", amount), Column("requests", amount, required=False)]
    table = read_table(path, columns)
    if means.prompt is None or means.output is None:
        raise BadTrace(path, "has totals of tokens only; give the mean input_tokens and output_tokens of a request")
    total, both = table.numbers("total_tokens"), means.prompt + means.output
    given = {"input_tokens": total * (means.prompt / both), "output_tokens": total * (means.output / both)}
    given["requests"] = table.numbers("requests") if table.has("requests") else total / both
    notes = (f"total tokens split {means.prompt:g} to {means.output:g}", *ignored_note(table))
    return series(title(path), table, given, MeanTokens(), notes, clock)


def ignored_note(table: Table) -> tuple[str, ...]:
    """Which columns of the file nothing was done with."""
    return (f"columns not used: {', '.join(table.ignored)}",) if table.ignored else ()


def series(
    name: str, table: Table, given: dict[str, Floats], means: MeanTokens, notes: tuple[str, ...], clock: str = "t_s"
) -> DemandSeries:
    """Demand from the columns `given` (requests, input_tokens, output_tokens) of a table; begins at 0.

    Args:
        name: of the series.
        table: where the columns come from; errors name its rows.
        given: totals per bin.
        means: for what is not given.
        notes: what has been done so far.
        clock: the column of times, seconds or `day`.

    Raises:
        BadTrace: what is missing without its mean, bins out of step, tokens that no requests can have.
    """
    per_request = {"input_tokens": means.prompt, "output_tokens": means.output}
    said, amounts = list(notes), dict(given)
    if "requests" not in amounts:
        known = next((key for key in ("input_tokens", "output_tokens") if key in given and per_request[key]), None)
        if known is None:
            give = " or ".join(key for key in per_request if key in given)
            raise BadTrace(table.path, f"has no column requests; give the mean {give} of a request")
        amounts["requests"] = given[known] / (per_request[known] or 1.0)
        said.append(f"requests from {known} at {per_request[known]:g} per request")
    for key, mean in per_request.items():
        if key in given:
            continue
        if mean is None:
            raise BadTrace(table.path, f"has no column {key}; give the mean {key} of a request")
        amounts[key] = amounts["requests"] * mean
        said.append(f"{key} at {mean:g} per request")
    for key in per_request:
        _check_means(table, key, amounts["requests"], amounts[key])
    times, bin_s = bins(table, clock)
    if table.values[clock][0] > 0:
        said.append(f"time 0 is {clock} {table.values[clock][0]:g} of the file")
    unused = [key for key, mean in per_request.items() if mean is not None and key in given and "requests" in given]
    if unused:
        said.append(f"mean {' and '.join(unused)} not used: the file has the totals")
    return DemandSeries(
        name, times, bin_s, amounts["requests"], amounts["input_tokens"], amounts["output_tokens"], tuple(said)
    )


def _check_means(table: Table, key: str, requests: Floats, tokens: Floats) -> None:
    for sound, problem in (
        ((requests > 0) | (tokens == 0), "tokens in a bin without requests; one of the two is wrong"),
        (tokens <= requests * LARGEST_TOKENS, f"is more than {LARGEST_TOKENS:,} tokens per request of the bin"),
    ):
        if not sound.all():
            at = int(np.argmin(sound))
            raise table.bad(at, key, f"{tokens[at]:g}", problem)


def bins(table: Table, clock: str) -> tuple[Floats, float]:
    """Times (seconds, from 0) and width of the bins.

    Raises:
        BadTrace: fewer than two rows, or a row that is not one bin after the one above.
    """
    times = table.numbers(clock) * (_DAY_S if clock == "day" else 1.0)
    if len(times) == 1:
        raise BadTrace(table.path, "has one row; at least two are needed to know how wide a bin is")
    steps = np.diff(times)
    # The most common step is the bin, so that the row named is the odd one out.
    widths, counts = np.unique(np.round(steps, 6), return_counts=True)
    bin_s = float(widths[np.argmax(counts)])
    odd = np.flatnonzero(np.abs(steps - bin_s) > 1e-6 * max(bin_s, 1e-3))
    if bin_s <= 0 or len(odd):
        at = int(odd[0]) if len(odd) else 0
        problem = f"comes {steps[at]:g} s after the row above; bins must be {bin_s:g} s apart: fill gaps with zeros"
        if bin_s <= 0:
            problem = "repeats the time above; bins must follow each other"
        raise table.bad(at + 1, clock, table.numbers(clock)[at + 1], problem)
    from_zero: Floats = np.arange(len(times), dtype=np.float64) * bin_s
    if problem := too_long(float(from_zero[-1])):
        at = int(np.argmax(from_zero > LONGEST_DAYS * _DAY_S))
        raise table.bad(at, clock, f"{table.numbers(clock)[at]:.15g}", problem)
    return from_zero, bin_s
