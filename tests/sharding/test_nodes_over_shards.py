"""Nodes ordered by several shards: each is one shard's from its order to its return, and none is ordered twice."""

from __future__ import annotations

from typing import Any

import kube_objects as make
import pytest
from cluster_rig import H100, role, sight_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_rig import BY_CLAIM, KEYS

from autoscaler import build
from autoscaler.cluster.objects import node_of, pod_of
from autoscaler.cluster.room import look
from autoscaler.cluster.sight import claim_of
from autoscaler.cluster.sight_types import Cached, Snapshot
from autoscaler.cluster.snapshot import taken
from autoscaler.configuration import checked
from autoscaler.errors import BadSettings
from autoscaler.model import RoleKey, Stock
from autoscaler.sharding import Shard, allotted, own_parts, own_snapshot, share

Json = dict[str, Any]
GPU = ("nvidia.com/gpu",)
# how many may be ordered


@given(st.integers(0, 40), st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_what_all_may_order_never_exceeds_the_most(most: int, there: list[int]) -> None:
    rooms = allotted(most, there)
    assert min(rooms) >= 0
    assert sum(there) + sum(rooms) <= max(most, sum(there))
    if all(had <= share(most, index, len(there)) for index, had in enumerate(there)):
        assert sum(there) + sum(rooms) == most  # nothing is wasted where each keeps to its share


def test_the_last_shards_wait_for_one_that_has_too_many() -> None:
    assert allotted(10, [5, 0, 0]) == [0, 3, 2]  # 5 + 3 + 2
    assert allotted(10, [3, 3, 4]) == [0, 0, 0]
    assert allotted(10, [9, 0, 0]) == [0, 1, 0]
    assert allotted(2, [0, 0, 0]) == [0, 1, 1]


@settings(max_examples=200, deadline=None)
@given(
    most=st.integers(1, 12),
    begin=st.lists(st.integers(0, 9), min_size=2, max_size=4),
    events=st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.lists(st.integers(0, 50), min_size=4, max_size=4)), max_size=40
    ),
)
def test_shards_that_see_each_other_late_keep_together_below_the_most(
    most: int, begin: list[int], events: list[tuple[int, bool, list[int]]]
) -> None:
    """Each sees its own nodes as they are, and of every other shard any state it has had since all of them began."""
    limit = max(most, sum(begin))
    past = [[count] for count in begin]
    for index, returns, late in events:
        one = index % len(begin)
        now = past[one][-1]
        if returns:
            past[one].append(max(0, now - 1))
            continue
        view = [states[-1 - late[n] % len(states)] for n, states in enumerate(past)]
        view[one] = now
        past[one].append(now + allotted(most, view)[one])
        assert sum(states[-1] for states in past) <= limit


# whose GPUs are whose


def claim(name: str, whose: str | None, node: str = "", gpus: int = 4) -> Json:
    """A NodeClaim: of ours, for that pool; of somebody else's where there is none."""
    notes = {"tidegate.dev/accelerator": H100, "tidegate.dev/gpus": str(gpus)}
    ours = {
        "labels": {"tidegate.dev/managed-by": "tidegate"},
        "annotations": {**notes, "tidegate.dev/ordered-for": whose},
    }
    meta: Json = {"name": name, "uid": name, **(ours if whose is not None else {"annotations": notes})}
    return {"metadata": meta, "status": {"nodeName": node, "conditions": []}}


def snapshot(nodes: list[Json], claims: list[Json], pods: list[Json]) -> Snapshot:
    rules = sight_rules(*(role(key, 1, key.pool) for key in KEYS))
    cached = Cached(
        pods={("default", pod["metadata"]["name"]): pod_of(pod, GPU) for pod in pods},
        nodes={("", node["metadata"]["name"]): node_of(node, GPU) for node in nodes},
        claims=[claim_of(one, GPU) for one in claims],
    )
    return taken(cached, rules, 1e9, {}, 0.0)


WHOSE = st.sampled_from([None, "scribble", *map(str, KEYS)])


