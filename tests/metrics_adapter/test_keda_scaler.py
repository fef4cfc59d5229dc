"""KEDA's external scaler over real gRPC: every row of its contract, TLS, streams, health, reflection, garbage."""

import datetime as dt
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Board, Limits, Metric, Published, Wish
from metrics_adapter.exposition import Telemetry
from metrics_adapter.keda import METRIC_NAME, SERVICE, ExternalScaler, Problem, Scaler
from metrics_adapter.keda_externalscaler_pb2 import (
    GetMetricSpecResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    ScaledObjectRef,
)
from metrics_adapter.keda_server import GrpcTls, KedaServer, KedaServerError
from metrics_adapter.keda_trigger import VARIANT_LABEL
from metrics_adapter.tls import self_signed

ROOT = Path(__file__).parents[2]
T0 = 1_767_225_600.0
SOON = 10.0
MESSAGES = {
    "IsActive": IsActiveResponse,
    "GetMetricSpec": GetMetricSpecResponse,
    "GetMetrics": GetMetricsResponse,
}


def wish(desired: float | None, role: str = "decode", *, variant: str | None = None, **more: str) -> Wish:
    labels = {WORKLOAD_LABEL: "chat", ROLE_LABEL: role} | ({VARIANT_LABEL: variant} if variant else {})
    return Wish("serving", labels, {} if desired is None else {Metric.DESIRED: desired}, **more)  # type: ignore[arg-type]


class House:
    def __init__(self, *, strict: bool = False) -> None:
        self.now = T0
        self.board = Board(Limits(soft=30, hard=60), lambda: self.now)
        self.telemetry = Telemetry(self.board)
        self.scaler = Scaler(self.board, self.telemetry, strict)

    def publish(self, *wishes: Wish) -> None:
        self.board.publish(Published(self.now, wishes))


def ref(namespace: str = "serving", **metadata: str) -> ScaledObjectRef:
    return ScaledObjectRef(name="so", namespace=namespace, scalerMetadata={"scalerAddress": "x:1", **metadata})


class Client:
    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def call(self, method: str, asked: ScaledObjectRef, metric: str = METRIC_NAME) -> object:
        message = GetMetricsRequest(scaledObjectRef=asked, metricName=metric) if method == "GetMetrics" else asked
        raw = self.raw(method, message.SerializeToString())
        return MESSAGES[method].FromString(raw)

    def raw(self, method: str, message: bytes) -> bytes:
        return bytes(self.channel.unary_unary(f"/{SERVICE}/{method}")(message, timeout=SOON, wait_for_ready=True))

    def code(self, method: str, asked: ScaledObjectRef, metric: str = METRIC_NAME) -> tuple[str, str]:
        try:
            self.call(method, asked, metric)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        return "OK", ""

    def desired(self, asked: ScaledObjectRef) -> float:
        answer = self.call("GetMetrics", asked)
        assert isinstance(answer, GetMetricsResponse)
        (value,) = answer.metricValues
        assert value.metricValue == value.metricValueFloat
        return value.metricValueFloat

    def active(self, asked: ScaledObjectRef) -> bool:
        answer = self.call("IsActive", asked)
        assert isinstance(answer, IsActiveResponse)
        return answer.result


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def client(house: House) -> Iterator[Client]:
    with KedaServer(house.scaler, "127.0.0.1", 0) as server, grpc.insecure_channel(server.address) as channel:
        yield Client(channel)


CHAT = ref(pool="chat", role="decode")


