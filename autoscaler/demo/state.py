"""The fleet's state as JSON: what the views show, what the summary at the end is made of."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from autoscaler.demo.deployment import ReplicaState
from autoscaler.demo.slo import quantile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.demo.deployment import Deployment, Replica
    from autoscaler.demo.hpa_follower import Follower
    from autoscaler.demo.pool import EmulatedPool, Tokens
    from autoscaler.demo.replica_server import ReplicaServer
    from autoscaler.simulator.engine_types import EngineRole

_HISTORY = 900


class PoolHistory:
    """Samples of one pool, the last 900: rates are over the time between two of them.

    Attributes:
        peaks: most replicas wanted by role, of all samples ever taken.
    """

    def __init__(self) -> None:
        self.samples: deque[dict[str, Any]] = deque(maxlen=_HISTORY)
        self.peaks: dict[str, int] = {}
        self._before: tuple[float, Tokens] | None = None

    def sample(self, pool: EmulatedPool, now: float) -> None:
        """Add what is true at `now` (Unix seconds)."""
        tokens = pool.count_tokens()
        at, before = self._before or (now, tokens)
        self._before = (now, tokens)
        for role, deployment in pool.deployments.items():
            self.peaks[role.value] = max(deployment.wanted, self.peaks.get(role.value, 0))
        self.samples.append(
            {
                "at": now,
                "requests_per_s": pool.rate,
                **_rates(tokens, before, now - at),
                "in_flight": pool.in_flight,
                "held": sum(map(len, pool.held.values())),
                "attainment": pool.score.attainment,
                "roles": {role.value: _counts(deployment) for role, deployment in pool.deployments.items()},
            }
        )


def _rates(tokens: Tokens, before: Tokens, seconds: float) -> dict[str, float]:
    """Tokens/s by name; 0 over no time."""
    names = ("offered_prompt", "offered_output", "served_prompt", "served_output")
    return {
        f"{name}_tokens_per_s": (getattr(tokens, name) - getattr(before, name)) / seconds if seconds > 0 else 0.0
        for name in names
    }


def _counts(deployment: Deployment) -> dict[str, int]:
    return {"wanted": deployment.wanted} | {state.value: len(deployment.in_state(state)) for state in ReplicaState}


def pool_state(
    pool: EmulatedPool,
    history: PoolHistory,
    history_samples: int | None,
    servers: Mapping[str, ReplicaServer],
    followers: Mapping[EngineRole, Follower],
) -> dict[str, Any]:
    """Everything about one pool; `servers` by pod; at most `history_samples` of the latest samples, or all."""
    score = pool.score
    latest = history.samples[-1] if history.samples else {}
    skipped = 0 if history_samples is None else max(0, len(history.samples) - history_samples)
    return {
        "name": pool.config.name,
        "namespace": pool.config.namespace,
        "model_name": pool.config.model_name,
        "requests_per_s": pool.rate,
        "requests": {
            "arrived": pool.arrived,
            "finished": pool.finished,
            "in_flight": pool.in_flight,
            "held": sum(map(len, pool.held.values())),
        },
        "slo": {
            "ttft_target_s": score.ttft_target,
            "tpot_target_s": score.tpot_target,
            "met": score.met,
            "missed": score.missed,
            "attainment": score.attainment,
            "recent_ttft_p50_s": quantile(score.ttfts, 0.5),
            "recent_ttft_p95_s": quantile(score.ttfts, 0.95),
            "recent_tpot_p50_s": quantile(score.tpots, 0.5),
            "recent_tpot_p95_s": quantile(score.tpots, 0.95),
        },
        "gpu_seconds": sum(deployment.gpu_seconds for deployment in pool.deployments.values()),
        "tokens": {key: latest[key] for key in latest if key.endswith("_tokens_per_s")},
        "roles": {
            role.value: {
                **_role_state(pool, deployment, servers, followers.get(role)),
                "peak": max(deployment.wanted, history.peaks.get(role.value, 0)),
            }
            for role, deployment in pool.deployments.items()
        },
        "history": list(history.samples)[skipped:],
    }


def _role_state(
    pool: EmulatedPool, deployment: Deployment, servers: Mapping[str, ReplicaServer], following: Follower | None
) -> dict[str, Any]:
    replicas = [_replica_state(replica, servers.get(replica.pod)) for replica in deployment.replicas.values()]
    return {
        "deployment": deployment.name,
        **_counts(deployment),
        "min_replicas": deployment.config.min_replicas,
        "max_replicas": deployment.config.max_replicas,
        "held": len(pool.held[deployment.config.role]),
        "running": sum(replica["running"] for replica in replicas),
        "waiting": sum(replica["waiting"] for replica in replicas),
        "gpu_seconds": deployment.gpu_seconds,
        "hpa": None if following is None else _hpa_state(following),
        "replicas": replicas,
    }


def _replica_state(replica: Replica, server: ReplicaServer | None) -> dict[str, Any]:
    gauges = None if replica.engine is None else replica.engine.gauges()
    return {
        "pod": replica.pod,
        "state": replica.state.value,
        "address": None if server is None else f"127.0.0.1:{server.port}",
        "fault": None if server is None else server.fault.value,
        "running": 0 if gauges is None else gauges.running,
        "waiting": 0 if gauges is None else gauges.waiting + gauges.fetching + gauges.fetched,
        "kv_usage": None if gauges is None else gauges.kv_usage,
        "preemptions": 0 if replica.engine is None else replica.engine.counters.preemptions,
    }


def _hpa_state(following: Follower) -> dict[str, Any]:
    status = following.status
    return {
        "scaling_active": None if status is None else status.active,
        "reason": None if status is None else status.reason,
        "message": None if status is None else status.message,
        "served": None if following.served_milli is None else following.served_milli / 1000,
        "synced_at": following.synced_at,
        "failures": following.failures,
    }
