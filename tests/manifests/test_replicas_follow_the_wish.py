"""Closed loops: with the generated objects, replicas become the wish in one sync, for every N and every step.

The controller is the arithmetic of Kubernetes 1.36 (`hpa_sync`, checked against a real one's reactions); the wish goes
through the real answers: the board and its HTTPS API, and KEDA's calls over gRPC.
"""

import json
import ssl
import time
import urllib.request
from pathlib import Path

import grpc
import pytest

from autoscaler.configuration import load
from autoscaler.demo.hpa_follower import read_answer
from autoscaler.manifests import hpa, scaled
from autoscaler.policies.hpa_maths import HpaMemory, Policy, PolicyKind, ScalingRules, SelectPolicy
from autoscaler.policies.hpa_sync import HpaSpec, NotServed, Served, sync
from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Board, Limits, Metric, Published, Wish
from metrics_adapter.exposition import Telemetry
from metrics_adapter.external import ExternalMetrics
from metrics_adapter.keda import METRIC_NAME, SERVICE, Scaler
from metrics_adapter.keda_externalscaler_pb2 import (
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    ScaledObjectRef,
)
from metrics_adapter.keda_rest import KedaRest
from metrics_adapter.keda_server import KedaServer
from metrics_adapter.server import Server, compose
from metrics_adapter.tls import load as tls_context
from metrics_adapter.tls import self_signed

MOST = 60
SYNC_S = 15.0


def rules(made: dict[str, object]) -> ScalingRules:
    policies = made["policies"]
    assert isinstance(policies, list)
    return ScalingRules(
        tuple(Policy(PolicyKind(one["type"]), one["value"], one["periodSeconds"]) for one in policies),
        SelectPolicy(str(made["selectPolicy"])),
        float(str(made["stabilizationWindowSeconds"])),
        float(str(made["tolerance"])),
    )


@pytest.fixture
def spec(tmp_path: Path) -> HpaSpec:
    """The generated HPA as the controller reads it."""
    file = tmp_path / "c.yaml"
    target = "{name: chat}"
    file.write_text(
        f"pools: [{{name: chat, roles: {{decode: {{min_replicas: 0, max_replicas: {MOST}, target: {target}}}}}}}]"
    )
    made = hpa(scaled(load(file).settings)[0], to_zero=True)["spec"]
    target = made["metrics"][0]["external"]["target"]
    assert target["type"] == "AverageValue"
    milli = 1000 * int(target["averageValue"])
    up, down = (rules(made["behavior"][direction]) for direction in ("scaleUp", "scaleDown"))
    return HpaSpec(made["minReplicas"], made["maxReplicas"], milli, up, down)


def test_every_step_from_every_size_is_followed_in_one_sync(spec: HpaSpec) -> None:
    for before in range(MOST + 1):
        for wish in range(MOST + 1):
            status, _ = sync(spec, HpaMemory(), 0.0, (before, before), Served((1000 * wish,)))
            # 0 is followed down; from 0 up as well, with the gate that minReplicas 0 needs.
            assert status.replicas == wish, (before, wish)


def test_a_walk_through_all_sizes_is_followed_sync_by_sync(spec: HpaSpec) -> None:
    # The policies look back over 15 s: steps of every size, up and down, one sync after another.
    memory, replicas = HpaMemory(), 1
    for number, wish in enumerate([n for step in range(1, MOST) for n in range(1, MOST + 1, step)]):
        status, memory = sync(spec, memory, SYNC_S * number, (replicas, replicas), Served((1000 * wish,)))
        replicas = status.replicas
        assert replicas == wish


def test_status_lagging_behind_spec_does_not_move_the_target(spec: HpaSpec) -> None:
    # A rolling update with surge: status has 12 of 10; with tolerance 0 each sync says the wish again.
    for existing in (8, 10, 11, 12):
        assert sync(spec, HpaMemory(), 0.0, (10, existing), Served((10_000,)))[0].replicas == 10


def test_without_tolerance_zero_single_steps_from_ten_on_are_swallowed(spec: HpaSpec) -> None:
    banded = HpaSpec(
        0,
        MOST,
        up=ScalingRules(spec.up.policies, tolerance=0.1),
        down=ScalingRules(spec.down.policies, tolerance=0.1),
    )
    swallowed = [
        n for n in range(1, MOST) if sync(banded, HpaMemory(), 0.0, (n, n), Served((1000 * (n + 1),)))[0].replicas == n
    ]
    assert swallowed == list(range(10, MOST))


class House:
    def __init__(self) -> None:
        self.now = 1_767_225_600.0
        self.board = Board(Limits(soft=30, hard=60), lambda: self.now)
        self.telemetry = Telemetry(self.board)

    def publish(self, desired: float, **more: str) -> None:
        labels = {WORKLOAD_LABEL: "chat", ROLE_LABEL: "decode"}
        wish = Wish("serving", labels, {Metric.DESIRED: desired}, **more)  # type: ignore[arg-type]
        self.board.publish(Published(self.now, (wish,)))


