"""From YAML and environment to Settings, or to sentences: file, line, path, value and what would be right."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from autoscaler import environment as variables_of
from autoscaler.environment import Environment, inner_model, nearest
from autoscaler.errors import BadSettings
from autoscaler.settings import Settings
from autoscaler.settings_types import masked
from autoscaler.yaml_text import SENSITIVE, Document, Place, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

NO_FILE = "configuration"
"""Stands for the file in messages, when there is none."""
LONGEST_VALUE = 80
MOST_PROBLEMS = 50
"""More than this is one mistake, many times."""
_PATH = re.compile(r"^([a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*|\[\d+\])*): (.+)$", re.DOTALL)
_CREDENTIAL = re.compile(r"^\s*(bearer|basic)\s+\S", re.IGNORECASE)
_HIDDEN = "(not shown)"
QUOTES = "must be text; put it in quotes, because YAML reads 123, 1:30, 2026-01-01, yes, no, on and off otherwise"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and where each of them was written."""

    settings: Settings
    where: str
    document: Document
    environment: Environment

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Give problems found later, such as a profile that does not exist, their file and line too."""
        try:
            yield
        except BadSettings as error:
            placed = (_placed(problem, (), self.where, self.document, self.environment) for problem in error.problems)
            raise BadSettings(tuple(placed)) from None


def load_settings(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings that `load` finds. Raises BadSettings."""
    return load(path, environment).settings


def load(path: Path | None, environment: Mapping[str, str] | None = None) -> Loaded:
    """Read, check and freeze the configuration.

    Args:
        path: the YAML file; None for environment variables alone.
        environment: variables to look at; the process's own by default.

    Raises:
        BadSettings: one sentence per problem. Nothing is started or written.
    """
    where = str(path) if path is not None else NO_FILE
    document = parse(_read(path), where) if path is not None else Document()
    said = variables_of.read(os.environ if environment is None else environment)
    try:
        settings = Settings.model_validate(_over(document.values, said.values))
    except ValidationError as error:
        details = list(_telling(error.errors()))
        problems = [text for detail in details for text in _sentences(detail, where, document, said)]
        raise BadSettings(_few(tuple(said.problems + problems))) from None
    if said.problems:
        raise BadSettings(tuple(said.problems))
    return Loaded(settings, where, document, said)