def test_the_contract_row_by_row(house: House, client: Client) -> None:
    spec = client.call("GetMetricSpec", CHAT)
    assert isinstance(spec, GetMetricSpecResponse)
    assert [(m.metricName, m.targetSize, m.targetSizeFloat) for m in spec.metricSpecs] == [(METRIC_NAME, 1, 1.0)]

    # Starting up: nothing but the spec.
    assert client.code("GetMetrics", CHAT)[0] == client.code("IsActive", CHAT)[0] == "UNAVAILABLE"

    house.publish(wish(6))
    assert (client.desired(CHAT), client.active(CHAT)) == (6, True)
    house.publish(wish(0))
    assert (client.desired(CHAT), client.active(CHAT)) == (0, False)

    # Stale: 60 s is served, a tenth more is not; the state is the last known.
    house.publish(wish(6))
    house.now = T0 + 60
    assert client.desired(CHAT) == 6
    house.now = T0 + 60.1
    code, words = client.code("GetMetrics", CHAT)
    assert code == "UNAVAILABLE"
    assert "60.1 s old, limit 60 s" in words
    assert client.active(CHAT)

    # The next tick heals it.
    house.publish(wish(7))
    assert client.desired(CHAT) == 7

    house.publish(wish(7, blind="no engine reports"))
    code, words = client.code("GetMetrics", CHAT)
    assert code == "UNAVAILABLE"
    assert "blind: no engine reports" in words
    assert client.active(CHAT)

    # Not known is not 0.
    house.publish(wish(None))
    assert client.code("GetMetrics", CHAT)[0] == client.code("IsActive", CHAT)[0] == "UNAVAILABLE"

    house.publish(wish(7, disabled="`enabled: false`"))
    assert client.code("GetMetrics", CHAT)[0] == client.code("IsActive", CHAT)[0] == "NOT_FOUND"

    # An unknown pool is an error in IsActive as well: False would scale it to zero.
    for method in ("GetMetrics", "IsActive"):
        code, words = client.code(method, ref(pool="caht"))
        assert code == "NOT_FOUND"
        assert "serving/caht" in words
    assert client.code("GetMetricSpec", ref(pool="caht"))[0] == "OK"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (ref(), "metadata pool: is missing"),
        (ref(pool=""), "metadata pool: '' is no name"),
        (ref(pool="chat", role="decoder"), "metadata role: 'decoder' is not one of prefill, decode, colocated"),
        (ref(pool="chat"), "metadata role: is missing, and serving/chat has several (decode, prefill)"),
        (ref(namespace="", pool="chat"), "namespace ''"),
        (ref(pool="x" * 64), "at most 63"),
    ],
)
def test_bad_metadata_is_an_invalid_argument(asked: ScaledObjectRef, words: str, house: House, client: Client) -> None:
    house.publish(wish(6), wish(3, "prefill"))
    code, told = client.code("GetMetrics", asked)
    assert (code, words in told) == ("INVALID_ARGUMENT", True), told
    assert client.code("IsActive", asked)[0] == "INVALID_ARGUMENT"
    assert client.code("GetMetricSpec", asked)[0] == "OK"


def test_role_and_variant_choose_one_wish(house: House, client: Client) -> None:
    house.publish(wish(6), wish(3, "prefill"), wish(4, variant="h100"), wish(2, variant="l40s"))
    assert client.desired(ref(pool="chat", role="prefill")) == 3
    assert client.desired(ref(pool="chat", role="decode")) == 6  # the whole, not one of its variants
    assert client.desired(ref(pool="chat", role="decode", variant="l40s")) == 2
    assert client.active(ref(pool="chat", role="decode"))
    house.publish(wish(4, variant="h100"), wish(2, variant="l40s"))
    code, words = client.code("GetMetrics", CHAT)
    assert (code, "has several (h100, l40s)" in words) == ("INVALID_ARGUMENT", True)


def test_fractions_are_rounded_up_for_old_clients_only(house: House, client: Client) -> None:
    house.publish(wish(2.25))
    answer = client.call("GetMetrics", CHAT)
    assert isinstance(answer, GetMetricsResponse)
    assert [(value.metricValue, value.metricValueFloat) for value in answer.metricValues] == [(3, 2.25)]


def test_only_one_metric_is_served_under_its_name(house: House, client: Client) -> None:
    house.publish(wish(6))
    assert client.code("GetMetrics", CHAT, "s0-" + METRIC_NAME)[0] == "OK"
    assert client.code("GetMetrics", CHAT, "")[0] == "OK"
    assert client.code("GetMetrics", CHAT, "queue-length")[0] == "INVALID_ARGUMENT"


def test_strict_mode_refuses_keys_nobody_reads_in_the_spec() -> None:
    house = House(strict=True)
    with KedaServer(house.scaler, "127.0.0.1", 0) as server, grpc.insecure_channel(server.address) as channel:
        client = Client(channel)
        assert client.code("GetMetricSpec", ref(pool="chat", rol="decode")) == (
            "INVALID_ARGUMENT",
            "metadata 'rol': nobody reads this key; did you mean 'role'?",
        )
        assert client.code("GetMetricSpec", ref(pool="chat", enableTLS="true"))[0] == "OK"


class Stream:
    """Reads a stream on a thread: states as they come, then the code it ended with."""

    def __init__(self, channel: grpc.Channel, method: str, asked: ScaledObjectRef) -> None:
        self.call = channel.unary_stream(f"/{SERVICE}/{method}")(asked.SerializeToString(), wait_for_ready=True)
        self.got: queue.Queue[object] = queue.Queue()
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        try:
            for message in self.call:
                self.got.put(message)
        except grpc.RpcError as error:
            self.got.put(error.code().name)

    def next(self) -> object:
        return self.got.get(timeout=SOON)

    def state(self) -> object:
        found = self.next()
        return IsActiveResponse.FromString(found).result if isinstance(found, bytes) else found

    def close(self) -> None:
        self.call.cancel()
        self.thread.join(SOON)


