"""Which of the declared TokenPools can be used beside the configuration, and why the others cannot.

Each is checked alone by the same rules as an entry of `pools`, then together with the configured pools and with those
declared before it: of two that clash, the older one stays. So what is accepted does not depend on what came later.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autoscaler import build
from autoscaler.configuration import checked
from autoscaler.crd import LONGEST_MESSAGE, SPELLINGS, spec_of
from autoscaler.errors import BadSettings
from autoscaler.settings_checks import pool_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autoscaler.build import Parts
    from autoscaler.profiles import ProfileBook
    from autoscaler.settings import PoolSettings, Settings

Name = tuple[str, str]
"""Namespace and name."""
_INDEX = re.compile(r"pools\[(\d+)\](\.?)")
_SNAKE = re.compile(r"\b(" + "|".join(sorted(map(re.escape, SPELLINGS), key=len, reverse=True)) + r")\b")


@dataclass(frozen=True, slots=True)
class Declared:
    """A TokenPool as the API server has it.

    Attributes:
        namespace, name, uid: whose it is. generation: counts changes of its spec. created: RFC 3339, as it says.
        spec: a pool's settings, unchecked, by the settings' names. status: as written last.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    created: str
    spec: Mapping[str, Any] = field(hash=False)
    status: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> Name:
        """Namespace and name."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a TokenPool cannot be used: `Invalid` by itself, or in `Conflict` with another pool."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What was made of the declared pools.

    Attributes:
        parts: the rules of the configured and the accepted pools together.
        accepted: their names, oldest first. refused: the others, and why. disabled: accepted, but `enabled: false`.
    """

    parts: Parts
    accepted: tuple[Name, ...]
    refused: Mapping[Name, Refusal]
    disabled: frozenset[Name] = frozenset()


def declared_of(found: Mapping[str, Any]) -> Declared:
    """What is kept of a TokenPool. Raises KeyError, TypeError or ValueError for what is none."""
    meta = found["metadata"]
    return Declared(
        str(meta["namespace"]),
        str(meta["name"]),
        str(meta.get("uid", "")),
        int(meta.get("generation") or 0),
        str(meta.get("creationTimestamp") or ""),
        spec_of(found),
        dict(found.get("status") or {}),
    )


def admitted(base: Settings, declared: Sequence[Declared]) -> Admission:
    """Sort them.

    Args:
        base: the configuration, whose own pools come first.
        declared: TokenPools in any order.

    Raises:
        BadSettings: the configuration is bad by itself.
    """
    book = build.profile_book(base)
    refused: dict[Name, Refusal] = {}
    able: list[tuple[Name, PoolSettings]] = []
    for one in sorted(declared, key=lambda each: (each.created, each.key)):
        try:
            able.append((one.key, _alone(base, book, one)))
        except BadSettings as error:
            refused[one.key] = Refusal("Invalid", _message(error.problems))
    accepted = _fitting(base, (), able, refused)
    parts = build.parts(_with(base, [pool for _, pool in accepted]), book)
    disabled = frozenset(key for key, pool in accepted if not pool.enabled)
    return Admission(parts, tuple(key for key, _ in accepted), refused, disabled)


def _alone(base: Settings, book: ProfileBook, one: Declared) -> PoolSettings:
    """The pool by itself, with its profile and accelerator. Raises BadSettings."""
    (pool,) = checked({"pools": [dict(one.spec)]}, one.name).pools
    label = base.source.namespace_label
    said = [
        f"{where}: {label!r} is the namespace's label, and a TokenPool stands for series of its own namespace"
        for where, match in (("match", pool.match), *((f"roles.{r}.match", o.match) for r, o in pool.roles.items()))
        if label in match
    ]
    if said:
        raise BadSettings(tuple(f"pools[0].{problem}" for problem in said))
    build.parts(base.model_copy(update={"pools": (pool,)}), book)
    return pool


def _fitting(
    base: Settings,
    before: tuple[tuple[Name, PoolSettings], ...],
    rest: Sequence[tuple[Name, PoolSettings]],
    refused: dict[Name, Refusal],
) -> tuple[tuple[Name, PoolSettings], ...]:
    """Those of the rest that fit to what is before them: all at once, or half by half where something clashes."""
    clashes = list(pool_problems(_with(base, [pool for _, pool in (*before, *rest)]))) if rest else []
    if not clashes:
        return (*before, *rest)
    if len(rest) == 1:
        ((key, _),) = rest
        names = [(pool.namespace, pool.name) for pool in base.pools] + [key for key, _ in before]
        refused[key] = Refusal("Conflict", _message(_named(clashes, names)))
        return before
    half = len(rest) // 2
    return _fitting(base, _fitting(base, before, rest[:half], refused), rest[half:], refused)


def _with(base: Settings, pools: Sequence[PoolSettings]) -> Settings:
    return base.model_copy(update={"pools": (*base.pools, *pools)})


def _named(problems: Sequence[str], names: Sequence[Name]) -> Iterator[str]:
    """Problems with the other pools' names instead of their places; the judged one is the last, `pools[0]` from here.

    A sentence about another pool alone is one about a clash with this one, for before there was none.
    """
    for problem in problems:

        def place(found: re.Match[str]) -> str:
            index = int(found[1])
            if index >= len(names):
                return f"pools[0]{found[2]}"
            return f"{'/'.join(names[index])}{': ' if found[2] else ''}"

        yield _INDEX.sub(place, problem)


def _message(problems: Sequence[str] | Iterator[str]) -> str:
    """Problems of an entry of `pools`, as one of a TokenPool's spec."""
    said = "; ".join(_spelt(problem) for problem in problems)
    return said if len(said) <= LONGEST_MESSAGE else said[: LONGEST_MESSAGE - 1] + "…"


def _spelt(problem: str) -> str:
    _, at, rest = problem.partition("pools[0]")
    own = f"spec{rest}" if at and problem.index("pools[0]") <= problem.find(": ") + 2 else problem
    own = own.replace("pools[0].", "spec.").replace("pools[0]", "spec")
    return _SNAKE.sub(lambda found: SPELLINGS[found[1]], own)
