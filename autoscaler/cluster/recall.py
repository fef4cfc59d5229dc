"""Load history from Prometheus, for a start without memory or after being away: two range queries for all roles."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from autoscaler.memory import Memory
from autoscaler.model import Role
from forecasting.series import Series
from metrics_adapter.signals import Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from autoscaler.memory import RoleMemory
    from autoscaler.model import RoleKey
    from autoscaler.rules import Rules
    from metrics_adapter.signals import Group

log = structlog.get_logger(__name__)

Points = list[tuple[float, float]]


class Historian(Protocol):
    """A metric source that remembers."""

    def history(
        self, groups: Sequence[Group], signals: Collection[Signal], start: float, end: float, step: float
    ) -> Mapping[Signal, Mapping[str, Points]]:
        """(Unix time, value) by signal and group's key. Raises SourceError."""
        ...


def recalled(memory: Memory, source: Historian, groups: Mapping[RoleKey, Group], rules: Rules, now: float) -> Memory:
    """The memory with what Prometheus knows of the roles' loads since each was last seen.

    What was served stands for what arrived: a queue that grew then is not known any more. Only histories grow; nothing
    that lets a role shrink is made up: a role without a saved wish still begins in caution.
    """
    signals = (Signal.COMPUTED_PROMPT_RATE, Signal.GENERATION_RATE)
    try:
        told = source.history(tuple(groups.values()), signals, now - rules.history_s, now, rules.bin_s)
    except SourceError as error:
        log.warning("no load history from Prometheus; it grows from now on", reason=str(error))
        return memory
    roles = dict(memory.roles)
    added = 0
    for key, group in groups.items():
        known = memory.of(key)
        prompts = told.get(signals[0], {}).get(group.key, []) if key.role is not Role.DECODE else []
        outputs = told.get(signals[1], {}).get(group.key, []) if key.role is not Role.PREFILL else []
        grown = _grown(known, prompts, outputs, rules, now)
        if grown is not known:
            roles[key] = grown
            added += len(grown.prompt_load) + len(grown.output_load) - len(known.prompt_load) - len(known.output_load)
    log.info("load history from Prometheus", bins=added, roles=len(groups))
    return Memory(roles, memory.at)


def _grown(known: RoleMemory, prompts: Points, outputs: Points, rules: Rules, now: float) -> RoleMemory:
    prompt = _extended(known.prompt_load, prompts, rules, now)
    output = _extended(known.output_load, outputs, rules, now)
    if prompt is known.prompt_load and output is known.output_load:
        return known
    return replace(known, prompt_load=prompt, output_load=output)


def _extended(series: Series, points: Points, rules: Rules, now: float) -> Series:
    """The series with the points after its newest sample; laid out anew where it holds nothing."""
    keep = max(2, round(rules.history_s / rules.bin_s))
    since = series.newest[0] if series.newest is not None else -1.0
    fresh = [(at, max(value, 0.0)) for at, value in points if since < at <= now]
    if not fresh:
        return series
    if series.newest is None:
        return Series.of(fresh, rules.bin_s, keep)
    for at, value in fresh:
        series = series.append(at, value)
    return series
