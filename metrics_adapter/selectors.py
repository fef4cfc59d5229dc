"""Kubernetes label selectors: the text grammar of `labelSelector`, its validation and its meaning.

Follows k8s.io/apimachinery `pkg/labels/selector.go` (grammar, matching) and `pkg/util/validation` (key and value
syntax): comma-ANDed requirements `a=b`, `a==b`, `a!=b`, `a in (x,y)`, `a notin (x,y)`, `a`, `!a`, `a>5`, `a<5`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_NAME = 63
MAX_PREFIX = 253
INT64 = 2**63

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PREFIX = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_SPACE = " \t\r\n"  # exactly apimachinery's four; other Unicode blanks are part of a word and so refused
_SPECIAL = frozenset("=!(),<>")
_WORD = re.compile(r"[^ \t\r\n=!(),<>]+")
_SYMBOLS = ("==", "!=", "=", "!", "(", ")", ",", "<", ">")  # longest first


class SelectorError(ValueError):
    """A selector that is not one; `position` is the 0-based character in `text` where it goes wrong."""

    def __init__(self, text: str, position: int, problem: str) -> None:
        self.text = text
        self.position = position
        self.problem = problem
        super().__init__(f"unable to parse selector {text!r} at character {position}: {problem}")


class Operator(StrEnum):
    """How a requirement compares; the value is apimachinery's spelling."""

    EQUALS = "="
    DOUBLE_EQUALS = "=="
    NOT_EQUALS = "!="
    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    DOES_NOT_EXIST = "!"
    GREATER_THAN = ">"
    LESS_THAN = "<"


_EXACT = {op.value: op for op in (Operator.EQUALS, Operator.DOUBLE_EQUALS, Operator.NOT_EQUALS)}
_ORDER = {op.value: op for op in (Operator.GREATER_THAN, Operator.LESS_THAN)}
_SETS = {op.value: op for op in (Operator.IN, Operator.NOT_IN)}


@dataclass(frozen=True, slots=True)
class Requirement:
    """One comparison of one label; `values` is sorted and without repetition."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy it. An absent label satisfies `!=` and `notin`, as in Kubernetes."""
        have = labels.get(self.key)
        match self.operator:
            case Operator.EXISTS:
                return have is not None
            case Operator.DOES_NOT_EXIST:
                return have is None
            case Operator.NOT_EQUALS | Operator.NOT_IN:
                return have is None or have not in self.values
            case Operator.GREATER_THAN | Operator.LESS_THAN:
                number = None if have is None else _integer(have)
                if number is None:
                    return False
                bound = int(self.values[0])
                return number > bound if self.operator is Operator.GREATER_THAN else number < bound
            case _:
                return have is not None and have in self.values

    def __str__(self) -> str:
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"
            case Operator.IN | Operator.NOT_IN:
                return f"{self.key} {self.operator} ({','.join(self.values)})"
            case _:
                return f"{self.key}{self.operator}{self.values[0]}"


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that must all hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def exact(self) -> Iterator[tuple[str, str]]:
        """Keys and values that every match must carry: what an index can be asked for."""
        for requirement in self.requirements:
            if requirement.operator in {Operator.EQUALS, Operator.DOUBLE_EQUALS}:
                yield requirement.key, requirement.values[0]

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    position: int
    is_word: bool

    def __str__(self) -> str:
        return repr(self.text) if self.text else "the end"


def parse(text: str) -> Selector:
    """The selector that `text` (the decoded value of `labelSelector`) spells.

    Raises:
        SelectorError: text outside the grammar, or a label key or value that Kubernetes would not accept.
    """
    return Selector(tuple(_Parser(text).requirements()))


