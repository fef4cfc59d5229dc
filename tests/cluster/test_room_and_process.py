"""The whole of it: settings to a room over the API, the loop's world with it, and a real process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from threading import Event
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
import yaml
from acting_rig import training_cluster, wish
from cluster_rig import CHAT, H100, eventually

from autoscaler import build
from autoscaler.build_cluster import open_room
from autoscaler.configuration import load_settings
from autoscaler.model import Decision, Stock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kube_controllers import Played
    from kube_server import ApiServer

    from autoscaler.cluster.room import Room


def configuration(api: ApiServer, folder: Path, **cluster: Any) -> Path:
    """A configuration file, and the kubeconfig it names."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(api.kubeconfig()))
    said = {
        "pools": [
            {
                "name": "chat",
                "namespace": "default",
                "profile": "llama-3.1-8b/h100-80gb/tp1",
                "roles": {"colocated": {"min_replicas": 2, "max_replicas": 8, "target": {"name": "chat"}}},
            }
        ],
        "supply": [{"accelerator": "h100-80gb", "preemptible_gpus": 12, "preempt_gang": 4}],
        "source": {"kind": "scrape", "scrape": {"targets": [{"url": "http://127.0.0.1:9/metrics"}]}},
        "serving": {"port": 0, "status_port": 0, "tls": {"directory": str(folder / "tls")}},
        "loop": {
            "interval_s": 0.5,
            "memory_file": str(folder / "memory.json"),
            "journal_file": str(folder / "journal.jsonl"),
        },
        "cluster": {
            "enabled": True,
            "kubeconfig": str(kubeconfig),
            "namespace": "default",
            "mode": "active",
            "actuator": "scale",
            "audit_file": str(folder / "actions.jsonl"),
            "preemption": {"min_runtime_s": 0, "give_back_after_s": 0},
            "election": {"duration_s": 2.0, "renew_deadline_s": 1.2, "retry_s": 0.3},
            **cluster,
        },
    }
    file = folder / "tidegate.yaml"
    file.write_text(yaml.safe_dump(said))
    return file


@pytest.fixture
def opened(api: ApiServer, tmp_path: Path) -> Iterator[tuple[Room, Played]]:
    played = training_cluster(api)
    settings = load_settings(configuration(api, tmp_path), {})
    parts = build.parts(settings)
    with ExitStack() as stack:
        room = open_room(settings, parts, lambda _: None, stack)
        assert room.wait_ready(20.0, Event())
        yield room, played


def test_the_tick_sees_the_clusters_own_stock_and_replicas(opened: tuple[Room, Played]) -> None:
    room, _ = opened
    there = room.look()
    # 3 nodes of 4 GPUs, all full of training that may be taken; the settings allow 12 to be preempted
    assert there.stocks == (Stock(H100, 0, 12, 0),)
    assert there.counts == {CHAT: (0, 0)}
    assert there.supply is not None
    assert [gang.gpus for gang in there.supply.gangs] == [4, 4, 4]


def test_decided_is_done_by_the_hands_own_thread_and_all_of_it_fits(opened: tuple[Room, Played]) -> None:
    room, played = opened
    eventually(lambda: room.decided(Decision(time.time(), (wish(4, preempt=4),)), None), "never led")

    def ready() -> bool:
        played.step()
        chat = played.store.one("apps/v1", "Deployment", "default", "chat")
        return int(chat["status"].get("readyReplicas", 0)) == 4

    eventually(ready, "the pods never came up")
    held = [job["metadata"]["name"] for job in played.store.all("batch/v1", "Job") if job["spec"]["suspend"]]
    assert held == ["train-0"]


def test_an_old_decision_is_not_acted_on(api: ApiServer, opened: tuple[Room, Played]) -> None:
    room, _ = opened
    eventually(lambda: room.decided(Decision(time.time(), (wish(0),)), None), "never led")
    before = len(api.writes("patch"))
    room.decided(Decision(time.time() - 1000.0, (wish(4, preempt=4),)), None)
    eventually(lambda: room._shared_at < time.time() - 900.0, "the hands never looked at it")
    assert [one for one in api.writes("patch")[before:] if one.plural != "configmaps"] == []


def test_without_any_credentials_the_message_says_which_file(tmp_path: Path, api: ApiServer) -> None:
    file = configuration(api, tmp_path, kubeconfig=str(tmp_path / "none"))
    done = subprocess.run(
        [sys.executable, "-m", "autoscaler.cli", "run", "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "cluster.kubeconfig" in done.stderr
    assert "none" in done.stderr


def test_a_process_killed_after_preempting_loses_no_training(api: ApiServer, tmp_path: Path) -> None:
    """`tidegate run` itself, killed outright while training is suspended; the next process gives it back."""
    played = training_cluster(api)
    file = configuration(api, tmp_path)
    command = [sys.executable, "-m", "autoscaler.cli", "run", "-c", str(file)]

    def held() -> list[str]:
        played.step()
        return [job["metadata"]["name"] for job in api.store.all("batch/v1", "Job") if job["spec"]["suspend"]]

    def begin() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    first = begin()
    try:
        api.store.put(make.deployment("chat", 2))
        eventually(lambda: bool(api.store.all("coordination.k8s.io/v1", "Lease")), "never ran for leader", 60.0)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    (job, *_) = api.store.all("batch/v1", "Job")
    note = {
        "action": "preempt-x",
        "at": time.time() - 60,
        "accelerator": H100,
        "gpus": 4,
        "role": str(CHAT),
        "token": 1,
    }
    annotated = {**job["metadata"]["annotations"], "tidegate.dev/preempted": json.dumps(note)}
    api.store.put(
        {**job, "metadata": {**job["metadata"], "annotations": annotated}, "spec": {**job["spec"], "suspend": True}}
    )
    for _ in range(3):
        held()
    second = begin()
    try:
        for name in ("n8", "n9"):
            api.store.put(make.node(name, 8))
        eventually(lambda: held() == [], "what the killed process took was never given back", 60.0)
    finally:
        second.send_signal(signal.SIGTERM)
        code = second.wait(30)
    assert code == 0
    outcomes = [json.loads(line)["action"] for line in (tmp_path / "actions.jsonl").read_text().splitlines()]
    assert "GiveBack" in outcomes
    assert "Preempt" not in outcomes
