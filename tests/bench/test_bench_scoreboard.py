"""What the scoreboard says of our policy at each rival's attainment."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from scoreboard_table import SET, Row, matched_text


def row(policy: str, share: float, cost: float, flavour: str = "shipped") -> Row:
    return Row(policy, flavour, {}, [{"slo_attainment": share, "gpu_hours": cost}], 1.0)


def test_our_cheapest_setting_that_serves_as_many_is_held_against_each_rival() -> None:
    """At 92 % ours costs 8, at 96 % 10: against 10 at 92 % it saves 20 %, against 10.5 at 95 % only 5 %."""
    ours = [row("ours", 0.96, 10.0), row("ours", 0.92, 8.0, SET)]
    said = matched_text(
        [*ours, row("a", 0.92, 10.0), row("b", 0.95, 10.5, "tuned"), row("c", 0.99, 30.0), row("d", 0.5, 8.1)], "ours"
    )
    assert said.splitlines()[2:] == [
        "- at least 15% fewer GPU-hours than 1 of 4",
        "- **not so** against b tuned -5% (95.0%, 10.50; ours 96.0%, 10.00)",
        "- **out of reach** of these settings: c 99.0%, 30.00",
        "- **serve less than any of these settings** (92.0%), for less: d -1% (50.0%, 8.10; ours 92.0%, 8.00)",
    ]


def test_half_a_point_is_no_difference_and_who_knows_the_future_is_told_apart() -> None:
    said = matched_text([row("ours", 0.896, 8.0), row("static-peak", 0.90, 7.0)], "ours")
    assert "- **not so** against static-peak (clairvoyant) +14% (90.0%, 7.00; ours 89.6%, 8.00)" in said
