"""Both hands: upper bounds at every tier's lead time while they keep their promise, and what is there now when not.

Two ways of foreseeing stand for choice: what the last hours' changes say, and, with a day of history, the ensemble of
forecasters on ten-minute bins (`foresight_days`). Both are judged by every load that comes, each is kept honest by its
own control, and the one with the lower recent pinball loss is planned for. On four production loads by the minute, at
equal coverage, that left out 15 to 60 % of the capacity above the load that changes alone ask for, 5 to 30 minutes
ahead.

Each bound that was planned for is remembered and judged when its time has come. Where the bounds of a tier hold clearly
less often than promised, or there is too little history to promise anything, the present load with a margin is the
least that is planned for; the decision says so. The present load and what waits are planned for in any case (`demand`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from autoscaler.economics import tier_quantile
from autoscaler.foresight_days import ahead, silence
from autoscaler.model import Foreseen, Tier
from autoscaler.same import Same

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoscaler.foresight_days import Ahead
    from autoscaler.rules import RoleRules, Rules, SupplyRules
    from forecasting.forecaster import Forecast
    from forecasting.series import Series
    from forecasting.staggered import Outlook

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
LEAST_WIDTH, MOST_WIDTH = 0.2, 4.0
"""Of the ensemble's distance from its median, controlled likewise: it foresees means of ten minutes, and what comes is
judged by the minute."""
LOSS_FADE = 0.999
"""Weight left of a compared loss after another one: half a day at one a minute."""
LEAST_COMPARED = 120.0
"""Bounds of both ways judged before one can be preferred."""
CHOSEN_ABOVE_S = 60.0
"""Up to here only the last changes count: bins of ten minutes do not see so near."""
BOTH = 5
"""Figures of a pending bound with both candidates."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How far the bounds of one tier were kept.

    Attributes:
        tier: whose.
        pending: (due, bound, quantile) of those to be judged, soonest first: Unix seconds, tokens/s, 0..1; where there
            was a choice, followed by both candidates: by changes, and the ensemble's.
        held, judged: faded counts of bounds that held, and of all that were judged.
        share: of the forecast's excess over the present load that is planned for, so that as many hold as promised.
        width: of the ensemble's distance from its median, likewise.
        changes_loss, days_loss: faded sums of the candidates' pinball losses, tokens/s. compared: how many, faded.
    """

    tier: Tier
    pending: tuple[tuple[float, ...], ...] = ()
    held: float = 0.0
    judged: float = 0.0
    share: float = BEGIN_SHARE
    width: float = 1.0
    changes_loss: float = 0.0
    days_loss: float = 0.0
    compared: float = 0.0

    def with_pending(self, pending: tuple[tuple[float, ...], ...]) -> Kept:
        """With these bounds to be judged. Spelt out, for it is done for every tier at every tick."""
        judged_so_far = (self.held, self.judged, self.share, self.width)
        return Kept(self.tier, pending, *judged_so_far, self.changes_loss, self.days_loss, self.compared)

    @property
    def days_better(self) -> bool:
        """Whether the ensemble's bounds have lately cost less than those by changes."""
        return self.compared >= LEAST_COMPARED and self.days_loss < self.changes_loss

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
    """One record, made once: a copy for each change took a fiftieth of a week's simulation."""
    held, many, share, width = kept.held, kept.judged, kept.share, kept.width
    changes_loss, days_loss, compared = kept.changes_loss, kept.days_loss, kept.compared
    for one in kept.pending:
        due, bound, quantile = one[:3]
        if not at - late_s <= due <= at:
            continue
        held, many = FADE * held + (load <= bound), FADE * many + 1.0
        if len(one) == BOTH:
            bound, days = one[3], one[4]
            width = min(max(width + SHARE_STEP * (quantile - (load <= days)), LEAST_WIDTH), MOST_WIDTH)
            changes_loss = LOSS_FADE * changes_loss + _pinball(load, bound, quantile)
            days_loss = LOSS_FADE * days_loss + _pinball(load, days, quantile)
            compared = LOSS_FADE * compared + 1.0
        share = min(max(share + SHARE_STEP * (quantile - (load <= bound)), LEAST_SHARE), MOST_SHARE)
    pending = tuple(each for each in kept.pending if each[0] > at)
    return Kept(kept.tier, pending, held, many, share, width, changes_loss, days_loss, compared)


def _pinball(load: float, bound: float, quantile: float) -> float:
    return quantile * (load - bound) if load > bound else (1.0 - quantile) * (bound - load)


def promised(kept: tuple[Kept, ...], foreseen: Sequence[Foreseen], at: float, every_s: float) -> tuple[Kept, ...]:
    """The records with these bounds to be judged later; no two of a tier are due within `every_s`."""
    found = {each.tier: each for each in kept}
    for one in foreseen:
        known = found.get(one.tier, Kept(one.tier))
        due = at + one.lead_s
        # a lead time that has become shorter must not let bounds of the longer one wait in front
        pending = tuple(each for each in known.pending if each[0] <= due)
        if not pending or due - pending[-1][0] >= every_s:
            pending = (*pending, (due, one.bound, one.quantile, *one.candidates))[-MOST_PENDING:]
        found[one.tier] = known.with_pending(pending)
    return tuple(found.values())


