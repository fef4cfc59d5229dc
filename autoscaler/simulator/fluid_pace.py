"""Our policy at the pace of the load: over days that flow, a decision is worth making when there is news.

Ten thousand ticks of a week mostly decide again what stands already, at 1.7 ms each. `Unhurried` looks at every one of
them and decides at those that have news:

    a role's load above the highest it was decided on of late, or its smoothed load below the one decided on, by
        what a part of one replica serves; a change of what waits, of counts, of stock; somebody blind; LONGEST_S gone

What was seen in between is put into the memory before the next decision, as the ticks that were not made would have:
loads into their series, bounds that fell due judged, the mix followed. So forecasts see no gap and nothing counts as
unwatched. It is for loads that change by the hour. Against a decision every 15 s, GPU-hours were within 1 % over days
of a daily wave, with 6 % of noise a minute, too, and attainment within 1 percentage point. Other loads, of ten hours
each, with looks 45 s apart (as of two days) and 120 s (as of a week): GPU-hours, and where it changes, attainment:

    wave of 3 h, 1:3                +4 %                      +11 %
    the same, prefill and decode    -1 %, 98.2 to 97.1 %      +5 %, to 95.8 %
    wave of 30 min                   0 %, 97.1 to 75.7 %      -5 %, to 69.5 %
    x 2.5 and back, each 75 min     +3 %, 91.4 to 90.1 %      +17 %, to 90.5 %
    x 2.5 and back, each 15 min     +3 %, 87.1 to 82.3 %      +6 %, to 92.1 %
    x 3 for 1 minute in 20          -8 %, 82.4 to 82.8 %      -14 %, to 83.7 %
    noise of 20 % a minute          -4 %                      -6 %
    noise of 50 % a minute          -7 %                      -11 %, 91.7 to 85.6 %
    2 requests/s every other 30 min +9 %                      +45 %, 96.4 to 98.5 %
    wave of 3 h on training's GPUs  -6 %, 97.1 to 96.4 %      +8 %

So where minutes matter, give the scenario an `interval_s` of its own: it then decides at every tick.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from autoscaler.foresight import judged, promised
from autoscaler.memory import Memory, RoleMemory, Shape, load_now
from autoscaler.model import Decision, Foreseen, Observation, Role, RoleDecision, RoleObservation, Tier
from autoscaler.same import Same
from autoscaler.tick import tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.policies.token_dynamics import TokenDynamics
    from autoscaler.rules import Rules
    from forecasting.forecaster import Forecast, Forecaster
    from forecasting.series import Series

RISE, FALL = 0.4, 1.0
"""Parts of a replica's load that are news: rises at once, falls later, since shrinking waits for minutes anyway."""
LEAST_CHANGE, MOST_CHANGE = 0.005, 0.1
"""What is news is never a smaller or larger share of the load than these."""
SMOOTHING = 0.5
"""Weight of a look in the smoothed load: falls are judged over about two looks, not by one with little in it."""
PENDING_LOOKS = 3
"""Decisions in the time for which shrinking is held back: each may shrink to the highest plan of that time."""
LONGEST_S = 1800.0
"""Longest time without a decision."""
QUEUE_NEWS, QUEUE_SHARE = 2.0, 0.05
"""Requests more or less waiting that are news: so many, or this share of those running, if that is more."""

STARTS_EVERY_S = 21_600.0
"""Replicas that came up teach lead times once in so long: what they teach changes little and takes 5 ms to reckon."""

Loads = tuple[float, float]
"""Uncached prompt tokens/s and output tokens/s of a role."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered: the policy's own memory as of the last decision, and what was seen since.

    Attributes:
        memory: the policy's. rules: the tick's. seen, decision: of the last decision.
        unread: observations since. level: smoothed loads by role, in the rules' order; level_read: those at the last
            decision. loads: (s, loads) at the decisions of the last LONGEST_S; highs: their highest.
        told_at: when starts were last learned from.
    """

    memory: Memory
    rules: Rules
    seen: Observation | None = None
    decision: Decision | None = None
    unread: tuple[Observation, ...] = ()
    level: tuple[Loads, ...] = ()
    level_read: tuple[Loads, ...] = ()
    loads: tuple[tuple[float, tuple[Loads, ...]], ...] = ()
    highs: tuple[Loads, ...] = ()
    told_at: float | None = None

    def with_unread(self, seen: Observation, level: tuple[Loads, ...]) -> Watch:
        """After a look that was not decided on. Spelt out, for this is most of them."""
        unread = (*self.unread, seen)
        return Watch(
            self.memory,
            self.rules,
            self.seen,
            self.decision,
            unread,
            level,
            self.level_read,
            self.loads,
            self.highs,
            self.told_at,
        )


