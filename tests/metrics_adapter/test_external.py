"""The external metrics API in process: every shape of path, every kind of answer, and no path to a 500."""

import asyncio
import json
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Board, Limits, Metric, Published, Wish
from metrics_adapter.discovery import Discovery, Documents
from metrics_adapter.exposition import Exposition, Telemetry
from metrics_adapter.external import ExternalMetrics, status
from metrics_adapter.selectors import SelectorError, parse
from metrics_adapter.server import compose
from metrics_adapter.wire import selector_of

T0 = 1_767_225_600.0  # 2026-01-01T00:00:00Z
V1BETA1 = "/apis/external.metrics.k8s.io/v1beta1"
DESIRED = f"{V1BETA1}/namespaces/serving/tidegate_desired_replicas"


class Reply(NamedTuple):
    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Clock:
    now = T0

    def __call__(self) -> float:
        return self.now


class House:
    """A board, its app, and a client that speaks ASGI."""

    def __init__(self, discovery: Discovery = Discovery.STATIC, group: str = "external.metrics.k8s.io") -> None:
        self.clock = Clock()
        self.board = Board(Limits(soft=30, hard=60), self.clock)
        self.telemetry = Telemetry(self.board)
        api = ExternalMetrics(self.board, self.telemetry, group, discovery)
        self.app = compose(
            [Documents((api.described(),)).router(), Exposition(self.board, self.telemetry).router()],
            self.telemetry,
            None,
            [api],
        )

    def publish(self, *wishes: Wish) -> None:
        self.board.publish(Published(self.clock.now, wishes))

    def ask(self, target: str | bytes, method: str = "GET") -> Reply:
        raw = target.encode() if isinstance(target, str) else target
        path, _, query = raw.partition(b"?")
        return asyncio.run(self._ask(path, query, method))

    async def _ask(self, path: bytes, query: bytes, method: str) -> Reply:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": _as_uvicorn_decodes(path),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [],
            "server": ("127.0.0.1", 1),
            "client": ("127.0.0.1", 2),
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


def _as_uvicorn_decodes(path: bytes) -> str:
    return unquote(path.decode("ascii", errors="replace"))


def wish(workload: str, role: str, desired: float, **more: Any) -> Wish:
    return Wish("serving", {WORKLOAD_LABEL: workload, ROLE_LABEL: role}, {Metric.DESIRED: desired}, **more)


def selecting(text: str) -> str:
    return f"{DESIRED}?labelSelector={quote(text, safe='')}"


@pytest.fixture
def house() -> House:
    made = House()
    made.publish(wish("chat", "prefill", 2), wish("chat", "decode", 6), wish("code", "decode", 1.5))
    return made


def test_one_workload_and_role_is_one_item(house: House) -> None:
    reply = house.ask(selecting(f"{WORKLOAD_LABEL}=chat,{ROLE_LABEL}=decode"))
    assert reply.code == 200
    assert reply.json == {
        "kind": "ExternalMetricValueList",
        "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [
            {
                "metricName": "tidegate_desired_replicas",
                "metricLabels": {"tidegate.dev/workload": "chat", "tidegate.dev/role": "decode"},
                "timestamp": "2026-01-01T00:00:00Z",
                "value": "6",
            }
        ],
    }