def test_the_stream_says_the_state_at_once_and_each_change(house: House, client: Client) -> None:
    house.publish(wish(0))
    stream = Stream(client.channel, "StreamIsActive", CHAT)
    assert stream.state() is False
    house.publish(wish(3))
    assert stream.state() is True
    house.publish(wish(5))
    house.publish(wish(5, blind="gone"))  # neither more replicas nor blindness is a change of state
    house.now += 1000
    house.publish(wish(0))
    assert stream.state() is False
    assert stream.got.empty()
    house.publish()
    assert stream.state() == "NOT_FOUND"
    stream.close()


def test_streams_that_cannot_begin_end_with_the_reason(client: Client) -> None:
    for asked, code in ((CHAT, "UNAVAILABLE"), (ref(), "INVALID_ARGUMENT")):
        stream = Stream(client.channel, "StreamIsActive", asked)
        assert stream.state() == code
        stream.close()


def test_streams_end_when_the_server_stops_and_are_forgotten_when_the_client_goes(house: House) -> None:
    house.publish(wish(3))
    with KedaServer(house.scaler, "127.0.0.1", 0) as server, grpc.insecure_channel(server.address) as channel:
        stays, specs = Stream(channel, "StreamIsActive", CHAT), Stream(channel, "StreamMetricSpec", CHAT)
        assert stays.state() is True
        spec = specs.next()
        assert isinstance(spec, bytes)
        assert GetMetricSpecResponse.FromString(spec).metricSpecs[0].targetSizeFloat == 1.0
        server.stop()
        assert (stays.next(), specs.next()) == ("UNAVAILABLE", "UNAVAILABLE")
        stays.close()
        specs.close()


def test_a_bounded_number_of_streams_is_held_open(house: House) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only this test makes a server by hand

    house.publish(wish(3))
    with ThreadPoolExecutor(2) as pool:
        scaler = ExternalScaler(house.scaler, pool, most_streams=1)
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((scaler.handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            first = Stream(channel, "StreamIsActive", CHAT)
            assert first.state() is True
            second = Stream(channel, "StreamIsActive", CHAT)
            assert second.state() == "RESOURCE_EXHAUSTED"
            first.close()
            deadline = time.monotonic() + SOON
            while scaler.streams and time.monotonic() < deadline:
                time.sleep(0.01)
            assert scaler.streams == 0
            second.close()
        server.stop(0).wait()


def test_health_and_reflection(client: Client) -> None:
    health = health_pb2_grpc.HealthStub(client.channel)
    for name in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=SOON, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(client.channel).ServerReflectionInfo(iter([asked]))
    assert SERVICE in {service.name for service in answer.list_services_response.service}


def test_calls_are_counted(house: House, client: Client) -> None:
    house.publish(wish(6))
    client.desired(CHAT)
    client.code("GetMetrics", ref())
    text = house.telemetry.text("")[0].decode()
    assert 'tidegate_grpc_requests_total{code="OK",method="GetMetrics"} 1.0' in text
    assert 'tidegate_grpc_requests_total{code="INVALID_ARGUMENT",method="GetMetrics"} 1.0' in text


def test_an_address_that_is_taken_is_an_error(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(KedaServerError, match=f"127.0.0.1:{port}"):
            KedaServer(house.scaler, "127.0.0.1", port).start()


def signed(folder: Path, name: str, days: int = 1) -> tuple[bytes, bytes, bytes]:
    """A CA of its own, and a client certificate it signed: (ca, certificate, key)."""
    now = dt.datetime.now(dt.UTC)

    def made(
        subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, *, ca: bool
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=3))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        return builder.sign(by, hashes.SHA256()).public_bytes(Encoding.PEM)

    authority, client = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = made(f"{name}-ca", f"{name}-ca", authority, authority, ca=True)
    (folder / f"{name}-ca.pem").write_bytes(ca)
    certificate = made(name, f"{name}-ca", client, authority, ca=False)
    return ca, certificate, client.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def over_tls(address: str, ca: bytes, pair: tuple[bytes, bytes] | None = None) -> str:
    """The code of one call with these certificates."""
    key, certificate = (pair[1], pair[0]) if pair else (None, None)
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate)) as channel:
        try:
            channel.unary_unary(f"/{SERVICE}/GetMetricSpec")(b"", timeout=SOON)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def test_tls_and_mtls(house: House, tmp_path: Path) -> None:
    made = self_signed(tmp_path / "server", ("localhost", "127.0.0.1"), time.time())
    ours = made.ca_bundle.encode()
    _, certificate, key = signed(tmp_path, "keda")
    _, other, other_key = signed(tmp_path, "stranger")
    with KedaServer(house.scaler, "127.0.0.1", 0, GrpcTls(made.cert, made.key)) as server:
        assert over_tls(server.address, ours) == "OK"
        assert over_tls(server.address, (tmp_path / "stranger-ca.pem").read_bytes()) == "UNAVAILABLE"
    mutual = GrpcTls(made.cert, made.key, tmp_path / "keda-ca.pem")
    with KedaServer(house.scaler, "127.0.0.1", 0, mutual) as server:
        assert over_tls(server.address, ours, (certificate, key)) == "OK"
        assert over_tls(server.address, ours) == "UNAVAILABLE"
        assert over_tls(server.address, ours, (other, other_key)) == "UNAVAILABLE"


