"""What became of each request, written while the simulation runs: one slot per request, seconds since its start."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Ledger:
    """Times and counts per request; NaN where something never happened.

    Attributes:
        first: when the first token reached the client. finish: when the last one did.
        preempted: times thrown back for want of KV. cached: prompt tokens the prefix cache had.
        engine: number of the engine that produced the tokens; -1 before.
    """

    __slots__ = ("cached", "engine", "finish", "first", "preempted")

    def __init__(self, requests: int) -> None:
        self.first = array("d", [nan]) * requests
        self.finish = array("d", [nan]) * requests
        self.preempted = array("i", [0]) * requests
        self.cached = array("i", [0]) * requests
        self.engine = array("i", [-1]) * requests

    def frozen(self) -> Outcomes:
        """The same as read-only numpy arrays."""
        return Outcomes(
            _times(self.first), _times(self.finish), _counts(self.preempted), _counts(self.cached), _counts(self.engine)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """A ledger when all is over; the same columns."""

    first: NDArray[np.float64]
    finish: NDArray[np.float64]
    preempted: NDArray[np.int32]
    cached: NDArray[np.int32]
    engine: NDArray[np.int32]


def _times(column: array[float]) -> NDArray[np.float64]:
    values = np.array(column, dtype=np.float64)
    values.setflags(write=False)
    return values


def _counts(column: array[int]) -> NDArray[np.int32]:
    values = np.array(column, dtype=np.int32)
    values.setflags(write=False)
    return values
