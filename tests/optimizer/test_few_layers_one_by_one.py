"""A pool of few replicas is planned layer by layer, as many are as arrays: the same counts, whatever it is like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from optimizer import Demand, Problem, Replicas, Source, Tier, Variant, simple_pool
from optimizer.alone import _facts, _steps, _ways
from optimizer.alone_few import Layer, Price, few, most_layers, walk
from optimizer.alone_many import many
from optimizer.ladder import frame

if TYPE_CHECKING:
    from optimizer import Pool

AMOUNTS = st.floats(0.0, 12.0)
LEADS = st.sampled_from((0.0, 30.0, 90.0, 300.0))


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """One pool with replicas there and on their way, with up to three moments of demand."""
    moments = draw(st.lists(LEADS, min_size=1, max_size=3, unique=True).map(sorted))
    there, coming = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    replicas = [Replicas(there, release_price=draw(st.sampled_from((0.0, 0.4))))] if there else []
    if coming:
        replicas.append(Replicas(coming, lands_in_s=draw(st.sampled_from((30.0, 90.0, 200.0)))))
    minimum = draw(st.integers(0, 3))
    return simple_pool(
        "pool",
        Variant("", "gpu", 1, draw(st.sampled_from((0.7, 1.0, 2.5))), 2.0, tuple(replicas)),
        tuple(Demand(at_s, draw(AMOUNTS)) for at_s in [0.0, *(each for each in moments if each > 0)]),
        shortage_price=draw(st.sampled_from((0.5, 20.0, 100.0))),
        minimum=minimum,
        maximum=minimum + draw(st.integers(10, 20)),
    )


@given(pool=pools(), near=LEADS, far=st.sampled_from((60.0, 500.0)))
def test_one_by_one_as_all_at_once(pool: Pool, near: float, far: float) -> None:
    sources = (
        Source("near", Tier.START, "gpu", None, near, 2.0),
        Source("far", Tier.PROVISION, "gpu", None, far, 2.0, 0.1),
    )
    problem = Problem((pool,), sources)
    steps = frame(problem)
    ways = _ways(problem, steps, 0)
    demand = _steps(pool, steps.points, problem.horizon_s)
    columns = _facts(problem, [0], steps.points)
    facts = {name: np.asarray(values) for name, values in columns.items()}
    at_once = many(np.asarray([demand]), facts, np.asarray(steps.hours), ways)
    one = {name: values[0] for name, values in columns.items()}
    each = few(demand, one, steps.hours, ways, most_layers(demand, one))
    assert (at_once is None) == (each is None)
    for all_at_once, one_by_one in zip(at_once or (), each or (), strict=True):
        np.testing.assert_array_equal(all_at_once, one_by_one)


def test_one_layer_by_hand() -> None:
    """Two periods of an hour. A replica costs 2 an hour and 0.5 to start, and serves from the second period on.

    Worth 3 an hour in both: it is on in the second, 2.5 for a gain of 3. Worth 2.4 there: it stays off.
    """
    ways = (Price(1, 2.0, 0.5),)
    worth = Layer((3.0, 3.0), forced=False, arrived=False, landing=-1, hold=0.0, let_go=0.0)
    assert walk(worth, (1.0, 1.0), ways) == (0, 2)
    assert walk(worth._replace(gain=(3.0, 2.4)), (1.0, 1.0), ways) == (0, 0)
    # It exists at 2 an hour: kept where letting go for 0.2 would save less.
    there = worth._replace(arrived=True, hold=2.0, let_go=0.2)
    assert walk(there, (1.0, 1.0), ways) == (1, 1)
    assert walk(there._replace(gain=(0.0, 0.0)), (1.0, 1.0), ways) == (0, 0)
    # What must be there and can neither exist nor serve at once cannot be met.
    assert walk(worth._replace(forced=True), (1.0, 1.0), ()) is None
