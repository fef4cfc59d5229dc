"""What a metric source shows of a fluid: sums over a role, sampled at every look; no engine is told apart."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from autoscaler.model import Role, RoleKey, RoleObservation

if TYPE_CHECKING:
    from autoscaler.simulator.fluid import Flow, FluidFleet
    from autoscaler.simulator.setup import Actuation
    from autoscaler.simulator.telemetry import Beside


class FluidSenses:
    """Looks at a fluid. Engines that a fault lets grow old count as stale at once, and so do not report."""

    def __init__(self, fleet: FluidFleet, actuation: Actuation, begun: float) -> None:
        """Of this fleet, whose time 0 is `begun` in Unix seconds."""
        self.unscraped: set[int] = set()
        self.hidden: set[int] = set()
        self._fleet = fleet
        self._actuation = actuation
        self._begun = begun
        self._past: dict[Role, deque[tuple[float, dict[str, float]]]] = {role: deque() for role in fleet.flows}
        self._young: deque[tuple[int, float]] = deque()
        self._watched = 0

    def look(self, now: float) -> None:
        """Notice when engines were first there."""
        for number in range(self._watched, self._fleet.born):
            self._young.append((number, now))
        self._watched = self._fleet.born

    def role(self, key: RoleKey, at: float, beside: Beside) -> RoleObservation:
        """A role's report: rates over the window between two looks of this source."""
        flow = self._fleet.flow(key.role)
        alive, seen, fresh, old = self._heard(key.role, at)
        rates, over = self._rates(flow, at)
        share = fresh / alive if alive else 0.0
        heard = fresh > 0
        told = rates if over and old else {}
        if share != 1.0:
            told = {name: value * share for name, value in told.items()}
        capacity = float(self._fleet.profile.kv_capacity_tokens)
        usage = min(1.0, flow.running * self._fleet.resident / max(1, flow.open) / capacity)
        came = beside.arrivals or (None, None)
        return RoleObservation(
            key=key,
            sampled_at=at + self._begun if heard else None,
            reporting=fresh,
            rate_engines=old if over else 0,
            ready=beside.ready,
            replicas=beside.existing,
            stale=seen - fresh,
            running=flow.running * share if heard else None,
            waiting=(flow.queue + flow.chance) * share if heard else None,
            queued_at_gateway=None if key.role is Role.DECODE else 0.0,
            kv_usage=usage if heard else None,
            kv_capacity=capacity if heard else None,
            prompt_rate=told.get("prompt"),
            computed_rate=told.get("computed"),
            generation_rate=told.get("generation"),
            first_token_rate=told.get("first_tokens"),
            completion_rate=told.get("completions"),
            prefill_busy=told.get("prefill_busy"),
            itl_busy=told.get("itl_busy"),
            itl_tokens=told.get("itl_tokens"),
            ttft_busy=told.get("ttft_busy"),
            step_rate=told.get("steps"),
            preemption_rate=told.get("preemptions"),
            transfer_bytes=told.get("transfer_bytes"),
            transfer_busy=told.get("transfer_busy"),
            arrival_rate=came[0],
            arrival_tokens=came[1],
            starts=beside.starts,
        )

    def _heard(self, role: Role, at: float) -> tuple[int, int, int, int]:
        """Engines that there are, that are not hidden, that report, and that have had time for a second sample."""
        fleet, scrape = self._fleet, self._actuation.scrape_s
        while self._young and at - self._young[0][1] >= scrape:
            self._young.popleft()
        new = [number for number, _ in self._young if fleet.lives(number, role)]
        new += [number for number in range(self._watched, fleet.born) if fleet.lives(number, role)]
        alive = fleet.count(role)
        if not self.hidden and not self.unscraped:
            return alive, alive, alive, alive - len(new)
        seen = [number for number in fleet.alive(role) if number not in self.hidden]
        fresh = [number for number in seen if number not in self.unscraped]
        return alive, len(seen), len(fresh), len(fresh) - len(set(new).intersection(fresh))

    def _rates(self, flow: Flow, at: float) -> tuple[dict[str, float], float]:
        """Growth per second since the oldest look within the window; nothing at the first look."""
        past = self._past[flow.role]
        past.append((at, dict(flow.count)))
        while len(past) > 2 and past[1][0] <= at - self._actuation.window_s:  # noqa: PLR2004 - a rate needs two looks
            past.popleft()
        then, before = past[0]
        over = at - then
        if over <= 0:
            return {}, 0.0
        return {name: (value - before[name]) / over for name, value in flow.count.items()}, over
