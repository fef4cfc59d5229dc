"""Token lengths of ServeGen's clients: published means and quantiles per client and window of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.simulator.requests import LARGEST_TOKENS
from autoscaler.simulator.tables import Column, amount, read_table
from autoscaler.simulator.trace_files import BadTrace

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from autoscaler.simulator.requests import Floats

_SIDES = ("input_tokens", "output_tokens")
_FIGURES = ("mean", "p50", "p95", "p99")


@dataclass(frozen=True, slots=True, eq=False)
class ClientLengths:
    """Lengths per client, window and side (0 input, 1 output), all known: gaps are filled when reading.

    Attributes:
        window_s: seconds per window.
        means: mean tokens, [client, window, side].
        quantiles: P50, P95, P99 in tokens, [client, window, side, level].
    """

    window_s: float
    means: Floats
    quantiles: Floats

    def window(self, seconds: Floats) -> npt.NDArray[np.int64]:
        """Window of each time; times after the last belong to the last."""
        whole: npt.NDArray[np.int64] = (seconds // self.window_s).astype(np.int64)
        at: npt.NDArray[np.int64] = np.minimum(whole, self.means.shape[1] - 1)
        return at


def read_lengths(path: Path, pooled: Path, clients: int) -> ClientLengths:
    """Read lengths for so many clients.

    A client's empty window takes the window before it, else the one after; a client without any takes the pooled
    figures of all clients.

    Raises:
        BadTrace: for the first thing that is wrong.
    """
    figures = [f"{side}_{figure}" for side in _SIDES for figure in _FIGURES]
    columns = [Column("t_s", amount), Column("client", amount), *(Column(name, _length_or_nan) for name in figures)]
    table = read_table(path, columns)
    times, who = table.numbers("t_s"), table.numbers("client").astype(np.int64)
    starts = np.unique(times)
    if (who >= clients).any():
        at = int(np.argmax(who >= clients))
        raise table.bad(at, "client", who[at], f"is not a client; the file of rates has 0..{clients - 1}")
    width = float(starts[1] - starts[0]) if len(starts) > 1 else math.inf
    known = np.full((clients, len(starts), len(figures)), np.nan)
    known[who, np.searchsorted(starts, times)] = np.column_stack([table.numbers(name) for name in figures])
    _fill(known, _pooled(pooled))
    by_side = known.reshape(clients, len(starts), len(_SIDES), len(_FIGURES))
    return ClientLengths(width, by_side[..., 0], by_side[..., 1:])


def _fill(known: Floats, pooled: Floats) -> None:
    for client in known:
        sound = np.flatnonzero(np.isfinite(client).all(axis=1))
        if not len(sound):
            client[:] = pooled
            continue
        before = np.searchsorted(sound, np.arange(len(client)), side="right") - 1
        client[:] = client[sound[np.maximum(before, 0)]]


def _pooled(path: Path) -> Floats:
    table = read_table(path, [Column("field", str.strip, None), *(Column(name, amount) for name in _FIGURES)])
    fields: list[str] = table.values["field"]
    for side in _SIDES:
        if side not in fields:
            raise BadTrace(path, f"has no row {side}; it has {', '.join(fields)}", column="field")
    return np.array([table.numbers(name)[fields.index(side)] for side in _SIDES for name in _FIGURES])


def _length_or_nan(text: str) -> float:
    """Tokens of a published figure; NaN where the cell is empty, as it is for windows without token data."""
    if not text.strip():
        return math.nan
    value = amount(text)
    if value > LARGEST_TOKENS:
        raise ValueError(f"is more than {LARGEST_TOKENS:,}, the most tokens a request may have")
    return value
