"""Large problems taken apart: a proven bound and a good plan from the prices of what pools share.

Column generation (Dantzig and Wolfe 1960): the master program mixes paths of each unit within the shared supply; its
dual values are prices at which every unit names its cheapest path; new ones become columns. The same prices give a
lower bound of every plan's cost (`pricing`). Prices are smoothed towards the best ones so far, without which they swing
(Wentges 1997). In the end nearly all units follow one path, and a small integer program settles the rest.

How many rounds there is time for is reckoned from the size of the problem, not read from a clock, so that the same
problem gives the same plan on every machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from optimizer.ladder import Held
from optimizer.master import Master
from optimizer.pricing import Pricer
from optimizer.settle import Choice, Settled, Settling
from optimizer.units import kinds_of, units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.point import Open, Serving
    from optimizer.pricing import Path
    from optimizer.solve import Limits

    Floats = NDArray[np.float64]

SMOOTHING = 0.5
MOST_ROUNDS = 40
SHARE_OF_TIME = 0.3
"""Of the time limit, for finding prices."""
SECONDS_PER_UNIT = 0.0001
SECONDS_PER_STATE = 4e-8
"""Of one period, both: measured at 2.1 GHz; they only have to be of the right order."""
MOST_STATES = 30_000_000
"""Of all units in all periods: 240 MB, and half a minute for ten rounds."""
CLOSE = 0.2
"""Prices are good enough once the bound is this share of the wanted gap from what the master program costs."""
SPARE = 0.1
"""Share of the wanted gap that the last step leaves to rounding."""
TINY = 1e-6
MOST_CHOICES = 400
"""Paths among which the last step chooses, beside those that the units follow already."""
SHARE_TO_SETTLE = 0.1
"""Of the time limit, for the last step, each time."""
SHARE_TO_FOLLOW = 0.1
"""Of the time limit, for paths that suit the blocks of the first plan."""


class Apart(NamedTuple):
    """What taking a problem apart found: no plan costs less than `bound`; `guide` are replicas and blocks of one."""

    bound: float
    guide: tuple[Serving, Open] | None


def _affordable(pricers: Sequence[Pricer], limits: Limits, share: float) -> int:
    """Rounds of pricing in a share of the time limit."""
    states = sum(worth.size for pricer in pricers for worth in pricer.worth)
    seconds = SECONDS_PER_UNIT * sum(len(pricer.worth) for pricer in pricers) + SECONDS_PER_STATE * states
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
    return found


def _converged(master: Master, pricers: Sequence[Pricer], rounds: int, limits: Limits) -> float:
    """Add paths until prices are good enough; the best bound proven on the way."""
    best, centre = -np.inf, None
    exact = False
    for _ in range(rounds):
        found = master.relaxed(limits.time_s)
        if found is None:
            break
        cost, duals = found[0], found[1]
        at = duals if centre is None or exact else SMOOTHING * centre + (1.0 - SMOOTHING) * duals
        prices, bound = master.prices(at), master.own_bound(at)
        paths: list[tuple[int, Path]] = []
        for n, pricer in enumerate(pricers):
            least, counts = pricer.cheapest(prices)
            bound += least
            paths.extend((n, path) for path in pricer.paths(counts, prices))
        if bound > best:
            best, centre = bound, at
        added = master.add(paths)
        if cost - best <= max(limits.gap, 1e-6) * CLOSE * abs(cost) or (not added and exact):
            break
        exact = not added
    return float(best)


def _choices(master: Master, limits: Limits) -> dict[int, Choice] | None:
    """The paths each unit may still take: the one it follows already, or those that cost least at the last prices."""
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
        chosen += [unit] if unit not in chosen else []  # the paths to begin with, one for each, fit together
        found_for[unit] = Choice([master.paths[n][1] for n in chosen], likely)
    return found_for


def _settled(master: Master, limits: Limits, enough: float, *, search: bool) -> Settled | None:
    choices = _choices(master, limits)
    last = replace(limits, time_s=SHARE_TO_SETTLE * limits.time_s, gap=SPARE * limits.gap)
    return None if choices is None else Settling(master, choices).solved(last, enough, search=search)


def _follow(master: Master, pricers: Sequence[Pricer], rounds: int, limits: Limits) -> None:
    """Add paths that suit whole blocks: with few units, those found while blocks came in fractions fit them badly."""
    for _ in range(rounds):
        found = master.relaxed(limits.time_s)
        if found is None:
            return
        prices = master.prices(found[1])
        paths = [(n, path) for n, one in enumerate(pricers) for path in one.paths(one.cheapest(prices)[1], prices)]
        if not master.add(paths):
            return


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
    if found is None or len(model.ladder.points) * sum(unit.states for unit in found) > MOST_STATES:
        return None
    pricers = [Pricer(model, unit) for unit in found]
    rounds = _affordable(pricers, limits, SHARE_OF_TIME)
    if rounds < 1:
        return None
    master = Master(model, found, kinds)
    master.add(_begin(model, pricers, plan[0]))
    bound = _converged(master, pricers, rounds, limits)
    if not np.isfinite(bound):
        return None
    if any(model.domains.values()):
        return Apart(bound, None)
    enough = bound + (1.0 - SPARE) * limits.gap * abs(bound)
    best = _settled(master, limits, enough, search=False)
    if best is not None and best.cost > enough:
        master.fix(best.opened)
        _follow(master, pricers, _affordable(pricers, limits, SHARE_TO_FOLLOW), limits)
        other = _settled(master, limits, enough, search=True)
        best = other if other is not None and other.cost < best.cost else best
    return Apart(bound, None if best is None else (best.serving, best.opened))
