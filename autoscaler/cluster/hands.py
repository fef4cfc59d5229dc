"""The hands: from a decision to what is done about it, carefully.

Before anything is done: the kill switch, an API server not heard, a leadership lost hold everything; then each action
passes its mode, what is in flight already, quarantine and the hourly budget. What is done is expected to show in the
caches, and confirmed or given up; nothing is done twice for want of seeing it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from autoscaler.cluster import intents, returns
from autoscaler.cluster.actions import Action, Hand, MarkCosts, Preempt, Provision, key_of
from autoscaler.cluster.actuators import Changed
from autoscaler.cluster.api import ApiError, NotLeader
from autoscaler.cluster.confirm import progress
from autoscaler.cluster.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from autoscaler.cluster.actuators import Actuators
    from autoscaler.cluster.audit import Audit, Events
    from autoscaler.cluster.sight_types import SightRules, Snapshot
    from autoscaler.model import Decision, RoleKey, Tier
    from autoscaler.settings_cluster import ClusterSettings, Mode

log = structlog.get_logger(__name__)
SEEN_WITHIN_S = 15.0
"""What was done shows in the caches within this, or is no longer counted on as done."""
OWED_S = 900.0
"""What a plan meant to take is remembered for so long."""


class Leadership(Protocol):
    """Whether this process may act, and with which token."""

    def token(self) -> int | None:
        """The fencing token while it leads; None while it does not."""
        ...


@dataclass(frozen=True, slots=True)
class Alone:
    """The only process there is."""

    def token(self) -> int | None:
        """Always leads."""
        return 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an intended action: `done`, `would`, `held`, `failed`, `confirmed`, `given up`.

    `unanswered`: the API server did not answer, so that nothing more is worth trying now.
    """

    kind: str
    action: Action
    said: str
    unanswered: bool = False


@dataclass(slots=True)
class InFlight:
    """An action carried out and not confirmed yet."""

    action: Action
    since: float
    visible: bool = False


@dataclass(slots=True)
class State:
    """What the hands remember. All of it can be lost: the cluster holds what matters (marks, names, replicas)."""

    flying: dict[str, InFlight] = field(default_factory=dict)
    owed: dict[str, dict[Tier, tuple[float, int]]] = field(default_factory=dict)
    calm_since: dict[str, float] = field(default_factory=dict)
    idle_since: dict[str, float] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


