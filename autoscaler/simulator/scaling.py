"""More or less of a workload: superposition of shifted copies, time compression, thinning."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, overload

import numpy as np

from autoscaler.errors import BadSettings
from autoscaler.simulator.requests import MOST_REQUESTS, DemandSeries, Workload
from autoscaler.simulator.trace_files import too_long

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoscaler.simulator.requests import Hashes

SHIFT_S = 60.0
"""Default shift of a copy, seconds either way: the day and the minutes keep their shape, bursts no longer coincide."""

JITTER_S = 1.0
"""Default shift of each request of a copy, seconds either way: no two copies repeat the same gaps."""


class ScaleKind(StrEnum):
    """Ways to change how much comes."""

    SUPERPOSE = "superpose"
    COMPRESS = "compress"
    THIN = "thin"


@dataclass(frozen=True, slots=True)
class Scale:
    """One change of scale: `superpose:20`, `compress:20`, `thin:0.5`.

    Attributes:
        kind: what is done.
        factor: copies (whole, >= 1), divisor of time (> 0) or share kept (0 < share <= 1).

    Raises:
        ValueError: a factor that kind cannot have.
    """

    kind: ScaleKind
    factor: float

    def __post_init__(self) -> None:
        sound, rule = {
            ScaleKind.SUPERPOSE: (self.factor >= 1 and self.factor % 1 == 0, "a whole number of copies >= 1"),
            ScaleKind.COMPRESS: (self.factor > 0, "a number > 0 that time is divided by"),
            ScaleKind.THIN: (0 < self.factor <= 1, "the share of requests to keep, above 0 and at most 1"),
        }[self.kind]
        if not (math.isfinite(self.factor) and sound):
            raise ValueError(f"{self.kind}:{self.factor:g}: the factor must be {rule}")


def parse_scale(text: str) -> tuple[Scale, ...]:
    """Scales from text such as `superpose:20` or, done one after the other, `superpose:20,thin:0.5`. Empty: none.

    Raises:
        BadSettings: naming the part that cannot be read and what would be right.
    """
    scales = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        kind, _, factor = part.partition(":")
        try:
            scales.append(Scale(ScaleKind(kind.strip()), float(factor)))
        except ValueError as error:
            known = kind.strip() in set(ScaleKind) and str(error).startswith(kind.strip())
            said = str(error) if known else f"scale {part!r} is not one of superpose:N, compress:FACTOR, thin:SHARE"
            raise BadSettings((said,)) from None
    return tuple(scales)


@overload
def scaled(what: Workload, scales: Iterable[Scale], seed: int) -> Workload: ...
@overload
def scaled(what: DemandSeries, scales: Iterable[Scale], seed: int) -> DemandSeries: ...
def scaled(what: Workload | DemandSeries, scales: Iterable[Scale], seed: int) -> Workload | DemandSeries:
    """Apply scales in order; each leaves a note in the result.

    Raises:
        BadSettings: it would have more than MOST_REQUESTS requests.
    """
    for scale in scales:
        if isinstance(what, DemandSeries):
            what = _demand_scaled(what, scale)
            if problem := too_long(what.duration):
                raise BadSettings((f"{scale.kind}:{scale.factor:g}: the end {problem}",))
        elif scale.kind is ScaleKind.SUPERPOSE:
            what = superpose(what, int(scale.factor), seed)
        elif scale.kind is ScaleKind.COMPRESS:
            what = compress(what, scale.factor)
        else:
            what = thin(what, scale.factor, seed)
    return what


def _demand_scaled(series: DemandSeries, scale: Scale) -> DemandSeries:
    notes = (*series.notes, f"{scale.kind}:{scale.factor:g}")
    if scale.kind is ScaleKind.COMPRESS:
        return dataclasses.replace(
            series, t_s=series.t_s / scale.factor, bin_s=series.bin_s / scale.factor, notes=notes
        )
    times = scale.factor
    return dataclasses.replace(
        series,
        requests=series.requests * times,
        prompt=series.prompt * times,
        output=series.output * times,
        notes=notes,
    )


def superpose(
    workload: Workload, factor: int, seed: int, *, shift_s: float = SHIFT_S, jitter_s: float = JITTER_S
) -> Workload:
    """The sum of `factor` copies, as if so many like populations of users came at once.

    The first copy is the workload itself. Each further one is moved in time as a whole by up to `shift_s` either way,
    around the ends (what leaves at one end comes in at the other), and each of its requests by up to `jitter_s` more.
    So the shape over minutes and days stays, while bursts of seconds average out as they do among independent users.
    Prefix blocks are kept apart between copies: other users have other prompts, so that copies share no cache.

    Raises:
        BadSettings: fewer than 1 copy, a negative shift, or more than MOST_REQUESTS requests.
    """
    if factor < 1 or min(shift_s, jitter_s) < 0:
        raise BadSettings((f"superpose needs >= 1 copies and shifts >= 0; got {factor}, {shift_s} and {jitter_s}",))
    if len(workload) * factor > MOST_REQUESTS:
        total = len(workload) * factor
        raise BadSettings((f"superpose:{factor} would be {total:,} requests; at most {MOST_REQUESTS:,}",))
    random, lasts, size = np.random.default_rng([seed, factor]), workload.duration, len(workload)
    times = np.tile(workload.arrival_s, factor).reshape(factor, size)
    if factor > 1 and lasts > 0:
        shift, jitter = min(shift_s, lasts / 2), min(jitter_s, lasts / 2)
        moved = random.uniform(-shift, shift, (factor - 1, 1)) + random.uniform(-jitter, jitter, (factor - 1, size))
        times[1:] = np.mod(times[1:] + moved, lasts)
    flat = times.reshape(-1)
    order = np.argsort(flat, kind="stable")
    origin = order % max(size, 1)
    note = f"superpose:{factor} (copies shifted by up to {shift_s:g} s and {jitter_s:g} s per request, seed {seed})"
    return Workload(
        workload.name,
        flat[order],
        workload.prompt[origin],
        workload.output[origin],
        cached=None if workload.cached is None else workload.cached[origin],
        blocks=None if workload.blocks is None else _apart(workload.blocks, order),
        kind=None if workload.kind is None else workload.kind[origin],
        notes=(*workload.notes, note),
        horizon_s=lasts,
        block_tokens=workload.block_tokens,
    )


def _apart(blocks: tuple[Hashes, ...], order: np.ndarray) -> tuple[Hashes, ...]:
    """Block ids of the copies' requests in this order; copy k's are moved beyond those of the copies before it."""
    size = len(blocks)
    if not size:
        return ()
    flat = np.concatenate(blocks)
    ends = np.cumsum([len(ids) for ids in blocks])
    low = int(flat.min()) if len(flat) else 0
    stride = int(flat.max()) - low + 1 if len(flat) else 1
    if stride * (len(order) // size) + abs(low) >= 2**63:
        # Ids that are hashes use the whole range: number them first, so that there is room for the copies.
        flat, stride = np.unique(flat, return_inverse=True)[1].astype(np.int64), len(flat)
    starts = ends - np.diff(ends, prepend=0)
    copies: list[Hashes] = []
    for copy in range(len(order) // size):
        moved = flat + copy * stride
        moved.flags.writeable = False
        copies += [moved[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return tuple(copies[at] for at in order.tolist())


def compress(workload: Workload, factor: float) -> Workload:
    """Time divided by `factor`: the same requests in a shorter time; a factor below 1 stretches.

    Bursts and daily shapes become faster as well, so that lead times weigh more than they would in life.

    Raises:
        BadSettings: a factor that is not a finite number > 0.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise BadSettings((f"compress:{factor}: the factor must be a number > 0 that time is divided by",))
    if problem := too_long(workload.duration / factor):
        raise BadSettings((f"compress:{factor:g}: the end {problem}",))
    return dataclasses.replace(
        workload,
        arrival_s=workload.arrival_s / factor,
        horizon_s=workload.duration / factor,
        notes=(*workload.notes, f"compress:{factor:g} (time divided)"),
    )


def thin(workload: Workload, share: float, seed: int) -> Workload:
    """Each request kept with the probability `share`, independently; the duration stays.

    Raises:
        BadSettings: a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise BadSettings((f"thin:{share}: the share of requests to keep must be above 0 and at most 1",))
    kept = np.random.default_rng([seed, 1]).random(len(workload)) < share
    return Workload(
        workload.name,
        workload.arrival_s[kept],
        workload.prompt[kept],
        workload.output[kept],
        cached=None if workload.cached is None else workload.cached[kept],
        blocks=None if workload.blocks is None else tuple(workload.blocks[at] for at in np.flatnonzero(kept)),
        kind=None if workload.kind is None else workload.kind[kept],
        notes=(*workload.notes, f"thin:{share:g} (seed {seed})"),
        horizon_s=workload.duration,
        block_tokens=workload.block_tokens,
    )