def bounds(
    series: Series, kept: Sequence[Kept], rule: RoleRules, rules: Rules, at: float, days: Outlook | None = None
) -> tuple[tuple[Foreseen, ...], list[float]]:
    """The load to plan for at each lead time of the role's tiers, soonest first.

    Args:
        series: the load.
        kept: how far earlier bounds were kept.
        rule: the role's rules.
        rules: all of them.
        at: now, Unix seconds.
        days: what the ensemble says of this load; None where it says nothing.

    Returns:
        One `Foreseen` per tier; and the bounds by distinct lead time above 0, ascending: of tiers with the same one the
        largest.
    """
    rungs, wanted, leads, quantiles = _asked(Same(rule), Same(rules))
    forecast = rules.forecaster.forecast(series, at, leads, quantiles) if leads else None
    now = max(series.newest[1], 0.0) if series.newest is not None else None
    found = []
    for rung in rungs:
        quantile, why = wanted[rung.tier]
        record = kept_of(kept, rung.tier)
        if forecast is None or now is None:
            said = Said(0.0, "no load was ever seen", "")
        else:
            raw = forecast.values[leads.index(rung.lead_s)][quantiles.index(quantile)]
            said = _by_changes(forecast, raw, now, record, series)
            if rules.days and rung.lead_s > CHOSEN_ABOVE_S:
                far = ahead(days, at + rung.lead_s)
                said = _chosen(said, far, quantile, now, record) if far else _alone(said, silence(days))
        doubt = _doubt(said, record, rung, quantile, rules)
        bound, basis = _bound(said.bound, now, doubt, rung.lead_s, rules, said.basis)
        found.append(
            Foreseen(
                rung.tier,
                rung.lead_s,
                quantile,
                bound,
                record.coverage,
                record.judged,
                basis,
                rung.lead_basis,
                why,
                said.candidates,
            )
        )
    least = [max(one.bound for one in found if one.lead_s == lead) for lead in leads if lead > 0]
    return tuple(found), least


class _Asked(NamedTuple):
    """What a role's rungs ask: the rungs, soonest first; the quantile of each and why; their leads and quantiles."""

    rungs: tuple[SupplyRules, ...]
    wanted: Mapping[Tier, tuple[float, str]]
    leads: tuple[float, ...]
    quantiles: tuple[float, ...]


@lru_cache(maxsize=4096)
def _asked(rule: Same[RoleRules], rules: Same[Rules]) -> _Asked:
    """The same for each of a role's loads, and from tick to tick while lead times and scarcity are."""
    rungs = tuple(sorted(rules.value.rungs(rule.value), key=lambda r: r.lead_s))
    wanted = {rung.tier: tier_quantile(rung, rule.value, rules.value) for rung in rungs}
    leads = tuple(dict.fromkeys(rung.lead_s for rung in rungs))
    return _Asked(rungs, wanted, leads, tuple(sorted({quantile for quantile, _ in wanted.values()})))


@dataclass(frozen=True, slots=True)
class Said:
    """A bound before doubts, tokens/s; why it is to be doubted (empty: it is not); its basis; what was to choose."""

    bound: float
    doubt: str
    basis: str
    candidates: tuple[float, ...] = ()


def _by_changes(forecast: Forecast, raw: float, now: float, record: Kept, series: Series) -> Said:
    """The bound by the last hours' changes.

    More than the forecast's own excess only up to the highest load there was: after a ramp that outran every bound for
    its whole length, 2,300 tokens/s were to become 15,600 where the ramp had ended at 10,600.
    """
    bound = now + record.share * (raw - now)
    if record.share > 1.0:
        bound = min(bound, max(raw, float(series.values.max())))
    return Said(bound, "" if forecast.confident else "too little history", forecast.basis)


def _alone(changes: Said, why: str) -> Said:
    return replace(changes, basis=f"{changes.basis}; {why}")


def _chosen(changes: Said, far: Ahead, quantile: float, now: float, record: Kept) -> Said:
    """The better of both candidates. The present load is the ensemble's least: it looks on ten minutes as one."""
    days = max(far.bound(quantile, record.width), now)
    candidates = (changes.bound, days)
    if not record.days_better:
        return replace(changes, candidates=candidates)
    words = f"ensemble of forecasters over {far.bins:.0f} bins of 10 minutes, whose bounds lately cost "
    words += f"{record.days_loss / record.changes_loss:.0%} of those by the last changes"
    return Said(days, "", words, candidates)


def _doubt(said: Said, record: Kept, rung: SupplyRules, quantile: float, rules: Rules) -> str:
    """Why the forecast is not relied on; empty when it is."""
    if rules.fallback_margin <= 0:
        return ""
    if record.broken(quantile, rung.lead_s / rules.bin_s):
        return f"its bounds held {record.coverage or 0:.0%} of the time instead of {quantile:.0%}"
    return said.doubt


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
