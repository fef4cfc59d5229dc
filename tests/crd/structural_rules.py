"""What apiextensions.k8s.io/v1 refuses in a CustomResourceDefinition, as far as it can be told without a server.

After k8s.io/apiextensions-apiserver: apis/apiextensions/validation and apiserver/schema (structural.go, defaulting).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kube_schema import problems as value_problems
from kube_schema import with_defaults

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]
TYPES = {"object", "array", "string", "integer", "number", "boolean"}
VALUE_KEYWORDS = {
    "format", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern",
    "maxItems", "minItems", "uniqueItems", "multipleOf", "enum", "maxProperties", "minProperties", "required",
    "allOf", "anyOf", "oneOf", "not", "properties", "items",
}  # fmt: skip
STRUCTURAL_KEYWORDS = {
    "type", "title", "description", "default", "nullable", "additionalProperties", "externalDocs", "example",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
}  # fmt: skip
RULE_KEYWORDS = {"rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf"}
COLUMN_TYPES = {"integer", "number", "string", "boolean", "date"}
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def definition_problems(crd: Json) -> Iterator[str]:
    """Everything wrong with a CustomResourceDefinition."""
    spec = crd["spec"]
    names = spec["names"]
    if crd["apiVersion"] != "apiextensions.k8s.io/v1" or crd["kind"] != "CustomResourceDefinition":
        yield "apiVersion, kind: not a v1 CustomResourceDefinition"
    if crd["metadata"]["name"] != f"{names['plural']}.{spec['group']}":
        yield "metadata.name: must be plural.group"
    if not SUBDOMAIN.fullmatch(spec["group"]) or "." not in spec["group"]:
        yield f"spec.group: {spec['group']!r} is no domain"
    for each in (
        names["plural"],
        names.get("singular", "x"),
        *names.get("shortNames", ()),
        *names.get("categories", ()),
    ):
        if not LABEL.fullmatch(each):
            yield f"spec.names: {each!r} is no lower-case label"
    if spec["scope"] not in {"Namespaced", "Cluster"}:
        yield "spec.scope: Namespaced or Cluster"
    if sum(version["storage"] for version in spec["versions"]) != 1:
        yield "spec.versions: exactly one is stored"
    for version in spec["versions"]:
        yield from _version(version)


def _version(version: Json) -> Iterator[str]:
    schema = version["schema"]["openAPIV3Schema"]
    if schema.get("type") != "object":
        yield "openAPIV3Schema.type: must be object at the root"
    if set(version.get("subresources", {})) - {"status", "scale"}:
        yield "subresources: status and scale only"
    if version.get("subresources", {}).get("status", None) not in ({}, None):
        yield "subresources.status: must be empty"
    seen = set()
    for column in version.get("additionalPrinterColumns", ()):
        if column["name"] in seen or not column["name"]:
            yield f"additionalPrinterColumns: {column['name']!r} twice, or empty"
        seen.add(column["name"])
        if column["type"] not in COLUMN_TYPES:
            yield f"additionalPrinterColumns.{column['name']}: type {column['type']!r}"
        if not column["jsonPath"].startswith("."):
            yield f"additionalPrinterColumns.{column['name']}: jsonPath must begin with '.'"
    yield from node_problems(schema, "openAPIV3Schema", root=True)


def node_problems(said: Json, path: str, *, root: bool = False) -> Iterator[str]:  # noqa: C901, PLR0912 - a list of rules, one by one
    """What is wrong with one node of a structural schema and below it."""
    for word in set(said) - VALUE_KEYWORDS - STRUCTURAL_KEYWORDS:
        yield f"{path}: the keyword {word} is not allowed"
    kind = said.get("type")
    free = said.get("x-kubernetes-int-or-string") or said.get("x-kubernetes-preserve-unknown-fields")
    if said.get("x-kubernetes-int-or-string"):
        if kind:
            yield f"{path}: int-or-string has no type"
    elif kind not in TYPES and not free:
        yield f"{path}: type {kind!r}"
    if said.get("properties") and "additionalProperties" in said:
        yield f"{path}: properties and additionalProperties exclude each other"
    if said.get("additionalProperties") is False:
        yield f"{path}: additionalProperties: false is not allowed"
    if said.get("uniqueItems"):
        yield f"{path}: uniqueItems must not be true"
    if kind == "array" and not isinstance(said.get("items"), dict):
        yield f"{path}: an array has one schema for its items"
    if root and set(said.get("properties", {}).get("metadata", {}).get("properties", {})) - {"name", "generateName"}:
        yield f"{path}.metadata: only name and generateName can be restricted"
    for bound in ("Minimum", "Maximum"):
        if not isinstance(said.get(f"exclusive{bound}", False), bool):
            yield f"{path}: exclusive{bound} is a flag in OpenAPI v3"
    for name in said.get("required", ()):
        if not root and said.get("properties") and name not in said["properties"]:
            yield f"{path}: requires {name}, which it does not have"
    yield from _list_problems(said, path)
    yield from _default_problems(said, path)
    yield from _rule_problems(said, path)
    for union in ("allOf", "anyOf", "oneOf"):
        for index, below in enumerate(said.get(union, ())):
            yield from _value_problems(below, f"{path}.{union}[{index}]", int_or_string=bool(free))
    for name, below in said.get("properties", {}).items():
        yield from node_problems(below, f"{path}.{name}")
    if isinstance(said.get("items"), dict):
        yield from node_problems(said["items"], f"{path}[]")
    if isinstance(said.get("additionalProperties"), dict):
        yield from node_problems(said["additionalProperties"], f"{path}{{}}")


def _value_problems(said: Json, path: str, *, int_or_string: bool) -> Iterator[str]:
    """Inside allOf, anyOf, oneOf and not there are validations alone."""
    allowed = VALUE_KEYWORDS | ({"type"} if int_or_string else set())
    for word in set(said) - allowed:
        yield f"{path}: {word} must not stand in a union"
    for name, below in said.get("properties", {}).items():
        yield from _value_problems(below, f"{path}.{name}", int_or_string=False)


def _list_problems(said: Json, path: str) -> Iterator[str]:
    sort = said.get("x-kubernetes-list-type")
    if sort is not None and (said.get("type") != "array" or sort not in {"atomic", "set", "map"}):
        yield f"{path}: x-kubernetes-list-type {sort!r}"
    if sort != "map":
        return
    item = said["items"]
    for key in said.get("x-kubernetes-list-map-keys") or ("",):
        below = item.get("properties", {}).get(key)
        if below is None or below.get("type") not in {"string", "integer", "number", "boolean"}:
            yield f"{path}: the key {key!r} must be a scalar of its items"
        elif key not in item.get("required", ()) and "default" not in below:
            yield f"{path}: the key {key!r} must be required, or have a default"


def _default_problems(said: Json, path: str) -> Iterator[str]:
    if "default" not in said:
        return
    if said["default"] is None and not said.get("nullable"):
        yield f"{path}: null is no default of what is not nullable"
        return
    for problem in value_problems(with_defaults(said["default"], said), said, "default", root=False):
        yield f"{path}: its default does not fit: {problem}"


def _rule_problems(said: Json, path: str) -> Iterator[str]:
    for rule in said.get("x-kubernetes-validations", ()):
        if set(rule) - RULE_KEYWORDS or not rule.get("rule", "").strip():
            yield f"{path}: a rule has {sorted(rule)}"
        if "\n" in rule.get("message", "") or ("\n" in rule["rule"] and not rule.get("message")):
            yield f"{path}: a message is one line, and a rule of several lines needs one"
        field = rule.get("fieldPath", "").removeprefix(".")
        if field and field not in said.get("properties", {}):
            yield f"{path}: fieldPath names {field!r}, which is not there"
        if rule["rule"].startswith("self.all(") and not said.get("maxProperties") and not said.get("maxItems"):
            yield f"{path}: a rule over all entries needs a bound on their number, or its cost has none"


def rules_of(said: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Every CEL rule with the path of its node; `*` stands for any key or item."""
    for rule in said.get("x-kubernetes-validations", ()):
        yield path, rule
    for name, below in said.get("properties", {}).items():
        yield from rules_of(below, (*path, name))
    for word in ("items", "additionalProperties"):
        if isinstance(said.get(word), dict):
            yield from rules_of(said[word], (*path, "*"))


def patterns_of(said: Json) -> Iterator[str]:
    """Every regular expression of a schema."""
    if "pattern" in said:
        yield said["pattern"]
    for below in said.get("properties", {}).values():
        yield from patterns_of(below)
    for word in ("items", "additionalProperties"):
        if isinstance(said.get(word), dict):
            yield from patterns_of(said[word])
