"""Ordering nodes and cache workers: once, within bounds, and back again."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

import kube_objects as make
import pytest
from acting_rig import acting, wish
from cluster_rig import CHAT, H100, sight_rules

from autoscaler import build_cluster
from autoscaler.cluster import kinds
from autoscaler.cluster.actions import LoadWeights
from autoscaler.cluster.sight_types import PoolRole, TargetRef
from autoscaler.settings_cluster import WeightsSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import ApiServer

CLAIM = {
    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
    "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["p5.48xlarge"]}],
}


def nodes_by(by: dict[str, Any], **more: Any) -> dict[str, Any]:
    (way,) = by
    return {"provisioning": [{"accelerator": H100, "node_gpus": 4, "max_nodes": 3, way: by[way]} | more]}


def claims(api: ApiServer) -> list[str]:
    return [one["metadata"]["name"] for one in api.store.all("karpenter.sh/v1", "NodeClaim")]


def test_nodes_are_ordered_once_and_returned_when_idle(crds: ApiServer, tmp_path: Path) -> None:
    crds.store.put(make.deployment("chat", 0))
    with acting(crds, tmp_path, **nodes_by({"nodeclaim": {"spec": CLAIM}}, release_after_s=100)) as rig:
        for _ in range(3):
            rig.act(wish(6, provision=6))  # 6 GPUs: two nodes of 4
            rig.settle(1)
        assert len(claims(crds)) == 2
        rig.restart()  # and whoever comes next orders no third
        rig.act(wish(6, provision=6))
        assert len(claims(crds)) == 2
        rig.played.karpenter = 4
        rig.until(lambda _: rig.ready() == 6, wish(6, provision=6))
        assert len(claims(crds)) == 2
        rig.until(lambda seen: not seen.pools[CHAT].pods, wish(0))
        rig.act(wish(0))
        rig.offset_s = 101.0
        rig.act(wish(0))
        assert claims(crds) == []


def test_orders_stop_at_the_most_nodes_and_at_the_hourly_budget(crds: ApiServer, tmp_path: Path) -> None:
    crds.store.put(make.deployment("chat", 0))
    by = nodes_by({"nodeclaim": {"spec": CLAIM}})
    with acting(crds, tmp_path, **by, budget={"nodes_per_hour": 2}) as rig:
        for _ in range(3):
            rig.act(wish(100, provision=100))
        assert len(claims(crds)) == 2
        rig.offset_s = 3601.0
        for _ in range(3):
            rig.act(wish(100, provision=100))
        assert len(claims(crds)) == 3  # max_nodes


def test_nodes_are_not_ordered_while_training_can_still_be_taken(crds: ApiServer, tmp_path: Path) -> None:
    from acting_rig import training_cluster  # noqa: PLC0415 - only here

    training_cluster(crds)
    crds.store.put(make.deployment("chat", 14))
    with acting(crds, tmp_path, **nodes_by({"nodeclaim": {"spec": CLAIM}})) as rig:
        rig.settle()
        rig.offset_s = 21.0
        rig.act(wish(14))
        # 14 missing: the three gangs hold 12, so the other 2 need a node
        assert len(rig.suspended()) == 3
        assert len(claims(crds)) == 1


def test_a_static_node_pool_gets_as_many_as_should_be_on_their_way(crds: ApiServer, tmp_path: Path) -> None:
    template = {"spec": CLAIM}
    pool = {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": "gpus"},
        "spec": {"replicas": 1, "template": template, "limits": {"nodes": "10"}},
        "status": {"nodes": 1},
    }
    crds.store.put(pool)
    crds.store.put(make.deployment("chat", 0))
    with acting(crds, tmp_path, **nodes_by({"nodepool": {"name": "gpus"}})) as rig:
        for _ in range(3):
            rig.act(wish(6, provision=6))
            rig.restart()
    assert crds.store.one("karpenter.sh/v1", "NodePool", "", "gpus")["spec"]["replicas"] == 3  # 1 there + 2 ordered


def test_a_provisioning_request_asks_for_all_nodes_at_once(crds: ApiServer, tmp_path: Path) -> None:
    by = {"provisioning_request": {"namespace": "default", "pod_spec": make.pod_spec(4)}}
    crds.store.put(make.deployment("chat", 0))
    with acting(crds, tmp_path, **nodes_by(by)) as rig:
        for _ in range(3):
            rig.act(wish(6, provision=6))
            rig.restart()
    (request,) = crds.store.all("autoscaling.x-k8s.io/v1", "ProvisioningRequest")
    (template,) = crds.store.all("v1", "PodTemplate")
    assert request["spec"]["podSets"] == [{"count": 2, "podTemplateRef": {"name": template["metadata"]["name"]}}]


def test_a_capacity_buffer_is_set_to_what_should_come(crds: ApiServer, tmp_path: Path) -> None:
    crds.store.put(
        {
            "apiVersion": "autoscaling.x-k8s.io/v1beta1",
            "kind": "CapacityBuffer",
            "metadata": {"name": "spare", "namespace": "default"},
            "spec": {"replicas": 0, "podTemplateRef": {"name": "node"}},
        }
    )
    crds.store.put(make.deployment("chat", 0))
    by = {"capacity_buffer": {"namespace": "default", "name": "spare"}}

    def spare() -> int:
        return int(crds.store.all("autoscaling.x-k8s.io/v1beta1", "CapacityBuffer")[0]["spec"]["replicas"])

    with acting(crds, tmp_path, **nodes_by(by)) as rig:

        def begin() -> None:
            rig.restart(buffers=lambda: build_cluster.buffers(rig.plain, rig.sight, rig.settings.provisioning))

        begin()
        rig.act(wish(6, provision=6))
        assert spare() == 2
        rig.offset_s = 60.0
        rig.act(wish(6))
        assert spare() == 2  # nothing has come yet
        for name in ("new-0", "new-1"):
            crds.store.put(make.node(name, 4))
        rig.until(lambda _: rig.ready() == 6, wish(6))
        begin()  # whoever comes next lowers it all the same
        rig.act(wish(6))
        assert spare() == 2  # not at once: pods may still be moving in
        rig.offset_s = 91.0
        rig.act(wish(6))
        assert spare() == 0
        before = len(crds.writes())
        rig.act(wish(6))
        assert len(crds.writes()) == before


class _Hook(BaseHTTPRequestHandler):
    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.headers["Idempotency-Key"], body))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def hook() -> Iterator[str]:
    _Hook.asked.clear()
    with HTTPServer(("127.0.0.1", 0), _Hook) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/nodes"
        server.shutdown()
        thread.join()


def test_a_webhook_is_told_how_many_should_come(api: ApiServer, tmp_path: Path, hook: str) -> None:
    api.store.put(make.deployment("chat", 0))
    with acting(api, tmp_path, **nodes_by({"webhook": {"url": hook}})) as rig:
        rig.act(wish(6, provision=6))
        rig.hands._actuators._http.clear()
    ((key, body),) = _Hook.asked
    assert (body["nodes"], body["accelerator"], body["action"]) == (2, H100, key)


def test_weights_go_ahead_of_pods_and_back(crds: ApiServer, tmp_path: Path) -> None:
    runtime = {
        "apiVersion": "data.fluid.io/v1alpha1",
        "kind": "AlluxioRuntime",
        "metadata": {"name": "llama", "namespace": "default"},
        "spec": {"replicas": 1},
    }
    crds.store.put(runtime)
    crds.store.put(make.deployment("chat", 0))
    one = WeightsSettings(namespace="default", pool="chat", dataset="llama", max_workers=4)

    crds.store.put(
        {
            "apiVersion": "data.fluid.io/v1alpha1",
            "kind": "Dataset",
            "metadata": {"name": "llama", "namespace": "default"},
            "spec": {"mounts": [{"mountPoint": "s3://models/llama"}]},
            "status": {
                "phase": "Bound",
                "conditions": [],
                "ufsTotal": "16GiB",
                "cacheStates": {"cachedPercentage": "42.5%"},
            },
        }
    )

    with acting(crds, tmp_path, weights=[one.model_dump()]) as rig:

        def workers() -> dict[str, int]:
            return {name: cache.workers for name, cache in build_cluster.workers(rig.plain, rig.sight, (one,)).items()}

        rig.restart(workers=lambda: build_cluster.workers(rig.plain, rig.sight, (one,)))
        rig.act(wish(3))
        rig.act(wish(3))
        assert workers() == {"default/llama": 3}
        cache = build_cluster.workers(rig.plain, rig.sight, (one,))["default/llama"]
        assert (cache.phase, cache.cached) == ("Bound", 0.425)
        (load,) = crds.store.all("data.fluid.io/v1alpha1", "DataLoad")
        assert load["spec"]["dataset"] == {"name": "llama", "namespace": "default"}
        rig.act(wish(9))
        assert workers() == {"default/llama": 4}
        rig.act(wish(1))
        rig.act(wish(0))
        assert workers() == {"default/llama": 1}  # min_workers
        done = [o for o in rig.outcomes if isinstance(o.action, LoadWeights) and o.kind == "done"]
        assert len(done) == 3


def test_a_gpu_type_may_be_called_what_no_label_may(crds: ApiServer, tmp_path: Path) -> None:
    name = "H100 (80 GB), rented"
    crds.store.put(make.deployment("chat", 0))
    rules = sight_rules(PoolRole(CHAT, name, 1, TargetRef(kinds.DEPLOYMENTS, "Deployment", "chat")))
    by = nodes_by({"nodeclaim": {"spec": CLAIM}}, accelerator=name)
    with acting(crds, tmp_path, rules, **by) as rig:
        for _ in range(3):
            rig.act(wish(4, provision=4))
            rig.restart()
    assert len(claims(crds)) == 1