def test_an_expired_client_certificate_is_refused(house: House, tmp_path: Path) -> None:
    made = self_signed(tmp_path / "server", ("localhost", "127.0.0.1"), time.time())
    _, certificate, key = signed(tmp_path, "keda", days=-1)
    with KedaServer(house.scaler, "127.0.0.1", 0, GrpcTls(made.cert, made.key, tmp_path / "keda-ca.pem")) as server:
        assert over_tls(server.address, made.ca_bundle.encode(), (certificate, key)) == "UNAVAILABLE"


def test_a_new_certificate_is_served_without_a_restart_and_a_broken_one_is_not(house: House, tmp_path: Path) -> None:
    first = self_signed(tmp_path / "one", ("localhost", "127.0.0.1"), time.time())
    second = self_signed(tmp_path / "two", ("localhost", "127.0.0.1"), time.time())
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    cert.write_bytes(first.cert.read_bytes())
    key.write_bytes(first.key.read_bytes())
    with KedaServer(house.scaler, "127.0.0.1", 0, GrpcTls(cert, key)) as server:
        assert over_tls(server.address, first.ca_bundle.encode()) == "OK"
        cert.write_text("not a certificate")
        assert over_tls(server.address, first.ca_bundle.encode()) == "OK"
        key.write_bytes(second.key.read_bytes())
        cert.write_bytes(second.cert.read_bytes())
        os.utime(cert, (1, 1))  # a change is seen whatever the clock of the file system
        assert over_tls(server.address, second.ca_bundle.encode()) == "OK"


def test_a_certificate_that_cannot_be_used_stops_the_start(house: House, tmp_path: Path) -> None:
    made = self_signed(tmp_path / "server", ("localhost",), time.time())
    with pytest.raises(KedaServerError, match=r"absent\.crt"):
        KedaServer(house.scaler, "127.0.0.1", 0, GrpcTls(tmp_path / "absent.crt", made.key)).start()
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(KedaServerError, match=r"ca\.pem: holds no PEM certificate"):
        KedaServer(house.scaler, "127.0.0.1", 0, GrpcTls(made.cert, made.key, tmp_path / "ca.pem")).start()


EXPECTED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE"}


def fuzzed() -> Scaler:
    house = House()
    house.publish(wish(6), wish(3, "prefill"), wish(None, "colocated"))
    return house.scaler


@given(
    st.text(max_size=70) | st.just("serving"),
    st.dictionaries(
        st.sampled_from(["pool", "role", "variant", "scalerAddress"]) | st.text(max_size=9),
        st.text() | st.sampled_from(["chat", "decode", "prefill"]),
        max_size=5,
    ),
    st.text(max_size=60) | st.just(METRIC_NAME),
)
def test_any_metadata_gets_a_clear_answer(namespace: str, metadata: dict[str, str], metric: str) -> None:
    scaler = fuzzed()
    try:
        asked = ScaledObjectRef(name="x", namespace=namespace, scalerMetadata=metadata)
    except (UnicodeEncodeError, ValueError):
        return  # surrogates cannot be sent either
    raw = GetMetricsRequest(scaledObjectRef=asked, metricName=metric).SerializeToString()
    for found in (scaler.metrics(raw), scaler.active(asked.SerializeToString()), scaler.spec(raw)):
        code = found.code.name if isinstance(found, Problem) else "OK"
        assert code in EXPECTED
        if isinstance(found, Problem):
            assert found.message
            assert found.message.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_get_a_clear_answer(raw: bytes) -> None:
    scaler = fuzzed()
    for answer in (scaler.metrics, scaler.active, scaler.spec):
        found = answer(raw)
        assert not isinstance(found, Problem) or found.code.name in EXPECTED


def test_bytes_that_are_no_message_are_refused_over_the_wire(client: Client) -> None:
    for method in ("GetMetrics", "IsActive"):
        with pytest.raises(grpc.RpcError) as raised:
            client.raw(method, b"\xff\xff\xff")
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_the_generated_messages_are_those_of_the_proto() -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools makes the Python of the .proto")
    script = ROOT / "scripts" / "generate_proto.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
