"""Foreseeing many loads with little work at a time: groups of loads on one grid, a few steps of a few groups a call.

A step of 128 loads costs 13 ms, of one 4, and a week of history is a thousand of them. Whoever must answer within
a tick therefore hands in what it knows, and lets a bounded number of steps be made at each tick; groups take turns, and
a group that has not caught up with the present says nothing yet. The work is counted, not timed, so that the same input
gives the same bits again.

    crowd = Crowd.of(grid)
    crowd = crowd.laid_out(names, histories)            # once, and whenever the names change
    crowd = crowd.heard(bin_, values)                   # the bins up to this one are over; values(name, bin) or None
    crowd = crowd.worked(forecaster, WORK)
    crowd.outlook(name)                                 # what was said of it, and at which bin
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from forecasting.intervals import JUDGED_DAYS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from forecasting.intervals import Bounded, BoundedState
    from forecasting.online import Grid
    from forecasting.series import Floats

MOST_LOADS = 128
"""In a group: the cost of a load falls to a fortieth from 1 to 128 of them, and hardly any further."""
MOST_HEARD = 2
"""Groups that are told of new bins in one call."""
WORK = 30.0
"""Of a call, in about milliseconds of a core: see `_cost`. At least one step is made."""
KEEP_DAYS = 8
"""Of history kept: what the lags within a week need."""
BACKWARDS = 6
"""Bins that a clock may go back before its load is begun anew."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What was said of one load: upper bounds at `horizons` bins after `bin_`, horizons x quantiles."""

    grid: Grid
    bin_: int
    bounds: Sequence[Sequence[float]]
    seen: float

    def at(self, time: float) -> Sequence[float] | None:
        """Bounds by quantile for a moment, from the next longer horizon; None where it lies beyond them all."""
        ahead = math.floor(time / self.grid.step_s) - self.bin_
        for horizon, bounds in zip(self.grid.horizons, self.bounds, strict=True):
            if horizon >= ahead:
                return bounds
        return None


