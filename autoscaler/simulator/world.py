"""SimulatedWorld: the loop's world when there is none. Engines, gateway, supply and scrapes, advanced tick by tick."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from autoscaler.errors import CannotSee
from autoscaler.model import Observation, Role, Stock, Tier
from autoscaler.policies.static_counts import replicas_for
from autoscaler.simulator.actuation import Scaler
from autoscaler.simulator.fleet import Fleet, Gateway, Link
from autoscaler.simulator.pods import PERMIT_S, Engines, Permits, Pods
from autoscaler.simulator.scenes import engine_profile
from autoscaler.simulator.setup import FaultKind, Layout
from autoscaler.simulator.supply import Supply, Timers
from autoscaler.simulator.telemetry import Track, role_observation, taken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.model import Decision, RoleObservation
    from autoscaler.policies.policy import Follow
    from autoscaler.rules import RoleRules
    from autoscaler.simulator.fleet import Replica
    from autoscaler.simulator.requests import Workload
    from autoscaler.simulator.scenes import Stage
    from autoscaler.simulator.setup import Fault, Setup

GOLDEN = 0.6180339887498949
"""Engine number times this, modulo 1, spreads the scrapes' phases evenly however many engines there are."""
OPENING_S = 300.0
"""The replicas ready at the start are those that the mean load of so long needs."""
HPA_PHASE_S = 7.0
"""The HPA looks so long after the world's start, then every sync period: never in step with the ticks."""


