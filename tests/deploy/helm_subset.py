"""Renders the part of Helm's template language that the chart keeps to, and refuses the rest.

Actions: `if`/`else if`/`else`, `with`, `range` (also `$k, $v :=`), `define`, `include`, `:=` and `=`, `fail`, trimming
by `{{-` and `-}}`. Pipelines, parentheses, strings, numbers, booleans, `.a.b`, `$`, `$x.a`, and FUNCTIONS. A field of
nothing is an error, as is printing nothing: both would be a mistake of the chart.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Values = dict[str, Any]
_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r'\s*(?P<string>"(?:[^"\\]|\\.)*")|\s*(?P<number>-?\d+)(?![\w.])|\s*(?P<word>\$?[A-Za-z_]\w*|\$)?(?P<path>(?:\.[A-Za-z_]\w*)+|\.)?'
)


class TemplateError(Exception):
    """The template is outside the subset, or wrong; or it called `fail` or `required`."""


@dataclass
class Node:
    """`text`, `print`, `set`, `if`, `with` or `range`, with what is inside it."""

    kind: str
    said: str = ""
    inside: list[Node] = field(default_factory=list)
    otherwise: list[Node] = field(default_factory=list)


class Files:
    """The chart's files, for `.Files.Get`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8")


def _lexed(text: str) -> Iterator[tuple[str, str]]:
    """("text", …) and ("action", …) in turn, trimmed; comments left out."""
    at, trim = 0, False
    for found in _ACTION.finditer(text):
        before = text[at : found.start()]
        before = before.lstrip() if trim else before
        yield "text", before.rstrip() if found[1] else before
        at, trim = found.end(), bool(found[3])
        if not found[2].startswith("/*"):
            yield "action", found[2]
    yield "text", text[at:].lstrip() if trim else text[at:]


