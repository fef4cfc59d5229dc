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
from optimizer.master import Master
from optimizer.pricing import Pricer, paths_of
from optimizer.units import kinds_of, units
from optimizer.whole import Plans, again, near, settled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from optimizer.model import Model
    from optimizer.point import Open, Serving
    from optimizer.pricing import Path, Prices
    from optimizer.solve import Limits
    from optimizer.units import Unit
    from optimizer.watch import Watch

    Floats = NDArray[np.float64]

SMOOTHING, AT_FIRST = 0.5, 0.2
"""The share of the best prices so far in the next; less as long as the bound is `FAR` from the cost, for which the best
so far are not worth much: on made-up fleets that saves two rounds of ten."""
FAR = 0.05
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
STALLED, SLOW = 3, 0.05
"""Rounds in which the bound has to rise by this share of the wanted gap; else it will hardly rise any more."""
SPARE = 0.1
"""Share of the wanted gap that the last step leaves to rounding."""
AT_ONCE = 4
"""Pools planned anew while there are other plans to look at: mostly a few hold all there is to gain."""
FEW = 6
"""Units up to which the solver makes more of the time than settling again."""


class Apart(NamedTuple):
    """What taking a problem apart found: no plan costs less than `bound`; `guide` are replicas and blocks of one.

    `values` are a point of the program that came of it; None where the guide keeps not all rows.
    """

    bound: float
    guide: tuple[Serving, Open] | None
    values: list[float] | None = None


class Pricing:
    """Prices of all units together: their bound, and paths worth adding."""

    def __init__(self, model: Model, found: Sequence[Unit], rows: Mapping[int, int]) -> None:
        self.pricers = [Pricer(model, unit, rows) for unit in found]
        self.batches = [Batch(model, found, some, rows) for some in batched(found, len(model.ladder.points))]
        self.rows = rows
        self.least = np.zeros(len(found))
        self.best: tuple[Prices, Floats] | None = None
        """Prices of the best bound, and the least that each unit costs at them."""

    def cheapest(self, prices: Prices) -> tuple[float, list[tuple[int, Path]]]:
        """The least that all units cost at these prices, and paths near it that were not named before, by unit."""
        total = 0.0
        paths: list[tuple[int, Path]] = []
        for batch in self.batches:
            least, counts = batch.cheapest(prices)
            total += float(least.sum())
            self.least[batch.numbers] = least
            for n, mine in zip(batch.numbers, counts.tolist(), strict=True):
                paths.extend((n, path) for path in self.pricers[n].paths(tuple(map(tuple, mine)), prices))
        return total, sorted(paths, key=itemgetter(0))

    def rounds(self, limits: Limits, share: float) -> int:
        """Rounds of pricing in a share of the time limit."""
        entries = sum(worth.size for batch in self.batches for worth in batch.worth)
        seconds = SECONDS_PER_UNIT * len(self.pricers) + SECONDS_PER_STATE * entries
        return min(MOST_ROUNDS, int(limits.time_s * share / seconds))

    def loss(self, n: int, path: Path) -> float:
        """What a path of a unit costs beyond the unit's cheapest, at the best prices known."""
        if self.best is None:
            return path.cost
        prices, least = self.best
        pricer = self.pricers[n]
        ladder = pricer.model.ladder
        total = path.cost - float(least[n])
        for w, counts in path.kept.items():
            own = ladder.ways[w].hour_price * np.asarray(ladder.hours)
            total += float(np.where(counts, counts * (prices.existing[self.rows[w]] - own), 0.0).sum())
        for kind, counts in zip(pricer.unit.kinds, path.new, strict=True):
            if kind is not None and any(counts):
                begun = np.maximum(np.diff(counts, prepend=0), 0)
                total += float(counts @ prices.hold[kind] + begun @ prices.start[kind])
        return total


def _converged(master: Master, pricing: Pricing, limits: Limits) -> float:
    """Add paths until prices are good enough; the best bound proven on the way."""
    best, centre = -np.inf, None
    exact = False
    history: list[float] = []
    for _ in range(pricing.rounds(limits, SHARE_OF_TIME)):
        found = master.relaxed()
        if found is None:
            break
        cost, duals = found[0], found[1]
        share = AT_FIRST if cost - best > FAR * abs(cost) else SMOOTHING
        at = duals if centre is None or exact else share * centre + (1.0 - share) * duals
        prices = master.prices(at)
        least, paths = pricing.cheapest(prices)
        bound = least + master.own_bound(at)
        wanted = max(limits.gap, 1e-6) * abs(cost)
        risen = bound > best + wanted * LITTLE
        if bound > best:
            best, centre = bound, at
            pricing.best = prices, pricing.least.copy()
        history.append(best)
        stalled = len(history) > STALLED and best - history[-STALLED - 1] < wanted * SLOW
        added = master.add(paths)
        if cost - best <= wanted * CLOSE or stalled or (not added and exact and not risen):
            break
        exact = not added
    return float(best)


def decomposed(model: Model, plan: tuple[Serving, Open], limits: Limits, watch: Watch | None = None) -> Apart | None:
    """A bound and a guide for a program; None where units have too many states, or there is no time.

    There is no guide where roles have to meet within domains: which lanes they meet on is not looked at here.

    Args:
        model: the program.
        plan: replicas and blocks to begin with (the greedy plan).
        limits: the gap wanted, and the time in all, from which rounds are reckoned.
        watch: what the clock leaves.
    """
    kinds, of = kinds_of(model)
    found = units(model, of)
    if found is None:
        return None
    states = len(model.ladder.points) * sum(unit.states for unit in found)
    round_s = SECONDS_PER_UNIT * len(found) + SECONDS_PER_STATE * states
    if states > MOST_STATES or round_s > limits.time_s * SHARE_OF_TIME:
        return None
    master = Master(model, found, kinds, watch or limits.watch())
    pricing = Pricing(model, found, master.row_of)
    # a whole plan, and the bare paths, which fit together whatever else there is
    master.add(paths_of(model, pricing.pricers, plan[0]))
    master.add([(n, pricer.bare()) for n, pricer in enumerate(pricing.pricers)])
    bound = _converged(master, pricing, limits)
    if not np.isfinite(bound):
        return None
    if any(model.domains.values()):
        return Apart(bound, None)
    enough = bound + (1.0 - SPARE) * limits.gap * abs(bound)
    plans = Plans(master, pricing, limits, bound)
    few = len(found) <= FEW
    plans.add(settled(master, pricing, enough, attempts=None if few else 1))
    plans.polish(None if few else AT_ONCE)
    if not few and not plans.done() and plans.settled is not None:
        plans.add(again(master, pricing, limits, plans.settled.opened, enough))
        plans.polish(AT_ONCE)
    if not few and not plans.done():
        plans.add(near(master, pricing, limits, enough))
        plans.polish()
    if not few and not plans.done():
        plans.add(settled(master, pricing, enough))
        plans.polish()
    best = plans.settled
    return Apart(bound, None if best is None else (best.serving, best.opened), plans.values)
