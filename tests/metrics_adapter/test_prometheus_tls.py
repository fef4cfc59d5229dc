"""Custom CA and client certificates against a real TLS server on loopback."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from metrics_adapter.prometheus import PrometheusAccess, PrometheusSource
from metrics_adapter.signals import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of one authority, the server it vouches for and a client it vouches for."""

    ca: str
    server: str
    server_key: str
    client: str
    client_key: str


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, *, ca: bool
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    return (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(address, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory: Path = tmp_path_factory.mktemp("tls")
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "server", "client")}

    def save(name: str) -> str:
        made = certificate(name, keys[name], "ca", keys["ca"], ca=name == "ca")
        (directory / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (directory / f"{name}.key").write_bytes(
            keys[name].private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(directory / f"{name}.pem")

    ca, server, client = save("ca"), save("server"), save("client")
    return Files(ca, server, str(directory / "server.key"), client, str(directory / "client.key"))


@contextmanager
def serving(files: Files, *, wants_client: bool) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"status": "success", "data": ["vllm:num_requests_running"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A refused handshake is what these tests are about."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.server_key)
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files.ca)
    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def names(url: str, **access: Any) -> tuple[str, ...]:
    source = PrometheusSource(PrometheusAccess(url, timeout_s=10, retries=0, **access))
    try:
        return source.names(1_800_000_000.0)
    finally:
        source.close()


def test_custom_ca_is_trusted_and_an_unknown_one_is_not(files: Files) -> None:
    with serving(files, wants_client=False) as url:
        assert names(url, ca_file=files.ca) == ("vllm:num_requests_running",)
        with pytest.raises(SourceError, match=r"TLS failed: .*certificate verify failed"):
            names(url)


def test_skipping_verification_reads_all_the_same(files: Files) -> None:
    with serving(files, wants_client=False) as url:
        assert names(url, insecure_skip_verify=True) == ("vllm:num_requests_running",)


def test_client_certificate_is_presented_and_missed(files: Files) -> None:
    with serving(files, wants_client=True) as url:
        known = names(url, ca_file=files.ca, client_cert=files.client, client_key=files.client_key)
        assert known == ("vllm:num_requests_running",)
        with pytest.raises(SourceError, match=r"(?i)certificate required|handshake|TLS failed|cannot be reached"):
            names(url, ca_file=files.ca)


def test_files_that_do_not_exist_are_named(files: Files) -> None:
    with serving(files, wants_client=False) as url:
        for access in ({"ca_file": "/none/ca.pem"}, {"ca_file": files.ca, "client_cert": "/none/client.pem"}):
            with pytest.raises(SourceError, match=r"/none/(ca|client)\.pem"):
                names(url, **access)
