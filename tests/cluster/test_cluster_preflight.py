"""`tidegate check` where a cluster is watched: what is missing is named, with what would be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kube_objects as make
import yaml

from autoscaler import build
from autoscaler.build_cluster import checked
from autoscaler.configuration import load_settings
from autoscaler.model import Stock
from autoscaler.once import cluster_now

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from kube_server import ApiServer


def told(api: ApiServer, folder: Path, **cluster: Any) -> tuple[list[str], list[str]]:
    """(good, bad) sentences."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(api.kubeconfig()))
    said = {
        "pools": [
            {
                "name": "chat",
                "profile": "llama-3.1-8b/h100-80gb/tp1",
                "roles": {"colocated": {"max_replicas": 4, "target": {"name": "chat"}}},
            }
        ],
        "cluster": {"enabled": True, "kubeconfig": str(kubeconfig), **cluster},
    }
    file = folder / "tidegate.yaml"
    file.write_text(yaml.safe_dump(said))
    settings = load_settings(file, {})
    found = checked(settings, build.parts(settings))
    return [text for good, text in found if good], [text for good, text in found if not good]


def test_all_is_well(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8))
    api.store.put(make.deployment("chat", 2))
    api.store.put(make.hpa("follows", "chat"))
    good, bad = told(api, tmp_path)
    assert bad == []
    assert good == ["1 nodes with 8 GPUs of h100-80gb, 8 free", "default/chat/colocated: 2 of 2 replicas are ready"]


def test_what_is_not_there_is_named(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8, {"nvidia.com/gpu.product": "NVIDIA-L4"}))
    api.store.put(make.namespace("tidegate-system", {"tidegate.dev/hold": "maintenance"}))
    _, bad = told(api, tmp_path)
    assert any("no usable node has GPUs of h100-80gb (there are: l4)" in text for text in bad), bad
    assert any("there is no Deployment default/chat" in text for text in bad), bad
    assert any("kill switch" in text for text in bad), bad


def test_a_number_nobody_follows_and_one_that_two_would_set(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8))
    api.store.put(make.deployment("chat", 2))
    assert "nobody follows the number" in " ".join(told(api, tmp_path)[1])
    assert "no HPA or ScaledObject targets chat" in " ".join(told(api, tmp_path, actuator="clamp")[1])
    api.store.put(make.hpa("follows", "chat"))
    assert "/scale would fight it" in " ".join(told(api, tmp_path, actuator="scale")[1])


def test_a_label_that_would_cost_the_pod_its_workload_is_named(api: ApiServer, tmp_path: Path) -> None:
    found = make.deployment("chat", 1)
    found["spec"]["selector"]["matchLabels"]["tidegate.dev/serving"] = "true"
    api.store.put(found)
    release = [{"namespace": "default", "pool": "chat", "drain_s": 60}]
    _, bad = told(api, tmp_path, actuator="scale", release=release)
    assert any("selects by tidegate.dev/serving" in text for text in bad), bad


def test_rights_are_asked_for_before_they_are_needed(api: ApiServer, tmp_path: Path) -> None:
    api.store.put(make.node("n1", 8))
    api.store.put(make.deployment("chat", 2))
    good, bad = told(api, tmp_path, mode="active", actuator="scale")
    assert bad == []
    assert "every right that the active tiers need is there" in good
    api.faults.forbid("jobs", "patch")
    api.faults.forbid("jobs", "list", "watch")
    _, bad = told(api, tmp_path, mode="active", actuator="scale")
    assert any(text.startswith("jobs.batch cannot be read") for text in bad), bad
    assert any(text.startswith("may not patch jobs.batch, which tier preempt needs") for text in bad), bad
    _, bad = told(api, tmp_path, mode="active", actuator="scale", tiers={"preempt": "off"})
    assert not any("may not patch" in text for text in bad)


def test_a_cluster_that_does_not_answer_is_one_finding(api: ApiServer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("autoscaler.build_cluster.PATIENCE_S", 0.2)
    api.go_down(3600)
    _, bad = told(api, tmp_path)
    assert len(bad) == 1
    assert "the cluster cannot be seen: kubernetes: the API server has not answered yet" in bad[0]


def test_one_look_has_the_clusters_stock_or_says_why_not(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoscaler.build_cluster.PATIENCE_S", 2.0)
    api.store.put(make.node("n1", 8))
    api.store.put(make.deployment("chat", 2))
    told(api, tmp_path)
    settings = load_settings(tmp_path / "tidegate.yaml", {})
    parts = build.parts(settings)
    there = cluster_now(parts)
    assert there.stocks == (Stock("h100-80gb", 8, 0, 0),)
    assert list(there.counts.values()) == [(2, 2)]
    api.go_down(3600)
    away = cluster_now(parts)
    assert away.stocks == ()
    assert "has not answered" in away.notes[0]
