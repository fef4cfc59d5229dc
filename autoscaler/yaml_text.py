"""YAML as a person writes it: plain values, the line of every one of them, and nothing silently dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

Place = tuple[str | int, ...]
"""Keys and list indices on the way to a value."""
MOST_VALUES = 200_000
"""Values in one file, aliases unfolded: 1,000 pools have about 20,000."""
SENSITIVE = re.compile(r"token|passw|secret|bearer|credential|authorization|api.?key|headers|basic_auth", re.IGNORECASE)
"""Names under which secrets are kept: what stands there is never repeated in a message."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file's values, and the line (from 1) of every place in it."""

    values: dict[Any, Any] = field(default_factory=dict)
    lines: Mapping[Place, int] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """The safe loader, which otherwise lets a later key replace an earlier one and lets ValueErrors through."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be a plain word, not a list or mapping", key)
            merge = key.tag == "tag:yaml.org,2002:merge"
            same: set[Hashable] = {key.value} if merge else {key.value, self.construct_object(key)}  # 0.5 is 0.50
            if seen & same and not merge:
                raise _refused(f"key {key.value!r} is given twice; keep one", key)
            seen |= same
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError) as error:  # 5,000 digits; the 31st of February
            raise _refused(f"cannot be read as what it looks like ({error}); put text in quotes", node) from None


def _refused(what: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def parse(text: str, where: str) -> Document:
    """The mapping a text holds; an empty text is an empty mapping.

    Args:
        text: YAML 1.1, one document.
        where: the file's name, for messages.

    Raises:
        BadSettings: with file, line, and what would be right.
    """
    forbidden = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if forbidden is not None:
        line = text.count("\n", 0, forbidden.start()) + 1
        problem = f"{where}:{line}: not a text file: holds the character {forbidden.group()!r}; expected YAML"
        raise BadSettings((problem,))
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document()
        _bounded(node)
        if not isinstance(node, yaml.MappingNode):
            if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
                return Document()
            kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
            line = node.start_mark.line + 1
            message = f"{where}:{line}: holds {kind}; it must be a mapping that begins with keys such as `pools:`"
            raise BadSettings((message,))
        values: dict[Any, Any] = loader.construct_document(node)
        lines: dict[Place, int] = {}
        _walk(node, (), lines)
        return Document(values, lines)
    except yaml.YAMLError as error:
        raise BadSettings((_told(error, text, where),)) from None
    except RecursionError:
        raise BadSettings((f"{where}: nested too deeply to be a configuration",)) from None
    finally:
        loader.dispose()


def _bounded(root: yaml.Node) -> None:
    """Refuse aliases that contain themselves or unfold to more than any configuration holds."""
    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in inside:
            raise _refused("this alias contains itself", node)
        if id(node) not in sizes:
            inside.add(id(node))
            total = 1
            for child in node.value if isinstance(node, yaml.CollectionNode) else ():
                total += sum(map(size, child)) if isinstance(child, tuple) else size(child)
            inside.discard(id(node))
            if total > MOST_VALUES:
                raise _refused(f"unfolds to more than {MOST_VALUES} values", node)
            sizes[id(node)] = total
        return sizes[id(node)]

    size(root)


def _walk(node: yaml.Node, path: Place, lines: dict[Place, int]) -> None:
    """Note the line of everything under `path`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[*path, key.value] = key.start_mark.line + 1
            _walk(value, (*path, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*path, index] = value.start_mark.line + 1
            _walk(value, (*path, index), lines)


def _told(error: yaml.YAMLError, text: str, where: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return f"{where}: not valid YAML: {' '.join(str(error).split())}"
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    problem = str(getattr(error, "problem", None) or error)
    if SENSITIVE.search(line) and "given twice" not in problem:
        problem = "the value here has a character with a meaning in YAML; put it in quotes"
    elif problem.startswith("but ") and getattr(error, "context", None):
        problem = f"{error.context}, {problem}"  # type: ignore[attr-defined]  # only marked errors have one
    if "'\\t'" in problem:
        problem += "; indent with spaces, not tabs"
    return f"{where}:{mark.line + 1}: not valid YAML: {' '.join(problem.split())}"
