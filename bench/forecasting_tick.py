"""What `bench/forecasting.py --tick` and `--starts` print: the bounds of the loop by the minute, and lead times."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from forecasting_yardstick import SERIES, SHARED
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.special import ndtr

from autoscaler.foresight import bounds, judged, promised
from autoscaler.foresight_days import followed, name_of, nobody
from autoscaler.guards import GuardRules
from autoscaler.learning import Prior
from autoscaler.memory import RoleMemory
from autoscaler.model import Role, RoleKey, Tier
from autoscaler.rules import RoleRules, Rules, SupplyRules
from autoscaler.velocity import Engine, StepModel, Target
from forecasting.durations import DurationPrior, Durations, predicted, saw
from forecasting.forecaster import SimpleQuantile
from forecasting.series import Series

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecasting.series import Floats, Ints

MINUTE = 60.0
LEADS = {Tier.START: 200.0, Tier.PREEMPT: 300.0, Tier.PROVISION: 720.0}
QUANTILE = 0.9
WARM_MINUTES = 2880
"""Bounds for the first two days do not count: a day is needed, and another to compare."""
STARTS, AFTER_JUMP, REPEATS = 20, 10, 200
MIXTURES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "one, sd 0.3": ((1.0, 100.0, 0.3),),
    "one, sd 0.43 (as measured)": ((1.0, 115.0, 0.43),),
    "image there (60 %) or not": ((0.6, 40.0, 0.2), (0.4, 300.0, 0.2)),
    "a quarter pulls": ((0.75, 40.0, 0.15), (0.25, 300.0, 0.15)),
    "two node types": ((0.7, 60.0, 0.2), (0.3, 120.0, 0.2)),
    "half and half": ((0.5, 20.0, 0.25), (0.5, 90.0, 0.35)),
}
"""(weight, median seconds, deviation of the logarithm) of each population."""


def rules() -> Rules:
    """One prefill role and three tiers; what concerns replicas is of no account here."""
    step = StepModel(0.02, 1e-4, 5e-4, 1e-6)
    role = RoleRules(
        key=RoleKey("bench", "load", Role.PREFILL),
        engine=Engine(step, 100_000.0, 256.0, 2000.0),
        prior=Prior(step, 0.1),
        profile="none",
        target=Target(1.0, 0.1, 0.95),
        minimum=1,
        maximum=50,
        accelerator="gpu",
        gpus=1,
        shortage_price=20.0,
    )
    rungs = tuple(SupplyRules(tier, "gpu", lead, 2.5) for tier, lead in LEADS.items())
    return Rules((role,), rungs, SimpleQuantile(), QUANTILE, fallback_margin=0.3, guards=GuardRules(), days=True)


@dataclass(frozen=True, slots=True)
class Said:
    """Bounds by tier and target minute; NaN where none was said."""

    load: Floats
    by_tier: dict[Tier, Floats]

    def figures(self, tier: Tier) -> dict[str, float]:
        """Coverage, and the rest as a share of the mean load."""
        bound = self.by_tier[tier]
        judged_ = np.flatnonzero(np.isfinite(bound))
        judged_ = judged_[judged_ >= WARM_MINUTES]
        actual, said = self.load[judged_], bound[judged_]
        over, short = np.maximum(said - actual, 0.0).mean(), np.maximum(actual - said, 0.0).mean()
        mean = actual.mean()
        return {
            "coverage": float((actual <= said).mean()),
            "over_provision": float(over / mean),
            "shortfall": float(short / mean),
            "pinball": float((QUANTILE * short + (1 - QUANTILE) * over) / mean),
        }


def replayed(load: Floats, given: Rules) -> Said:
    """The loop's own foresight over a load by the minute: what was said at each, put at the minute it was said of."""
    rule = given.roles[0]
    known, crowd = RoleMemory(prompt_load=Series.empty(MINUTE, 360)), nobody()
    said = {tier: np.full(len(load), np.nan) for tier in LEADS}
    for minute, value in enumerate(load.tolist()):
        at = minute * MINUTE
        series = known.prompt_load.append(at, value)
        known = replace(known, prompt_load=series, kept=judged(known.kept, value, at, given.bin_s))
        crowd = followed(crowd, {rule.key: known}, given, at)
        outlook = crowd.outlook(name_of(rule.key, "prompts"))
        foreseen, _ = bounds(series, known.kept, rule, given, at, outlook)
        known = replace(known, kept=promised(known.kept, foreseen, at, given.bin_s))
        for one in foreseen:
            due = minute + round(one.lead_s / MINUTE)
            if due < len(load):
                said[one.tier][due] = one.bound
    return Said(load, said)


