"""Velocities learned online: the step model's four coefficients by Bayesian linear regression.

The iteration time s = a + p*C + c*n + d*R (velocity.py) is linear in (a, p, c, d), and three identities on counters
every engine exports are linear in them too. Per engine, rates over a window:

* **gaps**: the mean inter-token latency is the iteration time the decoding requests saw,
  ITL = a + p*(C/S) + c*n + d*R, with S iterations/s, n = tokens per iteration, R resident tokens;
* **busy time**: an engine that never idles spends every second in iterations, 1 = a*S + p*C + c*G + d*R*S;
* **prefill time**: on a pure prefill engine a prompt's prefill is the iteration it shares, T = a + p*L*(2m - 1), with m
  prompts of L tokens to an iteration; where prompts always wait, busy time says it without guessing how they share.

The first two hold for mixed engines; busy time only where requests are always there, so that windows below saturation
teach nothing about capacity (a half-idle engine would look half as fast). All are divided by their left side: the noise
is relative, and to whichever is larger of what is seen and what was expected, so that no single window, however wrong,
weighs more than one. R is the mean of what the engines hold, not n times a mean per request: two noisy factors would
pull d towards 0 (recorded run: ITL of 16 requests of 1,067 tokens 34 % too short, against 9 %). The prior is the
hardware profile with its stated uncertainty; old windows fade with FORGET, so that drift is followed. Coefficients are
kept in units of the prior's, which keeps the 4x4 system well conditioned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import mul
from typing import TYPE_CHECKING

from autoscaler.model import Role
from autoscaler.normal_equations import Factors, without
from autoscaler.velocity import StepModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.model import RoleObservation
    from autoscaler.normal_equations import Four

FORGET = 0.995
"""Weight left of a window after another whole window: half of it is gone after 138 windows, 2.3 h at 60 s."""
NOISE = 0.08
"""Relative noise of one window's equation; the recorded runs fit to 2-5 % (median) with 30 s windows."""
LEARNED_SD = 0.15
"""A velocity counts as learned once its own relative standard deviation is below this."""
DRIFTED = 8.0
"""Mean squared misfit (in units of NOISE squared) that means another engine than the one learned: two windows of sheer
garbage give 9.75 at most before they fade, and a step time changed by half gives up to 17."""
DRIFT_FORGET = 0.7
"""Weight left of what was learned after each further window that does not fit: a tenth after seven of them."""
SETTLED = 30.0
"""Windows before which a misfit is the prior's, not a change."""
LEAST_WINDOWS = 4.0
"""... and at least this many whole windows under load have been seen."""
BUSY_REQUESTS = 3.0
"""An engine with this many requests on average idles with probability exp(-3) = 5 % or less (Poisson)."""
LEAST_TOKENS = 20.0
"""Fewer inter-token gaps than this in a window say nothing about the ITL."""
LEAST_PROMPTS = 3.0
"""Fewer prompts than this in a window say nothing about prefill."""
MOST_FASTER = 1000.0
"""A window in which an engine looks this much faster than its profile is garbage (the `unknown` one is off by 20)."""
LEAST_SHARE = 1e-6
"""No coefficient falls below this share of its prior: every iteration takes time, so every velocity is finite."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Where learning starts: a step model, and its relative standard deviation per coefficient."""

    step: StepModel
    relative_sd: float

    @property
    def scale(self) -> tuple[float, float, float, float]:
        """The coefficients as a tuple (a, p, c, d)."""
        return (
            self.step.base,
            self.step.per_prompt_token,
            self.step.per_running,
            self.step.per_resident_token,
        )


@dataclass(frozen=True, slots=True)
class Learned:
    """What the windows have said so far, in units of the prior: precision matrix (row major), vector, and counts.

    Attributes:
        precision, moment: information form of the data alone (the prior is added when asked).
        prefill_windows, decode_windows: whole windows under load that informed p, and (a, c, d).
        misfit: mean squared residual over NOISE squared; above 1 the uncertainty is widened by it.
        at: Unix time of the last window used; None before the first.
        scale: the prior's coefficients it is in units of; None before the first. Of another prior it says nothing.
    """

    precision: tuple[float, ...] = (0.0,) * 16
    moment: tuple[float, ...] = (0.0,) * 4
    prefill_windows: float = 0.0
    decode_windows: float = 0.0
    misfit: float = 1.0
    at: float | None = None
    scale: tuple[float, ...] | None = None

    def under(self, prior: Prior) -> Learned:
        """What counts under this prior: nothing when it was learned under another."""
        return self if self.scale is None or self.scale == prior.scale else Learned()


