"""From outcomes to advice: the cheapest scenario that keeps the SLO, in words a planner can paste."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings
from autoscaler.whatif.tables import WITHIN, pool_summary, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

HOURS_PER_YEAR = 8766.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to do, and what it rests on.

    Attributes:
        scenario: name of the cheapest that keeps the wanted attainment; None when none does.
        nearest: the one with the highest attainment.
        wanted: share of requests to serve well.
        text: Markdown, one page.
    """

    scenario: str | None
    nearest: str
    wanted: float
    text: str


def recommend(outcomes: Sequence[Mapping[str, Any]], attainment: float | None = None) -> Recommendation:
    """The cheapest scenario (total cost, lost training included) whose mean attainment is as wanted.

    Growth is not for the planner to choose: advice is given for the largest there is among the scenarios, and the
    cheapest for each smaller one is listed beside it.

    Args:
        outcomes: of a sweep.
        attainment: share wanted; None: the highest of the scenarios' own SLOs.

    Raises:
        BadSettings: no outcomes.
    """
    if not outcomes:
        raise BadSettings(("nothing to recommend from: no scenario was run",))
    wanted = attainment if attainment is not None else max(o["scenario"]["slo"]["attainment"] for o in outcomes)
    table = summary(outcomes)
    keeping = table[kept(table, wanted, shared=attainment is None)].sort_values("total_cost", kind="stable")
    growths = {str(outcome["scenario"]["name"]): float(outcome["scenario"]["growth"]) for outcome in outcomes}
    most = max(growths.values())
    nearest = str(table.loc[[name for name in table.index if growths[str(name)] == most], "slo_attainment"].idxmax())
    chosen = next((str(name) for name in keeping.index if growths[str(name)] == most), None)
    names = (chosen, nearest, frozenset(str(name) for name in keeping.index))
    return Recommendation(chosen, nearest, wanted, _page(outcomes, table, names, wanted))


def kept(table: pd.DataFrame, wanted: float, *, shared: bool = True) -> pd.Series:
    """Which scenarios of a summary serve the wanted share.

    With `shared`, pools that share a supply are judged one by one, each by the share that is wanted of it.
    """
    reached: pd.Series = table["slo_attainment"] >= wanted - WITHIN
    return reached.where(table["pools_short"].isna(), table["pools_short"] == 0) if shared else reached


def _page(
    outcomes: Sequence[Mapping[str, Any]],
    table: Any,
    names: tuple[str | None, str, frozenset[str]],
    wanted: float,
) -> str:
    """`names`: of the chosen scenario, the nearest, and all that keep the SLO."""
    chosen, nearest, keeping = names
    named = {outcome["scenario"]["name"]: outcome for outcome in outcomes}
    picked = chosen or nearest
    row, example = table.loc[picked], named[picked]
    hours = float(example["config"]["workload"]["duration_s"]) / 3600
    gpus = row["gpu_hours"] / max(hours, WITHIN)
    grown = float(example["scenario"]["growth"])
    among = f"{len(table)} scenarios" if grown == 1 else f"{len(table)} scenarios, for {grown:g} times the load,"
    head = (
        f"**{chosen}** is the cheapest of {among} that serves {wanted:.1%} of requests within the SLO."
        if chosen
        else f"**No scenario of {len(table)} serves {wanted:.1%} of requests within the SLO.** Nearest: **{nearest}**."
    )
    lost = row["lost_training_gpu_hours"]
    training = f"; {lost:,.1f} GPU-hours of training work lost." if lost > 0 else "."
    reached = f"- SLO attainment {row['slo_attainment']:.2%} (lowest pool and seed {row['slo_lowest']:.2%}), "
    used = f"- {row['gpu_hours']:,.1f} GPU-hours over {hours:,.1f} h: {gpus:,.1f} GPUs on average, "
    yearly = row["total_cost"] / max(hours, WITHIN) * HOURS_PER_YEAR
    growths = _by_growth(table, keeping, named)
    lines = [
        "# Recommendation",
        "",
        head,
        "",
        reached + f"TTFT p99 {_seconds(row['ttft_p99_s'])}, TPOT p99 {_seconds(row['tpot_p99_s'])}.",
        used + f"{row['peak_replicas']:,.0f} replicas at the peak.",
        f"- Cost {row['total_cost']:,.2f}, or {yearly:,.0f} a year at this load{training}",
        *growths,
        "",
        "| Scenario | SLO attainment | GPU-hours | Cost | TTFT p99 | Keeps the SLO |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in table.sort_values("total_cost", kind="stable").head(20).iterrows():
        keeps = "yes" if str(name) in keeping else "no"
        lines.append(
            f"| {name} | {one['slo_attainment']:.2%} | {one['gpu_hours']:,.1f} | {one['total_cost']:,.2f} "
            f"| {_seconds(one['ttft_p99_s'])} | {keeps} |"
        )
    lines += _pools(outcomes, picked)
    fidelity = "as rates (fluid)" if example["fidelity"] == "fluid" else "request by request"
    lines += ["", f"Simulated {fidelity}, {int(row['seeds'])} seed(s) each, load: {example['trace']}."]
    if example.get("notes"):
        lines += ["", f"Of the load: {'; '.join(example['notes'])}."]
    return "\n".join(lines) + "\n"


def _by_growth(table: pd.DataFrame, keeping: frozenset[str], named: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The cheapest that keeps the SLO at each growth, where there are several."""
    growths = sorted({float(outcome["scenario"]["growth"]) for outcome in named.values()})
    if len(growths) < 2:  # noqa: PLR2004 - one growth is no choice
        return []
    lines = []
    ordered = table.sort_values("total_cost", kind="stable")
    for growth in growths:
        fits = (
            name
            for name in ordered.index
            if name in keeping and float(named[str(name)]["scenario"]["growth"]) == growth
        )
        best = next(fits, None)
        told = f"{best}, {table.loc[best, 'gpu_hours']:,.1f} GPU-hours" if best is not None else "none keeps the SLO"
        lines.append(f"- At {growth:g} times the load: {told}.")
    return lines


def _pools(outcomes: Sequence[Mapping[str, Any]], picked: str) -> list[str]:
    """A table of the pools, where there are several."""
    table = pool_summary([outcome for outcome in outcomes if outcome["scenario"]["name"] == picked])
    if len(table) < 2:  # noqa: PLR2004 - one pool is the total
        return []
    lines = [
        "",
        f"Pools of {picked}:",
        "",
        "| Pool | SLO attainment | GPU-hours | Cost | Peak |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['pool']} | {one['slo_attainment']:.2%} | {one['gpu_hours']:,.1f} | {one['total_cost']:,.2f} "
        f"| {one['peak_replicas']:,.0f} |"
        for one in table.reset_index().to_dict("records")
    ]
    return lines


def _seconds(value: float) -> str:
    if value != value:  # noqa: PLR0124 - NaN: nothing can be said
        return "-"
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1000:,.0f} ms"
