"""An oracle that knows nothing of programs: it tries every path of every replica count and prices it by hand."""

import itertools
import math
import random

import numpy as np

from optimizer import (
    Demand,
    Gang,
    Offer,
    Pool,
    Problem,
    Quota,
    Replicas,
    Role,
    Rules,
    ServiceClass,
    Source,
    Tier,
    Variant,
)

HORIZON_S = 1200.0
Option = tuple[float, np.ndarray, list[np.ndarray], np.ndarray]
"""Cost, price per hour, GPUs of each supply, and GPUs held before, by period."""
POINTS = (0.0, 115.0, 500.0)


def draw(seed: int) -> Problem:
    """One or two pools on one kind of GPU, at two or three moments, with a source, a gang or an offer, or two."""
    rng = random.Random(seed)  # noqa: S311 - test problems, not secrets
    points = POINTS[: rng.choice([2, 2, 3])]
    pools = 1 if len(points) == 3 else rng.choice([1, 2])
    supplies = rng.sample(["source", "gang", "offer"], rng.choice([1, 2]) if pools == 1 or len(points) == 2 else 1)
    if pools == 2 and len(supplies) == 2:
        points = POINTS[:2]
    wide = rng.choice([1, 1, 2])
    return Problem(
        tuple(_pool(rng, f"p{n}", points, wide if n == 0 else 1) for n in range(pools)),
        sources=(_source(rng),) if "source" in supplies else (),
        gangs=(_gang(rng),) if "gang" in supplies else (),
        offers=(_offer(rng),) if "offer" in supplies else (),
        rules=Rules(
            budget_per_hour=rng.choice([None, None, 3.0, 6.0]),
            max_gpus_preempted=rng.choice([None, None, 1, 2]),
            quotas=rng.choice([(), (), (Quota("q", 3),)]),
            relax=(),
        ),
        horizon_s=HORIZON_S,
        points_s=points,
    )


def _pool(rng: random.Random, key: str, points: tuple[float, ...], gpus: int) -> Pool:
    demand = tuple(Demand(at_s, rng.choice([0.0, 5.0, 10.0, 14.0, 20.0, 29.0])) for at_s in points)
    classes = rng.choice(
        [
            (ServiceClass("", 1.0, rng.choice([0.0, 0.3, 2.0, 9.0])),),
            (ServiceClass("gold", 0.25, 8.0), ServiceClass("free", 0.75, 0.4)),
        ]
    )
    held = Replicas(rng.choice([0, 1, 2]), release_price=rng.choice([0.0, 0.2]), drain_s=rng.choice([0.0, 60.0]))
    variant = Variant("v", "A", gpus, rng.choice([10.0, 8.0]), rng.choice([1.0, 1.5]), (held,))
    minimum = rng.choice([0, 0, 1])
    return Pool(key, demand, (Role("", (variant,), minimum, minimum + rng.choice([1, 2])),), classes)


def _source(rng: random.Random) -> Source:
    gpus = rng.choice([None, 0, 1, 2, 3])
    return Source(
        "s",
        rng.choice([Tier.START, Tier.WAKE]),
        "A",
        gpus,
        rng.choice([0.0, 115.0]),
        rng.choice([0.5, 1.0, 2.0]),
        rng.choice([0.0, 0.3]),
        fragment=None if gpus is None else rng.choice([None, 1, 2]),
    )


def _gang(rng: random.Random) -> Gang:
    return Gang(
        "g",
        "A",
        rng.choice([1, 2, 4]),
        lead_s=rng.choice([0.0, 115.0]),
        since_checkpoint_s=rng.choice([0.0, 300.0, 3600.0]),
        requeue_s=rng.choice([0.0, 120.0]),
        price_per_gpu_hour=rng.choice([0.5, 1.0]),
        min_run_s=rng.choice([0.0, 50.0]),
        repreemptions=rng.choice([0.0, 1.0]),
    )


def _offer(rng: random.Random) -> Offer:
    gpus = rng.choice([1, 2, 4])
    billing_s = rng.choice([0.0, 60.0, 600.0, 3600.0])
    return Offer(
        "o", "A", gpus, gpus * rng.choice([0.8, 1.2]), rng.choice([115.0, 500.0]), billing_s, rng.choice([1, 2])
    )


def _paths(periods: int, most: int, first: int) -> list[tuple[int, ...]]:
    return [(0,) * first + path for path in itertools.product(range(most + 1), repeat=periods - first)]


def _first(problem: Problem, seconds: float) -> int:
    return sum(point < seconds - 1e-6 for point in problem.points_s)


def _starts(path: tuple[int, ...]) -> list[int]:
    return [max(0, now - then) for now, then in zip(path, (0, *path), strict=False)]


