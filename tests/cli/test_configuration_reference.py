"""The reference, the schema and the examples say what the program does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from autoscaler import build
from autoscaler.cli import app
from autoscaler.configuration import load, load_settings
from autoscaler.reference import json_schema, markdown

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
    "object": (dict,), "null": (type(None),),
}  # fmt: skip
KNOWN = {
    "$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "default", "description", "enum",
    "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maximum", "minItems",
    "minLength", "minProperties", "minimum", "pattern", "patternProperties", "properties", "propertyNames", "required",
    "title", "type", "unit", "writeOnly",
}  # fmt: skip
"""Keywords of Draft 2020-12 that appear, plus our own `unit` (unknown keywords are annotations)."""


def violations(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "$") -> list[str]:
    """What a Draft 2020-12 validator would object to, for the keywords in KNOWN."""
    found: list[str] = []
    if "$ref" in schema:
        found += violations(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    if "anyOf" in schema and all(violations(value, choice, root, path) for choice in schema["anyOf"]):
        found.append(f"{path}: none of anyOf")
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        return [*found, f"{path}: {value!r} is no {kind}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        found.append(f"{path}: {value!r} not in enum")
    return found + _inside(value, schema, root, path)


def _inside(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str) -> list[str]:
    found: list[str] = []
    if isinstance(value, str):
        found += _text(value, schema, path)
    if isinstance(value, int | float) and not isinstance(value, bool):
        found += _number(value, schema, path)
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            found.append(f"{path}: too few")
        for index, item in enumerate(value):
            found += violations(item, schema.get("items", {}), root, f"{path}[{index}]")
    if isinstance(value, dict):
        found += _object(value, schema, root, path)
    return found


def _text(value: str, schema: dict[str, Any], path: str) -> list[str]:
    fits = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
    fits = fits and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
    return [] if fits else [f"{path}: {value!r} breaks length or pattern"]


def _number(value: float, schema: dict[str, Any], path: str) -> list[str]:
    fits = schema.get("minimum", value) <= value <= schema.get("maximum", value)
    fits = fits and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
    fits = fits and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
    return [] if fits else [f"{path}: {value} is out of bounds"]


def _object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], path: str) -> list[str]:
    found = [f"{path}: lacks {name}" for name in schema.get("required", ()) if name not in value]
    if len(value) < schema.get("minProperties", 0):
        found.append(f"{path}: too few keys")
    for name, inner in value.items():
        below = f"{path}.{name}"
        rules = [schema["properties"][name]] if name in schema.get("properties", {}) else []
        rules += [rule for pattern, rule in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
        if not rules:
            rest = schema.get("additionalProperties", True)
            if rest is False:
                found.append(f"{below}: unknown key")
            rules = [rest] if isinstance(rest, dict) else []
        for rule in rules:
            found += violations(inner, rule, root, below)
        if "propertyNames" in schema:
            found += violations(name, schema["propertyNames"], root, below)
    return found


def _subschemas(schema: Any) -> list[dict[str, Any]]:
    if not isinstance(schema, dict):
        return []
    found = [schema]
    for name, inner in schema.items():
        if name in {"properties", "patternProperties", "$defs"}:
            found += [below for part in inner.values() for below in _subschemas(part)]
        elif name in {"items", "additionalProperties", "propertyNames"}:
            found += _subschemas(inner)
        elif name == "anyOf":
            found += [below for part in inner for below in _subschemas(part)]
    return found


def test_the_committed_reference_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert committed == markdown(), "run: tidegate config --reference > docs/configuration.md"


def test_every_key_and_variable_of_the_reference_exists() -> None:
    variables = re.findall(r"`(TIDEGATE_[A-Z_]+)`( \(JSON\))?", markdown())
    assert len(variables) > 60
    names = {name.lower() for name, _ in variables}
    assert {"tidegate_source__prometheus__url", "tidegate_serving__tls__names", "tidegate_pools"} <= names
    assert "| `window_s` | number, > 0, ≤ 86400 | `60` | s | Window of all rates" in markdown()
    assert all(
        cells.count("|") in {6, 7} for cells in re.findall(r"^\|.*\|$", markdown().replace("\\|", ""), re.MULTILINE)
    )
    assert not re.search(r"\|\s*\| `TIDEGATE", markdown()), "a key without a meaning"


def test_the_printed_reference_and_schema_are_the_same() -> None:
    done = CliRunner().invoke(app, ["config", "--reference"])
    assert (done.exit_code, done.stdout) == (0, markdown())
    done = CliRunner().invoke(app, ["config", "--schema"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, json_schema())
    assert "--reference" not in CliRunner().invoke(app, ["config", "--help"]).stdout


def test_the_schema_is_draft_2020_12() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    every = _subschemas(schema)
    assert len(every) > 150
    for part in every:
        assert part.keys() <= KNOWN, part.keys() - KNOWN
        assert part.get("type", "object") in TYPES
        assert "$ref" not in part or part["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        re.compile(part.get("pattern", ""))
        for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            assert isinstance(part.get(name, 0), int | float), "Draft 4 had booleans here"


def test_there_are_four_examples() -> None:
    assert [file.name for file in EXAMPLES] == [
        "direct-scrape.yaml", "minimal.yaml", "prefill-decode.yaml", "several-pools.yaml"
    ]  # fmt: skip


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_loads_and_fits_the_schema(file: Path, tmp_path: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert violations(yaml.safe_load(text), json_schema(), json_schema()) == []
    # Files of the cluster it is written for are not here.
    here = re.sub(r"\n *(bearer_token_file|ca_file):.*", "", text)
    token = tmp_path / "password"
    token.write_text("x\n", encoding="utf-8")
    here = re.sub(r"password_file: \S+", f"password_file: {token}", here)
    (tmp_path / file.name).write_text(here, encoding="utf-8")
    settings = load_settings(tmp_path / file.name, {})
    assert len(build.parts(settings).groups) == sum(len(pool.roles) for pool in settings.pools if pool.enabled)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_what_config_prints_loads_again_and_fits_the_schema(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["config", "--config", str(file)])
    assert violations(yaml.safe_load(done.stdout), json_schema(), json_schema()) == []
    (tmp_path / "effective.yaml").write_text(done.stdout, encoding="utf-8")
    assert load(tmp_path / "effective.yaml", {}).settings == load(file, {}).settings


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ("pools: [{name: A, roles: {colocated: {max_replicas: 1}}}]", "$.pools[0].name: 'A' breaks length or pattern"),
        ("pools: [{name: a, roles: {x: {max_replicas: 1}}}]", "$.pools[0].roles.x: 'x' not in enum"),
        ("pools: [{name: a, roles: {colocated: {}}}]", "$.pools[0].roles.colocated: lacks max_replicas"),
        ("{pools: [{name: a, roles: {colocated: {max_replicas: 1}}}], x: 1}", "$.x: unknown key"),
        ("{pools: [{name: a, roles: {colocated: {max_replicas: 1}}}], loop: {interval_s: 0}}", "out of bounds"),
    ],
)
def test_the_schema_refuses_what_the_program_refuses(text: str, violation: str) -> None:
    found = violations(yaml.safe_load(text), json_schema(), json_schema())
    assert any(violation in one for one in found), found
