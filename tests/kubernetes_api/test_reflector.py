"""Caches that follow the server: through outages, expired watches and kinds that cannot be read."""

from __future__ import annotations

import ssl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_server import ApiServer
from kubernetes import client

from autoscaler.cluster import reflector as module
from autoscaler.cluster.api import Api, ApiError, Resource
from autoscaler.cluster.connection import connect
from autoscaler.cluster.objects import Pod, pod_of
from autoscaler.cluster.reflector import Reflector
from metrics_adapter.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PODS = Resource("", "v1", "pods", "Pod")
GPU = ("nvidia.com/gpu",)


def pod(name: str, gpus: int = 1, namespace: str = "default") -> dict[str, Any]:
    box = {"name": "main", "image": "x", "resources": {"requests": {"nvidia.com/gpu": str(gpus)}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"containers": [box]},
    }


def eventually(holds: Callable[[], Any], why: str, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


@contextmanager
def following(api: ApiServer, resource: Resource = PODS, window_s: float = 300.0) -> Iterator[Reflector[Pod]]:
    configuration = client.Configuration(host=api.url)
    configuration.retries = False
    plain = Api(client.ApiClient(configuration), timeout_s=5.0)
    one = Reflector(
        plain, resource, lambda found: pod_of(found, GPU), clock=time.time, chance=lambda: 0.5, window_s=window_s
    )
    one.start()
    try:
        yield one
    finally:
        one.stop()
        plain.close()


def names(one: Reflector[Pod]) -> set[str]:
    return {name for _, name in one.cache.view()}


def test_the_cache_lists_in_pages_then_follows_every_change(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoscaler.cluster.api.PAGE", 2)
    for number in range(5):
        api.store.put(pod(f"p{number}", number))
    with following(api) as one:
        eventually(lambda: one.cache.synced, "never listed")
        assert names(one) == {"p0", "p1", "p2", "p3", "p4"}
        api.store.put(pod("new", 8))
        api.store.delete(api.store.kinds["", "v1", "pods"], ("default", "p0"))
        eventually(lambda: names(one) == {"p1", "p2", "p3", "p4", "new"}, "the changes never came")
        assert one.cache.view()["default", "new"].gpus == 8
        assert one.cache.lists == 1


def test_a_watch_that_ends_is_resumed_without_a_new_list(api: ApiServer) -> None:
    with following(api, window_s=1.0) as one:
        eventually(lambda: one.cache.synced, "never listed")
        first = sum(request.verb == "watch" for request in api.log)
        eventually(lambda: sum(request.verb == "watch" for request in api.log) >= first + 2, "watched once only")
        api.store.put(pod("late"))
        eventually(lambda: "late" in names(one), "a change after the resumption was missed")
        assert one.cache.lists == 1


def test_what_changed_during_an_outage_is_seen_after_it_without_a_new_list(api: ApiServer) -> None:
    with following(api) as one:
        eventually(lambda: one.cache.synced, "never listed")
        api.go_down(1.5)
        eventually(lambda: one.cache.lost_at is not None, "the outage went unnoticed")
        api.store.put(pod("meanwhile"))
        eventually(lambda: "meanwhile" in names(one), "the change was missed")
        assert one.cache.lost_at is None
        assert one.cache.lists == 1


def test_an_expired_version_is_listed_anew(api: ApiServer) -> None:
    api.store.put(pod("old"))
    with following(api) as one:
        eventually(lambda: names(one) == {"old"}, "never listed")
        api.go_down(0.6)
        eventually(lambda: one.cache.lost_at is not None, "the outage went unnoticed")
        api.store.delete(api.store.kinds["", "v1", "pods"], ("default", "old"))
        api.store.put(pod("young"))
        api.store.compact()  # the version the cache stands at is no longer kept: 410
        eventually(lambda: names(one) == {"young"}, "what was deleted meanwhile is still there, or the new is not")
        assert one.cache.lists == 2


def test_a_page_that_expires_midway_starts_the_list_again(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoscaler.cluster.api.PAGE", 1)
    for name in ("a", "b", "c"):
        api.store.put(pod(name))
    pages = api.store.pages

    class Forgetful(dict[str, Any]):
        """Forgets the first token it is asked for, as a compaction between two pages does."""

        def pop(self, key: str, default: Any = None) -> Any:
            api.store.pages = pages
            return super().pop(key, default) if key == "never" else default

    api.store.pages = Forgetful()
    with following(api) as one:
        eventually(lambda: one.cache.synced, "never listed")
        assert names(one) == {"a", "b", "c"}


def test_a_kind_that_may_not_be_read_says_so_and_is_asked_rarely(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFUSED_WAIT_S", 0.3)
    api.faults.forbid("pods", "list", "watch")
    api.store.put(pod("a"))
    with following(api) as one:
        eventually(lambda: one.cache.refused is not None, "the refusal went unnoticed")
        assert "forbidden" in str(one.cache.refused)
        assert not one.cache.synced
        api.faults.clear()
        eventually(lambda: names(one) == {"a"}, "not read after it was allowed")
        assert one.cache.refused is None


def test_a_kind_that_is_not_served_is_refused_as_well(api: ApiServer) -> None:
    with following(api, Resource("karpenter.sh", "v1", "nodeclaims", "NodeClaim", namespaced=False)) as one:
        eventually(lambda: one.cache.refused is not None, "the absence went unnoticed")
        assert len(one.cache) == 0


def test_overload_and_server_errors_are_waited_out(api: ApiServer) -> None:
    api.store.put(pod("a"))
    api.faults.throttle(1, retry_after_s=1)
    api.faults.fail(2)
    with following(api) as one:
        eventually(lambda: names(one) == {"a"}, "gave up")


def test_an_object_of_an_unexpected_shape_costs_no_other_its_place(api: ApiServer) -> None:
    odd = pod("odd")
    api.store.put(pod("a"))
    api.store.put({**odd, "spec": {**odd["spec"], "priority": "high"}})
    with following(api) as one:
        eventually(lambda: one.cache.synced, "never listed")
        api.store.put(pod("b"))
        eventually(lambda: names(one) == {"a", "b"}, "the odd one stopped the rest")


def test_over_tls_and_with_a_token(tmp_path: Path) -> None:
    made = self_signed(tmp_path, ("127.0.0.1",), time.time())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert, made.key)
    with ApiServer(tls=context, token="first") as server:
        config = server.kubeconfig()
        config["clusters"][0]["cluster"]["certificate-authority"] = str(tmp_path / "ca.crt")
        config["users"][0]["user"] = {"token": "first"}
        file = tmp_path / "kubeconfig"
        file.write_text(yaml.safe_dump(config))
        plain = Api(connect(str(file), None), timeout_s=5.0)
        one = Reflector(plain, PODS, lambda found: pod_of(found, GPU), clock=time.time, chance=lambda: 0.5)
        one.start()
        try:
            eventually(lambda: one.cache.synced, "never listed over TLS")
            server.store.put(pod("a"))
            eventually(lambda: names(one) == {"a"}, "nothing came over TLS")
        finally:
            one.stop()  # while the watch waits: it must end all the same
            plain.close()
        wrong = Api(connect(str(file), None), timeout_s=5.0)
        server.token = "second"
        with pytest.raises(ApiError, match="Unauthorized") as refused:
            wrong.get(PODS, "default", "a")
        assert refused.value.forbidden
        wrong.close()