def _waiting(problem: Problem, path: tuple[int, ...], lead_s: float) -> np.ndarray:
    """Replicas in each period that are ordered and do not serve yet."""
    waiting = np.zeros(len(path))
    for j, count in enumerate(_starts(path)):
        ordered = max(0.0, problem.points_s[j] - lead_s)
        for i in range(j):
            end = problem.points_s[i + 1]
            waiting[i] += count if end > ordered + 1e-6 else 0
    return waiting


class _Options:
    """Every way for one pool to fare: its own cost, and what it occupies, spends and uses of every supply."""

    def __init__(self, problem: Problem, pool: Pool, penalty: float) -> None:
        role = pool.roles[0]
        variant = role.variants[0]
        group = variant.replicas[0]
        n = len(problem.points_s)
        hours = np.diff((*problem.points_s, HORIZON_S)) / 3600
        kept = [p for p in _paths(n, group.count, 0) if all(b <= a for a, b in itertools.pairwise(p))]
        supplies = [*problem.sources, *problem.gangs, *problem.offers]
        leads = [s.lead_s + max(0.0, getattr(s, "min_run_s", 0.0)) for s in supplies]
        each = [
            _paths(n, role.maximum, _first(problem, lead)) if _first(problem, lead) < n else [(0,) * n]
            for lead in leads
        ]
        self.cost: list[float] = []
        self.spend: list[np.ndarray] = []
        self.use: list[list[np.ndarray]] = []
        self.old: list[np.ndarray] = []
        self.gpus = variant.gpus
        for combination in itertools.product(kept, *each):
            old, new = combination[0], combination[1:]
            waits = [_waiting(problem, path, lead) for path, lead in zip(new, leads, strict=True)]
            asked = np.array(old) + sum(np.array(path) + w for path, w in zip(new, waits, strict=True))
            if asked.max() > role.maximum:
                continue
            cost = np.dot(old, hours) * variant.gpus * variant.price_per_gpu_hour
            drain = variant.gpus * variant.price_per_gpu_hour * group.drain_s / 3600
            cost += (group.count - old[-1]) * (problem.rules.churn_price + group.release_price + drain)
            firsts = [min(_first(problem, lead), n - 1) for lead in leads]
            there = np.array(old) + sum(
                np.array([path[max(i, first)] for i in range(n)]) for path, first in zip(new, firsts, strict=True)
            )
            cost += max(0.0, role.minimum - there.min()) * penalty
            spend = np.array(old) * variant.gpus * variant.price_per_gpu_hour
            use = []
            for supply, path, wait in zip(supplies, new, waits, strict=True):
                begun = sum(_starts(path))
                cost += begun * problem.rules.churn_price
                if isinstance(supply, Source):
                    price = supply.price_per_gpu_hour
                    cost += np.dot(path, hours) * variant.gpus * price
                    cost += begun * variant.gpus * (supply.one_off_price + price * supply.lead_s / 3600)
                    use.append((np.array(path) + wait) * variant.gpus)
                    spend = spend + (np.array(path) + wait) * variant.gpus * price
                else:
                    use.append(np.array(path) * variant.gpus)
            capacity = (np.array(old) + sum(np.array(path) for path in new)) * variant.capacity
            cost += sum(self._lack(pool, i, capacity[i]) * hours[i] for i in range(n))
            self.cost.append(cost)
            self.spend.append(spend)
            self.use.append(use)
            self.old.append(np.array(old) * variant.gpus)

    @staticmethod
    def _lack(pool: Pool, i: int, capacity: float) -> float:
        total = 0.0
        for one in sorted(pool.classes, key=lambda c: -c.shortage_price):
            amount = one.share * pool.demand[i].amount
            served = min(amount, capacity)
            capacity -= served
            total += (amount - served) * one.shortage_price
        return total


def _block_paths(problem: Problem, most: int, lead_s: float) -> list[tuple[int, ...]]:
    first = _first(problem, lead_s)
    n = len(problem.points_s)
    return _paths(n, most, first) if first < n else [(0,) * n]


def _block_cost(problem: Problem, supply: Gang | Offer, path: tuple[int, ...]) -> float | None:
    """Price of holding blocks along a path; None where a node would be given back before it was paid for."""
    hours = np.diff((*problem.points_s, HORIZON_S)) / 3600
    if isinstance(supply, Gang):
        lost = (supply.since_checkpoint_s + supply.requeue_s) / 3600 * supply.price_per_gpu_hour
        once = supply.gpus * lost * (1 + supply.repreemptions)
        return float(np.dot(path, hours)) * supply.gpus * supply.price_per_gpu_hour + sum(_starts(path)) * once
    cost = float(np.dot(path, hours)) * supply.price_per_hour
    begun = _starts(path)
    for j, count in enumerate(begun):
        ends = problem.points_s[j] + supply.min_billing_s
        cost += count * max(0.0, ends - HORIZON_S) / 3600 * supply.price_per_hour
    for i, point in enumerate(problem.points_s):
        if path[i] < sum(
            c for j, c in enumerate(begun[: i + 1]) if point < problem.points_s[j] + supply.min_billing_s - 1e-6
        ):
            return None
    return cost


