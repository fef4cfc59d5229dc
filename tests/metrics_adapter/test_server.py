"""The server on loopback: real TLS, real clients, bytes that are not HTTP, and stopping in time."""

import json
import logging
import re
import signal
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import structlog
from fastapi import APIRouter

from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Board, Limits, Metric, Published, Wish
from metrics_adapter.discovery import Documents
from metrics_adapter.exposition import Exposition, Telemetry
from metrics_adapter.external import ExternalMetrics
from metrics_adapter.protocol import ServerLimits
from metrics_adapter.server import Server, ServerError, compose
from metrics_adapter.tls import ServingCertificate, self_signed, service_names

T0 = 1_767_225_600.0  # 2026-01-01T00:00:00Z
V1BETA1 = "/apis/external.metrics.k8s.io/v1beta1"
DESIRED = f"{V1BETA1}/namespaces/serving/tidegate_desired_replicas"
LIMITS = ServerLimits(head=8192, connections=32, head_timeout=1.0, keep_alive=30, stop=1)
NAMES = service_names("tidegate", "tidegate-system")


@dataclass
class Clock:
    now: float = T0

    def __call__(self) -> float:
        return self.now


@dataclass
class House:
    clock: Clock
    board: Board
    telemetry: Telemetry
    server: Server
    bundle: Path

    def publish(self, *wishes: Wish) -> None:
        self.board.publish(Published(self.clock.now, wishes))

    def ask(self, target: str, **more: Any) -> requests.Response:
        return requests.get(
            self.server.url.replace("127.0.0.1", "localhost") + target, verify=str(self.bundle), timeout=10, **more
        )

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.bundle)

    def verbatim(self, target: str) -> tuple[int, Any]:
        """Send the target as it is; `requests` would tidy it up."""
        connection = HTTPSConnection("localhost", self.server.port, timeout=10, context=self.trusting())
        try:
            connection.putrequest("GET", target, skip_accept_encoding=True)
            connection.endheaders()
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def raw(self, sent: bytes) -> bytes:
        with self.connected() as tls:
            tls.sendall(sent)
            return _everything(tls)

    def connected(self, client: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.server.port), 10)
        return (client or self.trusting()).wrap_socket(plain, server_hostname="localhost")


def _everything(connection: socket.socket) -> bytes:
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:  # the other way to be told that it is over
        pass
    return received


def wish(workload: str, role: str, desired: float, **more: Any) -> Wish:
    return Wish("serving", {WORKLOAD_LABEL: workload, ROLE_LABEL: role}, {Metric.DESIRED: desired}, **more)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


def build(certificates: Path, extra: APIRouter | None = None) -> House:
    clock = Clock()
    board = Board(Limits(soft=30, hard=60), clock)
    telemetry = Telemetry(board)
    signed = self_signed(certificates, NAMES, time.time())
    bundle = certificates / "bundle.pem"
    bundle.write_text(signed.ca_bundle)
    external = ExternalMetrics(board, telemetry)
    routers = [Documents((external.described(),)).router(), Exposition(board, telemetry).router()]
    app = compose([*routers, *([extra] if extra else [])], telemetry, None, [external])
    tls = ServingCertificate(signed.cert, signed.key, time.time).context
    return House(clock, board, telemetry, Server(app, "127.0.0.1", 0, tls, LIMITS), bundle)


@pytest.fixture
def house(certificates: Path) -> Iterator[House]:
    made = build(certificates)
    made.publish(wish("chat", "prefill", 2), wish("chat", "decode", 6))
    with made.server:
        yield made


def test_an_hpa_is_answered_over_tls(house: House) -> None:
    selector = quote(f"{WORKLOAD_LABEL}=chat,{ROLE_LABEL}=decode", safe="")
    accept = {"Accept": "application/vnd.kubernetes.protobuf, */*"}
    reply = house.ask(f"{DESIRED}?labelSelector={selector}", headers=accept)
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["items"] == [
        {
            "metricName": "tidegate_desired_replicas",
            "metricLabels": {WORKLOAD_LABEL: "chat", ROLE_LABEL: "decode"},
            "timestamp": "2026-01-01T00:00:00Z",
            "value": "6",
        }
    ]