@settings(max_examples=80, deadline=None)
@given(
    prepared=st.lists(st.integers(0, 8), max_size=4),
    ordered=st.lists(st.tuples(WHOSE, st.booleans(), st.integers(1, 8)), max_size=6),
    others=st.integers(0, 3),
    of=st.integers(1, 5),
)
def test_every_gpu_and_every_order_is_counted_by_one_shard(
    prepared: list[int], ordered: list[tuple[str | None, bool, int]], others: int, of: int
) -> None:
    nodes = [make.node(f"n{index}", gpus) for index, gpus in enumerate(prepared)]
    claims = []
    for index, (whose, here, gpus) in enumerate(ordered):
        labels = {} if whose is None else {"tidegate.dev/managed-by": "tidegate"}
        claims.append(claim(f"c{index}", whose, f"c{index}" if here else "", gpus))
        if here:
            nodes.append(make.node(f"c{index}", gpus, labels))
    pods = [make.pod(f"other-{index}", 1, node="c0") for index in range(others)]
    seen = snapshot(nodes, claims, pods)
    parts = [own_snapshot(seen, Shard(index, of)) for index in range(of)]
    total = seen.stock(H100)
    assert total is not None
    assert sum(stock.free or 0 for part in parts if (stock := part.stock(H100))) == total.free
    coming = sum(one.gpus for one in seen.supply.coming)
    assert sum(one.gpus for part in parts for one in part.supply.coming) == coming
    for index, (whose, here, gpus) in enumerate(ordered):
        having = [part for part in parts if f"c{index}" in {one.meta.name for one in part.claims}]
        assert len(having) == (1 if whose is not None else of)
        if whose in map(str, KEYS) and of > 1:
            (mine,) = having
            assert Shard(mine.shard, of).has("default", RoleKey.parse(str(whose)).pool)
            counted = {one.key: one.gpus for one in mine.supply.coming}
            assert counted.get(f"c{index}") == (None if here else gpus)
        if of > 1 and whose is not None:
            assert sum(part.ordered[H100][part.shard] for part in parts) == sum(one[0] is not None for one in ordered)


def test_a_node_whose_order_is_not_seen_yet_is_nobodys() -> None:
    seen = snapshot([make.node("n0", 4), make.node("new", 4, {"tidegate.dev/managed-by": "tidegate"})], [], [])
    parts = [own_snapshot(seen, Shard(index, 2)) for index in range(2)]
    assert [stock.free for part in parts if (stock := part.stock(H100))] == [2, 2]


def test_what_is_bought_comes_on_top_of_what_is_prepared_and_is_no_longer_to_be_had() -> None:
    """4 GPUs are prepared, 8 may be bought in nodes of 4; one is here and one on its way."""
    seen = snapshot(
        [make.node("n0", 4), make.node("bought", 4)],
        [claim("c0", str(KEYS[0]), "bought"), claim("c1", str(KEYS[0]))],
        [],
    )
    (stock,) = look(seen, {H100: Stock(H100, 4, 0, 8)}).stocks
    assert (stock.free, stock.provisionable) == (8, 0)


def sharded(way: Json, **supply: Any) -> Json:
    pools = [{"name": key.pool, "namespace": "default", "roles": {"colocated": {"max_replicas": 9}}} for key in KEYS]
    pools = [{**pool, "match": {"app": pool["name"]}} for pool in pools]
    return {
        "pools": pools,
        "supply": [{"accelerator": H100, "gpus": 8, **supply}],
        "cluster": {"enabled": True, "shards": {"of": 3}, "provisioning": [way]},
    }


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ({"nodepool": {"name": "gpus"}}, "nodepool is not possible"),
        ({"capacity_buffer": {"namespace": "default", "name": "spare"}}, "capacity-buffer is not possible"),
        ({"provisioning_request": {"namespace": "default", "pod_spec": {}}}, "provisioning-request is not possible"),
        ({"webhook": {"url": "http://nodes.example"}}, "do not say which shard ordered them"),
    ],
)
def test_nodes_that_do_not_say_whose_they_are_are_refused(way: Json, why: str) -> None:
    one = {key: value for key, value in BY_CLAIM.items() if key != "nodeclaim"} | way
    with pytest.raises(BadSettings, match=why):
        checked(sharded(one), "test")


def test_nodes_to_be_had_are_split_in_whole_nodes_and_so_is_the_hour() -> None:
    made = checked(sharded(BY_CLAIM, provisionable_gpus=22, node_gpus=4), "test")
    whole = build.parts(made, build.profile_book(made))
    parts = [own_parts(whole, Shard(index, 3)) for index in range(3)]
    # 22 GPUs are 5 nodes: 1, 2 and 2; 8 an hour: 2, 3 and 3
    assert [part.stocks[0].provisionable for part in parts] == [4, 8, 8]
    assert [part.settings.cluster.budget.nodes_per_hour for part in parts] == [2, 3, 3]