@dataclass(frozen=True, slots=True)
class Levels:
    """What the gauges said over the window, summed over the engines.

    Attributes:
        kv_tokens: mean KV tokens held; None when nobody said or nothing was held.
        in_flight: least requests running or waiting. waiting: least requests waiting.
    """

    kv_tokens: float | None = None
    in_flight: float = 0.0
    waiting: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """The learned step model, and the relative standard deviation of any linear combination of its coefficients."""

    step: StepModel
    covariance: tuple[float, ...]
    scale: tuple[float, float, float, float]
    prefill_windows: float
    decode_windows: float
    misfit: float = 1.0

    def relative_sd(self, weights: tuple[float, float, float, float]) -> float:
        """Relative standard deviation of w0*a + w1*p + w2*c + w3*d."""
        x = [w * s for w, s in zip(weights, self.scale, strict=True)]
        variance = sum(map(mul, _outer(x), self.covariance))
        step = self.step
        value = (
            weights[0] * step.base
            + weights[1] * step.per_prompt_token
            + weights[2] * step.per_running
            + weights[3] * step.per_resident_token
        )
        return math.sqrt(max(variance, 0.0)) / value if value > 0 else math.inf

    def prefill_sd(self, batched_tokens: float) -> float:
        """Of the prefill velocity 1 / (p + a/B)."""
        return self.relative_sd((1.0 / batched_tokens, 1.0, 0.0, 0.0))

    def decode_sd(self, batch: float, resident: float) -> float:
        """Of the ITL at a batch of `batch` requests of `resident` tokens, hence of the decode velocity there."""
        return self.relative_sd((1.0, 0.0, batch, batch * resident))

    def says(self, role: Role, sd: float) -> tuple[bool, str]:
        """Whether this counts as learned, and the reason in words."""
        windows = self.prefill_windows if role is Role.PREFILL else self.decode_windows
        if role is Role.COLOCATED:
            windows = min(windows, self.prefill_windows)
        if windows < LEAST_WINDOWS:
            return False, f"not enough load to learn from ({windows:.1f} of {LEAST_WINDOWS:.0f} windows)"
        if self.misfit > DRIFTED and self.prefill_windows + self.decode_windows >= SETTLED:
            return False, f"drifting: the last windows do not fit what was learned ({_about(sd)}); learning anew"
        if sd > LEARNED_SD:
            return False, f"not certain enough after {windows:.0f} windows ({_about(sd)}, wanted ±{LEARNED_SD:.0%})"
        return True, f"learned from {windows:.0f} windows ({_about(sd)})"


def _about(sd: float) -> str:
    """A relative standard deviation in words; beyond its own value it is just not known."""
    return f"±{sd:.0%}" if sd < 1.0 else "±100% or more"


def _equations(seen: RoleObservation, levels: Levels, window_s: float) -> list[tuple[str, list[float]]]:
    """Each identity that holds in this window, as (what it informs, regressors divided by the left side)."""
    engines = seen.rate_engines
    if engines < 1:
        return []
    per = 1.0 / engines
    steps = None if seen.step_rate is None else seen.step_rate * per
    computed = None if seen.computed_rate is None else seen.computed_rate * per
    found: list[tuple[str, list[float]]] = []
    if seen.key.role is Role.PREFILL:
        row = _prefill_time(seen, levels, per, window_s)
        return [("prefill", row)] if row else []
    itl, tokens = seen.itl, seen.itl_tokens
    if not itl or tokens is None or levels.kv_tokens is None or tokens * window_s < LEAST_TOKENS:
        return []
    concurrency = (seen.itl_busy or 0.0) * per
    batch = tokens * per / steps if steps else max(concurrency, 1.0)
    chunk = computed / steps if computed is not None and steps else 0.0
    resident = levels.kv_tokens * per
    found.append(("decode", [1.0 / itl, chunk / itl, batch / itl, resident / itl]))
    prompts = (seen.first_token_rate or 0.0) * window_s
    busy = busy_row(seen, levels)
    if busy is not None and _never_idle(levels, concurrency, per):
        informs = "prefill" if prompts * per >= LEAST_PROMPTS and chunk > 0 else "decode"
        found.append((informs, busy))
    return found


def busy_row(seen: RoleObservation, levels: Levels) -> list[float] | None:
    """Regressors of the share of time that an engine spends in iterations; None where the window does not tell them."""
    if seen.rate_engines < 1 or not seen.step_rate or seen.computed_rate is None:
        return None
    per = 1.0 / seen.rate_engines
    steps, computed = seen.step_rate * per, seen.computed_rate * per
    if seen.key.role is Role.PREFILL:
        return [steps, computed, 0.0, 0.0]
    if seen.itl_tokens is None or levels.kv_tokens is None:
        return None
    return [steps, computed, seen.itl_tokens * per, levels.kv_tokens * per * steps]


def _never_idle(levels: Levels, concurrency: float, per: float) -> bool:
    """Whether every engine had work throughout: at each look something was there, and mostly much more."""
    always = levels.in_flight * per >= 1.0
    return always and (levels.waiting * per >= 1.0 or concurrency >= BUSY_REQUESTS)


