"""Large problems taken apart: a proven bound and a good plan from the prices of what pools share.

Column generation (Dantzig and Wolfe 1960): the master program mixes paths of each unit within the shared supply; its
dual values are prices at which every unit names its cheapest path; new ones become columns. The same prices give a
lower bound of every plan's cost (`pricing`). Prices are smoothed towards the best ones so far, without which they swing
(Wentges 1997). In the end nearly all units follow one path, and a small integer program settles the rest.

How many rounds there is time for is reckoned from the size of the problem, not read from a clock, so that the same
problem gives the same plan on every machine.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from optimizer.batch import Batch, batched
from optimizer.ladder import Held
from optimizer.master import Master
from optimizer.pricing import Pricer
from optimizer.settle import Choice, Settled, Settling, alike, shared_out
from optimizer.units import kinds_of, units

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.point import Open, Serving
    from optimizer.pricing import Path, Prices
    from optimizer.solve import Limits
    from optimizer.units import Unit

    Floats = NDArray[np.float64]

SMOOTHING = 0.5
MOST_ROUNDS = 40
SHARE_OF_TIME = 0.3
"""Of the time limit, for finding prices."""
SECONDS_PER_UNIT = 0.0002
SECONDS_PER_STATE = 2e-8
"""Of one period: both measured at 2.1 GHz; they only have to be of the right order."""
MOST_STATES = 30_000_000
"""Of all units in all periods: 240 MB, and half a minute for ten rounds."""
CLOSE = 0.1
"""Prices are good enough once the bound is this share of the wanted gap from what the master program costs."""
LITTLE = 0.01
"""Share of the wanted gap by which a round without new paths has to raise the bound to be worth another."""
SPARE = 0.1
"""Share of the wanted gap that the last step leaves to rounding."""
TINY = 1e-6
HALF = 0.5
FIRST = 2
"""Paths of each unit with which the master program begins."""
SHARE_TO_DECIDE = 0.08
"""Of the time limit, for giving units their paths one after the other."""
MOST_CHOICES = 400
"""Paths among which the last step chooses, beside those that the units follow already."""
FEW = 6
"""Units up to which the solver makes more of the time than settling again."""
MOST_NEAR = 3
"""Paths of a unit for which others near them are looked at too."""
SHARE_TO_FOLLOW = 0.1
"""Of the time limit, for paths that suit the blocks of the first plan."""


class Apart(NamedTuple):
    """What taking a problem apart found: no plan costs less than `bound`; `guide` are replicas and blocks of one."""

    bound: float
    guide: tuple[Serving, Open] | None


class _Pricing:
    """Prices of all units together: their bound, and paths worth adding."""

    def __init__(self, model: Model, found: Sequence[Unit], rows: Mapping[int, int]) -> None:
        self.pricers = [Pricer(model, unit, rows) for unit in found]
        self.batches = [Batch(model, found, some, rows) for some in batched(found, len(model.ladder.points))]

    def cheapest(self, prices: Prices) -> tuple[float, list[tuple[int, Path]]]:
        """The least that all units cost at these prices, and paths near it that were not named before, by unit."""
        total = 0.0
        paths: list[tuple[int, Path]] = []
        for batch in self.batches:
            least, counts = batch.cheapest(prices)
            total += float(least.sum())
            for n, mine in zip(batch.numbers, counts.tolist(), strict=True):
                paths.extend((n, path) for path in self.pricers[n].paths(tuple(map(tuple, mine)), prices))
        return total, sorted(paths, key=itemgetter(0))

    def rounds(self, limits: Limits, share: float) -> int:
        """Rounds of pricing in a share of the time limit."""
        entries = sum(worth.size for batch in self.batches for worth in batch.worth)
        seconds = SECONDS_PER_UNIT * len(self.pricers) + SECONDS_PER_STATE * entries
        return min(MOST_ROUNDS, int(limits.time_s * share / seconds))


def _begin(model: Model, pricers: Sequence[Pricer], serving: Serving) -> list[tuple[int, Path]]:
    """The paths of a whole plan, with which the master program has an answer to begin with."""
    ladder = model.ladder
    found = []
    for n, pricer in enumerate(pricers):
        unit = pricer.unit
        kept = {w: serving[w] for group in unit.groups for w in group}
        new = [[0] * len(ladder.points) for _ in unit.capacity]
        for w in model.of_role(unit.pool, unit.role):
            way = ladder.ways[w]
            if way.held is Held.SOURCE:
                new[way.variant] = [a + b for a, b in zip(new[way.variant], serving[w], strict=True)]
        found.append((n, pricer.priced(kept, tuple(map(tuple, new)))))
    return [*found, *((n, pricer.bare()) for n, pricer in enumerate(pricers))]


def _converged(master: Master, pricing: _Pricing, limits: Limits) -> float:
    """Add paths until prices are good enough; the best bound proven on the way."""
    best, centre = -np.inf, None
    exact = False
    for _ in range(pricing.rounds(limits, SHARE_OF_TIME)):
        found = master.relaxed(limits.time_s)
        if found is None:
            break
        cost, duals = found[0], found[1]
        at = duals if centre is None or exact else SMOOTHING * centre + (1.0 - SMOOTHING) * duals
        least, paths = pricing.cheapest(master.prices(at))
        bound = least + master.own_bound(at)
        wanted = max(limits.gap, 1e-6) * abs(cost)
        risen = bound > best + wanted * LITTLE
        if bound > best:
            best, centre = bound, at
        added = master.add(paths)
        if cost - best <= wanted * CLOSE or (not added and exact and not risen):
            break
        exact = not added
    return float(best)


def _choices(master: Master, pricing: _Pricing, limits: Limits) -> dict[int, Choice] | None:
    """The paths each unit may still take: those it follows already, the cheapest ones, and others near them."""
    found = master.relaxed(limits.time_s)
    if found is None:
        return None
    _, duals, values = found
    shares = values[len(master.program.names) :]
    reduced = master.reduced(duals)
    ranked: dict[int, list[int]] = {}
    for n in sorted(
        range(len(master.paths)), key=lambda n: (-round(float(shares[n]), 9), round(float(reduced[n]), 9), n)
    ):
        ranked.setdefault(master.paths[n][0], []).append(n)
    most = max(1, MOST_CHOICES // len(ranked))
    found_for = {}
    for unit, some in sorted(ranked.items()):
        likely = int(np.count_nonzero(shares[some] > TINY))
        chosen = some[: max(most, likely)]
        # the paths to begin with, one for each, fit together, and the bare ones fit into anything
        chosen += [n for n in some if n < FIRST * len(ranked) and n not in chosen]
        paths = [master.paths[n][1] for n in chosen]
        for n in some[: min(likely, MOST_NEAR)]:
            paths += pricing.pricers[unit].near(master.paths[n][1])
        found_for[unit] = Choice(paths, likely)
    return found_for


def _settled(
    master: Master, pricing: _Pricing, limits: Limits, enough: float, opened: Open | None = None
) -> Settled | None:
    choices = _choices(master, pricing, limits)
    return None if choices is None else Settling(master, choices, opened).solved(limits, enough)


def _blocks(master: Master, values: Floats) -> Open:
    """The whole blocks nearest to those of the master program."""
    found: Open = {}
    opened, lots = master.model.opened, master.model.ladder.lots
    for members in alike(master).values():
        columns = np.asarray([[master.blocks[column] for column in opened[lot]] for lot in members])
        totals = values[columns].sum(axis=0)
        whole = np.floor(totals + TINY)
        numbers = (whole + (totals - whole >= HALF)).astype(int).tolist()
        found |= shared_out(numbers, members, lots[members[0]])
    return found


def _follow(master: Master, pricing: _Pricing, limits: Limits, opened: Open, rounds: int) -> float | None:
    """Add paths that suit whole blocks: with few units, those found while blocks came in fractions fit them badly.

    Returns what the master program costs with them; None where these blocks are not allowed.
    """
    master.fix(opened)
    for _ in range(rounds):
        found = master.relaxed(limits.time_s)
        if found is None:
            return None
        if not master.add(pricing.cheapest(master.prices(found[1]))[1]):
            return found[0]
    found = master.relaxed(limits.time_s)
    return None if found is None else found[0]


def _decide(master: Master, pricing: _Pricing, limits: Limits) -> None:
    """Give one unit after the other its path for good, adding paths for the others that suit what is left.

    A path that was followed in part may take more than there is when it is followed altogether: then it is barred.
    """
    for _ in range(pricing.rounds(limits, SHARE_TO_DECIDE)):
        found = master.relaxed(limits.time_s)
        chosen = None if found is None else master.undecided(found[2])
        if chosen is None:
            return
        master.bind(chosen, 1.0)
        again = master.relaxed(limits.time_s)
        if again is None:
            master.bind(chosen, 0.0)
        else:
            master.add(pricing.cheapest(master.prices(again[1]))[1])


def _improved(master: Master, pricing: _Pricing, limits: Limits, best: Settled, bound: float, enough: float) -> Settled:
    """Settle again with given blocks, those near the master program's or the plan's, and paths found for them."""
    found = master.relaxed(limits.time_s)
    if found is None:
        return best
    near = _blocks(master, found[2])
    ways = [near] if near == best.opened else [near, best.opened]
    rounds = max(1, pricing.rounds(limits, SHARE_TO_FOLLOW) // len(ways))
    costs = [_follow(master, pricing, limits, opened, rounds) for opened in ways]
    cost, n = min((best.cost if cost is None else cost, n) for n, cost in enumerate(costs))
    first = best.opened
    if cost < best.cost:
        master.fix(ways[n])
        _decide(master, pricing, limits)
        other = _settled(master, pricing, limits, enough, ways[n])
        best = other if other is not None and other.cost < best.cost else best
        master.unbind()
    if best.cost - bound > limits.gap * abs(best.cost):
        master.fix(first)
        other = _settled(master, pricing, limits, enough)
        best = other if other is not None and other.cost < best.cost else best
    return best


def decomposed(model: Model, plan: tuple[Serving, Open], limits: Limits) -> Apart | None:
    """A bound and a guide for a program; None where units have too many states, or there is no time.

    There is no guide where roles have to meet within domains: which lanes they meet on is not looked at here.

    Args:
        model: the program.
        plan: replicas and blocks to begin with (the greedy plan).
        limits: the gap wanted, and the time in all.
    """
    kinds, of = kinds_of(model)
    found = units(model, of)
    if found is None:
        return None
    states = len(model.ladder.points) * sum(unit.states for unit in found)
    round_s = SECONDS_PER_UNIT * len(found) + SECONDS_PER_STATE * states
    if states > MOST_STATES or round_s > limits.time_s * SHARE_OF_TIME:
        return None
    master = Master(model, found, kinds)
    pricing = _Pricing(model, found, master.row_of)
    master.add(_begin(model, pricing.pricers, plan[0]))
    bound = _converged(master, pricing, limits)
    if not np.isfinite(bound):
        return None
    if any(model.domains.values()):
        return Apart(bound, None)
    enough = bound + (1.0 - SPARE) * limits.gap * abs(bound)
    best = _settled(master, pricing, limits, enough)
    if best is not None and len(found) > FEW and best.cost - bound > limits.gap * abs(best.cost):
        best = _improved(master, pricing, limits, best, bound, enough)
    return Apart(bound, None if best is None else (best.serving, best.opened))
