"""The read API as OpenAPI describes it, fuzzed over HTTP by schemathesis: no 500, no hang, no flood of the log.

The description is the reference's path tables; servers of metrics APIs serve none themselves (404 is tolerated).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
import structlog
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import response_schema_conformance

from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL, Board, Limits, Metric, Published, Target, Wish
from metrics_adapter.custom import CustomMetrics
from metrics_adapter.discovery import Documents
from metrics_adapter.exposition import Exposition, Telemetry
from metrics_adapter.external import ExternalMetrics
from metrics_adapter.keda_rest import KedaRest
from metrics_adapter.server import Server, compose

if TYPE_CHECKING:
    from collections.abc import Iterator

SELECTOR = {"type": "string", "description": "label selector"}
STATUS = {
    "type": "object",
    "required": ["kind", "apiVersion", "status", "message", "code"],
    "properties": {"kind": {"const": "Status"}, "status": {"const": "Failure"}, "message": {"type": "string"}},
}
ODD = ["*", "metrics", "x", "é", " ", "%", "a=b", "'\"<", "\U0001f680", "A" * 300, "-", "deployments"]
QUANTITY = {"type": "string", "pattern": "^[0-9]+(m|k)?$"}
EXTERNAL_LIST = {
    "type": "object",
    "required": ["kind", "apiVersion", "metadata", "items"],
    "properties": {
        "kind": {"const": "ExternalMetricValueList"},
        "items": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["metricName", "metricLabels", "timestamp", "value"],
                "properties": {"value": QUANTITY, "timestamp": {"type": "string", "format": "date-time"}},
            },
        },
    },
}
VALUE_LIST = {
    "type": "object",
    "required": ["kind", "items"],
    "properties": {"kind": {"const": "MetricValueList"}, "items": {"type": "array", "minItems": 1}},
}


def _operation(body: dict[str, Any], path: list[str], query: list[str]) -> dict[str, Any]:
    known = {"namespace": "serving", "metric": "tidegate_desired_replicas", "name": "chat-decode", "pool": "chat"}
    known |= {"resource": "deployments.apps", "role": "decode"}
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            # Any text for all of four names takes schemathesis 0.5 s an example, so only the last is free.
            "schema": {"type": "string", "minLength": 1} if name == path[-1] else {"enum": [known[name], *ODD]},
        }
        for name in path
    ]
    parameters += [{"name": name, "in": "query", "schema": SELECTOR} for name in query]
    parameters += [{"name": name, "in": "header", "schema": {"type": "string"}} for name in ("Accept", "X-Remote-User")]
    failure = {"description": "why not", "content": {"application/json": {"schema": STATUS}}}
    answer = {"description": "the answer", "content": {"application/json": {"schema": body}}}
    return {"get": {"parameters": parameters, "responses": {"200": answer, "400": failure, "404": failure}}}


EXTERNAL = "/apis/external.metrics.k8s.io/v1beta1"
CUSTOM = "/apis/custom.metrics.k8s.io/v1beta2"
ANY = {"type": "object"}
DESCRIPTION = {
    "openapi": "3.0.3",
    "info": {"title": "Tidegate's metrics APIs", "version": "1"},
    "paths": {
        "/apis": _operation(ANY, [], []),
        EXTERNAL: _operation(ANY, [], ["pretty"]),
        f"{EXTERNAL}/namespaces/{{namespace}}/{{metric}}": _operation(
            EXTERNAL_LIST, ["namespace", "metric"], ["labelSelector", "limit", "watch"]
        ),
        f"{CUSTOM}/namespaces/{{namespace}}/{{resource}}/{{name}}/{{metric}}": _operation(
            VALUE_LIST, ["namespace", "resource", "name", "metric"], ["labelSelector", "metricLabelSelector"]
        ),
        f"{CUSTOM}/namespaces/{{namespace}}/metrics/{{metric}}": _operation(
            VALUE_LIST, ["namespace", "metric"], ["metricLabelSelector"]
        ),
        f"{CUSTOM}/{{resource}}/{{name}}/{{metric}}": _operation(
            VALUE_LIST, ["resource", "name", "metric"], ["metricLabelSelector"]
        ),
        "/keda/v1/namespaces/{namespace}/pools/{pool}": _operation(ANY, ["namespace", "pool"], ["variant"]),
        "/keda/v1/namespaces/{namespace}/pools/{pool}/roles/{role}": _operation(
            ANY, ["namespace", "pool", "role"], ["variant"]
        ),
    },
}
schema = schemathesis.openapi.from_dict(DESCRIPTION)
LOGGED = structlog.testing.LogCapture()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    board = Board(Limits(3600, 7200), time.time)
    telemetry = Telemetry(board)
    aim = Target("deployments.apps", "apps/v1", "Deployment", "chat-decode")
    labels = {WORKLOAD_LABEL: "chat", ROLE_LABEL: "decode"}
    board.publish(Published(time.time(), (Wish("serving", labels, {Metric.DESIRED: 6.0}, target=aim),)))
    external, custom = ExternalMetrics(board, telemetry), CustomMetrics(board, telemetry)
    documents = Documents((external.described(), custom.described()))
    routers = [documents.router(), Exposition(board, telemetry).router(), KedaRest(board, telemetry).router()]
    before = structlog.get_config()
    structlog.configure(processors=[LOGGED])
    try:
        with Server(compose(routers, telemetry, direct=[external, custom]), "127.0.0.1", 0) as server:
            yield server.url
    finally:
        structlog.configure(**before)


@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_described_request_is_answered_as_described(url: str, case: schemathesis.Case) -> None:
    reply = case.call(base_url=url, timeout=5)
    assert reply.status_code in {200, 400, 404, 405, 406, 414, 431}, reply.text
    assert "retry-after" not in reply.headers
    if reply.status_code >= 400 and case.method == "GET":
        assert reply.json()["kind"] == "Status", reply.text
    if case.method == "GET" and reply.status_code == 200:
        case.validate_response(reply, checks=[response_schema_conformance])
    assert [entry for entry in LOGGED.entries if entry["log_level"] in {"warning", "error"}] == []
