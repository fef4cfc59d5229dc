"""Hands and processes of several shards over one cluster: each orders for its own pools, and nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
import urllib3
from acting_rig import Rig, acting, wish
from cluster_rig import H100, eventually, role, sight_rules
from engine_double import Load, serving_engine
from kube_controllers import Played
from kube_kinds import CRDS
from running_process import configuration, running
from shard_rig import BY_CLAIM, of_shard

from autoscaler.cluster.actuators import Actuators
from autoscaler.cluster.audit import Audit
from autoscaler.cluster.hands import Hands
from autoscaler.model import Decision, RoleDecision, RoleKey
from autoscaler.sharding import Shard, own_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_server import ApiServer
    from running_process import Running

    from autoscaler.cluster.sight_types import Snapshot

Json = dict[str, Any]


@pytest.fixture
def karpenter(api: ApiServer) -> ApiServer:
    if not CRDS.is_dir():
        pytest.skip(f"the CustomResourceDefinitions are not there: {CRDS}")
    api.store.install("karpenter.sh_nodeclaims.yaml")
    return api


class Shards:
    """A process for each shard, over one rig."""

    def __init__(self, rig: Rig, of: int) -> None:
        self.rig, self.of = rig, of
        self.hands = [self.begin(index) for index in range(of)]

    def begin(self, index: int) -> Hands:
        """That shard's process begins, with nothing in memory."""
        rig, which = self.rig, Shard(index, self.of)
        roles = tuple(one for one in rig.rules.roles if which.has(one.key.namespace, one.key.pool))
        actuators = Actuators(rig.plain, lambda: rig.sight.served, f"tidegate-{index}", urllib3.PoolManager())
        return Hands(rig.settings, replace(rig.rules, roles=roles), actuators, Audit(rig.audit_file))

    def seen(self, index: int) -> Snapshot:
        self.rig.caught_up()
        return own_snapshot(self.rig.sight.snapshot(), Shard(index, self.of))

    def act(self, *wishes: RoleDecision, again: bool = False) -> None:
        """A tick of each. `again`: each of them has just begun."""
        for index in range(self.of):
            seen = self.seen(index)
            own = tuple(one for one in wishes if Shard(index, self.of).has(one.key.namespace, one.key.pool))
            hands = self.hands[index] = self.begin(index) if again else self.hands[index]
            hands.act(Decision(seen.at, own), seen)


def claims(api: ApiServer) -> dict[str, str]:
    """The nodes ordered, and for whom."""
    return {
        one["metadata"]["name"]: one["metadata"]["annotations"]["tidegate.dev/ordered-for"]
        for one in api.store.all("karpenter.sh/v1", "NodeClaim")
    }


@contextmanager
def two_pools(api: ApiServer, folder: Path, most: int) -> Iterator[tuple[Rig, RoleKey, RoleKey]]:
    """A pool of each of two shards, and nodes of 4 GPUs to be had."""
    first, second = of_shard(0), of_shard(1)
    for key in (first, second):
        api.store.put(make.deployment(key.pool, 0))
    rules = sight_rules(*(role(key, 1, key.pool) for key in (first, second)))
    way = {**BY_CLAIM, "max_nodes": most, "release_after_s": 100}
    with acting(api, folder, rules, provisioning=[way]) as rig:
        yield rig, first, second


def test_each_shard_orders_its_own_and_restarts_order_nothing_more(karpenter: ApiServer, tmp_path: Path) -> None:
    with two_pools(karpenter, tmp_path, 8) as (rig, first, second):
        shards = Shards(rig, 2)
        wishes = (wish(6, first, provision=6), wish(3, second, provision=3))
        for again in (False, False, True, True):  # orders in flight are seen by whoever comes next
            shards.act(*wishes, again=again)
            rig.settle(1)
        made = claims(karpenter)
        assert Counter(made.values()) == {str(first): 2, str(second): 1}  # 6 and 3 GPUs in nodes of 4
        assert {name.rpartition("-")[0][-6:] for name in made} == {"0-of-2", "1-of-2"}
        rig.played.karpenter = 4
        for _ in range(8):
            rig.settle(1)
            shards.act(*wishes)
        assert (rig.ready(first.pool), rig.ready(second.pool)) == (6, 3)
        for again in (False, True):
            shards.act(*wishes, again=again)
        assert claims(karpenter) == made
        free = [stock.free for index in range(2) if (stock := shards.seen(index).stock(H100))]
        assert free == [8, 4]  # each its own nodes; split in halves the first would lack a node again


def test_together_they_keep_to_the_most_nodes(karpenter: ApiServer, tmp_path: Path) -> None:
    with two_pools(karpenter, tmp_path, 3) as (rig, first, second):
        shards = Shards(rig, 2)
        for again in (False, True, False):
            shards.act(wish(40, first, provision=40), wish(40, second, provision=40), again=again)
            rig.settle(1)
        assert Counter(claims(karpenter).values()) == {str(first): 1, str(second): 2}  # 3 x 1 // 2, and the rest