def test_the_real_https_answer_is_followed_and_a_stale_one_holds(spec: HpaSpec, tmp_path: Path) -> None:
    house = House()
    made = self_signed(tmp_path, ("127.0.0.1",), time.time())
    trusted = ssl.create_default_context(cadata=made.ca_bundle)
    app = compose([], house.telemetry, direct=[ExternalMetrics(house.board, house.telemetry)])
    path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/serving/tidegate_desired_replicas"
    query = "?labelSelector=tidegate.dev%2Fworkload%3Dchat%2Ctidegate.dev%2Frole%3Ddecode"
    with Server(app, "127.0.0.1", 0, tls_context(made.cert, made.key, time.time())) as server:

        def asked() -> Served | NotServed:
            opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusted), _Anything())
            with opener.open(server.url + path + query, timeout=10) as answer:
                return read_answer(answer.status, answer.read())

        memory, replicas = HpaMemory(), 5
        for number, wish in enumerate([6, 10, 11, 40, 39, 12, 11, 10, 9, 1, 0, 60, 59, 0]):
            house.publish(wish)
            status, memory = sync(spec, memory, SYNC_S * number, (replicas, replicas), asked())
            replicas = status.replicas
            assert (replicas, status.active) == (wish, True)
        house.publish(7)
        house.now += 61
        status, memory = sync(spec, memory, 1000.0, (replicas, replicas), asked())
        assert (status.replicas, status.active) == (replicas, False)
        assert "61 s old, limit 60 s" in status.message


class _Anything(urllib.request.HTTPErrorProcessor):
    """Errors are answers, too."""

    def http_response(self, _request: object, response: object) -> object:  # type: ignore[override]
        return response

    https_response = http_response  # type: ignore[assignment]


class Keda:
    """What KEDA does at each poll and HPA read, as measured: spec, value, state; 0 <-> 1 is its own doing."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.ref = ScaledObjectRef(name="so", namespace="serving", scalerMetadata={"pool": "chat", "role": "decode"})
        self.call = {name: channel.unary_unary(f"/{SERVICE}/{name}") for name in ("GetMetrics", "IsActive")}

    def read(self) -> tuple[Served | NotServed, bool]:
        request = GetMetricsRequest(scaledObjectRef=self.ref, metricName=METRIC_NAME).SerializeToString()
        try:
            raw = self.call["GetMetrics"](request, timeout=10, wait_for_ready=True)
            state = self.call["IsActive"](self.ref.SerializeToString(), timeout=10)
        except grpc.RpcError as error:
            return NotServed(str(error.details())), True
        values = GetMetricsResponse.FromString(raw).metricValues
        return Served(tuple(round(1000 * value.metricValueFloat) for value in values)), IsActiveResponse.FromString(
            state
        ).result

    def follow(self, spec: HpaSpec, replicas: int) -> int:
        answer, active = self.read()
        if isinstance(answer, Served) and replicas == 0 and active:
            replicas = 1
        if replicas == 0:
            return 0
        within = HpaSpec(1, spec.max_replicas, spec.average_value_milli, spec.up, spec.down)
        replicas = sync(within, HpaMemory(), 0.0, (replicas, replicas), answer)[0].replicas
        return 0 if not active and replicas == 1 else replicas


def test_kedas_way_follows_every_size_wakes_from_zero_and_holds_on_an_error(spec: HpaSpec) -> None:
    house = House()
    with (
        KedaServer(Scaler(house.board, house.telemetry), "127.0.0.1", 0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        keda, replicas = Keda(channel), 0
        for wish in [*range(MOST + 1), *range(MOST, -1, -1), *(n for n in range(MOST + 1) for n in (0, n))]:
            house.publish(wish)
            replicas = keda.follow(spec, replicas)
            assert replicas == wish
        house.publish(9)
        replicas = keda.follow(spec, replicas)
        house.publish(0, blind="no engine reports")
        assert keda.follow(spec, replicas) == 9
        house.publish(3)
        house.now += 61
        assert keda.follow(spec, replicas) == 9


def test_kedas_own_end_to_end_steps_are_followed_over_grpc(spec: HpaSpec) -> None:
    """KEDA's `external_scaler_so`: at most 3 replicas; 0, the threshold, twice that, 22.222 over 6.111, and 0 again.

    There KEDA divides value by threshold; here the wish is the quotient: 22.222 / 6.111 = 3.636..., so 4, but 3 are
    allowed. Half of the threshold wants 1.
    """
    house = House()
    three = HpaSpec(1, 3, spec.average_value_milli, spec.up, spec.down)
    with (
        KedaServer(Scaler(house.board, house.telemetry), "127.0.0.1", 0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        keda, replicas, seen = Keda(channel), 0, []
        for value, threshold in [(0, 6.111), (6.111, 6.111), (12.222, 6.111), (22.222, 6.111), (3.0555, 6.111), (0, 1)]:
            house.publish(value / threshold)
            replicas = keda.follow(three, replicas)
            seen.append(replicas)
    assert seen == [0, 1, 2, 3, 1, 0]


def test_the_json_endpoint_answers_or_says_why(tmp_path: Path) -> None:
    house = House()
    app = compose([KedaRest(house.board, house.telemetry).router()], house.telemetry)
    with Server(app, "127.0.0.1", 0) as server:

        def get(path: str) -> tuple[int, dict[str, object]]:
            opener = urllib.request.build_opener(_Anything())
            with opener.open(f"{server.url}/keda/v1/namespaces/serving/pools/{path}", timeout=10) as answer:
                return answer.status, json.loads(answer.read())

        assert get("chat/roles/decode")[0] == 503
        house.publish(6)
        assert get("chat/roles/decode") == (
            200,
            {"desired": 6, "active": True, "ageing": False, "pool": "serving/chat/decode"},
        )
        assert get("chat")[1]["desired"] == 6
        assert get("chat/roles/prefill")[0] == get("caht")[0] == 404
        assert get("chat/roles/x")[0] == get("chat?variant=%FF%00")[0] == 400
        house.now += 61
        code, told = get("chat/roles/decode")
        assert (code, "limit 60 s" in str(told["message"])) == (503, True)
    assert not list(tmp_path.iterdir())
