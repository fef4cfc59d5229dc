"""Prefill-decode pairs of ready replicas, and how many of them span two network domains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable


def apart(own: Counter[int], others: Counter[int]) -> Callable[[int], float]:
    """How far a network domain is ahead in a role of the other: its share of the one less its share of the other.

    A pod that takes the domain where this is least goes where its partners lack it, as a preferred affinity between the
    roles would have it. Example: prefill 4 of 4 and decode 1 of 2 in domain 0, the other decode in domain 1: 1 - 1/2
    against 0 - 1/2, so the next prefill replica goes to domain 1.
    """
    mine, theirs = max(own.total(), 1), max(others.total(), 1)
    return lambda domain: own[domain] / mine - others[domain] / theirs


@dataclass(slots=True)
class Pairs:
    """Prefill-decode pairs, all and those across domains, integrated over time."""

    all: int = 0
    across: int = 0
    at: float = 0.0
    all_s: float = 0.0
    across_s: float = 0.0

    def change(self, domains: list[Counter[int]], now: float) -> None:
        """Ready replicas by domain, of the one role and of the other, from `now` on."""
        self.all_s += self.all * (now - self.at)
        self.across_s += self.across * (now - self.at)
        self.at = now
        one, other = domains
        self.all = one.total() * other.total()
        self.across = self.all - sum(count * other[domain] for domain, count in one.items())

    @property
    def share(self) -> float | None:
        """Across domains over all; None while there were no pairs."""
        return self.across_s / self.all_s if self.all_s else None
