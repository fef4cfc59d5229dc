"""A Kubernetes API server for tests; its modules (`kube_*.py`) stand beside this file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parent))
from kube_kinds import CRDS
from kube_server import ApiServer
from kubernetes import client

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def official(api: ApiServer) -> Iterator[client.ApiClient]:
    """The official client, without retries of its own."""
    configuration = client.Configuration(host=api.url)
    configuration.retries = False
    with client.ApiClient(configuration) as made:
        yield made
        made.rest_client.pool_manager.clear()


@pytest.fixture
def crds(api: ApiServer) -> ApiServer:
    """The server with kinds of the real CustomResourceDefinitions; skips where those are absent."""
    if not CRDS.is_dir():
        pytest.skip(f"the CustomResourceDefinitions are not there: {CRDS}")
    api.store.install(
        "karpenter.sh_nodeclaims.yaml", "leaderworkerset.x-k8s.io_leaderworkersets.yaml", "keda.sh_scaledobjects.yaml"
    )
    return api
