"""One-step predictors of NVIDIA Dynamo's planner: the last value, or a Kalman filter with a linear trend.

    constant   the last value
    kalman     x = (level, slope), F = [[1, 1], [0, 1]], H = [1, 0], Q = diag(1, 0.1), R = 10, P0 = 1000 I

Leading zeros are skipped. The noise is fixed, so that the same load in other units is smoothed otherwise (as shipped).
Source: ai-dynamo/dynamo components/planner (load predictors). One step is one throughput interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Predictor(StrEnum):
    """Which one."""

    CONSTANT = "constant"
    KALMAN = "kalman"


LEVEL_NOISE, SLOPE_NOISE, SEEN_NOISE, FIRST_DOUBT = 1.0, 0.1, 10.0, 1000.0


@dataclass(frozen=True, slots=True)
class Trend:
    """What is believed after the values so far: level, slope and their covariance (p00, p01, p11); the last value."""

    level: float = 0.0
    slope: float = 0.0
    p00: float = FIRST_DOUBT
    p01: float = 0.0
    p11: float = FIRST_DOUBT
    last: float | None = None

    def after(self, value: float) -> Trend:
        """The belief after one more value; zeros before the first other value are skipped."""
        if self.last is None:
            return self if value == 0 else Trend(level=value, last=value)
        level, slope = self.level + self.slope, self.slope
        p00 = self.p00 + 2 * self.p01 + self.p11 + LEVEL_NOISE
        p01, p11 = self.p01 + self.p11, self.p11 + SLOPE_NOISE
        gain_level, gain_slope = p00 / (p00 + SEEN_NOISE), p01 / (p00 + SEEN_NOISE)
        surprise = value - level
        return Trend(
            level + gain_level * surprise,
            slope + gain_slope * surprise,
            (1 - gain_level) * p00,
            (1 - gain_level) * p01,
            p11 - gain_slope * p01,
            value,
        )

    def next(self, predictor: Predictor) -> float | None:
        """The value one step ahead, not negative; None before the first."""
        if self.last is None:
            return None
        return max(0.0, self.last if predictor is Predictor.CONSTANT else self.level + self.slope)
