"""From outcomes to advice: the cheapest scenario that keeps the SLO, in words a planner can paste."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoscaler.errors import BadSettings
from autoscaler.whatif.tables import summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HOURS_PER_YEAR = 8766.0
WITHIN = 1e-9


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
    keeping = table[table["slo_attainment"] >= wanted - WITHIN].sort_values("total_cost", kind="stable")
    nearest = str(table["slo_attainment"].idxmax())
    chosen = str(keeping.index[0]) if len(keeping) else None
    return Recommendation(chosen, nearest, wanted, _page(outcomes, table, chosen, nearest, wanted))


def _page(outcomes: Sequence[Mapping[str, Any]], table: Any, chosen: str | None, nearest: str, wanted: float) -> str:
    named = {outcome["scenario"]["name"]: outcome for outcome in outcomes}
    picked = chosen or nearest
    row, example = table.loc[picked], named[picked]
    hours = float(example["config"]["workload"]["duration_s"]) / 3600
    gpus = row["gpu_hours"] / max(hours, WITHIN)
    head = (
        f"**{chosen}** is the cheapest of {len(table)} scenarios that serves {wanted:.1%} of requests within the SLO."
        if chosen
        else f"**No scenario of {len(table)} serves {wanted:.1%} of requests within the SLO.** Nearest: **{nearest}**."
    )
    lost = row["lost_training_gpu_hours"]
    training = f"; {lost:,.1f} GPU-hours of training work lost." if lost > 0 else "."
    reached = f"- SLO attainment {row['slo_attainment']:.2%} (lowest pool and seed {row['slo_lowest']:.2%}), "
    used = f"- {row['gpu_hours']:,.1f} GPU-hours over {hours:,.1f} h: {gpus:,.1f} GPUs on average, "
    yearly = row["total_cost"] / max(hours, WITHIN) * HOURS_PER_YEAR
    lines = [
        "# Recommendation",
        "",
        head,
        "",
        reached + f"TTFT p99 {_seconds(row['ttft_p99_s'])}, TPOT p99 {_seconds(row['tpot_p99_s'])}.",
        used + f"{row['peak_replicas']:,.0f} replicas at the peak.",
        f"- Cost {row['total_cost']:,.2f}, or {yearly:,.0f} a year at this load{training}",
        "",
        "| Scenario | SLO attainment | GPU-hours | Cost | TTFT p99 | Keeps the SLO |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in table.sort_values("total_cost", kind="stable").head(20).iterrows():
        keeps = "yes" if one["slo_attainment"] >= wanted - WITHIN else "no"
        lines.append(
            f"| {name} | {one['slo_attainment']:.2%} | {one['gpu_hours']:,.1f} | {one['total_cost']:,.2f} "
            f"| {_seconds(one['ttft_p99_s'])} | {keeps} |"
        )
    fidelity = "as rates (fluid)" if example["fidelity"] == "fluid" else "request by request"
    lines += ["", f"Simulated {fidelity}, {int(row['seeds'])} seed(s) each, load: {example['trace']}."]
    return "\n".join(lines) + "\n"


def _seconds(value: float) -> str:
    if value != value:  # noqa: PLR0124 - NaN: nothing can be said
        return "-"
    return f"{value:,.2f} s" if value >= 1 else f"{value * 1000:,.0f} ms"
