"""The scoreboard's rows as Markdown, and where one policy stands against each other one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SAME_SHARE = 0.005
"""Attainments closer than half a percentage point are taken as equal: the spread over seeds is of that size."""
SAME_COST = 0.03
"""GPU-hours within 3 % are a tie."""

SET = "set"
"""Flavour of a row that shows one setting of ours among others."""
SAVES = 0.15
"""GPU-hours that ours should save against any rival which serves no more."""
CLAIRVOYANT = ("static-peak", "static-mean")
"""They know the whole trace beforehand."""


@dataclass(frozen=True, slots=True)
class Row:
    """One policy in one flavour: its results by seed, and the oracle's GPU-hours at its mean attainment."""

    policy: str
    flavour: str
    knobs: Mapping[str, str]
    results: Sequence[Mapping[str, Any]]
    oracle: float

    def mean(self, name: str) -> float:
        """Mean over seeds of what is known; NaN where nothing is."""
        known = [float(one[name]) for one in self.results if one[name] is not None]
        return statistics.fmean(known) if known else float("nan")

    def spread(self, name: str) -> float:
        """Standard deviation over seeds."""
        known = [float(one[name]) for one in self.results if one[name] is not None]
        return statistics.stdev(known) if len(known) > 1 else 0.0

    @property
    def share(self) -> float:
        """Mean SLO attainment."""
        return self.mean("slo_attainment")

    @property
    def cost(self) -> float:
        """Mean GPU-hours."""
        return self.mean("gpu_hours")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a table says of its case."""

    name: str
    trace: str
    scale: str
    layout: str
    profile: str
    duration_s: float
    seeds: int
    fluid: bool


def case_text(about: Shown, rows: Sequence[Row]) -> str:
    """A case's table, most served first."""
    how = "as a fluid" if about.fluid else "request by request"
    head = (
        f"### {about.name}\n\n{about.trace}, {about.scale}, last two thirds ({about.duration_s / 3600:.2f} h), "
        f"{about.layout}, {about.profile}, {about.seeds} seeds, {how}\n\n"
        "| policy | flavour | SLO | GPU-h | x oracle | TTFT p99 s | TPOT p99 s | GPU use | turns |\n"
        "|---|---|--:|--:|--:|--:|--:|--:|--:|"
    )
    ordered = sorted(rows, key=lambda row: (-round(row.share, 3), row.cost))
    return "\n".join([head, *map(_line, ordered)]) + "\n"


def _line(row: Row) -> str:
    knobs = ", ".join(f"{name}={value}" for name, value in row.knobs.items())
    flavour = f"{row.flavour} ({knobs})" if knobs else row.flavour
    ratio = f"{row.cost / row.oracle:.2f}" if row.oracle > 0 else "-"
    return (
        f"| {row.policy} | {flavour} | {row.share:.1%} ±{row.spread('slo_attainment'):.1%} | "
        f"{row.cost:,.2f} ±{row.spread('gpu_hours'):.2f} | {ratio} | {row.mean('ttft_p99_s'):,.2f} | "
        f"{row.mean('tpot_p99_s'):.3f} | {row.mean('gpu_utilisation'):.0%} | {row.mean('direction_changes'):.0f} |"
    )


def verdict(ours: Row, theirs: Row) -> str:
    """`wins`, `ties`, `loses`, or which side serves more for more."""
    better, cost = ours.share - theirs.share, ours.cost / theirs.cost - 1
    if abs(better) <= SAME_SHARE:
        return "ties" if abs(cost) <= SAME_COST else "wins" if cost < 0 else "loses"
    if better > 0:
        return "wins" if cost <= SAME_COST else "serves more for more"
    return "loses" if cost >= -SAME_COST else "serves less for less"


def standing_text(rows: Sequence[Row], own: str) -> str:
    """Where our policy, as shipped, stands against every other row; losses and ties are said as well."""
    ours = next(row for row in rows if row.policy == own and row.flavour == "shipped")
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.policy != own:
            name = row.policy if row.flavour == "shipped" else f"{row.policy} tuned"
            groups.setdefault(verdict(ours, row), []).append(f"{name} ({row.share:.1%}, {row.cost:,.1f})")
    lines = [f"{own} as shipped serves {ours.share:.1%} with {ours.cost:,.2f} GPU-hours:", ""]
    lines += [
        f"- **{word}** against {', '.join(groups[word])}"
        for word in ("loses", "ties", "serves less for less", "serves more for more", "wins")
        if word in groups
    ]
    rivals = [row for row in rows if row.policy != own and row.share >= ours.share - SAME_SHARE]
    if rivals:
        least = min(rivals, key=lambda row: row.cost)
        lines.append(
            f"- cheapest rival that serves as many: {least.policy} {least.flavour}, {least.cost:,.2f} GPU-hours "
            f"({ours.cost / least.cost - 1:+.1%} for ours)"
        )
    else:
        lines.append("- no rival serves as many")
    lines.append(f"- {ours.cost / ours.oracle:.2f} times the oracle at the same attainment ({ours.oracle:,.2f})")
    return "\n".join(lines) + "\n"


def matched_text(rows: Sequence[Row], own: str) -> str:
    """What ours costs at each rival's attainment or better, in its cheapest setting there; every exception is said."""
    mine = [row for row in rows if row.policy == own]
    least_share = min(row.share for row in mine)
    saved, short, beyond, below = [], [], [], []
    for row in sorted((row for row in rows if row.policy != own), key=lambda row: -row.share):
        name = (
            row.policy + (" tuned" if row.flavour == "tuned" else "") + (" (clairvoyant)" * (row.policy in CLAIRVOYANT))
        )
        able = [one for one in mine if one.share >= row.share - SAME_SHARE]
        if not able:
            beyond.append(f"{name} {row.share:.1%}, {row.cost:,.2f}")
            continue
        least = min(able, key=lambda one: one.cost)
        change = least.cost / row.cost - 1
        said = f"{name} {change:+.0%} ({row.share:.1%}, {row.cost:,.2f}; ours {least.share:.1%}, {least.cost:,.2f})"
        serves_less = row.share < least_share - SAME_SHARE
        (saved if change <= -SAVES else below if serves_less else short).append(said)
    lines = [f"{own} at each rival's attainment or better, in the cheapest of its {len(mine)} settings there:", ""]
    rivals = len(saved) + len(short) + len(beyond) + len(below)
    lines.append(f"- at least {SAVES:.0%} fewer GPU-hours than {len(saved)} of {rivals}")
    lines += [f"- **not so** against {said}" for said in short]
    lines += [f"- **out of reach** of these settings: {said}" for said in beyond]
    if below:
        lines.append(f"- **serve less than any of these settings** ({least_share:.1%}), for less: {'; '.join(below)}")
    return "\n".join(lines) + "\n"


def told(parts: Sequence[str]) -> str:
    """The whole document; the first part says versions and machine."""
    return "\n".join(["## Scoreboard", "", parts[0], "", *parts[1:]])
