"""Problems in short."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.problem import Pool, Role, ServiceClass

if TYPE_CHECKING:
    from optimizer.problem import Demand, Variant


def simple_pool(
    key: str,
    variant: Variant,
    demand: tuple[Demand, ...],
    *,
    shortage_price: float,
    minimum: int = 0,
    maximum: int = 1_000_000,
) -> Pool:
    """A pool of one role with one variant and one class."""
    return Pool(key, demand, (Role("", (variant,), minimum, maximum),), (ServiceClass("", 1.0, shortage_price),))
