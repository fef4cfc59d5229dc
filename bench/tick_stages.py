"""Where a tick's time goes: functions wrapped with a clock, and the table that is printed."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ORDER = (
    "discovery",
    "queries",
    "join",
    "observation",
    "memory, learning",
    "demand, forecast",
    "plan",
    "guards",
    "rest of deciding",
    "board, metrics",
    "status page",
    "journal",
    "save",
    "rest of recording",
    "whole tick",
)
"""Stages as printed; they add up to the last."""


class Stages:
    """Seconds by stage and tick. A stage within another is taken off the outer one, so that all of them add up."""

    def __init__(self) -> None:
        self.ticks: list[dict[str, float]] = []
        self._inner = 0.0

    def next(self) -> None:
        """A new tick begins."""
        self.ticks.append(defaultdict(float))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time this block as part of the present tick's stage."""
        outer, self._inner = self._inner, 0.0
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            if self.ticks:
                self.ticks[-1][name] += spent - self._inner
            self._inner = outer + spent

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Time every call of `owner.attribute` as a stage."""
        called: Callable[..., Any] = getattr(owner, attribute)

        @wraps(called)
        def timed(*args: Any, **named: Any) -> Any:
            with self.stage(name):
                return called(*args, **named)

        setattr(owner, attribute, timed)

    def summary(self) -> dict[str, dict[str, float]]:
        """p50, p95 and largest milliseconds of each stage."""
        out = {}
        for name in ORDER:
            values = [1000 * (sum(tick.values()) if name == ORDER[-1] else tick.get(name, 0.0)) for tick in self.ticks]
            out[name] = {"p50_ms": quantile(values, 0.5), "p95_ms": quantile(values, 0.95), "max_ms": max(values)}
        return out


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least `share` of all at or below it."""
    if share == 0.5:
        return statistics.median(values)
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def table(found: dict[str, Any]) -> str:
    """One run as text."""
    lines = [f"{'stage':<20}{'p50 ms':>10}{'p95 ms':>10}{'max ms':>10}"]
    for name, ms in found["stages"].items():
        lines.append(f"{name:<20}{ms['p50_ms']:>10.1f}{ms['p95_ms']:>10.1f}{ms['max_ms']:>10.1f}")
    lines += [f"{name:<34}{value}" for name, value in found["facts"].items()]
    return "\n".join(lines)
