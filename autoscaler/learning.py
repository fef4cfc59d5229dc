"""Velocities learned online: the step model's four coefficients by Bayesian linear regression.

The iteration time s = a + p*C + c*n + d*R (velocity.py) is linear in (a, p, c, d), and three identities on counters
every engine exports are linear in them too. Per engine, rates over a window:

* **gaps**: the mean inter-token latency is the iteration time the decoding requests saw,
  ITL = a + p*(C/S) + c*n + d*n*k, with S iterations/s, n = tokens per iteration, k resident tokens per request;
* **busy time**: an engine that never idles spends every second in iterations, 1 = a*S + p*C + c*G + d*n*k*S;
* **prefill time**: on a pure prefill engine the time requests spend in prefill, over how many share an iteration, is
  the time it was busy, B = a*S + p*C.

The first two hold for mixed engines; the second only where requests are always there, so that windows below saturation
teach nothing about capacity (a half-idle engine would look half as fast). All are divided by their left side: the noise
is relative. The prior is the hardware profile with its stated uncertainty; old windows fade with FORGET, so that drift
is followed. Coefficients are kept in units of the prior's, which keeps the 4x4 system well conditioned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.model import Role
from autoscaler.velocity import StepModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from autoscaler.model import RoleObservation

FORGET = 0.995
"""Weight left of a window after another whole window: half of it is gone after 138 windows, 2.3 h at 60 s."""
NOISE = 0.08
"""Relative noise of one window's equation; the recorded runs fit to 2-5 % (median) with 30 s windows."""
LEARNED_SD = 0.15
"""A velocity counts as learned once its own relative standard deviation is below this."""
LEAST_WINDOWS = 4.0
"""... and at least this many whole windows under load have been seen."""
BUSY_REQUESTS = 3.0
"""An engine with this many requests on average idles with probability exp(-3) = 5 % or less (Poisson)."""
LEAST_TOKENS = 20.0
"""Fewer inter-token gaps than this in a window say nothing about the ITL."""
LEAST_PROMPTS = 3.0
"""Fewer prompts than this in a window say nothing about prefill."""


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
    """

    precision: tuple[float, ...] = (0.0,) * 16
    moment: tuple[float, ...] = (0.0,) * 4
    prefill_windows: float = 0.0
    decode_windows: float = 0.0
    misfit: float = 1.0
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The learned step model, and the relative standard deviation of any linear combination of its coefficients."""

    step: StepModel
    covariance: tuple[float, ...]
    scale: tuple[float, float, float, float]
    prefill_windows: float
    decode_windows: float

    def relative_sd(self, weights: tuple[float, float, float, float]) -> float:
        """Relative standard deviation of w0*a + w1*p + w2*c + w3*d."""
        x = [w * s for w, s in zip(weights, self.scale, strict=True)]
        variance = sum(x[i] * x[j] * self.covariance[4 * i + j] for i in range(4) for j in range(4))
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
        if sd > LEARNED_SD:
            return False, f"not certain enough after {windows:.0f} windows (±{sd:.0%}, wanted ±{LEARNED_SD:.0%})"
        return True, f"learned from {windows:.0f} windows (±{sd:.0%})"


def _equations(seen: RoleObservation, resident: float | None, window_s: float) -> list[tuple[str, list[float]]]:
    """Each identity that holds in this window, as (what it informs, regressors divided by the left side)."""
    engines = seen.rate_engines
    if engines < 1:
        return []
    per = 1.0 / engines
    steps = None if seen.step_rate is None else seen.step_rate * per
    computed = None if seen.computed_rate is None else seen.computed_rate * per
    found: list[tuple[str, list[float]]] = []
    if seen.key.role is Role.PREFILL:
        row = _prefill_time(seen, steps, computed, per, window_s)
        return [("prefill", row)] if row else []
    itl, tokens = seen.itl, seen.itl_tokens
    if itl is None or tokens is None or resident is None or tokens * window_s < LEAST_TOKENS:
        return []
    concurrency = (seen.itl_busy or 0.0) * per
    batch = tokens * per / steps if steps else max(concurrency, 1.0)
    chunk = computed / steps if computed is not None and steps else 0.0
    found.append(("decode", [1.0 / itl, chunk / itl, batch / itl, batch * resident / itl]))
    waiting = (seen.waiting or 0.0) * per
    prompts = (seen.first_token_rate or 0.0) * window_s
    if steps and computed is not None and (waiting >= 1.0 or (seen.running or 0.0) * per >= BUSY_REQUESTS):
        informs = "prefill" if prompts * per >= LEAST_PROMPTS and chunk > 0 else "decode"
        found.append((informs, [steps, computed, tokens * per, batch * resident * steps]))
    return found


