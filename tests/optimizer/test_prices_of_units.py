"""What units cost at given prices: never more than any path of theirs, and what comes back is not what was let go."""

from __future__ import annotations

import random

import numpy as np
import pytest
from test_decomposition import mixed

from optimizer import Demand, Pool, Problem, Replicas, Role, ServiceClass, Source, Tier, Variant, simple_pool
from optimizer.algebra import build
from optimizer.batch import Batch, batched
from optimizer.ladder import ladder
from optimizer.master import Master
from optimizer.pricing import Path, Pricer, Prices
from optimizer.units import kinds_of, units


def apart(problem: Problem) -> tuple[Master, list[Pricer], list[Batch]]:
    model = build(ladder(problem))
    kinds, of = kinds_of(model)
    found = units(model, of)
    assert found is not None
    master = Master(model, found, kinds)
    pricers = [Pricer(model, unit, master.row_of) for unit in found]
    groups = batched(found, len(model.ladder.points))
    return master, pricers, [Batch(model, found, some, master.row_of) for some in groups]


def cost(master: Master, pricer: Pricer, prices: Prices, path: Path) -> float:
    """A path's own cost with existing replicas at their price here, and its new ones at theirs."""
    steps, total = master.model.ladder, path.cost
    for w, counts in path.kept.items():
        for i, count in enumerate(counts):
            if count:
                own = steps.ways[w].hour_price * steps.hours[i]
                total += count * (float(prices.existing[master.row_of[w], i]) - own)
    for v, counts in enumerate(path.new):
        kind = pricer.unit.kinds[v]
        for count, before, i in zip(counts, (0, *counts), range(len(counts)), strict=False):
            if kind is not None:
                total += count * float(prices.hold[kind, i]) + max(0, count - before) * float(prices.start[kind, i])
    return total


@pytest.mark.parametrize("chunk", range(2))
def test_no_path_costs_less_than_its_unit_whatever_refunds_are_granted(chunk: int) -> None:
    near = compared = 0
    for seed in range(chunk * 8, chunk * 8 + 8):
        master, pricers, batches = apart(mixed(seed))
        rng, luck = np.random.default_rng(seed), random.Random(seed)  # noqa: S311 - test problems, not secrets
        prices = master.prices(rng.normal(size=len(master.program.rows)))
        for batch in batches:
            for v in batch.variants:
                batch.part[v][...] = rng.random(batch.part[v].shape) * batch.lasting[v]
            least, ranked = batch.cheapest(prices)
            for low, counts, n in zip(least.tolist(), ranked.tolist(), batch.numbers, strict=True):
                for _ in range(12):
                    for path in pricers[n].paths(tuple(map(tuple, counts)), prices):
                        assert cost(master, pricers[n], prices, path) >= low - 1e-6 * (1.0 + abs(low)), (seed, n)
                        compared += 1
                        near += cost(master, pricers[n], prices, path) <= low + 0.5
                    v, begin = luck.randrange(len(counts[0])), luck.randrange(len(counts))
                    for row in counts[begin : luck.randrange(begin, len(counts)) + 1]:
                        row[v] = min(pricers[n].unit.tops[v], max(0, row[v] + luck.choice([-1, 1])))
    assert compared > 200
    assert near > 20  # it is a bound worth having


def test_a_replica_let_go_in_a_dip_does_not_come_back() -> None:
    # One replica runs at 1/h; 10 units are wanted except from 100 s to 150 s, at 9/h for each one lacking. A new one
    # costs 3/h. Keeping it costs 1 in all. Letting it go saves 50 s (0.014) and costs 2/h more for the 3450 s that the
    # new one then serves. Who only counts replicas sees one that left and one that came, and charges the difference
    # for the 10 s period of the start alone: 1 - 50 / 3600 + 2 x 10 / 3600 = 0.992. Refunds grow until all is charged.
    one = Variant("", "A", 1, 10.0, 1.0, (Replicas(1),))
    points = (0.0, 100.0, 150.0, 160.0, 400.0)
    demand = tuple(Demand(at_s, 0.0 if at_s == 100.0 else 10.0) for at_s in points)
    pool = simple_pool("p", one, demand, shortage_price=9.0)
    problem = Problem((pool,), (Source("s", Tier.START, "A", 1, 0.0, 3.0),), points_s=points)
    master, _, batches = apart(problem)
    hours = np.asarray(master.model.ladder.hours)
    free = master.prices(np.zeros(len(master.program.rows)))
    prices = free._replace(hold=3.0 * hours[None], start=np.full((1, len(hours)), 0.0))
    bounds = [float(batches[0].cheapest(prices)[0][0]) for _ in range(40)]
    assert bounds[0] == pytest.approx(1 - 50 / 3600 + 2 * 10 / 3600, abs=1e-9)
    assert max(bounds) == pytest.approx(1.0, abs=1e-9)
    assert bounds[-1] == pytest.approx(1.0, abs=1e-9)


def test_paths_near_a_path_have_one_replica_fewer_or_more() -> None:
    # Two variants at points 0, 60 and 600 s: 2, 3, 3 new ones of a, none of b. Near that: one a fewer everywhere
    # (1, 2, 2), fewer at the peak (2, 2, 2), one more a or b everywhere, and each of the two fewer with one more b.
    variants = (Variant("a", "A", 1, 10.0), Variant("b", "B", 1, 10.0))
    demand = tuple(Demand(at_s, 30.0) for at_s in (0.0, 60.0, 600.0))
    pool = Pool("p", demand, (Role("", variants),), (ServiceClass("", 1.0, 5.0),))
    sources = tuple(Source(k, Tier.START, k, 9, 0.0) for k in "AB")
    model = build(ladder(Problem((pool,), sources)))
    kinds, of = kinds_of(model)
    found = units(model, of)
    assert found is not None
    assert len(kinds) == 2
    pricer = Pricer(model, found[0], {})
    near = pricer.near(pricer.priced({}, ((2, 3, 3), (0, 0, 0))))
    assert {path.new for path in near} == {
        ((1, 2, 2), (0, 0, 0)),
        ((2, 2, 2), (0, 0, 0)),
        ((3, 4, 4), (0, 0, 0)),
        ((2, 3, 3), (1, 1, 1)),
        ((1, 2, 2), (1, 1, 1)),
        ((2, 2, 2), (1, 1, 1)),
    }
    # its own cost is the shortage: 30 - 10 n units at 5/h, here 10 in each period of (1, 2, 2) but the first, where 20
    hours = model.ladder.hours
    assert near[0].cost == pytest.approx(5 * (20 * hours[0] + 10 * hours[1] + 10 * hours[2]))
