"""Label and field selectors, as list and watch take them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from kube_kinds import Json

FIELDS = {
    "pods": frozenset({"metadata.name", "metadata.namespace", "spec.nodeName", "status.phase", "spec.schedulerName"}),
    "events": frozenset({"metadata.name", "metadata.namespace", "reason", "type"}),
    "nodes": frozenset({"metadata.name", "spec.unschedulable"}),
    "jobs": frozenset({"metadata.name", "metadata.namespace", "status.successful"}),
}
"""Selectable fields; all others answer 400, as the real server does."""
_SET = re.compile(r"\s*([A-Za-z0-9._/-]+)\s+(in|notin)\s+\(([^)]*)\)\s*")
_EQUAL = re.compile(r"\s*([A-Za-z0-9._/-]+)\s*(==|!=|=)\s*([A-Za-z0-9._-]*)\s*")
_EXISTS = re.compile(r"\s*(!?)\s*([A-Za-z0-9._/-]+)\s*")


class BadSelector(Exception):  # noqa: N818 - named as it is said
    """The selector cannot be read; the server answers 400."""


def label_test(text: str) -> Callable[[dict[str, str]], bool]:
    """Whether labels fit the selector. Raises BadSelector."""
    tests = [_requirement(part) for part in re.split(r",(?![^(]*\))", text)] if text.strip() else []
    return lambda labels: all(test(labels) for test in tests)


def _requirement(part: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.fullmatch(part):
        name, values = found[1], {value.strip() for value in found[3].split(",")}
        if found[2] == "in":
            return lambda labels: labels.get(name) in values
        return lambda labels: labels.get(name) not in values
    if found := _EQUAL.fullmatch(part):
        name, wanted = found[1], found[3]
        if found[2] == "!=":
            return lambda labels: labels.get(name) != wanted
        return lambda labels: labels.get(name) == wanted
    if found := _EXISTS.fullmatch(part):
        name, absent = found[2], bool(found[1])
        return lambda labels: (name in labels) != absent
    raise BadSelector(f"unable to parse requirement: {part!r}")


def object_test(selector: Json) -> Callable[[dict[str, str]], bool]:
    """Whether labels fit a LabelSelector object (matchLabels and matchExpressions)."""
    wanted = selector.get("matchLabels") or {}
    parts = [f"{name}={value}" for name, value in wanted.items()]
    for expression in selector.get("matchExpressions") or []:
        name, operator = expression["key"], expression["operator"]
        values = ",".join(expression.get("values") or [])
        said = {"In": f"{name} in ({values})", "NotIn": f"{name} notin ({values})", "Exists": name}
        parts.append(said.get(operator, f"!{name}"))
    return label_test(",".join(parts))


def selector_text(selector: Json) -> str:
    """A LabelSelector's matchLabels in the /scale subresource's form."""
    return ",".join(f"{name}={value}" for name, value in sorted((selector.get("matchLabels") or {}).items()))


def field_test(text: str, plural: str) -> Callable[[Json], bool]:
    """Whether an object fits the field selector. Raises BadSelector for a field that is not selectable."""
    tests: list[tuple[list[str], str, bool]] = []
    for part in text.split(",") if text else []:
        name, operator, value = re.split(r"(!=|==|=)", part, maxsplit=1) if "=" in part else (part, "", "")
        if not operator or name not in FIELDS.get(plural, {"metadata.name", "metadata.namespace"}):
            raise BadSelector(f"field label not supported: {name}")
        tests.append((name.split("."), value, operator == "!="))
    return lambda found: all((_said(found, path) == value) != differs for path, value, differs in tests)


def _said(found: Any, path: list[str]) -> str:
    for part in path:
        found = found.get(part) if isinstance(found, dict) else None
    return "" if found is None else ("true" if found is True else "false" if found is False else str(found))
