"""From a pydantic model to the structural OpenAPI schema that the Kubernetes API server takes for a custom resource.

What changes on the way (apiextensions.k8s.io/v1): references are written out; `null` is left out, as the server drops
it where a field is not nullable; exclusive bounds are flags; unknown fields need no word, for the server prunes them;
maps whose keys are an enumeration become objects with those properties; patterns of keys become CEL rules; an integer
that may be a string is `x-kubernetes-int-or-string`. Names are camelCase, with `Seconds` for `_s`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from autoscaler.environment import inner_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic import BaseModel

Schema = dict[str, Any]
MOST_KEYS = 16
"""Keys of a map with free keys. The server reckons a rule's cost from this bound, and refuses rules without one."""
LONGEST_VALUE = 1024
"""Characters of a value in such a map."""
_PLAIN = ("format", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "enum", "type")
_REF = "#/$defs/"


def spelt(name: str) -> str:
    """A setting's name as a custom resource has it: `max_replicas` is `maxReplicas`, `ttft_s` is `ttftSeconds`."""
    *head, last = name.split("_")
    first, *rest = [*head, "seconds" if last == "s" and head else last]
    return first + "".join(part.capitalize() for part in rest)


def plain(value: Any, model: type[BaseModel]) -> Any:
    """A custom resource's spec with the names that the settings have; unknown keys stay as they are."""
    if not isinstance(value, dict):
        return value
    names = {spelt(name): name for name in model.model_fields}
    made: dict[str, Any] = {}
    for key, below in value.items():
        name = names.get(str(key), str(key))
        field = model.model_fields.get(name) if key in names else None
        inner = inner_model(field.annotation) if field is not None else None
        if below is None and field is not None:
            continue  # as the API server has it: null is no value
        if inner is None or field is None:
            made[name] = below
        elif _mapped(field.annotation) and isinstance(below, dict):
            made[name] = {role: plain(each, inner) for role, each in below.items() if each is not None}
        else:
            made[name] = plain(below, inner)
    return made


def names_of(model: type[BaseModel]) -> dict[str, str]:
    """Every setting's name in the model and below it, to its spelling in a custom resource."""
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        found[name] = spelt(name)
        inner = inner_model(field.annotation)
        if inner is not None:
            found |= names_of(inner)
    return found


