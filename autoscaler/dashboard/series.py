"""A bounded day of numbers per role: every tick of the last minutes, and minutes of the last day."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = (
    *("load", "forecast", "velocity", "desired", "starting", "ready", "running", "waiting", "kv_usage"),
    *("request_rate", "prompt_rate", "output_rate", "cost_per_million"),
)
"""What is kept of a role at a tick: tokens/s, replicas, requests, usage 0..1, requests/s, money per 1e6 tokens made."""
_MEANS = [at for at, name in enumerate(COLUMNS) if name not in {"forecast", "desired", "starting", "ready"}]
_FORECAST = COLUMNS.index("forecast")
FINE = 900
"""Ticks kept as they are: a quarter of an hour at one a second, nearly four at one in 15 s."""
COARSE = 1440
"""Minutes kept: a day."""
MINUTE_S = 60.0
MOST_POINTS = 720
"""Points sent for one picture; more cannot be told apart on a screen."""


@dataclass(slots=True)
class Ring:
    """Rows of (time, COLUMNS) with a fixed room: the oldest row makes place. 13 x 4 bytes a row and 8 for the time."""

    room: int
    times: np.ndarray = field(init=False)
    rows: np.ndarray = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.times = np.zeros(self.room, dtype=np.float64)
        self.rows = np.full((self.room, len(COLUMNS)), np.nan, dtype=np.float32)

    def put(self, at: float, row: np.ndarray) -> None:
        """Append a row."""
        place = self.count % self.room
        self.times[place] = at
        self.rows[place] = row
        self.count += 1

    def last(self) -> float | None:
        """Time of the newest row."""
        return float(self.times[(self.count - 1) % self.room]) if self.count else None

    def since(self, start: float) -> tuple[np.ndarray, np.ndarray]:
        """Times and rows from `start` on, oldest first."""
        kept = min(self.count, self.room)
        order = np.arange(self.count - kept, self.count) % self.room
        times = self.times[order]
        first = int(np.searchsorted(times, start))
        return times[first:], self.rows[order[first:]]


@dataclass(slots=True)
class RoleSeries:
    """One role's last day. A minute has its mean load, its highest forecast and its last counts."""

    fine: Ring = field(default_factory=lambda: Ring(FINE))
    coarse: Ring = field(default_factory=lambda: Ring(COARSE))
    _minute: list[np.ndarray] = field(default_factory=list)
    _began: float = -np.inf

    def put(self, at: float, values: Mapping[str, float | None]) -> None:
        """Append a tick; None is a gap."""
        row = np.array([np.nan if values.get(name) is None else values[name] for name in COLUMNS], dtype=np.float32)
        self.fine.put(at, row)
        minute = at - at % MINUTE_S
        if minute != self._began:
            self._close()
            self._began = minute
        self._minute.append(row)

    def _close(self) -> None:
        if not self._minute:
            return
        rows = np.array(self._minute)
        merged = rows[-1].copy()
        for column in _MEANS:
            known = rows[:, column][~np.isnan(rows[:, column])]
            merged[column] = known.mean() if len(known) else np.nan
        forecasts = rows[:, _FORECAST][~np.isnan(rows[:, _FORECAST])]
        merged[_FORECAST] = forecasts.max() if len(forecasts) else np.nan
        self.coarse.put(self._began, merged)
        self._minute = []

    def between(self, start: float) -> dict[str, list[float | None]]:
        """Columns from `start` on, at most MOST_POINTS points: minutes where ticks no longer reach, then every tick."""
        times, rows = self.fine.since(start)
        oldest = float(times[0]) if len(times) else np.inf
        if oldest > start:
            early, minutes = self.coarse.since(start)
            kept = early + MINUTE_S <= oldest
            times, rows = np.concatenate([early[kept], times]), np.concatenate([minutes[kept], rows])
        step = max(1, -(-len(times) // MOST_POINTS))
        # The newest point is always there: thinning begins from it.
        chosen = np.arange(len(times) - 1, -1, -step)[::-1] if len(times) else np.arange(0)
        found: dict[str, list[float | None]] = {"t": [round(float(at), 3) for at in times[chosen]]}
        for column, name in enumerate(COLUMNS):
            found[name] = [None if value != value else float(f"{value:.6g}") for value in rows[chosen, column].tolist()]  # noqa: PLR0124 - NaN
        return found
