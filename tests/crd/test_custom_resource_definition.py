"""The TokenPool's definition: what the API server takes, and that it refuses what the settings refuse."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_kinds import CRDS
from pydantic import BaseModel, Field, ValidationError
from structural_rules import definition_problems, patterns_of, rules_of
from typer.testing import CliRunner

from autoscaler.cli import app
from autoscaler.crd import SPELLINGS, definition, spec_of
from autoscaler.crd_schema import plain, spelt, structural
from autoscaler.settings import PoolSettings

celpy = pytest.importorskip("celpy", reason="cel-python, which evaluates the rules, is not installed")
from cel_rules import admitted, program, refusals  # noqa: E402 - needs celpy

FILE = Path(__file__).resolve().parents[2] / "config" / "crd" / "tidegate.dev_tokenpools.yaml"
SCHEMA = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
Json = dict[str, Any]


def pool(name: str = "chat", **spec: Any) -> Json:
    spec.setdefault("roles", {"colocated": {"maxReplicas": 8}})
    meta = {"name": name, "namespace": "serving"}
    return {"apiVersion": "tidegate.dev/v1alpha1", "kind": "TokenPool", "metadata": meta, "spec": spec}


def test_the_shipped_file_is_what_the_command_prints() -> None:
    done = CliRunner().invoke(app, ["manifests", "crd"])
    assert done.exit_code == 0
    assert done.stdout == FILE.read_text(encoding="utf-8"), "run `tidegate manifests crd` into config/crd anew"
    assert yaml.safe_load(done.stdout) == definition()


def test_it_breaks_none_of_the_api_servers_rules() -> None:
    assert list(definition_problems(definition())) == []


@pytest.mark.parametrize("file", sorted(CRDS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_rules_find_nothing_in_definitions_that_clusters_run(file: Path) -> None:
    assert list(definition_problems(yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader))) == []


def spec_at(crd: Json, *path: str) -> Json:
    found = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path:
        found = found["properties"][name]
    return dict(found) if not path else found


@pytest.mark.parametrize(
    ("path", "said", "why"),
    [
        (("spec", "slo"), {"$ref": "#/x"}, "keyword"),
        (("spec", "slo"), {"additionalProperties": False}, "exclude each other"),
        (("spec", "match"), {"additionalProperties": False}, "false is not allowed"),
        (("spec", "priority"), {"exclusiveMinimum": 0}, "a flag"),
        (("spec", "priority"), {"type": ["number", "null"]}, "type"),
        (("spec", "priority"), {"default": None}, "null is no default"),
        (("spec", "priority"), {"default": 1001}, "does not fit"),
        (("status", "conditions"), {"x-kubernetes-list-map-keys": ["absent"]}, "scalar of its items"),
        (("spec", "match"), {"maxProperties": 0}, "needs a bound"),
    ],
)
def test_the_rules_find_what_is_wrong(path: tuple[str, ...], said: Json, why: str) -> None:
    broken = copy.deepcopy(definition())
    node = spec_at(broken, *path)
    if isinstance(said.get("type"), list):
        node["type"] = "null"
    else:
        node.update(said)
    assert any(why in problem for problem in definition_problems(broken))


def test_every_rule_parses_and_every_pattern_is_one_of_gos() -> None:
    re2 = pytest.importorskip("re2", reason="google-re2, the regular expressions of Go, is not installed")
    rules = list(rules_of(SCHEMA))
    assert len(rules) == 1 + 2 + 1 + 3 * 3  # the name; roles; the pool's labels; labels and two rules of each role
    for _, rule in rules:
        program(rule["rule"])
    for pattern in patterns_of(SCHEMA):
        re2.compile(pattern)


def test_every_printed_column_is_a_field_of_the_schema() -> None:
    for column in definition()["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"].partition("[")[0].split(".")[1:]
        if path[0] != "metadata":
            assert spec_at(definition(), *path)


def test_there_is_a_status_and_no_scale() -> None:
    (version,) = definition()["spec"]["versions"]
    assert version["subresources"] == {"status": {}}
    assert set(SCHEMA["properties"]["status"]["properties"]) >= {"conditions", "observedGeneration"}


def test_every_setting_of_a_pool_has_its_place_and_its_default() -> None:
    stored = admitted(pool(), SCHEMA)
    assert PoolSettings(**spec_of(stored)) == PoolSettings.model_validate(
        {"name": "chat", "namespace": "serving", "roles": {"colocated": {"max_replicas": 8}}}
    )
    assert set(SCHEMA["properties"]["spec"]["properties"]) == {
        spelt(name) for name in PoolSettings.model_fields if name not in {"name", "namespace"}
    }
    assert SPELLINGS["ttft_s"] == "ttftSeconds"
    assert stored["spec"]["slo"] == {"ttftSeconds": 0.4, "itlSeconds": 0.1, "attainment": 0.95}


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"roles": {"colocated": {"minReplicas": 9, "maxReplicas": 8}}}, ".minReplicas: minReplicas must not be above"),
        ({"roles": {"colocated": {"maxReplicas": 8}, "decode": {"maxReplicas": 8}}}, "either colocated or has prefill"),
        ({"roles": {}}, "too few"),
        ({"roles": {"colocated": {}}}, "maxReplicas: is required"),
        ({"match": {"__name__": "x"}}, "Prometheus label names"),
        ({"match": {"a-b": "x"}}, "Prometheus label names"),
        ({"match": {f"k{i}": "x" for i in range(17)}}, "more than 16"),
        ({"priority": 0}, "out of range"),
        ({"slo": {"attainment": 1.0}}, "out of range"),
        ({"slo": {"ttftSeconds": "400ms"}}, "must be of type number"),
        ({"mode": "on"}, "none of"),
        ({"profile": ""}, "0 characters"),
        ({"roles": {"colocated": {"maxReplicas": 8, "target": {"name": "A_b"}}}}, "does not match"),
    ],
)
def test_what_the_settings_refuse_is_refused_at_the_door(spec: Json, why: str) -> None:
    found = pool(**spec)
    assert any(why in said for said in refusals(found, SCHEMA)), refusals(found, SCHEMA)
    if len(spec.get("match", {})) <= 16:  # the bound on labels is the custom resource's own
        with pytest.raises(ValidationError):
            PoolSettings.model_validate(spec_of(found))


def test_a_name_too_long_for_a_label_is_refused() -> None:
    assert refusals(pool("a" * 63), SCHEMA) == []
    assert any("at most 63" in said for said in refusals(pool("a" * 64), SCHEMA))


def test_what_replicas_were_counted_of_cannot_be_changed() -> None:
    def of(**role: Any) -> Json:
        return pool(roles={"colocated": {"maxReplicas": 8, **role}})

    aimed = of(target={"name": "chat"})
    assert refusals(aimed, SCHEMA, of()) == []  # naming one later is no change
    assert refusals(of(target={"name": "chat", "kind": "Deployment"}), SCHEMA, aimed) == []  # the default, written out
    for other in (of(), of(target={"name": "other"}), of(target={"name": "chat", "kind": "StatefulSet"})):
        assert any("target cannot be changed" in said for said in refusals(other, SCHEMA, aimed))
    both = pool(roles={"prefill": {"maxReplicas": 4}, "decode": {"maxReplicas": 4}})
    assert any("roles cannot be added" in said for said in refusals(both, SCHEMA, aimed))
    assert refusals(of(target={"name": "chat"}, minReplicas=3), SCHEMA, aimed) == []


def test_null_is_no_value_and_unknown_fields_are_dropped() -> None:
    found = pool(mode=None, modelName=None, surprise=1, roles={"colocated": {"maxReplicas": 8, "target": None}})
    assert refusals(found, SCHEMA) == []
    assert "surprise" not in admitted(found, SCHEMA)["spec"]
    assert PoolSettings.model_validate(spec_of(admitted(found, SCHEMA))).mode is None


WORDS = st.sampled_from(["", "a", "h100-80gb", "llama/x/tp1", "__x", "no space", "ünï", "a" * 300])
NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 0.5, 1, 1.0, 2, 1000, 1001, 86_400, 86_401, 1e6, 2e6]), st.integers(-5, 100_005)
)
TARGETS = st.fixed_dictionaries({"name": WORDS}, optional={"kind": st.sampled_from(["Deployment", "Pod", ""])})
ROLES = st.fixed_dictionaries(
    {"maxReplicas": st.integers(-1, 12)},
    optional={
        "minReplicas": st.integers(-1, 12),
        "match": st.dictionaries(WORDS, WORDS, max_size=2),
        "target": TARGETS,
        "profile": WORDS,
    },
)
SPECS = st.fixed_dictionaries(
    {"roles": st.dictionaries(st.sampled_from(["colocated", "prefill", "decode"]), ROLES, max_size=3)},
    optional={
        "modelName": WORDS,
        "match": st.dictionaries(WORDS, WORDS, max_size=2),
        "profile": WORDS,
        "accelerator": WORDS,
        "slo": st.dictionaries(st.sampled_from(["ttftSeconds", "itlSeconds", "attainment"]), NUMBERS),
        "priority": NUMBERS,
        "linkGbps": NUMBERS,
        "enabled": st.booleans(),
        "mode": st.sampled_from(["off", "shadow", "active", "on"]),
    },
)


@settings(deadline=None)
@given(SPECS)
def test_the_api_server_and_the_settings_agree_on_every_spec(spec: Json) -> None:
    found = pool(**spec)
    refused = refusals(found, SCHEMA)
    try:
        PoolSettings.model_validate(spec_of(found))
        problem = ""
    except ValidationError as error:
        problem = str(error)
    assert bool(refused) == bool(problem), f"only one refuses it: {refused} against {problem!r}"


def test_names_go_there_and_back() -> None:
    said = {"roles": {"prefill": {"max_replicas": 3}}, "slo": {"ttft_s": 1.0}, "link_gbps": 200.0, "unknown": 1}
    wire = {"roles": {"prefill": {"maxReplicas": 3}}, "slo": {"ttftSeconds": 1.0}, "linkGbps": 200.0, "unknown": 1}
    assert plain(wire, PoolSettings) == said
    assert len(set(SPELLINGS.values())) == len(SPELLINGS)


def test_other_models_have_a_structural_form_or_say_why_not() -> None:
    class Inner(BaseModel):
        sort: Literal["a"] = "a"

    class Said(BaseModel):
        share: int | str = 1
        listed: tuple[Inner, ...] = Field((), max_length=3)
        free: dict[str, int] = Field(default_factory=dict)

    class Unsaid(BaseModel):
        either: Inner | int

    made = structural(Said, {})
    assert made["properties"]["share"]["x-kubernetes-int-or-string"] is True
    assert made["properties"]["listed"]["items"]["properties"]["sort"]["enum"] == ["a"]
    assert made["properties"]["free"]["additionalProperties"] == {"type": "integer", "format": "int64"}
    with pytest.raises(ValueError, match=r"Unsaid\.either: .* no union"):
        structural(Unsaid, {})
