"""SimulatedWorld: the loop's world when there is none. A fleet, its scrapes and its supply, advanced tick by tick.

The fleet is either played request by request (fleet.py) or as a fluid (fluid.py); everything else is the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from autoscaler.errors import CannotSee
from autoscaler.model import Observation, Role, Stock, Tier
from autoscaler.simulator.actuation import Scaler
from autoscaler.simulator.books import PERMIT_S, Permits
from autoscaler.simulator.pods import Pods
from autoscaler.simulator.replicas import Engines, Replicas
from autoscaler.simulator.scenes import engine_profile
from autoscaler.simulator.setup import FaultKind
from autoscaler.simulator.supply import Supply, Timers
from autoscaler.simulator.telemetry import Beside
from autoscaler.supply import Coming, DomainStock, Gang, Lent
from autoscaler.supply import Supply as SeenSupply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from autoscaler.model import Decision, RoleKey, RoleObservation, Take
    from autoscaler.policies.policy import Follow
    from autoscaler.rules import RoleRules
    from autoscaler.simulator.gateway_meter import GatewayMeter
    from autoscaler.simulator.scenes import Stage
    from autoscaler.simulator.setup import Fault, Setup
    from autoscaler.simulator.supply import Node

HPA_PHASE_S = 7.0
"""The HPA looks so long after the world's start, then every sync period: never in step with the ticks."""


class Played(Replicas, Protocol):
    """A fleet as the world sees it."""

    @property
    def busy_s(self) -> float:
        """Seconds that engines have computed."""
        ...

    def numbers(self) -> list[int]:
        """Numbers of all replicas there are, ascending."""
        ...

    def inside(self) -> float:
        """Requests that have arrived and may still finish."""
        ...

    def advance(self, until: float) -> None:
        """Play up to `until`, seconds."""
        ...


