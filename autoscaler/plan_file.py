"""A supply problem from a file (YAML or JSON): file, line and what would be right for everything that is not.

The door of `tidegate plan`: pydantic judges the shape, `optimizer.check` the sense.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autoscaler.errors import BadSettings
from autoscaler.plan_schema import ProblemFile
from autoscaler.yaml_text import Document, parse
from optimizer import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.yaml_text import Place
    from optimizer import Problem

LONGEST = 80
LONGEST_LINED = 200_000
"""Characters of a JSON file whose lines are looked up for messages: YAML takes about a second for so many."""
SHAPES = frozenset({"tuple_type", "too_short", "float_type", "int_type", "float_parsing", "int_parsing"})
"""Complaints about the shape of a value as a whole."""
SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Of a problem file, Draft 2020-12."""
    return {"$schema": SCHEMA, "title": "Tidegate supply problem", **ProblemFile.model_json_schema()}


def load_problem(path: str) -> Problem:
    """The problem of a file, or of standard input for `-`.

    Raises:
        BadSettings: one sentence per problem: file, line, key, value, and what would be right.
    """
    where = "standard input" if path == "-" else path
    if path == "-" and sys.stdin is None:
        raise BadSettings((f"{where}: is closed; give a file, or a problem on standard input",))
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise BadSettings((f"{where}: there is no such file; `tidegate plan --schema` says what it holds",)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings((f"{where}: cannot be read: {error}; expected YAML or JSON",)) from None
    document = _document(text, where)
    if not document.values:
        raise BadSettings((f"{where}: is empty; `tidegate plan --schema` says what it holds",))
    try:
        problem = ProblemFile.model_validate(document.values).plain()
    except ValidationError as error:
        lines = document.lines or _lines(text)
        raise BadSettings(tuple(_sentence(detail, lines, where) for detail in _telling(error.errors()))) from None
    if wrong := check(problem):
        raise BadSettings(tuple(f"{where}: {fault}" for fault in wrong))
    return problem


def _document(text: str, where: str) -> Document:
    """JSON where it looks like it (YAML refuses its tabs), YAML otherwise."""
    if not text.lstrip().startswith("{"):
        return parse(text, where)
    try:
        return Document(json.loads(text, object_pairs_hook=_once))  # NaN is judged with its field
    except _NotJsonError as error:
        raise BadSettings((f"{where}: {error}",)) from None
    except RecursionError:
        return parse(text, where)  # which tells how deep is too deep
    except json.JSONDecodeError as error:
        try:
            return parse(text, where)  # a YAML flow mapping
        except BadSettings as other:
            told = other.problems[0].removeprefix(f"{where}:").lstrip("0123456789: ")
            told = told.replace("not valid YAML", "nor valid YAML")
            place = f"{where}:{error.lineno}"
            raise BadSettings((f"{place}: not valid JSON: {error.msg}, column {error.colno}; {told}",)) from None
    except ValueError:  # Python refuses to read whole numbers of more than 4,300 digits
        raise BadSettings((f"{where}: holds a number with thousands of digits; none may be above 1e12",)) from None


class _NotJsonError(ValueError):
    """Something JSON lets through and we do not."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _NotJsonError(f"key {key!r} is given twice; keep one")
        found[key] = value
    return found


def _lines(text: str) -> Mapping[Place, int]:
    """The lines of a JSON file, which YAML can read as well; none where it cannot, or would take long."""
    if len(text) > LONGEST_LINED:
        return {}
    try:
        return parse(text, "").lines
    except BadSettings:
        return {}


def _shown(value: Any) -> str:
    """A value as the file has it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    shown = str(value) if isinstance(value, date) else repr(value)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def _right(detail: Any) -> str:
    """What would be right, without the names that types have inside the program."""
    message = detail["msg"].removeprefix("Value error, ").replace("valid tuple", "list").replace("Tuple", "List")
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", message)
    return str(message.replace(" after validation", ""))


def _places(detail: Any) -> Iterator[str | int]:
    """The way to a value without the names pydantic gives to the branches of a union."""
    for part in detail["loc"]:
        if not (
            isinstance(part, str)
            and (part.startswith(("tuple[", "constrained-", "function-")) or part in {"int", "float", "[key]"})
        ):
            yield part


def _telling(details: Sequence[Any]) -> Iterator[Any]:
    """The complaints that tell something.

    That a value has not one of the shapes it may have, or a list too few sound items, does not where there is a
    complaint about a part of it, or another about itself.
    """
    places = [tuple(_places(detail)) for detail in details]
    shapes = [detail["type"] in SHAPES for detail in details]
    for n, (detail, place, shape) in enumerate(zip(details, places, shapes, strict=True)):
        parts = any(len(other) > len(place) and other[: len(place)] == place for other in places)
        itself = any(other == place and (m < n or not shapes[m]) for m, other in enumerate(places))
        if not (shape and (parts or itself)):
            yield detail


def _sentence(detail: Any, lines: Mapping[Place, int], where: str) -> str:
    place = tuple(_places(detail))
    ends = range(len(place), 0, -1)
    line = next((lines[place[:end]] for end in ends if place[:end] in lines), None)
    origin = f"{where}:{line}" if line else where
    path = ".".join(str(part) for part in place)
    message = _right(detail)
    if detail["type"] == "extra_forbidden":
        return f"{origin}: {path}: unknown key; `tidegate plan --schema` names them all"
    if detail["type"] == "missing":
        return f"{origin}: {path}: missing, and it has no default"
    if isinstance(detail["input"], dict) and not detail["type"].endswith("_type"):
        return f"{origin}: {path}: {message}" if path else f"{origin}: {message}"
    return f"{origin}: {path}: {_shown(detail['input'])} is not right: {message}"
