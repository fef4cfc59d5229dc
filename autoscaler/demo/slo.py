"""Keeps score: which requests got their first token in time and the later ones fast enough."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_RECENT = 400


@dataclass(slots=True)
class Score:
    """Verdicts on requests so far.

    A request is missed as soon as its first token is overdue, whether it came late or has not come; met when it ended
    with its TTFT and its mean TPOT within the targets; not counted before either. Times in seconds.
    """

    ttft_target: float
    tpot_target: float
    met: int = 0
    missed: int = 0
    ttfts: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    tpots: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _awaited: dict[int, float] = field(default_factory=dict)
    _lost: dict[int, float] = field(default_factory=dict)
    _first: dict[int, float] = field(default_factory=dict)

    def arrived(self, request: int, at: float) -> None:
        """A request came; they come in order of time."""
        self._awaited[request] = at

    def first_token(self, request: int, at: float) -> None:
        """Its first token came. A second one, after the request was moved to another replica, changes nothing."""
        if request in self._first:
            return
        self._first[request] = at
        if request in self._lost:
            self.ttfts.append(at - self._lost[request])
            return
        came = self._awaited.pop(request)
        self.ttfts.append(at - came)
        if at - came > self.ttft_target:
            self._miss(request, came)

    def finished(self, request: int, at: float, outputs: int) -> None:
        """Its last token came."""
        first = self._first.pop(request)
        tpot = (at - first) / (outputs - 1) if outputs > 1 else 0.0
        self.tpots.append(tpot)
        if request in self._lost:
            del self._lost[request]
        elif tpot <= self.tpot_target:
            self.met += 1
        else:
            self.missed += 1

    def overdue(self, now: float) -> None:
        """Mark those that still wait past the target."""
        late = []
        for request, at in self._awaited.items():
            if now - at <= self.ttft_target:
                break
            late.append(request)
        for request in late:
            self._miss(request, self._awaited.pop(request))

    @property
    def attainment(self) -> float | None:
        """Share met of those judged, 0..1; None before the first verdict."""
        judged = self.met + self.missed
        return self.met / judged if judged else None

    def _miss(self, request: int, came: float) -> None:
        self.missed += 1
        self._lost[request] = came


def quantile(values: deque[float], share: float) -> float | None:
    """The smallest value that at least `share` of them do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
