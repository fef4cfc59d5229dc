"""Hand-made roles and reports for the policies' tests.

The engine: base 10 ms, 0.1 ms per prompt token, 0.1 ms per running request, 1 ns per resident token; so prefill does
1 / (0.0001 + 0.01/8192) = 9,879 tokens/s, and B = 8192, S = 256, KV 432,000 tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoscaler.learning import Prior
from autoscaler.model import EngineObservation, Observation, Role, RoleKey, RoleObservation
from autoscaler.policies.policy import Scene
from autoscaler.rules import RoleRules
from autoscaler.velocity import Engine, StepModel, Target

if TYPE_CHECKING:
    from autoscaler.policies.policy import Policy

STEP = StepModel(0.01, 1e-4, 1e-4, 1e-9)
ENGINE = Engine(STEP, kv_capacity=432_000.0, max_running=256.0, batched_tokens=8192.0)
TARGET = Target(ttft_s=0.4, itl_s=0.1)
KV = 432_000.0


def key(role: Role = Role.COLOCATED) -> RoleKey:
    return RoleKey("default", "pool", role)


def rule(role: Role = Role.COLOCATED, minimum: int = 1, maximum: int = 50) -> RoleRules:
    return RoleRules(key(role), ENGINE, Prior(STEP, 0.3), "test", TARGET, minimum, maximum, "gpu", 1, 10.0)


def scene(*roles: Role, minimum: int = 1, maximum: int = 50) -> Scene:
    return Scene(tuple(rule(role, minimum, maximum) for role in roles or (Role.COLOCATED,)))


def told(role: Role = Role.COLOCATED, replicas: int = 2, ready: int | None = None, **signals: Any) -> RoleObservation:
    """A role whose ready replicas all report one engine each, unless told otherwise."""
    up = replicas if ready is None else ready
    base: dict[str, Any] = {"reporting": up, "rate_engines": up, "ready": up, "replicas": replicas, "sampled_at": 0.0}
    return RoleObservation(key(role), **(base | signals))


def engines(*loads: tuple[float, float], capacity: float = KV, tokens: float = 0.0) -> tuple[EngineObservation, ...]:
    """Engines by (KV usage, waiting requests), both as they were all minute."""
    return tuple(
        EngineObservation(f"pod-{index:02d}", 1.0, queue, usage, capacity, usage, queue, tokens)
        for index, (usage, queue) in enumerate(loads)
    )


def wishes(policy: Policy, where: Scene, *looks: tuple[float, RoleObservation | tuple[RoleObservation, ...]]) -> Any:
    """What the policy wants at each look (time, report or reports): one number, or one per role in a tuple."""
    memory, found = policy.start(where), []
    for at, reports in looks:
        roles = reports if isinstance(reports, tuple) else (reports,)
        decision, memory = policy.decide(Observation(at, roles), memory, where)
        counts = tuple(role.desired for role in decision.roles)
        found.append(counts if len(counts) > 1 else counts[0])
    return found
