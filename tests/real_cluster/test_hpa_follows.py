"""An HPA follows the number that `tidegate run` serves, through the API server's aggregation layer.

The API server must reach this machine: `site_aggregation` tries the ways there are, and TIDEGATE_TEST_HOST names one it
cannot find. Where there is no real API server, its aggregation layer and the HPA are played.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import urllib3
import yaml
from site_aggregation import dns_names, registered, told, why
from site_report import HPAS
from site_rights import AGGREGATED, CONFIG_MAPS

from autoscaler.cluster.api import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from site_of_tests import Site

PATH = "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/tidegate_desired_replicas"
CHOSEN = "tidegate.dev%2Fworkload%3Dchat%2Ctidegate.dev%2Frole%3Dcolocated"
METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{model_name="m"}} 1
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{model_name="m"}} 0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{model_name="m"}} 0.1
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{model_name="m"}} {n}
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{model_name="m"}} {n}
"""


class _Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        text = METRICS.format(n=int(time.time()) % 1_000_000).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Silence."""


@contextmanager
def engine() -> Iterator[str]:
    """An engine with next to nothing to do."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Engine) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def tidegate(site: Site, folder: Path, metrics: str, authentication: dict[str, Any]) -> Iterator[int]:
    """`tidegate run` with a pool of at least three replicas; gives the port of its API."""
    said: dict[str, Any] = {
        "pools": [site.pool(min_replicas=3, max_replicas=8)],
        "source": {
            "kind": "scrape",
            "scrape": {"targets": [{"url": metrics, "labels": {"namespace": site.name}}], "interval_s": 0.5},
        },
        "loop": {"interval_s": 1, "memory_file": str(folder / "memory.json"), "journal_file": None},
        "serving": {
            "host": "127.0.0.1" if site.played is not None else "0.0.0.0",
            "port": 0,
            "status_port": 0,
            "authentication": authentication,
            "tls": {"directory": str(folder / "tls"), "names": ["localhost", *dns_names(site)]},
        },
        "cluster": site.cluster(audit_file=None, election={"enabled": False}),
    }
    file, ready = folder / "run.yaml", folder / "ready.json"
    file.write_text(yaml.safe_dump(said))
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "autoscaler.cli", "run", "-c", str(file), "--ready-file", str(ready)]
        # It refuses variables that set nothing, such as those that say where these tests run.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            with told((folder / "log").read_text):
                up = lambda: ready.exists() or process.poll() is not None  # noqa: E731 - said once, beside its use
                site.eventually(up, "tidegate never came up", 60.0)
                assert process.poll() is None
            yield urlsplit(json.loads(ready.read_text())["api"]).port or 0
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def hpa(site: Site) -> dict[str, Any]:
    """As the README says: AverageValue 1, no tolerance, at once."""
    selector = {"matchLabels": {"tidegate.dev/workload": "chat", "tidegate.dev/role": "colocated"}}
    external = {
        "metric": {"name": "tidegate_desired_replicas", "selector": selector},
        "target": {"type": "AverageValue", "averageValue": "1"},
    }
    up = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 15}]}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "chat", "namespace": site.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"},
            "minReplicas": 1,
            "maxReplicas": 8,
            "metrics": [{"type": "External", "external": external}],
            "behavior": {"scaleUp": up, "scaleDown": up},
        },
    }


def test_an_hpa_follows_the_served_number(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_TEST_CLUSTER", os.environ.get("TIDEGATE_TEST_CLUSTER", "1"))  # as `make` sets it
    site.needs(AGGREGATED)
    site.node(8)
    site.deployment(1)
    site.eventually(lambda: site.bound(app="chat") == 1, "the pod never started")
    with (
        engine() as metrics,
        tidegate(site, tmp_path, metrics, {"mode": "none"}) as port,
        registered(site, port, tmp_path / "tls" / "ca.crt"),
    ):
        site.api.create(HPAS, site.name, hpa(site))
        with told(lambda: f"{why(site)}\n{(tmp_path / 'log').read_text()[-2000:]}"):
            site.eventually(lambda: site.bound(app="chat") == 3, "the HPA never followed", 120.0)


def test_who_asks_through_the_api_server_is_known_and_who_comes_by_another_way_is_not(
    site: Site, tmp_path: Path
) -> None:
    """The front proxy's certificate is checked against what the cluster publishes, and its user by an access review."""
    site.needs(AGGREGATED)
    try:
        published = site.api.get(CONFIG_MAPS, "kube-system", "extension-apiserver-authentication").get("data") or {}
    except ApiError as error:
        pytest.skip(f"the front proxy's authorities cannot be read: {error.message}")
    if not published.get("requestheader-client-ca-file"):
        pytest.skip("this API server has no front proxy (--requestheader-client-ca-file)")
    site.deployment(0)
    authentication = {"mode": "delegated", "kubeconfig": site.kubeconfig, "context": site.context}
    with engine() as metrics, tidegate(site, tmp_path, metrics, authentication) as port:
        with registered(site, port, tmp_path / "tls" / "ca.crt"):
            said: list[str] = []

            def served() -> bool:
                try:
                    found = site.api.read(f"{PATH.format(site.name)}?labelSelector={CHOSEN}")
                except ApiError as error:
                    said.append(f"{error.status} {error.message}")
                    return False
                return str(found["items"][0]["value"]) == "3"

            with told(lambda: f"{said[-1:]} {why(site)}\n{(tmp_path / 'log').read_text()[-2000:]}"):
                site.eventually(served, "never served to a user of the API server", 60.0)
        with urllib3.PoolManager(ca_certs=str(tmp_path / "tls" / "ca.crt")) as http:
            answer = http.request("GET", f"https://localhost:{port}{PATH.format(site.name)}")
            assert answer.status == HTTPStatus.UNAUTHORIZED
