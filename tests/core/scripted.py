"""A pool that can be reckoned with by hand, and ways to say what its engines report.

One engine: a = 0.02 s, p = 1e-4 s per prompt token, c = 5e-4 s per running request, d = 1e-6 s per resident token,
2,000 tokens per iteration, 100,000 KV tokens, at most 256 running. Hence

    V_P = 1 / (1e-4 + 0.02 / 2000) = 1 / 1.1e-4 = 9,090.9 prompt tokens/s
    at 500 resident tokens and an ITL target of 0.1 s: (0.1 - 0.02) / (5e-4 + 500 * 1e-6) = 80 requests, 800 tokens/s
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from autoscaler.guards import GuardRules
from autoscaler.learning import Prior
from autoscaler.model import Observation, Role, RoleKey, RoleObservation, Tier
from autoscaler.rules import RoleRules, Rules, SupplyRules
from autoscaler.velocity import Engine, StepModel, Target
from forecasting.forecaster import LastValue

if TYPE_CHECKING:
    from collections.abc import Iterable

STEP = StepModel(0.02, 1e-4, 5e-4, 1e-6)
ENGINE = Engine(STEP, kv_capacity=100_000.0, max_running=256.0, batched_tokens=2000.0)
TARGET = Target(ttft_s=1.0, itl_s=0.1, attainment=0.95)
T0 = 1_800_000_000.0
WINDOW_S = 60.0
SURE = 1e-6
"""Standard deviation of a profile that is to be believed as it stands, so that sizes can be reckoned by hand."""


def key(role: Role, pool: str = "chat") -> RoleKey:
    return RoleKey("llm", pool, role)


def role_rules(role: Role, pool: str = "chat", **changes: Any) -> RoleRules:
    plain = RoleRules(
        key=key(role, pool),
        engine=ENGINE,
        prior=Prior(STEP, SURE),
        profile="by-hand",
        target=TARGET,
        minimum=1,
        maximum=50,
        accelerator="gpu",
        gpus=1,
        shortage_price=20.0,
    )
    return replace(plain, **changes)


def rules(*roles: RoleRules, **changes: Any) -> Rules:
    plain = Rules(
        roles=roles,
        supply=(SupplyRules(Tier.START, "gpu", 60.0, 2.5),),
        forecaster=LastValue(),
        window_s=WINDOW_S,
        guards=GuardRules(stabilise_down_s=300.0),
    )
    return replace(plain, **changes)


def prefill(rate: float, replicas: int = 2, pool: str = "chat", **changes: Any) -> RoleObservation:
    """Prefill engines taking `rate` prompt tokens/s in prompts of 1,000 tokens; nothing waits.

    Its prefill time is what the step model says: per prompt 0.02 + 1e-4 * 1000 = 0.12 s.
    """
    requests = rate / 1000.0
    told = RoleObservation(
        key(Role.PREFILL, pool),
        sampled_at=T0,
        reporting=replicas,
        rate_engines=replicas,
        ready=replicas,
        replicas=replicas,
        running=0.0,
        waiting=0.0,
        kv_usage=0.0,
        kv_capacity=100_000.0,
        prompt_rate=rate,
        computed_rate=rate,
        generation_rate=requests,
        first_token_rate=requests,
        completion_rate=requests,
        prefill_busy=requests * 0.12,
        step_rate=requests,
    )
    return replace(told, **changes)


def decode(rate: float, replicas: int = 2, pool: str = "chat", **changes: Any) -> RoleObservation:
    """Decode engines giving `rate` output tokens/s in answers of 200 tokens, 500 resident tokens a request.

    With n requests on each of m engines, ITL = 0.02 + n * 1e-3 and n / ITL = rate / m, so n = 0.02 r / (1 - 1e-3 r).
    """
    each = min(rate / replicas, 900.0) if replicas else 0.0
    running = 0.02 * each / (1.0 - 1e-3 * each)
    itl = 0.02 + running * 1e-3
    told = RoleObservation(
        key(Role.DECODE, pool),
        sampled_at=T0,
        reporting=replicas,
        rate_engines=replicas,
        ready=replicas,
        replicas=replicas,
        running=running * replicas,
        waiting=0.0,
        kv_usage=running * 500.0 / 100_000.0,
        kv_capacity=100_000.0,
        prompt_rate=0.0,
        computed_rate=0.0,
        generation_rate=rate,
        first_token_rate=rate / 200.0,
        completion_rate=rate / 200.0,
        itl_busy=rate * itl,
        itl_tokens=rate,
        step_rate=replicas / itl,
    )
    return replace(told, **changes)


def at(seconds: float, *roles: RoleObservation, **changes: Any) -> Observation:
    """What is seen `seconds` after the script's start, sampled a second before."""
    now = T0 + seconds
    told = tuple(replace(role, sampled_at=None if role.sampled_at is None else now - 1.0) for role in roles)
    return Observation(now, told, source="script", **changes)


def silent(role: Role, pool: str = "chat", **changes: Any) -> RoleObservation:
    """A role whose engines say nothing."""
    return replace(RoleObservation(key(role, pool)), **changes)


def times(seconds: float, every: float = 15.0, start: float = 0.0) -> Iterable[float]:
    """Ticks from `start` on, the last one below `start + seconds`."""
    count = round(seconds / every)
    return (start + index * every for index in range(count))


def at_time(now: float, *roles: RoleObservation) -> Observation:
    """What is seen at a Unix time, as it is."""
    return Observation(now, roles, source="script")
