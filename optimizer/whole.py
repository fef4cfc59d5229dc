"""Whole plans from the master program: units that follow several paths in part get one each, and blocks become whole.

Several plans are looked at, the cheap ones first: as the master program has it; with paths found for the blocks of that
plan; with the whole blocks nearest to the master program's, units getting their paths one after the other. The best is
made better pool by pool (`polish`), those first that lose most by the prices of the bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from optimizer.point import breaches, complete
from optimizer.polish import affordable, polished
from optimizer.pricing import paths_of
from optimizer.settle import Choice, Settled, Settling, alike, shared_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optimizer.decompose import Pricing
    from optimizer.master import Master
    from optimizer.point import Open
    from optimizer.solve import Limits

    Floats = NDArray[np.float64]

ATTEMPTS = 2
"""Ways to round the last step where there are more plans to come: others are seldom better, and pools are planned anew
from the best."""
TINY = 1e-6
HALF = 0.5
FIRST = 2
"""Paths of each unit with which the master program begins."""
SHARE_TO_DECIDE = 0.08
"""Of the time limit, for giving units their paths one after the other."""
MOST_CHOICES = 400
"""Paths among which the last step chooses, beside those that the units follow already."""
MOST_NEAR = 3
"""Paths of a unit for which others near them are looked at too."""
SHARE_TO_FOLLOW = 0.03
"""Of the time limit, for paths that suit the blocks of the first plan."""


def _choices(master: Master, pricing: Pricing) -> dict[int, Choice] | None:
    """The paths each unit may still take: those it follows already, the cheapest ones, and others near them."""
    found = master.relaxed()
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


def settled(
    master: Master, pricing: Pricing, enough: float, *, opened: Open | None = None, attempts: int | None = None
) -> Settled | None:
    """A whole plan as the master program has it.

    Args:
        master: the program over all units.
        pricing: makes paths near those that are followed.
        enough: a cost at which to end early.
        opened: the blocks of every lot, where they are given.
        attempts: ways to round, all of them by default.
    """
    choices = _choices(master, pricing)
    return None if choices is None else Settling(master, choices, opened).solved(enough, attempts)


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


def _follow(master: Master, pricing: Pricing, opened: Open, rounds: int) -> float | None:
    """Add paths that suit whole blocks: with few units, those found while blocks came in fractions fit them badly.

    Returns what the master program costs with them; None where these blocks are not allowed.
    """
    master.fix(opened)
    for _ in range(rounds):
        found = master.relaxed()
        if found is None:
            return None
        if not master.add(pricing.cheapest(master.prices(found[1]))[1]):
            return found[0]
    found = master.relaxed()
    return None if found is None else found[0]


def _decide(master: Master, pricing: Pricing, limits: Limits) -> None:
    """Give one unit after the other its path for good, adding paths for the others that suit what is left.

    A path that was followed in part may take more than there is when it is followed altogether: then it is barred.
    """
    for _ in range(pricing.rounds(limits, SHARE_TO_DECIDE)):
        found = master.relaxed()
        chosen = None if found is None else master.undecided(found[2])
        if chosen is None:
            return
        master.bind(chosen, 1.0)
        again = master.relaxed()
        if again is None:
            master.bind(chosen, 0.0)
        else:
            master.add(pricing.cheapest(master.prices(again[1]))[1])


def near(master: Master, pricing: Pricing, limits: Limits, enough: float) -> Settled | None:
    """Settle with the whole blocks nearest to the master program's, and paths found for them."""
    found = master.relaxed()
    if found is None:
        return None
    blocks = _blocks(master, found[2])
    if _follow(master, pricing, blocks, max(1, pricing.rounds(limits, SHARE_TO_FOLLOW) // 2)) is None:
        return None
    _decide(master, pricing, limits)
    made = settled(master, pricing, enough, opened=blocks, attempts=ATTEMPTS)
    master.unbind()
    return made


def again(master: Master, pricing: Pricing, limits: Limits, opened: Open, enough: float) -> Settled | None:
    """Settle with paths found for the blocks of a plan, which may still change."""
    if _follow(master, pricing, opened, max(1, pricing.rounds(limits, SHARE_TO_FOLLOW) // 2)) is None:
        return None
    return settled(master, pricing, enough, attempts=ATTEMPTS)


class Plans:
    """The best of several plans by what they cost once they are made better pool by pool."""

    def __init__(self, master: Master, pricing: Pricing, limits: Limits, bound: float) -> None:
        self.master, self.pricing, self.limits, self.bound = master, pricing, limits, bound
        self.settled: Settled | None = None
        self.values: list[float] | None = None
        self.cost = np.inf
        self.steps = affordable(master.model, limits)

    def done(self) -> bool:
        """Whether the best is as near the bound as is wanted."""
        return self.values is not None and self.cost - self.bound <= self.limits.gap * abs(self.cost)

    def add(self, found: Settled | None) -> None:
        """Look at a plan."""
        if found is None or (self.settled is not None and found.cost >= self.settled.cost):
            return
        self.settled = found
        model = self.master.model
        values = complete(model, found.serving, found.opened)
        if not breaches(model.program, values) and model.program.worth(values) < self.cost:
            self.values, self.cost = values, model.program.worth(values)

    def polish(self, most: int | None = None) -> None:
        """Make the best better, first the pools that cost most beyond their cheapest paths; up to `most` of them."""
        model = self.master.model
        if self.values is not None and self.settled is not None and not self.done():
            losses = [0.0] * len(model.ladder.problem.pools)
            for n, path in paths_of(model, self.pricing.pricers, self.settled.serving):
                losses[self.pricing.pricers[n].unit.pool] += self.pricing.loss(n, path)
            steps = self.steps if most is None else min(self.steps, most)
            self.steps -= steps
            watch = self.master.watch
            values = polished(model, self.values, self.bound, self.limits, watch, losses=losses, steps=steps)
            if not breaches(model.program, values):
                self.values, self.cost = values, model.program.worth(values)
