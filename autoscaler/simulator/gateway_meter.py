"""What a gateway counts of the requests that come in, as rates a source makes of it: requests/s and prompt tokens/s.

Counted is what arrives, whatever becomes of it. As with the engines the counters are scraped every `scrape_s`, seen
`lag_s` later, and a rate is their growth over the scrapes within `window_s`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.simulator.requests import DemandSeries

if TYPE_CHECKING:
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.setup import Actuation


class GatewayMeter:
    """The counters of one gateway over a whole load: known beforehand, told only up to the last scrape."""

    def __init__(self, load: Workload | DemandSeries, actuation: Actuation) -> None:
        self._actuation = actuation
        if isinstance(load, DemandSeries):
            times = np.concatenate([load.t_s, load.t_s[-1:] + load.bin_s])
            # All scrapes at once: one by one they took a fortieth of a week's simulation.
            scrapes = np.arange(math.ceil(float(times[-1]) / actuation.scrape_s) + 2) * actuation.scrape_s
            parts = (np.concatenate([[0.0], np.cumsum(part)]) for part in (load.requests, load.prompt))
            self._scraped = list(zip(*(np.interp(scrapes, times, part).tolist() for part in parts), strict=True))
        else:
            self._scraped = []
            self._times = load.arrival_s
            self._requests = np.arange(len(load) + 1, dtype=np.float64)
            self._tokens = np.concatenate([[0.0], np.cumsum(load.prompt, dtype=np.float64)])

    def rates(self, at: float) -> tuple[float, float] | None:
        """Requests/s and prompt tokens/s as seen at `at`, seconds; None before there are two scrapes.

        A demand's prompt tokens are those without prefix hits: a series tells no others.
        """
        step = self._actuation.scrape_s
        last = math.floor((at - self._actuation.lag_s) / step + 1e-9)
        first = max(0, last - math.floor(self._actuation.window_s / step + 1e-9))
        if last <= first:
            return None
        then, now = self._counted(first), self._counted(last)
        over = (last - first) * step
        return (now[0] - then[0]) / over, (now[1] - then[1]) / over

    def _counted(self, scrape: int) -> tuple[float, float]:
        """Requests and prompt tokens up to a scrape: in steps, or for a flow in between as well."""
        if self._scraped:
            return self._scraped[min(scrape, len(self._scraped) - 1)]
        upto = int(np.searchsorted(self._times, scrape * self._actuation.scrape_s, side="right"))
        return float(self._requests[upto]), float(self._tokens[upto])
