"""Sweeps: same bytes wherever they run, nothing run twice, and what the results say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autoscaler import whatif
from autoscaler.errors import BadSettings
from autoscaler.whatif.sweep import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from autoscaler.whatif.history import Load
    from autoscaler.whatif.run import Run
    from autoscaler.whatif.sweep import Done

ASKED = whatif.grid(whatif.Scenario(maximum=12), {"growth": [1.0, 2.0], "policy.name": ["static-peak", "keda-queue"]})


class Counting:
    """A backend that counts, and may stop after a while as a machine that is switched off."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.ran: list[str] = []
        self.stop_after = stop_after

    def __call__(self, asked: Sequence[Run], loads: Mapping[str, Load]) -> Iterator[Done]:
        for done in whatif.run_in_processes(1)(asked, loads):
            if self.stop_after is not None and len(self.ran) >= self.stop_after:
                raise KeyboardInterrupt
            self.ran.append(asked[done[0]].scenario.name)
            yield done


def test_processes_give_the_same_bytes_as_one_process(loads: whatif.Loads) -> None:
    alone = whatif.swept(ASKED, loads, backend=whatif.run_in_processes(1))
    together = whatif.swept(ASKED, loads, backend=whatif.run_in_processes(2))
    assert [text(one) for one in alone] == [text(one) for one in together]
    assert [one["scenario"]["name"] for one in alone] == [one.name for one in ASKED]


