"""Lead times learned: from the replicas that came up, per role, tier and step, to what is planned for.

A start is a sum of steps (node, image, schedule, weights, engine, registration), each learned by itself
(`forecasting.durations`). Before the first start a tier's lead time is what the configuration says; its steps begin at
the shares of it below. A tier nobody has used yet borrows what the others have taught of the steps they share: loading
weights takes as long on preempted GPUs as on free ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from autoscaler.model import Step, Tier
from autoscaler.same import Same
from forecasting.durations import LONGEST_S, DurationPrior, Durations, predicted, saw, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autoscaler.memory import Memory, RoleMemory
    from autoscaler.model import Start
    from autoscaler.rules import Rules, SupplyRules

TOLD_AGAIN_S = 7200.0
"""A start is not believed to be new once it is so old: its name may be forgotten."""
MOST_TOGETHER = 64
USUAL_TOGETHER = 8
"""More at once than this, and than ever started at once, is not reckoned with: sources that are shared are mostly a
node's (`weight_bandwidth` of the lead times' table), which has eight GPUs. Twenty at once, of which nothing was known
but the prior's exponent, were expected in 440 to 540 s where they took 100 to 190, and twice as many ordered."""
SHARES: Mapping[Tier, Mapping[Step, tuple[float, float, float]]] = {
    Tier.START: {
        Step.SCHEDULE: (0.07, 2.1, 0.0),
        Step.WEIGHTS: (0.43, 2.0, 0.5),
        Step.ENGINE: (0.43, 1.7, 0.0),
        Step.REGISTRATION: (0.07, 2.0, 0.0),
    },
    Tier.PREEMPT: {
        Step.NODE: (0.28, 3.3, 0.0),
        Step.SCHEDULE: (0.05, 2.1, 0.0),
        Step.WEIGHTS: (0.31, 2.0, 0.5),
        Step.ENGINE: (0.31, 1.7, 0.0),
        Step.REGISTRATION: (0.05, 2.0, 0.0),
    },
    Tier.PROVISION: {
        Step.NODE: (0.40, 2.7, 0.0),
        Step.IMAGE: (0.25, 2.0, 0.3),
        Step.SCHEDULE: (0.02, 2.1, 0.0),
        Step.WEIGHTS: (0.15, 2.0, 0.5),
        Step.ENGINE: (0.15, 1.7, 0.0),
        Step.REGISTRATION: (0.03, 2.0, 0.0),
    },
    Tier.WAKE: {Step.WAKE: (1.0, 1.4, 0.0)},
}
"""By tier and step: share of the configured lead time, 90th percentile over median, contention exponent.

The medians are in proportion as measured (schedule 8 s, registration 5 s, start 115 s in all, eviction 45 s, node
150 s, cached image 40-90 s); the spreads are those of the same table (17/8, 150/45, 400/150, 540/270). Weights from one
source are shared by all that read (exponent 1) or each node's own (0): halfway until starts say which. Waking (18/13)
is one step, which no other tier has: what starts have taught says nothing of it, and the other way round.
"""
UNUSUAL: tuple[float, float, float] = (0.05, 2.5, 0.0)
"""Of a step that a tier usually does not have: an image that had to be pulled on a prepared node."""
ELSEWHERE = frozenset({Step.SCHEDULE, Step.WEIGHTS, Step.ENGINE, Step.REGISTRATION})
"""Steps that take as long whatever tier the GPUs came from."""


@dataclass(frozen=True, slots=True)
class LeadTimes:
    """What a role's starts have taught.

    Attributes:
        steps: durations by tier and step. counted: name and `served_at` of each start of late, learned from already.
    """

    steps: Mapping[tuple[Tier, Step], Durations]
    counted: tuple[tuple[str, float], ...] = ()

    @classmethod
    def none(cls) -> LeadTimes:
        """Nothing yet."""
        return cls({})

    def starts(self, tier: Tier) -> int:
        """Starts of this tier ever learned from."""
        return max((found.count for (mine, _), found in self.steps.items() if mine is tier), default=0)


UNTAUGHT = LeadTimes.none()
"""One for all roles without a start, as lead times are reckoned once for each."""


def learned(known: LeadTimes, starts: Iterable[Start], at: float, supply: Iterable[SupplyRules]) -> LeadTimes:
    """What is known after looking at these starts; each counts once.

    Args:
        known: so far.
        starts: those told now.
        at: now, Unix seconds.
        supply: the rungs of the role's accelerator, for the priors.
    """
    names = {name for name, _ in known.counted}
    fresh = [start for start in starts if start.name not in names and _credible(start, at)]
    if not fresh:
        return known
    steps = dict(known.steps)
    leads = {rung.tier: rung.lead_s for rung in supply}
    for start in sorted(fresh, key=lambda start: (start.served_at, start.name)):
        for step, seconds in _parts(start, steps).items():
            before = steps.get((start.tier, step), Durations())
            lead = leads.get(start.tier, start.served_at - start.asked_at)
            # GPUs that come twenty at a time are waited for longer, not shared: that taught an exponent of 2 once, and
            # lead times of 50 minutes
            together = 1 if step is Step.NODE else _together(start.together)
            steps[start.tier, step] = saw(before, _prior(start.tier, step, lead), seconds, together)
    counted = (*((name, served) for name, served in known.counted if served >= at - TOLD_AGAIN_S),)
    return LeadTimes(steps, (*counted, *((start.name, start.served_at) for start in fresh)))


def _credible(start: Start, at: float) -> bool:
    """Whether a start is one that is over, not too long ago, and took a time that a start can take."""
    took = start.served_at - start.asked_at
    return at - TOLD_AGAIN_S <= start.served_at <= at + 1.0 and 0 <= took <= LONGEST_S


