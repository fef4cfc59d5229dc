"""Results as tidy pandas frames: one observation a row, names with units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.simulator.requests import DemandSeries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from autoscaler.whatif.history import Loads

LEFT_OUT = frozenset({"config", "history", "needed", "notes", "scenario", "bin_s"})
"""Of an outcome, what is no single number or name."""
MINUTE_S = 60.0
WITHIN = 1e-9
"""Shares that differ by less are equal."""


def frame(outcomes: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per scenario, pool and seed: `scenario`, its inputs (`in.growth`, `in.supply.gpus`, …), all measures."""
    import pandas as pd  # noqa: PLC0415 - loads in a second, which a sweep's workers need not

    return pd.DataFrame([_row(outcome) for outcome in outcomes])


def _row(outcome: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"scenario": outcome["scenario"]["name"]}
    row |= {name: value for name, value in outcome.items() if name not in LEFT_OUT}
    for name, value in _flat(outcome["scenario"], "in"):
        if name != "in.name":
            row[name] = value
    return row


def _flat(plain: Mapping[str, Any], above: str) -> Iterable[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}.{name}")
        else:
            yield f"{above}.{name}", str(value) if isinstance(value, list) else value


def summary(outcomes: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Per scenario, pools together: mean over seeds of SLO attainment (weighted by requests) and summed costs.

    Columns: slo_attainment, slo_lowest (worst pool and seed), gpu_hours, total_cost, ttft_p99_s (worst pool),
    tpot_p99_s (worst pool), peak_replicas (sum of pools), direction_changes, lost_training_gpu_hours, seeds, and
    pools_short: how many of the pools that share a supply miss their own wanted attainment; NaN where none share.
    """
    rows = frame(outcomes)
    if rows.empty:
        return rows
    rows["_served"] = rows["slo_attainment"] * rows["requests"]
    per_seed = rows.groupby(["scenario", "seed"], sort=False).agg(
        _served=("_served", "sum"),
        requests=("requests", "sum"),
        slo_lowest=("slo_attainment", "min"),
        gpu_hours=("gpu_hours", "sum"),
        total_cost=("total_cost", "sum"),
        ttft_p99_s=("ttft_p99_s", "max"),
        tpot_p99_s=("tpot_p99_s", "max"),
        peak_replicas=("peak_replicas", "sum"),
        direction_changes=("direction_changes", "sum"),
        lost_training_gpu_hours=("lost_training_gpu_hours", "sum"),
    )
    per_seed["slo_attainment"] = per_seed["_served"] / per_seed["requests"]
    grouped = per_seed.drop(columns="_served").groupby("scenario", sort=False)
    means = grouped.mean(numeric_only=True)
    means["slo_lowest"] = grouped["slo_lowest"].min()
    means["seeds"] = grouped.size()
    means["pools_short"] = np.nan
    if "slo_wanted" in rows:
        each = rows.groupby(["scenario", "pool"], sort=False)[["slo_attainment", "slo_wanted"]].mean()
        short = each["slo_attainment"] < each["slo_wanted"] - WITHIN
        means["pools_short"] = short.groupby("scenario", sort=False).sum()
    return means[["slo_attainment", *(name for name in means.columns if name != "slo_attainment")]]


def pool_summary(outcomes: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Per scenario and pool, means over seeds: slo_attainment, gpu_hours, total_cost, ttft_p99_s, peak_replicas."""
    rows = frame(outcomes)
    names = ["slo_attainment", "gpu_hours", "total_cost", "ttft_p99_s", "peak_replicas"]
    return rows if rows.empty else rows.groupby(["scenario", "pool"], sort=False)[names].mean()


def series(outcome: Mapping[str, Any]) -> pd.DataFrame:
    """Replicas over time of one outcome: columns t_s, role, needed, ready, starting; one row per bin and role."""
    import pandas as pd  # noqa: PLC0415 - likewise

    bin_s = float(outcome["bin_s"])
    parts = []
    for role, needed in outcome["needed"].items():
        grid = np.arange(len(needed)) * bin_s
        told = np.array(outcome["history"].get(role) or [(0.0, 0, 0, 0)], dtype=np.float64)
        at = np.maximum(np.searchsorted(told[:, 0], grid + bin_s / 2, side="right") - 1, 0)
        ready = told[at, 3]
        starting = np.maximum(told[at, 2] - ready, 0)
        parts.append(pd.DataFrame({"t_s": grid, "role": role, "needed": needed, "ready": ready, "starting": starting}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["t_s", "role", "needed", "ready"])


def demand_frame(loads: Loads) -> pd.DataFrame:
    """Tidy demand: pool, t_s, requests_per_s, input_tokens_per_s, output_tokens_per_s."""
    import pandas as pd  # noqa: PLC0415 - likewise

    parts = []
    for pool, load in loads.pools.items():
        grid: np.ndarray
        amounts: tuple[np.ndarray, ...]
        if isinstance(load, DemandSeries):
            width, grid, amounts = load.bin_s, load.t_s, (load.requests, load.prompt, load.output)
        else:
            width = MINUTE_S
            bins = max(1, int(np.ceil(load.duration / width)))
            where = np.minimum((load.arrival_s / width).astype(np.int64), bins - 1)
            grid = np.arange(bins) * width
            amounts = (
                np.bincount(where, minlength=bins).astype(np.float64),
                np.bincount(where, weights=load.prompt, minlength=bins),
                np.bincount(where, weights=load.output, minlength=bins),
            )
        names = ("requests_per_s", "input_tokens_per_s", "output_tokens_per_s")
        columns = {name: amount / width for name, amount in zip(names, amounts, strict=True)}
        parts.append(pd.DataFrame({"pool": pool, "t_s": grid, **columns}))
    return pd.concat(parts, ignore_index=True)
