"""Lets the tests of the cluster's hands use the test API server (tests/kubernetes_api)."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1] / "kubernetes_api"))
sys.path.append(str(Path(__file__).parents[1] / "crd"))
sys.path.append(str(Path(__file__).parents[1] / "core"))
sys.path.append(str(Path(__file__).parent))
from kube_kinds import CRDS
from kube_server import ApiServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def crds(api: ApiServer) -> ApiServer:
    """The server with the real CustomResourceDefinitions; skips where those are absent."""
    if not CRDS.is_dir():
        pytest.skip(f"the CustomResourceDefinitions are not there: {CRDS}")
    api.store.install(
        "karpenter.sh_nodeclaims.yaml",
        "karpenter.sh_nodepools.yaml",
        "autoscaling.x-k8s.io_provisioningrequests.yaml",
        "autoscaling.x-k8s.io_capacitybuffers.yaml",
        "kueue.x-k8s.io_workloads.yaml",
        "jobset.x-k8s.io_jobsets.yaml",
        "batch.volcano.sh_jobs.yaml",
        "keda.sh_scaledobjects.yaml",
        "leaderworkerset.x-k8s.io_leaderworkersets.yaml",
        "data.fluid.io_datasets.yaml",
        "data.fluid.io_dataloads.yaml",
        "data.fluid.io_alluxioruntimes.yaml",
    )
    if find_spec("celpy") is not None:  # the rules in CEL too, where there is an interpreter
        from cel_rules import broken  # noqa: PLC0415 - needs celpy

        api.store.rules = broken
    return api