def test_the_rows_of_the_contract_over_the_wire(house: House) -> None:
    for target, code in (
        ("/apis", 200),
        ("/apis/external.metrics.k8s.io", 200),
        (V1BETA1, 200),
        (DESIRED, 200),
        (f"{V1BETA1}/tidegate_desired_replicas", 404),
        (f"{V1BETA1}/namespaces/serving", 404),
        (f"{V1BETA1}/namespaces/serving/a/b", 404),
        (f"{DESIRED}?labelSelector=x%3Dy", 404),
        (f"{DESIRED}?labelSelector=x+y", 400),
        ("/openapi/v2", 404),
    ):
        reply = house.ask(target)
        assert (target, reply.status_code) == (target, code)
        assert reply.json()["kind"].startswith(
            "API" if code == 200 and target != DESIRED else ("Ext" if code == 200 else "Status")
        )
    assert house.ask("/healthz").text == "ok"
    assert "tidegate_desired_replicas{" in house.ask("/metrics").text


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
def test_a_discovery_that_asks_for_the_aggregated_form_gets_it_once(house: House, version: str) -> None:
    form = f"application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"
    reply = house.ask("/apis", headers={"Accept": f"{form},application/json"})
    assert (reply.headers["content-type"], reply.json()["kind"]) == (form, "APIGroupDiscoveryList")
    (group,) = reply.json()["items"]
    assert group["metadata"]["name"] == "external.metrics.k8s.io"
    assert [resource["resource"] for resource in group["versions"][0]["resources"]] == ["tidegate_desired_replicas"]
    again = house.ask("/apis", headers={"Accept": form, "If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_staleness_over_the_wire_and_back(house: House) -> None:
    for age, code in ((59.5, 200), (60.5, 503)):
        house.clock.now = T0 + age
        assert house.ask(DESIRED).status_code == code
    assert "retry-after" not in house.ask(DESIRED).headers
    house.publish(wish("chat", "decode", 7))
    assert house.ask(DESIRED).json()["items"][0]["value"] == "7"


def test_a_partial_sum_is_never_served_over_the_wire(house: House) -> None:
    house.publish(wish("chat", "prefill", 2), wish("chat", "decode", 6, blind="series vanished"))
    reply = house.ask(DESIRED)
    assert (reply.status_code, reply.json()["message"]) == (
        503,
        "chat decode is blind: series vanished; its size is held",
    )


def test_head_has_headers_only_and_writing_is_refused(house: House) -> None:
    url = house.server.url.replace("127.0.0.1", "localhost") + DESIRED
    head = requests.head(url, verify=str(house.bundle), timeout=10)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 0
    post = requests.post(url, data=b"x" * 200_000, verify=str(house.bundle), timeout=10)
    assert (post.status_code, post.json()["reason"]) == (405, "MethodNotAllowed")


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (f"{V1BETA1}/namespaces/serving%2Ftidegate_desired_replicas", 404),
        (f"{DESIRED}%00", 404),
        (f"{DESIRED}%ff", 400),
        (f"{DESIRED}%zz", 400),
        (f"{DESIRED}/../..", 404),
        (f"//{DESIRED}", 404),
        (f"{DESIRED}#fragment", 200),
        (f"{DESIRED}?labelSelector=%ff", 400),
        ("*", 404),
        (DESIRED + "?x=" + "y" * 9000, 414),
    ],
)
def test_odd_targets(house: House, target: str, code: int) -> None:
    got, body = house.verbatim(target)
    assert got == code
    assert body["kind"] == ("Status" if code != 200 else "ExternalMetricValueList")


@pytest.mark.parametrize(
    ("sent", "first_line"),
    [
        (b"\x00\xff garbage\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET http:// HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET /caf\xc3\xa9 HTTP/1.1\r\nConnection: close\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\nConnection: close\r\n\r\n", b"HTTP/1.1 431 "),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 9000, b"HTTP/1.1 431 "),
        (b"GET /" + b"y" * 9000, b"HTTP/1.1 431 "),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (
            b"GET /healthz HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x00\x01\x02",
            b"HTTP/1.1 200 OK",
        ),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\nxyz", b"HTTP/1.1 4"),
    ],
)
def test_bytes_that_are_hardly_http(house: House, sent: bytes, first_line: bytes) -> None:
    assert house.raw(sent).startswith(first_line)
    assert house.ask("/healthz").status_code == 200


def test_pipelined_requests_are_answered_in_order(house: House) -> None:
    ask = b"GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n"
    received = house.raw(
        ask % (b"/healthz", b"") + ask % (b"/nowhere", b"") + ask % (b"/livez", b"Connection: close\r\n")
    )
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", received) == [b"200", b"404", b"200"]


