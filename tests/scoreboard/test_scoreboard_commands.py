"""`tidegate simulate` and `tidegate compare` as a user meets them: contract, reproducibility, refusals, files."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from autoscaler.policies.registry import POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Command = Callable[..., subprocess.CompletedProcess[str]]

CONTRACT = (
    *("requests", "slo_attainment", "ttft_p50_s", "ttft_p99_s", "tpot_p99_s", "gpu_hours", "cost_per_million_tokens"),
    *("gpu_utilisation", "peak_over_ask", "direction_changes", "lost_training_gpu_hours"),
)
PNG = b"\x89PNG\r\n\x1a\n"


def test_simulate_prints_one_object_with_every_field(tidegate: Command, trace: str) -> None:
    done = tidegate(
        "simulate", "--trace", trace, "--policy", "keda-queue", "--set", "target=2", "--seed", "3", "--json"
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert all(isinstance(found[name], int | float) for name in CONTRACT)
    assert (found["requests"], found["policy"], found["trace"], found["seed"]) == (120, "keda-queue", "tiny", 3)
    assert found["config"]["policy"]["target"] == 2
    assert found["config"]["setup"]["profile"] == "llama-3.1-8b/a100-80gb/tp1"


def test_simulate_without_json_is_for_people(tidegate: Command, trace: str) -> None:
    done = tidegate("simulate", "--trace", trace)
    assert done.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (lines["requests"], lines["policy"]) == ("120", "token-dynamics")


def test_the_same_seed_gives_the_same_bytes_also_in_parallel(tidegate: Command) -> None:
    generated = "gen:poisson,rate=3,duration=120"
    alone = [tidegate("simulate", "--trace", generated, "--seed", "1", "--json").stdout for _ in range(2)]
    assert alone[0] == alone[1] != ""
    arguments = ("compare", "--traces", generated, "--policies", "token-dynamics,oracle", "--seeds", "2", "--json")
    one, two = (tidegate(*arguments, "--workers", workers).stdout for workers in ("1", "2"))
    assert one == two
    rows = json.loads(two)
    assert [(row["policy"], row["seed"]) for row in rows] == [
        *(("token-dynamics", 0), ("token-dynamics", 1)),
        *(("oracle", 0), ("oracle", 1)),
    ]
    assert rows[1] == json.loads(alone[0])
    assert rows[0] != rows[1]


def test_compare_runs_every_policy_and_the_oracle(tidegate: Command, trace: str) -> None:
    rows = json.loads(tidegate("compare", "--traces", trace, "--seeds", "1", "--json").stdout)
    assert [row["policy"] for row in rows] == [*POLICIES, "oracle"]
    assert all(set(CONTRACT) | {"trace", "seed", "config"} <= set(row) for row in rows)


def test_compare_prints_a_table_and_writes_files(tidegate: Command, trace: str, tmp_path: Path) -> None:
    arguments = ("compare", "--traces", trace, "--traces", f"requests:{trace}", "--policies", "hpa-kv, oracle")
    for out in ("runs.csv", "runs.parquet"):
        done = tidegate(*arguments, "--seeds", "2", "--out", out, "--plot", "picture.png")
        assert done.returncode == 0, done.stderr
        assert "hpa-kv" in done.stdout
        assert "SLO" in done.stdout
    with (tmp_path / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "runs.parquet").to_pylist()
    # Two policies and two seeds: the same trace, named twice, is run once.
    assert len(rows) == len(table) == 4
    for row, other in zip(rows, table, strict=True):
        assert row["policy"] == other["policy"]
        assert float(row["gpu_hours"]) == other["gpu_hours"]
        assert json.loads(row["config"]) == json.loads(other["config"])
    assert (tmp_path / "picture.png").read_bytes().startswith(PNG)


def test_list_names_policies_and_knobs(tidegate: Command) -> None:
    done = tidegate("compare", "--list")
    assert done.returncode == 0
    named = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(named) == {*POLICIES, "oracle"}
    assert "target=" in named["keda-queue"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "keda-que"), "did you mean keda-queue"),
        (("--policy", "keda-queue", "--set", "targt=2"), "did you mean target"),
        (("--policy", "keda-queue", "--set", "target=much"), "must be a finite number"),
        (("--policy", "keda-queue", "--set", "target"), "use knob=value"),
        (("--policy", "oracle", "--set", "attainment=2"), "must be a number 0..1"),
        (("--policy", "oracle", "--set", "target=2"), "no knob 'target'"),
        (("--policy", "static-peak", "--set", "colocated=-1"), "colocated"),
        (("--format", "asure"), "choose one of azure"),
        (("--scale", "superpose:lots"), "superpose:lots"),
        (("--scale", "enlarge:3"), "enlarge:3"),
        (("--profile", "nothing"), "profile 'nothing'"),
        (("--layout", "both"), "colocated or disaggregated"),
        (("--start", "115"), "such as 115,200"),
        (("--start", "0,0"), "median must be above 0"),
        (("--start", "200,115"), "not below it"),
        (("--start", "nan,nan"), "--start nan,nan"),
        (("--scale", "compress:-1"), "compress:-1: the factor"),
        (("--scale", "compress:1e-9"), "at most 400 days"),
        (("--min", "5", "--max", "2"), "minimum"),
        (("--plot", "picture.doc"), "must end in .png"),
        (("--plot", "nowhere/picture.png"), "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(
    arguments: tuple[str, ...], said: str, refused: Callable[..., str], trace: str
) -> None:
    assert said in refused("simulate", "--trace", trace, *arguments)


def test_a_decision_every_thirty_years_ends_with_the_trace(tidegate: Command, trace: str) -> None:
    done = tidegate("simulate", "--trace", trace, "--set", "interval_s=1e9", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"] == 120


def test_a_single_request_is_not_served_for_nothing(tidegate: Command, tmp_path: Path) -> None:
    header = "arrival_s,input_tokens,output_tokens\n"
    (tmp_path / "one.csv").write_text(f"{header}7,500,50\n", encoding="utf-8")
    (tmp_path / "at_once.csv").write_text(f"{header}0,500,50\n0,500,50\n", encoding="utf-8")
    # The first lasts 7 s, the second none; both are counted as 15 s: one A100 for 15 s, 240 of which are an hour.
    for name, policy in (("one", "static-mean"), ("at_once", "static-mean"), ("at_once", "oracle")):
        done = tidegate("simulate", "--trace", f"{name}.csv", "--policy", policy, "--json")
        found = json.loads(done.stdout)
        assert found["gpu_hours"] == pytest.approx(1 / 240)
        assert found["cost_per_million_tokens"] > 0
        assert any("counted as 15 s" in note for note in found["notes"])


def test_a_reader_that_leaves_is_no_failure(tidegate_path: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # before the first byte: every write meets a pipe that nobody reads
    with os.fdopen(writing, "wb") as out:
        done = subprocess.run(
            [tidegate_path, "compare", "--list"], stdout=out, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("row", "said"),
    [("2,-5,50", "-5"), ("0.5,500,50", "0.5"), ("2,1000000000,50", "1000000000"), ("2,500", "row 3"), ("x,1,1", "'x'")],
)
def test_a_bad_row_is_named_by_its_number_in_one_process_and_in_many(
    row: str, said: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    header = "arrival_s,input_tokens,output_tokens\n"
    (tmp_path / "bad.csv").write_text(f"{header}0,500,50\n1,500,50\n{row}\n", encoding="utf-8")
    ways = (("simulate", "--trace", "bad.csv"), ("compare", "--traces", "bad.csv", "--seeds", "2", "--workers", "2"))
    for way in ways:
        complaint = refused(*way)
        assert "bad.csv, row 3 (line 4)" in complaint
        assert said in complaint


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--traces: name at least one"),
        (("--traces", "absent.csv"), "absent.csv: cannot be read"),
        (("--traces", "tiny.csv", "--policies", ","), "name at least one policy"),
        (("--traces", "tiny.csv", "--policies", "hpa-kv,hpa"), "no policy 'hpa'"),
        (("--traces", "tiny.csv", "--out", "runs.xls"), "must end in .csv or .parquet"),
        (("--traces", "gen:poisson,rate=-1"), "rate"),
        (("--traces", "tiny.csv", "--traces", "burstgpt:tiny.csv"), "both called tiny.csv"),
    ],
)
def test_compare_refuses_before_it_runs(
    arguments: tuple[str, ...], said: str, refused: Callable[..., str], trace: str
) -> None:
    assert trace == "tiny.csv"
    assert said in refused("compare", *arguments)
