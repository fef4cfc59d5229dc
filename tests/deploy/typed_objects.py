"""Checks objects strictly and offline: against the Kubernetes client's typed models, generated from its OpenAPI."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

from kubernetes import client

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]
FOREIGN = {
    "monitoring.coreos.com/v1": {"ServiceMonitor"},
    "cert-manager.io/v1": {"Issuer", "Certificate"},
}
"""Kinds of other projects that the client has no model of; only their kind and name are checked."""
_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "object": (object,),
    "datetime": (str, dt.datetime),
    "bytes": (str, bytes),
}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.:]*[a-z0-9])?")


def object_problems(made: Json) -> Iterator[str]:
    """Everything wrong with one object."""
    kind, api_version = made.get("kind", ""), made.get("apiVersion", "")
    where = f"{kind}/{made.get('metadata', {}).get('name', '')}"
    if not _NAME.fullmatch(made.get("metadata", {}).get("name", "")):
        yield f"{where}: no name"
    if kind in FOREIGN.get(api_version, ()):
        return
    model = model_of(api_version, kind)
    if model is None:
        yield f"{where}: there is no {kind} in {api_version}"
        return
    yield from _problems(made, model.__name__, where)


def model_of(api_version: str, kind: str) -> Any:
    """The client's class for a kind."""
    version = api_version.rpartition("/")[2]
    return getattr(client, f"{version[:1].upper()}{version[1:]}{kind}", None)


def _problems(value: Any, kind: str, path: str) -> Iterator[str]:
    kind = kind.replace("dict(", "Dict[").replace(")", "]").replace("List[", "list[")  # as older clients have it
    if kind.startswith("list["):
        if not isinstance(value, list):
            yield f"{path}: must be a list, not {value!r}"
            return
        for index, item in enumerate(value):
            yield from _problems(item, kind[5:-1], f"{path}[{index}]")
    elif kind.startswith("Dict["):
        if not isinstance(value, dict):
            yield f"{path}: must be a map, not {value!r}"
            return
        for key, below in value.items():
            yield from _problems(below, kind[5:-1].partition(", ")[2], f"{path}.{key}")
    elif kind in _PLAIN:
        if (
            value is None
            or not isinstance(value, _PLAIN[kind])
            or (isinstance(value, bool) and kind in {"int", "float"})
        ):
            yield f"{path}: must be {kind}, not {value!r}"
    else:
        yield from _model_problems(value, getattr(client, kind), path)


def _model_problems(value: Any, model: Any, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{path}: must be a {model.__name__}, not {value!r}"
        return
    names = {wire: name for name, wire in model.attribute_map.items()}
    for key, below in value.items():
        if key not in names:
            yield f"{path}.{key}: {model.__name__} has no such field"
        else:
            yield from _problems(below, model.openapi_types[names[key]], f"{path}.{key}")
    try:  # what is required, the constructor asks for; how deep it is checked above
        model(**{names[key]: below for key, below in value.items() if key in names})
    except ValueError as error:
        yield f"{path}: {error}"