class Hands:
    """Carries out decisions.

    Args:
        settings: what may be done. rules: whose replicas have how many GPUs.
        actuators: who writes. audit, events: where it is told.
        leadership: whether this process may act. modes: of a pool, where it has one of its own.
        workers: present cache workers by `namespace/dataset`.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        rules: SightRules,
        actuators: Actuators,
        audit: Audit,
        events: Events | None = None,
        *,
        leadership: Leadership | None = None,
        modes: Mapping[RoleKey, Mode] | None = None,
        workers: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._settings, self._rules, self._actuators = settings, rules, actuators
        self._audit, self._events = audit, events
        self._leadership: Leadership = leadership or Alone()
        self._modes = dict(modes or {})
        self._workers = workers
        self.limits = Limits(settings.budget, settings.quarantine)
        self.state = State()

    def act(
        self,
        decision: Decision,
        seen: Snapshot,
        resident: Mapping[str, float] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Outcome]:
        """Do now what the decision asks for and may be done.

        Args:
            decision: the wishes.
            seen: the cluster, taken after the decision or shortly before.
            resident: KV tokens by pod name, for choosing which pods go first.
            stop: asked between two actions; what is left then is left to the next process.
        """
        outcomes = list(self._settle(seen))
        token = self._leadership.token()
        if (why := self._held(seen, token)) is not None:
            self._say("held", why)
            return outcomes
        self._say("held", "")
        begun = 0
        for action in self._intended(decision, seen, resident or {}, token or 0):
            if stop() or begun >= self._settings.budget.actions_per_tick:
                break
            try:
                outcome = self._try(action, seen)
            except NotLeader as error:
                self._say("held", error.message)
                break
            if outcome is not None:
                outcomes.append(outcome)
                begun += outcome.kind in {"done", "failed"}
                if outcome.unanswered:
                    break
        return outcomes

    def _held(self, seen: Snapshot, token: int | None) -> str | None:
        if token is None:
            return "another replica leads"
        if seen.held is not None:
            return f"kill switch: {seen.held}"
        if seen.lost_s > self._settings.hold_when_lost_s:
            return f"the API server has not been heard for {seen.lost_s:.0f} s"
        return None

    def _say(self, key: str, text: str) -> None:
        """Log a standing reason once, and when it is over."""
        if self.state.said.get(key, "") != text:
            self.state.said[key] = text
            log.info("acting" if not text else "not acting", about=key, reason=text or "nothing holds it any more")

    # what to do

    def _intended(
        self, decision: Decision, seen: Snapshot, resident: Mapping[str, float], token: int
    ) -> Iterator[Action]:
        settings, rules, expected = self._settings, self._rules, self._expected(seen)
        self._owe(decision, seen.at)
        owed = {name: {tier: gpus for tier, (_, gpus) in tiers.items()} for name, tiers in self.state.owed.items()}
        sizes = {one.accelerator: one.node_gpus for one in settings.provisioning}
        found = intents.standings(decision, seen, rules, owed, expected, sizes)
        self._watch_calm(found, seen)
        takeable: Counter[str] = Counter()
        for gang in seen.supply.gangs:
            takeable[gang.accelerator] += gang.gpus if self._mode(Hand.PREEMPT, None) == "active" else 0
        yield from returns.costs(decision, seen, resident)
        yield from intents.preemptions(found, decision, seen, rules, expected, token)
        yield from intents.replicas(decision, seen, settings.actuator)
        yield from returns.orders(found, settings.provisioning, rules, seen, takeable)
        yield from returns.loads(decision, settings.weights, self._workers())
        yield from returns.give_backs(found, seen, self.state.calm_since, settings.preemption.give_back_after_s)
        yield from returns.returns(settings.provisioning, seen, self.state.idle_since)

    def _owe(self, decision: Decision, now: float) -> None:
        """Remember what the plan means to take, until it is there or too old."""
        gpus = {role.key: (role.accelerator, role.gpus) for role in self._rules.roles}
        fresh: dict[str, Counter[Tier]] = {}
        for role in decision.roles:
            accelerator, size = gpus.get(role.key, ("", 0))
            for take in role.takes:
                fresh.setdefault(accelerator, Counter())[take.tier] += take.replicas * size
        for accelerator, tiers in fresh.items():
            known = self.state.owed.setdefault(accelerator, {})
            for tier, count in tiers.items():
                known[tier] = now, max(count, known.get(tier, (0.0, 0))[1])

    def _watch_calm(self, found: Mapping[str, intents.Standing], seen: Snapshot) -> None:
        state = self.state
        for accelerator, stands in found.items():
            if stands.missing == 0:
                state.owed.pop(accelerator, None)
            if stands.missing > stands.free or stands.stuck:
                state.calm_since.pop(accelerator, None)
            else:
                state.calm_since.setdefault(accelerator, seen.at)
        for tiers in state.owed.values():
            for tier in [tier for tier, (at, _) in tiers.items() if seen.at - at > OWED_S]:
                del tiers[tier]
        idle = returns.idle(seen)
        state.idle_since = {name: state.idle_since.get(name, seen.at) for name in idle}

    def _expected(self, seen: Snapshot) -> intents.Expected:
        hidden = [flight.action for flight in self.state.flying.values() if not flight.visible]
        nodes = Counter(one.settings.accelerator for one in hidden if isinstance(one, Provision))
        gangs = frozenset(
            flight.action.about for flight in self.state.flying.values() if isinstance(flight.action, Preempt)
        )
        return intents.Expected(gangs, nodes, self.limits.spared(seen))

    # whether to do it, and doing it

    def _mode(self, hand: Hand, role: RoleKey | None) -> Mode:
        own = self._modes.get(role) if role is not None else None
        said: Mode | None = getattr(self._settings.tiers, hand.value)
        rank = {"off": 0, "shadow": 1, "active": 2}
        modes: list[Mode] = [said or self._settings.mode]
        if own is not None:
            modes.append(own)  # a pool may be more careful than its tier, never less
        return min(modes, key=rank.__getitem__)

    def _try(self, action: Action, seen: Snapshot) -> Outcome | None:
        key, now, mode = key_of(action), seen.at, self._mode(action.hand, action.role)
        if mode == "off" or key in self.state.flying:
            return None
        if (why := self.limits.why_not(action, key, seen)) is not None:
            return self._once(key, Outcome("held", action, why), now)
        if mode == "shadow":
            return self._once(key, Outcome("would", action, "shadow mode"), now)
        try:
            said = self._actuators.do(action, now=now)
        except Changed as error:
            return self._once(key, Outcome("held", action, error.message), now)
        except ApiError as error:
            if isinstance(error, NotLeader):
                raise
            return self._failed(action, key, error, now)
        self._done(action, key, now)
        outcome = Outcome("done", action, said)
        self._note(outcome, now)
        return outcome

    def _once(self, key: str, outcome: Outcome, now: float) -> Outcome | None:
        """The same thing not done is told once, not at every tick."""
        text = f"{outcome.kind}: {outcome.action.what}: {outcome.said}"
        if self.state.said.get(key) == text:
            return None
        self.state.said[key] = text
        self._note(outcome, now)
        return outcome

    def _done(self, action: Action, key: str, now: float) -> None:
        self.state.said.pop(key, None)
        self.limits.done(action, now)
        if not isinstance(action, MarkCosts):
            self.state.flying[key] = InFlight(action, now)

    def _failed(self, action: Action, key: str, error: ApiError, now: float) -> Outcome:
        said = error.message
        if error.forbidden:
            said = f"not allowed: {error.message}; give Tidegate the right, or set cluster.tiers.{action.hand} to off"
            self.limits.denied(action, now)
        elif not (error.conflict or error.passing):
            self.limits.failed(action, key, now)
        outcome = Outcome("failed", action, said, unanswered=error.reason == "Unreachable")
        if self.state.said.get(key) != said:
            self.state.said[key] = said
            self._note(outcome, now)
        return outcome

    def _note(self, outcome: Outcome, now: float) -> None:
        self._audit.write(now, outcome.kind, outcome.action, outcome.said)
        if self._events is not None and outcome.kind in {"done", "failed", "given up"} and not outcome.unanswered:
            self._events.tell(now, outcome.action, outcome.said, warn=outcome.kind != "done")

    # what became of it

    def _settle(self, seen: Snapshot) -> Iterator[Outcome]:
        for key, flight in list(self.state.flying.items()):
            waited = seen.at - flight.since
            visible, confirmed = progress(flight.action, seen)
            flight.visible = flight.visible or visible
            if confirmed:
                del self.state.flying[key]
                self.limits.succeeded(key)
                outcome = Outcome("confirmed", flight.action, f"after {waited:.1f} s")
            elif waited > self._settings.confirm_s or (not flight.visible and waited > SEEN_WITHIN_S):
                del self.state.flying[key]
                self.limits.failed(flight.action, key, seen.at)
                outcome = Outcome("given up", flight.action, f"no effect seen for {waited:.0f} s")
            else:
                continue
            self._note(outcome, seen.at)
            yield outcome