def _parts(start: Start, steps: Mapping[tuple[Tier, Step], Durations]) -> dict[Step, float]:
    """Seconds by step, what they leave of the whole included; 0 for a step its tier has had but not this time."""
    found = dict.fromkeys((step for tier, step in steps if tier is start.tier), 0.0)
    for step, seconds in start.steps:
        if math.isfinite(seconds):
            found[step] = found.get(step, 0.0) + max(seconds, 0.0)
    left = start.served_at - start.asked_at - sum(found.values())
    if left > 0 or not found:
        found[Step.REGISTRATION] = found.get(Step.REGISTRATION, 0.0) + max(left, 0.0)
    return found


def _together(count: int) -> int:
    return min(max(count, 1), MOST_TOGETHER)


def _prior(tier: Tier, step: Step, lead_s: float) -> DurationPrior:
    share, spread, sharing = SHARES.get(tier, {}).get(step, UNUSUAL)
    median = max(share * lead_s, 0.1)
    return DurationPrior(median, median * spread, sharing)


@dataclass(frozen=True, slots=True)
class Lead:
    """A lead time to plan for, seconds, and what it rests on."""

    seconds: float
    basis: str


def lead(known: LeadTimes, rung: SupplyRules, quantile: float, together: int = 1) -> Lead:
    """The lead time of a rung that is kept with this probability, when `together` replicas start at once.

    Before any start was seen: the configured median times the spread it is declared with,
    lead_s * exp(z_q ln(spread) / z_0.9).
    """
    return _lead(Same(known), rung, quantile, together)


@lru_cache(maxsize=16_384)
def _lead(told: Same[LeadTimes], rung: SupplyRules, quantile: float, together: int) -> Lead:
    """Reckoned when something was learned: at most ticks nothing was, and to find that out took 5 % of them."""
    known = told.value
    steps = _steps(known, rung)
    if steps is None:
        if rung.spread <= 1.0:
            return Lead(rung.lead_s, "configured")
        seconds = predicted(Durations(), DurationPrior(rung.lead_s, rung.lead_s * rung.spread)).quantile(quantile)
        return Lead(seconds, f"p{quantile * 100:.0f} of the configured {rung.lead_s:.0f} s, no start seen yet")
    most = max((math.exp(max(known.together, default=0.0)) for known, _ in steps), default=1.0)
    seconds = whole(steps, quantile, min(_together(together), max(USUAL_TOGETHER, round(most))))
    seen = known.starts(rung.tier)
    of = f"of {seen} starts" if seen else "by the steps of other tiers' starts"
    return Lead(seconds, f"p{quantile * 100:.0f} {of}")


def _steps(known: LeadTimes, rung: SupplyRules) -> tuple[tuple[Durations, DurationPrior], ...] | None:
    """Each step of a rung with what is known of it; None when nothing is."""
    usual = SHARES.get(rung.tier, {})
    own = {step for tier, step in known.steps if tier is rung.tier}
    lent = {step for _, step in known.steps if step in ELSEWHERE and step in usual}
    if not own and not lent:
        return None
    found = []
    for step in Step:
        if step not in usual and step not in own:
            continue
        durations = known.steps.get((rung.tier, step))
        if durations is None and step in ELSEWHERE:
            durations = _borrowed(known, step)
        if durations is None and own:
            # its starts never had this step apart: it is within the others
            continue
        found.append((durations or Durations(), _prior(rung.tier, step, rung.lead_s)))
    return tuple(found)


def _borrowed(known: LeadTimes, step: Step) -> Durations | None:
    """The same step of the tier that has had most starts."""
    others = [durations for (_, mine), durations in known.steps.items() if mine is step]
    return max(others, key=lambda durations: durations.count, default=None)


def with_learned_leads(rules: Rules, memory: Memory) -> Rules:
    """The rules with each rung's lead time as it is planned for: the longest of the roles that share it.

    A source of GPUs is one to all the pools that draw on it, so the slowest of them decides; pools whose replicas start
    much faster are better given an accelerator entry of their own.
    """
    roles: dict[str, list[RoleMemory]] = {}
    for rule in rules.roles:
        known = memory.of(rule.key)
        if known.leads.steps:
            roles.setdefault(rule.accelerator, []).append(known)
    wakes = {
        key: replace(rung, lead_s=its.seconds, lead_basis=its.basis)
        for key, rung in rules.wakes.items()
        for its in (lead(memory.of(key).leads, rung, rules.lead_quantile),)
    }
    if not wakes and not roles and all(rung.spread <= 1.0 for rung in rules.supply):
        return rules
    found: list[Lead] = []
    for rung in rules.supply:
        able = roles.get(rung.accelerator, [])
        leads = [lead(known.leads, rung, rules.lead_quantile, known.under_way) for known in able]
        longest = max(leads, key=lambda each: each.seconds, default=None)
        if longest is None:
            longest = lead(UNTAUGHT, rung, rules.lead_quantile)
        if rung.tier is Tier.PREEMPT:
            # what has to be taken first never serves sooner than what is free, whatever few starts have taught
            before = zip(rules.supply, found, strict=False)
            free = (its for one, its in before if one.accelerator == rung.accelerator and one.tier is Tier.START)
            longest = max(longest, *free, key=lambda each: each.seconds)
        found.append(longest)
    led = _led(Same(rules), tuple(found))
    return replace(led, wakes=wakes) if wakes else led


@lru_cache(maxsize=16)
def _led(rules: Same[Rules], leads: tuple[Lead, ...]) -> Rules:
    """The same rules while lead times are: what is reckoned from them alone is then reckoned once."""
    pairs = zip(rules.value.supply, leads, strict=True)
    supply = tuple(replace(rung, lead_s=its.seconds, lead_basis=its.basis) for rung, its in pairs)
    return replace(rules.value, supply=supply)