def test_when_shards_are_added_orders_go_with_their_pools_and_none_is_made_again(
    karpenter: ApiServer, tmp_path: Path
) -> None:
    with two_pools(karpenter, tmp_path, 8) as (rig, first, second):
        wishes = (wish(6, first, provision=6), wish(6, second, provision=6))
        Shards(rig, 2).act(*wishes)
        made = claims(karpenter)
        assert len(made) == 4
        for of in (3, 5, 1):
            more = Shards(rig, of)
            more.act(*wishes)
            assert claims(karpenter) == made  # still under way
        rig.played.karpenter = 4
        for of in (3, 3, 3, 3, 5, 2, 1):
            rig.settle(2)
            Shards(rig, of).act(*wishes)
            assert claims(karpenter) == made
        assert (rig.ready(first.pool), rig.ready(second.pool)) == (6, 6)


def test_a_node_is_returned_by_its_shard_and_never_under_another_shards_pods(
    karpenter: ApiServer, tmp_path: Path
) -> None:
    with two_pools(karpenter, tmp_path, 8) as (rig, first, second):
        shards = Shards(rig, 2)
        rig.played.karpenter = 4
        both = (wish(4, first, provision=4), wish(4, second, provision=4))
        for _ in range(8):
            shards.act(*both)
            rig.settle(1)
        owner = claims(karpenter)
        assert len(owner) == 2
        # The first pool's pods go, and the second's are where the scheduler put them, on whosever node that is.
        for _ in range(3):
            shards.act(wish(0, first), both[1])
            rig.settle(1)
        there = {pod["spec"]["nodeName"] for pod in karpenter.store.all("v1", "Pod")}
        rig.offset_s = 101.0
        shards.act(wish(0, first), both[1])
        left = {f"node-{name}" for name in claims(karpenter)}
        assert there <= left
        assert len(left) == len(there)


# two processes


@contextmanager
def played(api: ApiServer) -> Iterator[Played]:
    """Kubernetes goes on by itself."""
    made, stop = Played(api.store), Event()

    def go_on() -> None:
        while not stop.wait(0.2):
            made.step()

    thread = Thread(target=go_on)
    thread.start()
    try:
        yield made
    finally:
        stop.set()
        thread.join()


@pytest.mark.e2e
def test_two_processes_order_for_their_own_and_a_killed_one_orders_nothing_twice(
    karpenter: ApiServer, tmp_path: Path
) -> None:
    """4 GPUs are prepared, 2 for each shard. One pool wants 10 replicas, the other 2: two nodes of 4, for the first.

    Were they split when they come, the first would have 6 GPUs for its 10 replicas and order a third.
    """
    large, small = of_shard(1).pool, of_shard(0).pool
    karpenter.store.put(make.node("prepared", 4))
    pools = []
    for name, least in ((large, 10), (small, 2)):
        karpenter.store.put(make.deployment(name, 0, namespace="default"))
        own = {"min_replicas": least, "max_replicas": least, "target": {"kind": "Deployment", "name": name}}
        pools.append(
            {"name": name, "namespace": "default", "match": {"app": name}, "accelerator": H100}
            | {"profile": "llama-3.1-8b/h100-80gb/tp1", "roles": {"colocated": own}}
        )
    with serving_engine(Load(0.1)) as load, played(karpenter) as cluster:
        targets = [{"url": load.url, "labels": {"namespace": "default", "app": name}} for name in (large, small)]
        files = [
            configuration(
                karpenter,
                tmp_path / str(ordinal),
                load.url,
                pools=pools,
                supply=[{"accelerator": H100, "gpus": 4, "provisionable_gpus": 32, "node_gpus": 4}],
                source={"scrape": {"targets": targets, "interval_s": 0.5}},
                cluster={
                    "mode": "active",
                    "actuator": "scale",
                    "token_pools": {},
                    "shards": {"of": 2, "ordinal": ordinal},
                    "provisioning": [BY_CLAIM],
                },
            )
            for ordinal in (0, 1)
        ]
        with running(files[0]) as first:
            with running(files[1]) as second:
                eventually(lambda: len(claims(karpenter)) > 0, f"nothing was ordered:\n{second.log}", 60.0)
                second.process.kill()
                second.process.wait()
            with running(files[1]) as second:
                eventually(lambda: len(claims(karpenter)) == 2, "the second node was never ordered", 60.0)
                cluster.karpenter = 4

                def all_ready() -> bool:
                    found = [karpenter.store.one("apps/v1", "Deployment", "default", name) for name in (large, small)]
                    return [int(one["status"].get("readyReplicas", 0)) for one in found] == [10, 2]

                eventually(all_ready, f"never all ready:\n{first.log}\n{second.log}", 60.0)
                ticks = len(journal(second))
                eventually(lambda: len(journal(second)) >= ticks + 4, "no further tick", 30.0)
        assert set(claims(karpenter).values()) == {f"default/{large}/colocated"}
        assert len(claims(karpenter)) == 2


def journal(process: Running) -> list[Json]:
    file = process.folder / "journal.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
