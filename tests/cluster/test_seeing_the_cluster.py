"""What a snapshot says of a cluster: GPUs free and taken, replicas, training, and what cannot be seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import kube_objects as make
import pytest
from cluster_rig import CHAT, H100, connected, eventually, role, seeing, sight_rules, snapshot_when
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.cluster import kinds
from autoscaler.cluster.objects import Pod, node_of, pod_of, scalable_of
from autoscaler.cluster.sight import Sight
from autoscaler.cluster.sight_types import Cached
from autoscaler.cluster.snapshot import taken
from autoscaler.cluster.starts import starts
from autoscaler.errors import CannotSee
from autoscaler.journal import Journal, read
from autoscaler.model import Decision, Observation, Role, RoleKey, Step, Stock, Tier

if TYPE_CHECKING:
    from pathlib import Path

    from kube_server import ApiServer

GPU = ("nvidia.com/gpu",)
YES = {"tidegate.dev/preemptible": "true"}


def test_gpus_are_counted_by_who_holds_them(api: ApiServer) -> None:
    put = api.store.put
    put(make.node("n1", 8, {"rack": "r1"}))
    put(make.node("n2", 8, {"rack": "r2"}))
    put(make.node("cordoned", 8, {"rack": "r2"}, unschedulable=True))
    put(make.node("broken", 8, {"rack": "r1"}, ready=False))
    put(make.deployment("chat", 3))
    for number, place in enumerate(("n1", "n1", "")):
        put(make.pod(f"chat-{number}", 1, place, labels={"app": "chat"}))
    put(make.pod("someone", 4, "n1"))
    put(make.pod("leaving", 2, "n2"))
    api.store.delete(api.store.kinds["", "v1", "pods"], ("default", "leaving"))
    put({**make.pod("finished", 8, "n2"), "status": {"phase": "Succeeded"}})
    with seeing(api) as sight:
        seen = sight.snapshot()
    r1, r2 = seen.supply.domains
    # n1: 8 = 2 serving + 4 other + 2 free; n2: 8 = 2 terminating + 6 free; the other two take no pods
    assert (r1.domain, r1.gpus, r1.free, r1.terminating, r1.serving, r1.other) == (("r1",), 8, 2, 0, 2, 4)
    assert (r2.domain, r2.gpus, r2.free, r2.terminating, r2.serving, r2.other) == (("r2",), 8, 6, 2, 0, 0)
    # for the tick: 2 + 6 free, 2 that come free within their grace of 30 s, 2 that the pool holds
    assert seen.stock(H100) == Stock(H100, 2 + 6 + 2 + 2, 0)
    pool = seen.pools[CHAT]
    assert (len(pool.pods), len(pool.waiting)) == (3, 1)


def test_scattered_gpus_are_no_room_for_whole_replicas(api: ApiServer) -> None:
    for name, used in (("n1", 5), ("n2", 3), ("n3", 0)):
        api.store.put(make.node(name, 8))
        if used:
            api.store.put(make.pod(f"other-{name}", used, name))
    with seeing(api, sight_rules(role(gpus=4))) as sight:
        stock = sight.snapshot().stock(H100)
    # 3 free on n1 take no pod of 4, 5 on n2 take one, 8 on n3 two
    assert stock == Stock(H100, 0 + 4 + 8, 0)


def test_pods_waiting_without_a_place_are_told_from_those_not_yet_looked_at(api: ApiServer) -> None:
    api.store.put(make.deployment("chat", 2))
    waiting = make.pod("w", 1, labels={"app": "chat"})
    waiting["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
        }
    ]
    api.store.put(waiting)
    api.store.put(make.pod("new", 1, labels={"app": "chat"}))
    with seeing(api) as sight:
        pool = sight.snapshot().pools[CHAT]
    assert len(pool.waiting) == 2
    assert pool.unschedulable is not None
    assert "Insufficient" in pool.unschedulable


def test_a_target_is_found_by_annotation_where_none_is_configured(api: ApiServer) -> None:
    said = {"tidegate.dev/pool": "chat", "tidegate.dev/role": "decode"}
    key = RoleKey("default", "chat", Role.DECODE)
    api.store.put(make.deployment("whatever", 2, annotations=said))
    api.store.put(make.hpa("follows", "whatever"))
    with seeing(api, sight_rules(role(key, target=None))) as sight:
        pool = sight.snapshot().pools[key]
    assert pool.target is not None
    assert (pool.target.kind, pool.target.name) == ("Deployment", "whatever")
    assert pool.scalable is not None
    assert (pool.scalable.existing, pool.scalable.ready) == (2, 2)
    assert pool.owner is not None
    assert pool.owner.meta.name == "follows"


def test_a_leader_worker_set_counts_groups_and_all_its_pods(crds: ApiServer) -> None:
    template = {"metadata": {"labels": {"x": "y"}}, "spec": make.pod_spec(8)}
    crds.store.put(
        {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": "big", "namespace": "default"},
            "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template}},
            "status": {"replicas": 2, "readyReplicas": 1, "hpaPodSelector": "x=leader"},
        }
    )
    crds.store.put(make.node("n1", 8))
    crds.store.put(make.pod("big-0", 8, "n1", labels={"leaderworkerset.sigs.k8s.io/name": "big"}))
    said = role(gpus=16, target="big")
    said = type(said)(said.key, said.accelerator, 16, type(said.target)(kinds.LWS, "LeaderWorkerSet", "big"))  # type: ignore[misc]
    with seeing(crds, sight_rules(said)) as sight:
        pool = sight.snapshot().pools[CHAT]
    assert pool.scalable is not None
    assert (pool.scalable.wanted, pool.scalable.ready, len(pool.pods)) == (2, 1, 1)


def test_training_is_grouped_by_what_can_suspend_it(crds: ApiServer) -> None:
    put = crds.store.put
    put(make.node("n1", 64))
    plain = put(make.job("plain", 2, 4, labels=YES))
    queued = put(make.job("queued", 1, 8, labels={"kueue.x-k8s.io/queue-name": "q"}))
    put(make.workload("job-queued", queued, 1, 8, labels=YES))
    sets = put(make.jobset("sets", 2, 1, 2, annotations=YES))
    below = [put(make.job(f"sets-{n}", 1, 2, owner=sets)) for n in range(2)]
    vulcan = put(make.volcano_job("vulcan", 1, 1, labels={"tidegate.dev/preemptible": "false"}))
    for owner, gpus, count in ((plain, 4, 2), (queued, 8, 1), (below[0], 2, 1), (below[1], 2, 1), (vulcan, 1, 1)):
        for number in range(count):
            put(make.pod(f"{owner['metadata']['name']}-p{number}", gpus, "n1", owner=owner, priority=-5))
    put(make.pod("alone", 3, "n1", priority=-5))
    with seeing(crds) as sight:
        seen = sight.snapshot()
    gangs = {gang.group.key: gang for gang in seen.gangs}
    assert {key: gang.gpus for key, gang in gangs.items()} == {
        "Job/default/plain": 8,
        "Workload/default/job-queued": 8,
        "JobSet/default/sets": 4,
        "VolcanoJob/default/vulcan": 1,
        "Pod/default/alone": 3,
    }
    takeable = {gang.key for gang in seen.supply.gangs}
    assert takeable == {"Job/default/plain", "Workload/default/job-queued", "JobSet/default/sets"}
    assert "preemptible=false" in str(gangs["VolcanoJob/default/vulcan"].refused)
    assert "neither labelled" in str(gangs["Pod/default/alone"].refused)
    assert seen.stock(H100) == Stock(H100, 64 - 8 - 8 - 4 - 1 - 3, 8 + 8 + 4)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"below_priority": -5}, "priority -5 is not below -5"),
        ({"min_runtime_s": 1e12}, "has run for less than"),
        ({"trusted": frozenset({"default"})}, None),
        ({}, "neither labelled"),
    ],
)
def test_why_training_is_spared(api: ApiServer, change: dict[str, object], why: str | None) -> None:
    api.store.put(make.node("n1", 8))
    said = {} if "trusted" in change or not change else YES
    owner = api.store.put(make.job("train", 1, 8, labels=said))
    api.store.put(make.pod("train-0", 8, "n1", owner=owner, priority=-5))
    with seeing(api, sight_rules(**change)) as sight:
        refused = sight.snapshot().gangs[0].refused
    assert (refused is None) if why is None else (why in str(refused))


def test_the_last_checkpoint_is_the_latest_that_is_said(api: ApiServer) -> None:
    api.store.put(make.node("n1", 8))
    owner = api.store.put(make.job("train", 2, 4, annotations={"tidegate.dev/last-checkpoint": "2026-01-01T00:10:00Z"}))
    api.store.put(make.pod("a", 4, "n1", owner=owner, annotations={"tidegate.dev/last-checkpoint": "1767226300"}))
    api.store.put(make.pod("b", 4, "n1", owner=owner, annotations={"tidegate.dev/last-checkpoint": "soon"}))
    with seeing(api) as sight:
        gang = sight.snapshot().gangs[0]
    assert gang.checkpoint_at == 1767226300.0  # 2026-01-01T00:11:40Z


@pytest.mark.parametrize("place", ["default", "tidegate-system", "target"])
def test_the_kill_switch_holds_what_it_stands_on(api: ApiServer, place: str) -> None:
    switch = {"tidegate.dev/hold": "maintenance"}
    api.store.put(make.deployment("chat", 1, annotations=switch if place == "target" else None))
    for name in ("default", "tidegate-system"):
        api.store.put(make.namespace(name, switch if name == place else {"tidegate.dev/hold": "false"}))
    with seeing(api) as sight:
        seen = sight.snapshot()
    assert (seen.held is not None) == (place == "tidegate-system")
    assert (seen.pools[CHAT].held is not None) == (place != "tidegate-system")


def test_what_may_not_be_read_is_missing_and_the_rest_goes_on(api: ApiServer) -> None:
    api.faults.forbid("jobs", "list", "watch")
    api.store.put(make.node("n1", 8))
    with seeing(api) as sight:
        seen = sight.snapshot()
    assert "cannot list" in seen.missing[kinds.JOBS]
    assert seen.stock(H100) == Stock(H100, 8, 0)


def test_without_pods_nothing_can_be_said(api: ApiServer) -> None:
    api.faults.forbid("pods", "list", "watch")
    plain = connected(api)
    sight = Sight(plain, sight_rules())
    sight.start()
    try:
        eventually(lambda: "pods: " in sight.why_not_ready(), "the refusal went unnoticed")
        with pytest.raises(CannotSee, match="pods: pods is forbidden"):
            sight.snapshot()
        assert not sight.ready
    finally:
        sight.stop()
        plain.close()


def test_an_api_server_that_is_away_at_the_start_is_found_later(api: ApiServer) -> None:
    api.go_down(0.5)
    plain = connected(api)
    sight = Sight(plain, sight_rules())
    sight.start()
    try:
        with pytest.raises(CannotSee, match="has not answered yet"):
            sight.snapshot()

        def found() -> bool:
            try:
                return sight.snapshot().lost_s == 0.0
            except CannotSee:
                return False

        eventually(found, "never came back")
    finally:
        sight.stop()
        plain.close()


def test_an_outage_ages_the_snapshot_until_it_is_over(api: ApiServer) -> None:
    api.store.put(make.node("n1", 8))
    with seeing(api) as sight:
        api.go_down(1.0)
        lost = snapshot_when(sight, lambda seen: seen.lost_s > 0, "the outage went unnoticed")
        assert lost.stock(H100) == Stock(H100, 8, 0)  # the last that was seen
        api.store.put(make.node("n2", 8))
        snapshot_when(sight, lambda seen: seen.lost_s == 0 and seen.stock(H100) == Stock(H100, 16, 0), "stayed lost")


def test_starts_are_told_step_by_step_as_the_pods_say() -> None:
    def at(minute: int, second: int) -> str:
        return f"2026-01-01T00:{minute:02d}:{second:02d}Z"

    def times(name: str, created: str, scheduled: str, started: str, ready: str, place: str) -> Pod:
        found = make.pod(name, 1, place, labels={"app": "chat"})
        found["metadata"] |= {"creationTimestamp": created, "uid": name}
        conditions = (("PodScheduled", scheduled), ("Ready", ready))
        found["status"]["conditions"] = [
            {"type": kind, "status": "True", "lastTransitionTime": when} for kind, when in conditions
        ]
        found["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = started
        return pod_of(found, GPU)

    old, new = make.node("old", 8), make.node("new", 8)
    old["metadata"]["creationTimestamp"], new["metadata"]["creationTimestamp"] = "2025-01-01T00:00:00Z", at(1, 0)
    pods = [
        times("a", at(0, 0), at(0, 2), at(0, 22), at(1, 32), "old"),  # 2 s to schedule, 20 s image, 70 s engine
        times("b", at(0, 30), at(3, 30), at(3, 40), at(4, 40), "new"),  # 180 s for the node, 10 s, 60 s
        times("gone", "2025-12-31T00:00:00Z", at(0, 0), at(0, 0), at(0, 0), "old"),  # longer ago than an hour
    ]
    scalable = scalable_of(make.deployment("chat", 3), "Deployment")
    cached = Cached(
        {pod.meta.where: pod for pod in pods},
        {("", name): node_of(node, GPU) for name, node in (("old", old), ("new", new))},
        scalables=[(kinds.DEPLOYMENTS, scalable)],
    )
    told = starts(taken(cached, sight_rules(), 1767225600.0 + 1800.0, {}, 0.0))[CHAT]
    assert [(one.name, one.tier, one.together) for one in told] == [
        ("default/a", Tier.START, 1),
        ("default/b", Tier.PROVISION, 2),
    ]
    assert told[0].steps == ((Step.SCHEDULE, 2.0), (Step.IMAGE, 20.0), (Step.ENGINE, 70.0))
    assert told[1].steps == ((Step.NODE, 180.0), (Step.IMAGE, 10.0), (Step.ENGINE, 60.0))


def test_the_journal_keeps_the_supply_and_reads_it_back(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8, {"rack": "r1"}))
    owner = api.store.put(make.job("train", 1, 8, labels=YES))
    api.store.put(make.pod("train-0", 8, "n1", owner=owner, priority=-5))
    with seeing(api) as sight:
        seen = sight.snapshot()
    assert seen.supply.gangs[0].domains == ((("r1",), 8),)
    told = Observation(seen.at, (), seen.stocks, supply=seen.supply)
    journal = Journal(tmp_path / "journal.jsonl", 1_000_000)
    journal.write(told, Decision(seen.at, ()))
    assert [again for again, _ in read(journal.path)] == [told]


@given(
    held=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8), st.booleans()), max_size=12),
    size=st.integers(1, 8),
)
def test_every_gpu_is_counted_once(held: list[tuple[int, int, bool]], size: int) -> None:
    nodes = [node_of(make.node(f"n{n}", 8, {"rack": f"r{n}"}), GPU) for n in range(3)]
    pods = []
    for number, (place, gpus, leaving) in enumerate(held):
        found = make.pod(f"p{number}", gpus, f"n{place}", labels={"app": "chat"} if number % 2 else None)
        found["metadata"]["uid"] = str(number)
        if leaving:
            found["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        pods.append(pod_of(found, GPU))
    cached = Cached({pod.meta.where: pod for pod in pods}, {node.meta.where: node for node in nodes})
    seen = taken(cached, sight_rules(role(gpus=size)), time.time(), {}, 0.0)
    for stock in seen.supply.domains:
        used = stock.terminating + stock.serving + stock.other
        assert (stock.nodes, stock.free) == (1, max(0, 8 - used))
    free = seen.stock(H100)
    assert free is not None
    assert free.free is not None
    assert 0 <= free.free <= 24
    assert free.free % size == 0
