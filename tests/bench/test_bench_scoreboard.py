"""What the scoreboard says of our policy at each rival's attainment."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

BENCH = Path(__file__).parents[2] / "bench" / "scoreboard_table.py"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """Loaded by its path: other scripts in that folder have the names of our packages."""
    spec = importlib.util.spec_from_file_location("bench_scoreboard_table", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_scoreboard_table"] = module
    spec.loader.exec_module(module)
    return module


def row(table: ModuleType, policy: str, share: float, cost: float, flavour: str = "shipped") -> Any:
    return table.Row(policy, flavour, {}, [{"slo_attainment": share, "gpu_hours": cost}], 1.0)


def test_our_cheapest_setting_that_serves_as_many_is_held_against_each_rival(table: ModuleType) -> None:
    """At 92 % ours costs 8, at 96 % 10: against 10 at 92 % it saves 20 %, against 10.5 at 95 % only 5 %."""
    ours = [row(table, "ours", 0.96, 10.0), row(table, "ours", 0.92, 8.0, table.SET)]
    said = table.matched_text(
        [
            *ours,
            row(table, "a", 0.92, 10.0),
            row(table, "b", 0.95, 10.5, "tuned"),
            row(table, "c", 0.99, 30.0),
            row(table, "d", 0.5, 8.1),
        ],
        "ours",
    )
    assert said.splitlines()[2:] == [
        "- at least 15% fewer GPU-hours than 1 of 4",
        "- **not so** against b tuned -5% (95.0%, 10.50; ours 96.0%, 10.00)",
        "- **out of reach** of these settings: c 99.0%, 30.00",
        "- **serve less than any of these settings** (92.0%), for less: d -1% (50.0%, 8.10; ours 92.0%, 8.00)",
    ]


def test_half_a_point_is_no_difference_and_who_knows_the_future_is_told_apart(table: ModuleType) -> None:
    said = table.matched_text([row(table, "ours", 0.896, 8.0), row(table, "static-peak", 0.90, 7.0)], "ours")
    assert "- **not so** against static-peak (clairvoyant) +14% (90.0%, 7.00; ours 89.6%, 8.00)" in said
