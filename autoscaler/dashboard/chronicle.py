"""What the dashboard shows, kept as the loop goes: bounded however long it runs and however many pools there are."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from autoscaler.dashboard.series import RoleSeries
from autoscaler.journal import plain_decision
from autoscaler.model import Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoscaler.model import Decision, Observation, RoleDecision, RoleObservation

MOST_ROLES = 400
"""Roles with a history (140 kB each); beyond it only the latest numbers are shown, and the overview says so."""
MOST_DECISIONS = 2000
"""Changed wishes kept with their reasons, about 2 kB each."""
MOST_RETURNED = 50
"""Loans given back that are still listed."""
HOUR_S = 3600.0
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica of a role is and costs.

    Attributes:
        gpus: of one replica. price_per_hour: of all its GPUs. accelerator: their type. profile: hardware profile.
        minimum, maximum: bounds on replicas.
    """

    gpus: int
    price_per_hour: float
    accelerator: str
    profile: str
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Flight:
    """Replicas asked of a tier that have not landed: when, and when they are expected."""

    tier: str
    replicas: int
    asked_at: float
    lands_at: float


@dataclass(slots=True)
class _Role:
    series: RoleSeries | None
    flights: list[Flight] = field(default_factory=list)
    before: int | None = None


class Chronicle:
    """Written by the loop, read by server threads."""

    def __init__(self, source: str, interval_s: float, started_at: float, replicas: Mapping[str, Replica]) -> None:
        self._lock = Lock()
        self._head = {"source": source, "interval_s": interval_s, "started_at": started_at}
        self._replicas = dict(replicas)
        self._roles: dict[str, _Role] = {}
        self._decisions: deque[dict[str, Any]] = deque(maxlen=MOST_DECISIONS)
        self._ids = itertools.count(1)
        self._latest: dict[str, Any] = {"at": None, "roles": []}
        self._loans: dict[str, dict[str, Any]] = {}
        self._returned: deque[dict[str, Any]] = deque(maxlen=MOST_RETURNED)

    def knows(self, replicas: Mapping[str, Replica]) -> None:
        """Other pools are decided for from now on."""
        self._replicas = dict(replicas)

    @property
    def at(self) -> float | None:
        """Time of the newest tick."""
        latest: float | None = self._latest["at"]
        return latest

    def note(self, seen: Observation, decision: Decision) -> None:
        """Remember one tick."""
        told = {role.key: role for role in seen.roles}
        plain = plain_decision(decision)
        with self._lock:
            costs = self._costs(seen, decision)
            rows = []
            for role, shown in zip(decision.roles, plain["roles"], strict=True):
                cost = costs.get(f"{role.key.namespace}/{role.key.pool}")
                rows.append(self._role(decision, role, told.get(role.key), cost, (shown, plain.get("plan"))))
            self._latest = {
                "at": decision.at,
                "failure": decision.failure,
                "notes": list(seen.notes),
                "blind": decision.blind,
                "plan": plain.get("plan"),
                "stocks": _stocks(seen),
                "domains": _domains(seen),
                "loans": self._lent(seen),
                "roles": rows,
            }

    def overview(self) -> dict[str, Any]:
        """The newest numbers of every role."""
        with self._lock:
            left_out = max(0, len(self._latest["roles"]) - MOST_ROLES)
            return {**self._head, **self._latest, "without_history": left_out}

    def series(self, key: str, start: float) -> dict[str, list[float | None]] | None:
        """One role's history from `start` on; None for a role that nobody knows."""
        with self._lock:
            role = self._roles.get(key)
            return None if role is None or role.series is None else role.series.between(start)

    def decisions(self, *, before: int | None, limit: int, key: str | None) -> list[dict[str, Any]]:
        """Changed wishes, newest first, those with a lower id than `before`; reasons left out."""
        with self._lock:
            found = []
            for entry in reversed(self._decisions):
                if (before is not None and entry["id"] >= before) or (key is not None and entry["key"] != key):
                    continue
                found.append({name: entry[name] for name in ("id", "at", "key", "before", "desired", "brief", "blind")})
                if len(found) == limit:
                    break
            return found

    def decision(self, number: int) -> dict[str, Any] | None:
        """One changed wish with everything behind it; None when it was never made or is too old."""
        with self._lock:
            return next((entry for entry in self._decisions if entry["id"] == number), None)

    @property
    def replicas(self) -> dict[str, Replica]:
        """What one replica of each role is, by role key."""
        return dict(self._replicas)

    def replica(self, key: str) -> Replica | None:
        """What one replica of a role is; None for a role that nobody knows."""
        return self._replicas.get(key)

    def _role(
        self,
        decision: Decision,
        role: RoleDecision,
        told: RoleObservation | None,
        cost: float | None,
        why: tuple[dict[str, Any], dict[str, Any] | None],
    ) -> dict[str, Any]:
        key, (shown, plan) = str(role.key), why
        kept = self._roles.get(key)
        if kept is None:
            kept = self._roles[key] = _Role(RoleSeries() if len(self._roles) < MOST_ROLES else None)
        values = {
            "load": role.load,
            "forecast": role.forecast,
            "velocity": role.velocity.tokens if role.velocity else None,
            "desired": role.desired,
            "starting": role.starting,
            "ready": role.ready,
            "running": told.running if told else None,
            "waiting": told.waiting if told else None,
            "kv_usage": told.kv_usage if told else None,
            "request_rate": _either(told, "first_token_rate", "completion_rate"),
            "prompt_rate": _either(told, "prompt_rate", "computed_rate"),
            "output_rate": told.generation_rate if told else None,
            "cost_per_million": cost,
        }
        if kept.series is not None:
            kept.series.put(decision.at, values)
        self._fly(kept, decision.at, role)
        if role.desired is not None and role.desired != kept.before:
            self._decisions.append(
                {
                    "id": next(self._ids),
                    "at": decision.at,
                    "key": key,
                    "before": kept.before,
                    "desired": role.desired,
                    "brief": role.brief,
                    "blind": role.blind,
                    "sentence": role.sentence,
                    "role": shown,
                    "plan": plan,
                }
            )
            kept.before = role.desired
        return {
            "key": key,
            **values,
            "brief": role.brief,
            "blind": role.blind,
            "shortage": role.shortage,
            "basis": role.velocity.basis if role.velocity else None,
            "binds": role.velocity.binds if role.velocity else None,
            "flights": [_plain_flight(flight) for flight in kept.flights],
            "gpus": self._gpus(key, role),
            "engines": [[engine.name, engine.kv_usage, engine.running] for engine in told.engines] if told else [],
            "foreseen": shown.get("foreseen", []),
        }

    def _lent(self, seen: Observation) -> list[dict[str, Any]] | None:
        """GPUs that training has lent, longest first, then those given back of late; None where no cluster is seen."""
        if seen.supply is None:
            return None
        now: dict[str, dict[str, Any]] = {
            one.key: {
                "key": one.key,
                "accelerator": one.accelerator,
                "gpus": one.gpus,
                "since": one.since,
                "until": None,
            }
            for one in sorted(seen.supply.lent, key=lambda loan: loan.since)
        }
        for key, loan in self._loans.items():
            if key not in now:
                self._returned.appendleft({**loan, "until": seen.at})
        self._loans = now
        return [*now.values(), *self._returned]

    @staticmethod
    def _fly(kept: _Role, now: float, role: RoleDecision) -> None:
        """Keep what is asked of each tier until it lands, or until nothing is starting any more."""
        if role.starting == 0 and not role.takes:
            kept.flights = []
            return
        kept.flights = [flight for flight in kept.flights if flight.lands_at > now]
        if kept.before is not None and role.desired is not None and role.desired > kept.before:
            new = [Flight(take.tier.value, take.replicas, now, now + take.lead_s) for take in role.takes]
            kept.flights += [flight for flight in new if flight.replicas > 0 and flight.tier != "running"]
        # The wish may have fallen again: never more in the air than what is missing.
        missing = max(0, (role.desired or 0) - (role.ready or 0))
        while kept.flights and sum(flight.replicas for flight in kept.flights) > max(missing, role.starting or 0):
            kept.flights.pop(0)

    def _costs(self, seen: Observation, decision: Decision) -> dict[str, float]:
        """By pool: price of its ready replicas, all roles, over the output tokens it makes now, per million."""
        spent: dict[str, float] = {}
        made: dict[str, float] = {}
        for role in decision.roles:
            pool, replica = f"{role.key.namespace}/{role.key.pool}", self._replicas.get(str(role.key))
            if replica is not None and role.ready is not None:
                spent[pool] = spent.get(pool, 0.0) + role.ready * replica.price_per_hour
        for told in seen.roles:
            if told.key.role is not Role.PREFILL and told.generation_rate:
                pool = f"{told.key.namespace}/{told.key.pool}"
                made[pool] = made.get(pool, 0.0) + told.generation_rate
        return {pool: spent[pool] / (made[pool] * HOUR_S) * MILLION for pool in spent.keys() & made.keys()}

    def _gpus(self, key: str, role: RoleDecision) -> int | None:
        replica = self._replicas.get(key)
        return None if replica is None or role.ready is None else role.ready * replica.gpus


