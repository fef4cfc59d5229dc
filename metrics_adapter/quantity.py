"""Kubernetes quantities: how a metric value is spelled on the wire."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal

LARGEST = 2**63 - 1
_NANO = Decimal("1e-9")
_MILLI = Decimal(1000)
_SUFFIXES = ("", "k", "M", "G", "T", "P")  # and E, where 2^63-1 ends


def quantity(value: float) -> str:
    """The canonical quantity string for a metric value: `6` → "6", `1.5` → "1500m", `0.0001` → "1m", `1000` → "1k".

    Canonical means no decimals and the largest suffix that loses nothing: 2500 stays "2500", 2000 becomes "2k".

    Kubernetes keeps at most three decimals and rounds further ones up, and so does this; noise of binary fractions
    (below half of 1e-9) is dropped first, since 6.000000000000001 replicas would otherwise become 7.

    Raises:
        ValueError: a negative value (an HPA takes a negative sum for an overflow and scales to its maximum), NaN or
            infinity (the client refuses them), or more than 2^63-1 (outside the wire format).
    """
    if not math.isfinite(value):
        raise ValueError(f"metric value {value!r} is not a finite number: a quantity must be 0 or more")
    if value < 0:
        raise ValueError(f"metric value {value!r} is negative: a quantity must be 0 or more")
    if value > LARGEST:
        raise ValueError(f"metric value {value!r} is too large: a quantity must be at most 2^63-1")
    if value == int(value):
        return _suffixed(int(value))
    exact = Decimal(repr(float(value))).quantize(_NANO, ROUND_HALF_EVEN)
    milli = int((exact * _MILLI).to_integral_value(ROUND_CEILING))
    whole, rest = divmod(milli, 1000)
    return f"{milli}m" if rest else _suffixed(whole)


def _suffixed(whole: int) -> str:
    for suffix in _SUFFIXES:
        if whole == 0 or whole % 1000:
            return f"{whole}{suffix}"
        whole //= 1000
    return f"{whole}E"
