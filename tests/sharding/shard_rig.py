"""Pools that belong to known shards, and a way of ordering nodes for them."""

from __future__ import annotations

from cluster_rig import H100

from autoscaler.model import Role, RoleKey
from autoscaler.sharding import Shard

KEYS = [RoleKey("default", f"p{index}", Role.COLOCATED) for index in range(12)]


def of_shard(index: int, of: int = 2) -> RoleKey:
    """The first pool that belongs to this shard."""
    return next(key for key in KEYS if Shard(index, of).has(key.namespace, key.pool))


SPEC = {
    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
    "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["p5.48xlarge"]}],
}
BY_CLAIM = {"accelerator": H100, "node_gpus": 4, "max_nodes": 8, "nodeclaim": {"spec": SPEC}}