def test_garbage_on_the_tls_port_disturbs_nobody(house: House, caplog: pytest.LogCaptureFixture) -> None:
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 5000, b"\x16\x03\x01\xff\xff" + b"\xaa" * 500, b""):
        with socket.create_connection(("127.0.0.1", house.server.port), 10) as connection:
            connection.sendall(sent)
    assert house.ask("/healthz").status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_client_that_trusts_another_ca_refuses_us(house: House, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text(self_signed(tmp_path, NAMES, time.time()).ca_bundle)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"https://localhost:{house.server.port}/healthz", verify=str(other), timeout=10)


def test_tls_1_1_is_refused_by_the_server(house: House) -> None:
    client = house.trusting()
    client.set_ciphers("DEFAULT@SECLEVEL=0")  # without this, OpenSSL 3 refuses on the client's side already
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    plain = socket.create_connection(("127.0.0.1", house.server.port), 10)
    with plain, pytest.raises(ssl.SSLError, match=r"EOF|(?i:alert protocol version)"):
        client.wrap_socket(plain, server_hostname="localhost")
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with house.connected(client) as tls:
        assert tls.version() == "TLSv1.2"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(house: House, version: ssl.TLSVersion) -> None:
    client = house.trusting()
    client.minimum_version = client.maximum_version = version
    with urllib.request.urlopen(f"https://localhost:{house.server.port}/healthz", context=client) as reply:
        assert reply.read() == b"ok"


def test_a_new_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    house = build(tmp_path)
    with house.server:
        old = ssl.get_server_certificate(("127.0.0.1", house.server.port))
        self_signed(tmp_path, (*NAMES, "new.example"), time.time())
        assert ssl.get_server_certificate(("127.0.0.1", house.server.port)) != old
        assert house.ask("/healthz").status_code == 200
        (tmp_path / "tls.crt").write_text("broken")
        assert house.ask("/healthz").status_code == 200


def test_many_clients_never_see_two_snapshots_in_one_answer(house: House) -> None:
    """Snapshot k gives both roles k replicas; 8 clients ask while 200 snapshots go by."""
    house.publish(wish("chat", "prefill", 0), wish("chat", "decode", 0))
    stop = threading.Event()
    answers: list[tuple[str, ...]] = []
    troubles: list[object] = []

    def client() -> None:
        connection = HTTPSConnection("localhost", house.server.port, timeout=10, context=house.trusting())
        try:
            while not stop.is_set():
                connection.request("GET", DESIRED)
                reply = connection.getresponse()
                body = json.loads(reply.read())
                if reply.status != 200:
                    troubles.append(body)
                    return
                answers.append(tuple(item["value"] for item in body["items"]))
        except OSError as error:
            troubles.append(error)
        finally:
            connection.close()

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    deadline = time.monotonic() + 60
    k = 0
    while (k < 200 or len(set(answers)) < 20) and not troubles and time.monotonic() < deadline:
        k += 1
        house.publish(wish("chat", "prefill", k), wish("chat", "decode", k))
        time.sleep(0.001)
    stop.set()
    for thread in clients:
        thread.join()
    assert not troubles
    assert len(set(answers)) >= 20
    assert all(prefill == decode for prefill, decode in answers)


def test_a_taken_port_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = plain_server("127.0.0.1", port)
        with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            server.start()


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 70000)])
def test_an_impossible_address_is_a_clear_error(host: str, port: int) -> None:
    with pytest.raises(ServerError, match=f"cannot listen on {host} port {port}: "):
        plain_server(host, port).start()


def plain_server(
    host: str = "127.0.0.1", port: int = 0, routers: tuple[APIRouter, ...] = (), limits: ServerLimits = LIMITS
) -> Server:
    board = Board(Limits(30, 60), Clock())
    telemetry = Telemetry(board)
    return Server(compose([Exposition(board, telemetry).router(), *routers], telemetry), host, port, limits=limits)


def test_a_second_plain_server_serves_metrics_health_and_a_status_page() -> None:
    page = APIRouter()

    @page.get("/status")
    def status_page() -> dict[str, str]:
        return {"pool": "chat"}

    with plain_server(routers=(page,)) as server:
        assert server.running
        assert requests.get(f"{server.url}/status", timeout=10).json() == {"pool": "chat"}
        assert requests.get(f"{server.url}/livez", timeout=10).text == "ok"
        assert requests.get(f"{server.url}/metrics", timeout=10).status_code == 200
        assert requests.get(f"{server.url}{DESIRED}", timeout=10).status_code == 404
    assert not server.running