def test_an_interrupted_sweep_goes_on_where_it_stopped(loads: whatif.Loads, tmp_path: Path) -> None:
    kept = whatif.Kept(tmp_path)
    first = Counting(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        whatif.swept(ASKED, loads, backend=first, kept=kept)
    second = Counting()
    told: list[bool] = []
    outcomes = whatif.swept(ASKED, loads, backend=second, kept=kept, done=lambda _, already: told.append(already))
    assert sorted(first.ran + second.ran) == sorted(one.name for one in ASKED)  # each exactly once
    assert told.count(True) == 2
    fresh = whatif.swept(ASKED, loads, backend=whatif.run_in_processes(1))
    assert [text(one) for one in outcomes] == [text(one) for one in fresh]


def test_a_kept_file_cut_short_is_run_again(loads: whatif.Loads, tmp_path: Path) -> None:
    kept = whatif.Kept(tmp_path)
    whatif.swept(ASKED[:1], loads, backend=Counting(), kept=kept)
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(file.read_bytes()[:100])
    again = Counting()
    whatif.swept(ASKED[:1], loads, backend=again, kept=kept)
    assert len(again.ran) == 1


def test_another_load_seed_or_scenario_is_another_run(loads: whatif.Loads) -> None:
    from autoscaler.whatif.run import runs  # noqa: PLC0415 - looked at only here

    other = whatif.generated("gen:poisson,rate=8,duration=900", seed=1)
    keys = {run.key(one.pools["pool"]) for one in (loads, other) for run in runs(ASKED, one, seeds=2)}
    assert len(keys) == 2 * len(ASKED) * 2


def test_a_scenario_that_cannot_be_is_named(loads: whatif.Loads) -> None:
    bad = whatif.Scenario.model_validate({"name": "odd", "policy": {"name": "keda-quue"}})
    for workers in (1, 2):
        with pytest.raises(BadSettings, match=r"scenario 'odd': .*keda-queue"):
            whatif.swept([bad, ASKED[0]], loads, backend=whatif.run_in_processes(workers))


def test_tables_are_tidy(loads: whatif.Loads) -> None:
    outcomes = whatif.swept(ASKED[:2], loads, seeds=2, backend=whatif.run_in_processes(1))
    frame = whatif.frame(outcomes)
    assert len(frame) == 4
    assert {"scenario", "seed", "slo_attainment", "gpu_hours", "total_cost", "in.growth", "in.policy.name"} <= set(
        frame
    )
    table = whatif.summary(outcomes)
    assert table["seeds"].tolist() == [2, 2]
    over = whatif.series(outcomes[0])
    assert set(over.columns) == {"t_s", "role", "needed", "ready", "starting"}
    # What the picture shows is what was paid for: ready replicas of one GPU each over time, nothing starts here.
    hours = float(over["ready"].sum()) * outcomes[0]["bin_s"] / 3600
    assert hours == pytest.approx(outcomes[0]["gpu_hours"], rel=0.15)


def outcome(name: str, attainment: float, cost: float) -> dict[str, Any]:
    return {
        "scenario": {"name": name, "growth": 1.0, "slo": {"attainment": 0.95}},
        "pool": "pool",
        "policy": "p",
        "trace": "t",
        "seed": 0,
        "fidelity": "fluid",
        "requests": 100.0,
        "slo_attainment": attainment,
        "gpu_hours": cost,
        "total_cost": cost,
        "ttft_p99_s": 0.2,
        "tpot_p99_s": 0.05,
        "peak_replicas": 3,
        "direction_changes": 1,
        "lost_training_gpu_hours": 0.0,
        "config": {"workload": {"duration_s": 3600.0}},
    }


def test_the_cheapest_that_keeps_the_slo_is_recommended() -> None:
    outcomes = [outcome("cheap", 0.90, 1.0), outcome("right", 0.96, 2.0), outcome("dear", 0.99, 3.0)]
    advice = whatif.recommend(outcomes)
    assert advice.scenario == "right"
    assert "2.0 GPU-hours over 1.0 h" in advice.text
    # 2 an hour for the 8,766 hours of a year.
    assert "17,532 a year" in advice.text
    assert whatif.recommend(outcomes, 0.985).scenario == "dear"


def test_growth_is_not_for_the_planner_to_choose() -> None:
    """Cheapest of all is to serve no more than today; asked is what serves twice that."""
    outcomes = [outcome("today", 0.96, 1.0), outcome("twice", 0.97, 2.0), outcome("twice-cheap", 0.90, 1.5)]
    for grown in outcomes[1:]:
        grown["scenario"]["growth"] = 2.0
    advice = whatif.recommend(outcomes)
    assert advice.scenario == "twice"
    assert "for 2 times the load" in advice.text
    assert "- At 1 times the load: today, 1.0 GPU-hours." in advice.text
    assert "- At 2 times the load: twice, 2.0 GPU-hours." in advice.text


def test_the_picture_marks_what_the_page_recommends() -> None:
    """As above: `today` costs 1 and keeps 96 %, but `twice`, which costs 2 and keeps 97 %, is what is asked for."""
    outcomes = [outcome("today", 0.96, 1.0), outcome("twice", 0.97, 2.0), outcome("none", 0.5, 0.5)]
    outcomes[1]["scenario"]["growth"] = 2.0
    assert _rings(outcomes) == [(2.0, 97.0)]
    outcomes[1]["slo_attainment"] = 0.9  # nothing keeps the SLO at that load, so nothing is recommended
    assert _rings(outcomes) == []


def _rings(outcomes: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Where the frontier's empty circles are: cost and per cent."""
    (axis,) = whatif.frontier(outcomes).axes
    rings = [points for points in axis.collections if not np.asarray(points.get_facecolor()).size]
    return [(float(x), float(y)) for ring in rings for x, y in np.asarray(ring.get_offsets())]


def test_when_none_keeps_it_the_nearest_is_named_and_nothing_recommended() -> None:
    advice = whatif.recommend([outcome("a", 0.5, 1.0), outcome("b", 0.7, 9.0)])
    assert advice.scenario is None
    assert advice.nearest == "b"
    assert "No scenario of 2" in advice.text


def test_dearer_training_makes_the_total_dearer(loads: whatif.Loads) -> None:
    asked = whatif.grid(
        whatif.Scenario.model_validate({"supply": {"gpus": 1, "gangs": [{"gpus": 4, "count": 3}]}, "growth": 3}),
        {"supply.lost_work_price": [0.0, 10.0]},
    )
    free, dear = whatif.swept(asked, loads, backend=whatif.run_in_processes(1))
    assert free["lost_training_gpu_hours"] == dear["lost_training_gpu_hours"] > 0
    price = free["config"]["price_per_gpu_hour"]
    extra = 10.0 * price * dear["lost_training_gpu_hours"]
    assert dear["total_cost"] - free["total_cost"] == pytest.approx(extra)
    json.dumps(free)
