"""A replica that is told to end: not ready at once, the lead let go, and whoever still asks is answered for a while."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
from engine_double import Load, serving_engine
from running_process import configuration, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kube_server import ApiServer

POOL = {"name": "chat", "namespace": "serving", "profile": "llama-3.1-8b/h100-80gb/tp1"}


@pytest.fixture
def engine() -> Iterator[str]:
    with serving_engine(Load(per_s=1.0)) as load:
        yield load.url


def until(holds: Callable[[], Any], why: Callable[[], str], longest_s: float = 60.0) -> None:
    deadline = time.monotonic() + longest_s
    while not holds():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def started(api: ApiServer, folder: Path, engine: str, drain_s: float) -> Path:
    pools = [{**POOL, "roles": {"colocated": {"min_replicas": 3, "max_replicas": 8}}}]
    return configuration(api, folder, engine, pools=pools, serving={"drain_s": drain_s})


def holder(api: ApiServer) -> str:
    lease = api.store.one("coordination.k8s.io/v1", "Lease", "default", "tidegate")
    return str(lease["spec"]["holderIdentity"])


def test_it_answers_on_while_it_is_no_longer_ready_and_no_longer_leads(
    api: ApiServer, tmp_path: Path, engine: str
) -> None:
    with running(started(api, tmp_path, engine, 600.0)) as process:

        def ready() -> bool:
            return bool(process.addresses) and process.status("/readyz").status_code == 200

        until(ready, lambda: process.log)
        assert holder(api)
        process.process.send_signal(signal.SIGTERM)
        until(lambda: process.status("/readyz").status_code == 503, lambda: process.log)
        assert "it is ending" in process.status("/readyz").text
        until(lambda: not holder(api), lambda: process.log)
        code, item = process.wish("chat")
        assert (code, item and item["value"]) == (200, "3")
        assert process.status("/livez").status_code == 200
        process.process.send_signal(signal.SIGTERM)  # who says it twice is in a hurry
        assert process.process.wait(60) == 0


def test_it_ends_by_itself_once_it_has_drained(api: ApiServer, tmp_path: Path, engine: str) -> None:
    with running(started(api, tmp_path, engine, 0.5)) as process:
        until(lambda: process.addresses and process.status("/readyz").status_code == 200, lambda: process.log)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(60) == 0
        assert "tidegate ends" in process.log
        assert (tmp_path / "memory.json").exists()