def tick_rows(only: str) -> list[dict[str, Any]]:
    """Each load by the minute, with days of history and without."""
    rows = []
    for series in SERIES:
        if "_min" not in series.file or only not in series.name:
            continue
        load = pd.read_csv(SHARED / "data" / series.file)[series.column].to_numpy(np.float64)
        given = rules()
        both = {"changes": replayed(load, replace(given, days=False)), "with days": replayed(load, given)}
        for tier, lead in LEADS.items():
            least = both["changes"].figures(tier)
            for name, said in both.items():
                found = said.figures(tier)
                share = {"over_share": found["over_provision"] / least["over_provision"]}
                share |= {"pinball_share": found["pinball"] / least["pinball"]}
                figures = {key: round(value, 4) for key, value in (found | share).items()}
                rows.append({"series": series.name, "lead_s": lead, "foresight": name, **figures})
    return rows


def true_p90(parts: tuple[tuple[float, float, float], ...]) -> float:
    """Of a mixture of log-normals, seconds."""

    def below(seconds: float) -> float:
        return sum(w * float(ndtr((math.log(seconds) - math.log(m)) / s)) for w, m, s in parts) - 0.9

    return float(brentq(below, 1e-3, 1e6))


def start_rows(repeats: int = REPEATS) -> list[dict[str, Any]]:
    """How near the learned p90 is to the true one: after some starts, and after a step change of all of them.

    `knowing`: by who is told which population each start was of, and that it is log-normal; what is left is chance.
    """
    rows = []
    for name, parts in MIXTURES.items():
        for factor in (1.0, 0.5, 2.0):
            jumped = factor != 1.0
            count = STARTS + AFTER_JUMP * jumped
            learned, knowing = [], []
            for seed in range(repeats):
                which, seconds = _draws(parts, count, seed)
                if jumped:
                    seconds[STARTS:] *= factor
                true = true_p90(parts) * factor
                durations = Durations()
                for each in seconds.tolist():
                    durations = saw(durations, PRIOR, each)
                learned.append(abs(predicted(durations, PRIOR).quantile(0.9) / true - 1.0))
                newest = slice(STARTS if jumped else 0, None)
                knowing.append(abs(_told(which[newest], seconds[newest], len(parts)) / true - 1.0))
            rows.append(
                {
                    "starts": name,
                    "case": f"{AFTER_JUMP} after x{factor:g}" if jumped else f"after {STARTS}",
                    "median_error": round(float(np.median(learned)), 3),
                    "within_20": round(float(np.mean(np.array(learned) <= 0.2)), 3),
                    "knowing_within_20": round(float(np.mean(np.array(knowing) <= 0.2)), 3),
                }
            )
    return rows


PRIOR = DurationPrior(115.0, 200.0)


def _draws(parts: tuple[tuple[float, float, float], ...], count: int, seed: int) -> tuple[Ints, Floats]:
    random = np.random.default_rng(seed)
    which = random.choice(len(parts), count, p=[w for w, _, _ in parts])
    medians, spreads = np.array([m for _, m, _ in parts]), np.array([s for _, _, s in parts])
    return which, medians[which] * np.exp(spreads[which] * random.standard_normal(count))


def _told(which: Ints, seconds: Floats, populations: int) -> float:
    """The p90 by maximum likelihood, each start's population known."""
    parts = []
    for population in range(populations):
        logs = np.log(seconds[which == population])
        if len(logs):
            spread = float(logs.std(ddof=1)) if len(logs) > 1 else 0.2
            parts.append((len(logs) / len(seconds), math.exp(float(logs.mean())), max(spread, 1e-3)))
    return true_p90(tuple(parts))


def show(rows: list[dict[str, Any]], as_json: bool, machine: Callable[[], dict[str, Any]]) -> int:
    """Print; always 0."""
    if as_json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
        return 0
    table = Table(*rows[0], box=box.SIMPLE, pad_edge=False) if rows else Table("nothing")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console(width=160, highlight=False)
    console.print(table)
    for column in ("over_share", "pinball_share"):
        shares = [row[column] for row in rows if row.get("foresight") == "with days"]
        if shares:
            console.print(f"{column}: mean {np.mean(shares):.3f}, worst {max(shares):.3f}")
    for column in ("within_20", "knowing_within_20"):
        if rows and column in rows[0]:
            for jumped in (False, True):
                mine = [row[column] for row in rows if row["case"].startswith("after") != jumped]
                console.print(f"{column}, {'after a step change' if jumped else 'steady'}: mean {np.mean(mine):.3f}")
    return 0
