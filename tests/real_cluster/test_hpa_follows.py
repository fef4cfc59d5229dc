"""An HPA follows the number that `tidegate run` serves, through the API server's aggregation layer.

The API server must reach this machine: as `localhost` when it runs here, else by the name in TIDEGATE_TEST_HOST (in
kind: the address of this machine on the docker network). A Service that is a name is tried first, as an API server
resolves it that routes by Services; then one with an endpoint, for --enable-aggregator-routing. Where there is no real
API server its part is played: the test asks the served API as the HPA would, and scales.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
import yaml
from site_report import DEPLOYMENTS, OURS

from autoscaler.cluster.api import ApiError, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from site_of_tests import Site

SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
SERVICES = Resource("", "v1", "services", "Service")
HPAS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
API_SERVICES = Resource("apiregistration.k8s.io", "v1", "apiservices", "APIService", namespaced=False)
EXTERNAL = "v1beta1.external.metrics.k8s.io"
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
def tidegate(site: Site, folder: Path, metrics: str, host: str) -> Iterator[str]:
    """`tidegate run` with a pool of at least three replicas; gives its API's address."""
    said: dict[str, Any] = {
        "pools": [
            {
                "name": "chat",
                "namespace": site.name,
                "profile": "llama-3.1-8b/h100-80gb/tp1",
                "roles": {"colocated": {"min_replicas": 3, "max_replicas": 8, "target": {"name": "chat"}}},
            }
        ],
        "source": {
            "kind": "scrape",
            "scrape": {"targets": [{"url": metrics, "labels": {"namespace": site.name}}], "interval_s": 0.5},
        },
        "loop": {"interval_s": 1, "memory_file": str(folder / "memory.json"), "journal_file": None},
        "serving": {
            "host": host,
            "port": 0,
            "status_port": 0,
            "authentication": {"mode": "none"},
            "tls": {"directory": str(folder / "tls")},
        },
        "cluster": {
            "enabled": True,
            "kubeconfig": site.kubeconfig,
            "namespace": site.name,
            "gpu_resources": [site.GPU],
            "audit_file": None,
            "election": {"enabled": False},
        },
    }
    file, ready = folder / "run.yaml", folder / "ready.json"
    file.write_text(yaml.safe_dump(said))
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "autoscaler.cli", "run", "-c", str(file), "--ready-file", str(ready)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            site.eventually(lambda: ready.exists() or process.poll() is not None, "tidegate never came up", 60.0)
            assert process.poll() is None, (folder / "log").read_text()
            yield json.loads(ready.read_text())["api"]
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


def _forget_our_own(site: Site) -> None:
    """A run that was killed may have left its registration, which nobody answers for; another's is left alone."""
    with suppress(ApiError):
        found = site.api.get(API_SERVICES, "", EXTERNAL)
        if OURS.items() <= (found["metadata"].get("labels") or {}).items():
            site.api.delete(API_SERVICES, "", EXTERNAL)


def _available(site: Site) -> bool:
    conditions = site.api.get(API_SERVICES, "", EXTERNAL).get("status", {}).get("conditions", ())
    return any(one["type"] == "Available" and one["status"] == "True" for one in conditions)


def _why(site: Site) -> str:
    """What the API server says of the registration, and the HPA of itself."""
    said = []
    with suppress(ApiError):
        for where in ((API_SERVICES, "", EXTERNAL), (HPAS, site.name, "chat")):
            conditions = (site.api.get(*where).get("status") or {}).get("conditions") or ()
            said += [f"{one['type']}={one['status']}: {one.get('message')}" for one in conditions]
    return "; ".join(said)


def own_address() -> str:
    """This machine's address on the way out; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"


def by_name(site: Site, host: str, port: int) -> int:
    """A Service that is but a name: followed by an API server that routes by Services. Gives the Service's port."""
    spec = {"type": "ExternalName", "externalName": host}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-name", "namespace": site.name}}
    site.api.create(SERVICES, site.name, {**body, "spec": spec})
    return port


def by_endpoint(site: Site, host: str, port: int) -> int:
    """A Service with an endpoint of its own: followed by an API server that routes by endpoints, or has a proxy."""
    address = own_address() if host == "localhost" else socket.gethostbyname(host)
    meta = {"name": "by-endpoint", "namespace": site.name}
    ports = [{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}]
    site.api.create(
        SERVICES, site.name, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}}
    )
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {"kubernetes.io/service-name": meta["name"]}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }
    site.api.create(SLICES, site.name, slice_)
    return 443


@contextmanager
def registered(site: Site, host: str, port: int) -> Iterator[None]:
    """The API, registered for as long as it is needed; skips where somebody else provides it."""
    version, _, name = EXTERNAL.partition(".")
    _forget_our_own(site)
    service = {"name": "by-name", "namespace": site.name, "port": by_name(site, host, port)}
    spec = {
        "group": name,
        "version": version,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "insecureSkipTLSVerify": True,
        "service": service,
    }
    body = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": EXTERNAL, "labels": OURS},
        "spec": spec,
    }
    try:
        site.api.create(API_SERVICES, "", body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        pytest.skip(f"somebody else provides {EXTERNAL} in this cluster")
    try:
        try:
            site.eventually(lambda: _available(site), "by its name it is not available", 35.0)
        except AssertionError:
            other = {"name": "by-endpoint", "namespace": site.name, "port": by_endpoint(site, host, port)}
            site.api.patch(API_SERVICES, "", EXTERNAL, {"spec": {"service": other}})
            where = f"the API server reaches {host} in neither way; name this machine by TIDEGATE_TEST_HOST"
            with told(lambda: f"{where}: {_why(site)}"):
                site.eventually(lambda: _available(site), "the registration never became available", 60.0)
        yield
    finally:
        with suppress(ApiError):
            site.api.delete(API_SERVICES, "", EXTERNAL)


@contextmanager
def told(why: Callable[[], str]) -> Iterator[None]:
    """Adds to a failure what the server says."""
    try:
        yield
    except AssertionError as error:
        error.add_note(why())
        raise


def test_an_hpa_follows_the_served_number(site: Site, tmp_path: Path) -> None:
    site.node(8)
    site.deployment(1)
    site.eventually(lambda: site.bound(app="chat") == 1, "the pod never started")
    host = os.environ.get("TIDEGATE_TEST_HOST", "localhost")
    with (
        engine() as metrics,
        tidegate(site, tmp_path, metrics, "127.0.0.1" if site.played is not None else "0.0.0.0") as api,
    ):
        if site.played is None:
            with registered(site, host, int(api.rpartition(":")[2].strip("/"))):
                site.api.create(HPAS, site.name, hpa(site))
                with told(lambda: _why(site)):
                    site.eventually(lambda: site.bound(app="chat") == 3, "the HPA never followed", 120.0)
            return
        path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{site.name}/tidegate_desired_replicas"
        chosen = "tidegate.dev/workload=chat,tidegate.dev/role=colocated"
        with urllib3.PoolManager(cert_reqs="CERT_REQUIRED", ca_certs=str(tmp_path / "tls" / "ca.crt")) as http:

            def served() -> str | None:
                answer = http.request("GET", f"{api.rstrip('/')}{path}", fields={"labelSelector": chosen})
                return str(answer.json()["items"][0]["value"]) if answer.status == 200 else None

            site.eventually(lambda: served() == "3", "three replicas were never served", 30.0)
        site.api.patch(DEPLOYMENTS, site.name, "chat", {"spec": {"replicas": 3}}, subresource="scale")
        site.eventually(lambda: site.bound(app="chat") == 3, "the pods never started")
