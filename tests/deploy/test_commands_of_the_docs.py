"""The Helm commands that the documentation shows set values that exist, and what they install is what the page says."""

from __future__ import annotations

import copy
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from helm_subset import Chart

from autoscaler.configuration import load_settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "config" / "helm" / "tidegate"
CHART = Chart(FOLDER)
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
COMMANDS = [line[2:] for line in PAGE.splitlines() if re.match(r"\$ helm (install|upgrade) ", line)]
GIVEN = yaml.safe_load(
    next(block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "values.yaml" in block)
)
Json = dict[str, Any]


def asked(line: str) -> Json:
    """The values a command sets, over those of the page's values.yaml."""
    words = shlex.split(line)
    made = copy.deepcopy(GIVEN)
    for said in [words[n + 1] for n, word in enumerate(words) if word == "--set"]:
        path, _, value = said.partition("=")
        place = made
        *above, last = path.split(".")
        for part in above:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    return made


def known(values: Json, chart: Json, path: str = "") -> list[str]:
    """Values that the chart does not have."""
    wrong = []
    for name, value in values.items():
        if name not in chart:
            wrong.append(f"{path}{name}")
        elif isinstance(value, dict) and isinstance(chart[name], dict) and name != "configuration":
            wrong += known(value, chart[name], f"{path}{name}.")
    return wrong


def merged(values: Json, chart: Json) -> Json:
    return {
        name: merged(values[name], there)
        if isinstance(values.get(name), dict) and isinstance(there, dict)
        else values.get(name, there)
        for name, there in {**dict.fromkeys(values), **chart}.items()
    }


@pytest.mark.parametrize("line", COMMANDS)
def test_a_helm_command_sets_what_there_is_and_can_be_rendered(line: str, tmp_path: Path) -> None:
    values = asked(line)
    assert known(values, CHART.values) == []
    schema = json.loads((FOLDER / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(merged(values, CHART.values), schema)
    found = [one for one in yaml.safe_load_all(CHART.render(values)) if one]
    text = next(one for one in found if one["kind"] == "ConfigMap")["data"]["tidegate.yaml"]
    (tmp_path / "tidegate.yaml").write_text(text)
    assert [pool.name for pool in load_settings(tmp_path / "tidegate.yaml", {}).pools] == ["llama-8b"]
    assert shlex.split(line)[3] == str(FOLDER.relative_to(ROOT))


def test_the_table_of_rights_has_every_feature() -> None:
    section = PAGE.partition("## Rights, by feature")[2].partition("\n## ")[0]
    assert set(re.findall(r"`features\.(\w+)`", section)) == set(CHART.values["features"])
    components = {folder.name for folder in (ROOT / "config" / "kustomize" / "features").iterdir()}
    assert set(re.findall(r"`features/([\w-]+)`", section)) == components


def test_it_is_given_time_to_drain_before_it_is_killed() -> None:
    found = [one for one in yaml.safe_load_all(CHART.render({"drainSeconds": 30})) if one]
    spec = next(one for one in found if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    environment = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
    assert environment["TIDEGATE_SERVING__DRAIN_S"] == "30"
    assert spec["terminationGracePeriodSeconds"] >= 30 + 10  # 30 is the most the schema takes; 10 s to close
    base = next(yaml.safe_load_all((ROOT / "config/kustomize/base/deployment.yaml").read_text(encoding="utf-8")))
    plain = {one["name"]: one.get("value") for one in base["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert plain["TIDEGATE_SERVING__DRAIN_S"] == str(CHART.values["drainSeconds"])
