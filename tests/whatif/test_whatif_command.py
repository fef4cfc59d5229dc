"""`tidegate whatif` as a planner uses it: three commands from a CSV to a picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

TIDEGATE = Path(sys.executable).with_name("tidegate")


def tidegate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_CACHE_HOME": str(cwd / "cache"), "COLUMNS": "150"}
    return subprocess.run(
        [TIDEGATE, "whatif", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_from_a_csv_to_a_recommendation_picture(demand_csv: Path, tmp_path: Path) -> None:
    made = tidegate("--trace", demand_csv.name, "--plot", "page.png", "--report", "page.md", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "Recommendation" in made.stdout
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert "| Scenario | SLO attainment |" in (tmp_path / "page.md").read_text()
    again = tidegate("--trace", demand_csv.name, "--json", cwd=tmp_path)
    assert "12 kept from before" in again.stderr
    told = json.loads(again.stdout)
    assert len(told["runs"]) == 12
    assert told["recommended"] in {run["scenario"]["name"] for run in told["runs"]}


def test_a_generated_load_needs_no_file(tmp_path: Path) -> None:
    made = tidegate("--trace", "gen:poisson,rate=2,duration=600", "--json", "--workers", "2", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert len(json.loads(made.stdout)["runs"]) == 12


def test_the_example_is_a_study_that_holds(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(tidegate("--example", cwd=tmp_path).stdout)
    from autoscaler import whatif  # noqa: PLC0415 - only its loading is looked at

    _, scenarios = whatif.load_study(tmp_path / "study.yaml")
    assert len(scenarios) == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a study file or --trace"),
        (["none.yaml"], "there is no such file"),
        (["bad.yaml"], "bad.yaml:2: growht: unknown key"),
        (["--trace", "demand.csv", "--plot", "page.txt"], "must end in .png"),
        (["--trace", "demand.csv", "--report", "page.txt"], "must end in .md"),
        (["--trace", "demand.csv", "--profile", "none/none/tp1"], "none"),
        (["--trace", "negative.csv"], "negative.csv"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_would_be_right(
    arguments: list[str], said: str, demand_csv: Path, tmp_path: Path
) -> None:
    assert demand_csv.exists()
    (tmp_path / "bad.yaml").write_text("history: {trace: demand.csv}\ngrowht: 3\n")
    (tmp_path / "negative.csv").write_text("t_s,requests,input_tokens,output_tokens\n0,1,1,1\n60,-1,1,1\n")
    ended = tidegate(*arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_sweep_that_is_killed_goes_on_where_it_stopped(demand_csv: Path, tmp_path: Path) -> None:
    growths = ", ".join(str(1 + step / 10) for step in range(12))
    (tmp_path / "study.yaml").write_text(f"history: {{trace: {demand_csv}}}\ngrid: {{growth: [{growths}]}}\n")
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [TIDEGATE, "whatif", "study.yaml", "--workers", "1", "--json"]

    def kept() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.json")}

    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as sweep:
        deadline = time.monotonic() + 60
        while len(kept()) < 3 and sweep.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        sweep.kill()
    before = kept()
    assert 3 <= len(before) < 12
    again = tidegate("study.yaml", "--workers", "1", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(json.loads(again.stdout)["runs"]) == 12
    after = kept()
    assert len(after) == 12
    # What was there is as it was: read, not made again.
    assert {file: after[file] for file in before} == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "garbage.yaml"),
        ("history: {trace: demand.csv}\nbase: 7\n", "base"),
        ("history: {trace: demand.csv}\nbase: {growth: [}\n", "garbage.yaml"),
        ("history: {trace: demand.csv}\ngrid: {growth: 2}\n", "grid.growth"),
        ("history: {trace: demand.csv}\nbase: {supply: {gangs: [{gpus: many}]}}\n", "base.supply.gangs.0.gpus"),
        ("history: {trace: demand.csv}\nscenarios: [{slo: {tpot_s: fast}}]\n", "slo.tpot_s"),
        ("\x00\x01\x02", "garbage.yaml"),
    ],
)
def test_a_garbage_study_ends_with_2_and_names_the_field(
    text: str, said: str, demand_csv: Path, tmp_path: Path
) -> None:
    assert demand_csv.exists()
    (tmp_path / "garbage.yaml").write_text(text)
    ended = tidegate("garbage.yaml", cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
