"""Supply on the time line: every stock of GPUs as a lot, and lots that nobody tells apart as a shelf."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from optimizer.problem import Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optimizer.problem import Gang, Offer, Pool, Problem, Source

EPSILON_S = 1e-6


@dataclass(frozen=True, slots=True)
class Lot:
    """A stock of GPUs on the time line.

    `blocks` come only whole (None: no limit). A loose lot is one open block of all its GPUs that costs nothing itself:
    who occupies its GPUs pays `gpu_price` per hour for each, and `one_off` for each at a start. `ready` is the first
    period in which a newly opened block is there, `open_price` and `hold_price` (per hour) are those of a block. A gang
    that was given back is there again after `rest_s` at the earliest.
    """

    key: str
    tier: Tier
    accelerator: str
    domain: str
    lead_s: float
    ready: int
    blocks: int | None
    block_gpus: int
    fragment: int | None
    loose: bool
    gpu_price: float = 0.0
    one_off: float = 0.0
    open_price: float = 0.0
    hold_price: float = 0.0
    min_hold_s: float = 0.0
    held: int = 0
    paid_s: float = 0.0
    rest_s: float = 0.0
    priority: int | None = None
    group: str = ""
    only_for: tuple[str, ...] = ()

    def slots(self, width: int) -> int:
        """GPUs of one block that replicas of at least this width can use, the width dividing all larger ones."""
        fragment = min(self.fragment or self.block_gpus, self.block_gpus)
        if not fragment:
            return 0
        whole, rest = divmod(self.block_gpus, fragment)
        return (whole * (fragment // width) + rest // width) * width


class Shelf(NamedTuple):
    """Lots that replicas need not tell apart: same tier, GPUs, lead time and price per GPU, and nobody asks where.

    A shelf may reach over several network domains. A replica lies whole within one block of one lot all the same.
    """

    lots: tuple[int, ...]
    tier: Tier
    accelerator: str
    domain: str
    loose: bool
    limited: bool
    whole: bool
    only_for: tuple[str, ...]


def gang_ready_s(gang: Gang) -> float:
    """When its GPUs can be there: it has to run for its minimum first."""
    return max(0.0, gang.min_run_s - gang.ran_s) + gang.lead_s


def at(points: Sequence[float], seconds: float) -> int:
    """The first point not before a moment."""
    return bisect_left(points, seconds - EPSILON_S)


def rested(lot: Lot, opened: Sequence[int], points: Sequence[float], span: range) -> bool:
    """Whether a gang that is open in `opened` could be taken for `span` too: it runs long enough in between."""
    if lot.rest_s <= 0:
        return True
    ends = [i + 1 for i in range(span.start) if opened[i]]
    given_back = ends[-1] if ends else 0 if lot.held else None
    if given_back is not None and 0.0 < points[span.start] - points[given_back] < lot.rest_s - EPSILON_S:
        return False
    again = next((i for i in range(span.stop, len(points)) if opened[i]), None)
    return again is None or not 0.0 < points[again] - points[span.stop] < lot.rest_s - EPSILON_S


def _source_lot(source: Source, points: Sequence[float], held_gpus: int) -> Lot:
    size = source.granularity
    loose = size == 1
    blocks = None if source.gpus is None else source.gpus // size
    return Lot(
        key=source.key,
        tier=source.tier,
        accelerator=source.accelerator,
        domain=source.domain,
        lead_s=source.lead_s,
        ready=0 if loose else at(points, source.lead_s),
        blocks=1 if loose and source.gpus is not None else blocks,
        block_gpus=(source.gpus or 0) if loose else size,
        fragment=source.fragment,
        loose=loose,
        gpu_price=source.price_per_gpu_hour if loose else 0.0,
        one_off=source.one_off_price if loose else 0.0,
        open_price=0.0 if loose else source.one_off_price * size,
        hold_price=0.0 if loose else source.price_per_gpu_hour * size,
        held=0 if loose else min(-(-held_gpus // size), held_gpus if blocks is None else blocks),
        only_for=source.only_for,
    )


def _gang_lot(gang: Gang, points: Sequence[float]) -> Lot:
    return Lot(
        key=gang.key,
        tier=Tier.PREEMPT,
        accelerator=gang.accelerator,
        domain=gang.domain,
        lead_s=gang_ready_s(gang),
        ready=at(points, gang_ready_s(gang)),
        blocks=1,
        block_gpus=gang.gpus,
        fragment=gang.fragment,
        loose=False,
        open_price=gang.loss,
        hold_price=gang.gpus * gang.price_per_gpu_hour,
        held=int(gang.held),
        rest_s=gang.requeue_s + gang.min_run_s + gang.lead_s,
        priority=gang.priority,
        group=gang.group,
    )


def _offer_lot(offer: Offer, points: Sequence[float]) -> Lot:
    return Lot(
        key=offer.key,
        tier=Tier.PROVISION,
        accelerator=offer.accelerator,
        domain=offer.domain,
        lead_s=offer.lead_s,
        ready=at(points, offer.lead_s),
        blocks=offer.quota,
        block_gpus=offer.gpus,
        fragment=offer.gpus,
        loose=False,
        open_price=offer.one_off_price,
        hold_price=offer.price_per_hour,
        min_hold_s=offer.min_billing_s,
        held=offer.held,
        paid_s=offer.paid_s,
    )


def make_lots(problem: Problem, points: Sequence[float]) -> tuple[Lot, ...]:
    """All supply; gangs above the priority cutoff are none, unless they are held already."""
    cutoff = problem.rules.never_above_priority
    gangs = (gang for gang in problem.gangs if gang.held or cutoff is None or gang.priority <= cutoff)
    held: dict[str, int] = {}
    for pool in problem.pools:
        for variant in (variant for role in pool.roles for variant in role.variants):
            for group in variant.replicas:
                held[group.source] = held.get(group.source, 0) + group.count * variant.gpus
    return (
        *(_source_lot(source, points, held.get(source.key, 0)) for source in problem.sources),
        *(_gang_lot(gang, points) for gang in gangs),
        *(_offer_lot(offer, points) for offer in problem.offers),
    )


def paired(problem: Problem, pool: Pool) -> bool:
    """Whether it matters in which network domains the roles of a pool lie."""
    priced = pool.cross_price or pool.link_per_unit or problem.rules.cross_share is not None
    return len(pool.roles) > 1 and bool(priced)


def _widths(problem: Problem) -> dict[str, list[int]]:
    """GPUs of one replica, for each kind of GPU, ascending."""
    widths: dict[str, set[int]] = {}
    for pool in problem.pools:
        for variant in (variant for role in pool.roles for variant in role.variants):
            widths.setdefault(variant.accelerator, set()).add(variant.gpus)
    return {accelerator: sorted(some) for accelerator, some in widths.items()}


def _located(problem: Problem) -> set[str]:
    """Kinds of GPU of which it matters in which network domain they are."""
    pools = (pool for pool in problem.pools if paired(problem, pool))
    return {variant.accelerator for pool in pools for role in pool.roles for variant in role.variants}


def make_shelves(problem: Problem, lots: Sequence[Lot], apart: frozenset[str] = frozenset()) -> tuple[Shelf, ...]:
    """Lots put together where nobody tells them apart; one that replicas name, or in `apart`, stays by itself."""
    located, widths = _located(problem), _widths(problem)
    unpacked = {kind for kind, some in widths.items() if any(wide % slim for slim, wide in pairwise(some))}
    named = {
        group.source
        for pool in problem.pools
        for role in pool.roles
        for variant in role.variants
        for group in variant.replicas
    }
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, lot in enumerate(lots):
        domain = lot.domain if lot.accelerator in located else ""
        spanned = not lot.loose and lot.fragment is None and lot.block_gpus < max(widths.get(lot.accelerator, [1]))
        endless = lot.loose and lot.blocks is None
        by_itself = lot.key in named or lot.key in apart or lot.accelerator in unpacked or spanned or endless
        own = lot.key if by_itself else ""
        facts = (lot.lead_s, lot.loose, lot.gpu_price, lot.one_off, lot.fragment is None, lot.only_for)
        held = bool(lot.held) and not lot.loose
        alike.setdefault((own, lot.tier, lot.accelerator, domain, held, *facts), []).append(index)
    shelves = []
    for members in alike.values():
        first = lots[members[0]]
        scattered = len({lots[m].domain for m in members}) > 1
        domain = "" if scattered else first.domain
        limited = first.blocks is not None or not first.loose
        wide = max(widths.get(first.accelerator, [1])) > 1  # no replica lies in two lots, be they alike
        whole = first.fragment is not None or (len(members) > 1 and wide)
        shelves.append(
            Shelf(tuple(members), first.tier, first.accelerator, domain, first.loose, limited, whole, first.only_for)
        )
    return tuple(shelves)


UNLIMITED = 10**9


def room(lots: Sequence[Lot], shelf: Shelf, width: int) -> int:
    """GPUs of a shelf, all its blocks open, that replicas of at least this width can use."""
    total = 0
    for lot in (lots[member] for member in shelf.lots):
        if lot.blocks is None and (lot.loose or lot.slots(width)):
            return UNLIMITED
        if lot.blocks is None:
            continue  # a replica is wider than a node of this offer
        total += lot.blocks * (lot.slots(width) if shelf.whole else lot.block_gpus)
    return total