def key_problem(key: str) -> str | None:
    """What is wrong with a label key (`[prefix/]name`), or None."""
    prefix, slash, name = key.rpartition("/")
    if slash and (not prefix or len(prefix) > MAX_PREFIX or not _PREFIX.fullmatch(prefix)):
        return (
            f"label key {_short(key)}: the part before '/' must be a DNS subdomain of at most {MAX_PREFIX} "
            "lower-case characters, such as 'tidegate.dev'"
        )
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        return (
            f"label key {_short(key)}: the name must have 1 to {MAX_NAME} characters (letters, digits, '-', '_', '.'), "
            "starting and ending with a letter or digit"
        )
    return None


def value_problem(value: str) -> str | None:
    """What is wrong with a label value (it may be empty), or None."""
    if not value or (len(value) <= MAX_NAME and _NAME.fullmatch(value)):
        return None
    return (
        f"label value {_short(value)} must have at most {MAX_NAME} characters (letters, digits, '-', '_', '.'), "
        "starting and ending with a letter or digit"
    )


def _short(text: str, limit: int = 80) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "…")


def _integer(text: str) -> int | None:
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -INT64 <= number < INT64 else None


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        if text[at] in _SPACE:
            at += 1
        elif text[at] in _SPECIAL:
            symbol = next(symbol for symbol in _SYMBOLS if text.startswith(symbol, at))
            yield _Token(symbol, at, is_word=False)
            at += len(symbol)
        else:
            word = _WORD.match(text, at)
            assert word is not None  # noqa: S101 - neither blank nor special, so at least this one character matches
            yield _Token(word.group(), at, is_word=True)
            at = word.end()
    yield _Token("", len(text), is_word=False)


class _Parser:
    """Recursive descent over the tokens; each method consumes what it names."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tuple(_tokens(text))
        self._next = 0

    def requirements(self) -> Iterator[Requirement]:
        if not self._peek().text:
            return
        while True:
            yield self._requirement()
            end = self._take()
            if not end.text:
                return
            if end.text != ",":
                raise self._error(end, f"found {end}, expected ',' or the end")

    def _requirement(self) -> Requirement:
        token = self._take()
        absent = token.text == "!"
        if absent:
            token = self._take()
        if not token.is_word:
            raise self._error(token, f"found {token}, expected a label key" + ("" if absent else " or '!'"))
        problem = key_problem(token.text)
        if problem:
            raise self._error(token, problem)
        if absent:
            return Requirement(token.text, Operator.DOES_NOT_EXIST)
        if self._peek().text in {"", ","}:
            return Requirement(token.text, Operator.EXISTS)
        return self._comparison(token.text)

    def _comparison(self, key: str) -> Requirement:
        token = self._take()
        if token.text in _EXACT:
            return Requirement(key, _EXACT[token.text], (self._value(),))
        if token.text in _ORDER:
            bound = self._peek()
            value = self._value()
            if _integer(value) is None:
                raise self._error(bound, f"{token.text!r} compares with a 64-bit integer, found {_short(value)}")
            return Requirement(key, _ORDER[token.text], (value,))
        if token.text in _SETS:
            return Requirement(key, _SETS[token.text], self._values())
        raise self._error(token, f"found {token}, expected one of =, ==, !=, in, notin, >, <")

    def _value(self) -> str:
        """A value, or nothing before a comma, a closing bracket or the end: the empty value."""
        token = self._peek()
        if token.text in {"", ",", ")"}:
            return ""
        self._next += 1
        if not token.is_word:
            raise self._error(token, f"found {token}, expected a label value")
        problem = value_problem(token.text)
        if problem:
            raise self._error(token, problem)
        return token.text

    def _values(self) -> tuple[str, ...]:
        opening = self._take()
        if opening.text != "(":
            raise self._error(opening, f"found {opening}, expected '('")
        values = {self._value()}
        while (token := self._take()).text == ",":
            values.add(self._value())
        if token.text != ")":
            raise self._error(token, f"found {token}, expected ',' or ')'")
        return tuple(sorted(values))

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _error(self, token: _Token, problem: str) -> SelectorError:
        return SelectorError(self._text, token.position, problem)
