"""A good plan at once: pools in order of what a shortage costs them, each from its cheapest ways with what is left.

It keeps every bound, stock, budget, quota and preemption limit; only ratios are left to the solver. It is the fallback
when the solver runs out of time, the point the solver starts from, and the yardstick no exact answer may be worse than.

Each role climbs by itself (`climb`). Where the roles of a pool have to meet within network domains, they climb domain
after domain, those first in which most is there already, and in each only as far as the scarcest of them can follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.climb import Climb
from optimizer.greedy_state import State
from optimizer.lots import paired
from optimizer.worth import Segment, wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.ladder import Ladder, Way
    from optimizer.point import Open, Serving

ENOUGH = 1e-9
ANYWHERE = ""


def _order(ladder: Ladder) -> list[int]:
    """Pools by what lacking one GPU's worth of them costs, dearest first."""

    def worth(p: int) -> float:
        pool = ladder.problem.pools[p]
        per_gpu = max((_per_gpu(ladder.ways[w]) for w in ladder.of[p]), default=0.0)
        return max(one.shortage_price for one in pool.classes) * per_gpu

    return sorted(range(len(ladder.problem.pools)), key=lambda p: (-worth(p), p))


def _per_gpu(way: Way) -> float:
    return way.capacity / way.gpus


def _cut(segments: Sequence[Segment], begin: float, end: float) -> tuple[Segment, ...]:
    """The part of segments of capacity that lies between two amounts."""
    found, edge = [], 0.0
    for width, price in segments:
        low, high = max(edge, begin), min(edge + width, end)
        edge += width
        if high > low:
            found.append(Segment(high - low, price))
    return tuple(found)


def _reach(state: State, roles: Sequence[Climb], domain: str) -> list[float]:
    """The most that the scarcest role can serve within a domain in each period, as far as stock tells."""
    ladder = state.ladder
    found = [float("inf")] * len(ladder.points)
    for role in roles:
        mine = [w for w in role.ways if ladder.ways[w].domain == domain]
        for i in range(len(found)):
            found[i] = min(found[i], sum(state.could(w, i) * ladder.ways[w].capacity for w in mine))
    return found


def _meet(state: State, roles: Sequence[Climb]) -> None:
    """Serve demand by all roles of a pool together, one domain after the other."""
    ladder = state.ladder
    hours = ladder.hours
    full = roles[0].segments
    served = [0.0] * len(hours)
    left = sorted({ladder.ways[w].domain for role in roles for w in role.ways} - {ANYWHERE})
    while left:
        want = [max(0.0, sum(width for width, _ in some) - have) for some, have in zip(full, served, strict=True)]
        if max(want, default=0.0) <= ENOUGH:
            break
        reach = {domain: _reach(state, roles, domain) for domain in left}
        worth = {
            domain: sum(min(a, b) * span for a, b, span in zip(reach[domain], want, hours, strict=True))
            for domain in left
        }
        held = {
            domain: min(sum(state.existing(w) for w in role.ways if ladder.ways[w].domain == domain) for role in roles)
            for domain in left
        }
        best = min(left, key=lambda d: (-held[d], -round(worth[d], 6), sum(reach[d]), d))
        left.remove(best)
        if worth[best] <= ENOUGH:
            continue
        here = [min(a, b) for a, b in zip(reach[best], want, strict=True)]
        for role in sorted(roles, key=lambda role: role.r):
            parts = [_cut(some, have, have + more) for some, have, more in zip(full, served, here, strict=True)]
            inside = role.within(best, parts)
            inside.climb()
            here = [min(a, b) for a, b in zip(here, inside.have, strict=True)]
        served = [have + more for have, more in zip(served, here, strict=True)]


def greedy(ladder: Ladder, guide: Sequence[Sequence[float]] | None = None) -> tuple[Serving, Open]:
    """Replicas of each way and open blocks of each lot in each period.

    Args:
        ladder: the problem.
        guide: replicas of each way in each period as a relaxation has them: their whole parts are taken first, and only
            the rest is climbed for. Roles that have to meet within domains are not guided.
    """
    state = State(ladder)
    problem = ladder.problem
    order = _order(ladder)
    roles: dict[int, list[Climb]] = {}
    for p in order:
        pool = problem.pools[p]
        segments = [need.segments for need in wanted(pool, ladder.points, problem.horizon_s)]
        roles[p] = [Climb(state, p, r, segments) for r in range(len(pool.roles))]
        for role in roles[p]:
            role.await_firm()
    meeting = [p for p in order if paired(problem, problem.pools[p])]
    alone = [role for p in order if not paired(problem, problem.pools[p]) for role in roles[p]]
    for role in alone:
        role.fill_minimum()
    for p in meeting:
        _meet(state, roles[p])
        for role in roles[p]:
            role.fill_minimum()
    for role in alone if guide is not None else ():
        role.follow(guide or ())
    for role in alone:
        role.climb()
    return state.result()
