"""How much less a replica serves the more of them there are, learned while all of them have a queue.

Requests are spread unevenly and share front ends: a published run measured 138,875 prompt tokens/s at one replica and
about 93,000 each at ten. With n engines behind which requests wait, each would be busy all the time if they were spread
evenly; what the step model says of the iterations done, u = a*S + p*C + c*G + d*R*S (learning.py), tells for how much
of it they were. Over many numbers of engines

    log u = i - k log n + noise

is a line: k the loss with their number (0.17 in that run), i by how much the step model itself is off. A Kalman filter
follows both; i may wander as the step model is learned. Planned with is not k but K_CERTAIN standard deviations less,
never below 0, so that noise asks for no replica: N engines serve as N^(1 - k) e^i of the learned one, and never more
than N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoscaler.learning import busy_row, estimate

if TYPE_CHECKING:
    from autoscaler.learning import Learned, Levels, Prior
    from autoscaler.model import RoleObservation

LEVEL_SD, LOSS_SD = 0.2, 0.15
"""What is believed of i and k before anything was seen, around 0."""
LEVEL_DRIFT, LOSS_DRIFT = 0.01, 0.002
"""Standard deviation by which each wanders in a window."""
SHARE_NOISE = 0.2
"""Relative noise of one window's share: of windows one after the other the same thing is often wrong, so that each
counts for less than the fit within a window (learning.NOISE, 0.08) would say."""
K_CERTAIN = 1.5
"""Standard deviations that k must be above 0 before it counts: one time in fifteen by chance."""
MOST_LOSS = 0.5
"""Ten engines that serve as three: beyond this it is not their number that is wrong."""
MOST_OFF = 2.0
"""|log u| beyond this, a factor of seven, is a broken window or a profile of another engine, not skew."""


@dataclass(frozen=True, slots=True)
class Skew:
    """What is known of the line.

    Attributes:
        level, loss: i and k.
        level_variance, loss_variance, covariance: their uncertainty.
        at: Unix time of the last window used; None before the first.
    """

    level: float = 0.0
    loss: float = 0.0
    level_variance: float = LEVEL_SD**2
    loss_variance: float = LOSS_SD**2
    covariance: float = 0.0
    at: float | None = None

    @property
    def certain(self) -> float:
        """The loss that is planned with, 0..MOST_LOSS."""
        return min(max(self.loss - K_CERTAIN * math.sqrt(max(self.loss_variance, 0.0)), 0.0), MOST_LOSS)

    def engines(self, even: float) -> float:
        """Engines that serve what `even` of them would if requests were spread evenly; never fewer.

        N^(1 - k) e^i = even, with i at most 0.
        """
        loss = self.certain
        if loss <= 0 or even <= 1.0:
            return even
        return max(even, math.pow(even * math.exp(-min(self.level, 0.0)), 1.0 / (1.0 - loss)))

    def serving(self, engines: float) -> float:
        """The share of one engine's velocity that each of so many has, 0..1: what `engines` inverts."""
        loss = self.certain
        if loss <= 0 or engines <= 1.0:
            return 1.0
        return min(1.0, math.exp(min(self.level, 0.0)) * math.pow(engines, -loss))


def spread(
    skew: Skew, learned: Learned, prior: Prior, seen: RoleObservation, *, at: float, levels: Levels, window_s: float
) -> Skew:
    """What is known after one more window; the same where no queue stood behind every engine throughout.

    Args:
        skew: so far.
        learned: of one engine's iterations.
        prior: where that began.
        seen: rates over the window that ended at `at`.
        at: Unix time; windows overlap when ticks are closer than `window_s`, and then weigh only what is new.
        levels: the gauges over the window.
        window_s: the window's length.
    """
    engines = seen.rate_engines
    row = busy_row(seen, levels) if engines >= 1 and levels.waiting >= engines else None
    if row is None:
        return skew
    step = estimate(learned, prior).step
    share = step.base * row[0] + step.per_prompt_token * row[1]
    share += step.per_running * row[2] + step.per_resident_token * row[3]
    fresh = 1.0 if skew.at is None else min(1.0, max(at - skew.at, 0.0) / window_s)
    if fresh <= 0 or share <= 0 or abs(math.log(share)) > MOST_OFF:
        return skew
    return _filtered(replace(skew, at=at), math.log(share), math.log(engines), fresh)


def _filtered(skew: Skew, seen: float, size: float, fresh: float) -> Skew:
    """One step of the Kalman filter for `seen` = level - loss * size + noise, of a window of which `fresh` is new."""
    level_variance = skew.level_variance + fresh * LEVEL_DRIFT**2
    loss_variance = skew.loss_variance + fresh * LOSS_DRIFT**2
    covariance = skew.covariance
    with_level, with_loss = level_variance - size * covariance, covariance - size * loss_variance
    total = with_level - size * with_loss + SHARE_NOISE**2 / fresh
    surprise = seen - (skew.level - size * skew.loss)
    gain_level, gain_loss = with_level / total, with_loss / total
    return replace(
        skew,
        level=skew.level + gain_level * surprise,
        loss=skew.loss + gain_loss * surprise,
        level_variance=level_variance - gain_level * with_level,
        loss_variance=loss_variance - gain_loss * with_loss,
        covariance=covariance - gain_level * with_loss,
    )
