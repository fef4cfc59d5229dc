"""A pool's traffic as policies that look at arrivals want it: requests/s coming in, and the mean request's tokens.

A gateway that counts requests and their prompt tokens says it (`arrival_rate`, `arrival_tokens`), as the authors'
own frontends do. Without one, engines count what they served, not what arrived: arrivals = first tokens/s + growth of
what waits. The prefill (or colocated) role tells of arrivals and prompts, the decode (or colocated) role of outputs.
Shapes of windows without a completed request are carried over from the last that had one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.model import Role
from autoscaler.policies.role_steps import waiting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.model import RoleObservation

SLOPE_S = 60.0
"""Growth of the queue is taken over the rates' window: over a shorter one a draining queue would hide arrivals."""


@dataclass(frozen=True, slots=True)
class TrafficState:
    """Queue samples (time, waiting) and the last shapes seen: tokens per request."""

    queue: tuple[tuple[float, float], ...] = ()
    prompt: float | None = None
    computed: float | None = None
    output: float | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What comes into a pool.

    Attributes:
        requests: arrivals/s.
        prompt: prompt tokens a request, prefix hits included; computed: without them. output: output tokens a request.
    """

    requests: float
    prompt: float
    computed: float
    output: float

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that a prefix cache served, 0..0.95."""
        if self.prompt <= 0:
            return 0.0
        return min(max(1.0 - self.computed / self.prompt, 0.0), 0.95)


def traffic(
    told_of: Mapping[Role, RoleObservation], state: TrafficState, at: float
) -> tuple[Traffic | None, TrafficState]:
    """The pool's traffic, None until all of it has been told once; and what to remember.

    Args:
        told_of: the pool's reports by role; roles that did not report are left out.
        state: what the last call returned.
        at: Unix time.
    """
    entry = told_of.get(Role.PREFILL) or told_of.get(Role.COLOCATED) or told_of.get(Role.DECODE)
    leaving = told_of.get(Role.DECODE) or told_of.get(Role.COLOCATED)
    if entry is None:
        return None, state
    queue = tuple(sample for sample in state.queue if at - SLOPE_S <= sample[0] < at)
    held = waiting(entry, gateway=True)
    if held is not None:
        queue = (*queue, (at, held))
    firsts, counted = entry.first_token_rate, entry.arrival_rate
    prompt = _each(entry.prompt_rate, firsts, state.prompt)
    computed = _each(entry.computed_rate, firsts, state.computed)
    if entry.arrival_tokens is not None and counted:
        # What is coming has the gateway's lengths; how much of it hits the cache only the engines know.
        hits = 1.0 - computed / prompt if computed is not None and prompt else 0.0
        prompt = entry.arrival_tokens / counted
        computed = prompt * (1.0 - min(max(hits, 0.0), 1.0))
    output = state.output
    if leaving is not None:
        output = _each(leaving.generation_rate, leaving.completion_rate, output)
    state = TrafficState(queue, prompt, computed, output)
    requests = firsts if firsts is not None else entry.completion_rate
    requests = counted if requests is None else requests
    if requests is None or (prompt is None and computed is None) or output is None:
        return None, state
    whole = prompt if prompt is not None else computed
    rest = computed if computed is not None else prompt
    arriving = counted if counted is not None else max(0.0, requests + _slope(queue))
    return Traffic(arriving, whole or 0.0, rest or 0.0, output), state


def _each(amount: float | None, count: float | None, before: float | None) -> float | None:
    return amount / count if amount is not None and count else before


def _slope(queue: tuple[tuple[float, float], ...]) -> float:
    if not queue:
        return 0.0
    (first_at, first), (last_at, last) = queue[0], queue[-1]
    return (last - first) / (last_at - first_at) if last_at > first_at else 0.0