@pytest.mark.parametrize(
    ("selector", "values"),
    [
        ("", ["2", "6", "1500m"]),
        (f"{WORKLOAD_LABEL}=chat", ["2", "6"]),
        (f"{ROLE_LABEL} in (decode)", ["6", "1500m"]),
        (f"{ROLE_LABEL}!=decode", ["2"]),
        (f"!{ROLE_LABEL},{WORKLOAD_LABEL}", None),
    ],
)
def test_every_matching_wish_is_one_item(house: House, selector: str, values: list[str] | None) -> None:
    reply = house.ask(selecting(selector))
    if values is None:
        assert reply.code == 404
    else:
        assert [item["value"] for item in reply.json["items"]] == values


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/apis/",
        "/apis/other.metrics.k8s.io",
        "/apis/external.metrics.k8s.io/v1",
        f"{V1BETA1}/",
        f"{V1BETA1}/tidegate_desired_replicas",
        f"{V1BETA1}/namespaces",
        f"{V1BETA1}/namespaces/serving",
        f"{V1BETA1}/namespaces/serving/",
        f"{V1BETA1}/namespaces//tidegate_desired_replicas",
        f"{V1BETA1}/namespaces/serving/a/b",
        f"{V1BETA1}/namespaces/serving%2Ftidegate_desired_replicas",
        f"{V1BETA1}%2fnamespaces/serving/tidegate_desired_replicas",
        f"{DESIRED}%00",
        f"{DESIRED}%0A",
        f"{DESIRED}/",
        f"{V1BETA1}/namespaces/../namespaces/serving/tidegate_desired_replicas",
        f"{V1BETA1}/namespaces/serving/TIDEGATE_DESIRED_REPLICAS",
        f"{V1BETA1}/namespaces/elsewhere/tidegate_desired_replicas",
        f"{V1BETA1}/namespaces/serving/none",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/apis/external.metrics.k8s.io/v1beta1",
        "/openapi.json",
        "/docs",
        "/redoc",
        "/version",
    ],
)
def test_other_shapes_are_not_found(house: House, path: str) -> None:
    reply = house.ask(path)
    assert (reply.code, reply.json["kind"], reply.json["reason"]) == (404, "Status", "NotFound")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (f"{DESIRED}%zz", "percent-encoding"),
        (f"{DESIRED}%", "percent-encoding"),
        (f"{DESIRED}%4", "percent-encoding"),
        (f"{DESIRED}%ff", "UTF-8"),
        (f"{DESIRED}?labelSelector=%ff", "UTF-8"),
        (f"{DESIRED}?labelSelector=a%3D%00", "label value"),
        (f"{DESIRED}?labelSelector=a+b", "at character 2"),
        (f"{DESIRED}?labelSelector=a=b,", "at character 4"),
        (f"{DESIRED}?labelSelector=%zz", "label key"),
        (f"{DESIRED}?" + "a=b&" * 101, "100 parameters"),
    ],
)
def test_what_cannot_be_read_is_a_bad_request(house: House, target: str, problem: str) -> None:
    reply = house.ask(target)
    assert (reply.code, reply.json["reason"]) == (400, "BadRequest")
    assert problem in reply.json["message"]


def test_an_encoded_ordinary_character_is_that_character(house: House) -> None:
    assert house.ask(DESIRED.replace("tidegate", "%74idegate")).code == 200


def test_other_parameters_are_ignored_and_the_first_selector_counts(house: House) -> None:
    query = f"?watch=1&limit=5&pretty=true&labelSelector={ROLE_LABEL}=prefill&labelSelector={ROLE_LABEL}=decode"
    assert [item["value"] for item in house.ask(DESIRED + query).json["items"]] == ["2"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", [DESIRED, "/metrics", "/nowhere"])
def test_only_reads_are_allowed(house: House, method: str, path: str) -> None:
    reply = house.ask(path, method)
    assert (reply.code, reply.json["reason"]) == (405, "MethodNotAllowed")
    assert reply.headers["allow"] == "GET, HEAD"


def test_before_the_first_tick_everything_but_discovery_waits() -> None:
    house = House()
    reply = house.ask(DESIRED)
    assert (reply.code, reply.json["reason"]) == (503, "ServiceUnavailable")
    assert "no decision yet" in reply.json["message"]
    assert house.ask(V1BETA1).code == 200
    assert (house.ask("/readyz").code, house.ask("/livez").code, house.ask("/healthz").code) == (503, 200, 200)
    assert b"no decision yet" in house.ask("/readyz").body


def test_staleness_starts_and_ends_within_a_second_of_the_limit(house: House) -> None:
    house.clock.now = T0 + 60
    assert house.ask(DESIRED).code == 200
    house.clock.now = T0 + 60.5
    reply = house.ask(DESIRED)
    assert reply.code == 503
    assert reply.json["message"].startswith("the last decision for 3 workloads such as chat prefill is 60.5 s old")
    assert house.ask("/readyz").code == 200
    assert house.ask(V1BETA1).code == 200
    house.publish(wish("chat", "decode", 9))
    assert house.ask(DESIRED).json["items"][0]["value"] == "9"


def test_a_partial_sum_is_never_served(house: House) -> None:
    house.publish(wish("chat", "prefill", 2), wish("chat", "decode", 6, blind="Prometheus does not answer"))
    assert house.ask(selecting(f"{ROLE_LABEL}=prefill")).code == 200
    reply = house.ask(selecting(f"{WORKLOAD_LABEL}=chat"))
    assert reply.code == 503
    assert reply.json["message"] == "chat decode is blind: Prometheus does not answer; its size is held"


def test_a_disabled_workload_is_not_found_and_named_disabled(house: House) -> None:
    house.publish(wish("chat", "decode", 6, disabled="paused by its owner"))
    reply = house.ask(DESIRED)
    assert reply.code == 404
    assert reply.json["message"] == "chat decode is disabled: paused by its owner"


def test_an_unknown_selector_is_told_in_the_reference_servers_words(house: House) -> None:
    reply = house.ask(selecting(f"{WORKLOAD_LABEL}=mistral"))
    assert reply.json == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "the server could not find the metric tidegate_desired_replicas for namespaces serving "
        "with selector tidegate.dev/workload=mistral",
        "reason": "NotFound",
        "code": 404,
    }