def _prefill_time(
    seen: RoleObservation, steps: float | None, computed: float | None, per: float, window_s: float
) -> list[float] | None:
    """The prefill-time identity B = a*S + p*C divided by B; None where the window says nothing."""
    requests, spent = seen.first_token_rate, seen.prefill_busy
    if not requests or not spent or not computed or requests * window_s < LEAST_PROMPTS:
        return None
    rate = requests * per
    iterations = steps or rate
    busy = spent * per / max(1.0, rate / iterations)
    # At most 1: requests that wait for a shared iteration's end would otherwise count as engine time.
    busy = min(busy, 1.0)
    return [iterations / busy, computed / busy, 0.0, 0.0]


def learn(
    learned: Learned, prior: Prior, seen: RoleObservation, *, at: float, resident: float | None, window_s: float
) -> Learned:
    """What is known after one more window.

    Args:
        learned: so far.
        prior: for the scale of the coefficients (it must not change, or learning starts again).
        seen: rates over the window that ended at `at`.
        at: Unix time; windows overlap when ticks are closer than `window_s`, and then weigh only what is new.
        resident: mean KV tokens held per decoding request over the window; None when not known.
        window_s: the window's length.
    """
    equations = _equations(seen, resident, window_s)
    if not equations:
        return learned
    fresh = 1.0 if learned.at is None else min(1.0, max(at - learned.at, 0.0) / window_s)
    if fresh <= 0:
        return learned
    scale = np.array(prior.scale)
    fade = FORGET**fresh
    precision = fade * np.array(learned.precision).reshape(4, 4)
    moment = fade * np.array(learned.moment)
    mean = _posterior(learned, prior)[0]
    weight = fresh / NOISE**2
    misfit, counts = learned.misfit, {"prefill": learned.prefill_windows, "decode": learned.decode_windows}
    for informs, row in equations:
        x = np.array(row) * scale
        precision += weight * np.outer(x, x)
        moment += weight * x
        residual = (1.0 - float(x @ mean)) / NOISE
        misfit += 0.05 * fresh * (min(residual * residual, 100.0) - misfit)
        counts[informs] += fresh
    return replace(
        learned,
        precision=tuple(precision.ravel().tolist()),
        moment=tuple(moment.tolist()),
        prefill_windows=counts["prefill"],
        decode_windows=counts["decode"],
        misfit=misfit,
        at=at,
    )


def _posterior(learned: Learned, prior: Prior) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior mean (non-negative) and covariance of the coefficients in units of the prior's."""
    trust = 1.0 / prior.relative_sd**2
    precision = np.array(learned.precision).reshape(4, 4) + trust * np.eye(4)
    moment = np.array(learned.moment) + trust
    free = np.ones(4, dtype=bool)
    mean = np.zeros(4)
    for _ in range(4):
        mean = np.zeros(4)
        mean[free] = np.linalg.solve(precision[np.ix_(free, free)], moment[free])
        if (mean >= 0).all():
            break
        free &= mean > 0
    covariance: NDArray[np.float64] = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    return np.maximum(mean, 0.0), covariance * max(1.0, learned.misfit)


def estimate(learned: Learned, prior: Prior) -> Estimate:
    """The step model as now known: the prior where there was no load, the data where there was."""
    mean, covariance = _posterior(learned, prior)
    values = [float(m) * s for m, s in zip(mean, prior.scale, strict=True)]
    return Estimate(
        StepModel(*values),
        tuple(covariance.ravel().tolist()),
        prior.scale,
        learned.prefill_windows,
        learned.decode_windows,
    )
