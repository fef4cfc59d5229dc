"""A custom resource as the API server admits it: nulls dropped, unknown fields pruned, defaults set, schema and CEL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import celpy
from kube_schema import problems as schema_problems
from kube_schema import with_defaults

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]
_ENVIRONMENT = celpy.Environment()
_PROGRAMS: dict[str, Any] = {}


def program(rule: str) -> Any:
    """The rule, parsed. Raises celpy.CELParseError."""
    if rule not in _PROGRAMS:
        _PROGRAMS[rule] = _ENVIRONMENT.program(_ENVIRONMENT.compile(rule), functions={"find": _find})
    return _PROGRAMS[rule]


def _find(text: Any, pattern: Any) -> Any:
    """Kubernetes' own addition to CEL: the first match, "" where there is none."""
    found = re.search(str(pattern), str(text))
    return celpy.celtypes.StringType(found[0] if found else "")


def admitted(found: Json, schema: Json) -> Json:
    """The object as it is stored."""
    return dict(with_defaults(_pruned(found, schema, root=True), schema))


def _pruned(value: Any, said: Json, *, root: bool = False) -> Any:
    if isinstance(value, dict):
        known, extra = said.get("properties", {}), said.get("additionalProperties")
        if not known and not isinstance(extra, dict):
            return value
        kept = {}
        for key, below in value.items():
            inner = known.get(key, extra if isinstance(extra, dict) else None)
            if below is None and not (inner or {}).get("nullable"):
                continue
            if inner is not None:
                kept[key] = _pruned(below, inner)
            elif root and key in {"apiVersion", "kind", "metadata"}:
                kept[key] = below
        return kept
    if isinstance(value, list) and "items" in said:
        return [_pruned(item, said["items"]) for item in value]
    return value


def refusals(found: Json, schema: Json, before: Json | None = None) -> list[str]:
    """Why the API server refuses it; empty when it does not. `before`: what it replaces."""
    made = admitted(found, schema)
    old = admitted(before, schema) if before is not None else None
    said = list(schema_problems(made, schema)) + list(_exclusive(made, schema, ""))
    return said or list(_broken(made, old, schema, ""))


def broken(made: Json, schema: Json, before: Json | None) -> list[str]:
    """The rules that an object which fits its schema breaks; for `Store.rules`."""
    return list(_broken(made, before, schema, ""))


def _exclusive(value: Any, said: Json, path: str) -> Iterator[str]:
    """Bounds that are not allowed themselves, and too few or too many properties."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    low, high = said.get("exclusiveMinimum"), said.get("exclusiveMaximum")
    if number and ((low and value <= said["minimum"]) or (high and value >= said["maximum"])):
        yield f"{path}: {value} is out of range"
    if isinstance(value, dict):
        if len(value) < said.get("minProperties", 0):
            yield f"{path}: too few properties"
        for key, below in value.items():
            inner = said.get("properties", {}).get(key, said.get("additionalProperties"))
            if isinstance(inner, dict):
                yield from _exclusive(below, inner, f"{path}.{key}")


def _broken(value: Any, old: Any, said: Json, path: str) -> Iterator[str]:
    for rule in said.get("x-kubernetes-validations", ()):
        transition = "oldSelf" in rule["rule"]
        if transition and old is None:
            continue
        known = {"self": celpy.json_to_cel(value)}
        if transition:
            known["oldSelf"] = celpy.json_to_cel(old)
        if not program(rule["rule"]).evaluate(known):
            yield f"{path}{rule.get('fieldPath', '')}: {rule['message']}"
    if isinstance(value, dict):
        for key, below in value.items():
            inner = said.get("properties", {}).get(key, said.get("additionalProperties"))
            if isinstance(inner, dict):
                was = old.get(key) if isinstance(old, dict) else None
                yield from _broken(below, was, inner, f"{path}.{key}")
    if isinstance(value, list) and isinstance(said.get("items"), dict):
        for number, below in enumerate(value):  # what an item was before is not looked for
            yield from _broken(below, None, said["items"], f"{path}[{number}]")
