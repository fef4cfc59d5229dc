"""The three ways to patch: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge for built-in kinds."""

from __future__ import annotations

import copy
from typing import Any


class BadPatch(Exception):  # noqa: N818 - named as it is said
    """The patch cannot be applied; the server answers 422."""


MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "conditions": "type",
    "ownerReferences": "uid",
    "tolerations": "key",
    "taints": "key",
    "imagePullSecrets": "name",
    "addresses": "type",
}
"""Lists that a strategic merge goes through by key (the patchMergeKey of the built-in types used here)."""


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    made = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merge(made.get(name), value)
    return made


def strategic(target: Any, patch: Any, name: str = "") -> Any:
    """As merge, but lists with a merge key are merged by it and `$patch: delete` removes an entry."""
    if isinstance(patch, list):
        return _strategic_list(target or [], patch, name)
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {k: v for k, v in patch.items() if k != "$patch"}
    made_object = dict(target) if isinstance(target, dict) else {}
    for field, value in patch.items():
        if value is None:
            made_object.pop(field, None)
        elif not field.startswith("$"):
            made_object[field] = strategic(made_object.get(field), value, field)
    return made_object


def _strategic_list(target: list[Any], patch: list[Any], name: str) -> list[Any]:
    if name == "finalizers":
        return list(dict.fromkeys([*target, *patch]))
    key = MERGE_KEYS.get(name)
    if key is None or not all(isinstance(item, dict) for item in patch):
        return copy.deepcopy(patch)
    made = {item.get(key): item for item in target}
    for item in patch:
        if item.get("$patch") == "delete":
            made.pop(item.get(key), None)
        else:
            made[item.get(key)] = strategic(made.get(item.get(key)), item)
    return list(made.values())


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Raises BadPatch, for a failed `test` as well."""
    if not isinstance(operations, list):
        raise BadPatch("a JSON patch is a list of operations")
    made = copy.deepcopy(target)
    for operation in operations:
        made = _one(made, operation)
    return made


def _one(document: Any, operation: dict[str, Any]) -> Any:
    kind, parts = operation.get("op"), _parts(operation.get("path", ""))
    if kind in {"move", "copy"}:
        source = _parts(operation["from"])
        value = copy.deepcopy(_get(document, source))
        if kind == "move":
            document = _set(document, source, None, "remove")
        return _set(document, parts, value, "add")
    if kind == "test":
        if _get(document, parts) != operation.get("value"):
            raise BadPatch(f"testing value {operation['path']} failed")
        return document
    if kind not in {"add", "replace", "remove"}:
        raise BadPatch(f"unknown operation {kind!r}")
    return _set(document, parts, copy.deepcopy(operation.get("value")), kind)


def _parts(path: str) -> list[str]:
    if path and not path.startswith("/"):
        raise BadPatch(f"path {path!r} must start with /")
    return [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]


def _get(document: Any, parts: list[str]) -> Any:
    for part in parts:
        try:
            document = document[int(part)] if isinstance(document, list) else document[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise BadPatch(f"there is no /{'/'.join(parts)}") from None
    return document


def _set(document: Any, parts: list[str], value: Any, kind: str) -> Any:
    if not parts:
        return value
    parent, last = _get(document, parts[:-1]), parts[-1]
    if isinstance(parent, list):
        index = len(parent) if last == "-" else int(last)
        if kind == "add":
            parent.insert(index, value)
        elif kind == "replace":
            parent[index] = value
        else:
            del parent[index]
    elif kind == "add" or last in parent:
        if kind == "remove":
            del parent[last]
        else:
            parent[last] = value
    else:
        raise BadPatch(f"there is no /{'/'.join(parts)}")
    return document
