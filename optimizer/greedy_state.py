"""What is left while a greedy plan is being made: GPUs by shelf and period, blocks, money, quotas, preemptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from optimizer.ladder import Held
from optimizer.lots import rested
from optimizer.problem import HOUR_S, Tier

if TYPE_CHECKING:
    from optimizer.ladder import Ladder, Way
    from optimizer.lots import Lot
    from optimizer.point import Open, Serving

TOLERANCE = 1e-6
UNLIMITED = 10**9


class Taken(NamedTuple):
    """Replicas of a way taken for the periods from `begin` to before `end`, and `each` blocks of lots opened for it."""

    way: int
    begin: int
    end: int
    replicas: int
    blocks: dict[int, range]
    block_price: float
    each: int = 1


class State:
    """Replicas taken so far and everything that limits the next ones, by period."""

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        self.periods = len(ladder.points)
        n = self.periods
        self.serving = [[0] * n for _ in ladder.ways]
        self.asked: dict[tuple[int, int], list[int]] = {}
        self.used: dict[tuple[int, int], list[int]] = {}
        self.starts: dict[tuple[int, int, int, int], list[int]] = {}
        self.widths: list[list[int]] = [[] for _ in ladder.shelves]
        for way in ladder.ways:
            self.asked.setdefault((way.pool, way.role), [0] * n)
            if way.shelf is not None and way.gpus not in self.widths[way.shelf]:
                self.widths[way.shelf].append(way.gpus)
        self.fixed: dict[tuple[int, int], int] = {}
        self.earlier: dict[tuple[int, float], int] = {}
        for place, shelf in enumerate(ladder.shelves):
            widths = sorted(self.widths[place]) if shelf.whole else [1]
            self.widths[place] = widths
            for width in widths:
                self.used[place, width] = [0] * n
                if shelf.loose:
                    self.fixed[place, width] = sum(ladder.lots[lot].slots(width) for lot in shelf.lots)
        self.open = {index: [0] * n for index, lot in enumerate(ladder.lots) if not lot.loose}
        self.spent = [0.0] * n
        self.preempted = [0] * n
        self.disrupted: dict[str, list[int]] = {limit.group: [0] * n for limit in ladder.problem.rules.disruptions}
        self.quotas = [[0] * n for _ in ladder.problem.rules.quotas]
        self.taken: list[Taken] = []
        self.drawn = {lot for way in ladder.ways if way.shelf is not None for lot in ladder.shelves[way.shelf].lots}
        self.paid_blocks()

    def paid_blocks(self) -> None:
        """Nodes that are paid for stay open for so long, wanted or not."""
        for index, opened in self.open.items():
            lot = self.ladder.lots[index]
            for i, point in enumerate(self.ladder.points):
                if lot.held and point < lot.paid_s - TOLERANCE:
                    opened[i] = lot.held
                    self.spent[i] += lot.held * lot.hold_price

    def firm(self, p: int, r: int) -> bool:
        """Whether everything starting for a role has to be awaited."""
        mine = (self.ladder.ways[w] for w in self.ladder.of[p])
        asked = sum(way.cap for way in mine if way.role == r and way.held is not Held.SOURCE)
        return asked <= self.ladder.problem.pools[p].roles[r].maximum and not self.ladder.over_budget

    def prices(self, w: int) -> tuple[float, float]:
        """Price of one replica per hour and once, blocks shared out over their GPUs; releases count as saved."""
        way = self.ladder.ways[w]
        hourly, once = way.hour_price, way.start_price
        if way.held is not Held.SOURCE:
            kept = sum(self.ladder.hours[way.first :])
            hourly -= way.release_price / kept if kept > 0 else 0.0
        if way.shelf is not None and not self.ladder.shelves[way.shelf].loose:
            lot = self.ladder.lots[self.ladder.shelves[way.shelf].lots[0]]
            hourly += lot.hold_price / lot.block_gpus * way.gpus
            once += (lot.open_price / lot.block_gpus * way.gpus) if not lot.held else 0.0
        return hourly, once

    def full(self, w: int) -> bool:
        """Whether all replicas that a way can have serve in every period."""
        way, serving = self.ladder.ways[w], self.serving[w]
        return serving[-1] >= way.cap and min(serving[way.first :]) >= way.cap

    def least_asked(self, p: int, r: int) -> int:
        """The fewest replicas wanted of a role in any period."""
        return min(self.asked.get((p, r), [0]))

    def _spans(self, way: Way, begin: int, end: int) -> tuple[range, range]:
        """The periods in which the replicas are wanted, and those in which they hold GPUs."""
        if way.held is Held.STARTING:
            return range(end), range(end)
        if way.held is Held.ARRIVED:
            return range(begin, end), range(begin, end)
        return range(self._before(begin, way.lead_s), end), range(self._before(begin, way.occupied_s), end)

    def _before(self, begin: int, seconds: float) -> int:
        key = (begin, seconds)
        if key not in self.earlier:
            self.earlier[key] = self.ladder.before(begin, seconds)
        return self.earlier[key]

    def _room(self, w: int, way: Way, begin: int, end: int) -> int:
        """How many replicas everything but the stock allows."""
        asked, holding = self._spans(way, begin, end)
        role = self.ladder.problem.pools[way.pool].roles[way.role]
        counts = self.asked[way.pool, way.role]
        room = role.maximum - max(counts[asked.start : asked.stop])
        room = min(room, way.cap - max(self.serving[w][begin:end]))
        rules = self.ladder.problem.rules
        if rules.budget_per_hour is not None and way.spend > 0:
            left = min(rules.budget_per_hour - self.spent[i] for i in holding)
            room = min(room, int((left + TOLERANCE) / way.spend))
        for quota, used in zip(rules.quotas, self.quotas, strict=True):
            if self._counts(way, quota.accelerator, quota.pools):
                room = min(room, min(quota.gpus - used[i] for i in holding) // way.gpus)
        shelf = None if way.shelf is None else self.ladder.shelves[way.shelf]
        if shelf is not None and shelf.loose and shelf.tier is Tier.PREEMPT and rules.max_gpus_preempted is not None:
            room = min(room, min(rules.max_gpus_preempted - self.preempted[i] for i in holding) // way.gpus)
        wave = self._wave(way)
        if wave is not None:
            most, starting = wave
            room = min(room, min((most - starting[i] for i in self._starting(way, begin)), default=room))
        return max(0, room)

    def _counts(self, way: Way, accelerator: str, pools: tuple[str, ...]) -> bool:
        pool = self.ladder.problem.pools[way.pool]
        kind = pool.roles[way.role].variants[way.variant].accelerator
        return accelerator in {"", kind} and (not pools or pool.key in pools)

    def _wave(self, way: Way) -> tuple[int, list[int]] | None:
        if way.held is not Held.SOURCE or way.shelf is None or self.ladder.shelves[way.shelf].tier is Tier.WAKE:
            return None
        wave = self.ladder.problem.pools[way.pool].roles[way.role].variants[way.variant].waves[way.wave]
        if wave.replicas is None:
            return None
        key = (way.pool, way.role, way.variant, way.wave)
        return wave.replicas, self.starts.setdefault(key, [0] * self.periods)

    def _starting(self, way: Way, begin: int) -> range:
        variant = self.ladder.problem.pools[way.pool].roles[way.role].variants[way.variant]
        return range(self.ladder.before(begin, variant.waves[way.wave].start_s), begin)

    def _slots(self, place: int, width: int, i: int, more: dict[int, range]) -> int:
        """GPUs of a shelf's open blocks that replicas of this width can use, were the blocks in `more` open too."""
        shelf = self.ladder.shelves[place]
        if shelf.loose:
            return self.fixed[place, width]
        return sum(
            (self.open[lot][i] + (1 if i in more.get(lot, ()) else 0)) * self.ladder.lots[lot].slots(width)
            for lot in shelf.lots
        )

    def _fits(self, way: Way, place: int, holding: range, more: dict[int, range]) -> int:
        widths = [width for width in self.widths[place] if width <= way.gpus]
        if self.ladder.shelves[place].loose:
            used = (max(self.used[place, width][holding.start : holding.stop]) for width in widths)
            return min((self.fixed[place, width] - most) // way.gpus for width, most in zip(widths, used, strict=True))
        return min(
            (self._slots(place, width, i, more) - self.used[place, width][i]) // way.gpus
            for width in widths
            for i in holding
        )

    def _openable(self, index: int, span: range, more: dict[int, range]) -> bool:
        """Whether one more block of a lot may be opened for some periods, beside those in `more`."""
        lot, rules, opened = self.ladder.lots[index], self.ladder.problem.rules, self.open[index]
        for i in span:
            most = lot.blocks if lot.blocks is not None else UNLIMITED
            if opened[i] >= (min(most, lot.held) if i < lot.ready else most):
                return False
            beside = [self.ladder.lots[other] for other, others in more.items() if i in others]
            spent = self.spent[i] + sum(other.hold_price for other in beside) + lot.hold_price
            if rules.budget_per_hour is not None and spent > rules.budget_per_hour + TOLERANCE:
                return False
            if lot.tier is Tier.PREEMPT and not self._takeable(lot, i, beside):
                return False
        return rested(lot, opened, self.ladder.points, span) and self._in_order(index, span, more)

    def _takeable(self, lot: Lot, i: int, beside: list[Lot]) -> bool:
        """Whether the limits on preemption leave room for one more gang in a period."""
        rules = self.ladder.problem.rules
        taken = self.preempted[i] + sum(other.block_gpus for other in beside if other.tier is Tier.PREEMPT)
        if rules.max_gpus_preempted is not None and taken + lot.block_gpus > rules.max_gpus_preempted:
            return False
        group = sum(other.group == lot.group for other in beside)
        limits = (limit.most for limit in rules.disruptions if limit.group == lot.group)
        return all(self.disrupted[lot.group][i] + group < most for most in limits)

    def _in_order(self, index: int, span: range, more: dict[int, range]) -> bool:
        """Whether every gang of lower priority beside this one is held in these periods already."""
        lot = self.ladder.lots[index]
        if lot.priority is None or not self.ladder.problem.rules.priority_order or lot.held:
            return True
        for other, opened in self.open.items():
            gang = self.ladder.lots[other]
            if gang.priority is None or gang.priority >= lot.priority or other not in self.drawn:
                continue
            beside = (gang.accelerator, gang.domain) == (lot.accelerator, lot.domain)
            if beside and any(i >= gang.ready and not opened[i] and i not in more.get(other, ()) for i in span):
                return False
        return True

    def _span(self, index: int, holding: range) -> range:
        """The periods a block opened for these is held: its minimum billing, and until then what is held."""
        lot, opened, begin, end = self.ladder.lots[index], self.open[index], holding.start, holding.stop
        while lot.held and 0 < begin < lot.ready and opened[begin - 1] <= opened[begin]:
            begin -= 1
        least = self.ladder.points[holding.start] + lot.min_hold_s - TOLERANCE
        while end < self.periods and self.ladder.points[end] < least:
            end += 1
        return range(begin, end)

    def _block_price(self, index: int, span: range) -> float:
        lot = self.ladder.lots[index]
        begin = self.ladder.points[span.start]
        left = max(0.0, lot.min_hold_s - (self.ladder.problem.horizon_s - begin))
        opening = 0.0 if self.open[index][span.start] < lot.held and span.start == 0 else lot.open_price
        return opening + lot.hold_price * (sum(self.ladder.hours[i] for i in span) + left / HOUR_S)

    def _choose_blocks(self, way: Way, place: int, holding: range, count: int) -> tuple[int, dict[int, range], float]:
        """Blocks to open so that `count` replicas fit, cheapest first; how many fit, and the blocks' price."""
        more: dict[int, range] = {}
        price = 0.0
        fits = self._fits(way, place, holding, more)
        lots = ((self.ladder.lots[index], index) for index in self.ladder.shelves[place].lots)
        ranked = sorted((lot.priority or 0, (lot.open_price + lot.hold_price) / lot.block_gpus, n) for lot, n in lots)
        for _, _, index in ranked:
            if fits >= count:
                break
            span = self._span(index, holding)
            if index not in more and self._openable(index, span, more):
                more[index] = span
                price += self._block_price(index, span)
                fits = self._fits(way, place, holding, more)
        return min(count, max(0, fits)), more, price

    def take(self, w: int, begin: int, end: int, count: int, gain: float) -> int:
        """Take replicas of a way for some periods, as many as there are and as pay; how many those were.

        `gain` is what all of them are worth: where the blocks to be opened cost more, none is taken.
        """
        way = self.ladder.ways[w]
        wish = min(count, self._room(w, way, begin, end))
        _, holding = self._spans(way, begin, end)
        blocks: dict[int, range] = {}
        price = 0.0
        if way.shelf is not None and wish > 0:
            shelf = self.ladder.shelves[way.shelf]
            if shelf.loose:
                if shelf.limited:
                    wish = min(wish, self._fits(way, way.shelf, holding, {}))
            else:
                wish, blocks, price = self._choose_blocks(way, way.shelf, holding, wish)
                once = way.start_price * wish
                if wish <= 0 or price + once >= gain * wish / count:
                    return 0
                self._open(blocks)
        if wish <= 0:
            return 0
        self._hold(w, way, begin, end, wish)
        self.taken.append(Taken(w, begin, end, wish, blocks, price))
        return wish + (self._repeat(w, begin, end, count - wish, gain / count) if blocks and wish < count else 0)

    def _repeat(self, w: int, begin: int, end: int, count: int, gain: float) -> int:
        """Take up to `count` more replicas, each worth `gain`, on blocks like the one just opened, all at once."""
        blocks, way = self.taken[-1].blocks, self.ladder.ways[w]
        index, span = next(iter(blocks.items()))
        lot, rules = self.ladder.lots[index], self.ladder.problem.rules
        if len(blocks) > 1 or way.shelf is None or lot.tier is Tier.PREEMPT or lot.held:
            return 0
        _, holding = self._spans(way, begin, end)
        per, price = self._fits(way, way.shelf, holding, blocks), self._block_price(index, span)
        if per <= 0 or self._fits(way, way.shelf, holding, {}) > 0 or price + way.start_price * per >= gain * per:
            return 0
        most = min(UNLIMITED if lot.blocks is None else lot.blocks - self.open[index][i] for i in span)
        most = min(most, min(count, self._room(w, way, begin, end)) // per)
        if rules.budget_per_hour is not None and (each := lot.hold_price + way.spend * per) > 0.0:
            most = min(most, int((rules.budget_per_hour - max(self.spent[i] for i in span) + TOLERANCE) / each))
        if most <= 0:
            return 0
        self._open(blocks, most)
        self._hold(w, way, begin, end, most * per)
        self.taken.append(Taken(w, begin, end, most * per, blocks, most * price, most))
        return most * per

    def give_back(self, mark: int) -> None:
        """Undo everything taken after the first `mark` times."""
        while len(self.taken) > mark:
            w, begin, end, count, blocks, _, each = self.taken.pop()
            self._hold(w, self.ladder.ways[w], begin, end, -count)
            self._open(blocks, -each)

    def _open(self, blocks: dict[int, range], each: int = 1) -> None:
        for index, span in blocks.items():
            lot = self.ladder.lots[index]
            for i in span:
                self.open[index][i] += each
                self.spent[i] += each * lot.hold_price
                if lot.tier is Tier.PREEMPT:
                    self.preempted[i] += each * lot.block_gpus
                    if lot.group in self.disrupted:
                        self.disrupted[lot.group][i] += each

    def _hold(self, w: int, way: Way, begin: int, end: int, count: int) -> None:
        asked, holding = self._spans(way, begin, end)
        for i in range(begin, end):
            self.serving[w][i] += count
        for i in asked:
            self.asked[way.pool, way.role][i] += count
        wave = self._wave(way)
        if wave is not None:
            for i in self._starting(way, begin):
                wave[1][i] += count
        for quota, used in zip(self.ladder.problem.rules.quotas, self.quotas, strict=True):
            if self._counts(way, quota.accelerator, quota.pools):
                for i in holding:
                    used[i] += count * way.gpus
        for i in holding:
            self.spent[i] += count * way.spend
        if way.shelf is not None:
            self._occupy(way, way.shelf, holding, count * way.gpus)

    def _occupy(self, way: Way, place: int, holding: range, gpus: int) -> None:
        shelf = self.ladder.shelves[place]
        for i in holding:
            for width in self.widths[place]:
                if width <= way.gpus:
                    self.used[place, width][i] += gpus
            if shelf.loose and shelf.tier is Tier.PREEMPT:
                self.preempted[i] += gpus

    def result(self) -> tuple[Serving, Open]:
        """Replicas by way and period, blocks by lot and period."""
        return tuple(map(tuple, self.serving)), {index: tuple(opened) for index, opened in self.open.items()}
