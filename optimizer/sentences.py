"""Actions in words that a person can check against the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.actions import Do

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optimizer.actions import Action


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sentences(actions: Sequence[Action]) -> Iterator[str]:
    """One sentence for each action."""
    for one in actions:
        replicas, gpus = _count(one.replicas, "replica"), _count(one.gpus, "GPU")
        until = "" if one.until_s is None else f" until {one.until_s:g} s"
        where = f" from {one.on}" if one.on else ""
        who = "/".join(part for part in (one.pool, one.role, one.variant) if part)
        if not one.pool:
            yield f"{one.do} {one.on} ({gpus}) at {one.at_s:g} s{until}"
        elif one.do in {Do.RELEASE, Do.GIVE_UP}:
            verb = "releases" if one.do is Do.RELEASE else "gives up"
            yield f"{who} {verb} {replicas} at {one.at_s:g} s"
        elif one.do is Do.CONVERT:
            yield f"{who} keeps {replicas} ready to convert from {one.at_s:g} s"
        else:
            yield f"{who} {one.do}s {replicas} ({gpus}){where} at {one.at_s:g} s, serving at {one.lands_s:g} s{until}"