def _stocks(seen: Observation) -> list[dict[str, Any]]:
    """By accelerator: GPUs prepared for the pools, those they hold included; lent or on their way; to be had."""
    lent: dict[str, int] = {}
    coming: dict[str, int] = {}
    for loan in seen.supply.lent if seen.supply else ():
        lent[loan.accelerator] = lent.get(loan.accelerator, 0) + loan.gpus
    for node in seen.supply.coming if seen.supply else ():
        coming[node.accelerator] = coming.get(node.accelerator, 0) + node.gpus
    told = seen.supply is not None
    return [
        {
            "accelerator": stock.accelerator,
            "prepared": stock.free,
            "preemptible": stock.preemptible,
            "lent": lent.get(stock.accelerator, 0) if told else None,
            "coming": coming.get(stock.accelerator, 0) if told else None,
            "to_buy": stock.provisionable,
        }
        for stock in seen.stocks
    ]


def _domains(seen: Observation) -> list[dict[str, Any]]:
    """GPUs by network domain, as far as a cluster is seen."""
    return [
        {
            "name": "/".join(part for part in one.domain if part) or "no domain",
            "accelerator": one.accelerator,
            "nodes": one.nodes,
            "gpus": one.gpus,
            "free": one.free + one.terminating,
            "serving": one.serving,
            "other": one.other,
        }
        for one in (seen.supply.domains if seen.supply else ())
    ]


def _either(told: RoleObservation | None, first: str, second: str) -> float | None:
    """The first of two fields that was reported."""
    found: float | None = getattr(told, first, None)
    other: float | None = getattr(told, second, None)
    return found if found is not None else other


def _plain_flight(flight: Flight) -> dict[str, Any]:
    return {
        "tier": flight.tier,
        "replicas": flight.replicas,
        "asked_at": flight.asked_at,
        "lands_at": flight.lands_at,
    }


def replicas_of(rules: Sequence[Any], prices: Mapping[str, float]) -> dict[str, Replica]:
    """By role key, from the tick's role rules and the prices of accelerators per GPU-hour."""
    return {
        str(rule.key): Replica(
            rule.gpus,
            rule.gpus * prices.get(rule.accelerator, 0.0),
            rule.accelerator,
            rule.profile,
            rule.minimum,
            rule.maximum,
        )
        for rule in rules
    }
