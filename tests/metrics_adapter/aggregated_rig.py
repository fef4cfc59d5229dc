"""What the tests of the aggregated API server share: certificates, a small Kubernetes API, and a house in front."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from kubernetes import client

from autoscaler.cluster.api import Api
from autoscaler.cluster.authentication import FollowedTrust, KubernetesAuthority
from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Board, Limits, Metric, Published, Target, Wish
from metrics_adapter.custom import CustomMetrics
from metrics_adapter.discovery import Documents
from metrics_adapter.exposition import Exposition, Telemetry
from metrics_adapter.external import ExternalMetrics
from metrics_adapter.gate import Gate, GateLimits
from metrics_adapter.gate_meter import GateCounts
from metrics_adapter.protocol import ServerLimits
from metrics_adapter.server import Server, compose
from metrics_adapter.tls import ServingCertificate, self_signed, service_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = timedelta(days=1)
PROXY = "front-proxy-client"


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class Authorities:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        self._cert = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(name))
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 30 * DAY)
            .not_valid_after(now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self._cert.public_bytes(Encoding.PEM).decode()

    def client(self, common_name: str = PROXY, *, expired: bool = False) -> tuple[str, str]:
        """Files of a client certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        cert = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(self._cert.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now - DAY if expired else now + DAY)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        at = self.folder / f"client-{cert.serial_number}"
        cert_file, key_file = at.with_suffix(".crt"), at.with_suffix(".key")
        cert_file.write_bytes(cert.public_bytes(Encoding.PEM))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(cert_file), str(key_file)


@dataclass
class Cluster:
    """What the Kubernetes API answers, and what it was asked."""

    config: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    apiservices: dict[str, dict[str, Any]] = field(default_factory=dict)
    broken: bool = False
    hang: threading.Event | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.hang is not None:
            self.hang.wait(10)
        if self.broken:
            return 500, {"kind": "Status", "reason": "InternalError", "message": "etcd is away"}
        if method == "POST":
            self.asked.append(body)
        if path.endswith("/tokenreviews"):
            user = self.tokens.get(body["spec"]["token"])
            return 201, {"status": {"authenticated": user is not None, **({"user": user} if user else {})}}
        if path.endswith("/subjectaccessreviews"):
            allowed = body["spec"]["user"] not in self.forbidden
            return 201, {"status": {"allowed": allowed, **({} if allowed else {"reason": "no RBAC rule matched"})}}
        if path.endswith("/configmaps/extension-apiserver-authentication"):
            return 200, {"data": self.config}
        name = path.rpartition("/")[2]
        if name in self.apiservices:
            return 200, self.apiservices[name]
        return 404, {"kind": "Status", "reason": "NotFound", "message": f"{name} not found"}

    def reviews(self, kind: str) -> list[dict[str, Any]]:
        return [body["spec"] for body in self.asked if body["kind"] == kind]


@contextmanager
def kubernetes_api(cluster: Cluster) -> Iterator[Cluster]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            code, found = cluster.answer(self.command, self.path.partition("?")[0], body)
            content = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - http.server's own names

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    cluster.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield cluster
    finally:
        if cluster.hang is not None:
            cluster.hang.set()
        server.shutdown()
        thread.join()
        server.server_close()


def api_of(cluster: Cluster) -> Api:
    configuration = client.Configuration(host=cluster.url)
    configuration.retries = False
    return Api(client.ApiClient(configuration), timeout_s=5.0)


@dataclass
class Clock:
    offset: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@dataclass
class House:
    """The whole aggregated API server on loopback."""

    url: str
    bundle: str
    board: Board
    clock: Clock
    cluster: Cluster
    ca: Authorities
    trust: FollowedTrust
    telemetry: Telemetry

    def publish(self, *wishes: Wish) -> None:
        self.board.publish(Published(self.clock(), wishes))

    def ask(
        self, path: str, headers: dict[str, str] | None = None, cert: tuple[str, str] | None = None
    ) -> requests.Response:
        return requests.get(
            self.url + path,
            headers={"Connection": "close", **(headers or {})},
            cert=cert,
            verify=self.bundle,
            timeout=20,
        )

    def counted(self, line: str) -> bool:
        return line in self.telemetry.text("")[0].decode()


def wish(workload: str, role: str, desired: float, target: str | None = None, **more: Any) -> Wish:
    aim = Target("deployments.apps", "apps/v1", "Deployment", target) if target else None
    return Wish("serving", {WORKLOAD_LABEL: workload, ROLE_LABEL: role}, {Metric.DESIRED: desired}, target=aim, **more)


@contextmanager
def open_house(folder: Path, limits: GateLimits | None = None) -> Iterator[House]:
    ca = Authorities(folder, "front-proxy-ca")
    cluster = Cluster({
        "requestheader-client-ca-file": ca.pem,
        "requestheader-allowed-names": json.dumps([PROXY]),
        "requestheader-username-headers": '["X-Remote-User"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
    })  # fmt: skip
    clock = Clock()
    board = Board(Limits(soft=30, hard=60), clock)
    telemetry = Telemetry(board)
    signed = self_signed(folder / "serving", service_names("tidegate", "tidegate-system"), time.time())
    bundle = folder / "bundle.pem"
    bundle.write_text(signed.ca_bundle)
    external, custom = ExternalMetrics(board, telemetry), CustomMetrics(board, telemetry)
    documents = Documents((external.described(), custom.described()))
    with kubernetes_api(cluster):
        api = api_of(cluster)
        trust = FollowedTrust(api, 60.0)
        trust.start()
        gate = Gate(KubernetesAuthority(api), trust, GateCounts(telemetry.registry), limits)
        routers = [documents.router(), Exposition(board, telemetry).router()]
        tls = ServingCertificate(signed.cert, signed.key, time.time, trust=trust.trust).context
        server = Server(
            compose(routers, telemetry, gate, [external, custom]), "127.0.0.1", 0, tls, ServerLimits(stop=1)
        )
        try:
            with server:
                url = f"https://localhost:{server.port}"
                yield House(url, str(bundle), board, clock, cluster, ca, trust, telemetry)
        finally:
            gate.close()
            trust.stop()
            api.close()
