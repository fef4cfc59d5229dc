"""What a signal was over time: one range query per signal, however many groups there are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from metrics_adapter.signals import Group

    Points = Sequence[tuple[float, float]]

MOST_POINTS = 10_000
"""Points of one range answer; the server refuses more than 11,000."""


def joined(
    rows: Iterable[tuple[Mapping[str, str], Points]], groups: Iterable[Group], labels: Sequence[str]
) -> dict[str, list[tuple[float, float]]]:
    """Rows added up by group: (Unix time, value) by the group's key; groups without any row are left out.

    Args:
        rows: labels and points of each series in the answer.
        groups: who wants them.
        labels: the label names rows are told apart by; a group's other labels hold for all of them.
    """
    listed = list(rows)
    found: dict[str, list[tuple[float, float]]] = {}
    for group in groups:
        wanted = [(name, value) for name, value in group.match.items() if name in labels]
        sums: dict[float, float] = {}
        for told, points in listed:
            if all(told.get(name, "") == value for name, value in wanted):
                for at, value in points:
                    if math.isfinite(value):
                        sums[at] = sums.get(at, 0.0) + value
        if sums:
            found[group.key] = sorted(sums.items())
    return found
