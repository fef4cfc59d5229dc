"""What a simulation serves: requests one by one, or demand per bin of time. Pure values; arrays are read-only."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Counts = npt.NDArray[np.int32]
    Hashes = npt.NDArray[np.int64]
    Kinds = npt.NDArray[np.int8]

LARGEST_TOKENS = 10_000_000
"""Most tokens of a prompt or an output; the longest contexts served today have 1 to 10 million."""

BLOCK_TOKENS = 512
"""Tokens per prefix block of `Workload.blocks` where nothing else is said (Mooncake's block size)."""

LONGEST_DAYS = 400
"""Days that a trace may last; what is longer has its times in another unit, and would be simulated for hours."""

MOST_REQUESTS = 20_000_000
"""Most requests that a workload is generated or scaled to: about 400 MB of arrays."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Means over a workload's duration: requests/s, prompt tokens/s, output tokens/s."""

    requests: float
    prompt: float
    output: float


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests in order of arrival. All arrays have one entry per request; none at all is allowed.

    Attributes:
        name: where it comes from, as results should say it.
        arrival_s: seconds since the workload's start, >= 0, not decreasing.
        prompt: prompt tokens, 1..LARGEST_TOKENS.
        output: tokens to generate, 1..LARGEST_TOKENS.
        cached: prompt tokens known to be in the prefix cache, 0..prompt-1 (engines always compute the last one);
            None: unknown.
        blocks: per request, the ids of its prompt's prefix blocks, first block first; None: unknown.
        block_tokens: tokens per prefix block, the last of a prompt excepted.
        kind: class of the request, 0..127; None: all of one class.
        notes: what was done to it (scaled, repaired, sliced), one sentence each; results must carry them.
        horizon_s: seconds it lasts, silence at its end included; None: it ends with the last arrival.

    Raises:
        ValueError: naming the field, the position and what would be right.
    """

    name: str
    arrival_s: Floats
    prompt: Counts
    output: Counts
    cached: Counts | None = None
    blocks: tuple[Hashes, ...] | None = None
    kind: Kinds | None = None
    notes: tuple[str, ...] = ()
    horizon_s: float | None = None
    block_tokens: int = BLOCK_TOKENS

    def __post_init__(self) -> None:
        fixed: dict[str, np.ndarray] = {"arrival_s": _times("arrival_s", self.arrival_s)}
        size = len(fixed["arrival_s"])
        for name, least in (("prompt", 1), ("output", 1), ("cached", 0)):
            if getattr(self, name) is not None:
                fixed[name] = _tokens(name, getattr(self, name), size, least)
        if self.cached is not None:
            _all(fixed["cached"] < fixed["prompt"], "cached", fixed["cached"], "it must be less than the prompt")
        if self.kind is not None:
            fixed["kind"] = _whole("kind", self.kind, size, 0, 127).astype(np.int8)
        for name, array in fixed.items():
            object.__setattr__(self, name, _read_only(array))
        self._check_blocks()
        if self.block_tokens < 1:
            raise ValueError(f"block_tokens is {self.block_tokens}; it must be >= 1")
        last = float(self.arrival_s[-1]) if size else 0.0
        if self.horizon_s is not None and not (math.isfinite(self.horizon_s) and self.horizon_s >= last):
            raise ValueError(f"horizon_s is {self.horizon_s}; it must not be before the last arrival at {last:g} s")

    def _check_blocks(self) -> None:
        if self.blocks is None:
            return
        if len(self.blocks) != len(self):
            raise ValueError(f"blocks has {len(self.blocks)} entries for {len(self)} requests")
        for at, ids in enumerate(self.blocks):
            if ids.ndim != 1 or ids.dtype != np.int64:
                raise ValueError(f"blocks[{at}] is {ids.dtype} of {ids.ndim} dimensions; it must be int64 of one")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration(self) -> float:
        """Seconds from time 0 to the horizon, or to the last arrival where no horizon is known."""
        if self.horizon_s is not None:
            return self.horizon_s
        return float(self.arrival_s[-1]) if len(self) else 0.0

    @property
    def mean_rates(self) -> Rates:
        """Requests, prompt and output tokens per second over the duration; zeros where that is 0."""
        over = self.duration
        if over <= 0:
            return Rates(0.0, 0.0, 0.0)
        prompt, output = (float(tokens.sum(dtype=np.int64)) for tokens in (self.prompt, self.output))
        return Rates(len(self) / over, prompt / over, output / over)

    def between(self, t0: float, t1: float) -> Workload:
        """The requests with t0 <= arrival < t1, as a workload that starts at t0 and lasts t1 - t0 seconds.

        Raises:
            ValueError: unless 0 <= t0 < t1, both finite.
        """
        _check_window(t0, t1)
        first, last = np.searchsorted(self.arrival_s, [t0, t1])
        part = slice(int(first), int(last))
        return Workload(
            self.name,
            self.arrival_s[part] - t0,
            self.prompt[part],
            self.output[part],
            cached=None if self.cached is None else self.cached[part],
            blocks=None if self.blocks is None else self.blocks[part],
            kind=None if self.kind is None else self.kind[part],
            notes=(*self.notes, f"only seconds {t0:g} to {t1:g}"),
            horizon_s=t1 - t0,
            block_tokens=self.block_tokens,
        )

    def fingerprint(self) -> str:
        """SHA-256 (hex) over every array and the horizon: equal exactly when the requests are equal byte for byte."""
        digest = hashlib.sha256(repr((len(self), self.horizon_s)).encode())
        for array in (self.arrival_s, self.prompt, self.output, self.cached, self.kind):
            digest.update(b"-" if array is None else b"+" + array.tobytes())
        for ids in self.blocks or ():
            digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class DemandSeries:
    """Demand per bin of equal width, for the fluid simulation. Counts may be fractions (expected values).

    Attributes:
        name: where it comes from, as results should say it.
        t_s: seconds at which each bin begins, >= 0, `bin_s` apart.
        bin_s: width of a bin in seconds, > 0.
        requests: requests arriving in the bin, >= 0.
        prompt: prompt tokens arriving in the bin, >= 0; 0 where there are no requests.
        output: output tokens those requests will generate, >= 0; 0 where there are no requests.
        notes: what was done to it, one sentence each; results must carry them.

    Raises:
        ValueError: naming the field, the position and what would be right.
    """

    name: str
    t_s: Floats
    bin_s: float
    requests: Floats
    prompt: Floats
    output: Floats
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bin_s) and self.bin_s > 0):
            raise ValueError(f"bin_s is {self.bin_s}; it must be > 0 seconds")
        times = _times("t_s", self.t_s)
        steps = np.diff(times, prepend=times[:1] - self.bin_s)
        # A millionth of a bin: t_s written with few decimals, or summed in floating point.
        _all(np.abs(steps - self.bin_s) <= 1e-6 * self.bin_s, "t_s", times, f"bins must be {self.bin_s:g} s apart")
        fixed = {"t_s": times}
        for name in ("requests", "prompt", "output"):
            fixed[name] = _amounts(name, getattr(self, name), len(times))
        for name in ("prompt", "output"):
            sound = (fixed["requests"] > 0) | (fixed[name] == 0)
            _all(sound, name, fixed[name], "it must be 0 in a bin without requests")
        for name, array in fixed.items():
            object.__setattr__(self, name, _read_only(array))

    def __len__(self) -> int:
        return len(self.t_s)

    @property
    def duration(self) -> float:
        """Seconds that the bins cover."""
        return len(self) * self.bin_s

    @property
    def mean_rates(self) -> Rates:
        """Requests, prompt and output tokens per second over the duration; zeros where there are no bins."""
        over = self.duration
        if over <= 0:
            return Rates(0.0, 0.0, 0.0)
        return Rates(*(float(amounts.sum()) / over for amounts in (self.requests, self.prompt, self.output)))

    def between(self, t0: float, t1: float) -> DemandSeries:
        """The bins that begin in t0 <= t < t1, moved so that the first begins at 0.

        Raises:
            ValueError: unless 0 <= t0 < t1, both finite.
        """
        _check_window(t0, t1)
        first, last = np.searchsorted(self.t_s, [t0, t1])
        part = slice(int(first), int(last))
        times = self.t_s[part]
        return DemandSeries(
            self.name,
            times - times[0] if len(times) else times,
            self.bin_s,
            self.requests[part],
            self.prompt[part],
            self.output[part],
            notes=(*self.notes, f"only seconds {t0:g} to {t1:g}"),
        )


def served(prompt: np.ndarray, output: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Lengths an engine can serve: 0 becomes 1 token, said in a note per kind.

    Published traces have such rows (requests that failed when they were recorded); an engine reads at least one token
    and makes at least one.
    """
    notes = []
    for what, tokens in (("input", prompt), ("output", output)):
        zeros = int(np.count_nonzero(tokens == 0))
        if zeros:
            notes.append(f"{zeros} requests with 0 {what} tokens served as 1 token")
    return np.maximum(prompt, 1), np.maximum(output, 1), tuple(notes)


def _check_window(t0: float, t1: float) -> None:
    if not (0 <= t0 < t1 < math.inf):
        raise ValueError(f"a window must have 0 <= t0 < t1, in seconds; got {t0} and {t1}")


def _read_only(array: np.ndarray) -> np.ndarray:
    """The array itself if nobody can write to it, else a read-only copy."""
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array


def _all(sound: npt.NDArray[np.bool_], name: str, values: np.ndarray, rule: str) -> None:
    if not sound.all():
        at = int(np.argmin(sound))
        raise ValueError(f"{name}: {values[at]} (number {at + 1}): {rule}")


def _amounts(name: str, values: npt.ArrayLike, size: int | None = None) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or (size is not None and len(array) != size):
        raise ValueError(f"{name} has the shape {array.shape}; it must be ({'n' if size is None else size},)")
    _all(np.isfinite(array) & (array >= 0), name, array, "it must be finite and >= 0")
    return array


def _times(name: str, values: npt.ArrayLike) -> Floats:
    array = _amounts(name, values)
    _all(np.diff(array, prepend=0.0) >= 0, name, array, "times must not decrease")
    return array


def _whole(name: str, values: npt.ArrayLike, size: int, least: int, most: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (size,):
        raise ValueError(f"{name} has the shape {array.shape}; it must be ({size},), one per arrival")
    if size and array.dtype.kind not in "iu":
        raise ValueError(f"{name} is of type {array.dtype}; it must be whole numbers")
    _all((array >= least) & (array <= most), name, array, f"it must be {least}..{most}")
    return array


def _tokens(name: str, values: npt.ArrayLike, size: int, least: int) -> Counts:
    return _whole(name, values, size, least, LARGEST_TOKENS).astype(np.int32, copy=False)
