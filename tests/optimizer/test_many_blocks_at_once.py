"""Where one offer has many nodes the greedy plan takes them at once: the same plan as one node after the other."""

from __future__ import annotations

from optimizer import Demand, Offer, Problem, Rules, Variant, simple_pool
from optimizer.algebra import build
from optimizer.greedy import greedy
from optimizer.greedy_state import State
from optimizer.ladder import ladder
from optimizer.point import breaches, complete


def problem(nodes: int | None, demand: float = 1e6, budget: float | None = None, gpus: int = 3) -> Problem:
    """One pool for an hour, replicas of 10 units on so many GPUs of nodes of 8 at 8 an hour; a unit lacking costs 1."""
    pool = simple_pool("p", Variant("", "A", gpus, 10.0), (Demand(0, demand),), shortage_price=1.0, maximum=10**6)
    return Problem((pool,), offers=(Offer("n", "A", 8, 8.0, 0.0, quota=nodes),), rules=Rules(budget_per_hour=budget))


def nodes_and_replicas(given: Problem) -> tuple[int, int]:
    """What the greedy plan has."""
    steps = ladder(given)
    serving, opened = greedy(steps)
    assert breaches(build(steps).program, complete(build(steps), serving, opened)) == ()
    return opened[0][0], max(numbers[0] for numbers in serving)


def test_a_hundred_thousand_nodes_are_taken_in_two_steps() -> None:
    # Replicas of 3 GPUs, 2 in a node of 8: 1,000,000 units / 10 = 100,000 replicas on 50,000 nodes of 60,000.
    state = State(ladder(problem(60_000)))
    assert state.take(0, 0, 1, 100_000, 1e6) == 100_000
    assert state.open[0] == [50_000]
    assert [(taken.replicas, taken.each) for taken in state.taken] == [(2, 1), (99_998, 49_999)]
    state.give_back(0)
    assert (state.open[0], state.spent, max(state.serving[0])) == ([0], [0.0], 0)


def test_a_quota_a_budget_and_the_last_part_of_a_node_are_kept() -> None:
    assert nodes_and_replicas(problem(60_000)) == (50_000, 100_000)
    assert nodes_and_replicas(problem(700)) == (700, 1400)
    assert nodes_and_replicas(problem(None, budget=8.0 * 333 + 7)) == (333, 666)
    # 7 replicas for 70 units at 2 a node: 4 nodes, the last half full and still worth its 8: 10 lacking cost 10
    assert nodes_and_replicas(problem(60_000, demand=70.0)) == (4, 7)
