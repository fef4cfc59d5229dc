"""`tidegate forecast`: can scaling follow this load at the supply's lead times, and what to do where it cannot."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from autoscaler.cli_load import End, PrometheusAddress, Query, Recorded, Start
from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from forecasting.diagnosis import Diagnosis, LeadDiagnosis
    from forecasting.series import Floats

LEADS = "wake=13,start=115,preempt=174,provision=300"
"""Medians of the supply's tiers, `lead-times.yaml`."""
MOST_BINS = 2_000_000


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(forecast)


def forecast(
    series: Annotated[
        Path | None, typer.Option(help="Recorded load: .csv, .csv.gz or .parquet.", show_default=False)
    ] = None,
    time: Annotated[str, typer.Option(help="With --series: column of times, seconds or ISO 8601.")] = "t_s",
    value: Annotated[
        str | None, typer.Option(help="With --series: column of loads; empty cells are gaps.", show_default=False)
    ] = None,
    prometheus: PrometheusAddress = None,
    query: Query = None,
    start: Start = None,
    end: End = None,
    step: Annotated[
        float | None, typer.Option(help="Width of a bin, seconds (default: the usual distance).", show_default=False)
    ] = None,
    leads: Annotated[str, typer.Option(help="Lead times, name=seconds or seconds, separated by commas.")] = LEADS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say whether this load is autoscalable at the tiers' lead times, and what to do instead where it is not.

    By lead time: how far the load grows while capacity is on its way, what following it would save against a static
    deployment, how much of its variance is slow enough to follow, and the buffer, convertible decoders or pooling that
    cover the rest.
    """
    wanted = _leads(leads)
    if step is not None and not (math.isfinite(step) and step > 0):
        raise BadSettings((f"--step {step} must be finite and above 0 seconds",))
    given = Recorded(series, time, value, prometheus, query, (start, end))
    times, values = given.read("--series", step or 60.0)
    found = _diagnosed(times, values, step, [seconds for _, seconds in wanted])
    if as_json:
        typer.echo(json.dumps(_plain(found, wanted), indent=2))
    else:
        _print(found, wanted)


def _leads(text: str) -> list[tuple[str, float]]:
    found = []
    for part in text.split(","):
        name, _, seconds = part.rpartition("=")
        try:
            lead = float(seconds)
        except ValueError:
            lead = math.nan
        if not (math.isfinite(lead) and lead > 0):
            raise BadSettings((f"--leads {part!r} must be name=seconds with seconds above 0, such as start=115",))
        found.append((name.strip() or f"{lead:g} s", lead))
    return sorted(found, key=lambda each: each[1])


def _diagnosed(times: Floats, values: Floats, step: float | None, leads: list[float]) -> Diagnosis:
    import numpy as np  # noqa: PLC0415 - --help should not wait for it

    from forecasting.diagnosis import diagnose  # noqa: PLC0415 - likewise
    from forecasting.series import Series  # noqa: PLC0415 - likewise

    known = np.isfinite(times) & np.isfinite(values)
    times, values = times[known], values[known]
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    apart = np.diff(times)
    apart = apart[apart > 0]
    if not len(apart):
        raise BadSettings(("the load holds fewer than two values at different times; nothing can be said",))
    width = step or float(np.median(apart))
    keep = math.floor(float(times[-1] - times[0]) / width) + 2
    if keep > MOST_BINS:
        raise BadSettings((f"{keep:,} bins of {width:g} s; give a --step for at most {MOST_BINS:,}",))
    samples = zip(times.tolist(), values.tolist(), strict=True)
    try:
        return diagnose(Series.of(samples, width, keep), leads)
    except ValueError as error:
        raise BadSettings((str(error),)) from None


def _plain(found: Diagnosis, names: list[tuple[str, float]]) -> dict[str, Any]:
    plain = asdict(found)
    by_lead = {lead.lead_s: lead for lead in found.leads}
    plain["leads"] = [
        asdict(by_lead[seconds])
        | {
            "name": name,
            "growth": {f"{q:g}": factor for q, factor in by_lead[seconds].growth},
            "advice": advice(by_lead[seconds]),
        }
        for name, seconds in names
    ]
    return plain


def advice(lead: LeadDiagnosis) -> str:
    """What to do at one lead time, in words."""
    if lead.head_room is None or lead.buffer is None or lead.saving is None:
        return f"too little history: {lead.pairs} pairs of bins so far apart; record more, or give a smaller --step"
    if lead.verdict.value == "follow":
        return f"follow it: {lead.head_room:.0%} head-room covers 95 % of lead times, saving {lead.saving:.0%}"
    parts = []
    if lead.verdict.value == "static":
        parts.append("following saves nothing to speak of: run statically, or shorten the lead time")
    else:
        parts.append(f"follow the slow changes, saving {lead.saving:.0%}")
    parts.append(f"keep a buffer for {lead.buffer:,.4g} at the mean load")
    parts.append(f"or decoders convertible to prefill for {lead.head_room:.0%} of the present load")
    if lead.pooled is not None:
        parts.append(f"or pool {lead.pooled} such loads for a head-room of 25 %")
    return "; ".join(parts)


def _shown(figure: float | None, form: str) -> str:
    return "-" if figure is None else format(figure, form)


def _print(found: Diagnosis, names: list[tuple[str, float]]) -> None:
    console = Console(width=120, highlight=False, emoji=False)
    console.print(
        f"{found.bins:,} bins of {found.bin_s:g} s ({found.gaps} gaps), mean {found.mean:,.4g}, peak/mean "
        f"{_shown(found.peak_to_mean, '.2f')}, CV {_shown(found.cv, '.2f')}, zero {found.zero_share:.1%} of the time"
    )
    console.print(
        f"variance: {_shown(found.daily_share, '.0%')} daily, {_shown(found.weekly_share, '.0%')} weekly; "
        f"burstiness from bin to bin {_shown(found.burstiness, '.2f')}"
    )
    table = Table("tier", "lead s", "growth p50", "p90", "p95", "p99", "followed", "saving", "verdict")
    by_lead = {lead.lead_s: lead for lead in found.leads}
    for name, seconds in names:
        lead = by_lead[seconds]
        growth = [f"{factor:.2f}" for _, factor in lead.growth] or ["-"] * 4
        shares = (_shown(lead.followed_share, ".0%"), _shown(lead.saving, ".0%"))
        table.add_row(name, f"{seconds:g}", *growth, *shares, lead.verdict.value)
    console.print(table)
    for name, seconds in names:
        console.print(f"{name}: {advice(by_lead[seconds])}", markup=False)
    if any(seconds < found.bin_s for _, seconds in names):
        console.print(f"Lead times below {found.bin_s:g} s are judged as one bin; what happens inside is not known.")
