"""The hands: from a decision to what is done about it, carefully.

Before anything is done: the kill switch, an API server not heard, a leadership lost hold everything; then each action
passes its mode, what is in flight already, quarantine and the hourly budget. What is done is expected to show in the
caches, and confirmed or given up; nothing is done twice for want of seeing it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import structlog

from autoscaler.cluster import ahead, intents, letting, returns
from autoscaler.cluster.actions import Action, MarkCosts, Preempt, Provision, key_of
from autoscaler.cluster.actuators import Changed
from autoscaler.cluster.api import ApiError, NotLeader
from autoscaler.cluster.confirm import progress
from autoscaler.cluster.hand import Hand
from autoscaler.cluster.hands_state import Alone, InFlight, Leadership, Outcome, State
from autoscaler.cluster.limits import Limits
from autoscaler.cluster.pod_actions import TellSources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from autoscaler.cluster.actuators import Actuators
    from autoscaler.cluster.audit import Audit, Events
    from autoscaler.cluster.objects import Pod
    from autoscaler.cluster.sight_types import SightRules, Snapshot, WeightsSight
    from autoscaler.model import Decision, RoleKey, Tier
    from autoscaler.settings_cluster import ClusterSettings, Mode

log = structlog.get_logger(__name__)
SEEN_WITHIN_S = 15.0
"""What was done shows in the caches within this, or is no longer counted on as done."""
OWED_S = 900.0
"""What a plan meant to take is remembered for so long."""


class Hands:
    """Carries out decisions.

    Args:
        settings: what may be done. rules: whose replicas have how many GPUs.
        actuators: who writes. audit, events: where it is told.
        leadership: whether this process may act. modes: of a pool, where it has one of its own.
        workers: weights caches as they are, by `namespace/dataset`.
        buffers: replicas of CapacityBuffers now, by `namespace/name`.
    """

    def __init__(  # noqa: PLR0913 - the hands' parts, each given by name
        self,
        settings: ClusterSettings,
        rules: SightRules,
        actuators: Actuators,
        audit: Audit,
        events: Events | None = None,
        *,
        leadership: Leadership | None = None,
        modes: Mapping[RoleKey, Mode] | None = None,
        workers: Callable[[], Mapping[str, WeightsSight]] = dict,
        buffers: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._settings, self._rules, self._actuators = settings, rules, actuators
        self._audit, self._events = audit, events
        self._leadership: Leadership = leadership or Alone()
        self._modes = dict(modes or {})
        self._workers, self._buffers = workers, buffers
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
        going = self._letting_go(decision, seen)
        yield from returns.costs(decision, seen, {**resident, **going.resident})
        yield from going.actions
        yield from intents.preemptions(found, decision, seen, rules, expected, token)
        yield from intents.replicas(decision, seen, settings.actuator, going.meanwhile)
        yield from returns.orders(found, settings.provisioning, rules, seen, takeable)
        yield from returns.loads(decision, settings.weights, self._workers())
        yield from returns.give_backs(found, seen, self.state.calm_since, settings.preemption.give_back_after_s)
        yield from returns.returns(settings.provisioning, seen, self.state.idle_since)
        yield from ahead.lowered(found, settings.provisioning, self.state.calm_since, self._buffers(), seen.at)
        yield from ahead.sources(settings.sources, seen, rules, self.state.told)
        yield from ahead.pulls(settings.images, seen, rules)

    def _letting_go(self, decision: Decision, seen: Snapshot) -> letting.Plan:
        found = letting.plan(
            decision,
            seen,
            self._settings.release,
            self._actuators.engines,
            actuator=self._settings.actuator,
            drains=lambda key: self._drains(key, seen),
            sleeps=lambda key: self._mode(Hand.SLEEP, key) == "active" and self.limits.may(Hand.SLEEP, seen.at),
            unable=self.limits.quarantined(("Sleep", "Wake"), seen.at),
        )
        self.state.waiting = found.waiting
        return found

    def wakes(self, seen: Snapshot) -> Callable[[RoleKey, Pod], bool]:
        """Says of a role's sleeping pod whether it would be woken when it is wished for. May be asked by any thread."""
        concerned = {(one.namespace, one.pool) for one in self._settings.release}
        able = {
            key
            for key, pool in seen.pools.items()
            if (key.namespace, key.pool) in concerned
            and self._mode(Hand.SLEEP, key) == "active"
            and intents.sets(pool, self._settings.actuator)
            and self._drains(key, seen)
        }
        able = able if self.limits.may(Hand.SLEEP, seen.at) else set()
        unable = self.limits.quarantined(("Sleep", "Wake"), seen.at)
        return lambda key, pod: key in able and pod.meta.name not in unable

    def _drains(self, key: RoleKey, seen: Snapshot) -> bool:
        """Whether pods can be drained before they go; where they cannot, a pool must not wait for it."""
        if not self._mode(Hand.RELEASE, key) == self._mode(Hand.REPLICAS, key) == "active":
            return False
        stuck = self.limits.quarantined(("Drain", "LeaveFirst"), seen.at)
        free = all(pod.meta.name not in stuck for pod in seen.pools[key].living)
        return free and self.limits.may(Hand.RELEASE, seen.at)

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
        if isinstance(action, TellSources):
            self.state.told[f"{action.role.namespace}/{action.name}"] = action.sources
        elif not isinstance(action, MarkCosts):
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
            engines = self._actuators.engines
            if not confirmed and engines is not None and (why := engines.ended(key)) is not None:
                del self.state.flying[key]
                self.limits.failed(flight.action, key, seen.at)
                outcome = Outcome("failed", flight.action, why)
            elif confirmed:
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
