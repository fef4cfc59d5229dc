"""Two processes, one leader: what both answer while it lives, when it is killed outright, and afterwards."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
import requests
from cluster_rig import eventually
from engine_double import Load, serving_engine
from running_process import Running, configuration, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kube_server import ApiServer

POOL: dict[str, Any] = {
    "name": "chat",
    "namespace": "serving",
    "profile": "llama-3.1-8b/h100-80gb/tp1",
    "roles": {"colocated": {"min_replicas": 1, "max_replicas": 40}},
}
FAILOVER_S = 15.0


@dataclass
class Asker:
    """Asks one replica all the time, as an HPA would, and writes down (when, HTTP status, value, timestamp)."""

    process: Running
    stop: threading.Event = field(default_factory=threading.Event)
    heard: list[tuple[float, int, int | None, float | None]] = field(default_factory=list)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        return thread

    def run(self) -> None:
        while not self.stop.wait(0.05):
            try:
                code, item = self.process.wish("chat")
            except (requests.RequestException, AssertionError):
                continue  # it was killed
            value = int(item["value"]) if item else None
            at = datetime.fromisoformat(item["timestamp"]).timestamp() if item else None
            self.heard.append((time.time(), code, value, at))

    @property
    def values(self) -> list[int]:
        return [value for _, _, value, _ in self.heard if value is not None]


def holder(api: ApiServer) -> str:
    found = api.store.all("coordination.k8s.io/v1", "Lease")
    return str(found[0]["spec"]["holderIdentity"]) if found else ""


def leads(process: Running) -> bool:
    return process.log.count("leads") > process.log.count("no longer leads")


@pytest.mark.e2e
def test_a_leader_killed_outright_is_followed_within_15_s_and_nobody_ever_answers_less(
    api: ApiServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    for name in ("n1", "n2", "n3"):
        api.store.put(make.node(name, 8))
    with serving_engine(Load(per_s=40.0)) as load:
        # The standing election settings, as shipped: 10 s lease, 7 s deadline, 1.5 s retries.
        shipped = {"election": {}, "token_pools": {}}
        often = {"interval_s": 1.0}  # a decision is stamped with its second: no two have the same
        more = {"pools": [POOL], "cluster": shipped, "loop": often}
        files = [configuration(api, tmp_path / name, load.url, **more) for name in ("a", "b")]
        with running(files[0]) as first, running(files[1]) as second:
            both = (first, second)
            for one in both:
                eventually(lambda one=one: one.addresses and one.wish("chat")[1], f"no answer:\n{one.log}", 90.0)
            eventually(lambda: sum(leads(one) for one in both) == 1, "not one leader", 30.0)
            leader, follower = both if leads(first) else (second, first)
            askers = [Asker(leader), Asker(follower)]
            threads = [asker.start() for asker in askers]
            load.per_s = 120.0
            eventually(lambda: len(set(askers[1].values)) > 1, "the follower's answers never moved", 60.0)
            load.per_s = 20.0  # less load: whoever takes over must not let go of what it did not watch being needed
            eventually(lambda: len(_same(askers)) >= 4, "the two were not asked about the same decisions", 30.0)
            before = askers[1].values[-1]
            killed_at = time.time()
            leader.process.kill()
            leader.process.wait()
            askers[0].stop.set()

            def taken_over() -> bool:
                return any(at is not None and at > killed_at + 1.0 for _, _, _, at in askers[1].heard)

            eventually(taken_over, f"nobody decided any more:\n{follower.log}", 60.0)
            took_s = next(when for when, _, _, at in askers[1].heard if at is not None and at > killed_at + 1.0)
            eventually(lambda: time.time() > took_s + 3.0, "time stands", 10.0)
            askers[1].stop.set()
            for thread in threads:
                thread.join()
            record_property("failover_s", round(took_s - killed_at, 2))
            assert took_s - killed_at <= FAILOVER_S
            assert leads(follower)
            after = [value for when, _, value, _ in askers[1].heard if when > killed_at]
            assert all(value is not None and value >= before for value in after)
            assert {code for when, code, _, _ in askers[1].heard if when > killed_at} == {200}
            for asker in askers:  # no replica ever goes back to an older decision
                stamps = [at for _, _, _, at in asker.heard if at is not None]
                assert stamps == sorted(stamps)
            _never_alternate(askers)


def _never_alternate(askers: list[Asker]) -> None:
    """Both said the same of the same moment: a decision has one value, whoever tells it."""
    said: dict[float, set[int]] = {}
    for asker in askers:
        for _, _, value, at in asker.heard:
            if at is not None and value is not None:
                said.setdefault(at, set()).add(value)
    assert all(len(values) == 1 for values in said.values())


def _same(askers: list[Asker]) -> set[float]:
    """Decisions that both were asked about."""
    first, second = ({at for _, _, _, at in asker.heard if at is not None} for asker in askers)
    return first & second