class Recalled:
    """A forecaster asked the same several times in a tick (of prompts, by each role they feed): once is enough.

    The same series, told by identity as a series is frozen, and the same question have the same answer.
    """

    def __init__(self, inner: Forecaster) -> None:
        self._inner = inner
        self._last: deque[tuple[Series, tuple[object, ...], Forecast | None]] = deque(maxlen=4)

    def forecast(
        self, series: Series, at: float, horizons: Sequence[float], quantiles: Sequence[float]
    ) -> Forecast | None:
        """See `Forecaster.forecast`."""
        asked = (at, tuple(horizons), tuple(quantiles))
        for one, question, answer in self._last:
            if one is series and question == asked:
                return answer
        answer = self._inner.forecast(series, at, horizons, quantiles)
        self._last.append((series, asked, answer))
        return answer


@dataclass(frozen=True, slots=True)
class Unhurried:
    """A policy of ours that looks at every tick, and decides when there is news.

    Attributes:
        inner: the policy; its `interval_s` is that between looks.
    """

    inner: TokenDynamics

    @classmethod
    def every(cls, interval_s: float, inner: TokenDynamics) -> Unhurried:
        """The policy with looks so many seconds apart; a window shorter than that would call each look the first."""
        return cls(replace(inner, interval_s=interval_s, window_s=max(inner.window_s, interval_s)))

    @property
    def name(self) -> str:
        """The policy's own."""
        return self.inner.name

    @property
    def interval_s(self) -> float:
        """Seconds between looks."""
        return self.inner.interval_s

    @property
    def follow(self) -> Follow:
        """The policy's own; an HPA that adds nothing of its own looks once after each tick."""
        own = self.inner.follow
        if own.direct or own.stabilise_up_s or own.stabilise_down_s or own.most_up_pods or own.most_up_share:
            return own
        return replace(own, sync_s=max(own.sync_s, self.interval_s))

    def start(self, scene: Scene) -> Watch:
        """Nothing was seen yet."""
        rules = self.inner.rules(scene)
        # Nobody reads the evidence of a simulated decision.
        told = replace(rules, forecaster=Recalled(rules.forecaster), alternative=False)
        return Watch(self.inner.start(scene), told)

    def decide(self, seen: Observation, memory: Watch, scene: Scene) -> tuple[Decision, Watch]:  # noqa: ARG002 - the protocol's; its rules are remembered
        """Decide, or let what was decided stand."""
        now = tuple(map(_loads, seen.roles))
        level = tuple(map(_towards, memory.level, now)) if memory.level else now
        if not self._news(seen, now, level, memory):
            return Decision(seen.at, _stand(Same(memory.rules))), memory.with_unread(seen, level)
        rules = memory.rules
        told_at = seen.at
        if memory.told_at is not None and seen.at - memory.told_at < STARTS_EVERY_S:
            told_at = memory.told_at
            seen = replace(seen, roles=tuple(replace(told, starts=()) for told in seen.roles))
        known = caught_up(memory, seen.at, rules)
        decision, known = tick(seen, known, rules)
        loads = (*(one for one in memory.loads if seen.at - one[0] < LONGEST_S), (seen.at, now))
        highs = tuple(map(_highest, zip(*(one for _, one in loads), strict=True)))
        return decision, Watch(known, rules, seen, decision, (), level, level, loads, highs, told_at)

    def _news(self, seen: Observation, now: tuple[Loads, ...], level: tuple[Loads, ...], watch: Watch) -> bool:
        before, decided = watch.seen, watch.decision
        if before is None or decided is None or seen.at - before.at >= self._longest(decided):
            return True
        if seen.failure is not None or before.failure is not None or seen.stocks != before.stocks:
            return True
        for told, old, made in zip(seen.roles, before.roles, decided.roles, strict=True):
            if _stirred(told, old, made.desired):
                return True
        for loads, highs, low, read, made in zip(now, watch.highs, level, watch.level_read, decided.roles, strict=True):
            most, least = 1 + _part(RISE, made), 1 - _part(FALL, made)
            if loads[0] > highs[0] * most or loads[1] > highs[1] * most:
                return True
            if low[0] < read[0] * least or low[1] < read[1] * least:
                return True
        return False

    def _longest(self, decided: Decision) -> float:
        """Seconds until the next decision at the latest: soon where one is pending, or leave to take GPUs runs out."""
        for made in decided.roles:
            if made.shortage > 0 or any(take.tier in {Tier.PREEMPT, Tier.PROVISION} for take in made.takes):
                return 0.0
        if any(made.desired != made.planned for made in decided.roles):
            return min(LONGEST_S, max(self.interval_s, self.inner.stabilise_down_s / PENDING_LOOKS))
        return LONGEST_S


