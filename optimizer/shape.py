"""Whether a problem is made of the parts it should be: the first thing to know about one written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.problem import (
    Demand,
    Domain,
    Gang,
    Offer,
    Pool,
    Ratio,
    Replicas,
    Role,
    Rules,
    ServiceClass,
    Source,
    Variant,
    Wave,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optimizer.problem import Problem

SUPPLY: dict[str, type] = {"sources": Source, "gangs": Gang, "offers": Offer, "domains": Domain}
OF_POOL: dict[str, type] = {"demand": Demand, "classes": ServiceClass, "ratios": Ratio}
OF_VARIANT: dict[str, type] = {"replicas": Replicas, "waves": Wave}


def _wrong(name: str, some: object, kind: type) -> Iterator[str]:
    """What is wrong with a list of parts of one kind."""
    if not isinstance(some, tuple | list):
        yield f"{name} {some!r:.80} must be a tuple of {kind.__name__}"
        return
    strange = next((one for one in some if not isinstance(one, kind)), None)
    if strange is not None or None in some:
        yield f"{name} must hold {kind.__name__} only, not {strange!r:.80}"


def _parts(some: object, kind: type) -> Iterator[object]:
    """The sound ones of a list."""
    if isinstance(some, tuple | list):
        yield from (one for one in some if isinstance(one, kind))


def misshapen(problem: Problem) -> Iterator[str]:
    """Everything that is no part of a problem where one should be, one sentence each."""
    for field, kind in SUPPLY.items():
        yield from _wrong(field, getattr(problem, field), kind)
    rules: object = problem.rules
    if not isinstance(rules, Rules):
        yield f"rules {rules!r:.80} must be Rules"
    points: object = problem.points_s
    if not isinstance(points, tuple | list):
        yield f"points_s {points!r:.80} must be a tuple of seconds"
    yield from _wrong("pools", problem.pools, Pool)
    for pool in _parts(problem.pools, Pool):
        name = f"pool {getattr(pool, 'key', '')!r}:"
        for field, kind in OF_POOL.items():
            yield from _wrong(f"{name} {field}", getattr(pool, field), kind)
        yield from _wrong(f"{name} roles", getattr(pool, "roles", ()), Role)
        for role in _parts(getattr(pool, "roles", ()), Role):
            yield from _wrong(f"{name} variants", getattr(role, "variants", ()), Variant)
            for variant in _parts(getattr(role, "variants", ()), Variant):
                for field, kind in OF_VARIANT.items():
                    yield from _wrong(f"{name} {field}", getattr(variant, field), kind)
