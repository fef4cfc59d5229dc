"""Who owns our API groups in the cluster, and when nobody is asked who they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from aggregated_rig import Cluster, api_of, kubernetes_api

from autoscaler.authority import delegated, owners
from autoscaler.errors import BadSettings
from autoscaler.settings import ServingSettings
from autoscaler.settings_serving import AuthenticationSettings


def test_ours_theirs_and_nobodys() -> None:
    cluster = Cluster()
    ours = {"spec": {"service": {"namespace": "tidegate-system", "name": "tidegate"}}}
    theirs = {"spec": {"service": {"namespace": "keda", "name": "keda-operator-metrics-apiserver"}}}
    cluster.apiservices = {
        "v1beta1.external.metrics.k8s.io": theirs,
        "v1beta2.custom.metrics.k8s.io": ours,
    }
    with kubernetes_api(cluster):
        api = api_of(cluster)
        found = {name: (good, said) for name, good, said in owners(ServingSettings(), api)}
        api.close()
    assert found["v1beta1.external.metrics.k8s.io"][0] is False
    assert "belongs to keda/keda-operator-metrics-apiserver" in found["v1beta1.external.metrics.k8s.io"][1]
    assert found["v1beta2.custom.metrics.k8s.io"] == (
        True,
        "APIService v1beta2.custom.metrics.k8s.io is ours (tidegate-system/tidegate)",
    )
    assert "is not registered" in found["v1beta1.custom.metrics.k8s.io"][1]


def test_a_public_address_without_a_cluster_is_refused_unless_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert delegated(ServingSettings()) is False
    with pytest.raises(BadSettings, match=r"serving.authentication.mode: auto .* serving.host 0\.0\.0\.0"):
        delegated(ServingSettings(host="0.0.0.0"))
    open_to_all = AuthenticationSettings(mode="none")
    assert delegated(ServingSettings(host="0.0.0.0", authentication=open_to_all)) is False
    assert delegated(ServingSettings(authentication=AuthenticationSettings(kubeconfig="x"))) is True
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert delegated(ServingSettings(host="0.0.0.0")) is True