class Senses(Protocol):
    """What a metric source shows of a fleet."""

    @property
    def unscraped(self) -> set[int]:
        """Engines whose samples a fault lets grow old."""
        ...

    @property
    def hidden(self) -> set[int]:
        """Engines that a fault keeps from view."""
        ...

    def look(self, now: float) -> None:
        """Notice engines that are new."""
        ...

    def role(self, key: RoleKey, at: float, beside: Beside) -> RoleObservation:
        """A role's report at `at`, simulated seconds; the times in it are Unix seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Shared:
    """What several pools live on together: one clock, and the GPUs of one accelerator type."""

    timers: Timers
    supply: Supply


def most_gpus(setup: Setup, staged: Stage) -> int:
    """GPUs that a pool holds at most."""
    return setup.maximum * staged.profile.gpus * len(staged.roles)


class SimulatedWorld:
    """One pool. Iterate `ticks`, calling `observe` and `enact` at each; when it ends, everything has been played.

    Attributes:
        asked: by role, the wishes published: (s, replicas). pods, supply: what came of them. busy_s: engine time spent.
    """

    def __init__(  # noqa: PLR0913 - all that a world is put together from, by name
        self,
        setup: Setup,
        staged: Stage,
        follow: Follow,
        *,
        horizon: float,
        interval_s: float,
        openings: Mapping[Role, int],
        seed: int,
        fleet: Played,
        senses: Callable[[Timers], Senses],
        meter: GatewayMeter | None = None,
        shared: Shared | None = None,
        converts: Callable[[int], None] | None = None,
    ) -> None:
        self.setup = setup
        self.stage = staged
        self.horizon = horizon
        self.fleet = fleet
        self.timers = Timers() if shared is None else shared.timers
        self.asked: dict[Role, list[tuple[float, int]]] = {role: [] for role in staged.roles}
        self.busy_s = 0.0
        self._interval_s = interval_s
        self._meter = meter
        self._converts = converts
        streams = np.random.SeedSequence(seed).spawn(3)
        starts, noise, self._chance = (np.random.default_rng(stream) for stream in streams)
        self._noise = _normals(noise)
        self._slow = 1.0
        self._blind = 0
        self.senses = senses(self.timers)
        if shared is None:
            self.supply = Supply(setup.supply, most_gpus(setup, staged), staged.startup, self.timers, starts)
        else:
            self.supply = shared.supply
        self.pods = Pods(setup, staged.roles, fleet, self.supply, self.timers, staged.startup, starts, self._engines)
        self.pods.held.until = horizon
        self._scalers = {role: Scaler(follow, setup.minimum, setup.maximum) for role in staged.roles}
        for role, count in openings.items():
            self.pods.begin(role, count)
        self.senses.look(0.0)
        self._set_timers(follow)

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
        self._advance(max(min(now, end), self.horizon))
        self.finish(self.horizon)

    def observe(self, now: float, /) -> Observation:
        """What a source would say. Raises CannotSee while a fault makes it unreadable."""
        if self._blind:
            raise CannotSee("simulation: the metric source does not answer")
        at = now - self.setup.start_at
        roles = tuple(self._role(rule, at) for rule in self.stage.scene.roles)
        return Observation(now, roles, (self._stock(),), "simulation", supply=self._training(now))

    def enact(self, decision: Decision, /) -> None:
        """Publish the wishes; a policy with its own hand writes them at once."""
        now = decision.at - self.setup.start_at
        permits: dict[Role, Permits] = {}
        for made in decision.roles:
            role = made.key.role
            scaler, book = self._scalers[role], self.pods.books[role]
            scaler.ask(made.desired)
            if made.desired is not None:
                self.asked[role].append((now, made.desired))
            if self._converts is not None and role is Role.DECODE:
                taken = sum(take.replicas for take in made.takes if take.tier is Tier.CONVERT)
                self._converts(max(self.setup.convertible, taken))
            if permit := self._permit(made.takes, now):
                permits[role] = permit
            if scaler.follow.direct:
                self.pods.scale(role, scaler.direct(book.spec), now)
        self.pods.allow(permits, {one.key.role: one.desired or 0 for one in decision.roles}, now)

    def _permit(self, takes: Sequence[Take], now: float) -> Permits | None:
        """What these takes allow; None where they allow nothing."""
        gpus = self.stage.profile.gpus
        preempt = sum(take.replicas for take in takes if take.tier is Tier.PREEMPT) * gpus
        buy = sum(take.replicas for take in takes if take.tier is Tier.PROVISION) * gpus
        if not preempt and not buy:
            return None
        return Permits(preempt, buy, now + PERMIT_S)

    def _set_timers(self, follow: Follow) -> None:
        self.timers.at(self.horizon, self._close_books)
        if not follow.direct:
            self.timers.at(HPA_PHASE_S, self._sync)
        for fault in self.setup.faults:
            self.timers.at(fault.at_s, lambda at, fault=fault: self._fault(fault, at))  # type: ignore[misc]

    def _close_books(self, _now: float) -> None:
        self.busy_s = self.fleet.busy_s

    def finish(self, now: float) -> None:
        """Everything has been played up to `now`."""
        self.pods.held.change(0, min(now, self.horizon))

    def _advance(self, until: float) -> None:
        """Play requests, engines and timers up to `until`."""
        play([self], self.timers, until)

    def _sync(self, now: float) -> None:
        for role, scaler in self._scalers.items():
            book = self.pods.books[role]
            self.pods.scale(role, scaler.sync(now, book.spec, book.existing), now)
        self.timers.at(now + next(iter(self._scalers.values())).follow.sync_s, self._sync)

    def _role(self, rule: RoleRules, at: float) -> RoleObservation:
        _, _, existing, ready = self.pods.books[rule.key.role].history[-1]
        starts = tuple(self.pods.books[rule.key.role].starts)
        came = self._meter.rates(at) if self._meter is not None and rule.key.role is not Role.DECODE else None
        return self.senses.role(rule.key, at, Beside(ready, existing, starts, came))

    def _stock(self) -> Stock:
        """GPUs there are for the pools: free ones and those they hold (the plan takes off what it knows they hold)."""
        supply = self.supply
        free = supply.free + supply.held
        return Stock(self.stage.profile.accelerator, free, supply.preemptible, supply.provisionable)

    def _training(self, now: float) -> SeenSupply | None:
        """Training by name and nodes on their way, as a watched cluster tells them; None where there are none."""
        if not self.supply.gangs and not self.setup.supply.nodes_to_buy:
            return None
        begun, accelerator = self.setup.start_at, self.stage.profile.accelerator
        gangs, lent = [], []
        for number, gang in enumerate(self.supply.gangs):
            name, size = f"Job/training/{accelerator}-{number:03d}", gang.spec.gpus
            if not gang.running:
                lent.append(Lent(name, accelerator, size, begun + gang.since))
                continue
            domains: Counter[tuple[str, ...]] = Counter()
            for node, gpus in gang.nodes:
                domains[_domain(node)] += gpus
            saved = begun + gang.saved_at(now - begun)
            where = tuple(sorted(domains.items()))
            gangs.append(Gang(name, accelerator, size, gang.spec.priority, where, begun + gang.since, saved))
        size = self.setup.supply.node_gpus
        coming = tuple(
            Coming(f"{accelerator}-node-{number:03d}", accelerator, size, "ordered", begun + since)
            for number, since in enumerate(self.supply.ordered)
        )
        return SeenSupply(now, self._domains(accelerator), tuple(gangs), tuple(lent), coming)

    def _domains(self, accelerator: str) -> tuple[DomainStock, ...]:
        """GPUs by network domain."""
        nodes: dict[tuple[str, ...], list[Node]] = {}
        for node in self.supply.nodes:
            nodes.setdefault(_domain(node), []).append(node)
        found = []
        for domain, here in sorted(nodes.items()):
            gpus, free = sum(node.size for node in here), sum(node.free for node in here)
            serving = sum(node.serving for node in here)
            leaving = sum(node.leaving for node in here)
            other = gpus - free - leaving - serving
            found.append(DomainStock(accelerator, domain, len(here), gpus, free, leaving, serving, other))
        return tuple(found)

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
            numbers = self.fleet.numbers()
            count = round(min(fault.amount, 1.0) * len(numbers))
            chosen = {int(one) for one in self._chance.choice(numbers, size=count, replace=False)} if count else set()
        self._set(kind, chosen, fault.amount, on=True)
        if now + fault.for_s <= self.horizon + self.setup.settle_s:
            self.timers.at(now + fault.for_s, lambda _: self._set(kind, chosen, fault.amount, on=False))

    def _set(self, kind: FaultKind, chosen: set[int], amount: float, *, on: bool) -> None:
        if kind in {FaultKind.STALE, FaultKind.MISSING}:
            which = self.senses.unscraped if kind is FaultKind.STALE else self.senses.hidden
            (which.update if on else which.difference_update)(chosen)
        elif kind is FaultKind.UNREADABLE:
            self._blind += 1 if on else -1
        elif kind is FaultKind.NO_NODES:
            self.supply.refusing = on
        elif kind is FaultKind.SLOW_WEIGHTS:
            self.pods.slow_weights = amount if on else 1.0
        else:
            self._slow = amount if on else 1.0


def play(worlds: Sequence[SimulatedWorld], timers: Timers, until: float) -> None:
    """Play worlds on one clock up to `until`; what is new in a fleet is scraped from then on."""
    while timers.next <= until:
        now = timers.next
        for world in worlds:
            world.fleet.advance(now)
        timers.fire()
        for world in worlds:
            world.senses.look(now)
    for world in worlds:
        world.fleet.advance(until)


def _domain(node: Node) -> tuple[str, ...]:
    return (f"domain-{node.domain}",)


def _normals(random: np.random.Generator) -> Iterator[float]:
    """Standard normal deviates, drawn by the thousand because one by one is slow."""
    while True:
        yield from random.standard_normal(4096).tolist()
