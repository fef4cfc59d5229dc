"""The last step of taking a problem apart: one path for each unit, and which lanes its new replicas lie on.

A path's new replicas are sticks: a kind of supply from one period until before another. Sticks alike are
interchangeable, so a small integer program decides how many of each lie on each lane in each period, how many begin
there, which blocks are opened for them, and which of a few paths the units still undecided take. Given the paths this
is exact: handing the places out to single replicas afterwards changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from optimizer.places import batches
from optimizer.program import INF, Program
from optimizer.solve import dive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optimizer.lots import Lot
    from optimizer.master import Lane, Master
    from optimizer.point import Open, Serving
    from optimizer.pricing import Path
    from optimizer.program import Term
    from optimizer.units import Unit


ATTEMPTS = ((False, 0.3), (False, 0.5), (False, 0.0), (True, 0.0))
"""Whether only the paths that are followed already are taken, and from which fraction on numbers are rounded up."""
HALF = 0.5
"""Whole numbers come back from the solver a hair off."""


class Choice(NamedTuple):
    """Paths a unit may take; the first `likely` of them it follows already, in part or altogether."""

    paths: Sequence[Path]
    likely: int


class Stick(NamedTuple):
    """New replicas of a kind of supply for the periods from `begin` to before `end`."""

    kind: int
    begin: int
    end: int


def sticks(unit: Unit, path: Path) -> dict[tuple[int, Stick], int]:
    """New replicas of a path by variant and stick."""
    found: dict[tuple[int, Stick], int] = {}
    for v, (kind, numbers) in enumerate(zip(unit.kinds, path.new, strict=True)):
        for begin, end, count in _spans(numbers) if kind is not None else ():
            key = (v, Stick(kind or 0, begin, end))
            found[key] = found.get(key, 0) + count
    return found


@lru_cache(maxsize=16_384)
def _spans(numbers: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
    """(begin, end, count) of new replicas; most numbers come again with other paths."""
    return tuple((begin, len(numbers) if end is None else end, count) for begin, end, count in batches(numbers, 0))


def alike(master: Master) -> dict[tuple[object, ...], list[int]]:
    """Lots with blocks, those together that are on one shelf and alike; gangs and what is held stay by themselves."""
    ladder = master.model.ladder
    found: dict[tuple[object, ...], list[int]] = {}
    shelf = {lot: n for n, shelf in enumerate(ladder.shelves) for lot in shelf.lots}
    for index in master.model.opened:
        lot = ladder.lots[index]
        own = index if lot.held or lot.priority is not None else -1
        found.setdefault((own, shelf[index], replace(lot, key="", domain="")), []).append(index)
    return found


def shared_out(numbers: Sequence[int], members: Sequence[int], lot: Lot) -> Open:
    """Blocks of each of several lots that are alike: every block stays with its lot, and the oldest are given back."""
    if len(members) == 1:
        return {members[0]: tuple(numbers)}
    opened = {index: [0] * len(numbers) for index in members}
    running: list[int] = []
    for i, number in enumerate(numbers):
        del running[: max(0, len(running) - number)]
        for index in members:
            most = lot.blocks if lot.blocks is not None else number
            running += [index] * min(number - len(running), most - running.count(index))
        for index in running:
            opened[index][i] += 1
    return {index: tuple(counts) for index, counts in opened.items()}


class Settled(NamedTuple):
    """What it costs, replicas of every way, and blocks of every lot, in every period."""

    cost: float
    serving: Serving
    opened: Open


class Settling:
    """The integer program of the last step."""

    def __init__(self, master: Master, choices: Mapping[int, Choice], given: Open | None = None) -> None:
        self.master, self.choices = master, choices
        self.program = Program()
        self.rows: list[list[Term]] = [[] for _ in master.shared.rows]
        self.blocks: dict[int, int] = {}
        self.picks: list[tuple[int, Path, int]] = []
        self.unlikely: list[int] = []
        self.wanted: dict[Stick, list[Term]] = {}
        self.places: dict[Stick, list[tuple[Lane, list[int]]]] = {}
        self.alike = alike(master)
        self.given = given
        self._blocks()
        self._paths()
        for stick in sorted(self.wanted):
            self._lanes(stick)
        source = master.model.program
        for row, terms in zip(master.shared.rows, self.rows, strict=True):
            self.program.row(source.rows[row], terms, least=source.least[row], most=source.most[row])

    def _blocks(self) -> None:
        """Blocks of lots that differ in nothing but their place on the shelf are columns of the first of them."""
        model = self.master.model
        for members in self.alike.values():
            first = members[0]
            for column in (*model.opened[first], *model.bought[first]):
                self.blocks[column] = self._copied(column, model.program.upper[column] * len(members))
            if self.given is not None:
                for i, column in enumerate(model.opened[first]):
                    number = float(sum(self.given[lot][i] for lot in members))
                    self.program.lower[self.blocks[column]] = self.program.upper[self.blocks[column]] = number

    def _copied(self, column: int, upper: float) -> int:
        source = self.master.model.program
        number = self.program.column(
            source.names[column],
            upper=upper,
            lower=source.lower[column],
            cost=source.cost[column],
            whole=source.whole[column],
        )
        for row, value in self.master.shared.terms(column):
            self.rows[row].append((number, value))
        return number

    def _paths(self) -> None:
        for n, (paths, likely) in self.choices.items():
            lower = 1.0 if len(paths) == 1 else 0.0
            columns: list[int] = []
            for path in paths:
                column = self.program.column(
                    f"z[{n},{len(columns)}]", upper=1.0, lower=lower, cost=path.cost, whole=True
                )
                if len(columns) >= likely:
                    self.unlikely.append(column)
                columns.append(column)
                self.picks.append((n, path, column))
                for row, amount in self.master.occupied(path).items():
                    self.rows[row].append((column, amount))
                for (_, stick), count in sticks(self.master.units[n], path).items():
                    terms = self.wanted.setdefault(stick, [])
                    if terms and terms[-1][0] == column:
                        terms[-1] = (column, terms[-1][1] - count)
                    else:
                        terms.append((column, -float(count)))
            if len(columns) > 1:
                self.program.row(f"one[{n}]", [(column, 1.0) for column in columns], least=1.0, most=1.0)

    def _lanes(self, stick: Stick) -> None:
        lanes = [lane for lane in self.master.lanes if lane.kind == stick.kind and lane.first < stick.end]
        holding: list[list[Term]] = [[] for _ in range(stick.begin, stick.end)]
        found = self.places[stick] = []
        model = self.master.model
        for lane in lanes:
            held: list[int] = []
            for i in range(max(stick.begin, lane.first), stick.end):
                x, u = model.serving[lane.way][i - lane.first], model.begun[lane.way][i - lane.first]
                before = [(held[-1], -1.0)] if held else []
                held.append(self._copied(x, INF))
                begun = self._copied(u, INF)
                self.program.row("starts", ((held[-1], 1.0), *before, (begun, -1.0)), most=0.0)
                holding[i - stick.begin].append((held[-1], 1.0))
            found.append((lane, held))
        for terms in holding:
            self.program.row("wanted", [*terms, *self.wanted[stick]], least=0.0)

    def solved(self, enough: float, attempts: int | None = None) -> Settled | None:
        """Replicas of every way and blocks of every lot in every period, by rounding; None where that found nothing.

        It ends early with a plan that costs no more than `enough`.
        """
        values = self._rounded(enough, attempts)
        if values is None:
            return None
        model = self.master.model
        opened: Open = {}
        for members in self.alike.values():
            numbers = [round(values[self.blocks[column]]) for column in model.opened[members[0]]]
            opened |= shared_out(numbers, members, model.ladder.lots[members[0]])
        return Settled(self.program.worth(values), self._placed(values), opened)

    def _rounded(self, enough: float, attempts: int | None) -> Sequence[float] | None:
        """The best of several ways to round, with and without the paths that nobody follows."""
        picks = [column for _, _, column in self.picks]
        blocks = [column for column in self.blocks.values() if self.program.whole[column]]
        rest = [column for column, whole in enumerate(self.program.whole) if whole]
        upper = list(self.program.upper)
        best: Sequence[float] | None = None
        for few, up_from in ATTEMPTS[:attempts]:
            for column in self.unlikely:
                self.program.upper[column] = 0.0 if few else upper[column]
            found = dive(self.program, (blocks, picks, rest), self.master.watch, up_from)
            if found is not None and (best is None or self.program.worth(found) < self.program.worth(best)):
                best = found
            if best is not None and self.program.worth(best) <= enough:
                break
        self.program.upper = upper
        return best

    def _placed(self, values: Sequence[float]) -> Serving:
        ladder = self.master.model.ladder
        serving = [[0] * self.master.periods for _ in ladder.ways]
        rooms = {
            stick: [[0] * (stick.end - len(held)) + [round(values[column]) for column in held] for _, held in places]
            for stick, places in self.places.items()
        }
        for n, path, column in self.picks:
            if values[column] < HALF:
                continue
            unit = self.master.units[n]
            for w, numbers in path.kept.items():
                serving[w] = list(numbers)
            for (v, stick), count in sorted(sticks(unit, path).items()):
                ways = self.master.ways(unit, v)
                lanes = [ways[self.master.place[lane.way]] for lane, _ in self.places[stick]]
                for _ in range(count):
                    _lay(serving, lanes, rooms[stick], stick)
        return tuple(map(tuple, serving))


def _lay(serving: list[list[int]], ways: Sequence[int], rooms: Sequence[list[int]], stick: Stick) -> None:
    """Lay one replica where there is room for longest, and so on until its end."""
    i = stick.begin
    while i < stick.end:
        reach = [next((k for k in range(i, stick.end) if room[k] <= 0), stick.end) for room in rooms]
        stop = max(reach, default=i)
        if stop == i:
            i += 1
            continue
        at = reach.index(stop)
        for k in range(i, stop):
            rooms[at][k] -= 1
            serving[ways[at]][k] += 1
        i = stop
