"""The shapes of Prometheus' answers beside instant vectors; a proxy or another server may answer in others.

Every function raises KeyError, IndexError, TypeError or ValueError where the shape is not the one it reads.
"""

from __future__ import annotations

from typing import Any


def labels(found: Any) -> dict[str, str]:
    """The label set of one series."""
    if not isinstance(found, dict):
        raise TypeError(f"not labels: {str(found)[:80]}")
    texts(list(found.values()))
    return found


def texts(found: Any) -> tuple[str, ...]:
    """A list of label values."""
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        raise TypeError(f"not a list of texts: {str(found)[:80]}")
    return tuple(found)


def scalar(found: Any) -> float:
    """The value of a scalar: `[Unix time, "value"]`."""
    at, value = found
    if not isinstance(value, str):
        raise TypeError(f"not the scalar of time {at}: {str(value)[:80]}")
    return float(value)


def points(found: Any) -> tuple[dict[str, str], list[tuple[float, float]]]:
    """One series of a range query: its labels and its (Unix time, value) points."""
    return labels(found["metric"]), [(float(t), float(v)) for t, v in found["values"]]
