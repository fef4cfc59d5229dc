"""The cluster as the loop has it: stock and counts when it looks, hands when it has decided.

The hands work in a thread of their own, so that a slow API server never delays a tick or an answer. They take the
latest decision only, look again before they act, and go on looking every second while something is in flight.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster.letting import sleepers
from autoscaler.cluster.live import Seen
from autoscaler.cluster.objects import ACCELERATOR, MANAGED
from autoscaler.cluster.shared import floored
from autoscaler.cluster.starts import starts
from autoscaler.errors import CannotSee

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autoscaler.cluster.hands import Hands
    from autoscaler.cluster.objects import Pod
    from autoscaler.cluster.shared import Shared
    from autoscaler.cluster.sight import Sight
    from autoscaler.cluster.sight_types import Claim, Snapshot
    from autoscaler.leadership import Election
    from autoscaler.model import Decision, Observation, RoleKey, Stock

log = structlog.get_logger(__name__)
AGAIN_S = 1.0
"""How soon the hands look again while something is in flight: preempted GPUs should not wait for a tick."""
LOST_S = 60.0
"""Counts older than this are no counts."""
TOO_OLD_S = 3600.0
"""A former leader's decision older than this says nothing about now."""


class Sharing:
    """What several replicas have in common: who leads, and what the leader decided last.

    Args:
        shared: where decisions are shared. election: who leads.
        cautious_s: for how long a new leader takes nothing back from the former's wishes.
    """

    def __init__(self, shared: Shared, election: Election, cautious_s: float) -> None:
        self.shared, self.election, self._cautious_s = shared, election, cautious_s
        self._led: int | None = None
        self._before: tuple[Decision, float] | None = None

    def start(self) -> None:
        """Begin to listen to whoever leads, and to run for leader."""
        self.shared.start()
        self.election.start()

    def stop(self) -> None:
        """Let go of the leadership, and end."""
        self.election.stop()
        self.shared.stop()

    def unheard(self, now: float, longest_s: float) -> str | None:
        """Why what is served here may differ from what others serve: the leader has not been heard for so long, s."""
        if self.election.token() is not None:
            return None
        last = self.shared.latest
        if last is None or now - last.at <= longest_s:
            return None  # before anything was decided there is nothing to serve, and readiness says so
        return f"the leader's last decision heard here is {now - last.at:.0f} s old"

    def own(self, decision: Decision) -> Decision | None:
        """Our decision as it may be served: not below the former leader's at first; None while another leads."""
        token = self.election.token()
        if token is None:
            self._led = None
            return None
        if token != self._led:
            last = self.shared.latest
            recent = last is not None and decision.at - last.at < TOO_OLD_S
            self._before = (last, decision.at + self._cautious_s) if last is not None and recent else None
            self._led = token
        return floored(decision, *self._before) if self._before is not None else decision


class Room:
    """Sight and hands together.

    Args:
        sight, hands: the two. configured: stock as the settings limit it.
        oldest_s: decisions older than this are not acted on any more.
        clock: Unix seconds.
        sharing: with whom this process takes turns; None when it is alone.
        mine: what of the cluster is this process' own; all of it when None.
    """

    def __init__(
        self,
        sight: Sight,
        hands: Hands,
        configured: Sequence[Stock],
        *,
        oldest_s: float,
        clock: Callable[[], float],
        sharing: Sharing | None = None,
        mine: Callable[[Snapshot], Snapshot] | None = None,
    ) -> None:
        self._sight, self._hands, self._clock, self._oldest_s = sight, hands, clock, oldest_s
        self._sharing, self._mine = sharing, mine
        self._configured = {stock.accelerator: stock for stock in configured}
        self._lock = Lock()
        self._latest: tuple[Decision, dict[str, float]] | None = None
        self._shared_at = 0.0
        self._wake, self._stop = Event(), Event()
        self._thread = Thread(target=self._run, name="hands", daemon=True)

    def start(self) -> None:
        """Begin to look, and to act on what is decided."""
        self._sight.start()
        self._thread.start()

    def stop(self) -> None:
        """End: an action that was begun is finished, the rest is left to whoever comes next."""
        self._stop.set()
        self._wake.set()
        self._thread.join()
        self._sight.stop()

    @property
    def ready(self) -> bool:
        """Whether the caches are filled."""
        return self._sight.ready and (self._sharing is None or self._sharing.shared.synced)

    def why_not_ready(self) -> str:
        """What is still waited for."""
        return self._sight.why_not_ready() or "waiting for the leader's decision"

    def wait_ready(self, longest_s: float, stop: Event) -> bool:
        """Wait for the caches; False when they did not fill in time."""
        deadline = self._clock() + longest_s
        while not self.ready:
            if self._clock() >= deadline or stop.wait(0.05):
                return False
            try:
                self._sight.snapshot()  # asks again for what is served, when that could not be asked before
            except CannotSee:
                continue
        return True

    def look(self) -> Seen:
        """Stock, counts and supply; what cannot be seen is said in notes, and the settings stand in for it."""
        try:
            seen = self._snapshot()
        except CannotSee as error:
            return Seen(tuple(self._configured.values()), notes=(str(error),))
        return look(seen, self._configured, self._hands.wakes(seen))

    def _snapshot(self) -> Snapshot:
        """The cluster now, as far as it is ours. Raises CannotSee."""
        seen = self._sight.snapshot()
        return seen if self._mine is None else self._mine(seen)

    def decided(self, decision: Decision, seen: Observation | None) -> Decision | None:
        """Take over the latest decision, and say how it is to be served: None while another replica's is."""
        if self._sharing is not None:
            ours = self._sharing.own(decision)
            if ours is None:
                return None
            decision = ours
        resident = {
            engine.name: engine.kv_usage * engine.kv_capacity
            for role in (seen.roles if seen else ())
            for engine in role.engines
        }
        with self._lock:
            self._latest = decision, resident
        self._wake.set()
        return decision

    def _share(self, decision: Decision) -> None:
        token = self._sharing.election.token() if self._sharing is not None else None
        if self._sharing is not None and token is not None and decision.at != self._shared_at:
            self._shared_at = decision.at
            self._sharing.shared.write(decision, token)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.wait(AGAIN_S if self._hands.state.restless else None)
            self._wake.clear()
            with self._lock:
                latest = self._latest
            if latest is None or self._stop.is_set():
                continue
            decision, resident = latest
            self._share(decision)
            if self._clock() - decision.at > self._oldest_s:
                log.warning("not acting on an old decision", age_s=round(self._clock() - decision.at, 1))
                continue
            try:
                self._hands.act(decision, self._snapshot(), resident, self._stop.is_set)
            except CannotSee as error:
                log.warning("not acting", reason=str(error))
            except Exception:  # the hands' thread must outlive a mistake in judging one object
                log.exception("acting failed; going on with the next decision")