@dataclass(frozen=True, slots=True)
class Past:
    """Bins of one load up to `newest`, NaN where nothing was observed."""

    newest: int
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Loads that are stepped together.

    Attributes:
        names: of its loads, in the order of the state's rows.
        state: after the last bin stepped; None before the first.
        waiting: bins still to be stepped, oldest first.
        newest: last bin heard of, stepped or waiting; None before any.
        said, seen: bounds by load, horizon and quantile after the last step, and bins each load was observed in.
    """

    names: tuple[str, ...]
    state: BoundedState | None = None
    waiting: tuple[Floats, ...] = ()
    newest: int | None = None
    said: Sequence[Sequence[Sequence[float]]] = ()
    seen: Sequence[float] = ()

    def history(self, keep: int) -> tuple[int, Floats] | None:
        """The newest bin and up to `keep` bins up to it, loads x bins; None where nothing was ever heard."""
        if self.newest is None:
            return None
        rows = list(self.waiting)
        if self.state is not None:
            past = self.state.past
            rows = [np.where(known, row, np.nan) for row, known in zip(past.rows, past.known, strict=True)] + rows
        return self.newest, np.stack(rows[-keep:], axis=1)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Every load by its group.

    Attributes:
        grid: of all of them.
        groups: in the order they were laid out.
        places: group and row by name.
        turn: whose turn it is to be told of new bins.
    """

    grid: Grid
    groups: tuple[Group, ...] = ()
    places: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    turn: int = 0

    @property
    def keep(self) -> int:
        """Bins of history kept."""
        return KEEP_DAYS * self.grid.day

    def histories(self) -> dict[str, Past]:
        """What is known of each load, by name."""
        found = {}
        for group in self.groups:
            known = group.history(self.keep)
            if known is not None:
                found.update({name: Past(known[0], row) for name, row in zip(group.names, known[1], strict=True)})
        return found

    def laid_out(self, names: Sequence[str], histories: Mapping[str, Past] | None = None) -> Crowd:
        """The crowd of these loads: those there are go on, others begin with what is told of them.

        Where many came and went one by one, so that there are more than twice the groups there need be, all are laid
        out anew and stepped again.
        """
        told = histories or {}
        if not told and len(names) == len(self.places) and all(name in self.places for name in names):
            return self
        wanted = set(names)
        groups = [group for group in self.groups if not wanted.isdisjoint(group.names)]
        if len(groups) > 2 * math.ceil(len(names) / MOST_LOADS) + 2:
            told = {**self.histories(), **told}
            groups = []
        there = {name for group in groups for name in group.names}
        new = [name for name in names if name not in there]
        for start in range(0, len(new), MOST_LOADS):
            groups.append(self._begun(tuple(new[start : start + MOST_LOADS]), told))
        places = {name: (g, row) for g, group in enumerate(groups) for row, name in enumerate(group.names)}
        return replace(self, groups=tuple(groups), places=places)

    def _begun(self, names: tuple[str, ...], told: Mapping[str, Past]) -> Group:
        """A group with these histories waiting."""
        known = [told[name] for name in names if name in told and len(told[name].values)]
        if not known:
            return Group(names)
        newest = max(past.newest for past in known)
        first = max(newest - self.keep + 1, min(past.newest - len(past.values) + 1 for past in known))
        rows = np.full((newest - first + 1, len(names)), np.nan)
        for place, name in enumerate(names):
            past = told.get(name)
            if past is not None and past.newest >= first:
                values = past.values[-(past.newest - first + 1) :]
                rows[past.newest - first + 1 - len(values) : past.newest - first + 1, place] = values
        return Group(names, waiting=tuple(rows), newest=newest)

    def heard(self, bin_: int, value: Callable[[str, int], float | None]) -> Crowd:
        """With the bins up to `bin_` waiting, for some groups: the others have their turn at the next calls.

        A group that hears of nothing for longer than a history is begun anew, and so is one whose clock went back.
        """
        groups = list(self.groups)
        turn, told = self.turn, 0
        for step in range(len(groups)):
            place = (self.turn + step) % len(groups)
            if told == MOST_HEARD:
                break
            turn = (place + 1) % len(groups)
            known = self._told(groups[place], bin_, value)
            told += known is not groups[place]
            groups[place] = known
        return replace(self, groups=tuple(groups), turn=turn)

    def _told(self, group: Group, bin_: int, value: Callable[[str, int], float | None]) -> Group:
        newest = group.newest
        if newest is not None and not bin_ - self.keep < newest <= bin_ + BACKWARDS:
            group, newest = Group(group.names), None
        first = bin_ if newest is None else newest + 1
        rows = [
            np.array([math.nan if (load := value(name, each)) is None else load for name in group.names])
            for each in range(first, bin_ + 1)
        ]
        if not rows or (newest is None and all(np.isnan(row).all() for row in rows)):
            return group
        return replace(group, waiting=(*group.waiting, *rows), newest=bin_)

    def worked(self, forecaster: Bounded, work: float = WORK) -> Crowd:
        """After some steps: first those groups that are nearest to the present, then the others in their order."""
        behind = [place for place, group in enumerate(self.groups) if group.waiting]
        if not behind:
            return self
        behind.sort(key=lambda place: (len(self.groups[place].waiting) > 1, place))
        groups = list(self.groups)
        for place in behind:
            group = groups[place]
            costs = np.cumsum([_cost(group, left, self.grid) for left in range(len(group.waiting), 0, -1)])
            steps = max(1, int(np.searchsorted(costs, work, side="right")))
            groups[place] = _stepped(group, self.grid, forecaster, steps)
            work -= float(costs[steps - 1])
            if work < float(costs[0]):
                break
        return replace(self, groups=tuple(groups))

    def outlook(self, name: str) -> Outlook | None:
        """What was last said of a load; None while it is not known, or its group has not caught up."""
        place = self.places.get(name)
        if place is None:
            return None
        group = self.groups[place[0]]
        if group.state is None or group.state.past.bin_ is None or len(group.waiting) > 1 or not group.said:
            return None
        return Outlook(self.grid, group.state.past.bin_, group.said[place[1]], group.seen[place[1]])


def _cost(group: Group, left: int, grid: Grid) -> float:
    """Of one step, milliseconds, measured with four horizons and quantiles; old bins are stepped without bounds."""
    if left > JUDGED_DAYS * grid.day:
        return 1.5 + 0.015 * len(group.names)
    return 4.0 + 0.075 * len(group.names)


def _stepped(group: Group, grid: Grid, forecaster: Bounded, steps: int) -> Group:
    state = group.state if group.state is not None else forecaster.begin(grid, len(group.names))
    first = (group.newest or 0) - len(group.waiting) + 1
    for step in range(steps):
        left = len(group.waiting) - step
        state = forecaster.recalled(state, first + step, group.waiting[step], left)
    group = replace(group, state=state, waiting=group.waiting[steps:])
    if group.waiting:
        return group
    return replace(group, said=forecaster.ahead(state).tolist(), seen=state.past.seen.tolist())
