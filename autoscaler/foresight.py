"""Both hands: upper bounds at every tier's lead time while they keep their promise, and what is there now when not.

Each bound that was planned for is remembered and judged when its time has come. Where the bounds of a tier hold clearly
less often than promised, or there is too little history to promise anything, the present load with a margin is the
least that is planned for; the decision says so. The present load and what waits are planned for in any case (`demand`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoscaler.economics import tier_quantile
from autoscaler.model import Foreseen, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.rules import RoleRules, Rules, SupplyRules
    from forecasting.series import Series

FADE = 0.995
"""Weight left of a judged bound after another one: half of it is gone after 138, 2.3 h at one a minute."""
LEAST_JUDGED = 12.0
"""Independent bounds judged before a forecast can be called wrong."""
DOUBTS = 3.0
"""Standard errors that coverage must lie below what was promised."""
MOST_MARGIN = 1.0
"""The fallback's margin is never more than the load itself."""
MOST_PENDING = 240
BEGIN_SHARE = 0.5
"""Share of the forecast's excess over the present load that is planned for at first. Changes of a window's rate are
about half sampling noise, for which the queue's head-room is there already: bounds taken whole held 98.4 % of the time
where 95 % were asked, at 52 % above the load (Azure conversation x10)."""
LEAST_SHARE, MOST_SHARE = 0.1, 2.0
SHARE_STEP = 0.05
"""How fast the share follows: a miss at the 95 % quantile adds 0.0475, a bound that held takes away 0.0025, so that it
rests where as many hold as promised (adaptive conformal inference, Gibbs and Candes 2021)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How far the bounds of one tier were kept.

    Attributes:
        tier: whose.
        pending: (due, bound, quantile) of those to be judged, soonest first: Unix seconds, tokens/s, 0..1.
        held, judged: faded counts of bounds that held, and of all that were judged.
        share: of the forecast's excess over the present load that is planned for, so that as many hold as promised.
    """

    tier: Tier
    pending: tuple[tuple[float, float, float], ...] = ()
    held: float = 0.0
    judged: float = 0.0
    share: float = BEGIN_SHARE

    @property
    def coverage(self) -> float | None:
        """Share that held; None before any was judged."""
        return self.held / self.judged if self.judged > 0 else None

    def broken(self, quantile: float, overlap: float) -> bool:
        """Whether they held clearly less often than promised; `overlap` of them say only what one says."""
        independent = self.judged / max(overlap, 1.0)
        if self.coverage is None or independent < LEAST_JUDGED:
            return False
        return self.coverage < quantile - DOUBTS * math.sqrt(quantile * (1 - quantile) / independent)


def kept_of(kept: Sequence[Kept], tier: Tier) -> Kept:
    """The record of one tier; an empty one where there is none."""
    return next((each for each in kept if each.tier is tier), Kept(tier))


def judged(kept: tuple[Kept, ...], load: float, at: float, late_s: float) -> tuple[Kept, ...]:
    """The records after seeing a load: what was due is judged by it, what was due more than `late_s` ago is dropped."""
    if not any(each.pending and each.pending[0][0] <= at for each in kept):
        return kept
    return tuple(_judged(each, load, at, late_s) for each in kept)


def _judged(kept: Kept, load: float, at: float, late_s: float) -> Kept:
    held, count, share = kept.held, kept.judged, kept.share
    for due, bound, quantile in kept.pending:
        if at - late_s <= due <= at:
            within = load <= bound
            held, count = FADE * held + within, FADE * count + 1.0
            share += SHARE_STEP * (quantile - within)
            share = min(max(share, LEAST_SHARE), MOST_SHARE)
    pending = tuple(each for each in kept.pending if each[0] > at)
    return replace(kept, pending=pending, held=held, judged=count, share=share)