def test_a_broken_page_is_a_status_500_and_logged_once() -> None:
    page = APIRouter()

    @page.get("/broken")
    def broken() -> dict[str, str]:
        raise RuntimeError("secret detail")

    @page.get("/typed")
    def typed(number: int) -> int:
        return number

    with structlog.testing.capture_logs() as logs, plain_server(routers=(page,)) as server:
        reply = requests.get(f"{server.url}/broken", timeout=10)
        assert (reply.status_code, reply.json()["reason"]) == (500, "InternalError")
        assert "secret" not in reply.text
        wrong = requests.get(f"{server.url}/typed?number=x", timeout=10)
        assert (wrong.status_code, wrong.json()["kind"]) == (422, "Status")
        metrics = requests.get(f"{server.url}/metrics", timeout=10).text
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["request failed"]
    assert 'tidegate_api_requests_total{code="500",path="other"} 1.0' in metrics


def test_what_uvicorn_complains_about_goes_to_our_log() -> None:
    with structlog.testing.capture_logs() as logs, plain_server() as server:
        logging.getLogger("uvicorn.error").error("worker %d fell over", 7)
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(b"garbage\r\n\r\n")
            assert b"400 Bad Request" in _everything(connection)
    told = [(entry["log_level"], entry["message"]) for entry in logs if entry["event"] == "uvicorn"]
    assert told == [("error", "worker 7 fell over"), ("debug", "Invalid HTTP request received.")]


def test_ipv6_is_an_address_too() -> None:
    try:
        server = plain_server("::1")
        server.start()
    except ServerError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    try:
        assert server.url == f"http://[::1]:{server.port}"
        assert requests.get(f"{server.url}/livez", timeout=10).text == "ok"
    finally:
        server.stop()


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """Head and body are two writes; with Nagle's algorithm the second waits for a delayed ACK, 40 ms on Linux."""
    with plain_server() as server, requests.Session() as session:
        session.get(f"{server.url}/livez", timeout=10)
        (connection,) = server._uvicorn.server_state.connections
        assert connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_signal_handlers_stay_with_the_main_thread() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with plain_server():
        assert {number: signal.getsignal(number) for number in before} == before
    assert {number: signal.getsignal(number) for number in before} == before


def test_stopping_frees_the_port_and_may_be_repeated() -> None:
    server = plain_server()
    server.start()
    with pytest.raises(ServerError, match="started before"):
        server.start()
    server.stop()
    server.stop()
    with plain_server(port=server.port) as again:
        assert again.port == server.port


def test_stopping_does_not_wait_for_idle_or_silent_clients(certificates: Path) -> None:
    house = build(certificates)
    house.server.start()
    with socket.create_connection(("127.0.0.1", house.server.port), 10), house.connected() as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        house.server.stop()
        assert not house.server.running


def test_a_running_request_is_finished_before_the_end() -> None:
    page = APIRouter()
    entered, leave = threading.Event(), threading.Event()

    @page.get("/slow")
    def slow() -> str:
        entered.set()
        leave.wait(10)
        return "done"

    limits = ServerLimits(stop=10)
    server = plain_server(routers=(page,), limits=limits)
    server.start()
    replies: list[str] = []
    asking = threading.Thread(target=lambda: replies.append(requests.get(f"{server.url}/slow", timeout=20).text))
    asking.start()
    assert entered.wait(10)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: refuses(server.port))
    leave.set()
    stopping.join()
    asking.join()
    assert replies == ['"done"']


def test_a_client_that_dawdles_over_its_request_is_dropped() -> None:
    with plain_server(limits=ServerLimits(head_timeout=0.2)) as server:
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHo")
            assert _everything(connection) == b""
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n12")
            assert _everything(connection).startswith(b"HTTP/1.1 405")
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            assert _everything(connection) == b""


def test_beyond_the_limit_the_connection_that_was_quiet_longest_makes_room() -> None:
    """4 connections fit. The first has just asked, so the second (quiet since then) makes room for the fifth."""
    with plain_server(limits=ServerLimits(connections=4, head_timeout=20)) as server:
        held = [HTTPConnection("127.0.0.1", server.port, timeout=10) for _ in range(5)]
        try:
            for connection in [*held[:4], held[0], held[4]]:
                connection.request("GET", "/healthz")
                assert _code(connection) == 200
            assert held[1].sock.recv(1) == b""
            for connection in (held[0], held[2], held[3], held[4]):
                connection.request("GET", "/healthz")
                assert _code(connection) == 200
        finally:
            for connection in held:
                connection.close()


def _code(connection: HTTPConnection) -> int:
    reply = connection.getresponse()
    reply.read()
    return reply.status


def refuses(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return False
    except OSError:
        return True


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
