"""`tidegate whatif` as a planner uses it: three commands from a CSV to a picture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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
