"""End-to-end tests that run against any Kubernetes API server, and against the tests' own where none is given.

`make test-cluster` uses the cluster of KUBECONFIG (scheduler and controller manager needed, nodes not: the tests bring
fake ones and play their kubelets). Everything is made in namespaces of their own and removed afterwards.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[1] / "kubernetes_api"))
sys.path.append(str(Path(__file__).parent))
from kube_controllers import Played
from kube_server import ApiServer
from site_of_tests import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

ASKED = "TIDEGATE_TEST_CLUSTER"
"""Set by `make test-cluster`: a KUBECONFIG that is merely there must not make `make test` write to that cluster."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if os.environ.get(ASKED):
        file = os.environ.get("KUBECONFIG")
        if not file:
            pytest.skip("KUBECONFIG is not set: name a cluster to run against")
        with Site(file, tmp_path) as made:
            yield made
        return
    with ApiServer() as server:
        file = str(tmp_path / "kubeconfig")
        Path(file).write_text(yaml.safe_dump(server.kubeconfig()))
        with Site(file, tmp_path, Played(server.store, resource=Site.GPU, kubelet=False, preempts=True)) as made:
            yield made