def _mapped(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def structural(
    model: type[BaseModel],
    rules: Mapping[str, Sequence[Mapping[str, str]]],
    without: Sequence[str] = (),
) -> Schema:
    """The model's structural schema.

    Args:
        model: of the settings.
        rules: CEL rules by the name of the class, or `Class.field` for a field's own.
        without: top-level fields that are said elsewhere, such as the name.

    Raises:
        ValueError: the model has something that a structural schema cannot say.
    """
    whole = model.model_json_schema()
    properties = {name: below for name, below in whole["properties"].items() if name not in without}
    required = [name for name in whole.get("required", ()) if name not in without]
    writer = _Writer(whole.get("$defs", {}), rules)
    return writer.object({**whole, "properties": properties, "required": required}, model.__name__)


class _Writer:
    """Writes out one model's schema, reference by reference."""

    def __init__(self, definitions: Mapping[str, Schema], rules: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
        self._definitions, self._rules = definitions, rules

    def object(self, said: Schema, name: str) -> Schema:
        """A class with its fields."""
        made: Schema = {"type": "object"}
        if said.get("description"):
            made["description"] = said["description"]
        made["properties"] = {
            spelt(each): self.value(below, f"{name}.{each}") for each, below in said["properties"].items()
        }
        if said.get("required"):
            made["required"] = [spelt(each) for each in said["required"]]
        return self._with_rules(made, name)

    def value(self, said: Schema, name: str) -> Schema:
        """One field's schema."""
        said = _unwrapped(said, name)
        reference = said.get("$ref")
        if reference is not None:
            of = reference.removeprefix(_REF)
            target = self._definitions[of]
            made = self.object(target, of) if "properties" in target else self.value(target, name)
        elif "anyOf" in said:
            made = _int_or_string(said["anyOf"], name)
        elif said.get("type") == "object":
            made = self._map(said, name)
        elif said.get("type") == "array":
            made = {"type": "array", "items": self.value(said["items"], f"{name}[]")}
        else:
            made = _scalar(said, name)
        made |= {key: said[key] for key in ("minItems", "maxItems") if key in said}
        if said.get("description"):
            made["description"] = _described(said)
        if "default" in said and said["default"] is not None:
            made["default"] = {} if isinstance(said["default"], dict) else said["default"]
        return self._with_rules(made, name)

    def _map(self, said: Schema, name: str) -> Schema:
        keys = said.get("propertyNames", {})
        if "$ref" in keys:
            keys = self._definitions[keys["$ref"].removeprefix(_REF)]
        if "enum" in keys:
            each = self.value(said["additionalProperties"], f"{name}{{}}")
            made: Schema = {"type": "object", "properties": {str(key): deepcopy(each) for key in sorted(keys["enum"])}}
            return made | ({"minProperties": said["minProperties"]} if "minProperties" in said else {})
        patterns = said.get("patternProperties", {})
        if len(patterns) > 1 or (not patterns and "additionalProperties" not in said):
            raise ValueError(f"{name}: a structural schema cannot say {sorted(said)}")
        pattern, below = next(iter(patterns.items())) if patterns else ("", said["additionalProperties"])
        value = self.value(below, f"{name}{{}}")
        if value["type"] == "string":
            value.setdefault("maxLength", LONGEST_VALUE)
        made = {"type": "object", "additionalProperties": value, "maxProperties": MOST_KEYS}
        if pattern:
            rule = f"self.all(key, key.matches('{pattern}') && !key.startsWith('__'))"
            message = "keys are Prometheus label names: letters, digits and '_', no digit first, no '__' first"
            made["x-kubernetes-validations"] = [{"rule": rule, "message": message}]
        return made

    def _with_rules(self, made: Schema, name: str) -> Schema:
        if name in self._rules:
            made["x-kubernetes-validations"] = [
                *made.get("x-kubernetes-validations", ()),
                *(dict(rule) for rule in self._rules[name]),
            ]
        return made


def _unwrapped(said: Schema, name: str) -> Schema:
    """Without the null of an optional field, and without a union of one."""
    for union in ("anyOf", "oneOf", "allOf"):
        kinds = [one for one in said.get(union, ()) if one.get("type") != "null"]
        if len(kinds) == 1:
            rest = {key: below for key, below in said.items() if key != union}
            return _unwrapped({**kinds[0], **rest}, name)
    return said


def _int_or_string(kinds: Sequence[Schema], name: str) -> Schema:
    """What may be a number or a text, such as a quantity. Any other union has no structural form."""
    if {one.get("type") for one in kinds if one.get("type") != "null"} != {"integer", "string"}:
        raise ValueError(f"{name}: a structural schema has no union but that of integer and string")
    text = next(one for one in kinds if one.get("type") == "string")
    bounds: Schema = {key: text[key] for key in ("pattern", "maxLength") if key in text}
    return {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}], **bounds}


def _scalar(said: Schema, name: str) -> Schema:
    made = {key: said[key] for key in _PLAIN if key in said}
    if "const" in said:
        made["enum"] = [said["const"]]
    if made.get("type") not in {"string", "integer", "number", "boolean"}:
        raise ValueError(f"{name}: a structural schema cannot say {sorted(said)}")
    for bound in ("Minimum", "Maximum"):
        if f"exclusive{bound}" in said:
            made[bound.lower()] = said[f"exclusive{bound}"]
            made[f"exclusive{bound}"] = True
    if made["type"] == "integer":
        made["format"] = "int32" if made.get("maximum", 2**63) < 2**31 else "int64"
    return made


def _described(said: Schema) -> str:
    unit = said.get("unit")
    return f"{said['description']} [{unit}]" if unit else str(said["description"])
