"""The loads over days as JSON's own types and back: histories only, from which the ensemble is stepped anew."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import numpy as np

from autoscaler.foresight_days import GRID, nobody
from forecasting.staggered import Past

if TYPE_CHECKING:
    from forecasting.staggered import Crowd

VERSION = 1
"""Of this part; another version is left out, and the histories are asked of the metric source again."""
MOST_NAMES = 100_000


def plain_days(crowd: Crowd) -> dict[str, Any]:
    """Each group's history as base64 of little-endian floats, loads x bins; NaN where nothing was observed.

    Single precision is a ten-millionth of the load. 2,000 loads of 8 days are 12 MB and take 60 ms.
    """
    groups = []
    for group in crowd.groups:
        known = group.history(crowd.keep)
        if known is not None:
            values = b64encode(known[1].astype("<f4").tobytes()).decode()
            groups.append({"names": group.names, "newest": known[0], "values": values})
    return {"version": VERSION, "step_s": crowd.grid.step_s, "groups": groups}


def days_of(plain: Any) -> Crowd:
    """Inverse of `plain_days`, as far as histories go: all is still to be stepped.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not that.
    """
    empty = nobody()
    if plain is None or plain["version"] != VERSION or plain["step_s"] != GRID.step_s:
        return empty
    told: dict[str, Past] = {}
    for group in plain["groups"]:
        told |= _group(group, empty.keep)
    if len(told) > MOST_NAMES:
        raise ValueError(f"{len(told)} loads; at most {MOST_NAMES}")
    return empty.laid_out(tuple(told), told)


def _group(plain: Any, keep: int) -> dict[str, Past]:
    names, newest = plain["names"], plain["newest"]
    if not all(isinstance(name, str) for name in names) or isinstance(newest, bool) or not isinstance(newest, int):
        raise ValueError(f"names {names!r:.80} must be strings, and the newest bin {newest!r} a whole number")
    values = np.frombuffer(b64decode(plain["values"], validate=True), "<f4").astype(np.float64)
    if not names or len(values) % len(names) or len(values) > keep * len(names):
        raise ValueError(f"{len(values)} values do not belong to {len(names)} loads of at most {keep} bins each")
    if np.isinf(values).any() or (values < 0).any():
        raise ValueError("a load that is negative or infinite")
    return {name: Past(newest, row) for name, row in zip(names, values.reshape(len(names), -1), strict=True)}
