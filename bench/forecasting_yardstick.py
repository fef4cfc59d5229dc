"""Recorded loads, and the yardstick's bounds on them: last value, ridge and Holt-Winters with rolling split conformal.

Which points these make is the yardstick script's own code; the rolling conformal quantile is repeated here because the
script prints summaries only, and a comparison at equal coverage needs its bound at each bin.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from forecasting.rolling import Score, binned, score

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forecasting.series import Floats

SHARED = Path(__file__).resolve().parents[2] / "shared"
TOOL = SHARED / "tools" / "forecast_baselines.py"
DAY = 144
FEWEST, WINDOW_DAYS, FLOOR = 50, 3, 0.05
"""The yardstick's own: residuals it needs, days of them, floor of the scale as a share of the running mean."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A column of a recorded file."""

    name: str
    file: str
    column: str


SERIES = (
    Recorded("azure code, requests", "azure_llm_2024_week/code_10min_reconstructed.csv", "requests"),
    Recorded("azure code, input tokens", "azure_llm_2024_week/code_10min_reconstructed.csv", "input_tokens"),
    Recorded("o365 A_prod", "sageserve_o365_week/prompt_tokens_per_min_7d.csv.gz", "A_prod"),
    Recorded("o365 A_dev", "sageserve_o365_week/prompt_tokens_per_min_7d.csv.gz", "A_dev"),
    Recorded("o365 B_dev", "sageserve_o365_week/prompt_tokens_per_min_7d.csv.gz", "B_dev"),
    Recorded("servegen m-large, requests", "servegen/m-large_agg_10min.csv.gz", "rate_rps"),
    Recorded("servegen m-large, input tokens", "servegen/m-large_agg_10min.csv.gz", "est_input_tokens"),
    Recorded("servegen m-large, output tokens", "servegen/m-large_agg_10min.csv.gz", "est_output_tokens"),
    Recorded("burstgpt week 1, tokens", "burstgpt/burstgpt1_week1_minute_total_tokens.csv.gz", "total_tokens"),
)


def recorded(series: Recorded) -> Floats:
    """The load in bins of ten minutes; bins without clients are gaps."""
    table = pd.read_csv(SHARED / "data" / series.file)
    values = table[series.column].astype(float)
    if "active_clients" in table:
        values = values.where(table["active_clients"] > 0)
    return binned(table["t_s"].to_numpy(np.float64), values.to_numpy(np.float64), 600.0)[1]


@dataclass(frozen=True, slots=True)
class Judges:
    """The yardsticks' points and bounds by name and horizon (bins), NaN where it makes none."""

    points: Mapping[tuple[str, int], Floats]
    bounds: Mapping[tuple[str, int], Floats]
    quantile: float

    def summaries(self, load: Floats) -> dict[str, list[Score]]:
        """Their scores by name."""
        found: dict[str, list[Score]] = {}
        for (name, horizon), bounds in self.bounds.items():
            point = np.where(np.isnan(bounds), np.nan, self.points[name, horizon])
            found.setdefault(name, []).append(score(load, bounds, point, horizon, self.quantile, horizon * 600.0))
        return found


@dataclass(frozen=True, slots=True)
class Matched:
    """One horizon against the best yardstick widened to the same coverage, over the bins both speak of."""

    coverage: float
    over: float
    short: float
    best: str
    best_over: float
    best_short: float


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("forecast_baselines", TOOL)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(TOOL)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        spec.loader.exec_module(module)
    return module


def yardsticks(load: Floats, step_s: float, ahead_s: Sequence[float], warm_s: float, quantile: float) -> Judges:
    """Points and bounds of the three yardsticks."""
    tool = _tool()
    horizons, warm = [round(ahead / step_s) for ahead in ahead_s], round(warm_s / step_s)
    last = pd.Series(load).ffill().to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the yardstick's fits do not always converge, and it ignores that too
        smooth = tool.holt_winters(load, warm, DAY, horizons)
        points = {}
        for horizon in horizons:
            points["yard: last", horizon] = last
            points["yard: ridge", horizon] = tool.ridge(load, 2 * DAY + 60, DAY, horizon)
            points["yard: holt-winters", horizon] = smooth[horizon]
    bounds = {key: _conformal(load, point, key[1], warm + DAY, quantile) for key, point in points.items()}
    return Judges(points, bounds, quantile)


def _conformal(load: Floats, point: Floats, horizon: int, warm: int, quantile: float) -> Floats:
    mean = pd.Series(load).expanding().mean().to_numpy()
    size = len(load)
    scale = np.maximum(point, FLOOR * mean)
    ratio = np.full(size, np.nan)
    ratio[: size - horizon] = (load[horizon:] - point[: size - horizon]) / scale[: size - horizon]
    bounds = np.full(size, np.nan)
    for t in range(warm, size - horizon):
        past = ratio[max(0, t - horizon - WINDOW_DAYS * DAY) : t - horizon + 1]
        past = past[~np.isnan(past)]
        if len(past) >= FEWEST and not np.isnan(point[t]):
            bounds[t] = max(point[t] + scale[t] * np.quantile(past, quantile), 0.0)
    return bounds


def compared(load: Floats, bounds: Floats, judges: Judges, horizon: int) -> Matched:
    """These bounds against the yardstick that needs least once its offset is scaled to the same coverage."""
    actual = load[horizon:]
    mine = bounds[:-horizon]
    coverage = float((actual[~np.isnan(actual + mine)] <= mine[~np.isnan(actual + mine)]).mean())
    found = [
        _matched(actual, mine, judges.points[key][:-horizon], judges.bounds[key][:-horizon], key[0], coverage)
        for key in judges.bounds
        if key[1] == horizon
    ]
    return min(found, key=lambda one: one.best_over)


def _matched(actual: Floats, mine: Floats, point: Floats, bound: Floats, name: str, coverage: float) -> Matched:
    both = ~np.isnan(actual + mine + bound)
    actual, mine, point, bound = actual[both], mine[both], point[both], bound[both]
    wanted, mean = float((actual <= mine).mean()), float(actual.mean())
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        reached = (actual <= np.maximum(point + middle * (bound - point), 0.0)).mean()
        low, high = (middle, high) if reached < wanted else (low, middle)
    scaled = np.maximum(point + high * (bound - point), 0.0)
    over = [float(np.maximum(b - actual, 0.0).mean()) / mean for b in (mine, scaled)]
    short = [float(np.maximum(actual - b, 0.0).mean()) / mean for b in (mine, scaled)]
    return Matched(coverage, over[0], short[0], name, over[1], short[1])
