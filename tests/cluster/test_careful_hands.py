"""Dry runs, rates, bounds, bad settings: what keeps the hands from doing too much."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
import urllib3
import yaml
from acting_rig import YES, acting, training_cluster, wish
from cluster_rig import CHAT, H100, connected, role, sight_rules
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.cluster import kinds
from autoscaler.cluster.actions import (
    Clamp,
    GiveBack,
    LoadWeights,
    LowerBuffer,
    MarkCosts,
    Preempt,
    Provision,
    ReleaseNode,
    SetReplicas,
    key_of,
)
from autoscaler.cluster.actuators import Actuators
from autoscaler.cluster.audit import Audit
from autoscaler.cluster.connection import RateLimit, connect
from autoscaler.cluster.pod_actions import Drain, LeaveFirst, PullImage, TellSources, Undrain
from autoscaler.cluster.sight_types import TargetRef
from autoscaler.cluster.training import Mark
from autoscaler.configuration import load_settings
from autoscaler.errors import BadSettings
from autoscaler.model import Role, RoleKey
from autoscaler.settings_cluster import (
    BufferSettings,
    ClusterSettings,
    ProvisionSettings,
    PullSettings,
    ReleaseSettings,
    WeightsSettings,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kube_server import ApiServer

    from autoscaler.cluster.actions import Action
    from autoscaler.cluster.sight_types import GangSight, Snapshot

CLAIM = {
    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
    "requirements": [{"key": "a", "operator": "In", "values": ["b"]}],
}


def every_action(seen: Snapshot) -> tuple[list[Action], GangSight]:
    """One of each that can be tried without an engine, and the gang that one of them takes."""
    gangs = {gang.group.key: gang for gang in seen.gangs}
    mark = Mark("preempt-1", seen.at, H100, 4, str(CHAT))
    owner = seen.pools[CHAT].owner
    assert owner is not None
    weights = WeightsSettings(namespace="default", pool="chat", dataset="llama")
    way = ProvisionSettings.model_validate(
        {"accelerator": H100, "node_gpus": 4, "max_nodes": 1, "nodeclaim": {"spec": CLAIM}}
    )
    train = gangs["Job/default/train-0"]
    assert train.group.training is not None
    pod, scalable = gangs["Pod/default/lone"].group.pods[0], seen.pools[CHAT].scalable
    assert scalable is not None
    how = ReleaseSettings(namespace="default", pool="chat", drain_s=60)
    target = TargetRef(kinds.DEPLOYMENTS, "Deployment", "chat")
    actions: list[Action] = [
        SetReplicas(CHAT, target, 3, 0, "why"),
        Clamp(CHAT, owner, 3, "why"),
        Preempt(CHAT, train, mark, "why"),
        Preempt(CHAT, gangs["Pod/default/lone"], mark, "why"),
        Provision(CHAT, way, "new", 1, "why"),
        ReleaseNode(seen.claims[0], "why"),
        LoadWeights(CHAT, weights, 3, 1, "why"),
        MarkCosts(CHAT, (("lone", 5),), "why"),
        Drain(CHAT, pod, how, "why"),
        Undrain(CHAT, pod, how, "why"),
        LeaveFirst(CHAT, pod, how, "why"),
        PullImage(CHAT, scalable, "img:1", "n0", PullSettings(namespace="default", pool="chat"), "why"),
        TellSources(CHAT, "sources", (("10.0.0.1:8001", "rack-1"),), "why"),
        LowerBuffer(H100, BufferSettings(namespace="default", name="spare"), 2, "why"),
    ]
    return actions, train


def test_a_dry_run_of_every_action_is_checked_by_the_server_and_changes_nothing(
    crds: ApiServer, tmp_path: Path
) -> None:
    store = crds.store
    training_cluster(crds)
    store.put(make.pod("lone", 1, "n0", labels=YES, priority=-5))
    store.put(make.hpa("theirs", "chat"))
    store.put(
        {
            "apiVersion": "data.fluid.io/v1alpha1",
            "kind": "AlluxioRuntime",
            "metadata": {"name": "llama", "namespace": "default"},
            "spec": {"replicas": 1},
        }
    )
    claim = {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "metadata": {"name": "old"}, "spec": CLAIM}
    store.put(claim)
    buffer = {"apiVersion": "autoscaling.x-k8s.io/v1beta1", "kind": "CapacityBuffer"}
    meta = {"name": "spare", "namespace": "default"}
    store.put({**buffer, "metadata": meta, "spec": {"replicas": 2, "podTemplateRef": {"name": "node"}}})
    rules = sight_rules(min_runtime_s=0.0, evict=True)
    with acting(crds, tmp_path, rules) as rig:
        rig.caught_up()
        seen = rig.sight.snapshot()
        actions, train = every_action(seen)
        (mark,) = {one.mark for one in actions if isinstance(one, Preempt)}
        training = train.group.training
        assert training is not None
        before = {key: {name: e.value for name, e in there.items()} for key, there in store.objects.items()}
        for action in actions:
            assert rig.hands._actuators.do(action, now=seen.at, dry_run=True)
        after = {key: {name: e.value for name, e in there.items()} for key, there in store.objects.items()}
        assert after == before
        writes = [one for one in crds.log if one.writes]
        assert writes
        assert all(one.dry_run for one in writes)
        rig.hands._actuators.do(Preempt(CHAT, train, mark, "why"), now=seen.at)
        rig.hands._actuators.do(GiveBack(CHAT, training, mark, "why"), now=seen.at, dry_run=True)
        assert rig.suspended() == {"train-0"}
    assert len({key_of(action) for action in actions}) == len(actions)


def test_a_tick_begins_so_many_actions_and_no_more(api: ApiServer, tmp_path: Path) -> None:
    keys = [RoleKey("default", f"pool-{n}", Role.COLOCATED) for n in range(7)]
    for key in keys:
        api.store.put(make.deployment(key.pool, 1))
    rules = sight_rules(*(role(key, target=key.pool) for key in keys))
    with acting(api, tmp_path, rules, budget={"actions_per_tick": 3}) as rig:
        counts = []
        for _ in range(3):
            rig.act(*(wish(2, key) for key in keys))
            counts.append(len(api.writes()))
    assert counts == [3, 6, 7]


@given(st.lists(st.floats(0.0, 3.0), max_size=60), st.floats(0.5, 20.0), st.integers(1, 10))
def test_writes_never_exceed_rate_and_burst(pauses: list[float], rate: float, burst: int) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    limit = RateLimit(rate, burst, lambda: now[0], sleep)
    times = []
    for pause in pauses:
        now[0] += pause
        limit.take()
        times.append(now[0])
    for first, begun in enumerate(times):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - begun) + 1e-6


def test_the_audit_is_turned_over_and_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    action = SetReplicas(CHAT, TargetRef(kinds.DEPLOYMENTS, "Deployment", "chat"), 3, None, "why")
    audit = Audit(tmp_path / "a.jsonl", most_bytes=600)
    for at in range(5):
        audit.write(float(at), "done", action, "said")
    lines = [
        json.loads(line) for name in ("a.jsonl.1", "a.jsonl") for line in (tmp_path / name).read_text().splitlines()
    ]
    assert [line["at"] for line in lines][-1] == 4.0
    assert lines[0]["what"] == "set replicas to 3 (from unknown)"
    (tmp_path / "b").mkdir()
    Audit(tmp_path / "b").write(0.0, "done", action, "said")  # cannot be opened for writing


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "7", '{"action": "x"}', '{"action": 1, "at": "never"}'])
def test_a_mark_that_somebody_scribbled_is_no_reason_to_act(text: str) -> None:
    assert Mark.read(text) is None


@given(st.builds(Mark, st.text(), st.floats(0, 4e9), st.text(), st.integers(0, 10**6), st.text(), st.integers(0, 99)))
def test_a_mark_reads_back_as_it_was_written(mark: Mark) -> None:
    assert Mark.read(mark.text()) == mark


def test_what_is_not_served_is_said_and_holds_nothing_up(api: ApiServer, tmp_path: Path) -> None:
    with acting(api, tmp_path) as rig:
        plain = connected(api)
        actuators = Actuators(plain, dict, "me", urllib3.PoolManager())
        action = SetReplicas(CHAT, TargetRef(kinds.LWS, "LeaderWorkerSet", "chat"), 3, None, "why")
        with pytest.raises(Exception, match="does not serve leaderworkersets"):
            actuators.do(action, now=0.0)
        plain.close()
        assert rig.act(wish(None)) == []


@pytest.mark.parametrize("text", ["", "not: [a", "apiVersion: v1\nkind: Config\n", "\x00"])
def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config"
    file.write_text(text)
    with pytest.raises(BadSettings, match=r"cluster\.kubeconfig: .*config"):
        connect(str(file), None)


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        ({"mode": "on"}, "cluster.mode"),
        ({"namespace": "No_Such"}, "cluster.namespace"),
        ({"topology": ["a b"]}, "cluster.topology"),
        ({"gpu_resources": []}, "cluster.gpu_resources"),
        ({"election": {"retry_s": 9}}, "renew_deadline_s"),
        ({"provisioning": [{"accelerator": "x", "node_gpus": 8, "max_nodes": 1}]}, "exactly one of nodeclaim"),
        (
            {"provisioning": [{"accelerator": "x", "node_gpus": 8, "max_nodes": 1, "nodepool": {"name": "a"}}]},
            "supply does not list 'x'",
        ),
        ({"weights": [{"namespace": "a", "pool": "b", "dataset": "c"}]}, "there is no pool a/b"),
        ({"budget": {"writes_per_second": 0}}, "writes_per_second"),
        ({"release": [{"namespace": "a", "pool": "b"}]}, "there is no pool a/b"),
        ({"release": [{"namespace": "default", "pool": "chat", "drain_s": 9}]}, "need actuator scale or clamp"),
        ({"release": [{"namespace": "default", "pool": "chat", "sleep_level": 3}]}, "sleep_level"),
        ({"images": [{"namespace": "default", "pool": "chat"}] * 2}, "listed already"),
        ({"sources": [{"namespace": "default", "pool": "chat", "config_map": "A B"}]}, "config_map"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path: Path, cluster: dict[str, Any], said: str) -> None:
    file = tmp_path / "tidegate.yaml"
    pool = {"name": "chat", "roles": {"colocated": {"max_replicas": 4}}}
    supply = [{"accelerator": "h100-80gb"}]
    file.write_text(yaml.safe_dump({"pools": [pool], "supply": supply, "cluster": {"enabled": True, **cluster}}))
    with pytest.raises(BadSettings, match=said):
        load_settings(file, {})


def test_nothing_is_watched_and_nothing_done_unless_asked_for() -> None:
    settings = ClusterSettings()
    assert (settings.enabled, settings.mode, settings.actuator) == (False, "shadow", "metrics")
