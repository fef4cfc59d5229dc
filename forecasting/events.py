"""What only people know: a launch at nine, a batch every Sunday, a service that ends on the thirtieth.

A declared event raises the bound to a floor, or scales it, from its start to its end, once or again every so often.
Forecasters learn from what they see; this is for what they cannot have seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecasting.series import Floats


@dataclass(frozen=True, slots=True)
class Event:
    """A stretch of time somebody declared.

    Attributes:
        start: Unix seconds of its (first) beginning; it belongs to the event.
        end: Unix seconds of its (first) end; it does not.
        floor: least load to be ready for meanwhile, in the unit of the load.
        factor: what the forecast is multiplied by meanwhile.
        every_s: seconds between repetitions; None: it happens once.
        until: Unix seconds after which it no longer begins; None: for ever.
    """

    start: float
    end: float
    floor: float = 0.0
    factor: float = 1.0
    every_s: float | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        """Refuse events that never happen, never end or make no sense."""
        for name, value in (("floor", self.floor), ("factor", self.factor)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} {value} must be finite and not negative")
        if not (math.isfinite(self.start) and math.isfinite(self.end) and self.start < self.end):
            raise ValueError(f"start {self.start} and end {self.end} must be finite seconds, the start before the end")
        if self.every_s is not None and not (math.isfinite(self.every_s) and self.every_s >= self.end - self.start):
            raise ValueError(
                f"every_s {self.every_s} must be finite and at least its length, {self.end - self.start} s"
            )
        if self.until is not None and not self.until >= self.start:
            raise ValueError(f"until {self.until} must not be before start {self.start}")

    def during(self, begin: float, end: float) -> bool:
        """Whether any of it falls in [begin, end], or at `begin` where both are the same."""
        if end < self.start:
            return False
        if self.every_s is None:
            return begin < self.end
        last = self.start + math.floor((end - self.start) / self.every_s) * self.every_s
        if self.until is not None and last > self.until:
            last = self.start + math.floor((self.until - self.start) / self.every_s) * self.every_s
        return begin < last + self.end - self.start


def declared(bounds: Floats, at: float, horizons_s: Sequence[float], events: Sequence[Event]) -> Floats:
    """Bounds with what was declared: horizons (first axis) by quantiles, or horizons alone.

    For each horizon, the events that touch the stretch from `at` to `at + horizon` count: capacity ordered for a moment
    in between must be there then. Factors of overlapping events multiply, of floors the highest counts; a factor below
    1 counts only for events that hold at the end of the stretch, since it must not lower what is needed before.
    """
    out = np.array(bounds, np.float64)
    for i, horizon in enumerate(horizons_s):
        target = at + horizon
        factor, floor = 1.0, 0.0
        for event in events:
            throughout = event.during(at, at) and event.during(target, target)
            if throughout if event.factor < 1.0 else event.during(at, target):
                factor *= event.factor
            if event.during(at, target):
                floor = max(floor, event.floor)
        out[i] = np.maximum(out[i] * factor, floor)
    return out
