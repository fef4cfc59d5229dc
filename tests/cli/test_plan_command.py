"""`tidegate plan` as somebody uses it: files, standard input, exit codes, and what it says about bad files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from autoscaler.errors import BadSettings
from autoscaler.plan_file import json_schema, load_problem

EXAMPLES = Path(__file__).parents[2] / "config" / "examples" / "plan"
SMALL: dict[str, Any] = {
    "pools": [
        {
            "key": "chat",
            "demand": 50,
            "shortage_price": 5,
            "roles": [{"variants": [{"accelerator": "A", "capacity": 10, "replicas": 2}]}],
        }
    ],
    "sources": [{"key": "free", "accelerator": "A", "gpus": 2, "lead_s": 115}],
}


def tidegate(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from autoscaler.cli import main; main()", "plan", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_a_plan_as_json_from_standard_input() -> None:
    # 50 needs 5; 2 run and 2 are free: 10 lack from 115 s on.
    run = tidegate("-", "--json", stdin=json.dumps(SMALL))
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["status"] == "optimal"
    assert {"objective", "gap", "seconds", "actions", "binding", "relaxed"} <= told.keys()
    assert told["actions"] == [
        {
            "do": "start",
            "at_s": 0.0,
            "lands_s": 115.0,
            "until_s": None,
            "pool": "chat",
            "on": "free",
            "tier": "start",
            "replicas": 2,
            "gpus": 2,
            "now": True,
        }
    ]
    assert told["pools"]["chat"]["roles"][""]["target"] == 4
    assert told["pools"]["chat"]["shortage"] == [{"at_s": 0.0, "amount": 30.0}, {"at_s": 115.0, "amount": 10.0}]
    assert "stock[free]" in told["binding"]


@pytest.mark.parametrize("name", ["supply-problem.yaml", "supply-problem-pairs.json"])
def test_the_examples_are_solved_and_explained(name: str) -> None:
    run = tidegate(str(EXAMPLES / name), "--explain")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(("optimal", "feasible"))
    assert "binding: capacity[" in run.stdout
    assert "next best: without" in run.stdout


def test_minimums_that_cannot_be_met_end_with_3_and_the_best_effort() -> None:
    hard = json.loads(json.dumps(SMALL))
    hard["pools"][0]["roles"][0]["minimum"] = 9
    run = tidegate("-", "--json", stdin=json.dumps(hard))
    assert run.returncode == 3
    told = json.loads(run.stdout)
    assert (told["status"], told["relaxed"]) == ("infeasible", ["minimum[chat]"])
    assert told["pools"]["chat"]["roles"][""]["target"] == 4


def test_the_schema_is_one_and_the_examples_keep_it() -> None:
    run = tidegate("--schema")
    assert run.returncode == 0
    schema = json.loads(run.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in ("supply-problem.yaml", "supply-problem-pairs.json"):
        jsonschema.validate(yaml.safe_load((EXAMPLES / name).read_text()), schema)
    wrong = {**SMALL, "sorces": []}
    with pytest.raises(jsonschema.ValidationError, match="sorces"):
        jsonschema.validate(wrong, json_schema())


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("", "is empty"),
        ("[]", "it must be a mapping"),
        ("pools: [", "not valid YAML"),
        ('{"pools": [}', "not valid"),
        ('{"horizon_s": NaN}', "horizon_s: nan is not right"),
        ("horizon_s: 1e13", "less than or equal to 1000000000000"),
        ('{"horizon_s": 1, "horizon_s": 2}', "given twice"),
        ("sorces: []", "1: sorces: unknown key"),
        ("horizon_s: -1", "1: horizon_s: -1 is not right"),
        ("horizon_s: 1e999", "horizon_s"),
        ("pools:\n  - key: a\n    demand: 1\n    roles: []\n    shortage_price: 1", "4: pools.0.roles"),
        ("gangs:\n  - {key: g, accelerator: A, gpus: 2.5}", "gangs.0.gpus: 2.5"),
        ("sources:\n  - {key: s, accelerator: A, lead_s: 1, tier: convert}", "tier"),
        ("rules: {relax: [budget, budget]}", "at most once"),
        ("\x00", "not a text file"),
    ],
)
def test_a_bad_file_is_named_and_ends_with_2(text: str, telling: str, tmp_path: Path) -> None:
    file = tmp_path / "problem.yaml"
    file.write_text(text)
    with pytest.raises(BadSettings) as refused:
        load_problem(str(file))
    assert telling in str(refused.value)
    assert refused.value.exit_code == 2


def _changed(path: tuple[str | int, ...], value: object) -> str:
    plain = json.loads(json.dumps(SMALL))
    at = plain
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("path", "value", "telling"),
    [
        (("pools", 0, "demand"), -5, "pools.0.demand"),
        (("pools", 0, "demand"), [], "demand is empty"),
        (("pools", 0, "demand"), [{"at_s": 0}], "give amount or quantiles"),
        (("pools", 0, "demand"), [{"quantiles": {"0.9": 5, "0.5": 6}}], "must not fall"),
        (("pools", 0, "shortage_price"), None, "give shortage_price or classes"),
        (("pools", 0, "roles", 0, "variants", 0, "start_s"), "soon", "start_s: 'soon'"),
        (
            ("pools", 0, "roles", 0, "variants", 0, "startup"),
            {"weights_gb": 1, "store_gb_s": None},
            "weights are nowhere",
        ),
        (("pools", 0, "roles", 0, "variants", 0, "accelerator"), "B", "nothing offers accelerator 'B'"),
        (("pools", 0, "roles", 0, "variants", 0, "replicas"), True, "replicas"),
        (("sources", 0, "gpus"), 10**12, "sources.0.gpus"),
        (("sources", 0, "key"), "", "sources.0.key"),
    ],
)
def test_every_bad_value_is_named(path: tuple[str | int, ...], value: object, telling: str, tmp_path: Path) -> None:
    file = tmp_path / "problem.json"
    file.write_text(_changed(path, value))
    with pytest.raises(BadSettings) as refused:
        load_problem(str(file))
    assert telling in str(refused.value), refused.value


def test_no_file_is_said() -> None:
    run = tidegate("no-such-file.yaml")
    assert run.returncode == 2
    assert "no such file" in run.stderr
    assert tidegate().returncode == 2


def test_quantiles_choose_the_plan_and_the_burst(tmp_path: Path) -> None:
    file = tmp_path / "problem.yaml"
    file.write_text(
        "pools: [{key: p, shortage_price: 1, demand: [{quantiles: {0.5: 10, 0.9: 18, 0.99: 24}}],"
        " roles: [{variants: [{accelerator: A, capacity: 1}]}]}]\n"
        "sources: [{key: s, accelerator: A, lead_s: 0}]\nrules: {quantile: 0.7, burst_quantile: 0.9}\n"
    )
    point = load_problem(str(file)).pools[0].demand[0]
    assert (point.amount, point.burst) == pytest.approx((14.0, 4.0))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("pools", 0, "demand"), -3),
        (("pools", 0, "demand"), "much"),
        (("pools", 0, "roles", 0, "variants", 0, "capacity"), -1),
        (("pools", 0, "roles", 0, "variants", 0, "gpus"), 1.5),
        (("pools", 0, "roles", 0, "variants", 0, "replicas"), [{"count": -1}]),
        (("pools",), {"chat": 1}),
    ],
)
def test_one_fault_is_told_in_one_sentence(path: tuple[str | int, ...], value: object, tmp_path: Path) -> None:
    file = tmp_path / "problem.json"
    file.write_text(_changed(path, value))
    with pytest.raises(BadSettings) as refused:
        load_problem(str(file))
    assert len(refused.value.problems) == 1, refused.value


def test_a_number_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "problem.json"
    file.write_text('{"horizon_s": 1' + "0" * 5000 + "}")
    with pytest.raises(BadSettings, match="thousands of digits"):
        load_problem(str(file))


def test_rules_that_forbid_what_is_starting_still_leave_a_plan() -> None:
    problem = json.loads(json.dumps(SMALL))
    problem["pools"][0]["roles"][0]["variants"][0]["replicas"] = [{"count": 2, "lands_in_s": 60}]
    problem["rules"] = {"quotas": [{"key": "none", "gpus": 0}]}
    run = tidegate("-", "--json", stdin=json.dumps(problem))
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)["pools"]["chat"]["roles"][""]
    assert (told["given_up"], told["target"]) == (2, 0)


@pytest.mark.parametrize(("relax", "code"), [(["budget"], 0), ([], 3)])
def test_a_node_paid_for_beyond_the_budget_is_told(relax: list[str], code: int) -> None:
    problem = json.loads(json.dumps(SMALL))
    node = {"key": "node", "accelerator": "A", "gpus": 8, "price_per_hour": 9, "lead_s": 300, "held": 1, "paid_s": 600}
    problem["offers"] = [node]
    problem["rules"] = {"budget_per_hour": 3, "relax": relax}
    run = tidegate("-", "--json", stdin=json.dumps(problem))
    assert run.returncode == code, run.stderr
    assert json.loads(run.stdout)["relaxed"] == ["budget"]
