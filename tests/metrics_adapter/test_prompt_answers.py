"""Answers given without a task: the same as the usual ones, in order, and behind the same gate."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import structlog

sys.path.append(str(Path(__file__).parent))
from aggregated_rig import PROXY, open_house, wish

from metrics_adapter.board import ROLE_LABEL, Board, Limits, Published
from metrics_adapter.client_certificates import ClientCertificate
from metrics_adapter.custom import CustomMetrics
from metrics_adapter.exposition import Exposition, Telemetry
from metrics_adapter.external import ExternalMetrics
from metrics_adapter.gate import CLIENT, Gate, GateLimits, Outcome
from metrics_adapter.gate_meter import GateCounts
from metrics_adapter.identity import AuthorityError, Identity, Trust, Verdict
from metrics_adapter.protocol import ServerLimits
from metrics_adapter.server import Server, compose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregated_rig import House

    from metrics_adapter.identity import Attributes

EXTERNAL = "/apis/external.metrics.k8s.io/v1beta1/namespaces"
CUSTOM = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/serving"
DESIRED = f"{EXTERNAL}/serving/tidegate_desired_replicas"


@pytest.fixture
def plain() -> Iterator[tuple[Server, Board, Telemetry]]:
    board = Board(Limits(30, 60), time.time)
    telemetry = Telemetry(board)
    board.publish(Published(time.time(), (wish("chat", "decode", 6, "chat-decode"), wish("chat", "prefill", 2))))
    direct = [ExternalMetrics(board, telemetry), CustomMetrics(board, telemetry)]
    app = compose([Exposition(board, telemetry).router()], telemetry, direct=direct)
    with Server(app, "127.0.0.1", 0, limits=ServerLimits(head_timeout=0.5, stop=1)) as server:
        yield server, board, telemetry


def _everything(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def asked(port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        told = {name.lower(): value for name, value in reply.getheaders() if name.lower() != "connection"}
        assert told.pop("date", "").endswith(" GMT")
        return reply.status, reply.read(), told
    finally:
        connection.close()


@pytest.mark.parametrize(
    "path",
    [
        DESIRED,
        f"{DESIRED}?labelSelector={quote(f'{ROLE_LABEL}=decode', safe='')}",
        f"{DESIRED}?labelSelector=a+b",
        f"{DESIRED}?labelSelector=%FF",
        f"{DESIRED}?" + "&".join("x=1" for _ in range(200)),
        f"{DESIRED}?labelSelector={quote(f'{ROLE_LABEL} in (' + ','.join(f'v{k}' for k in range(200)) + ')')}",
        f"{EXTERNAL}/other/tidegate_desired_replicas",
        f"{EXTERNAL}/serving/tidegate_desired_replicas/more",
        f"{CUSTOM}/deployments.apps/chat-decode/tidegate_desired_replicas",
        f"{CUSTOM}/deployments.apps/*/tidegate_desired_replicas",
        f"{CUSTOM}/metrics/tidegate_desired_replicas",
        "/healthz",
        "/nowhere",
    ],
)
def test_it_is_what_the_app_answers(plain: tuple[Server, Board, Telemetry], path: str) -> None:
    """`Connection: close` takes the usual way through a task."""
    server, _, _ = plain
    assert asked(server.port, path, {}) == asked(server.port, path, {"Connection": "close"})


def test_each_is_counted_once(plain: tuple[Server, Board, Telemetry]) -> None:
    server, _, telemetry = plain
    for _ in range(3):
        assert asked(server.port, DESIRED, {})[0] == 200
    assert asked(server.port, f"{EXTERNAL}/x/y", {})[0] == 404
    text = telemetry.text("")[0].decode()
    assert 'tidegate_api_requests_total{code="200",path="external"} 3.0' in text
    assert 'tidegate_api_requests_total{code="404",path="external"} 1.0' in text
    assert 'tidegate_answers_total{freshness="fresh"} 3.0' in text


def test_prompt_and_usual_answers_keep_the_order_of_a_pipeline(plain: tuple[Server, Board, Telemetry]) -> None:
    server, _, _ = plain
    get = "GET {} HTTP/1.1\r\nHost: x\r\n{}\r\n"
    sent = [DESIRED, "/healthz", f"{EXTERNAL}/x/y", "/healthz", DESIRED, f"{DESIRED}?labelSelector=a+b"]
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        lines = "".join(get.format(path, "") for path in sent)
        # A body that a GET may have is read and dropped before the answer.
        lines += (
            get.format(DESIRED, "Content-Length: 5\r\n") + "xxxxx" + get.format("/healthz", "Connection: close\r\n")
        )
        connection.sendall(lines.encode())
        received = _everything(connection)
    codes = [b"200", b"200", b"404", b"200", b"200", b"400", b"200", b"200"]
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", received) == codes


def test_a_client_that_asks_and_never_reads_stops_being_read(plain: tuple[Server, Board, Telemetry]) -> None:
    """4,000 answers of 0.5 KB are 2 MB: what was not taken waits at the client, and all of it comes in the end."""
    server, _, _ = plain
    many = 4_000
    ask = f"GET {DESIRED} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    last = f"GET {DESIRED} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.connect(("127.0.0.1", server.port))
        greedy.settimeout(0)
        sent, waiting = 0, ask * many + last
        deadline = time.monotonic() + 20
        while sent < len(waiting) and time.monotonic() < deadline:
            try:
                sent += greedy.send(waiting[sent : sent + 65536])
            except BlockingIOError:
                if asked(server.port, DESIRED, {})[0] == 200:  # others are served meanwhile
                    break
        greedy.settimeout(20)
        received = b""
        while True:
            if sent < len(waiting):
                sent += greedy.send(waiting[sent : sent + 65536])
            chunk = greedy.recv(1 << 20)
            if not chunk:
                break
            received += chunk
    assert received.count(b"HTTP/1.1 200 OK") == many + 1


def test_half_a_request_after_a_whole_one_has_its_deadline(plain: tuple[Server, Board, Telemetry]) -> None:
    server, _, _ = plain
    whole = f"GET {DESIRED} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    for rest in (b"GET /he", b"\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(whole)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.sendall(rest)
            began = time.monotonic()
            assert connection.recv(65536) == b""
            assert time.monotonic() - began < 8  # far from the 120 s that an idle connection has


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("prompt")) as made:
        yield made


def test_a_remembered_permission_is_for_that_user_and_certificate_only(house: House) -> None:
    """One connection, one certificate: whoever the front proxy names next is judged anew."""
    house.publish(wish("chat", "decode", 6, "chat-decode"))
    house.cluster.forbidden = {"mallory"}
    context = ssl.create_default_context(cafile=house.bundle)
    context.load_cert_chain(*house.ca.client())
    address = ("localhost", int(house.url.rpartition(":")[2]))
    connection = http.client.HTTPSConnection(*address, timeout=10, context=context)

    def code(user: str | None, path: str = DESIRED) -> int:
        connection.request("GET", path, headers={} if user is None else {"X-Remote-User": user})
        reply = connection.getresponse()
        reply.read()
        return reply.status

    try:
        assert [code("hpa"), code("hpa"), code("hpa")] == [200, 200, 200]
        assert len(house.cluster.reviews("SubjectAccessReview")) == 1
        assert code("mallory") == 403
        assert code("hpa", DESIRED.replace("serving", "other")) == 404
        assert len(house.cluster.reviews("SubjectAccessReview")) == 3
        assert code(None) == 401
    finally:
        connection.close()
    assert house.counted('tidegate_api_admitted_total{by="front-proxy"} 4.0')
    anonymous = http.client.HTTPSConnection(
        *address, timeout=10, context=ssl.create_default_context(cafile=house.bundle)
    )
    try:
        anonymous.request("GET", DESIRED, headers={"X-Remote-User": "hpa", "X-Remote-Group": "system:masters"})
        assert anonymous.getresponse().status == 401
    finally:
        anonymous.close()


class _Cluster:
    """Allows; its front proxy is what the test says."""

    def __init__(self, trust: Trust | None) -> None:
        self.known = trust

    def review(self, _token: str, /) -> Identity | None:
        return None

    def decide(self, _identity: Identity, _attributes: Attributes, /) -> Verdict:
        raise AuthorityError("not asked here")

    def trust(self) -> Trust | None:
        return self.known

    def doubt(self) -> None:
        pass


MASTERS = [(b"x-remote-user", b"root"), (b"x-remote-group", b"system:masters")]
GOOD = ClientCertificate(common_name=PROXY, generation=1)


@pytest.mark.parametrize(
    ("shown", "trust", "headers", "admitted"),
    [
        (GOOD, Trust("pem", frozenset({PROXY})), MASTERS, True),
        (GOOD, Trust("pem"), MASTERS, True),
        (None, Trust("pem"), MASTERS, False),
        (GOOD, None, MASTERS, False),
        (GOOD, Trust("pem", frozenset({"other"})), MASTERS, False),
        (GOOD, Trust("pem", generation=2), MASTERS, False),
        (GOOD, Trust("pem", generation=2, accepted=frozenset({1})), MASTERS, True),
        (ClientCertificate(problem="expired", generation=1), Trust("pem"), MASTERS, False),
        (GOOD, Trust("pem"), [(b"x-remote-group", b"system:masters")], False),
        (GOOD, Trust("pem"), [(b"x-remote-user", b"root")], False),
        (GOOD, Trust("pem", username_headers=("x-other",)), MASTERS, False),
    ],
)
def test_only_what_is_certain_is_let_in_at_once(
    shown: ClientCertificate | None, trust: Trust | None, headers: list[tuple[bytes, bytes]], admitted: bool
) -> None:
    cluster = _Cluster(trust)
    gate = Gate(cluster, cluster, GateCounts(Telemetry(Board(Limits(1, 1), time.time)).registry), GateLimits())
    try:
        scope = {"path": DESIRED, "headers": headers, "extensions": {CLIENT: shown}}
        assert gate.admits(scope) == (Outcome.FRONT_PROXY if admitted else None)
        cluster.known = None  # the authorities are gone: nobody is remembered
        assert gate.admits(scope) is None
    finally:
        gate.close()


class _Broken:
    """A door with a bug."""

    def direct(self, _path: str, _query: bytes, /) -> None:
        raise ZeroDivisionError


def test_a_broken_answer_is_a_500_with_a_status_and_the_connection_lives_on() -> None:
    board = Board(Limits(30, 60), time.time)
    telemetry = Telemetry(board)
    app = compose([], telemetry, direct=[_Broken()])
    with structlog.testing.capture_logs() as logged, Server(app, "127.0.0.1", 0) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            for _ in range(2):
                connection.request("GET", DESIRED)
                reply = connection.getresponse()
                assert (reply.status, json.loads(reply.read())["reason"]) == (500, "InternalError")
        finally:
            connection.close()
    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == ["request failed"]
    assert 'tidegate_api_requests_total{code="500",path="external"} 2.0' in telemetry.text("")[0].decode()
