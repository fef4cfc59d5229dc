"""What a structural schema does to an object: defaults, unknown fields refused, types and bounds checked.

Of the CEL rules only `self == oldSelf` (immutability) is enforced; the others are not evaluated.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_kinds import Json

_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_META = frozenset({"apiVersion", "kind", "metadata"})


def with_defaults(value: Any, schema: Json) -> Any:
    """A copy with absent fields set to their defaults, as deep as there are objects."""
    if isinstance(value, dict):
        made = dict(value)
        for name, below in schema.get("properties", {}).items():
            if name not in made and "default" in below:
                made[name] = below["default"]
            if name in made:
                made[name] = with_defaults(made[name], below)
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            made = {k: with_defaults(v, extra) if k not in schema.get("properties", {}) else v for k, v in made.items()}
        return made
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(item, schema["items"]) for item in value]
    return value


def problems(value: Any, schema: Json, path: str = "", *, root: bool = True) -> Iterator[str]:
    """Everything the schema does not allow, as `path: what`."""
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield f"{path}: must be an integer or a string, not {value!r}"
        elif isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: {value!r} does not match {schema['pattern']}"
        return
    if value is None and schema.get("nullable"):
        return
    wanted = schema.get("type")
    if wanted and (not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean")):
        yield f"{path}: must be of type {wanted}, not {value!r}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if isinstance(value, dict):
        yield from _object(value, schema, path, root=root)
    elif isinstance(value, list):
        yield from _list(value, schema, path)
    else:
        yield from _scalar(value, schema, path)


def _object(value: Json, schema: Json, path: str, *, root: bool) -> Iterator[str]:
    known = schema.get("properties", {})
    extra = schema.get("additionalProperties")
    embedded = root or schema.get("x-kubernetes-embedded-resource")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}: is required"
    for name, below in value.items():
        if embedded and name in _META:
            continue
        if name in known:
            yield from problems(below, known[name], f"{path}.{name}", root=False)
        elif isinstance(extra, dict):
            yield from problems(below, extra, f"{path}.{name}", root=False)
        elif not schema.get("x-kubernetes-preserve-unknown-fields") and extra is not True and (known or root):
            yield f"{path}.{name}: unknown field"
    if len(value) > schema.get("maxProperties", len(value)):
        yield f"{path}: has more than {schema['maxProperties']} entries"


def _list(value: list[Any], schema: Json, path: str) -> Iterator[str]:
    if len(value) > schema.get("maxItems", len(value)) or len(value) < schema.get("minItems", 0):
        yield f"{path}: has {len(value)} items"
    if schema.get("x-kubernetes-list-type") == "map":
        keys = [tuple(item.get(name) for name in schema["x-kubernetes-list-map-keys"]) for item in value]
        if len(set(keys)) != len(keys):
            yield f"{path}: duplicate entries"
    for index, item in enumerate(value):
        yield from problems(item, schema.get("items", {}), f"{path}[{index}]", root=False)


def _scalar(value: Any, schema: Json, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) > schema.get("maxLength", len(value)) or len(value) < schema.get("minLength", 0):
            yield f"{path}: {value!r} has {len(value)} characters"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: {value!r} does not match {schema['pattern']}"
        if schema.get("format") == "date-time" and not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", value):
            yield f"{path}: {value!r} is no RFC 3339 time"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum"), schema.get("maximum")
        if (low is not None and value < low) or (high is not None and value > high):
            yield f"{path}: {value} is out of range"
        if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
            yield f"{path}: {value} is no int32"


def is_quantity(text: Any) -> bool:
    """Whether it is a resource quantity."""
    return isinstance(text, int) or (isinstance(text, str) and _QUANTITY.fullmatch(text) is not None)


def immutable_problems(value: Any, before: Any, schema: Json, path: str = "") -> Iterator[str]:
    """Fields the schema declares immutable (`self == oldSelf`) that differ from before."""
    rules = schema.get("x-kubernetes-validations", ())
    if before is not None and value != before and any(rule["rule"].strip() == "self == oldSelf" for rule in rules):
        yield f"{path}: is immutable"
    if isinstance(value, dict) and isinstance(before, dict):
        for name, below in schema.get("properties", {}).items():
            if name in value and name in before:
                yield from immutable_problems(value[name], before[name], below, f"{path}.{name}")