class SimulatedWorld:
    """One pool. Iterate `ticks`, calling `observe` and `enact` at each; when it ends, everything has been played."""

    def __init__(
        self, workload: Workload, setup: Setup, staged: Stage, follow: Follow, *, interval_s: float, seed: int = 0
    ) -> None:
        self.setup = setup
        self.stage = staged
        self.workload = workload
        self.horizon = workload.duration
        self.timers = Timers()
        self.asked: dict[Role, list[tuple[float, int]]] = {role: [] for role in staged.roles}
        self._interval_s = interval_s
        streams = np.random.SeedSequence(seed).spawn(3)
        self._random, noise, self._chance = (np.random.default_rng(stream) for stream in streams)
        self._noise = _normals(noise)
        self._slow = 1.0
        self.fleet = Fleet(workload, Gateway(setup.routing, setup.gateway_limit, setup.gateway_most), self._link())
        most = setup.maximum * staged.profile.gpus * len(staged.roles)
        self.supply = Supply(setup.supply, most, staged.startup, self.timers, self._random)
        self.pods = Pods(
            setup, staged.roles, self.fleet, self.supply, self.timers, staged.startup, self._random, self._engines
        )
        self.pods.held.until = self.horizon
        self._tracks: dict[int, Track] = {}
        self._scalers = {role: Scaler(follow, setup.minimum, setup.maximum) for role in staged.roles}
        self._unscraped: set[int] = set()
        self._hidden: set[int] = set()
        self._blind = 0
        self._busy = 0.0
        self.timers.at(self.horizon, self._close_books)
        self._begin(follow)

    def ticks(self) -> Iterator[float]:
        """Every interval, Unix seconds, until all requests are done or `settle_s` after the last may still arrive."""
        now = 0.0
        end = self.horizon + self.setup.settle_s
        while now <= end:
            self._advance(now)
            if now > self.horizon and self.fleet.inside() == 0:
                break
            yield self.setup.start_at + now
            now += self._interval_s
        self._advance(max(now, self.horizon))
        self.pods.held.change(0, self.horizon)

    def observe(self, now: float, /) -> Observation:
        """What a source would say. Raises CannotSee while a fault makes it unreadable."""
        if self._blind:
            raise CannotSee("simulation: the metric source does not answer")
        at = now - self.setup.start_at
        roles = tuple(self._role(rule, at) for rule in self.stage.scene.roles)
        return Observation(now, roles, (self._stock(),), "simulation")

    def enact(self, decision: Decision, /) -> None:
        """Publish the wishes; a policy with its own hand writes them at once."""
        now = decision.at - self.setup.start_at
        for made in decision.roles:
            role = made.key.role
            scaler, book = self._scalers[role], self.pods.books[role]
            scaler.ask(made.desired)
            if made.desired is not None:
                self.asked[role].append((now, made.desired))
            gpus = self.stage.profile.gpus
            preempt = sum(take.replicas for take in made.takes if take.tier is Tier.PREEMPT) * gpus
            buy = sum(take.replicas for take in made.takes if take.tier is Tier.PROVISION) * gpus
            if preempt or buy:
                book.permits = Permits(preempt, buy, now + PERMIT_S)
            if scaler.follow.direct:
                self.pods.scale(role, scaler.direct(book.spec), now)

    def busy_gpu_seconds(self) -> float:
        """GPU time in which engines computed, until the workload's end; those long gone included."""
        return self._busy * self.stage.profile.gpus

    def _begin(self, follow: Follow) -> None:
        for rule in self.stage.scene.roles:
            self.pods.begin(rule.key.role, self._opening(rule))
        for replica in self.fleet.replicas():
            self._watch(replica, 0.0)
        if not follow.direct:
            self.timers.at(HPA_PHASE_S, self._sync)
        for fault in self.setup.faults:
            self.timers.at(fault.at_s, lambda at, fault=fault: self._fault(fault, at))  # type: ignore[misc]

    def _close_books(self, _now: float) -> None:
        self._busy = self.fleet.busy_s

    def _opening(self, rule: RoleRules) -> int:
        """Replicas at the start: as told, or what the opening's mean load needs."""
        if self.setup.initial is not None:
            return self.setup.initial
        length = min(OPENING_S, self.horizon)
        first = int(np.searchsorted(self.workload.arrival_s, length, side="right"))
        if not first or length <= 0:
            return max(self.setup.minimum, min(1, self.setup.maximum))
        prompt = self.workload.prompt[:first]
        cached = 0.0 if self.workload.cached is None else float(self.workload.cached[:first].mean())
        output = float(self.workload.output[:first].mean())
        return replicas_for(rule, first / length, float(prompt.mean()) - cached, output)

    def _advance(self, until: float) -> None:
        """Play requests, engines and timers up to `until`; what is new in the fleet is scraped from then on."""
        while self.timers.next <= until:
            self.fleet.advance(self.timers.next)
            self.timers.fire()
            for replica in self.fleet.replicas():
                if replica.engine.number not in self._tracks:
                    self._watch(replica, self.fleet.now)
        self.fleet.advance(until)

    def _watch(self, replica: Replica, now: float) -> None:
        number = replica.engine.number
        key = f"{self.setup.pool}-{replica.role}-{number:06d}"
        self._tracks[number] = Track(key, replica.engine.profile.kv_capacity_tokens, deque())
        self.timers.at(now + GOLDEN * number % 1.0 * self.setup.actuation.scrape_s, lambda at: self._scrape(number, at))

    def _scrape(self, number: int, now: float) -> None:
        try:
            replica = self.fleet.get(number)
        except KeyError:
            # Gone: the source drops the target, its series are stale at once.
            del self._tracks[number]
            return
        actuation = self.setup.actuation
        if number not in self._unscraped:
            keep = actuation.lag_s + actuation.window_s + actuation.max_age_s
            self._tracks[number].add(taken(replica, now), keep)
        self.timers.at(now + actuation.scrape_s, lambda at: self._scrape(number, at))

    def _sync(self, now: float) -> None:
        for role, scaler in self._scalers.items():
            book = self.pods.books[role]
            self.pods.scale(role, scaler.sync(now, book.spec, book.existing), now)
        self.timers.at(now + next(iter(self._scalers.values())).follow.sync_s, self._sync)

    def _role(self, rule: RoleRules, at: float) -> RoleObservation:
        role = rule.key.role
        alive = {replica.engine.number for replica in self.fleet.replicas() if replica.role is role}
        tracks = [track for number, track in self._tracks.items() if number in alive and number not in self._hidden]
        book = self.pods.books[role]
        counts = (book.history[-1][3], book.history[-1][2])
        gateway = None if role is Role.DECODE else self.fleet.held
        told = role_observation(rule.key, tracks, at, self.setup.actuation, counts, gateway)
        return told if told.sampled_at is None else replace(told, sampled_at=told.sampled_at + self.setup.start_at)

    def _stock(self) -> Stock:
        """GPUs there are for the pools: free ones and those they hold (the plan takes off what it knows they hold)."""
        supply = self.supply
        free = supply.free + self.pods.held.gpus
        return Stock(self.stage.profile.accelerator, free, supply.preemptible, supply.provisionable)

    def _link(self) -> Link | None:
        if self.setup.layout is Layout.COLOCATED:
            return None
        setup = self.setup
        per_token = float(self.stage.profile.kv_bytes_per_token)
        return Link(setup.link_gbps * 1e9 / 8, per_token, setup.first_token_at_prefill)

    def _engines(self) -> Engines:
        profile = self.stage.profile
        made = engine_profile(profile, self.setup.block_size, self._slow)
        return Engines(made, profile.gpus, self._noise, self.setup.noise)

    def _fault(self, fault: Fault, now: float) -> None:
        """Something goes wrong, and is put right `for_s` later."""
        kind = fault.kind
        if kind is FaultKind.KILL:
            self.pods.kill(round(fault.amount), now)
            return
        chosen: set[int] = set()
        if kind in {FaultKind.STALE, FaultKind.MISSING}:
            numbers = sorted(replica.engine.number for replica in self.fleet.replicas())
            count = round(min(fault.amount, 1.0) * len(numbers))
            chosen = {int(one) for one in self._chance.choice(numbers, size=count, replace=False)} if count else set()
        self._set(kind, chosen, fault.amount, on=True)
        if now + fault.for_s <= self.horizon + self.setup.settle_s:
            self.timers.at(now + fault.for_s, lambda _: self._set(kind, chosen, fault.amount, on=False))

    def _set(self, kind: FaultKind, chosen: set[int], amount: float, *, on: bool) -> None:
        if kind in {FaultKind.STALE, FaultKind.MISSING}:
            which = self._unscraped if kind is FaultKind.STALE else self._hidden
            (which.update if on else which.difference_update)(chosen)
        elif kind is FaultKind.UNREADABLE:
            self._blind += 1 if on else -1
        elif kind is FaultKind.NO_NODES:
            self.supply.refusing = on
        elif kind is FaultKind.SLOW_WEIGHTS:
            self.pods.slow_weights = amount if on else 1.0
        else:
            self._slow = amount if on else 1.0


def _normals(random: np.random.Generator) -> Iterator[float]:
    """Standard normal deviates, drawn by the thousand because one by one is slow."""
    while True:
        yield from random.standard_normal(4096).tolist()
