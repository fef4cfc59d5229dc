"""`TIDEGATE_…` variables as configuration values: `TIDEGATE_SOURCE__PROMETHEUS__URL` is `source.prometheus.url`.

Lists and maps are given as JSON, and so may be whole sections. An empty variable, or `null`, empties a setting that can
be empty. Kubernetes' service links (`TIDEGATE_SERVICE_HOST` and the like, set in every pod once a Service is called
tidegate) are not configuration and are passed over.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel

from autoscaler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autoscaler.yaml_text import Place

PREFIX = "TIDEGATE_"
OWN_VARIABLES = frozenset({"TIDEGATE_CONFIG"})
"""Variables the command line itself reads."""
SERVICE_LINK = re.compile(
    r"^TIDEGATE(_[A-Z0-9]+)*?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$"
)
"""Kubernetes' own, for a Service called tidegate or tidegate-…; no setting is spelt like one (`__` is between keys)."""
ALIKE = 0.7
"""Likeness (difflib) from which a known name is offered in place of an unknown one."""


@dataclass(slots=True)
class Environment:
    """What the variables say.

    Attributes:
        values: nested, as a file's would be.
        names: the variable that set each place.
        problems: one sentence per variable that cannot be used.
    """

    values: dict[str, Any] = field(default_factory=dict)
    names: dict[Place, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def variable(self, place: Place) -> str | None:
        """The variable that set this place, or a section around it."""
        return next((self.names[place[:end]] for end in range(len(place), 0, -1) if place[:end] in self.names), None)


def read(variables: Mapping[str, str]) -> Environment:
    """The configuration in these variables; what cannot be used is told in `problems`."""
    found = Environment()
    names = [name for name in variables if name.upper().startswith(PREFIX)]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):  # a section before what is in it
        if name.upper() not in OWN_VARIABLES and not _service_link(name, variables[name]):
            try:
                _take(name, variables[name], found)
            except ValueError as error:
                found.problems.append(f"environment {name}: {error}")
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say about an unknown name: the known one it resembles, or all there are."""
    listed = sorted(known)
    near = difflib.get_close_matches(name, listed, n=1, cutoff=ALIKE)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(listed)}"


def inner_model(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside an annotation such as tuple[PoolSettings, ...] or dict[Role, RoleSettings]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := inner_model(part))), None)


def _service_link(name: str, value: str) -> bool:
    """A link's bare `…_PORT` holds an address, which tells it from a setting spelt with one underscore."""
    return SERVICE_LINK.match(name) is not None or (name.endswith("_PORT") and "://" in value)


def _take(name: str, text: str, found: Environment) -> None:
    place: list[str] = []
    model: type[BaseModel] = Settings
    annotation: Any = Settings
    for part in name[len(PREFIX) :].lower().split("__"):
        if not (isinstance(annotation, type | NoneType) or _section(annotation)):
            raise ValueError(f"sets nothing: {'.'.join(place)} is a list or map; give it whole, as JSON")
        section = _section(annotation)
        if section is None:
            raise ValueError(f"sets nothing: {'.'.join(place)} is a single value and has nothing under it")
        model = section
        if part not in model.model_fields:
            at = f" in {'.'.join(place)}" if place else ""
            raise ValueError(f"sets nothing: there is no setting {part!r}{at}; {nearest(part, model.model_fields)}")
        place.append(part)
        annotation = model.model_fields[part].annotation
    value = _value(text, annotation)
    _put(found.values, place, value)
    found.names[tuple(place)] = name


def _section(annotation: Any) -> type[BaseModel] | None:
    """The settings class, where this is one section (optional or not) rather than a list or map of them."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in {tuple, dict}:
        return None
    return next((part for part in get_args(annotation) if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _value(text: str, annotation: Any) -> Any:
    optional = NoneType in get_args(annotation)
    if optional and text in {"", "null"}:
        return None
    if _section(annotation) is None and not _plural(annotation):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else "unreadable"
        raise ValueError(f"must be JSON, such as {_example(annotation)}: {what}") from None


def _plural(annotation: Any) -> bool:
    return get_origin(annotation) in {tuple, dict} or any(
        get_origin(part) in {tuple, dict} for part in get_args(annotation)
    )


def _example(annotation: Any) -> str:
    return '["…"]' if get_origin(annotation) is tuple else '{"…": "…"}'


def _put(values: dict[str, Any], place: list[str], value: Any) -> None:
    *above, last = place
    for part in above:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            return  # the section's own variable is no map, and is refused for that
        values = inner
    values[last] = value
