"""What `bench/forecasting.py` prints; see there."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from forecasting import DEFAULT, FORECASTERS, Grid, backtest, named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecasting_yardstick import Matched

LOADS, HORIZONS, HISTORY_DAYS, STEP_S = 1000, (1, 2, 3, 6, 12), 14, 600.0
TARGET_TICK_S, TARGET_FIT_S, TARGET_MIB = 1.5, 120.0, 400.0
WARM_S, AHEAD_S, QUANTILE = 259200.0, (600.0, 1800.0, 3600.0), 0.95


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit code is 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forecasters", default=",".join(FORECASTERS), help="names, separated by commas")
    parser.add_argument("--series", default="", help="only series whose name contains this")
    parser.add_argument("--speed", action="store_true", help="time and memory instead of the league")
    parser.add_argument(
        "--tick", action="store_true", help="the loop's own bounds by the minute, with days and without"
    )
    parser.add_argument("--starts", action="store_true", help="how near learned lead times come to the true ones")
    parser.add_argument("--loads", type=int, default=LOADS, help="with --speed")
    parser.add_argument("--days", type=int, default=HISTORY_DAYS, help="with --speed: of history to fit")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(argv)
    if asked.tick or asked.starts:
        from forecasting_tick import show, start_rows, tick_rows  # noqa: PLC0415 - as in `_league`

        return show(tick_rows(asked.series) if asked.tick else start_rows(), asked.json, _machine)
    return _speed(asked) if asked.speed else _league(asked)


def _machine() -> dict[str, Any]:
    names = ("numpy", "scipy", "statsmodels")
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load_average": [round(part, 1) for part in os.getloadavg()],
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def _league(asked: argparse.Namespace) -> int:
    from forecasting_yardstick import (  # noqa: PLC0415 - pandas would count as memory of the forecaster in --speed
        SERIES,
        TOOL,
        compared,
        recorded,
        yardsticks,
    )

    if not TOOL.is_file():
        print(f"there is no yardstick at {TOOL}: the league needs the recorded loads beside the checkout")
        return 1
    names = asked.forecasters.split(",")
    rows: list[dict[str, Any]] = []
    for series in SERIES:
        if asked.series not in series.name:
            continue
        load = recorded(series)
        judges = yardsticks(load, STEP_S, AHEAD_S, WARM_S, QUANTILE)
        rows += [
            {"series": series.name, "forecaster": judge, **_mean(of)} for judge, of in judges.summaries(load).items()
        ]
        for name in names:
            print(f"{series.name}: {name}", file=sys.stderr)
            started = time.process_time()
            bins = [round(ahead / STEP_S) for ahead in AHEAD_S]
            done = backtest(named(name), load, STEP_S, bins, QUANTILE, round(WARM_S / STEP_S))
            took = time.process_time() - started
            against = [compared(load, done.bounds[:, j], judges, h) for j, h in enumerate(bins)]
            row = {"series": series.name, "forecaster": name, **_mean(done.scores), **_against(against)}
            rows.append(row | {"cpu_s": round(took, 1)})
    _show(rows, asked.json)
    return 0


def _mean(scores: Sequence[Any]) -> dict[str, float]:
    names = ("coverage", "over_provision", "shortfall", "wape", "pinball")
    return {name: round(float(np.mean([getattr(score, name) for score in scores])), 4) for name in names}


def _against(matched: Sequence[Matched]) -> dict[str, Any]:
    """Over-provision as a share of the best yardstick's, widened or narrowed to the same coverage."""
    shares = [one.over / one.best_over for one in matched]
    return {
        "least_coverage": round(min(one.coverage for one in matched), 4),
        "most_coverage": round(max(one.coverage for one in matched), 4),
        "share_of_best": round(sum(one.over for one in matched) / sum(one.best_over for one in matched), 3),
        "worst_share": round(max(shares), 3),
        "shortfall_share": round(
            sum(one.short for one in matched) / max(sum(one.best_short for one in matched), 1e-12), 3
        ),
        "best": " ".join(one.best.removeprefix("yard: ") for one in matched),
    }


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    summary = {}
    for name in dict.fromkeys(row["forecaster"] for row in rows if "share_of_best" in row):
        mine = [row for row in rows if row["forecaster"] == name]
        summary[name] = {
            "coverage": round(float(np.mean([row["coverage"] for row in mine])), 4),
            "least": min(row["least_coverage"] for row in mine),
            "most": max(row["most_coverage"] for row in mine),
            "share_of_best": round(float(np.mean([row["share_of_best"] for row in mine])), 3),
            "worst_series": max(row["share_of_best"] for row in mine),
            "worst_cell": max(row["worst_share"] for row in mine),
            "shortfall_share": round(float(np.mean([row["shortfall_share"] for row in mine])), 3),
        }
    if as_json:
        print(json.dumps({"machine": _machine(), "rows": rows, "summary": summary}, indent=2))
        return
    console = Console(width=220, highlight=False)
    console.print(f"mean of {len(AHEAD_S)} horizons ({', '.join(f'{a:g} s' for a in AHEAD_S)}), {QUANTILE:.0%} bound;")
    console.print("share = over-provision against the best yardstick of each horizon at the same coverage")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, box=box.SIMPLE, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    console.print(table)
    whole = Table("forecaster", *next(iter(summary.values()), {}), box=box.SIMPLE, pad_edge=False)
    for name, figures in summary.items():
        whole.add_row(name, *(str(figure) for figure in figures.values()))
    console.print(whole)
    console.print(" ".join(f"{key}={value}" for key, value in _machine().items()))


def _speed(asked: argparse.Namespace) -> int:
    rng = np.random.default_rng(0)
    bins = asked.days * 144
    level = rng.lognormal(8.0, 2.0, (asked.loads, 1))
    shape = 1.0 + 0.6 * np.sin(2 * np.pi * np.arange(bins) / 144 + rng.uniform(0, 6.28, (asked.loads, 1)))
    history = level * shape * rng.lognormal(0.0, 0.2, (asked.loads, bins))
    forecaster, grid = named(DEFAULT), Grid(STEP_S, HORIZONS, (0.5, QUANTILE))
    started, began = time.process_time(), time.perf_counter()
    state = forecaster.fit(grid, history, bins - 1)
    fit, fit_wall = time.process_time() - started, time.perf_counter() - began
    ticks = []
    for tick in range(24):
        started = time.process_time()
        state = forecaster.step(state, bins + tick, history[:, tick])
        bounds = forecaster.ahead(state)
        ticks.append(time.process_time() - started)
    memory = psutil.Process().memory_info()
    peak = max(memory.rss, _peak_bytes()) / 2**20
    found = {
        "loads": asked.loads,
        "horizons": len(HORIZONS),
        "finite": bool(np.isfinite(bounds).all()),
        "fit_cpu_s": round(fit, 1),
        "fit_wall_s": round(fit_wall, 1),
        "tick_p50_s": round(float(np.median(ticks)), 3),
        "tick_max_s": round(max(ticks), 3),
        "peak_mib": round(peak),
        "machine": _machine(),
    }
    targets = f"targets: tick {TARGET_TICK_S} s, fit {TARGET_FIT_S} s, {TARGET_MIB:g} MiB"
    print(json.dumps(found, indent=2) if asked.json else "\n".join([*(f"{k}: {v}" for k, v in found.items()), targets]))
    met = max(ticks) <= TARGET_TICK_S and fit <= TARGET_FIT_S and peak <= TARGET_MIB
    return 0 if met else 1


def _peak_bytes() -> int:
    import resource  # noqa: PLC0415 - only where there is one

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
