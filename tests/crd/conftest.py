"""Lets these tests use the test API server and the rig of the cluster's tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

TESTS = Path(__file__).resolve().parents[1]
for folder in (TESTS / "kubernetes_api", TESTS / "cluster", Path(__file__).parent):
    sys.path.append(str(folder))
from kube_kinds import kinds_of  # noqa: E402 - found on the path laid above
from kube_server import ApiServer  # noqa: E402 - likewise

from autoscaler.crd import definition  # noqa: E402 - imports stand together

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """The test API server with TokenPools served."""
    with ApiServer() as server:
        server.store.know(kinds_of(definition()))
        yield server