class Chart:
    """A chart's templates, parsed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = yaml.safe_load((folder / "Chart.yaml").read_text(encoding="utf-8"))
        self.values = yaml.safe_load((folder / "values.yaml").read_text(encoding="utf-8"))
        self._defined: dict[str, list[Node]] = {}
        self._templates: dict[str, list[Node]] = {}
        for file in sorted((folder / "templates").iterdir()):
            tokens = list(_lexed(file.read_text(encoding="utf-8")))
            nodes, rest, end = self._parse(tokens, 0)
            if end or rest != len(tokens):
                raise TemplateError(f"{file.name}: {end!r} ends nothing")
            self._templates[file.name] = nodes

    def _parse(self, tokens: list[tuple[str, str]], at: int) -> tuple[list[Node], int, str]:
        """Nodes up to an `end` or `else`, where that was, and which of them."""
        nodes: list[Node] = []
        while at < len(tokens):
            kind, said = tokens[at]
            at += 1
            word, _, rest = said.partition(" ")
            if kind == "text":
                nodes.append(Node("text", said))
            elif word in {"end", "else"}:
                return nodes, at, said
            elif word == "define":
                inside, at, end = self._parse(tokens, at)
                if end != "end":
                    raise TemplateError(f"define {rest}: {end!r}")
                self._defined[json.loads(rest)] = inside
            elif word in {"if", "with", "range"}:
                node, at = self._block(tokens, at, word, rest)
                nodes.append(node)
            elif re.match(r"\$\w+\s*:?=", said):
                nodes.append(Node("set", said))
            else:
                nodes.append(Node("print", said))
        return nodes, at, ""

    def _block(self, tokens: list[tuple[str, str]], at: int, word: str, rest: str) -> tuple[Node, int]:
        inside, at, end = self._parse(tokens, at)
        node = Node(word, rest, inside)
        if end.startswith("else if "):
            below, at = self._block(tokens, at, "if", end.removeprefix("else if "))
            node.otherwise = [below]
        elif end == "else":
            node.otherwise, at, end = self._parse(tokens, at)
            if end != "end":
                raise TemplateError(f"{word} {rest}: {end!r} after else")
        elif end != "end":
            raise TemplateError(f"{word} {rest}: never ends")
        return node, at

    def render(
        self, values: Values | None = None, *, name: str = "tidegate", namespace: str = "tidegate-system"
    ) -> str:
        """All templates but the notes, as `helm template` prints them. Raises TemplateError."""
        root = {
            "Values": _merged(self.values, values or {}),
            "Chart": {key[:1].upper() + key[1:]: value for key, value in self.about.items()},
            "Release": {"Name": name, "Namespace": namespace, "Service": "Helm"},
            "Files": Files(self.folder),
        }
        texts = [
            _Run(self._defined, root).text(nodes, root)
            for file, nodes in self._templates.items()
            if file.endswith(".yaml")
        ]
        return "\n---\n".join(text for text in texts if text.strip())

    def notes(self, values: Values | None = None) -> str:
        """NOTES.txt."""
        root = {
            "Values": _merged(self.values, values or {}),
            "Chart": {"Name": "tidegate"},
            "Release": {"Name": "tidegate", "Namespace": "tidegate-system"},
        }
        return _Run(self._defined, root).text(self._templates["NOTES.txt"], root)


def _merged(below: Values, above: Values) -> Values:
    made = dict(below)
    for key, value in above.items():
        under = made.get(key)
        made[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return made


class _Run:
    """One template being rendered."""

    def __init__(self, defined: dict[str, list[Node]], root: Any) -> None:
        self._defined = defined
        self._scopes: list[dict[str, Any]] = [{"$": root}]

    def text(self, nodes: list[Node], dot: Any) -> str:
        return "".join(self._one(node, dot) for node in nodes)

    def _one(self, node: Node, dot: Any) -> str:
        if node.kind == "text":
            return node.said
        if node.kind == "print":
            return _printed(self._value(node.said, dot), node.said)
        if node.kind == "set":
            name, sign, rest = re.split(r"\s*(:?=)\s*", node.said, maxsplit=1)
            where = next((s for s in reversed(self._scopes) if name in s), None) if sign == "=" else self._scopes[-1]
            if where is None:
                raise TemplateError(f"{name} is set and was never declared")
            where[name] = self._value(rest, dot)
            return ""
        if node.kind == "range":
            return self._range(node, dot)
        value = self._value(node.said, dot)
        within = value if node.kind == "with" else dot
        return self._scoped(node.inside, within, {}) if value else self._scoped(node.otherwise, dot, {})

    def _scoped(self, nodes: list[Node], dot: Any, known: dict[str, Any]) -> str:
        self._scopes.append(known)
        try:
            return self.text(nodes, dot)
        finally:
            self._scopes.pop()

    def _range(self, node: Node, dot: Any) -> str:
        names, sign, said = node.said.rpartition(":=")
        over = self._value(said.strip(), dot)
        pairs = sorted(over.items()) if isinstance(over, dict) else list(enumerate(over or ()))
        if not pairs:
            return self._scoped(node.otherwise, dot, {})
        variables = [name.strip() for name in names.split(",")] if sign else []
        parts = []
        for key, value in pairs:
            known = dict(zip(variables, (key, value) if len(variables) == 2 else (value,), strict=False))
            parts.append(self._scoped(node.inside, value, known))
        return "".join(parts)

    def _value(self, said: str, dot: Any) -> Any:
        tokens = _Tokens(said)
        value = self._pipeline(tokens, dot)
        if not tokens.done:
            raise TemplateError(f"{said}: {tokens.rest!r} is outside the subset")
        return value

    def _pipeline(self, tokens: _Tokens, dot: Any) -> Any:
        value = self._command(tokens, dot, [])
        while tokens.take("|"):
            value = self._command(tokens, dot, [value])
        return value

    def _command(self, tokens: _Tokens, dot: Any, piped: list[Any]) -> Any:
        start = tokens.at
        name = tokens.word()
        if name is not None and name in FUNCTIONS:
            return self._lazy(name, tokens, dot, piped)
        if name is not None and name == "include":
            which, within = self._operand(tokens, dot), self._operand(tokens, dot)
            kept, self._scopes = self._scopes, [{"$": within}]
            try:
                return self.text(self._defined[which], within)
            finally:
                self._scopes = kept
        tokens.at = start
        value = self._operand(tokens, dot)
        if isinstance(value, _Method):
            return value.call(self._operand(tokens, dot))
        if piped:
            raise TemplateError(f"{tokens.text}: nothing to pipe into")
        return value

    def _lazy(self, name: str, tokens: _Tokens, dot: Any, piped: list[Any]) -> Any:
        arguments = []
        while tokens.more:
            arguments.append(self._operand(tokens, dot))
        try:
            return FUNCTIONS[name](*arguments, *piped)
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise TemplateError(f"{tokens.text}: {name}: {error!r}") from None

    def _operand(self, tokens: _Tokens, dot: Any) -> Any:
        if tokens.take("("):
            value = self._pipeline(tokens, dot)
            if not tokens.take(")"):
                raise TemplateError(f"{tokens.text}: no )")
            return value
        kind, said = tokens.next()
        if kind == "string":
            return json.loads(said)
        if kind == "number":
            return int(said)
        word, _, path = said.partition(".")
        if word in {"true", "false"}:
            return word == "true"
        if word in FUNCTIONS and not path:
            return FUNCTIONS[word]()
        value = self._named(word, dot, tokens)
        for name in filter(None, path.split(".")):
            value = _field(value, name, tokens.text)
        return value

    def _named(self, word: str, dot: Any, tokens: _Tokens) -> Any:
        if word.startswith("$"):
            value = next((scope[word] for scope in reversed(self._scopes) if word in scope), None)
            if value is None and not any(word in scope for scope in self._scopes):
                raise TemplateError(f"{tokens.text}: {word} was never declared")
            return value
        if word:
            raise TemplateError(f"{tokens.text}: there is no {word} in the subset")
        return dot


@dataclass
class _Method:
    call: Callable[[Any], Any]


def _field(value: Any, name: str, where: str) -> Any:
    if isinstance(value, Files) and name == "Get":
        return _Method(value.get)
    if not isinstance(value, dict):
        raise TemplateError(f"{where}: .{name} of {type(value).__name__}")
    return value.get(name)


class _Tokens:
    """What is left of an expression."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    @property
    def rest(self) -> str:
        return self.text[self.at :].strip()

    @property
    def done(self) -> bool:
        return not self.rest

    @property
    def more(self) -> bool:
        """Whether another operand of this command follows."""
        return bool(self.rest) and self.rest[0] not in "|)"

    def take(self, mark: str) -> bool:
        if not self.rest.startswith(mark):
            return False
        self.at = self.text.index(mark, self.at) + len(mark)
        return True

    def word(self) -> str | None:
        found = re.compile(r"\s*([a-zA-Z]\w*)(?![\w.])").match(self.text, self.at)
        if found is None or found[1] in {"true", "false"}:
            return None
        self.at = found.end()
        return found[1]

    def next(self) -> tuple[str, str]:
        found = _TOKEN.match(self.text, self.at)
        if found is None or not found[0].strip():
            raise TemplateError(f"{self.text}: {self.rest!r} is outside the subset")
        self.at = found.end()
        for kind in ("string", "number"):
            if found[kind] is not None:
                return kind, found[kind]
        return "path", (found["word"] or "") + (found["path"] or "")


