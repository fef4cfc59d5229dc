"""Forecasters by name; `DEFAULT` is the one the product uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forecasting.intervals import Bounded
from forecasting.points import DayIncrement, DayShape, Last, SeasonalNaive
from forecasting.ridge import Ridge
from forecasting.smoothing import HoltWinters, StateSpace, arima, components

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT = "ensemble"

FORECASTERS: Mapping[str, Bounded] = {
    DEFAULT: Bounded((Last(), DayIncrement(), DayShape(), Ridge(logarithmic=False), Ridge(logarithmic=True))),
    "last-value": Bounded((Last(),)),
    "seasonal-naive": Bounded((SeasonalNaive(1),)),
    "weekly-naive": Bounded((SeasonalNaive(7),)),
    "day-increment": Bounded((DayIncrement(),)),
    "day-shape": Bounded((DayShape(),)),
    "ridge": Bounded((Ridge(logarithmic=False),)),
    "ridge-log": Bounded((Ridge(logarithmic=True),)),
    "holt-winters": Bounded((HoltWinters(),)),
    "components": Bounded((StateSpace(components),)),
    "arima": Bounded((StateSpace(arima),)),
}
"""Every one with the same conformal layer, so that what differs is what foresees the load."""


def named(name: str) -> Bounded:
    """The forecaster of this name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    found = FORECASTERS.get(name)
    if found is None:
        raise ValueError(f"forecaster {name!r} is not one of {', '.join(FORECASTERS)}")
    return found