def _part(of_a_replica: float, made: RoleDecision) -> float:
    """What part of the whole load a part of one replica serves."""
    return min(max(of_a_replica / max(1, made.planned or 1), LEAST_CHANGE), MOST_CHANGE)


@lru_cache(maxsize=64)
def _stand(rules: Same[Rules]) -> tuple[RoleDecision, ...]:
    """Nothing new is said of any role."""
    return tuple(RoleDecision(rule.key) for rule in rules.value.roles)


def _highest(loads: Sequence[Loads]) -> Loads:
    return max(prompt for prompt, _ in loads), max(output for _, output in loads)


def _loads(told: RoleObservation) -> Loads:
    return told.computed_rate or 0.0, told.generation_rate or 0.0


def _towards(before: Loads, now: Loads) -> Loads:
    return before[0] + SMOOTHING * (now[0] - before[0]), before[1] + SMOOTHING * (now[1] - before[1])


def _stirred(told: RoleObservation, old: RoleObservation, desired: int | None) -> bool:
    """Whether counts have changed otherwise than decided, or what waits has, or somebody is not heard."""
    if told.reporting == 0 or told.stale or told.rate_engines == 0:
        return True
    for now, before in ((told.ready, old.ready), (told.replicas, old.replicas), (told.reporting, old.reporting)):
        if now == before:
            continue
        if now is None or before is None or desired is None:
            return True
        if not min(before, desired) <= now <= max(before, desired):
            return True
    grown = abs((told.waiting or 0.0) - (old.waiting or 0.0))
    return grown > max(QUEUE_NEWS, QUEUE_SHARE * (told.running or 0.0))


def caught_up(watch: Watch, at: float, rules: Rules) -> Memory:
    """The policy's memory with what was seen since, as if each look had been a tick that changed nothing."""
    if not watch.unread or watch.decision is None:
        return watch.memory
    roles = dict(watch.memory.roles)
    for index, made in enumerate(watch.decision.roles):
        known = roles.get(made.key)
        if known is not None:
            seen = [(one.at, one.roles[index]) for one in watch.unread]
            roles[made.key] = _role_caught_up(known, made, seen, at, rules)
    return replace(watch.memory, roles=roles)


def _role_caught_up(
    known: RoleMemory,
    made: RoleDecision,
    seen: Sequence[tuple[float, RoleObservation]],
    at: float,
    rules: Rules,
) -> RoleMemory:
    """About the same load had the same plan, and bounds in between have moved with the load."""
    prompt, output, kept, shape = known.prompt_load, known.output_load, known.kept, known.shape
    same = 1.0 - _part(RISE, made)
    plans = list(known.plans)
    role = seen[0][1].key.role
    then = load_now(prompt if role is Role.PREFILL else output)
    before = known.judged_at if known.judged_at is not None else seen[0][0]
    if role is not Role.DECODE:
        prompt = prompt.extended([(when, told.computed_rate) for when, told in seen])
    if role is not Role.PREFILL:
        output = output.extended([(when, told.generation_rate) for when, told in seen])
    for when, told in seen:
        load = told.computed_rate if role is Role.PREFILL else told.generation_rate
        if load is not None and then is not None:
            if made.planned is not None and load >= same * then:
                plans.append((when, made.planned))
            moved = [
                Foreseen(one.tier, one.lead_s, one.quantile, max(0.0, one.bound + load - then)) for one in made.foreseen
            ]
            kept = promised(judged(kept, load, when, rules.bin_s), moved, when, rules.bin_s)
        shape = _followed(shape, told, 1.0 - math.exp(-max(when - before, 0.0) / rules.mix_memory_s))
        before = when
    last = max(before, at - rules.window_s)
    return replace(
        known,
        prompt_load=prompt,
        output_load=output,
        kept=kept,
        shape=shape,
        plans=tuple(plans),
        judged_at=None if known.judged_at is None else max(known.judged_at, last),
        decided_at=None if known.decided_at is None else max(known.decided_at, last),
    )


def _followed(shape: Shape, told: RoleObservation, weight: float) -> Shape:
    """The requests' mean shape after one more look; what was never seen is left to a tick."""

    def follow(before: float | None, amount: float | None, count: float | None) -> float | None:
        if before is None or not amount or not count:
            return before
        return before + weight * (amount / count - before)

    tokens = None if told.kv_usage is None or told.kv_capacity is None else told.kv_usage * told.kv_capacity
    return Shape(
        follow(shape.prompt, told.computed_rate, told.first_token_rate),
        follow(shape.output, told.generation_rate, told.completion_rate),
        follow(shape.resident, None if tokens is None else tokens * told.reporting, told.running),
    )
