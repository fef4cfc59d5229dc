"""What to generate, as values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.simulator.lengths import MIXES
from autoscaler.simulator.trace_files import too_long

if TYPE_CHECKING:
    from autoscaler.simulator.shapes import Shape
    from autoscaler.simulator.workload import RequestMix

_HIGHEST_CV = 50.0


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream of requests.

    Attributes:
        rate: requests/s where all shapes are 1, > 0.
        duration: seconds, > 0.
        shapes: factors on the rate, multiplied; none: it is constant.
        cv: coefficient of variation of the gaps between requests at constant rate: 1 Poisson, more Gamma bursts.
        mix: lengths.

    Raises:
        ValueError: a figure out of range, naming it.
    """

    rate: float = 10.0
    duration: float = 3600.0
    shapes: tuple[Shape, ...] = ()
    cv: float = 1.0
    mix: RequestMix = field(default_factory=lambda: MIXES["azure-conv"])

    def __post_init__(self) -> None:
        for name, value in (("rate", self.rate), ("duration", self.duration)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value:g}; it must be a number > 0")
        if problem := too_long(self.duration):
            raise ValueError(f"the end {problem}")
        if not 0 <= self.cv <= _HIGHEST_CV:
            raise ValueError(f"cv is {self.cv:g}; it must be 0..{_HIGHEST_CV:g}")


@dataclass(frozen=True, slots=True)
class GeneratorSpec:
    """What to generate.

    Attributes:
        name: of the workload.
        streams: summed; more than one become classes 0, 1, ...

    Raises:
        ValueError: no stream, or more than 128.
    """

    name: str
    streams: tuple[StreamSpec, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.streams) <= np.iinfo(np.int8).max + 1:
            raise ValueError(f"{len(self.streams)} streams; there must be 1..128")
