"""A good plan at once: pools in order of what a shortage costs them, each from its cheapest ways with what is left.

It keeps every bound, stock, budget, quota and preemption limit; only ratios are left to the solver. It is the fallback
when the solver runs out of time, the point the solver starts from, and the yardstick no exact answer may be worse than.

Each role climbs by itself (`climb`). Where the roles of a pool have to meet within network domains, they climb domain
after domain, those first in which most is there already, and in each only as far as the scarcest of them can follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from optimizer.climb import Climb
from optimizer.greedy_state import TOLERANCE, UNLIMITED, State
from optimizer.ladder import Held
from optimizer.lots import paired
from optimizer.worth import Segment, wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.ladder import Ladder, Way
    from optimizer.point import Open, Serving

ENOUGH = 1e-9
ANYWHERE = ""
TRIES = 2
"""Rounds of serving within a domain: in the second every role knows how far the others can follow."""


class Order(NamedTuple):
    """How domains are chosen for roles that have to meet.

    Those with most replicas of all roles go first, or those that can serve most; each role reckons with its share of
    the stock there only (`shared`), or with all of it. With `loose_first` whole blocks are opened anywhere only for
    what single GPUs everywhere leave.
    """

    held_first: bool
    shared: bool
    loose_first: bool = True


ORDERS = (
    Order(held_first=True, shared=True),
    Order(held_first=False, shared=True),
    Order(held_first=True, shared=False),
    Order(held_first=False, shared=True, loose_first=False),
)
"""None of them is best everywhere: on made-up fleets the best of them costs up to 9 % less than the first."""


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


def _shares(ladder: Ladder, roles: Sequence[Climb], domain: str, shared: bool) -> dict[tuple[int, int], float]:
    """The part of each shelf in a domain that each role may count on: in proportion to the GPUs it needs per unit."""
    needs: dict[tuple[int, int], float] = {}
    for role in roles:
        for way in (ladder.ways[w] for w in role.ways if ladder.ways[w].domain == domain):
            if way.shelf is not None:
                key = (role.r, way.shelf)
                needs[key] = min(needs.get(key, float("inf")), way.gpus / way.capacity)
    total: dict[int, float] = {}
    for (_, shelf), need in needs.items():
        total[shelf] = total.get(shelf, 0.0) + need
    return {(r, shelf): need / total[shelf] if shared else 1.0 for (r, shelf), need in needs.items()}


def _existing(state: State, w: int) -> float:
    """Capacity of the existing replicas of a way; 0 for one that takes new ones."""
    way = state.ladder.ways[w]
    return 0.0 if way.held is Held.SOURCE else way.cap * way.capacity


def _could(state: State, w: int, i: int, share: float) -> int:
    """Replicas of a way that a share of what is left of its stock allows in a period."""
    way = state.ladder.ways[w]
    if i < way.first:
        return 0
    if way.shelf is None or way.held is not Held.SOURCE or not state.ladder.shelves[way.shelf].limited:
        return way.cap
    shelf, free = state.ladder.shelves[way.shelf], 0
    for index in shelf.lots:
        lot = state.ladder.lots[index]
        blocks = 1 if shelf.loose else lot.blocks if lot.blocks is not None else UNLIMITED
        free += lot.slots(way.gpus) * blocks
    free -= state.used[way.shelf, state.widths[way.shelf][0]][i]
    return max(0, min(way.cap, int(free * share + TOLERANCE) // way.gpus))


def _reach(state: State, roles: Sequence[Climb], domain: str, shared: bool) -> list[float]:
    """The most that the scarcest role can serve within a domain in each period, as far as stock tells."""
    ladder = state.ladder
    shares = _shares(ladder, roles, domain, shared)
    found = [float("inf")] * len(ladder.points)
    for role in roles:
        mine = [w for w in role.ways if ladder.ways[w].domain == domain]
        for i in range(len(found)):
            total = 0.0
            best: dict[int, float] = {}
            for w in mine:
                way = ladder.ways[w]
                if way.shelf is None or way.held is not Held.SOURCE:
                    total += way.cap * way.capacity * (i >= way.first)
                else:
                    can = _could(state, w, i, shares[role.r, way.shelf]) * way.capacity
                    best[way.shelf] = max(best.get(way.shelf, 0.0), can)
            found[i] = min(found[i], total + sum(best.values()))
    return found


def _meet(state: State, roles: Sequence[Climb], order: Order) -> None:
    """Serve demand by all roles of a pool together, one domain after the other."""
    served = [0.0] * len(state.ladder.hours)
    if order.loose_first:
        served = _rounds(state, [role.loose() for role in roles], order, served)
    _rounds(state, roles, order, served)


def _rounds(state: State, roles: Sequence[Climb], order: Order, served: list[float]) -> list[float]:
    """Go through the domains for what is wanted beyond what is `served`; what is served then."""
    ladder = state.ladder
    hours = ladder.hours
    full = roles[0].segments
    left = sorted({ladder.ways[w].domain for role in roles for w in role.ways} - {ANYWHERE})
    while left:
        want = [max(0.0, sum(width for width, _ in some) - have) for some, have in zip(full, served, strict=True)]
        if max(want, default=0.0) <= ENOUGH:
            break
        reach = {domain: _reach(state, roles, domain, order.shared) for domain in left}
        worth = {
            domain: sum(min(a, b) * span for a, b, span in zip(reach[domain], want, hours, strict=True))
            for domain in left
        }
        held = {
            domain: min(
                sum(_existing(state, w) for w in role.ways if ladder.ways[w].domain == domain) for role in roles
            )
            for domain in left
        }
        best = min(left, key=lambda d: (*_rank(held[d], worth[d], sum(reach[d]), order), d))
        left.remove(best)
        if worth[best] <= ENOUGH:
            continue
        here = [min(a, b) for a, b in zip(reach[best], want, strict=True)]
        served = _filled(state, roles, best, served, here)
    return served


def _filled(
    state: State, roles: Sequence[Climb], domain: str, served: Sequence[float], here: Sequence[float]
) -> list[float]:
    """Serve up to so much more within a domain; what is served then.

    What the scarcest role cannot follow is given back, and everything that would cost more than it is worth.
    """
    mark, full = len(state.taken), roles[0].segments
    for _ in range(TRIES):
        state.give_back(mark)
        wish = list(here)
        for role in sorted(roles, key=lambda role: role.r):
            inside = role.within(domain, _cuts(full, served, here))
            inside.climb()
            here = [min(a, b) for a, b in zip(here, inside.have, strict=True)]
        if all(a - b <= ENOUGH for a, b in zip(wish, here, strict=True)):
            break
    worth = sum(
        width * price * span
        for some, span in zip(_cuts(full, served, here), state.ladder.hours, strict=True)
        for width, price in some
    )
    if _price(state, mark) > worth:
        state.give_back(mark)
        return list(served)
    return [have + more for have, more in zip(served, here, strict=True)]


def _price(state: State, mark: int) -> float:
    """What everything taken after the first `mark` times costs; releases that it spares count as saved."""
    total = 0.0
    for taken in state.taken[mark:]:
        way = state.ladder.ways[taken.way]
        hours = sum(state.ladder.hours[taken.begin : taken.end])
        spared = way.release_price if taken.end == state.periods else 0.0
        total += taken.block_price + taken.replicas * (way.start_price + way.hour_price * hours - spared)
    return total


def _cuts(
    full: Sequence[Sequence[Segment]], served: Sequence[float], more: Sequence[float]
) -> list[tuple[Segment, ...]]:
    """Of the segments of every period the part beyond what is served, up to so much more."""
    return [_cut(some, have, have + extra) for some, have, extra in zip(full, served, more, strict=True)]


def _rank(held: float, worth: float, reach: float, order: Order) -> tuple[float, float, float]:
    if not order.held_first:
        return (-round(worth, 6), -held, -reach)
    return (-held, -round(worth, 6), reach) if order.shared else (-held, -reach, 0.0)


def greedy(
    ladder: Ladder, guide: Sequence[Sequence[float]] | None = None, how: Order = ORDERS[0]
) -> tuple[Serving, Open]:
    """Replicas of each way and open blocks of each lot in each period.

    Args:
        ladder: the problem.
        guide: replicas of each way in each period as a relaxation has them: their whole parts are taken first, and only
            the rest is climbed for. Roles that have to meet within domains are not guided.
        how: the order of domains for those.
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
        _meet(state, roles[p], how)
        for role in roles[p]:
            role.fill_minimum()
    for role in alone if guide is not None else ():
        role.follow(guide or ())
    for role in alone:
        role.climb()
    return state.result()
