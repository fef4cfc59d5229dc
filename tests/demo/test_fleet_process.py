"""The fleet as a real process on loopback, following a TLS external-metrics API that each test steers."""

import datetime as dt
import http.client
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.e2e

DEADLINE_SECONDS = 20.0
STARTUP_SECONDS = 1.0
ENGINE = {
    "step_seconds": 0.01,
    "prefill_token_seconds": 1e-4,
    "sequence_seconds": 1e-3,
    "resident_token_seconds": 0.0,
    "kv_capacity_tokens": 8192,
    "max_running": 32,
    "max_batched_tokens": 1024,
}


def eventually(what: Callable[[], Any]) -> Any:
    """The first true result of `what`, which may fail to connect or read until then."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = what()
        except (OSError, ValueError, http.client.HTTPException) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_SECONDS} s; last: {last!r}")


def fetch(url: str, body: object = None, timeout: float = 5.0) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=timeout) as answer:  # noqa: S310 - loopback http
        return bytes(answer.read())


class FakeApi:
    """Serves `wish` per role, or the `failure` (status, body) while there is one."""

    def __init__(self, folder: Path) -> None:
        self.wish = {"prefill": 1, "decode": 1}
        self.failure: tuple[int, bytes] | None = None
        self.paths: list[str] = []
        self.ca = folder / "ca.pem"
        self._key = folder / "key.pem"
        self._make_certificate()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        self.port = 0

    def start(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = api.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                """Quiet."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, self._key)
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
        self._server = None

    def answer(self, path: str) -> tuple[int, bytes]:
        self.paths.append(path)
        if self.failure is not None:
            return self.failure
        selector = parse_qs(urlparse(path).query)["labelSelector"][0]
        role = dict(pair.split("=") for pair in selector.split(","))["tidegate.dev/role"]
        item = {"metricName": "tidegate_desired_replicas", "value": str(self.wish[role])}
        return 200, json.dumps({"kind": "ExternalMetricValueList", "items": [item]}).encode()

    def _make_certificate(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fake api")])
        now = dt.datetime.now(dt.UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def fleet_config(folder: Path, hpa_url: str, ca: Path) -> dict[str, Any]:
    """One disaggregated pool under an HPA, its files in `folder`."""
    roles = [
        {"role": role, "engine": ENGINE, "startup_seconds": STARTUP_SECONDS, "drain_seconds": 2}
        for role in ("prefill", "decode")
    ]
    return {
        "pools": [
            {
                "name": "chat",
                "namespace": "prod",
                "model_name": "m",
                "roles": roles,
                "slo": {"ttft_seconds": 1.0, "tpot_seconds": 0.05},
                "workload": {
                    "knots": [[0, 10]],
                    "prompt": {"median": 200, "largest": 200},
                    "output": {"median": 20, "largest": 20},
                },
            }
        ],
        "hpa": {"base_url": hpa_url, "ca_file": str(ca), "sync_seconds": 0.1},
        "paths": {
            "targets": str(folder / "targets.json"),
            "endpoints": str(folder / "endpoints.json"),
            "stats": str(folder / "stats.json"),
        },
        "parent_pid": os.getpid(),
    }


class FleetProcess:
    """The process under test and its files."""

    def __init__(self, folder: Path, api: FakeApi) -> None:
        self.targets_file, self.stats_file = folder / "targets.json", folder / "stats.json"
        self._endpoints = folder / "endpoints.json"
        config = fleet_config(folder, f"https://127.0.0.1:{api.port}", api.ca)
        self.config_file = folder / "fleet.json"
        self.config_file.write_text(json.dumps(config))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autoscaler.demo.fleet", "--config", str(self.config_file)], stderr=subprocess.PIPE
        )
        self.url: str = eventually(lambda: json.loads(self._endpoints.read_text())["control"])

    def reread(self) -> None:
        """Find it again after another process took the files over."""
        self._endpoints.unlink()
        self.url = eventually(lambda: json.loads(self._endpoints.read_text())["control"])

    def targets(self, role: str) -> dict[str, str]:
        """Pod name -> address, as Prometheus would read them."""
        entries = json.loads(self.targets_file.read_text())
        return {e["labels"]["pod"]: e["targets"][0] for e in entries if e["labels"]["role"] == role}

    def state(self) -> Any:
        (pool,) = json.loads(fetch(f"{self.url}/state"))["pools"]
        return pool

    def post(self, path: str, body: object) -> bytes:
        return fetch(self.url + path, body)

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, errors.decode()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    fake = FakeApi(tmp_path)
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def fleet(tmp_path: Path, api: FakeApi) -> Iterator[FleetProcess]:
    running = FleetProcess(tmp_path, api)
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.communicate()


def test_replicas_follow_the_served_value_after_their_start_up(fleet: FleetProcess, api: FakeApi) -> None:
    assert list(fleet.targets("decode")) == ["chat-decode-1"]
    api.wish["decode"] = 3
    started = time.monotonic()
    starting = eventually(lambda: (r := fleet.state()["roles"]["decode"])["starting"] == 2 and r)
    assert (starting["wanted"], starting["ready"]) == (3, 1)
    assert (
        'kube_deployment_spec_replicas{namespace="prod",deployment="chat-decode"} 3'
        in fetch(f"{fleet.url}/kube-state").decode()
    )
    eventually(lambda: len(fleet.targets("decode")) == 3)
    assert time.monotonic() - started >= STARTUP_SECONDS
    assert len(set(fleet.targets("decode").values())) == 3
    for address in fleet.targets("decode").values():
        names = {family.name for family in text_string_to_metric_families(fetch(f"http://{address}/metrics").decode())}
        assert {"vllm:num_requests_running", "vllm:nixl_bytes_transferred", "vllm:kv_cache_usage_perc"} <= names
    api.wish["decode"] = 1
    eventually(lambda: list(fleet.targets("decode")) == ["chat-decode-1"])
    path = urlparse(api.paths[-1])
    assert path.path == "/apis/external.metrics.k8s.io/v1beta1/namespaces/prod/tidegate_desired_replicas"
    assert parse_qs(path.query)["labelSelector"][0].startswith("tidegate.dev/workload=chat,tidegate.dev/role=")


def test_any_failure_of_the_api_holds_and_says_why(fleet: FleetProcess, api: FakeApi) -> None:
    def hpa() -> Any:
        return fleet.state()["roles"]["decode"]["hpa"]

    api.wish["decode"] = 3
    eventually(lambda: len(fleet.targets("decode")) == 3)
    assert hpa()["scaling_active"] is True
    for failure, words in (
        ((503, b'{"kind":"Status","message":"forecast is 93 s old, limit 60 s"}'), "forecast is 93 s old, limit 60 s"),
        ((200, b"\xff garbage"), "no ExternalMetricValueList"),
        ((200, b'{"items":[]}'), "no metrics returned"),
    ):
        api.failure = failure
        # Lowered only behind the failure, so that no sync can see it.
        api.wish["decode"] = 1
        eventually(lambda words=words: words in hpa()["message"])
        assert (hpa()["scaling_active"], hpa()["reason"]) == (False, "FailedGetExternalMetric")
    held = len(fleet.targets("decode"))
    api.stop()
    eventually(lambda: "ClientConnectorError" in hpa()["message"])
    assert len(fleet.targets("decode")) == held
    api.failure = None
    api.start()
    eventually(lambda: hpa()["scaling_active"] and len(fleet.targets("decode")) == 1)


def test_a_faulty_replica_answers_as_told_and_recovers(fleet: FleetProcess) -> None:
    ((pod, address),) = fleet.targets("prefill").items()
    metrics = f"http://{address}/metrics"
    fleet.post("/fault", {"pod": pod, "kind": "garbage"})
    with pytest.raises(ValueError, match=r"codec|could not|invalid|too many|must"):
        list(text_string_to_metric_families(fetch(metrics).decode()))
    fleet.post("/fault", {"pod": pod, "kind": "nan"})
    assert b'vllm:kv_cache_usage_perc{engine="0",model_name="m"} NaN\n' in fetch(metrics)
    fleet.post("/fault", {"pod": pod, "kind": "hang"})
    with pytest.raises(TimeoutError):
        fetch(metrics, timeout=0.3)
    fleet.post("/fault", {"pod": pod, "kind": "refuse"})
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetch(metrics)
    assert fleet.targets("prefill") == {pod: address}
    fleet.post("/fault", {"pod": pod, "kind": "none"})
    assert b"vllm:prompt_tokens_total" in fetch(metrics)
    assert fleet.state()["roles"]["prefill"]["replicas"][0]["fault"] == "none"


@pytest.mark.parametrize(
    ("path", "body", "code", "words"),
    [
        ("/fault", {"pod": "nobody", "kind": "nan"}, 400, "pod is 'nobody'; it must be one of chat-prefill-1"),
        ("/fault", {"pod": "chat-prefill-1", "kind": "explode"}, 400, "kind is 'explode'"),
        ("/fault", {"pod": ["x"], "kind": "nan"}, 400, "pod is ['x']"),
        ("/fault", {"pod": "chat-prefill-1", "kind": ["nan"]}, 400, "kind is ['nan']"),
        ("/fault", [], 400, "must be a JSON object"),
        ("/load", {"factor": -1}, 400, "factor is -1"),
        ("/load", {"factor": "2"}, 400, "factor is '2'"),
        ("/load", {"factor": 1e400}, 400, "factor is inf"),
        ("/load", {"factor": 1, "pool": ["x"]}, 400, "no such pool"),
        ("/load", {"factors": 1}, 400, "the body has keys ['factors']"),
        ("/scale", {"pool": "chat", "role": "decode", "replicas": 2}, 409, "the HPA follows"),
    ],
)
def test_wrong_orders_are_refused_in_words(
    path: str, body: object, code: int, words: str, shared_fleet: FleetProcess
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        shared_fleet.post(path, body)
    with refused.value as answer:
        assert answer.code == code
        assert words in answer.read().decode()


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    folder = tmp_path_factory.mktemp("shared")
    fake = FakeApi(folder)
    fake.start()
    running = FleetProcess(folder, fake)
    yield running
    running.end(signal.SIGTERM)
    fake.stop()


def test_the_load_can_be_turned_up(fleet: FleetProcess) -> None:
    assert fleet.state()["requests_per_s"] == 10
    fleet.post("/load", {"factor": 3})
    assert fleet.state()["requests_per_s"] == 30
    eventually(lambda: fleet.state()["requests"]["finished"] > 20)
    assert fleet.state()["slo"]["attainment"] > 0.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_its_last_state_written(fleet: FleetProcess, number: signal.Signals) -> None:
    eventually(lambda: fleet.state()["requests"]["finished"] > 0 and fleet.state()["history"])
    ((pod, address),) = fleet.targets("decode").items()
    fleet.post("/fault", {"pod": pod, "kind": "hang"})
    hanging = http.client.HTTPConnection(address)
    hanging.request("GET", "/metrics")
    assert fleet.end(number) == (0, "")
    hanging.close()
    stats = json.loads(fleet.stats_file.read_text())
    assert stats["slo_attainment"] > 0.9
    assert stats["requests_finished"] > 0
    assert stats["gpu_seconds"] == pytest.approx(2 * stats["elapsed_s"], rel=0.1)
    assert [path.name for path in fleet.stats_file.parent.iterdir() if path.name.startswith(".")] == []


def test_it_ends_when_its_parent_is_gone(tmp_path: Path, api: FakeApi) -> None:
    fleet = FleetProcess(tmp_path, api)
    fleet.end(signal.SIGTERM)
    fleet.stats_file.unlink()
    config = json.loads(fleet.config_file.read_text())
    # A shell starts it in the background and waits until it is killed, as an orchestrator may be.
    script = 'sed -i "s/PARENT/$$/" "$1"; "$0" -m autoscaler.demo.fleet --config "$1" & wait'
    fleet.config_file.write_text(json.dumps(config | {"parent_pid": "PARENT"}).replace('"PARENT"', "PARENT"))
    with subprocess.Popen(["/bin/sh", "-c", script, sys.executable, str(fleet.config_file)]) as shell:
        fleet.reread()
        assert fleet.state()["name"] == "chat"
        shell.kill()
    eventually(fleet.stats_file.exists)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sead": 3}, "sead: Extra inputs are not permitted"),
        ({"control_port": 70_000}, "control_port: Input should be less than or equal to 65535"),
        ({"hpa": {}}, "hpa.base_url is None; to follow it must be an http(s) URL"),
        ({"pools": []}, "pools: List should have at least 1 item"),
    ],
)
def test_a_wrong_configuration_ends_with_two_and_names_the_place(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    good = {
        "pools": [],
        "hpa": {"follow": False},
        "paths": {key: str(tmp_path / key) for key in ("targets", "endpoints", "stats")},
    }
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(good | change))
    command = [sys.executable, "-m", "autoscaler.demo.fleet", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert str(file) in done.stderr
    assert not (tmp_path / "endpoints").exists()
