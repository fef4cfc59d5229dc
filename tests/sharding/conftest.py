"""The test API server and the hands' own way to it; also lets tests use the rigs of other rooms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[1] / "kubernetes_api"))
sys.path.append(str(Path(__file__).parents[1] / "cluster"))
sys.path.append(str(Path(__file__).parents[1] / "crd"))
sys.path.append(str(Path(__file__).parent))
from cluster_rig import connected
from kube_server import ApiServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.cluster.api import Api


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer() as server:
        yield server


@pytest.fixture
def plain(api: ApiServer) -> Iterator[Api]:
    made = connected(api)
    yield made
    made.close()
