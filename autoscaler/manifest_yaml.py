"""Kubernetes manifests as they are in files: several documents, lists unfolded, and the line of every value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from autoscaler.errors import BadSettings
from autoscaler.yaml_text import MOST_VALUES, Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KIND = re.compile(r"[A-Z][A-Za-z0-9]*")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object of a file; `prefix` is where it stands in its document (a List holds several)."""

    file: str
    values: dict[Any, Any]
    lines: Mapping[Place, int]
    prefix: Place = ()

    def line(self, *place: str | int) -> int:
        """The line of a place, or of the nearest one above it that there is."""
        whole = (*self.prefix, *place)
        while whole not in self.lines:
            whole = whole[:-1]
        return self.lines[whole]

    def at(self, *place: str | int) -> Any:
        """The value at a place; None where the way to it ends early."""
        found: Any = self.values
        for step in place:
            if isinstance(found, dict) and isinstance(step, str):
                found = found.get(step)
            elif isinstance(found, list) and isinstance(step, int) and step < len(found):
                found = found[step]
            else:
                return None
        return found

    def mapping(self, *place: str | int) -> dict[Any, Any]:
        """The mapping at a place; empty where there is none."""
        found = self.at(*place)
        return found if isinstance(found, dict) else {}

    def items(self, *place: str | int) -> Iterator[tuple[int, dict[Any, Any]]]:
        """The mappings of the list at a place, with their index."""
        found = self.at(*place)
        for index, item in enumerate(found if isinstance(found, list) else ()):
            if isinstance(item, dict):
                yield index, item

    @property
    def kind(self) -> str:
        """The object's kind; empty when it has none."""
        found = self.values.get("kind")
        return found if isinstance(found, str) and _KIND.fullmatch(found) else ""

    @property
    def name(self) -> str:
        """`namespace/name`, as far as given."""
        meta = self.mapping("metadata")
        return "/".join(str(meta[key]) for key in ("namespace", "name") if meta.get(key)) or "(no name)"

    @property
    def namespace(self) -> str:
        """Its namespace; `default` when none is given."""
        return str(self.mapping("metadata").get("namespace") or "default")


@dataclass(slots=True)
class _Walk:
    """Lines of all places, with a limit on what aliases unfold to."""

    file: str
    lines: dict[Place, int] = field(default_factory=dict)

    def over(self, node: yaml.Node, place: Place) -> None:
        if len(self.lines) > MOST_VALUES or len(place) > 100:  # noqa: PLR2004 - no manifest is nested so deeply
            raise BadSettings((f"{self.file}:{node.start_mark.line + 1}: has too many values to be a manifest",))
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    self.lines[*place, key.value] = key.start_mark.line + 1
                    self.over(value, (*place, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.over(value, (*place, index))


def read(text: str, file: str) -> list[Manifest]:
    """The objects of a file's documents, Lists unfolded; empty documents are passed over.

    Raises:
        BadSettings: not YAML, or a document that is no object; with file and line.
    """
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        raise BadSettings((f"{file}: not a text file: {' '.join(str(error).split())}; expected YAML",)) from None
    found: list[Manifest] = []
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                break
            walk = _Walk(file)
            walk.over(node, ())
            found += _objects(loader.construct_document(node), walk)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark is not None else file
        why = getattr(error, "problem", None) or error
        raise BadSettings((f"{where}: not valid YAML: {' '.join(str(why).split())}",)) from None
    except (ValueError, OverflowError) as error:
        raise BadSettings((f"{file}: a value cannot be read as what it looks like: {error}",)) from None
    except (RecursionError, TypeError):
        raise BadSettings(
            (f"{file}: nested too deeply, or with lists for keys; expected Kubernetes objects",)
        ) from None
    finally:
        loader.dispose()
    return found


def _objects(values: Any, walk: _Walk) -> Iterator[Manifest]:
    if values is None:
        return
    if not isinstance(values, dict):
        line = walk.lines[()]
        raise BadSettings((f"{walk.file}:{line}: holds no Kubernetes object; it must be a mapping with kind and spec",))
    whole = Manifest(walk.file, values, walk.lines)
    if whole.kind.endswith("List") and isinstance(values.get("items"), list):
        for index, item in whole.items("items"):
            yield Manifest(walk.file, item, walk.lines, ("items", index))
    else:
        yield whole