def oracle(problem: Problem, penalty: float) -> float:
    """The least cost there is."""
    options = [_Options(problem, pool, penalty) for pool in problem.pools]
    blocks = [*problem.gangs, *problem.offers]
    chosen = []
    for supply in blocks:
        lead = supply.lead_s + getattr(supply, "min_run_s", 0.0)
        most = 1 if isinstance(supply, Gang) else (supply.quota or 0)
        priced = [(np.array(path), _block_cost(problem, supply, path)) for path in _block_paths(problem, most, lead)]
        chosen.append([(path, cost) for path, cost in priced if cost is not None])
    best = math.inf
    for combination in itertools.product(*chosen):
        fixed = sum(cost for _, cost in combination)
        if fixed >= best:
            continue
        found = _best_given(problem, options, [path for path, _ in combination], best - fixed)
        best = min(best, fixed + found)
    return best


def _best_given(problem: Problem, options: list[_Options], paths: list[np.ndarray], bound: float) -> float:
    """The least cost of all pools together with the blocks held along these paths."""
    rules, n = problem.rules, len(problem.points_s)
    blocks = [*problem.gangs, *problem.offers]
    sizes = [path * one.gpus for path, one in zip(paths, blocks, strict=True)]
    prices = [one.gpus * one.price_per_gpu_hour if isinstance(one, Gang) else one.price_per_hour for one in blocks]
    spent = sum((path * price for path, price in zip(paths, prices, strict=True)), np.zeros(n))
    taken = sum((size for size, one in zip(sizes, blocks, strict=True) if isinstance(one, Gang)), np.zeros(n))
    if rules.max_gpus_preempted is not None and taken.max() > rules.max_gpus_preempted:
        return math.inf
    limits = [np.full(n, math.inf if s.gpus is None else float(s.gpus)) for s in problem.sources] + sizes
    money = np.full(n, math.inf if rules.budget_per_hour is None else rules.budget_per_hour) - spent
    lists = []
    for option in options:
        fit = []
        for cost, spend, use, old in zip(option.cost, option.spend, option.use, option.old, strict=True):
            if cost < bound and all((u <= most + 1e-9).all() for u, most in zip(use, limits, strict=True)):
                fit.append((cost, spend, use, old))
        lists.append(sorted(fit, key=lambda item: item[0]))
    best = bound
    for combination in itertools.product(*lists):
        cost = sum(item[0] for item in combination)
        if cost >= best:
            continue
        if (sum(item[1] for item in combination) > money + 1e-9).any():
            continue
        if _fits(problem, options, combination, limits):
            best = cost
    return best if best < bound else math.inf


def _fits(problem: Problem, options: list[_Options], combination: tuple[Option, ...], limits: list[np.ndarray]) -> bool:
    """Whether replicas of the pools lie side by side in what is open, whole within nodes, and within quotas."""
    supplies = [*problem.sources, *problem.gangs, *problem.offers]
    for number, supply in enumerate(supplies):
        uses = [item[2][number] for item in combination]
        if (sum(uses) > limits[number] + 1e-9).any():
            return False
        node = supply.gpus if isinstance(supply, Offer) else supply.fragment
        if node is None:
            continue
        for i in range(len(problem.points_s)):
            widths = [
                option.gpus
                for option, use in zip(options, uses, strict=True)
                for _ in range(round(use[i] / option.gpus))
            ]
            gpus = limits[number][i]
            if gpus < math.inf and not _packed(sorted(widths, reverse=True), int(gpus), node):
                return False
    for quota in problem.rules.quotas:
        held = sum(item[2][n] for item in combination for n in range(len(supplies)))
        held = held + sum(item[3] for item in combination)
        if (held > quota.gpus + 1e-9).any():
            return False
    return True


def _packed(widths: list[int], gpus: int, node: int) -> bool:
    """First fit of the widest first, exact for widths that divide each other."""
    whole, rest = divmod(gpus, node)
    bins = [node] * whole + ([rest] if rest else [])
    for width in widths:
        place = next((n for n, left in enumerate(bins) if left >= width), None)
        if place is None:
            return False
        bins[place] -= width
    return True
