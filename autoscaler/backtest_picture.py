"""A backtest as a picture: the load, and for each horizon the bound that had been promised for that moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from pathlib import Path

    from forecasting.rolling import Backtest


def draw_backtest(done: Backtest, step_s: float, quantile: float, path: Path) -> None:
    """One panel per horizon.

    Raises:
        BadSettings: the file cannot be written.
    """
    figure = Figure(figsize=(13, 3.2 * len(done.horizons)), layout="constrained")
    panels = figure.subplots(len(done.horizons), 1, squeeze=False, sharex=True)[:, 0]
    days = np.arange(len(done.values)) * step_s / 86400.0
    for j, (axis, horizon, score) in enumerate(zip(panels, done.horizons, done.scores, strict=True)):
        promised = np.full(len(done.values), np.nan)
        promised[horizon:] = done.bounds[:-horizon, j]
        axis.plot(days, done.values, linewidth=0.8, label="load")
        axis.plot(
            days, promised, linewidth=0.8, label=f"{quantile:.0%} bound, made {horizon * step_s / 60:g} min before"
        )
        held = "nothing judged" if score.coverage is None else f"coverage {score.coverage:.3f} of {score.n}"
        axis.set(title=held, ylabel="load", ylim=(0, None))
        axis.axvline(done.warm * step_s / 86400.0, color="grey", linewidth=0.8, linestyle=":")
        axis.legend(fontsize="x-small", loc="upper left")
    panels[-1].set(xlabel="days")
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise BadSettings((f"--plot {path}: cannot be written: {error}",)) from None
