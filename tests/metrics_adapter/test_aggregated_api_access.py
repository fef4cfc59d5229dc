"""Who may ask the aggregated API server: real TLS, real certificate chains, a small Kubernetes API behind it."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from kubernetes import client

sys.path.append(str(Path(__file__).parent))
from aggregated_rig import PROXY, Authorities, open_house, wish

from metrics_adapter.board import ROLE_LABEL, WORKLOAD_LABEL
from metrics_adapter.gate import GateLimits
from metrics_adapter.identity import Attributes, attributes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aggregated_rig import House

EXTERNAL = "/apis/external.metrics.k8s.io/v1beta1"
DESIRED = f"{EXTERNAL}/namespaces/serving/tidegate_desired_replicas"
HPA = {"X-Remote-User": "hpa"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("house"), GateLimits(allow=0.001, deny=0.001, token=0.001)) as made:
        made.publish(wish("chat", "decode", 6, "chat-decode"))
        yield made


@pytest.fixture(autouse=True)
def fresh(house: House) -> None:
    house.cluster.asked.clear()
    house.cluster.broken = False
    house.cluster.forbidden = {"mallory"}
    house.cluster.tokens = {"good": {"username": "jane", "uid": "7", "groups": ["dev"], "extra": {"scopes": ["a"]}}}
    house.publish(wish("chat", "decode", 6, "chat-decode"))


def eventually(holds: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + 15
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


def test_the_front_proxy_is_believed_and_its_user_asked_about(house: House) -> None:
    headers = {**HPA, "X-Remote-Group": "system:serviceaccounts", "X-Remote-Extra-Acme.com%2Fproject": "x"}
    reply = house.ask(DESIRED, headers, house.ca.client())
    assert (reply.status_code, reply.json()["items"][0]["value"]) == (200, "6")
    (review,) = house.cluster.reviews("SubjectAccessReview")
    assert review == {
        "user": "hpa",
        "groups": ["system:serviceaccounts", "system:authenticated"],
        "extra": {"acme.com/project": ["x"]},
        "resourceAttributes": {
            "namespace": "serving",
            "verb": "list",
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "resource": "tidegate_desired_replicas",
        },
    }


def test_masters_are_not_asked_about(house: House) -> None:
    headers = {"X-Remote-User": "system:kube-aggregator", "X-Remote-Group": "system:masters"}
    assert house.ask(EXTERNAL, headers, house.ca.client()).status_code == 200
    assert house.cluster.asked == []


def test_a_user_without_groups_is_authenticated_all_the_same(house: House) -> None:
    house.ask("/openapi/v2", {"X-Remote-User": "system:aggregator"}, house.ca.client())
    (review,) = house.cluster.reviews("SubjectAccessReview")
    assert review["groups"] == ["system:authenticated"]
    assert review["nonResourceAttributes"] == {"path": "/openapi/v2", "verb": "get"}


@pytest.mark.parametrize("spoofed", [HPA, {**HPA, "X-Remote-Group": "system:masters"}, {}])
def test_headers_without_a_certificate_name_nobody(house: House, spoofed: dict[str, str]) -> None:
    reply = house.ask(DESIRED, spoofed)
    assert (reply.status_code, reply.json()["reason"]) == (401, "Unauthorized")
    assert "neither a client certificate nor a bearer token" in reply.json()["message"]
    assert "retry-after" not in reply.headers
    assert house.counted('tidegate_api_turned_away_total{reason="no-credentials"}')


def test_a_certificate_of_another_ca_is_refused_in_words(house: House, tmp_path: Path) -> None:
    reply = house.ask(DESIRED, {**HPA, "X-Remote-Group": "system:masters"}, Authorities(tmp_path, "other").client())
    assert (reply.status_code, reply.json()["reason"]) == (401, "Unauthorized")
    assert "the client certificate is signed by another CA" in reply.json()["message"]
    assert house.counted('tidegate_api_turned_away_total{reason="bad-certificate"}')


def test_a_ca_of_the_same_name_is_another_ca(house: House, tmp_path: Path) -> None:
    reply = house.ask(DESIRED, HPA, Authorities(tmp_path, "front-proxy-ca").client())
    assert reply.status_code == 401


def test_an_expired_certificate_is_refused_in_words(house: House) -> None:
    reply = house.ask(DESIRED, HPA, house.ca.client(expired=True))
    assert (reply.status_code, reply.json()["code"]) == (401, 401)
    assert "the client certificate is expired" in reply.json()["message"]


def test_a_name_that_is_not_allowed_is_refused(house: House) -> None:
    reply = house.ask(DESIRED, HPA, house.ca.client("somebody"))
    assert reply.status_code == 401
    assert "name 'somebody' is not allowed" in reply.json()["message"]
    assert house.counted('tidegate_api_turned_away_total{reason="wrong-name"}')


def test_a_forbidden_user_is_told_what_he_cannot_do(house: House) -> None:
    reply = house.ask(DESIRED, {"X-Remote-User": "mallory"}, house.ca.client())
    assert (reply.status_code, reply.json()["reason"]) == (403, "Forbidden")
    assert reply.json()["message"] == (
        "User 'mallory' cannot list resource 'tidegate_desired_replicas' in API group 'external.metrics.k8s.io' in "
        "the namespace 'serving': no RBAC rule matched"
    )
    assert house.counted('tidegate_api_turned_away_total{reason="forbidden"}')


def test_a_bearer_token_is_reviewed(house: House) -> None:
    assert house.ask(DESIRED, {"Authorization": "Bearer good", "X-Remote-User": "root"}).status_code == 200
    (review,) = house.cluster.reviews("SubjectAccessReview")
    assert (review["user"], review["uid"], review["groups"]) == ("jane", "7", ["dev", "system:authenticated"])
    assert review["extra"] == {"scopes": ["a"]}
    refused = house.ask(DESIRED, {"Authorization": "Bearer bad"})
    assert (refused.status_code, "not valid in this cluster" in refused.json()["message"]) == (401, True)
    assert house.ask(DESIRED, {"Authorization": "Basic amFuZTpnb29k"}).status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
def test_health_is_open_to_all(house: House, path: str) -> None:
    assert house.ask(path).status_code == 200
    assert house.cluster.asked == []


@pytest.mark.parametrize("path", ["/metrics", "/apis", EXTERNAL, "/nowhere", "/healthz/", "//healthz"])
def test_nothing_else_is(house: House, path: str) -> None:
    assert house.ask(path).status_code == 401


def test_a_cluster_that_fails_is_a_503_without_a_hang(house: House) -> None:
    house.cluster.broken = True
    reply = house.ask(DESIRED, {"X-Remote-User": "new"}, house.ca.client())
    assert (reply.status_code, reply.json()["reason"]) == (503, "ServiceUnavailable")
    assert "SubjectAccessReview failed: etcd is away" in reply.json()["message"]
    assert house.counted('tidegate_api_turned_away_total{reason="unavailable"}')


def test_a_rotated_ca_is_learned_without_a_restart(tmp_path: Path) -> None:
    """The new CA's certificate is doubted once, which has the ConfigMap read again; the old CA's is refused then."""
    with open_house(tmp_path) as house:
        house.publish(wish("chat", "decode", 6))
        (tmp_path / "new").mkdir()
        old, new = house.ca.client(), Authorities(tmp_path / "new", "front-proxy-ca-2")
        assert house.ask(DESIRED, HPA, old).status_code == 200
        house.cluster.config = {**house.cluster.config, "requestheader-client-ca-file": house.ca.pem + new.pem}
        eventually(lambda: house.ask(DESIRED, HPA, new.client()).status_code == 200, "the new CA was never learned")
        assert house.ask(DESIRED, HPA, old).status_code == 200
        house.cluster.config = {**house.cluster.config, "requestheader-client-ca-file": new.pem}
        house.trust.read()
        assert house.ask(DESIRED, HPA, old).status_code == 401
        assert house.ask(DESIRED, HPA, new.client()).status_code == 200
        house.cluster.config = {"requestheader-client-ca-file": "garbage"}
        house.trust.read()
        assert house.ask(DESIRED, HPA, new.client()).status_code == 200


def test_permissions_are_remembered_and_asked_for_once(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.publish(wish("chat", "decode", 6))
        cert = house.ca.client()
        threads = [threading.Thread(target=house.ask, args=(DESIRED, HPA, cert)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert house.ask(DESIRED, HPA, cert).status_code == 200
        assert len(house.cluster.reviews("SubjectAccessReview")) == 1


def test_a_cluster_that_hangs_is_waited_for_only_so_long(tmp_path: Path) -> None:
    with open_house(tmp_path, GateLimits(wait=0.3)) as house:
        house.publish(wish("chat", "decode", 6))
        house.cluster.hang = threading.Event()
        reply = house.ask(DESIRED, HPA, house.ca.client())
        assert (reply.status_code, "did not answer within 0.3 s" in reply.json()["message"]) == (503, True)
        assert house.ask("/healthz").status_code == 200
        house.cluster.hang.set()


def test_refusals_do_not_flood_the_log(house: House) -> None:
    with structlog.testing.capture_logs() as logs:
        for _ in range(30):
            house.ask(DESIRED, HPA, house.ca.client("stranger"))
    assert len([entry for entry in logs if entry["event"] == "request turned away"]) <= 1


def test_the_real_python_client_reads_every_api(house: House) -> None:
    configuration = client.Configuration(host=house.url)
    configuration.ssl_ca_cert = house.bundle
    configuration.api_key = {"authorization": "Bearer good"}
    with client.ApiClient(configuration) as made:
        custom = client.CustomObjectsApi(made)
        external = custom.list_namespaced_custom_object(
            "external.metrics.k8s.io",
            "v1beta1",
            "serving",
            "tidegate_desired_replicas",
            label_selector=f"{WORKLOAD_LABEL}=chat,{ROLE_LABEL}=decode",
        )
        assert [item["value"] for item in external["items"]] == ["6"]
        with pytest.raises(client.ApiException) as unknown:
            custom.list_namespaced_custom_object("external.metrics.k8s.io", "v1beta1", "serving", "none")
        assert unknown.value.status == 404
        assert json.loads(unknown.value.body)["reason"] == "NotFound"
        listed = custom.get_api_resources("custom.metrics.k8s.io", "v1beta2")
        assert [one.name for one in listed.resources] == ["deployments.apps/tidegate_desired_replicas"]
        raw = made.call_api(
            "GET",
            f"{house.url}/apis/custom.metrics.k8s.io/v1beta2/namespaces/serving/deployments.apps/chat-decode/"
            "tidegate_desired_replicas",
            header_params={"Authorization": "Bearer good"},
        )
        assert json.loads(raw.read() or raw.data)["items"][0]["describedObject"]["name"] == "chat-decode"


def test_staleness_is_a_503_within_a_second_and_ends_with_the_next_tick(house: House) -> None:
    cert = house.ca.client()
    for age, code in ((59.0, 200), (61.0, 503)):
        house.clock.offset = age
        reply = house.ask(DESIRED, HPA, cert)
        assert reply.status_code == code
    assert "s old, limit 60 s" in reply.json()["message"]
    house.publish(wish("chat", "decode", 7))
    assert house.ask(DESIRED, HPA, cert).json()["items"][0]["value"] == "7"
    house.clock.offset = 0.0


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/apis", Attributes("get", path="/apis")),
        (EXTERNAL, Attributes("get", path=EXTERNAL)),
        ("/apis/c/v1/namespaces/n/pods/*/m", Attributes("get", "", "c", "v1", "n", "pods", "*", "m")),
        ("/apis/c/v1/namespaces/n/metrics/m", Attributes("get", "", "c", "v1", "n", "metrics", "m")),
        ("/apis/c/v1/nodes/a/m", Attributes("get", "", "c", "v1", "", "nodes", "a", "m")),
        ("/apis/c/v1/namespaces/n", Attributes("get", "", "c", "v1", "n", "namespaces", "n")),
        ("/metrics", Attributes("get", path="/metrics")),
    ],
)
def test_what_a_path_asks_for(path: str, expected: Attributes) -> None:
    assert attributes_of(path) == expected


def test_the_allowed_name_is_the_usual_one(house: House) -> None:
    trust = house.trust.trust()
    assert trust is not None
    assert trust.allowed_names == {PROXY}
