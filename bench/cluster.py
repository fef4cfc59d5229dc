"""A snapshot of a large cluster: how long it takes, and what the caches hold.

    python bench/cluster.py [--pods 5000] [--nodes 500] [--pools 100]

Targets: snapshot <= 200 ms, caches <= 300 MiB at 5,000 pods and 500 nodes; a tick writes <= 50 (`actions_per_tick`).
The API server (the tests' own, over real HTTP) runs in a process of its own; pods are as large as real ones (about
8 kB of JSON, managedFields included).
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import structlog
import urllib3
from kubernetes import client

TESTS = Path(__file__).resolve().parents[1] / "tests" / "kubernetes_api"
sys.path.append(str(TESTS))

from autoscaler.cluster import kinds  # noqa: E402 - after the path of the tests' server
from autoscaler.cluster.actuators import Actuators  # noqa: E402 - likewise
from autoscaler.cluster.api import Api  # noqa: E402 - likewise
from autoscaler.cluster.audit import Audit  # noqa: E402 - likewise
from autoscaler.cluster.hands import Hands  # noqa: E402 - likewise
from autoscaler.cluster.sight import Sight  # noqa: E402 - likewise
from autoscaler.cluster.sight_types import PoolRole, SightRules, TargetRef  # noqa: E402 - likewise
from autoscaler.model import Decision, Role, RoleDecision, RoleKey  # noqa: E402 - likewise
from autoscaler.settings_cluster import ClusterSettings  # noqa: E402 - likewise

READ_S = 300.0
TAKEABLE = {"tidegate.dev/preemptible": "true"}


def serve(pods: int, nodes: int, pools: int) -> None:
    """Fill a server and keep it up until standard input closes."""
    import kube_objects as make  # noqa: PLC0415 - only the server's process has need of it
    from kube_server import ApiServer  # noqa: PLC0415 - likewise

    padding = {f"f:{n}": {"f:field": {}, "f:other": {}} for n in range(150)}
    with ApiServer() as api:
        for number in range(nodes):
            api.store.put(make.node(f"node-{number}", 16, {"rack": f"rack-{number // 16}"}))
        for number in range(pools):
            api.store.put(make.deployment(f"pool-{number}", 20))
        jobs = [api.store.put(make.job(f"train-{n}", 8, 1, labels=TAKEABLE)) for n in range(pods // 16)]
        for number in range(pods):
            pool = number % (2 * pools)
            owner = jobs[number // 16 % len(jobs)] if pool >= pools else None
            labels = {"app": f"pool-{pool}", **{f"label-{n}": f"value-{n}" for n in range(8)}}
            found = make.pod(f"pod-{number}", 1, f"node-{number % nodes}", labels=labels, owner=owner, priority=-5)
            found["metadata"]["managedFields"] = [{"manager": "kubelet", "fieldsV1": padding}]
            found["spec"]["containers"][0]["env"] = [{"name": f"E{n}", "value": "v" * 40} for n in range(25)]
            api.store.put(found)
        print(api.url, flush=True)
        sys.stdin.read()


def measure(url: str, pools: int) -> None:
    """Read it all, then take snapshots."""
    roles = tuple(
        PoolRole(
            RoleKey("default", f"pool-{n}", Role.COLOCATED),
            "h100",
            1,
            TargetRef(kinds.DEPLOYMENTS, "Deployment", f"pool-{n}"),
        )
        for n in range(pools)
    )
    rules = SightRules(roles, canonical=lambda text: "h100" if text else "", topology=("rack",))
    configuration = client.Configuration(host=url)
    configuration.retries, configuration.connection_pool_maxsize = False, 48
    before = _resident()
    api = Api(client.ApiClient(configuration), timeout_s=60.0)
    sight = Sight(api, rules)
    begun = time.monotonic()
    sight.start()
    while not sight.ready:
        if time.monotonic() - begun > READ_S:
            raise RuntimeError(sight.why_not_ready())
        time.sleep(0.05)
    read_s = time.monotonic() - begun
    gc.collect()
    held = _resident() - before
    times = []
    for _ in range(30):
        started = time.perf_counter()
        seen = sight.snapshot()
        times.append(1e3 * (time.perf_counter() - started))
    print(f"{'objects cached':32}{sum(sight.counts().values()):>12,}")
    print(f"{'read all, s':32}{read_s:>12.2f}")
    print(f"{'memory grown by, MiB':32}{held / 2**20:>12.1f}   target 300")
    print(f"{'snapshot median, ms':32}{statistics.median(times):>12.1f}   target 200")
    print(f"{'snapshot worst of 30, ms':32}{max(times):>12.1f}")
    print(f"{'gangs, domains, stocks':32}{len(seen.gangs)}, {len(seen.supply.domains)}, {seen.stocks}")
    act(api, sight, rules, pools)
    sight.stop()
    api.close()


def act(api: Api, sight: Sight, rules: SightRules, pools: int) -> None:
    """One tick in which every pool grows by one, then one in which nothing is left to do."""
    settings = ClusterSettings.model_validate({"mode": "active", "actuator": "scale", "audit_file": None})
    http = urllib3.PoolManager()
    hands = Hands(settings, rules, Actuators(api, lambda: sight.served, "bench", http), Audit(None))
    wishes = tuple(RoleDecision(role.key, 21) for role in rules.roles)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for _ in range(4):
        before, seen = api.written, sight.snapshot()
        started = time.perf_counter()
        hands.act(Decision(seen.at, wishes), seen)
        took = 1e3 * (time.perf_counter() - started)
        print(f"{f'writes of a tick ({pools} pools)':32}{api.written - before:>12}   took {took:.0f} ms")
        time.sleep(1.0)
    http.clear()


def _resident() -> int:
    return int(psutil.Process(os.getpid()).memory_info().rss)


def main() -> None:
    """Start a server, measure, end it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--pools", type=int, default=100)
    parser.add_argument("--serve", action="store_true", help="be the API server")
    said = parser.parse_args()
    if said.serve:
        serve(said.pods, said.nodes, said.pools)
        return
    sizes = ["--pods", str(said.pods), "--nodes", str(said.nodes), "--pools", str(said.pools)]
    command = [sys.executable, __file__, "--serve", *sizes]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        if server.stdout is None:
            raise RuntimeError("the server has no output")
        measure(server.stdout.readline().strip(), said.pools)
        server.communicate("")


if __name__ == "__main__":
    main()
