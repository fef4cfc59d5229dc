"""Which of several alike lots each new replica lies in, and when: what the counts of a plan mean on the ground.

The program counts replicas by shelf. A replica stays in one lot for as long as it serves, so that one which outlasts a
gang has to begin elsewhere. First every batch goes to the lot it fits into most closely, what lasts longest first.
Where that leaves some without a place, a small integer program finds places for all, and may choose anew which replica
of a way ends when some do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from optimizer.ladder import Held
from optimizer.program import Program
from optimizer.solve import Limits, solve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optimizer.ladder import Ladder
    from optimizer.point import Open, Serving
    from optimizer.program import Term

MOST_COLUMNS = 5_000
"""Places tried one by one beyond which the first ones found are good enough: the solver would take seconds."""
SEARCH_S = 2.0


class Laid(NamedTuple):
    """Replicas of a way that serve in the periods from `begin` to before `end` on the GPUs of one lot."""

    way: int
    begin: int
    end: int
    lot: int
    replicas: int


class Batch(NamedTuple):
    """Replicas of a way that begin and end together, and the period from which they hold GPUs."""

    way: int
    begin: int
    end: int
    replicas: int
    holding: int


def batches(numbers: Sequence[int], before: int) -> Iterator[tuple[int, int | None, int]]:
    """(begin, end, count) of what begins after `before`; what began last ends first, what was there before last."""
    running: list[list[int]] = [[-1, before]]
    for i, (now, then) in enumerate(zip(numbers, (before, *numbers), strict=False)):
        if now > then:
            running.append([i, now - then])
        gone = max(0, then - now)
        while gone:
            begin, count = running[-1]
            part = min(gone, count)
            gone -= part
            running[-1][1] -= part
            if not running[-1][1]:
                running.pop()
            if begin >= 0:
                yield begin, i, part
    yield from ((begin, None, count) for begin, count in running if begin >= 0)


class _Room:
    """What is left in the lots of one shelf, by width and period."""

    def __init__(self, ladder: Ladder, place: int, widths: Sequence[int], opened: Open) -> None:
        n = len(ladder.points)
        self.left: dict[int, list[tuple[int, list[int]]]] = {}
        for index in ladder.shelves[place].lots:
            lot = ladder.lots[index]
            blocks = opened.get(index, (0,) * n) if not lot.loose else (1,) * n
            self.left[index] = [(width, [lot.slots(width) * count for count in blocks]) for width in widths]

    def fits(self, lot: int, gpus: int, span: range) -> int:
        """Replicas that fit into a lot in all these periods."""
        return min(left[i] // gpus for width, left in self.left[lot] if width <= gpus for i in span)

    def spare(self, lot: int, span: range) -> int:
        """GPUs left in a lot before and after: fewer is closer."""
        _, left = self.left[lot][0]
        return sum(left) - sum(left[i] for i in span)

    def take(self, lot: int, gpus: int, span: range, count: int) -> None:
        """Hold the GPUs of so many replicas."""
        for width, left in self.left[lot]:
            if width <= gpus:
                for i in span:
                    left[i] -= gpus * count


def _closest(ladder: Ladder, room: _Room, some: Sequence[Batch]) -> tuple[list[Laid], int]:
    """Every batch in the lot it fits into most closely; and how many replicas found no place."""
    found, lost = [], 0
    for batch in sorted(some, key=lambda b: (b.holding - b.end, -ladder.ways[b.way].gpus, b)):
        gpus, span, count = ladder.ways[batch.way].gpus, range(batch.holding, batch.end), batch.replicas
        for lot in sorted(room.left, key=lambda lot: (room.spare(lot, span), lot)):
            part = min(count, max(0, room.fits(lot, gpus, span)))
            if part:
                room.take(lot, gpus, span, part)
                found.append(Laid(batch.way, batch.begin, batch.end, lot, part))
                count -= part
        lost += count
        for _ in range(count):
            found += _pieces(room, batch, gpus)
    return found, lost


def _pieces(room: _Room, batch: Batch, gpus: int) -> Iterator[Laid]:
    """A replica that has no place for all its time: where there is room for longest, and so on until its end."""
    begin, holding = batch.begin, batch.holding
    while begin < batch.end:
        lots = sorted(room.left)
        ends = [
            next((i for i in range(holding, batch.end) if room.fits(lot, gpus, range(i, i + 1)) < 1), batch.end)
            for lot in lots
        ]
        end = max(begin + 1, *ends)
        lot = lots[ends.index(max(ends))]
        room.take(lot, gpus, range(holding, end), 1)
        yield Laid(batch.way, begin, end, lot, 1)
        begin = holding = end


def _tried(ladder: Ladder, room: _Room, some: Sequence[Batch]) -> list[tuple[Laid, range]]:
    """Every lot in which replicas of a way could lie between a beginning and an end of that way, and while holding."""
    found = []
    ends = {(batch.way, batch.end) for batch in some}
    for w, begin, holding in sorted({(batch.way, batch.begin, batch.holding) for batch in some}):
        most = sum(batch.replicas for batch in some if (batch.way, batch.begin) == (w, begin))
        for end in sorted(end for way, end in ends if way == w and end > begin):
            span = range(holding, end)
            for lot in room.left:
                part = min(most, room.fits(lot, ladder.ways[w].gpus, span))
                if part > 0:
                    found.append((Laid(w, begin, end, lot, part), span))
    return found


def _searched(ladder: Ladder, room: _Room, some: Sequence[Batch]) -> list[Laid] | None:
    """A place for every replica of a shelf, by integer program; None where there is none, or too much to try."""
    tried = _tried(ladder, room, some)
    if not tried or len(tried) > MOST_COLUMNS:
        return None
    program = Program()
    wanted: dict[tuple[str, int, int], int] = {}
    for batch in some:
        for what in (("begin", batch.way, batch.begin), ("end", batch.way, batch.end)):
            wanted[what] = wanted.get(what, 0) + batch.replicas
    chosen: dict[tuple[str, int, int], list[Term]] = {what: [] for what in wanted}
    used: dict[tuple[int, int, int], list[Term]] = {}
    for one, span in tried:
        column = program.column(f"z[{one.way},{one.begin},{one.end},{one.lot}]", upper=one.replicas, whole=True)
        chosen["begin", one.way, one.begin].append((column, 1.0))
        chosen["end", one.way, one.end].append((column, 1.0))
        gpus = ladder.ways[one.way].gpus
        for width in (width for width, _ in room.left[one.lot] if width <= gpus):
            for i in span:
                used.setdefault((one.lot, width, i), []).append((column, float(gpus)))
    for what, terms in chosen.items():
        program.row(f"{what}", terms, least=wanted[what], most=wanted[what])
    for (lot, width, i), terms in used.items():
        program.row(f"room[{lot},{width},{i}]", terms, most=dict(room.left[lot])[width][i])
    values = solve(program, Limits(SEARCH_S, 0.0)).values
    if values is None:
        return None
    counts = (round(value) for value in values)
    return [one._replace(replicas=count) for (one, _), count in zip(tried, counts, strict=True) if count]


def _by_shelf(ladder: Ladder, serving: Serving, opened: Open) -> Iterator[tuple[int, list[Laid], int]]:
    """For each shelf where and when its new replicas serve, and how many of them found no place for all their time."""
    n = len(ladder.points)
    by_shelf: dict[int, list[Batch]] = {}
    for w, way in enumerate(ladder.ways):
        if way.held is Held.SOURCE and way.shelf is not None:
            for begin, end, count in batches(serving[w], 0):
                batch = Batch(w, begin, n if end is None else end, count, ladder.before(begin, way.occupied_s))
                by_shelf.setdefault(way.shelf, []).append(batch)
    for place, some in sorted(by_shelf.items()):
        lots = ladder.shelves[place].lots
        if len(lots) == 1:
            yield place, [Laid(batch.way, batch.begin, batch.end, lots[0], batch.replicas) for batch in some], 0
            continue
        widths = sorted({ladder.ways[batch.way].gpus for batch in some})
        found, lost = _closest(ladder, _Room(ladder, place, widths, opened), some)
        better = _searched(ladder, _Room(ladder, place, widths, opened), some) if lost else None
        yield (place, found, lost) if better is None else (place, better, 0)


def laid(ladder: Ladder, serving: Serving, opened: Open) -> Iterator[Laid]:
    """Where and when all new replicas serve; one that has to move begins anew there.

    Args:
        ladder: the problem on its time line.
        serving: replicas of each way in each period.
        opened: blocks held of each lot in each period.
    """
    for _, found, _ in _by_shelf(ladder, serving, opened):
        yield from found


def moving(ladder: Ladder, serving: Serving, opened: Open) -> frozenset[str]:
    """Keys of the lots between which replicas would have to move: counted together they promise what none of them has.

    That takes a lot given back, and another opened, while the same replicas serve on.
    """
    places = [place for place, _, lost in _by_shelf(ladder, serving, opened) if lost]
    return frozenset(ladder.lots[lot].key for place in places for lot in ladder.shelves[place].lots)
