"""A study from YAML: file, line and what would be right for everything that is not; and its JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from autoscaler.errors import BadSettings
from autoscaler.settings_types import masked
from autoscaler.whatif.scenario import Study, expanded
from autoscaler.yaml_text import Document, parse

if TYPE_CHECKING:
    from autoscaler.whatif.scenario import AnyHistory, Scenario

LONGEST = 80
SCHEMA = "https://json-schema.org/draft/2020-12/schema"


def load_study(path: str | Path) -> tuple[Study, tuple[Scenario, ...]]:
    """The study of a file and its scenarios; `-` reads standard input's path `/dev/stdin`.

    Paths of traces, journals and profiles in it are taken from the file's own folder.

    Raises:
        BadSettings: one sentence per problem: file, line, key, value, and what would be right.
    """
    where = str(path)
    try:
        text = Path("/dev/stdin" if where == "-" else path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadSettings((f"{where}: there is no such file; `tidegate whatif --example` prints one",)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings((f"{where}: cannot be read: {error}; expected a YAML file",)) from None
    document = parse(text, where)
    if not document.values:
        raise BadSettings((f"{where}: is empty; `tidegate whatif --example` prints a study",))
    try:
        study = Study.model_validate(document.values)
    except ValidationError as error:
        raise BadSettings(tuple(_sentence(detail, document, where) for detail in error.errors())) from None
    folder = Path(where).parent if where != "-" else Path()
    scenarios = tuple(
        one if one.profiles is None else one.model_copy(update={"profiles": str(folder / one.profiles)})
        for one in expanded(study)
    )
    return _placed(study, folder), scenarios


def study_of(plain: dict[str, Any]) -> tuple[Study, tuple[Scenario, ...]]:
    """The same from a mapping. Raises BadSettings."""
    try:
        study = Study.model_validate(plain)
    except ValidationError as error:
        raise BadSettings(tuple(_sentence(detail, Document(), "study") for detail in error.errors())) from None
    return study, expanded(study)


def json_schema() -> dict[str, Any]:
    """Of a study file, Draft 2020-12."""
    return {"$schema": SCHEMA, "title": "Tidegate what-if study", **Study.model_json_schema()}


def _placed(study: Study, folder: Path) -> Study:
    history = study.history and _history_placed(study.history, folder)
    pools = tuple(pool.model_copy(update={"history": _history_placed(pool.history, folder)}) for pool in study.pools)
    return study.model_copy(update={"history": history, "pools": pools})


def _history_placed(history: AnyHistory, folder: Path) -> AnyHistory:
    for key in ("trace", "journal"):
        named = getattr(history, key, None)
        if named is not None and not Path(named).is_absolute():
            return history.model_copy(update={key: str(folder / named)})
    return history


def _sentence(detail: Any, document: Document, where: str) -> str:
    kinds = {"trace", "generator", "journal", "prometheus"}
    told = detail["loc"]
    place = tuple(part for at, part in enumerate(told) if not (at and told[at - 1] == "history" and part in kinds))
    line = next(
        (document.lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in document.lines), None
    )
    origin = f"{where}:{line}" if line else where
    path = ".".join(str(part) for part in place)
    given = detail["input"]
    value = repr(masked(given) if isinstance(given, str) and "://" in given else given)
    shown = value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{origin}: {path}: unknown key; `tidegate whatif --schema` names them all"
    if detail["type"] == "missing":
        return f"{origin}: {path}: missing, and it has no default"
    if isinstance(detail["input"], dict):
        return f"{origin}: {path}: {message}" if path else f"{origin}: {message}"
    return f"{origin}: {path}: {shown} is not right: {message}"
