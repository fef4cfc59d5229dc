"""End-to-end tests that run against any Kubernetes API server, and against the tests' own where none is given.

`make test-cluster` uses the cluster of KUBECONFIG (scheduler and controller manager needed, nodes not: the tests bring
fake ones and play their kubelets). Everything is made in namespaces of their own and removed afterwards; what a run
that was killed has left, the next one removes when it is 20 minutes old.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "kubernetes_api"))
sys.path.append(str(Path(__file__).parents[1] / "metrics_adapter"))
sys.path.append(str(Path(__file__).parents[1] / "crd"))
sys.path.append(str(Path(__file__).parent))
from aggregated_rig import PROXY, Authorities
from kube_aggregation import Aggregation
from kube_controllers import Played
from kube_server import ApiServer
from site_of_tests import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED = "TIDEGATE_TEST_CLUSTER"
"""Set by `make test-cluster`: a KUBECONFIG that is merely there must not make `make test` write to that cluster."""
CONTEXT = "TIDEGATE_TEST_CONTEXT"
"""Which context of it; the current one when unset."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A kubeconfig may say insecure-skip-tls-verify, of which urllib3 warns; registrations may be tried for minutes."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    if ours:
        given()
    for item in ours:
        item.add_marker(pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning"))
        item.add_marker(pytest.mark.timeout(600))


def given() -> str | None:
    """The kubeconfig of the cluster to test on, its files by their full paths; None where none is asked for."""
    if not os.environ.get(ASKED):
        return None
    files = [Path(file).expanduser() for file in os.environ.get("KUBECONFIG", "").split(os.pathsep) if file]
    if not any(file.is_file() for file in files):
        said = os.environ.get("KUBECONFIG") or "not set"
        raise pytest.UsageError(f"KUBECONFIG is {said}: name the kubeconfig of a cluster to test on")
    return os.pathsep.join(str(file.absolute()) for file in files)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if (file := given()) is not None:
        with Site(file, tmp_path, context=os.environ.get(CONTEXT) or None) as made:
            yield made
        return
    with ApiServer() as server:
        file = str(tmp_path / "kubeconfig")
        Path(file).write_text(yaml.safe_dump(server.kubeconfig()))
        server.aggregation = aggregated(server, tmp_path)
        played = Played(server.store, kubelet=False, preempts=True, aggregation=server.aggregation)
        with Site(file, tmp_path, played) as made:
            yield made


def aggregated(server: ApiServer, folder: Path) -> Aggregation:
    """A front proxy with a certificate, and its authority as the API server publishes it."""
    authorities = Authorities(folder, "front-proxy-ca")
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "requestheader-client-ca-file": authorities.pem,
            "requestheader-allowed-names": json.dumps([PROXY]),
            "requestheader-username-headers": json.dumps(["X-Remote-User"]),
            "requestheader-group-headers": json.dumps(["X-Remote-Group"]),
        },
    }
    server.store.create(server.store.kinds["", "v1", "configmaps"], "kube-system", body)
    return Aggregation(server.store, authorities.client())
