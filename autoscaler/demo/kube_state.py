"""What kube-state-metrics would say about the emulated deployments, in its names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoscaler.demo.deployment import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoscaler.demo.pool import EmulatedPool

_HELP = {
    "kube_deployment_spec_replicas": "Number of desired pods for a deployment.",
    "kube_deployment_status_replicas": "The number of replicas per deployment.",
    "kube_deployment_status_replicas_ready": "The number of ready replicas per deployment.",
}


def kube_state(pools: Iterable[EmulatedPool]) -> str:
    """Exposition text with wanted, existing and ready replicas of every deployment."""
    counts: dict[str, list[tuple[str, str, int]]] = {name: [] for name in _HELP}
    for pool in pools:
        for deployment in pool.deployments.values():
            numbers = (deployment.wanted, deployment.existing, len(deployment.in_state(ReplicaState.READY)))
            for name, number in zip(_HELP, numbers, strict=True):
                counts[name].append((pool.config.namespace, deployment.name, number))
    lines: list[str] = []
    for name, text in _HELP.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        lines += [f'{name}{{namespace="{space}",deployment="{of}"}} {number}' for space, of, number in counts[name]]
    return "\n".join(lines) + "\n"
