"""The scoreboard as a picture: what was ready against what was needed, and what attainment cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from autoscaler.errors import BadSettings
from autoscaler.scoreboard import summed_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from autoscaler.simulator.result import Result

MOST_LINES = 8
"""Policies drawn over time; more cannot be told apart. The frontier shows them all."""


def draw_traces(results: Sequence[Result], path: Path) -> None:
    """One row of two pictures per trace."""
    traces = list(dict.fromkeys(result.trace for result in results))
    figure = Figure(figsize=(13, 4.2 * len(traces)), layout="constrained")
    axes = figure.subplots(len(traces), 2, squeeze=False)
    for place, trace in zip(axes, traces, strict=True):
        mine = [result for result in results if result.trace == trace]
        _over_time(place[0], mine, trace)
        _frontier(place[1], mine)
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise BadSettings((f"--plot {path}: {error}",)) from None


def _over_time(axis: Any, results: Sequence[Result], trace: str) -> None:
    first = results[0]
    needed = [sum(counts) for counts in zip(*first.needed.values(), strict=True)]
    axis.fill_between(
        [i * first.bin_s / 60 for i in range(len(needed))], needed, step="post", alpha=0.25, label="needed"
    )
    drawn: set[str] = set()
    for result in results:
        if result.policy in drawn or len(drawn) >= MOST_LINES:
            continue
        drawn.add(result.policy)
        changes = sorted((at, role, ready) for role, told in result.history.items() for at, _, _, ready in told)
        now: dict[str, int] = {}
        times, totals = [], []
        for at, role, ready in changes:
            now[role] = ready
            times.append(at / 60)
            totals.append(sum(now.values()))
        axis.step(times, totals, where="post", label=result.policy, linewidth=1.2)
    axis.set(title=trace, xlabel="minutes", ylabel="ready replicas")
    axis.legend(fontsize="x-small", ncols=2)


def _frontier(axis: Any, results: Sequence[Result]) -> None:
    for row in summed_up(results):
        x, y = row.mean["gpu_hours"], row.mean["slo_attainment"]
        axis.errorbar(x, y, xerr=row.spread["gpu_hours"], yerr=row.spread["slo_attainment"], fmt="o", markersize=4)
        axis.annotate(row.policy, (x, y), fontsize="x-small", xytext=(3, 3), textcoords="offset points")
    axis.set(title="better is up and to the left", xlabel="GPU-hours", ylabel="SLO attainment")
