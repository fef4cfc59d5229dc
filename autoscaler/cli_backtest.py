"""`tidegate backtest`: how honest and how wide the forecast bounds would have been on a recorded load."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from autoscaler.cli_load import End, PrometheusAddress, Query, Recorded, Start
from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from forecasting.rolling import Backtest
    from forecasting.series import Floats


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(backtest)


def backtest(
    file: Annotated[
        Path | None, typer.Argument(help="Recorded load: .csv, .csv.gz or .parquet.", show_default=False)
    ] = None,
    time: Annotated[str, typer.Option(help="Column of times: seconds, or ISO 8601.")] = "t_s",
    value: Annotated[
        str | None, typer.Option(help="Column of loads; empty cells are gaps.", show_default=False)
    ] = None,
    prometheus: PrometheusAddress = None,
    query: Query = None,
    start: Start = None,
    end: End = None,
    step: Annotated[float, typer.Option(help="Width of a bin, seconds.")] = 600.0,
    horizons: Annotated[str, typer.Option(help="Seconds ahead, separated by commas.")] = "600,1800,3600",
    quantile: Annotated[float, typer.Option(help="Of the bound.")] = 0.95,
    warmup: Annotated[float, typer.Option(help="Seconds before the first forecast that counts.")] = 259200.0,
    forecaster: Annotated[
        str | None, typer.Option(help="Which one; by default the one the loop uses.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw load and bounds there (.png, .svg, .pdf).", show_default=False)
    ] = None,
) -> None:
    """Replay a recorded load: coverage, over-provision and shortfall of the forecast bound at each lead time.

    The forecaster sees each bin only when it is over. With a = actual, b = bound, p = median forecast:
    coverage = share of a <= b, over_provision = mean (b - a)+ / mean a, shortfall = mean (a - b)+ / mean a,
    wape = mean |a - p| / mean a, pinball = mean pinball loss of b / mean a, n = forecasts judged.
    """
    _checked(step, quantile, warmup, plot)
    times, values = Recorded(file, time, value, prometheus, query, (start, end)).read("a FILE", step)
    done = _run(times, values, step, _horizons(horizons), quantile, warmup, forecaster)
    if plot is not None:
        from autoscaler.backtest_picture import draw_backtest  # noqa: PLC0415 - matplotlib is an extra

        draw_backtest(done, step, quantile, plot)
    if as_json:
        typer.echo(json.dumps([_plain(asdict(score)) for score in done.scores], indent=2))
    else:
        _print(done)


def _plain(score: dict[str, Any]) -> dict[str, Any]:
    horizon = score["horizon_s"]
    return score | {"horizon_s": int(horizon) if horizon == int(horizon) else horizon}


def _checked(step: float, quantile: float, warmup: float, plot: Path | None) -> None:
    problems = []
    if not (math.isfinite(step) and step > 0):
        problems.append(f"--step {step} must be finite and above 0 seconds")
    if not 0 < quantile < 1:
        problems.append(f"--quantile {quantile} must lie strictly between 0 and 1")
    if not (math.isfinite(warmup) and warmup >= 0):
        problems.append(f"--warmup {warmup} must be finite and not negative, in seconds")
    if problems:
        raise BadSettings(tuple(problems))
    if plot is not None:
        from autoscaler.scoreboard import check_files  # noqa: PLC0415 - loads the simulator

        check_files(None, plot)


def _horizons(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadSettings((f"--horizons {text!r} must be seconds separated by commas, such as 600,1800",)) from None


def _run(
    times: Floats,
    values: Floats,
    step: float,
    horizons: tuple[float, ...],
    quantile: float,
    warmup: float,
    forecaster: str | None,
) -> Backtest:
    from forecasting import league, rolling  # noqa: PLC0415 - scipy loads in half a second

    try:
        chosen = league.named(forecaster or league.DEFAULT)
        ahead = rolling.whole_bins(horizons, step)
        first, means = rolling.binned(times, values, step)
        warm = math.ceil(warmup / step)
        _long_enough(len(means), warm + min(ahead), step, warmup)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("replaying", total=len(means))
            return rolling.backtest(chosen, means, step, ahead, quantile, warm, first, lambda: progress.advance(task))
    except ValueError as error:
        raise BadSettings((str(error),)) from None


def _long_enough(bins: int, before: int, step: float, warmup: float) -> None:
    if bins <= before:
        problem = (
            f"the load holds {bins} bins of --step {step:g} s, and the first forecast is judged after {before} of them "
            f"(--warmup {warmup:g} s and its horizon): give more of it, or a smaller --warmup or --step"
        )
        raise BadSettings((problem,))


def _print(done: Backtest) -> None:
    columns = ("coverage", "over_provision", "shortfall", "wape", "pinball", "n")
    table = Table("ahead", *columns)
    for score in done.scores:
        figures = [getattr(score, name) for name in columns]
        shown = ["-" if f is None else str(f) if isinstance(f, int) else f"{f:.4f}" for f in figures]
        table.add_row(f"{score.horizon_s:g} s", *shown)
    Console(width=120, highlight=False, emoji=False).print(table)