def look(
    seen: Snapshot, configured: Mapping[str, Stock], wakes: Callable[[RoleKey, Pod], bool] = lambda _key, _pod: True
) -> Seen:
    """A snapshot as the tick has it: stock within what the settings allow, counts, and what could not be seen.

    Args:
        seen: the cluster.
        configured: stock as the settings limit it.
        wakes: whether a sleeping pod would be woken.
    """
    notes = [f"kubernetes: {kind} cannot be read: {why}" for kind, why in sorted(seen.missing.items())]
    resting = {key: sleepers(pool, partial(wakes, key)) for key, pool in seen.pools.items()}
    counts = {
        key: (
            _without(pool.scalable.ready, resting[key].ready),
            _without(pool.scalable.existing, resting[key].asleep + resting[key].stuck),
        )
        for key, pool in seen.pools.items()
        if pool.scalable is not None and (pool.scalable.ready, pool.scalable.existing) != (None, None)
    }
    if seen.lost_s > LOST_S:
        counts = {}
        notes.append(f"kubernetes: not heard for {seen.lost_s:.0f} s; replicas are counted without it")
    asleep = {key: (resting[key].asleep, resting[key].waking) for key in counts}
    stuck: dict[str, int] = {}
    for key, pool in seen.pools.items():
        stuck[pool.accelerator] = stuck.get(pool.accelerator, 0) + resting[key].stuck_gpus
    found = dict(configured)  # of types the cluster has none of, the settings' word
    for stock in seen.stocks:
        limit = configured.get(stock.accelerator)
        if limit is None:
            free = _without(stock.free, stuck.get(stock.accelerator, 0))
            found[stock.accelerator] = replace(stock, free=free, provisionable=stock.provisionable or 0)
            continue
        # What was ordered is no longer to be had, and comes on top of what is prepared once it is there.
        coming = sum(one.gpus for one in seen.supply.coming if one.accelerator == stock.accelerator)
        bought = sum(claim.gpus for claim in seen.claims if _arrived(claim, stock.accelerator, seen))
        most = None if limit.free is None else limit.free + bought
        found[stock.accelerator] = replace(
            stock,
            free=_without(_least(stock.free, most), stuck.get(stock.accelerator, 0)),
            preemptible=_least(stock.preemptible, limit.preemptible),
            provisionable=max(0, (limit.provisionable or 0) - coming - bought),
        )
    return Seen(tuple(found.values()), counts, seen.supply, tuple(notes), starts(seen), asleep)


def _arrived(claim: Claim, accelerator: str, seen: Snapshot) -> bool:
    """Whether it is a node of this kind that we ordered, and that is there."""
    ours = MANAGED in claim.meta.labels and claim.meta.annotations.get(ACCELERATOR) == accelerator
    return ours and claim.meta.name not in {one.key for one in seen.supply.coming}


def _without(count: int | None, those: int) -> int | None:
    """Replicas without those that sleep, which are there but no capacity; GPUs without those that nobody can have."""
    return None if count is None else max(0, count - those)


def _least(seen: int | None, limit: int | None) -> int | None:
    known = [value for value in (seen, limit) if value is not None]
    return min(known) if known else None