@pytest.mark.parametrize("target", [DESIRED, "/nowhere", DESIRED + "?labelSelector=,", V1BETA1, "/readyz"])
def test_no_answer_asks_for_a_retry(target: str) -> None:
    assert "retry-after" not in House().ask(target).headers


def test_discovery_documents(house: House) -> None:
    version = {"groupVersion": "external.metrics.k8s.io/v1beta1", "version": "v1beta1"}
    group = {"name": "external.metrics.k8s.io", "versions": [version], "preferredVersion": version}
    assert house.ask("/apis").json == {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}
    assert house.ask("/apis/external.metrics.k8s.io").json == {"kind": "APIGroup", "apiVersion": "v1", **group}
    assert house.ask(V1BETA1).json == {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "external.metrics.k8s.io/v1beta1",
        "resources": [
            {
                "name": "tidegate_desired_replicas",
                "singularName": "",
                "namespaced": True,
                "kind": "ExternalMetricValueList",
                "verbs": ["get"],
            }
        ],
    }


def test_full_discovery_lists_every_metric_once() -> None:
    house = House(Discovery.FULL)
    house.publish(Wish("a", {"x": "1"}, {"extra": 1}), Wish("b", {"x": "1"}, {"extra": 1}))
    names = [resource["name"] for resource in house.ask(V1BETA1).json["resources"]]
    assert names == [
        "extra",
        "tidegate_current_replicas",
        "tidegate_desired_ratio",
        "tidegate_desired_replicas",
        "tidegate_shortage_replicas",
        "tidegate_starting_replicas",
    ]


def test_the_group_name_can_be_our_own() -> None:
    house = House(group="tidegate.dev")
    house.publish(wish("chat", "decode", 6))
    reply = house.ask("/apis/tidegate.dev/v1beta1/namespaces/serving/tidegate_desired_replicas")
    assert reply.json["apiVersion"] == "tidegate.dev/v1beta1"
    assert house.ask(DESIRED).code == 404


@pytest.mark.parametrize("group", ["", "Tide.dev", "a/b", "{x}", "a b"])
def test_a_group_that_is_no_dns_name_is_refused(group: str) -> None:
    with pytest.raises(ValueError, match="API group"):
        House(group=group)


def test_labels_may_be_anything_text(house: House) -> None:
    odd = {WORKLOAD_LABEL: 'meta-llama/Llama "3.1"\n', "ключ": "\U0001f30a"}
    house.publish(Wish("serving", odd, {Metric.DESIRED: 1}))
    assert house.ask(DESIRED).json["items"][0]["metricLabels"] == odd


def test_a_message_has_an_end() -> None:
    assert len(json.loads(bytes(status(400, "x" * 5000).body))["message"]) == 1024


@given(st.text(max_size=40))
def test_a_selector_survives_the_query_string(text: str) -> None:
    query = b"labelSelector=" + quote(text, safe="").encode()
    try:
        expected = parse(text)
    except SelectorError:
        with pytest.raises(SelectorError):
            selector_of(query)
    else:
        assert selector_of(query) == expected


FUZZED = House()
FUZZED.publish(wish("chat", "prefill", 2), wish("chat", "decode", 6))
PIECES = st.sampled_from(
    [
        *(b"/ // apis external.metrics.k8s.io v1beta1 namespaces serving metrics .. %2F".split()),
        *(b"tidegate_desired_replicas %00 %ff %C3%A9 % %4 {x} openapi healthz ; : @ * ~ %25 %252F \\ \xc3\xa9".split()),
        V1BETA1.encode(),
        DESIRED.encode(),
    ]
)
WORDS = b"labelSelector = & , in notin ( ) ! a %20 %28 %ff %00 + %3D".split()
QUERIES = st.one_of(
    st.binary(max_size=40),
    st.lists(st.sampled_from(WORDS), max_size=12).map(b"".join),
    st.text(max_size=40).map(lambda text: b"labelSelector=" + quote(text, safe="").encode()),
)


@given(st.lists(PIECES, max_size=8).map(b"".join), QUERIES)
def test_no_path_and_no_query_breaks_the_server(path: bytes, query: bytes) -> None:
    reply = FUZZED.ask(b"/" + path.replace(b"?", b"") + b"?" + query)
    assert reply.code in {200, 400, 404}
    if reply.code != 200:
        assert reply.json["kind"] == "Status"
        assert reply.json["code"] == reply.code


@given(QUERIES)
def test_no_selector_breaks_the_metric_path(query: bytes) -> None:
    reply = FUZZED.ask(DESIRED.encode() + b"?" + query)
    assert reply.code in {200, 400, 404}
    assert reply.json["kind"] in {"Status", "ExternalMetricValueList"}
