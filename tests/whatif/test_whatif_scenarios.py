"""Scenarios: what a study says, what it expands to, and what it may not say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from autoscaler import whatif
from autoscaler.errors import BadSettings
from autoscaler.whatif.run import setup_of

if TYPE_CHECKING:
    from pathlib import Path


def study(**parts: Any) -> tuple[whatif.Study, tuple[whatif.Scenario, ...]]:
    return whatif.study_of({"history": {"trace": "x.csv"}, **parts})


def test_a_study_without_scenarios_is_its_base() -> None:
    _, scenarios = study(base={"growth": 2})
    assert [(one.name, one.growth) for one in scenarios] == [("base", 2.0)]


def test_a_grid_multiplies_every_scenario_the_last_key_fastest() -> None:
    _, scenarios = study(
        scenarios=[{"name": "a"}, {"name": "b", "slo": {"tpot_s": 0.05}}],
        grid={"growth": [1, 2], "supply.gpus": [8, 16]},
    )
    assert len(scenarios) == 2 * 2 * 2
    assert scenarios[1].name == "a, growth=1, gpus=16"
    last = scenarios[-1]
    assert (last.growth, last.supply.gpus, last.slo.tpot_s, last.slo.attainment) == (2.0, 16, 0.05, 0.95)


def test_a_scenario_changes_only_what_it_names() -> None:
    _, scenarios = study(
        base={"supply": {"gpus": 8, "peers": True}, "policy": {"name": "keda-queue", "knobs": {"target": 3}}},
        scenarios=[{"name": "more", "supply": {"gpus": 16}, "policy": {"knobs": {}}}],
    )
    one = scenarios[0]
    assert (one.supply.gpus, one.supply.peers, one.policy.name) == (16, True, "keda-queue")
    assert one.policy.knobs == {}  # knobs belong to one policy: they are replaced, not mixed


def test_random_scenarios_are_the_same_for_the_same_seed_and_within_their_ranges() -> None:
    asked = {"count": 40, "seed": 7, "ranges": {"growth": [0.5, 4], "supply.gpus": [4, 40]}}
    _, first = study(random=asked)
    _, again = study(random=asked)
    assert first == again
    assert len(first) == 40
    assert all(0.5 <= one.growth <= 4 for one in first)
    gpus = [one.supply.gpus for one in first]
    assert all(gpu is not None and 4 <= gpu <= 40 for gpu in gpus)
    _, other = study(random={**asked, "seed": 8})
    assert [one.growth for one in other] != [one.growth for one in first]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"base": {"growht": 2}}, "base.growht: unknown key"),
        ({"base": {"growth": 0}}, "base.growth: 0 is not right"),
        ({"base": {"growth": True}}, "must be a number"),
        ({"grid": {"supply.gpu": [8]}}, "supply.gpu: unknown key"),
        ({"grid": {"suply.gpus": [8]}}, "there is no 'suply' that holds keys"),
        ({"grid": {"growth": ["much"]}}, "growth: 'much'"),
        ({"scenarios": [{"name": "a"}, {"name": "a"}]}, "two are called 'a'"),
        ({"grid": {"growth": [1]}, "random": {"count": 2, "ranges": {"growth": [1, 2]}}}, "not both"),
        ({"random": {"count": 2, "ranges": {"growth": [3, 2]}}}, "[least, most]"),
        ({"random": {"count": 2}}, "nothing would differ"),
        ({"grid": {"growth": list(range(1, 400)), "maximum": list(range(1, 400))}}, "at most 100,000"),
        ({"history": {"journal": "a", "trace": "b"}}, "unknown key"),
        ({"history": {"kind": "csv"}}, "trace, generator, journal or prometheus"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSettings) as refused:
        study(**parts)
    assert said in str(refused.value)


@pytest.mark.parametrize("url", ["ftp://me:s3cr3t@h", "http://me:s3cr3t@h h", "http://me:s3cr3t@h/?a=1"])
def test_a_password_in_an_address_is_not_repeated(url: str) -> None:
    with pytest.raises(BadSettings) as refused:
        study(history={"url": url})
    assert "history.url: 'http://me:***@h" in str(refused.value).replace("ftp:", "http:")
    assert "s3cr3t" not in str(refused.value)


def test_a_study_file_says_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("history: {trace: x.csv}\nbase:\n  slo:\n    attainment: 95\n")
    with pytest.raises(BadSettings) as refused:
        whatif.load_study(path)
    assert str(refused.value).startswith(f"{path}:4: base.slo.attainment: 95 is not right")


def test_paths_in_a_study_are_taken_from_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("history: {trace: week.csv}\n")
    found, _ = whatif.load_study(path)
    assert found.history.model_dump()["trace"] == str(tmp_path / "week.csv")


def test_the_schema_names_every_key_of_a_scenario() -> None:
    schema = whatif.json_schema()
    json.dumps(schema)
    assert set(schema["$defs"]["Scenario"]["properties"]) == set(whatif.Scenario.model_fields)


def test_a_scenario_becomes_the_world_it_says() -> None:
    scenario = whatif.Scenario.model_validate(
        {
            "slo": {"ttft_s": 1.5, "tpot_s": 0.04},
            "supply": {"gpus": 4, "gangs": [{"gpus": 8, "count": 3}], "start_scale": 0.5},
            "faults": [{"kind": "no-nodes", "at_s": 10}],
        }
    )
    setup = setup_of(scenario, "prod/chat")
    assert (setup.namespace, setup.pool) == ("prod", "chat")
    assert (setup.slo.ttft_s, setup.slo.ttft_longest_s, setup.slo.tpot_s) == ((), 1.5, 0.04)
    assert len(setup.supply.gangs) == 3
    assert setup.supply.start_scale == 0.5
    assert setup.faults[0].for_s == float("inf")
