"""From YAML and environment to Settings, or to sentences: file, line, path, value and what would be right."""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from autoscaler.errors import BadSettings
from autoscaler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

PREFIX = "TIDEGATE_"
OWN_VARIABLES = frozenset({"TIDEGATE_CONFIG"})
"""Variables the command line itself reads."""
SERVICE_LINK = re.compile(r"^TIDEGATE(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP).*)?)$")
"""Kubernetes sets these in every pod when a Service is called tidegate…; they are not configuration."""
LONGEST_VALUE = 80
PLAINER = {
    "string_pattern_mismatch": "use lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
    "too_short": "at least one is needed",
}
"""Said instead of pydantic's own words."""


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which otherwise lets a later key silently replace an earlier one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice; keep one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load_settings(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read, check and freeze the configuration.

    Args:
        path: the YAML file; None for environment variables alone.
        environment: variables to look at; the process's own by default.

    Raises:
        BadSettings: one sentence per problem. Nothing is started or written.
    """
    variables = os.environ if environment is None else environment
    text, where = _read(path)
    values = _parse(text, where)
    unknown = list(_unknown_variables(variables))
    try:
        settings = Settings(**{str(key): value for key, value in values.items()})
    except ValidationError as error:
        lines = _lines(text)
        problems = [_sentence(detail, where, lines, variables) for detail in _telling(error.errors())]
        raise BadSettings(tuple(unknown + problems)) from None
    except ValueError as error:  # pydantic-settings: a variable that should hold JSON does not
        raise BadSettings((*unknown, f"environment: {error}; lists and maps are given as JSON")) from None
    if unknown:
        raise BadSettings(tuple(unknown))
    return settings


def _read(path: Path | None) -> tuple[str, str]:
    if path is None:
        return "", "environment"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except FileNotFoundError:
        raise BadSettings((f"{path}: there is no such file; write one or name another with --config",)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings((f"{path}: cannot be read as UTF-8 text: {error}",)) from None


def _parse(text: str, where: str) -> dict[Any, Any]:
    try:
        # _UniqueKeys is a SafeLoader: it builds plain values only.
        values = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - see above
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error)
        raise BadSettings((f"{where}{at}: not valid YAML: {reason}",)) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadSettings(
            (f"{where}: holds {_shown(values)}; it must be a mapping that begins with keys such as `pools:`",)
        )
    return values


def _unknown_variables(variables: Mapping[str, str]) -> Iterator[str]:
    fields = {name.upper() for name in Settings.model_fields}
    for name in sorted(variables):
        if not name.upper().startswith(PREFIX) or name in OWN_VARIABLES or SERVICE_LINK.match(name):
            continue
        first = name.upper().removeprefix(PREFIX).split("__")[0]
        if first not in fields:
            yield f"environment: {name} sets nothing: there is no setting {first.lower()!r}{_near(first, fields)}"


def _near(word: str, known: set[str] | frozenset[str]) -> str:
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return (
        f"; did you mean {close[0].lower()}?" if close else f"; there are {', '.join(sorted(k.lower() for k in known))}"
    )


def _lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Line number of every path in the file, from 1."""
    found: dict[tuple[str | int, ...], int] = {}

    def walk(node: yaml.Node | None, path: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[*path, key.value] = key.start_mark.line + 1
                walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                found[*path, index] = value.start_mark.line + 1
                walk(value, (*path, index))

    walk(yaml.compose(text, Loader=yaml.SafeLoader), ())
    return found


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _path(location: tuple[str | int, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _model_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The settings model that holds `location`, to say which keys it knows."""
    model: Any = Settings
    for part in location:
        if isinstance(part, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        if part not in model.model_fields:
            return model
        model = _inner(model.model_fields[part].annotation)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _inner(annotation: Any) -> Any:
    """The settings model inside an annotation such as tuple[PoolSettings, ...] or dict[Role, RoleSettings]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        inner = _inner(argument)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return inner
    return None


def _from_environment(location: tuple[str | int, ...], variables: Mapping[str, str]) -> str | None:
    """The variable that set this path, when one did."""
    parts = [str(part) for part in location if not isinstance(part, int)]
    for end in range(len(parts), 0, -1):
        name = PREFIX + "__".join(parts[:end]).upper()
        found = next((key for key in variables if key.upper() == name), None)
        if found is not None:
            return found
    return None


def _telling(details: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out what merely follows from another problem: a list is "too short" when its one item was refused."""
    places = [detail["loc"] for detail in details]
    for detail in details:
        here = detail["loc"]
        follows = detail["type"] == "too_short" and any(p != here and p[: len(here)] == here for p in places)
        if not follows:
            yield detail


def _sentence(
    detail: ErrorDetails,
    where: str,
    lines: Mapping[tuple[str | int, ...], int],
    variables: Mapping[str, str],
) -> str:
    """One problem as file:line: path: what is wrong with which value, and what would be right."""
    location = tuple(part for part in detail["loc"] if part != "[key]")
    variable = _from_environment(location, variables)
    line = next((lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in lines), None)
    place = f"environment {variable}" if variable else f"{where}:{line}" if line else where
    path = _path(location)
    kind = detail["type"]
    if kind == "extra_forbidden":
        parent = _model_at(location[:-1])
        known = frozenset(parent.model_fields) if parent else frozenset()
        return f"{place}: {path}: unknown key (value {_shown(detail['input'])}){_near(str(location[-1]), known)}"
    if kind == "missing":
        return f"{place}: {path}: missing, and it has no default{_description(location)}"
    message = detail["msg"].removeprefix("Value error, ")
    if not path:
        return f"{place}: {message}"
    if kind == "value_error" and isinstance(detail["input"], dict):
        return f"{place}: {path}: {message}"
    message = PLAINER.get(kind, message[0].lower() + message[1:])
    return f"{place}: {path}: {_shown(detail['input'])} is not right: {message}{_description(location)}"


def _description(location: tuple[str | int, ...]) -> str:
    model = _model_at(location[:-1])
    field = model.model_fields.get(str(location[-1])) if model else None
    return f" ({field.description.rstrip('.')})" if field and field.description else ""
