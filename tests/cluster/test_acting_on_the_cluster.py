"""What the hands do, and above all what they do not do twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kube_objects as make
import pytest
from acting_rig import YES, acting, training_cluster, wish
from cluster_rig import CHAT, role, sight_rules, snapshot_when
from kube_faults import Fault
from kube_store import Refused

from autoscaler.cluster.actions import Preempt, SetReplicas
from autoscaler.model import Decision, Role, RoleKey

if TYPE_CHECKING:
    from pathlib import Path

    from kube_server import ApiServer


def test_replicas_follow_the_wish_through_scale(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8))
    api.store.put(make.deployment("chat", 2))
    with acting(api, tmp_path) as rig:
        rig.until(lambda _: rig.ready() == 5, wish(5))
        assert [(one.verb, one.subresource) for one in api.writes()] == [("patch", "scale")]
        rig.act(wish(5))
        kinds = [(line["outcome"], line["action"]) for line in rig.audit()]
    assert kinds == [("done", "SetReplicas"), ("confirmed", "SetReplicas")]
    event = api.store.all("events.k8s.io/v1", "Event")[0]
    assert (event["regarding"]["name"], event["reason"]) == ("chat", "DesiredReplicasChanged")


def test_shadow_says_once_what_it_would_do_and_writes_nothing(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    with acting(api, tmp_path, mode="shadow") as rig:
        for _ in range(3):
            rig.act(wish(4, preempt=4))
        said = [(line["outcome"], line["action"]) for line in rig.audit()]
    assert said == [("would", "Preempt"), ("would", "SetReplicas")]
    assert [one for one in api.log if one.writes] == []


@pytest.mark.parametrize("place", ["tidegate-system", "default", "target"])
def test_the_kill_switch_holds_every_hand(api: ApiServer, tmp_path: Path, place: str) -> None:
    training_cluster(api)
    switch = {"tidegate.dev/hold": "true"}
    if place == "target":
        api.store.put(make.deployment("chat", 0, annotations=switch))
    else:
        api.store.put(make.namespace(place, switch))
    with acting(api, tmp_path) as rig:
        rig.act(wish(4, preempt=4))
        assert api.writes() == []
        api.store.put(make.deployment("chat", 0) if place == "target" else make.namespace(place))
        rig.act(wish(4, preempt=4))
        assert len(api.writes()) == 2


@pytest.mark.parametrize(
    ("tiers", "own", "done"),
    [
        ({}, None, {"Preempt", "SetReplicas"}),
        ({"preempt": "off"}, None, {"SetReplicas"}),
        ({"replicas": "shadow"}, None, {"Preempt"}),
        ({}, "shadow", set()),
    ],
)
def test_modes_are_by_tier_and_by_pool(
    api: ApiServer, tmp_path: Path, tiers: dict[str, str], own: str | None, done: set[str]
) -> None:
    training_cluster(api)
    with acting(api, tmp_path, tiers=tiers) as rig:
        rig.restart(modes={CHAT: own} if own else {})
        rig.act(wish(4, preempt=4))
        assert {type(one.action).__name__ for one in rig.outcomes if one.kind == "done"} == done


def test_what_an_hpa_owns_is_left_to_it(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.deployment("chat", 2))
    api.store.put(make.hpa("theirs", "chat"))
    with acting(api, tmp_path) as rig:
        assert rig.act(wish(5)) == []
    with acting(api, tmp_path, actuator="clamp") as rig:
        rig.act(wish(5))
        rig.act(wish(5))
    spec = api.store.one("autoscaling/v2", "HorizontalPodAutoscaler", "default", "theirs")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (5, 5)
    assert len(api.writes()) == 1


def test_a_role_that_cannot_be_judged_is_not_touched(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.deployment("chat", 2))
    with acting(api, tmp_path) as rig:
        rig.act(wish(1, blind="no series match its labels"))
        rig.act(wish(None))
    assert api.writes() == []


def test_growth_sets_decode_first_and_shrinkage_prefill_first(api: ApiServer, tmp_path: Path) -> None:
    keys = {part: RoleKey("default", "chat", Role(part)) for part in ("prefill", "decode")}
    for part in keys:
        api.store.put(make.deployment(part, 4))
    rules = sight_rules(*(role(key, target=part) for part, key in keys.items()))
    with acting(api, tmp_path, rules) as rig:

        def order(wanted: int) -> list[str]:
            done = rig.act(wish(wanted, keys["prefill"]), wish(wanted, keys["decode"]))
            return [one.action.role.role.value for one in done if one.kind == "done" and one.action.role]

        assert order(6) == ["decode", "prefill"]
        assert order(2) == ["prefill", "decode"]


def test_the_gang_that_loses_least_is_taken_whole_and_given_back(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    with acting(api, tmp_path) as rig:
        # 3 replicas of 1 GPU are missing: one gang of 4 is enough; train-0 saved its work last
        rig.until(lambda _: rig.ready() == 3, wish(3, preempt=3))
        assert rig.suspended() == {"train-0"}
        rig.until(lambda seen: len(seen.pools[CHAT].pods) == 1, wish(1))
        rig.act(wish(1))
        assert rig.suspended() == {"train-0"}  # 3 of its 4 GPUs are free: not enough
        rig.until(lambda seen: not seen.pools[CHAT].pods, wish(0))
        rig.act(wish(0))
        assert rig.suspended() == {"train-0"}  # free, but not for long enough
        rig.offset_s = 61.0
        rig.until(lambda _: not rig.suspended(), wish(0))
        job = api.store.one("batch/v1", "Job", "default", "train-0")
        assert "tidegate.dev/preempted" not in job["metadata"]["annotations"]
        assert len(rig.played._pods_of(job)) == 2


@pytest.mark.parametrize("kind", ["Job", "JobSet", "Workload", "VolcanoJob", "pods"])
def test_every_kind_of_training_is_taken_and_given_back(crds: ApiServer, tmp_path: Path, kind: str) -> None:
    store = crds.store
    store.put(make.node("n1", 4))
    store.put(make.deployment("chat", 0))
    if kind == "Job":
        store.put(make.job("train", 2, 2, labels=YES))
    elif kind == "JobSet":
        sets = store.put(make.jobset("train", 2, 1, 2, labels=YES))
        for number in range(2):
            store.put(make.job(f"train-{number}", 1, 2, owner=sets))
    elif kind == "Workload":
        owner = store.put(make.job("train", 2, 2, labels={"kueue.x-k8s.io/queue-name": "q"}))
        store.put(make.workload("job-train", owner, 2, 2, labels=YES))
    elif kind == "VolcanoJob":
        store.put(make.volcano_job("train", 2, 2, labels=YES))
    else:
        store.put(make.pod("train", 4, "n1", labels=YES, priority=-5))
    rules = sight_rules(min_runtime_s=0.0, below_priority=1, evict=kind == "pods")
    with acting(crds, tmp_path, rules) as rig:
        rig.settle(1)
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
        taken = [one for one in rig.outcomes if isinstance(one.action, Preempt) and one.kind == "done"]
        assert len(taken) == 1
        rig.until(lambda seen: not seen.pools[CHAT].pods, wish(0))
        rig.act(wish(0))
        if kind != "pods":  # what evicted pods came from makes them anew by itself
            rig.offset_s = 61.0
            rig.until(lambda seen: sum(gang.gpus for gang in seen.gangs) == 4, wish(0))
            assert rig.sight.snapshot().lent == ()


def test_repeated_ticks_take_no_second_gang_while_the_first_is_leaving(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    with acting(api, tmp_path) as rig:
        rig.played.lingering = True  # its pods take their time
        for _ in range(5):
            rig.act(wish(4, preempt=4))
            rig.played.step()
        assert rig.suspended() == {"train-0"}
        rig.played.lingering = False
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
        assert rig.suspended() == {"train-0"}


def test_a_crash_between_two_preemptions_takes_neither_twice_nor_a_third(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api, jobs=4)
    with acting(api, tmp_path) as rig:
        done: list[object] = []
        rig.act(wish(8, preempt=8), stop=lambda: len(done) > 0 or bool(api.writes()))
        assert rig.suspended() == {"train-0"}  # the second was not reached
        rig.restart()
        rig.until(lambda _: rig.ready() == 8, wish(8, preempt=8))
        assert rig.suspended() == {"train-0", "train-1"}
        rig.restart()
        rig.until(lambda seen: not seen.pools[CHAT].pods, wish(0))
        rig.act(wish(0))
        rig.offset_s = 61.0
        rig.until(lambda _: not rig.suspended(), wish(0))
        suspensions = [one for one in api.writes("patch") if one.plural == "jobs"]
    assert len(suspensions) == 4  # two taken, two given back


def test_after_a_crash_without_a_plan_waiting_pods_speak_for_themselves(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    api.store.put(make.deployment("chat", 2))  # scaled by a process that is no more
    with acting(api, tmp_path) as rig:
        rig.settle()
        rig.act(wish(2))
        assert rig.suspended() == set()  # not unschedulable for long enough
        rig.offset_s = 21.0
        rig.until(lambda _: rig.ready() == 2, wish(2))
        assert rig.suspended() == {"train-0"}


def test_a_conflict_storm_costs_tries_not_correctness(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    with acting(api, tmp_path) as rig:
        api.faults.conflicts(4, "jobs")
        rig.act(wish(4, preempt=4))
        assert rig.suspended() == {"train-0"}
        api.faults.conflicts(7, "jobs")  # more than one tick tries
        rig.restart()
        rig.until(lambda _: rig.ready() == 8, wish(8, preempt=8))
        assert rig.suspended() == {"train-0", "train-1"}


def test_a_right_that_is_missing_stops_one_hand_and_is_named(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    api.faults.forbid("jobs", "patch")
    with acting(api, tmp_path) as rig:
        rig.act(wish(4, preempt=4))
        failed = next(one for one in rig.outcomes if one.kind == "failed")
        assert "not allowed" in failed.said
        assert "cluster.tiers.preempt" in failed.said
        assert any(isinstance(one.action, SetReplicas) and one.kind == "done" for one in rig.outcomes)
        tried = len(api.writes("patch"))
        for _ in range(3):
            rig.act(wish(4, preempt=4))
        assert len(api.writes("patch")) == tried  # not asked for again at every tick
        api.faults.clear()
        rig.offset_s = 61.0
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
    assert rig.suspended() == {"train-0"}


def test_training_that_cannot_be_suspended_is_quarantined_and_other_is_taken(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    broken = Refused(422, "Invalid", "admission webhook denied the request")
    with acting(api, tmp_path) as rig:
        for _ in range(3):
            api.faults.scripted.append(Fault(broken, frozenset({"patch"}), "jobs", left=1))
            rig.act(wish(4, preempt=4))
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
    assert rig.suspended() == {"train-1"}


def test_an_outage_holds_the_hands_and_nothing_is_lost(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api)
    with acting(api, tmp_path, hold_when_lost_s=0.2) as rig:
        rig.caught_up()
        api.go_down(1.5)
        before = len(api.writes())
        seen = snapshot_when(rig.sight, lambda now: now.lost_s > 0.2, "the outage went unnoticed")
        assert rig.hands.act(Decision(seen.at, (wish(4, preempt=4),)), seen) == []
        assert len(api.writes()) == before
        api.faults.clear()
        snapshot_when(rig.sight, lambda now: now.lost_s == 0, "never came back")
        rig.until(lambda _: rig.ready() == 4, wish(4, preempt=4))
        assert rig.suspended() == {"train-0"}


def test_a_server_that_stops_answering_is_tried_once_a_tick(api: ApiServer, tmp_path: Path) -> None:
    keys = [RoleKey("default", f"pool-{n}", Role.COLOCATED) for n in range(5)]
    for key in keys:
        api.store.put(make.deployment(key.pool, 1))
    rules = sight_rules(*(role(key, target=key.pool) for key in keys))
    with acting(api, tmp_path, rules) as rig:
        rig.caught_up()
        seen = rig.sight.snapshot()
        api.go_down(3600)
        before = rig.plain.written
        outcomes = rig.hands.act(Decision(seen.at, tuple(wish(2, key) for key in keys)), seen)
        assert [one.kind for one in outcomes] == ["failed"]
        assert rig.plain.written - before == 1
        api.faults.clear()
        rig.until(lambda _: all(rig.ready(key.pool) == 0 for key in keys), *(wish(2, key) for key in keys))
        assert all(api.store.one("apps/v1", "Deployment", "default", key.pool)["spec"]["replicas"] == 2 for key in keys)


def test_an_eviction_stopped_midway_is_finished_by_the_next_process(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 4))
    api.store.put(make.deployment("chat", 0))
    for gang in ("a", "b"):
        owner = {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": gang, "uid": f"uid-{gang}"},
        }
        for number in range(2):
            labels = {**YES, "gang": gang, "rank": str(number)}
            api.store.put(make.pod(f"{gang}-{number}", 1, "n1", labels=labels, owner=owner, priority=-5))
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "slow", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"gang": "a", "rank": "1"}}},
    }
    closed, opened = ({"status": {"disruptionsAllowed": count}} for count in (0, 1))
    api.store.put({**budget, **closed})
    rules = sight_rules(min_runtime_s=0.0, evict=True)
    with acting(api, tmp_path, rules) as rig:
        rig.act(wish(2, preempt=2))
        rig.settle(1)

        def there() -> set[str]:
            return {
                pod["metadata"]["name"] for pod in api.store.all("v1", "Pod") if "gang" in pod["metadata"]["labels"]
            }

        assert there() == {"a-1", "b-0", "b-1"}  # a-1 is kept by its budget
        rig.restart()
        rig.act(wish(2, preempt=2))
        rig.settle(1)
        assert there() == {"a-1", "b-0", "b-1"}  # still kept, and b is not taken instead
        api.store.put({**budget, **opened})
        rig.until(lambda _: rig.ready() == 2, wish(2, preempt=2))
        assert there() == {"b-0", "b-1"}


def test_the_hourly_budget_holds_and_survives_a_restart(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api, jobs=4)
    with acting(api, tmp_path, budget={"gpus_preempted_per_hour": 8}) as rig:
        for _ in range(2):
            for _ in range(6):
                rig.act(wish(16, preempt=16))
                rig.played.step()
            assert rig.suspended() == {"train-0", "train-1"}
            rig.restart()
        held = [one for one in rig.outcomes if one.kind == "held"]
        assert "8 of 8 GPUs were preempted within the hour" in held[-1].said
        rig.offset_s = 3601.0
        rig.until(lambda _: len(rig.suspended()) == 4, wish(16, preempt=16))


def test_training_that_somebody_resumed_is_theirs_again(api: ApiServer, tmp_path: Path) -> None:
    training_cluster(api, jobs=1)
    with acting(api, tmp_path) as rig:
        rig.until(lambda _: rig.ready() == 1, wish(1, preempt=1))
        job = api.store.one("batch/v1", "Job", "default", "train-0")
        rig.played._change(job, suspend=False)
        rig.offset_s = 31.0
        rig.act(wish(1))
        job = api.store.one("batch/v1", "Job", "default", "train-0")
        assert "tidegate.dev/preempted" not in job["metadata"]["annotations"]
        rig.played._change(job, suspend=True)  # its owner's own wish, which is not ours to undo
        rig.until(lambda seen: not seen.pools[CHAT].pods, wish(0))
        rig.act(wish(0))
        rig.offset_s = 200.0
        rig.act(wish(0))
        assert rig.suspended() == {"train-0"}


def test_the_emptiest_pod_goes_first(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8))
    api.store.put(make.deployment("chat", 3))
    with acting(api, tmp_path) as rig:
        rig.settle()
        names = sorted(pod["metadata"]["name"] for pod in api.store.all("v1", "Pod"))
        kv = dict(zip(names, (50_000.0, 10.0, 90_000.0), strict=True))
        rig.act(wish(2), resident=kv)
        rig.settle()
        left = {pod["metadata"]["name"] for pod in api.store.all("v1", "Pod")}
    assert left == {names[0], names[2]}


def test_steady_pools_cause_no_writes(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8))
    api.store.put(make.deployment("chat", 3))
    with acting(api, tmp_path) as rig:
        rig.settle()
        for _ in range(5):
            rig.act(wish(3), resident={pod["metadata"]["name"]: 5.0 for pod in api.store.all("v1", "Pod")})
    assert api.writes() == []
