"""What goes wrong between the hands and the API server: nothing is done twice, no training is lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
from acting_rig import YES, Rig, acting, training_cluster, wish
from cluster_rig import CHAT, H100, sight_rules, snapshot_when

from autoscaler.cluster.actions import Preempt
from autoscaler.model import Decision

if TYPE_CHECKING:
    from pathlib import Path

    from kube_server import ApiServer

CLAIM = {
    "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
    "requirements": [{"key": "a", "operator": "In", "values": ["b"]}],
}
PREEMPTED = "tidegate.dev/preempted"


def suspensions(api: ApiServer) -> int:
    return sum(one.plural == "jobs" for one in api.writes("patch"))


def give_all_back(rig: Rig) -> None:
    rig.until(lambda seen: not seen.pools[CHAT].pods, wish(0))
    rig.act(wish(0))
    rig.offset_s += 61.0
    rig.until(lambda seen: not seen.lent, wish(0))


def test_an_answer_that_is_lost_is_no_reason_to_take_another_gang(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    with acting(api, tmp_path) as rig:
        api.faults.lose_answers(1)  # the suspension has its effect, and nobody hears of it
        rig.act(wish(4, preempt=4))
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
        assert rig.suspended() == {"train-0"}
        api.faults.lose_answers(2)
        give_all_back(rig)
        assert rig.suspended() == set()
    for job in api.store.all("batch/v1", "Job"):
        assert PREEMPTED not in (job["metadata"].get("annotations") or {})


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_an_order_whose_answer_is_lost_is_placed_once(crds: ApiServer, tmp_path: Path, lost: int) -> None:
    crds.store.put(make.deployment("chat", 0))
    by = [{"accelerator": H100, "node_gpus": 4, "max_nodes": 3, "nodeclaim": {"spec": CLAIM}}]
    with acting(crds, tmp_path, provisioning=by) as rig:
        crds.faults.lose_answers(lost)
        for _ in range(5):
            rig.act(wish(4, provision=4))
            rig.restart()
    assert len(crds.store.all("karpenter.sh/v1", "NodeClaim")) == 1


def test_a_version_that_has_passed_is_listed_anew_and_nothing_repeated(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    with acting(api, tmp_path) as rig:
        rig.act(wish(4, preempt=4))
        api.go_down(0.6)
        for _ in range(3):
            api.store.compact()  # whoever resumes is told 410
        api.faults.clear()
        snapshot_when(rig.sight, lambda seen: seen.lost_s == 0, "never came back")
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
        assert rig.suspended() == {"train-0"}
        assert suspensions(api) == 1


def test_a_minute_without_a_server_costs_nothing_but_the_minute(api: ApiServer, tmp_path: Path) -> None:
    """Taken, then away (shortened: held after 0.2 s instead of 30): no word while it lasts, everything after it."""
    training_cluster(api)
    with acting(api, tmp_path, hold_when_lost_s=0.2) as rig:
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
        before = len(api.log)
        api.go_down(3600)
        seen = snapshot_when(rig.sight, lambda now: now.lost_s > 0.2, "the outage went unnoticed")
        assert seen.pools[CHAT].scalable is not None  # what was seen last is still there to answer with
        rig.restart()  # and the process is restarted in the middle of it
        for _ in range(3):
            assert rig.hands.act(Decision(seen.at, (wish(0),)), rig.sight.snapshot()) == []
        assert len(api.log) == before
        api.faults.clear()
        snapshot_when(rig.sight, lambda now: now.lost_s == 0, "never came back")
        give_all_back(rig)
        assert rig.suspended() == set()
        assert suspensions(api) == 2


def test_being_told_to_come_later_is_no_failure(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    with acting(api, tmp_path, quarantine={"failures": 1}) as rig:
        rig.caught_up()
        seen = rig.sight.snapshot()
        for _ in range(4):
            api.faults.throttle(2)
            rig.hands.act(Decision(seen.at, (wish(4, preempt=4),)), seen)
        api.faults.clear()
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
    assert rig.suspended() == {"train-0"}


def volcano(api: ApiServer) -> None:
    api.store.put(make.node("n1", 4))
    api.store.put(make.deployment("chat", 0))
    api.store.put(make.volcano_job("train", 2, 2, labels=YES))


def mark(api: ApiServer) -> dict[str, Any] | None:
    job = api.store.one("batch.volcano.sh/v1alpha1", "Job", "default", "train")
    text = (job["metadata"].get("annotations") or {}).get(PREEMPTED)
    return json.loads(text) if text else None


def test_a_crash_between_mark_and_command_is_finished_by_the_next(crds: ApiServer, tmp_path: Path) -> None:
    volcano(crds)
    rules = sight_rules(min_runtime_s=0.0, below_priority=1)
    with acting(crds, tmp_path, rules) as rig:
        rig.settle(2)
        crds.faults.forbid("commands", "create")  # as far as the mark, and no farther
        rig.act(wish(4, preempt=4))
        first = mark(crds)
        assert first is not None
        assert rig.ready() == 0
        crds.faults.clear()
        rig.restart()
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
        assert mark(crds) == first  # the same taking, finished
        commands = [one for one in crds.writes("create") if one.plural == "commands"]
        assert len(commands) == 2  # the refused one and its repetition


def test_a_crash_between_resuming_and_unmarking_lets_it_run(crds: ApiServer, tmp_path: Path) -> None:
    volcano(crds)
    rules = sight_rules(min_runtime_s=0.0, below_priority=1)
    with acting(crds, tmp_path, rules) as rig:
        rig.settle(2)
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
        rig.until(lambda seen: not seen.pools[CHAT].pods, wish(0))
        rig.act(wish(0))
        rig.offset_s = 61.0
        crds.faults.forbid("jobs", "patch")  # the command gets through, the mark stays
        rig.act(wish(0))
        rig.settle(2)
        assert mark(crds) is not None
        crds.faults.clear()
        rig.restart()
        rig.offset_s = 200.0
        rig.until(lambda seen: sum(gang.gpus for gang in seen.gangs) == 4 and mark(crds) is None, wish(0))
        rig.act(wish(0))
        taken = [one for one in rig.outcomes if isinstance(one.action, Preempt) and one.kind == "done"]
        assert len(taken) == 1


def test_a_right_to_engines_pods_that_is_missing_delays_no_scaling(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8))
    api.store.put(make.deployment("chat", 3))
    api.faults.forbid("pods", "patch")
    release = [{"namespace": "default", "pool": "chat", "drain_s": 60, "port": 9}]
    with acting(api, tmp_path, release=release) as rig:
        rig.settle()
        rig.act(wish(2))
        failed = next(one for one in rig.outcomes if one.kind == "failed")
        assert "cluster.tiers.release" in failed.said
        rig.until(lambda _: rig.ready() == 2, wish(2))