def _printed(value: Any, said: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, (dict, list, tuple)):
        raise TemplateError(f"{said}: prints {value!r}")
    return str(value)


def _fail(message: str) -> Any:
    raise TemplateError(message)


def _indented(width: int, text: str) -> str:
    return "\n".join(" " * width + line for line in text.split("\n"))


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=True, width=10_000)).removesuffix("...\n").rstrip("\n")


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "default": lambda usual, given: given or usual,
    "trunc": lambda length, text: text[:length],
    "trimSuffix": lambda suffix, text: text.removesuffix(suffix),
    "contains": lambda part, text: part in text,
    "printf": lambda form, *given: form % tuple(given),
    "quote": lambda value: json.dumps(_printed(value, "quote")),
    "lower": str.lower,
    "nindent": lambda width, text: "\n" + _indented(width, text),
    "toYaml": _yaml,
    "toJson": lambda value: json.dumps(value, separators=(",", ":")),
    "fromYaml": yaml.safe_load,
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "required": lambda message, value: value if value not in (None, "") else _fail(message),
    "fail": _fail,
    "eq": lambda one, other: one == other,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "hasKey": lambda of, name: name in of,
    "get": lambda of, name: of.get(name, ""),
    "index": lambda of, at: of[at],
    "int": int,
    "gt": lambda one, other: one > other,
    "mul": lambda one, other: one * other,
    "list": lambda *values: list(values),
    "append": lambda values, one: [*values, one],
}
