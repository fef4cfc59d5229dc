"""Load history from Prometheus, for a start without memory or after being away: four range queries for all roles."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import structlog

from autoscaler.foresight_days import GRID, KINDS, OUTPUTS, PROMPTS, name_of, nobody
from autoscaler.model import Role
from forecasting.series import LARGEST, Series
from forecasting.staggered import Past
from metrics_adapter.signals import Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from autoscaler.memory import Memory, RoleMemory
    from autoscaler.model import RoleKey
    from autoscaler.rules import Rules
    from metrics_adapter.signals import Group

log = structlog.get_logger(__name__)

Points = list[tuple[float, float]]


class Historian(Protocol):
    """A metric source that remembers."""

    def history(
        self,
        groups: Sequence[Group],
        signals: Collection[Signal],
        start: float,
        end: float,
        step: float,
        window_s: float | None = None,
    ) -> Mapping[Signal, Mapping[str, Points]]:
        """(Unix time, value) by signal and group's key, rates over `window_s`. Raises SourceError."""
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
    return replace(memory, roles=roles)


def recalled_days(
    memory: Memory, source: Historian, groups: Mapping[RoleKey, Group], rules: Rules, now: float
) -> Memory:
    """The memory with the loads over days, as means of ten minutes; what is remembered already stays as it is.

    A rate over ten minutes, asked for at the end of each bin, is the bin's mean.
    """
    if not rules.days:
        return memory
    signals = {PROMPTS: Signal.COMPUTED_PROMPT_RATE, OUTPUTS: Signal.GENERATION_RATE}
    end = math.floor(now / GRID.step_s) * GRID.step_s
    start = end - (memory.days.keep - 1) * GRID.step_s
    try:
        told = source.history(tuple(groups.values()), tuple(signals.values()), start, end, GRID.step_s, GRID.step_s)
    except SourceError as error:
        log.warning("no days of load from Prometheus; they are gathered from now on", reason=str(error))
        return memory
    known, found = memory.days.histories(), {}
    for key, group in groups.items():
        for kind in KINDS[key.role]:
            points, name = told.get(signals[kind], {}).get(group.key, []), name_of(key, kind)
            past = _merged(known.get(name), points, round(end / GRID.step_s) - 1, memory.days.keep)
            if past is not None:
                found[name] = past
    log.info("days of load from Prometheus", loads=len(found), of=len(groups))
    return replace(memory, days=nobody().laid_out(tuple(found), found)) if found else memory


def _merged(known: Past | None, points: Points, newest: int, keep: int) -> Past | None:
    """Bins up to `newest`, as remembered where they are, else as told; None where there is nothing."""
    values = np.full(keep, np.nan)
    for at, value in points:
        place = round(at / GRID.step_s) - 1 - newest + keep - 1
        if 0 <= place < keep and 0 <= value <= LARGEST:
            values[place] = value
    if known is not None:
        places = np.arange(known.newest - len(known.values) + 1, known.newest + 1) - newest + keep - 1
        usable = (places >= 0) & (places < keep) & np.isfinite(known.values)
        values[places[usable]] = known.values[usable]
    seen = np.flatnonzero(np.isfinite(values))
    return Past(newest, values[seen[0] :]) if len(seen) else None


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
