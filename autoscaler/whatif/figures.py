"""Pictures for a design review. Needs matplotlib (the `scoreboard` extra)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings
from autoscaler.whatif.recommendation import kept, recommend
from autoscaler.whatif.tables import WITHIN, series, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

MOST_NAMES = 25
"""Scenarios named in the frontier; more names cannot be read."""
NEAR = 0.03
"""Share of an axis's span within which two labels would lie on one another."""
INK, NEED = "#1f5f8b", "#9db4c0"
KEEPS, MISSES, CHOSEN = "#2a9d8f", "#b0b0b0", "#d1495b"


def frontier(outcomes: Sequence[Mapping[str, Any]], attainment: float | None = None) -> Figure:
    """Cost against SLO attainment, one numbered point per scenario; the recommended one stands out."""
    figure = _figure(9, 4.6)
    _frontier(figure.subplots(), outcomes, attainment)
    return figure


def replicas(outcome: Mapping[str, Any]) -> Figure:
    """What was ready against what was needed, all roles together, over time."""
    figure = _figure(9, 3.6)
    _replicas(figure.subplots(), [outcome])
    return figure


def recommendation_picture(outcomes: Sequence[Mapping[str, Any]], attainment: float | None = None) -> Figure:
    """One page: the frontier, and the recommended scenario over time."""
    advice = recommend(outcomes, attainment)
    picked = advice.scenario or advice.nearest
    figure = _figure(11, 8)
    top, below = figure.subplots(2, 1, height_ratios=(3, 2))
    _frontier(top, outcomes, attainment)
    _replicas(below, [outcome for outcome in outcomes if outcome["scenario"]["name"] == picked])
    verdict = (
        f"Recommended: {picked}" if advice.scenario else f"No scenario keeps {advice.wanted:.1%}; nearest: {picked}"
    )
    figure.suptitle(verdict, fontweight="bold")
    return figure


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra
    except ImportError:
        raise BadSettings(("pictures need matplotlib; pip install 'tidegate[scoreboard]'",)) from None
    return Figure(figsize=(width, height), layout="constrained")


def _frontier(axis: Any, outcomes: Sequence[Mapping[str, Any]], attainment: float | None) -> None:
    table = summary(outcomes)
    wanted = attainment
    if wanted is None:
        wanted = max(outcome["scenario"]["slo"]["attainment"] for outcome in outcomes)
    keeps = kept(table, wanted, shared=attainment is None)
    for mask, colour, label in ((keeps, KEEPS, f"keeps {wanted:.1%}"), (~keeps, MISSES, "misses it")):
        part = table[mask]
        if len(part):
            axis.scatter(part["total_cost"], 100 * part["slo_attainment"], s=28, color=colour, label=label, zorder=3)
    if (chosen := recommend(outcomes, attainment).scenario) is not None:
        best = table.loc[chosen]
        axis.scatter(
            [best["total_cost"]],
            [100 * best["slo_attainment"]],
            s=130,
            facecolors="none",
            edgecolors=CHOSEN,
            linewidths=2,
            zorder=4,
        )
    if len(table) <= MOST_NAMES:
        points = list(zip(table["total_cost"], 100 * table["slo_attainment"], strict=True))
        for place, numbers in _labels(points):
            axis.annotate(numbers, place, fontsize=8, xytext=(6, 3), textcoords="offset points")
        named = "\n".join(f"{number}  {name}" for number, name in enumerate(table.index, 1))
        axis.text(1.02, 1.0, named, transform=axis.transAxes, va="top", fontsize=8)
    axis.axhline(100 * wanted, color=CHOSEN, linewidth=0.8, linestyle="--")
    axis.set(xlabel="total cost", ylabel="SLO attainment, %", title="Cost against SLO attainment")
    axis.grid(alpha=0.25)
    axis.xaxis.set_major_formatter("{x:,g}")
    # Above the axes: wherever it lay on them it hid the points of one study or another.
    axis.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, borderaxespad=0.2)


def _labels(points: Sequence[tuple[float, float]]) -> list[tuple[tuple[float, float], str]]:
    """Where to write the numbers of the points; those too close for labels of their own share the first one's."""
    near = [NEAR * (max(axis) - min(axis)) for axis in zip(*points, strict=True)]
    groups: list[tuple[tuple[float, float], list[str]]] = []
    for number, point in enumerate(points, 1):
        for place, numbers in groups:
            if all(abs(a - b) <= most for a, b, most in zip(place, point, near, strict=True)):
                numbers.append(str(number))
                break
        else:
            groups.append((point, [str(number)]))
    return [(place, ", ".join(numbers)) for place, numbers in groups]


def _replicas(axis: Any, outcomes: Sequence[Mapping[str, Any]]) -> None:
    """The pools of the first seed together; only the first pool where they are not on one grid."""
    import pandas as pd  # noqa: PLC0415 - as in tables

    outcome = outcomes[0]
    alike = [one for one in outcomes if one.get("seed") == outcome.get("seed") and one["bin_s"] == outcome["bin_s"]]
    told = pd.concat([series(one) for one in alike], ignore_index=True)
    table = told.groupby("t_s", as_index=False)[["needed", "ready", "starting"]].sum()
    long = float(table["t_s"].iloc[-1]) > 2 * 86_400 if len(table) else False
    unit, word = (86_400.0, "days") if long else (3600.0, "hours")
    at = table["t_s"] / unit
    axis.fill_between(at, table["needed"], step="post", color=NEED, alpha=0.6, label="needed")
    axis.step(at, table["ready"], where="post", color=INK, linewidth=1.3, label="ready")
    axis.step(
        at, table["ready"] + table["starting"], where="post", color=INK, linewidth=0.7, alpha=0.5, label="starting"
    )
    requests = sum(one["requests"] for one in alike)
    served = sum(one["slo_attainment"] * one["requests"] for one in alike) / max(requests, WITHIN)
    said = f"{served:.1%} within SLO, {sum(one['gpu_hours'] for one in alike):,.1f} GPU-hours"
    said += f", {len(alike)} pools" if len(alike) > 1 else ""
    axis.set(xlabel=word, ylabel="replicas", title=f"{outcome['scenario']['name']}: {said}")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, ncols=3)