def _prefill_time(seen: RoleObservation, levels: Levels, per: float, window_s: float) -> list[float] | None:
    """What a pure prefill engine says; None where the window says nothing.

    With m prompts to an iteration on average and a geometric number in each, a prompt shares its iteration with 2m - 1
    (itself included) of L tokens. Below 1 it takes 1/m iterations, all its own.
    """
    requests, spent, computed = seen.first_token_rate, seen.prefill_busy, seen.computed_rate
    if not requests or not spent or not computed or requests * window_s < LEAST_PROMPTS:
        return None
    steps = seen.step_rate or requests
    if levels.waiting * per >= 1.0 and (busy := busy_row(seen, levels)) is not None:
        return busy
    time, prompt, shared = spent / requests, computed / requests, requests / steps
    return [max(1.0, 1.0 / shared) / time, prompt * max(1.0, 2.0 * shared - 1.0) / time, 0.0, 0.0]


def learn(
    learned: Learned, prior: Prior, seen: RoleObservation, *, at: float, levels: Levels, window_s: float
) -> Learned:
    """What is known after one more window.

    Args:
        learned: so far.
        prior: for the scale of the coefficients; under another one learning starts again.
        seen: rates over the window that ended at `at`.
        at: Unix time; windows overlap when ticks are closer than `window_s`, and then weigh only what is new.
        levels: the gauges over the window.
        window_s: the window's length.
    """
    learned = learned.under(prior)
    scale = prior.scale
    found = (
        (informs, [each * unit for each, unit in zip(row, scale, strict=True)])
        for informs, row in _equations(seen, levels, window_s)
    )
    equations = [(informs, x) for informs, x in found if 0.0 < sum(x) <= MOST_FASTER]
    if not equations:
        return learned
    fresh = 1.0 if learned.at is None else min(1.0, max(at - learned.at, 0.0) / window_s)
    if fresh <= 0:
        return learned
    fade = FORGET**fresh
    precision = [fade * each for each in learned.precision]
    moment = [fade * each for each in learned.moment]
    mean = _mean(*_posterior(learned, prior))
    misfit, counts = learned.misfit, {"prefill": learned.prefill_windows, "decode": learned.decode_windows}
    for informs, x in equations:
        expected = sum(map(mul, x, mean))
        noise = NOISE * max(1.0, expected)
        weight = fresh / noise**2
        precision = [old + weight * product for old, product in zip(precision, _outer(x), strict=True)]
        moment = [old + weight * each for old, each in zip(moment, x, strict=True)]
        residual = (1.0 - expected) / noise
        misfit += 0.05 * fresh * (min(residual * residual, 100.0) - misfit)
        counts[informs] += fresh
    if misfit > DRIFTED and sum(counts.values()) >= SETTLED:
        keep = DRIFT_FORGET**fresh
        precision, moment = [keep * each for each in precision], [keep * each for each in moment]
    return replace(
        learned,
        precision=tuple(precision),
        moment=tuple(moment),
        prefill_windows=counts["prefill"],
        decode_windows=counts["decode"],
        misfit=misfit,
        at=at,
        scale=prior.scale,
    )


def _outer(x: Sequence[float]) -> list[float]:
    """X times its own transpose, row major."""
    return [one * other for one in x for other in x]


def _posterior(learned: Learned, prior: Prior) -> tuple[list[float], list[float], float]:
    """Precision matrix and vector with the prior's own, in units of the prior's coefficients, and the prior's alone."""
    trust = 1.0 / prior.relative_sd**2
    precision = list(learned.precision)
    for i in range(4):
        precision[5 * i] += trust
    return precision, [each + trust for each in learned.moment], trust


def _mean(precision: Sequence[float], moment: Sequence[float], trust: float) -> Four:
    """The likeliest coefficients that are not negative: those that would be are held at 0, one round after another."""
    mean = Factors(precision, trust).solve(moment)
    free = [True] * 4
    for _ in range(3):
        if min(mean) >= 0:
            break
        free = [still and each > 0 for still, each in zip(free, mean, strict=True)]
        held = [each * still for each, still in zip(moment, free, strict=True)]
        mean = Factors(without(precision, free, trust), trust).solve(held)
    return max(mean[0], 0.0), max(mean[1], 0.0), max(mean[2], 0.0), max(mean[3], 0.0)


def estimate(learned: Learned, prior: Prior) -> Estimate:
    """The step model as now known: the prior where there was no load, the data where there was."""
    learned = learned.under(prior)
    precision, moment, trust = _posterior(learned, prior)
    mean = _mean(precision, moment, trust)
    widened = max(1.0, learned.misfit)
    values = [max(each, LEAST_SHARE) * unit for each, unit in zip(mean, prior.scale, strict=True)]
    return Estimate(
        StepModel(*values),
        tuple(each * widened for each in Factors(precision, trust).inverse()),
        prior.scale,
        learned.prefill_windows,
        learned.decode_windows,
        learned.misfit,
    )
