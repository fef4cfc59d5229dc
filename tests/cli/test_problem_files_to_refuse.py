"""Problem files as people write them by mistake: each is refused with its place, its value and what would be right."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from autoscaler.errors import BadSettings
from autoscaler.plan_file import json_schema, load_problem

YAML = """pools:
  - key: chat
    demand: 50
    shortage_price: 5
    roles:
      - variants: [{accelerator: A, capacity: 10, replicas: 2}]
sources:
  - {key: free, accelerator: A, gpus: 2, lead_s: 115}
"""


def refused(text: str | bytes, tmp_path: Path) -> str:
    file = tmp_path / "problem"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadSettings) as found:
        load_problem(str(file))
    return str(found.value).replace(f"{file}:", "")


@pytest.mark.parametrize(
    ("old", "new", "telling"),
    [
        ("demand: 50", "demand: yes", "3: pools.0.demand: true is not right: Input should be a valid number"),
        ("demand: 50", "demand: '50'", "3: pools.0.demand: '50' is not right: Input should be a valid number"),
        ("demand: 50", "demand: 2024-01-01", "3: pools.0.demand: 2024-01-01 is not right"),
        ("demand: 50", "demand: .nan", "3: pools.0.demand: nan is not right: Input should be a finite number"),
        ("key: chat", "key: no", "2: pools.0.key: false is not right: Input should be a valid string"),
        ("capacity: 10", "capacity: on", "6: pools.0.roles.0.variants.0.capacity: true is not right"),
        ("replicas: 2", "replicas: 2.5", "6: pools.0.roles.0.variants.0.replicas: 2.5 is not right"),
        ("replicas: 2", "replicas: ~", "6: pools.0.roles.0.variants.0.replicas: null is not right"),
        ("lead_s: 115", "lead_s: [1]", "8: sources.0.lead_s: [1] is not right"),
        ("lead_s: 115", "lead_s: {a: 1}", "8: sources.0.lead_s: {'a': 1} is not right"),
        ("sources:", "rules: {never_above_priority: '7'}\nsources:", "rules.never_above_priority: '7' is not right"),
        ("sources:", "rules: {priority_order: 'yes'}\nsources:", "rules.priority_order: 'yes' is not right"),
        ("- key: chat", "- chat\n  - key: chat", "2: pools.0: 'chat' is not right: Input should be a mapping"),
        ("demand: 50", "demand: [{quantiles: {p90: 5}}]", "quantile 'p90' is no number; write 0.9 for the 90th"),
        ("demand: 50", "demand: [{quantiles: {yes: 5}}]", "quantile True is no number"),
        ("demand: 50", "demand: [{quantiles: {90: 5}}]", "quantile 90 must lie between 0 and 1; write 0.9"),
        ("demand: 50", "demand: [{quantiles: {}}]", "quantiles: Value should have at least 1 item, not 0"),
        ("demand: 50", "demand: [{quantiles: {0.5: 7, 0.9: 6}}]", "6 at 0.9 is below 7 at 0.5"),
        ("demand: 50", "demand: [{quantiles: {0.5: 7, 0.50: 8}}]", "3: not valid YAML: key '0.50' is given twice"),
    ],
)
def test_a_value_of_the_wrong_kind(old: str, new: str, telling: str, tmp_path: Path) -> None:
    assert telling in refused(YAML.replace(old, new), tmp_path)


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ('{"pools": [}', "1: not valid JSON: Expecting value, column 12; nor valid YAML"),
        ('{"pools": []}{"pools": []}', "1: not valid JSON: Extra data, column 14"),
        ('{\n "horizon_s": 1\n "points_s": []}', "3: not valid JSON: Expecting ',' delimiter"),
        ('{\n "horizon_s": "soon"}', "2: horizon_s: 'soon' is not right"),
        ('{"pools": [{"key": "a", "demand": [{"quantiles": {"0.5": 1, "0.50": 2}}]}]}', "quantile 0.50 is given twice"),
        (b"\x7fELF\x00\xff", "cannot be read"),
    ],
)
def test_a_file_that_is_not_what_it_begins_as(text: str | bytes, telling: str, tmp_path: Path) -> None:
    assert telling in refused(text, tmp_path)


def plain(**source: object) -> dict[str, Any]:
    return {
        "pools": [
            {
                "key": "chat",
                "demand": 50,
                "shortage_price": 5,
                "roles": [{"variants": [{"accelerator": "A", "capacity": 10, "replicas": 2}]}],
            }
        ],
        "sources": [{"key": "free", "accelerator": "A", "gpus": 2, "lead_s": 115, **source}],
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpus", 2.0), ("gpus", 2.5), ("gpus", "2"), ("gpus", True), ("lead_s", "1"), ("lead_s", True), ("lead_s", 7)],
)
def test_the_schema_and_the_command_agree(field: str, value: object, tmp_path: Path) -> None:
    # 2.0 is a whole number for JSON Schema, and programs write it; "2" and true are none.
    given = plain(**{field: value})
    sound = jsonschema.Draft202012Validator(json_schema()).is_valid(given)
    file = tmp_path / "problem.json"
    file.write_text(json.dumps(given))
    if sound:
        assert load_problem(str(file)).sources[0].gpus == 2
    else:
        assert f"sources.0.{field}" in refused(json.dumps(given), tmp_path)


def test_1e3_is_a_number_though_yaml_1_1_reads_a_text(tmp_path: Path) -> None:
    file = tmp_path / "problem.yaml"
    file.write_text(YAML.replace("lead_s: 115", "lead_s: 1e3"))
    assert load_problem(str(file)).sources[0].lead_s == 1000.0


def test_standard_input_that_is_closed_is_said() -> None:
    code = "import sys; sys.stdin = None; from autoscaler.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code, "plan", "-"], capture_output=True, text=True, timeout=120, check=False
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert "standard input: is closed" in run.stderr


def test_how_a_plan_was_found_is_said_where_it_is_not_known_to_be_the_best() -> None:
    # Nine replicas do not fit on the two that run and 2 GPUs: said without --explain too, and always in JSON.
    hard = plain()
    hard["pools"][0]["roles"][0]["minimum"] = 9
    code = "from autoscaler.cli import main; main()"
    told = [
        subprocess.run(
            [sys.executable, "-c", code, "plan", "-", *options],
            input=json.dumps(hard),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        for options in ([], ["--json"])
    ]
    assert [run.returncode for run in told] == [3, 3]
    assert "chat: minimums clash; no rule could give way" in told[0].stdout
    assert "  chat: lacks 30 from 0 s until 115 s\n  chat: lacks 10 from 115 s\n" in told[0].stdout
    assert json.loads(told[1].stdout)["reasons"][0] == "chat: minimums clash; no rule could give way"
