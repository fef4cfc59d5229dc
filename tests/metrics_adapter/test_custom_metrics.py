"""The custom metrics API over real HTTPS: every form of path, both versions, and what each answer looks like."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))
from aggregated_rig import open_house, wish

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests
    from aggregated_rig import House

ROOT = "/apis/custom.metrics.k8s.io"
METRIC = "tidegate_desired_replicas"
MASTER = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("custom")) as made:
        yield made


@pytest.fixture(scope="module")
def cert(house: House) -> tuple[str, str]:
    return house.ca.client()


@pytest.fixture
def asked(house: House, cert: tuple[str, str]) -> Any:
    house.publish(
        wish("chat", "prefill", 2, "chat-prefill"),
        wish("chat", "decode", 6, "chat-decode"),
        wish("code", "decode", 1.5),
    )

    def ask(path: str) -> requests.Response:
        return house.ask(path, MASTER, cert)

    return ask


def test_one_object_is_exactly_one_item_v1beta1(asked: Any) -> None:
    reply = asked(f"{ROOT}/v1beta1/namespaces/serving/deployments.apps/chat-decode/{METRIC}")
    (item,) = reply.json()["items"]
    assert reply.json()["apiVersion"] == "custom.metrics.k8s.io/v1beta1"
    assert item.pop("timestamp").endswith("Z")
    assert item == {
        "describedObject": {
            "kind": "Deployment",
            "name": "chat-decode",
            "apiVersion": "apps/v1",
            "namespace": "serving",
        },
        "metricName": METRIC,
        "value": "6",
        "selector": None,
    }


def test_v1beta2_names_the_metric_in_an_object_of_its_own(asked: Any) -> None:
    chosen = quote("tidegate.dev/role=decode,tidegate.dev/workload in (chat)", safe="")
    path = f"{ROOT}/v1beta2/namespaces/serving/deployments.apps/chat-decode/{METRIC}?metricLabelSelector={chosen}"
    (item,) = asked(path).json()["items"]
    assert item["metric"] == {
        "name": METRIC,
        "selector": {
            "matchLabels": {"tidegate.dev/role": "decode"},
            "matchExpressions": [{"key": "tidegate.dev/workload", "operator": "In", "values": ["chat"]}],
        },
    }


def test_a_wildcard_is_every_object_the_selector_picks(asked: Any) -> None:
    path = f"{ROOT}/v1beta1/namespaces/serving/deployments.apps/*/{METRIC}"
    found = {item["describedObject"]["name"]: item["value"] for item in asked(path).json()["items"]}
    assert found == {"chat-prefill": "2", "chat-decode": "6"}
    chosen = quote("tidegate.dev/role!=decode", safe="")
    (item,) = asked(f"{path}?labelSelector={chosen}").json()["items"]
    assert item["describedObject"]["name"] == "chat-prefill"


@pytest.mark.parametrize("path", ["namespaces/serving/metrics", "namespaces/serving"])
def test_a_namespace_is_the_sum_over_its_wishes(asked: Any, path: str) -> None:
    """2 + 6 + 1.5 = 9.5 replicas; 6 + 1.5 = 7.5 of them decode."""
    reply = asked(f"{ROOT}/v1beta2/{path}/{METRIC}")
    (item,) = reply.json()["items"]
    assert item["value"] == "9500m"
    assert item["describedObject"] == {"kind": "Namespace", "name": "serving", "apiVersion": "v1"}
    chosen = quote("tidegate.dev/role=decode", safe="")
    assert asked(f"{ROOT}/v1beta2/{path}/{METRIC}?metricLabelSelector={chosen}").json()["items"][0]["value"] == "7500m"


@pytest.mark.parametrize(
    "path",
    [
        f"namespaces/serving/deployments.apps/none/{METRIC}",
        "namespaces/serving/deployments.apps/chat-decode/none",
        f"namespaces/serving/deployments/chat-decode/{METRIC}",
        f"namespaces/serving/pods/*/{METRIC}",
        f"namespaces/other/deployments.apps/chat-decode/{METRIC}",
        f"namespaces/other/metrics/{METRIC}",
        f"nodes/a/{METRIC}",
        "namespaces/serving",
        f"namespaces/serving/{METRIC}/a/b/c",
        f"{METRIC}",
    ],
)
def test_what_is_not_there_is_not_found(asked: Any, path: str) -> None:
    reply = asked(f"{ROOT}/v1beta1/{path}")
    assert (reply.status_code, reply.json()["reason"]) == (404, "NotFound")


def test_a_selector_that_is_none_is_a_bad_request(asked: Any) -> None:
    for name in ("labelSelector", "metricLabelSelector"):
        reply = asked(f"{ROOT}/v1beta1/namespaces/serving/deployments.apps/*/{METRIC}?{name}=a+b")
        assert (reply.status_code, reply.json()["reason"]) == (400, "BadRequest")


def test_each_reason_for_no_number_has_its_own_answer(house: House, asked: Any) -> None:
    path = f"{ROOT}/v1beta1/namespaces/serving/deployments.apps/chat-decode/{METRIC}"
    for told, code, words in (
        ({"blind": "no series"}, 503, "is blind: no series"),
        ({"infeasible": "budget 3 clashes with minimum 5"}, 503, "no plan for chat decode is feasible: budget 3"),
        ({"disabled": "by its owner"}, 404, "is disabled: by its owner"),
    ):
        house.publish(wish("chat", "decode", 6, "chat-decode", **told))
        reply = asked(path)
        assert (reply.status_code, words in reply.json()["message"]) == (code, True), reply.text
    house.publish(wish("chat", "decode", 6, "chat-decode"))
    house.clock.offset = 61.0
    assert "s old, limit 60 s" in asked(path).json()["message"]
    house.clock.offset = 0.0


def test_discovery_has_both_groups(asked: Any) -> None:
    groups = asked("/apis").json()["groups"]
    assert [group["name"] for group in groups] == ["external.metrics.k8s.io", "custom.metrics.k8s.io"]
    assert groups[1]["preferredVersion"]["version"] == "v1beta2"


WORDS = ["namespaces", "serving", "deployments.apps", "*", "metrics", METRIC, "%20", "%2F", "..", "é", "", "v1beta1"]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=8).map(lambda t: quote(t, safe=""))), max_size=6),
    selector=st.text(max_size=20),
    header=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.strip),
)
def test_no_path_selector_or_header_breaks_it(
    house: House, cert: tuple[str, str], parts: list[str], selector: str, header: str
) -> None:
    path = f"{ROOT}/v1beta1/{'/'.join(parts)}?metricLabelSelector={quote(selector, safe='')}"
    reply = house.ask(path, {**MASTER, "Accept": header, "X-Remote-Extra-a": header}, cert)
    assert reply.status_code in {200, 400, 404}
    assert reply.json()["kind"]
