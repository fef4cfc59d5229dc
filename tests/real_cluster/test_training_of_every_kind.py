"""Gangs of JobSet, Kueue and Volcano give way to serving and come back, each as its own contract wants it, and once."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from site_definitions import working
from site_operators import JOBSET, KUEUE, LEADER_WORKER_SET, VOLCANO, gang, held, leader_worker_set, objects
from site_report import JOBS
from site_steps import decide_until

from autoscaler.cluster.training import Mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from site_of_tests import Site
    from site_operators import Operator

    from autoscaler.cluster.room import Room
    from autoscaler.model import Decision


def done(site: Site) -> Counter[str]:
    """What was carried out so far, by kind of action."""
    lines = [json.loads(line) for line in (site.folder / "actions.jsonl").read_text().splitlines()]
    return Counter(line["action"] for line in lines if line["outcome"] == "done")


def marks(site: Site, operator: Operator, name: str) -> list[str]:
    """Which of our annotations an object carries."""
    found = next(one for one in objects(site, operator.resource) if one["metadata"]["name"] == name)
    notes = found["metadata"].get("annotations") or {}
    assert all(Mark.read(text) is not None for key, text in notes.items() if key == "tidegate.dev/preempted")
    return sorted(
        key.partition("/")[2] for key in notes if key in {"tidegate.dev/preempted", "tidegate.dev/given-back"}
    )


def go_on(room: Room, wish: Callable[[], Decision], ticks: int = 4) -> None:
    """Some ticks more with the same wish."""
    for _ in range(ticks):
        room.decided(wish(), None)
        time.sleep(0.3)


@pytest.mark.parametrize("operator", [JOBSET, KUEUE, VOLCANO], ids=lambda one: one.name)
def test_a_gang_makes_room_as_a_whole_and_comes_back(
    site: Site, operator: Operator, record_property: Callable[..., None]
) -> None:
    """Two gangs fill two nodes of 4; one is taken, by one action, by whichever process; the other is left whole."""
    working(site, operator)
    site.more = {"guards": {"stabilise_down_s": 5}}  # for so long a new leader takes nothing back
    for number in range(2):
        site.node(4)
        gang(site, operator, f"train-{number}", 2, 2)
    site.deployment(0)
    site.eventually(lambda: site.ready() == 4, "training never ran")

    def four() -> Decision:
        return site.wish(4, preempt=4)

    room = site.room()
    took = decide_until(site, room, four, lambda: site.bound(app="chat") == 4, "no room was made")
    record_property("decision_to_bound_s", round(took, 2))
    (taken,) = held(site, operator)
    assert site.bound() == 4 + 2
    assert marks(site, operator, taken) == ["preempted"]
    go_on(room, four)
    site.leave()
    room = site.room()  # the next process knows only what the cluster holds
    site.eventually(lambda: room.decided(four(), None) is not None, "never led")
    go_on(room, four)
    assert held(site, operator) == {taken}
    assert done(site)["Preempt"] == 1

    decide_until(site, room, lambda: site.wish(0), lambda: not held(site, operator), "training was never given back")
    site.eventually(lambda: site.bound() == 4 and site.ready() == 4, "training never came back")
    site.eventually(lambda: marks(site, operator, taken) == ["given-back"], "the mark stayed")
    go_on(room, lambda: site.wish(0))
    assert held(site, operator) == set()
    assert (done(site)["Preempt"], done(site)["GiveBack"]) == (1, 1)


def test_a_queued_job_is_left_to_kueue(site: Site) -> None:
    """Its Workload is deactivated; the Job's own `suspend` is Kueue's to set, and no mark of ours is on it."""
    working(site, KUEUE)
    site.node(4)
    gang(site, KUEUE, "train", 2, 2)
    site.deployment(0)
    site.eventually(lambda: site.ready() == 2, "training never ran")
    room = site.room()
    decide_until(site, room, lambda: site.wish(4, preempt=4), lambda: site.bound(app="chat") == 4, "no room was made")
    assert held(site, KUEUE) == {"job-train"}
    (job,) = objects(site, JOBS)
    assert job["spec"]["suspend"] is True
    assert "tidegate.dev/preempted" not in (job["metadata"].get("annotations") or {})


def test_a_pool_of_groups_grows_on_a_jobsets_gpus_and_its_highest_group_goes_first(site: Site) -> None:
    """Each replica is a leader and a worker of 1 GPU each; a JobSet's gang holds the only node's 4 GPUs."""
    working(site, JOBSET, LEADER_WORKER_SET)
    site.served = {"target": {"kind": "LeaderWorkerSet", "name": "chat"}, "profile": "qwen3-32b/h100-80gb/tp2"}
    site.node(4)
    gang(site, JOBSET, "train", 2, 2)
    leader_worker_set(site, "chat", 2, 1)
    site.eventually(lambda: site.ready() == 2, "training never ran")
    room = site.room()
    decide_until(site, room, lambda: site.wish(2, preempt=2), lambda: site.ready(app="chat") == 4, "no room was made")
    assert held(site, JOBSET) == {"train"}

    def groups() -> Counter[str]:
        names = (pod["metadata"]["labels"]["leaderworkerset.sigs.k8s.io/group-index"] for pod in site.pods(app="chat"))
        return Counter(names)

    assert groups() == {"0": 2, "1": 2}
    decide_until(site, room, lambda: site.wish(1), lambda: groups() == {"0": 2}, "the higher group never went")
    assert held(site, JOBSET) == {"train"}  # 2 GPUs are not enough for a gang of 4
    decide_until(site, room, lambda: site.wish(0), lambda: not held(site, JOBSET), "training was never given back")
    site.eventually(lambda: site.bound(gang="train") == 2, "training never came back")
    assert (done(site)["Preempt"], done(site)["GiveBack"]) == (1, 1)