def checked(values: Mapping[str, Any], where: str) -> Settings:
    """Settings from values that came from elsewhere than a file, such as an object of the API server.

    Args:
        values: what a configuration file would hold.
        where: stands for the file in messages.

    Raises:
        BadSettings: one sentence per problem.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        document, said = Document(), variables_of.read({})
        problems = [text for one in _telling(error.errors()) for text in _sentences(one, where, document, said)]
        raise BadSettings(_few(tuple(problems))) from None


def _few(problems: tuple[str, ...]) -> tuple[str, ...]:
    if len(problems) <= MOST_PROBLEMS:
        return problems
    return (*problems[:MOST_PROBLEMS], f"... and {len(problems) - MOST_PROBLEMS} more problems")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadSettings((f"{path}: there is no such file; write one or name another with --config",)) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"{path}:{line}: not UTF-8 text: {error.reason} (byte {error.object[error.start]:#04x})"
        raise BadSettings((f"{problem}; save it as UTF-8",)) from None
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise BadSettings((f"{path}: cannot be read: {what}; expected a YAML file",)) from None


def _over(below: Mapping[Any, Any], above: Mapping[str, Any]) -> dict[Any, Any]:
    """`above` laid over `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _telling(details: Sequence[ErrorDetails]) -> Iterator[ErrorDetails]:
    """Leave out what merely follows from another problem: a list is "too short" when its one item was refused."""
    places = [detail["loc"] for detail in details]
    for detail in details:
        here = detail["loc"]
        follows = detail["type"] == "too_short" and any(p != here and p[: len(here)] == here for p in places)
        if not follows:
            yield detail


def _sentences(detail: ErrorDetails, where: str, document: Document, said: Environment) -> Iterator[str]:
    """One problem (or the several of a cross-check) as file:line: path: what is wrong, and what would be right."""
    place = tuple(part for part in detail["loc"] if part != "[key]")
    kind, value = detail["type"], detail["input"]
    if kind == "invalid_key" or (detail["loc"] != place and not isinstance(value, str)):
        text = f"the key {value!r} must be text; put it in quotes (YAML reads yes, no, on and off as true and false)"
        yield _at(place[:-1], text, where, document, said)
        return
    if kind == "value_error" and isinstance(value, dict):
        for line in detail["msg"].removeprefix("Value error, ").split("\n"):
            yield _placed(line, place, where, document, said)
        return
    if kind == "extra_forbidden":
        known = _model_at(place[:-1])
        advice = f"; {nearest(str(place[-1]), known.model_fields)}" if known else ""
        text = f"unknown key{_with(place, value)}{advice}"
    elif kind == "missing":
        hint = "; name a file that has it with --config" if not document.lines and where == NO_FILE else ""
        text = f"missing, and it has no default{_description(place)}{hint}"
    elif value is None:
        text = f"is empty: {_expected(detail, place)}{_default(place)}"
    else:
        shown = _shown(place if detail["loc"] == place else (), value)  # the name of a header is no secret
        text = f"{shown} is not right: {_expected(detail, place)}{_description(place)}"
    yield _at(place, text, where, document, said)


def _placed(problem: str, above: Place, where: str, document: Document, said: Environment) -> str:
    """A sentence that may begin with a path below `above`, with that path's file and line."""
    found = _PATH.match(problem)
    model = _model_at(above)
    if found is None or model is None or re.split(r"[.\[]", found[1])[0] not in model.model_fields:
        return _at(above, problem, where, document, said)
    parts = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", found[1])]
    return _at((*above, *parts), found[2], where, document, said)


def _at(place: Place, text: str, where: str, document: Document, said: Environment) -> str:
    variable = said.variable(place)
    spelt = tuple(part if isinstance(part, int) and not isinstance(part, bool) else str(part) for part in place)
    lines = document.lines
    line = next((lines[spelt[:end]] for end in range(len(spelt), 0, -1) if spelt[:end] in lines), None)
    origin = f"environment {variable}" if variable else f"{where}:{line}" if line else where
    path = _path(place)
    return f"{origin}: {path}: {text}" if path else f"{origin}: {text}"


def _path(place: Place) -> str:
    text = ""
    for part in place:
        if isinstance(part, int) and not isinstance(part, bool):
            text += f"[{part}]"
        elif isinstance(part, str) and re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def _shown(place: Place, value: object) -> str:
    """The value, as far as it is no secret."""
    if any(SENSITIVE.search(str(part)) and not str(part).endswith("_file") for part in place):
        return _HIDDEN
    if isinstance(value, dict):
        return f"a mapping ({', '.join(map(str, value))[:LONGEST_VALUE]})" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        if _CREDENTIAL.match(value):
            return _HIDDEN
        value = masked(value) if "://" in value else value
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _with(place: Place, value: object) -> str:
    return "" if value is None else f" (value {_shown(place, value)})"


def _model_at(place: Place) -> type[BaseModel] | None:
    """The settings class whose values are at `place`; None where there is a single value."""
    annotation: Any = Settings
    model: type[BaseModel] | None = Settings
    for part in place:
        if model is None:
            return None
        if model is not annotation and not _one(annotation, model):
            annotation = model  # an index into a list, or a key of a map
        elif str(part) in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            model = inner_model(annotation)
        else:
            return None
    return model if model is not None and (model is annotation or _one(annotation, model)) else None


def _one(annotation: Any, model: type[BaseModel]) -> bool:
    """Whether the annotation is the class itself or optional, and no list or map of it."""
    return model in getattr(annotation, "__args__", ()) and getattr(annotation, "__origin__", None) not in {tuple, dict}


def _description(place: Place) -> str:
    model = _model_at(place[:-1])
    field = model.model_fields.get(str(place[-1])) if model else None
    return f" ({field.description.rstrip('.')})" if field and field.description else ""


def _default(place: Place) -> str:
    model = _model_at(place[:-1])
    field = model.model_fields.get(str(place[-1])) if model else None
    return "; leave the key out for its default" if field and not field.is_required() else ""


def _expected(detail: ErrorDetails, place: Place) -> str:
    """What would be right, instead of pydantic's own words."""
    kind, ctx = detail["type"], detail.get("ctx", {})
    model = _model_at(place)
    rules = {
        "float": "must be a number",
        "int": "must be a whole number",
        "bool": "must be true or false",
        "string_type": "must be text" if isinstance(detail["input"], (list, dict, NoneType)) else QUOTES,
        "string_unicode": "must be text in Unicode",
        "string_too_short": "must not be empty",
        "tuple": "must be a list",
        "dict": "must be a mapping of names to values",
        "model": f"must be a mapping with keys such as {', '.join(list(model.model_fields)[:4]) if model else '…'}",
        "finite_number": "must be a finite number",
        "too_short": "at least one is needed",
        "greater_than_equal": "must be at least {ge}",
        "greater_than": "must be above {gt}",
        "less_than_equal": "must be at most {le}",
        "less_than": "must be below {lt}",
        "string_too_long": "must have at most {max_length} characters",
        "literal_error": "must be {expected}",
        "enum": "must be {expected}",
    }
    rule = rules.get(kind) or rules.get(kind.split("_")[0])
    if rule is not None:
        return rule.format(**{name: f"{x:g}" if isinstance(x, float) else x for name, x in ctx.items()})
    return detail["msg"].removeprefix("Value error, ").replace("Input should", "should")