def promised(kept: tuple[Kept, ...], foreseen: Sequence[Foreseen], at: float, every_s: float) -> tuple[Kept, ...]:
    """The records with these bounds to be judged later; no two of a tier are due within `every_s`."""
    found = {each.tier: each for each in kept}
    for one in foreseen:
        known = found.get(one.tier, Kept(one.tier))
        due = at + one.lead_s
        # a lead time that has become shorter must not let bounds of the longer one wait in front
        pending = tuple(each for each in known.pending if each[0] <= due)
        if not pending or due - pending[-1][0] >= every_s:
            pending = (*pending, (due, one.bound, one.quantile))[-MOST_PENDING:]
        found[one.tier] = replace(known, pending=pending)
    return tuple(found.values())


def bounds(
    series: Series, kept: Sequence[Kept], rule: RoleRules, rules: Rules, at: float
) -> tuple[tuple[Foreseen, ...], list[float]]:
    """The load to plan for at each lead time of the role's tiers, soonest first.

    Args:
        series: the load.
        kept: how far earlier bounds were kept.
        rule: the role's rules.
        rules: all of them.
        at: now, Unix seconds.

    Returns:
        One `Foreseen` per tier; and the bounds by distinct lead time above 0, ascending: of tiers with the same one the
        largest.
    """
    rungs = sorted((r for r in rules.supply if r.accelerator == rule.accelerator), key=lambda r: r.lead_s)
    wanted = {rung.tier: tier_quantile(rung, rule, rules) for rung in rungs}
    leads = tuple(dict.fromkeys(rung.lead_s for rung in rungs))
    quantiles = tuple(sorted({quantile for quantile, _ in wanted.values()}))
    forecast = rules.forecaster.forecast(series, at, leads, quantiles) if leads else None
    now = max(series.newest[1], 0.0) if series.newest is not None else None
    found = []
    for rung in rungs:
        quantile, why = wanted[rung.tier]
        record = kept_of(kept, rung.tier)
        raw = 0.0
        doubt = "no load was ever seen"
        if forecast is not None:
            raw = forecast.values[leads.index(rung.lead_s)][quantiles.index(quantile)]
            if now is not None and forecast.confident:
                raw = now + record.share * (raw - now)
            doubt = _doubt(record, rung, quantile, rules, young=not forecast.confident)
        bound, basis = _bound(raw, now, doubt, rung.lead_s, rules, forecast.basis if forecast else "")
        found.append(
            Foreseen(
                rung.tier, rung.lead_s, quantile, bound, record.coverage, record.judged, basis, rung.lead_basis, why
            )
        )
    ahead = [max(one.bound for one in found if one.lead_s == lead) for lead in leads if lead > 0]
    return tuple(found), ahead


def _doubt(record: Kept, rung: SupplyRules, quantile: float, rules: Rules, *, young: bool) -> str:
    """Why the forecast is not relied on; empty when it is."""
    if rules.fallback_margin <= 0:
        return ""
    if record.broken(quantile, rung.lead_s / rules.bin_s):
        return f"its bounds held {record.coverage or 0:.0%} of the time instead of {quantile:.0%}"
    return "too little history" if young else ""


def _bound(raw: float, now: float | None, doubt: str, lead_s: float, rules: Rules, basis: str) -> tuple[float, str]:
    """The bound and its basis: the forecast's, or at least the present load with a margin where that is doubted."""
    if not doubt or now is None or rules.fallback_margin <= 0:
        return raw, basis
    margin = min(rules.fallback_margin * math.sqrt(lead_s / 60.0), MOST_MARGIN)
    return max(raw, now * (1.0 + margin)), f"reactive: {doubt}, at least {margin:.0%} above the present load"


def said(foreseen: Sequence[Foreseen]) -> tuple[str, ...]:
    """What a person should read of it: lead times that were learned, and forecasts that are not relied on."""
    words = [
        f"{one.tier} takes {one.lead_s:.0f} s ({one.lead_basis})"
        for one in foreseen
        if one.lead_basis.endswith(" starts")
    ]
    doubted = [one.basis for one in foreseen if one.basis.startswith("reactive")]
    return (*words, *doubted[:1])
