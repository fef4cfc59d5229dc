"""The test API server, asked by the official client: it refuses and remembers as the real one does."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from kubernetes import client, watch

if TYPE_CHECKING:
    from kube_server import ApiServer

MERGE = "application/merge-patch+json"


def pod(name: str, labels: dict[str, str] | None = None, node: str | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "x", "env": [{"name": "A", "value": "1"}]}]}
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}}, "spec": spec}


def deployment(replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
        },
    }


def claim(**more: Any) -> dict[str, Any]:
    spec = {
        "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
        "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["p5.48xlarge"]}],
        **more,
    }
    return {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "metadata": {"name": "one"}, "spec": spec}


def test_pages_follow_the_continue_token_over_one_state(api: ApiServer, official: client.ApiClient) -> None:
    for number in range(7):
        api.store.put(pod(f"p{number}"))
    core, names, token = client.CoreV1Api(official), [], None
    while token != "":
        page = core.list_namespaced_pod("default", limit=3, _continue=token)
        names += [item.metadata.name for item in page.items]
        api.store.put(pod(f"late{len(names)}"))  # comes after the first page, so belongs to no later one
        token = page.metadata._continue or ""
    assert names == [f"p{number}" for number in range(7)]


def test_selectors_choose_by_labels_and_fields(api: ApiServer, official: client.ApiClient) -> None:
    api.store.put(pod("a", {"tier": "web"}, node="n1"))
    api.store.put(pod("b", {"tier": "db"}))
    core = client.CoreV1Api(official)

    def names(**how: str) -> list[str]:
        return [item.metadata.name for item in core.list_namespaced_pod("default", **how).items]

    assert names(label_selector="tier in (web, api)") == ["a"]
    assert names(label_selector="tier!=web") == ["b"]
    assert names(label_selector="!tier") == []
    assert names(field_selector="spec.nodeName=n1") == ["a"]
    assert names(field_selector="spec.nodeName=") == ["b"]
    with pytest.raises(client.ApiException, match="not supported") as refused:
        names(field_selector="spec.priority=3")
    assert refused.value.status == 400


def test_an_update_of_an_old_version_conflicts(api: ApiServer, official: client.ApiClient) -> None:
    core = client.CoreV1Api(official)
    first = core.create_namespaced_config_map("default", {"metadata": {"name": "c"}, "data": {"n": "1"}})
    first.data = {"n": "2"}
    core.replace_namespaced_config_map("c", "default", first)
    with pytest.raises(client.ApiException) as refused:
        core.replace_namespaced_config_map("c", "default", first)
    assert refused.value.status == 409
    assert api.store.one("v1", "ConfigMap", "default", "c")["data"] == {"n": "2"}


def test_a_watch_resumes_where_it_was_and_ends_with_410_after_compaction(
    api: ApiServer, official: client.ApiClient
) -> None:
    core, follow = client.CoreV1Api(official), watch.Watch()
    version = core.list_namespaced_pod("default").metadata.resource_version
    api.store.put(pod("a"))
    api.store.put(pod("b"))
    seen = [
        (event["type"], event["object"].metadata.name)
        for event in follow.stream(
            core.list_namespaced_pod, "default", resource_version=version, timeout_seconds=1, _request_timeout=5
        )
    ]
    assert seen == [("ADDED", "a"), ("ADDED", "b")]
    api.store.compact()
    with pytest.raises(client.ApiException) as gone:
        list(follow.stream(core.list_namespaced_pod, "default", resource_version=version, timeout_seconds=1))
    assert gone.value.status == 410


def test_an_object_that_no_longer_fits_the_selector_is_deleted_for_its_watchers(
    api: ApiServer, official: client.ApiClient
) -> None:
    core = client.CoreV1Api(official)
    api.store.put(pod("a", {"app": "x"}))
    version = core.list_namespaced_pod("default").metadata.resource_version
    core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"app": "y"}}})
    stream = watch.Watch().stream(
        core.list_namespaced_pod, "default", label_selector="app=x", resource_version=version, timeout_seconds=1
    )
    assert [event["type"] for event in stream] == ["DELETED"]


def test_bookmarks_carry_the_version_alone(api: ApiServer) -> None:
    url = f"{api.url}/api/v1/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=1"
    with urllib3.PoolManager() as http:
        lines = http.request("GET", url).data.splitlines()
    assert len(lines) >= 2
    assert all(b'"type": "BOOKMARK"' in line and b"resourceVersion" in line for line in lines)


def test_three_ways_to_patch(api: ApiServer, official: client.ApiClient) -> None:
    api.store.put(pod("a"))
    core = client.CoreV1Api(official)
    env = [{"name": "B", "value": "2"}]
    core.patch_namespaced_pod("a", "default", {"spec": {"containers": [{"name": "main", "env": env}]}})
    spec = api.store.one("v1", "Pod", "default", "a")["spec"]
    assert [item["name"] for item in spec["containers"][0]["env"]] == ["A", "B"]  # strategic: merged by name
    core.patch_namespaced_pod(
        "a", "default", {"spec": {"containers": [{"name": "b", "image": "y"}]}}, _content_type=MERGE
    )
    assert [item["name"] for item in api.store.one("v1", "Pod", "default", "a")["spec"]["containers"]] == ["b"]
    steps = [
        {"op": "test", "path": "/spec/containers/0/name", "value": "b"},
        {"op": "add", "path": "/metadata/annotations", "value": {"a/b": "c"}},
        {"op": "replace", "path": "/metadata/annotations/a~1b", "value": "d"},
    ]
    core.patch_namespaced_pod("a", "default", steps)
    assert api.store.one("v1", "Pod", "default", "a")["metadata"]["annotations"] == {"a/b": "d"}
    with pytest.raises(client.ApiException) as refused:
        core.patch_namespaced_pod("a", "default", [{"op": "test", "path": "/metadata/name", "value": "z"}])
    assert refused.value.status == 422


def test_status_and_spec_are_written_apart(api: ApiServer, official: client.ApiClient) -> None:
    apps = client.AppsV1Api(official)
    api.store.put(deployment(2))
    apps.patch_namespaced_deployment("web", "default", {"status": {"replicas": 9}, "spec": {"replicas": 3}})
    found = api.store.one("apps/v1", "Deployment", "default", "web")
    assert (found["spec"]["replicas"], found.get("status"), found["metadata"]["generation"]) == (3, None, 2)
    apps.patch_namespaced_deployment_status("web", "default", {"status": {"replicas": 3}, "spec": {"replicas": 8}})
    found = api.store.one("apps/v1", "Deployment", "default", "web")
    assert (found["spec"]["replicas"], found["status"], found["metadata"]["generation"]) == (3, {"replicas": 3}, 2)


def test_scale_reads_and_writes_replicas(api: ApiServer, official: client.ApiClient) -> None:
    apps = client.AppsV1Api(official)
    api.store.put(deployment(2))
    scale = apps.read_namespaced_deployment_scale("web", "default")
    assert (scale.spec.replicas, scale.status.selector) == (2, "app=web")
    scale.spec.replicas = 5
    apps.replace_namespaced_deployment_scale("web", "default", scale)
    with pytest.raises(client.ApiException) as refused:  # the version it read has passed
        apps.replace_namespaced_deployment_scale("web", "default", scale)
    assert refused.value.status == 409
    assert api.store.one("apps/v1", "Deployment", "default", "web")["spec"]["replicas"] == 5


def test_a_dry_run_changes_nothing_but_refuses_all_the_same(api: ApiServer, official: client.ApiClient) -> None:
    core = client.CoreV1Api(official)
    core.create_namespaced_pod("default", pod("a"), dry_run="All")
    assert api.store.all("v1", "Pod") == []
    with pytest.raises(client.ApiException) as refused:
        core.create_namespaced_pod("default", pod("Not a name"), dry_run="All")
    assert refused.value.status == 422
    assert api.writes() == []


def test_a_pod_on_a_node_terminates_until_its_kubelet_ends_it(api: ApiServer, official: client.ApiClient) -> None:
    core = client.CoreV1Api(official)
    api.store.put(pod("bound", node="n1"))
    api.store.put(pod("waiting"))
    core.delete_namespaced_pod("bound", "default")
    core.delete_namespaced_pod("waiting", "default")
    there = api.store.all("v1", "Pod")
    assert [found["metadata"]["name"] for found in there] == ["bound"]
    assert there[0]["metadata"]["deletionGracePeriodSeconds"] == 30
    core.delete_namespaced_pod("bound", "default", grace_period_seconds=0)
    assert api.store.all("v1", "Pod") == []


def test_what_is_owned_goes_with_its_owner(api: ApiServer, official: client.ApiClient) -> None:
    owner = api.store.put(deployment(1))
    owned = pod("a")
    owned["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": owner["metadata"]["uid"]}
    ]
    api.store.put(owned)
    client.AppsV1Api(official).delete_namespaced_deployment("web", "default")
    assert api.store.all("v1", "Pod") == []


def test_eviction_spends_the_disruption_budget(api: ApiServer, official: client.ApiClient) -> None:
    for name in ("a", "b"):
        api.store.put({**pod(name, {"app": "x"}, node="n1"), "status": {"phase": "Running"}})
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "keep", "namespace": "default"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "x"}}},
        "status": {"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2},
    }
    api.store.put(budget)
    core = client.CoreV1Api(official)
    core.create_namespaced_pod_eviction("a", "default", {"metadata": {"name": "a", "namespace": "default"}})
    with pytest.raises(client.ApiException) as refused:
        core.create_namespaced_pod_eviction("b", "default", {"metadata": {"name": "b", "namespace": "default"}})
    assert refused.value.status == 429
    assert "DisruptionBudget" in refused.value.body
    assert [("deletionTimestamp" in found["metadata"]) for found in api.store.all("v1", "Pod")] == [True, False]


@pytest.mark.usefixtures("crds")
def test_real_schemas_are_enforced(official: client.ApiClient) -> None:
    custom = client.CustomObjectsApi(official)

    def create(body: dict[str, Any]) -> Any:
        return custom.create_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", body)

    for wrong, word in (
        (claim(requirments=[]), "unknown field"),
        (claim(expireAfter="three days"), "does not match"),
        (claim(requirements=[{"key": "a", "operator": "Like"}]), "none of"),
        ({**claim(), "spec": {}}, "required"),
    ):
        with pytest.raises(client.ApiException, match=word) as refused:
            create(wrong)
        assert refused.value.status == 422
    made = create(claim())
    assert made["spec"]["expireAfter"] == "720h"  # the schema's default
    with pytest.raises(client.ApiException, match="immutable"):
        custom.patch_cluster_custom_object("karpenter.sh", "v1", "nodeclaims", "one", {"spec": {"expireAfter": "1h"}})


def test_strategic_merge_is_not_for_custom_kinds(crds: ApiServer, official: client.ApiClient) -> None:
    crds.store.put(claim())
    custom = client.CustomObjectsApi(official)
    where = ("karpenter.sh", "v1", "nodeclaims", "one", {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(client.ApiException) as refused:
        custom.patch_cluster_custom_object(*where, _content_type="application/strategic-merge-patch+json")
    assert refused.value.status == 415
    assert custom.patch_cluster_custom_object(*where, _content_type=MERGE)["metadata"]["labels"] == {"a": "b"}


def test_a_lease_needs_micro_times(official: client.ApiClient) -> None:
    leases = client.CoordinationV1Api(official)
    body = {"metadata": {"name": "lead"}, "spec": {"renewTime": "2026-01-01T00:00:00Z"}}
    with pytest.raises(client.ApiException, match="MicroTime"):
        leases.create_namespaced_lease("default", body)
    body["spec"]["renewTime"] = "2026-01-01T00:00:00.000001Z"
    assert leases.create_namespaced_lease("default", body).metadata.name == "lead"


def test_faults_are_scripted(api: ApiServer, official: client.ApiClient) -> None:
    core = client.CoreV1Api(official)
    api.store.put(pod("a"))
    api.faults.conflicts(1, "pods")
    api.faults.forbid("nodes", "list")

    def code(call: Any) -> int:
        with pytest.raises(client.ApiException) as refused:
            call()
        return int(refused.value.status)

    def label() -> Any:
        return core.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"x": "y"}}})

    assert code(label) == 409
    assert label().metadata.labels == {"x": "y"}
    assert code(core.list_node) == 403
    api.faults.clear()
    api.faults.throttle(1, retry_after_s=7)
    with pytest.raises(client.ApiException) as slow:
        core.list_node()
    assert (slow.value.status, slow.value.headers["Retry-After"]) == (429, "7")
    api.go_down(3600)
    with pytest.raises(urllib3.exceptions.HTTPError):
        core.list_node()
    api.faults.clear()
    assert core.list_node().items == []


def test_discovery_lists_what_is_served(crds: ApiServer, official: client.ApiClient) -> None:
    groups = client.ApisApi(official).get_api_versions().groups
    assert {"apps", "batch", "karpenter.sh"} <= {group.name for group in groups}
    served = client.AppsV1Api(official).get_api_resources().resources
    assert {"deployments", "deployments/scale", "deployments/status"} <= {one.name for one in served}
    assert crds.store.kinds["leaderworkerset.x-k8s.io", "v1", "leaderworkersets"].scale == (
        ".spec.replicas",
        ".status.replicas",
        ".status.hpaPodSelector",
    )


def test_versions_only_grow(api: ApiServer) -> None:
    versions = [int(api.store.put(pod(f"p{n}"))["metadata"]["resourceVersion"]) for n in range(5)]
    assert all(later > earlier for earlier, later in pairwise(versions))


def test_an_object_is_told_from_its_namesake_by_its_uid(api: ApiServer, official: client.ApiClient) -> None:
    core = client.CoreV1Api(official)
    first = api.store.put(pod("a"))["metadata"]["uid"]
    core.delete_namespaced_pod("a", "default", grace_period_seconds=0)
    api.store.put(pod("a"))
    with pytest.raises(client.ApiException, match=r"metadata\.uid: Invalid value.*immutable") as patched:
        core.patch_namespaced_pod("a", "default", {"metadata": {"uid": first, "labels": {"x": "y"}}})
    options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=first))
    with pytest.raises(client.ApiException, match="UID in precondition") as deleted:
        core.delete_namespaced_pod("a", "default", body=options)
    assert (patched.value.status, deleted.value.status) == (422, 409)


def test_versions_are_said_where_they_must_be_and_nowhere_else(official: client.ApiClient) -> None:
    leases, core = client.CoordinationV1Api(official), client.CoreV1Api(official)
    about = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    body = {**about, "metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 1}}
    leases.create_namespaced_lease("default", body)
    with pytest.raises(client.ApiException, match="must be specified for an update") as refused:
        leases.replace_namespaced_lease("l", "default", body)
    assert refused.value.status == 422
    with pytest.raises(client.ApiException, match="should not be set on objects to be created"):
        core.create_namespaced_config_map("default", {"metadata": {"name": "c", "resourceVersion": "1"}})
    core.create_namespaced_config_map("default", {"metadata": {"name": "c"}})
    plain = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}
    core.replace_namespaced_config_map("c", "default", plain)


def test_a_node_is_tainted_from_its_creation_until_it_is_ready(official: client.ApiClient) -> None:
    core = client.CoreV1Api(official)
    taint = "node.kubernetes.io/not-ready"
    made = core.create_node(
        {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    )
    assert [one.key for one in made.spec.taints] == [taint]  # a status is not for those who create
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert not core.patch_node_status("n", ready).spec.taints
    lost = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    assert [one.key for one in core.patch_node_status("n", lost).spec.taints] == [taint]


def test_what_cannot_change_is_not_changed(official: client.ApiClient) -> None:
    batch = client.BatchV1Api(official)
    spec = {"template": {"spec": {"containers": [{"name": "a", "image": "x"}], "restartPolicy": "Never"}}}
    batch.create_namespaced_job("default", {"metadata": {"name": "j"}, "spec": spec})
    batch.patch_namespaced_job("j", "default", {"spec": {"suspend": True, "parallelism": 3}})
    other = {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "y"}]}}}}
    with pytest.raises(client.ApiException, match=r"spec\.template: .*immutable") as refused:
        batch.patch_namespaced_job("j", "default", other)
    assert refused.value.status == 422


def test_a_pod_with_a_finalizer_goes_only_when_that_does(api: ApiServer, official: client.ApiClient) -> None:
    core = client.CoreV1Api(official)
    held = pod("a", node="n1")
    held["metadata"]["finalizers"] = ["batch.kubernetes.io/job-tracking"]
    api.store.put(held)
    core.delete_namespaced_pod("a", "default")
    core.patch_namespaced_pod("a", "default", {"metadata": {"finalizers": []}}, _content_type=MERGE)
    assert core.read_namespaced_pod("a", "default").metadata.deletion_timestamp  # its kubelet has yet to end it
    core.delete_namespaced_pod("a", "default", grace_period_seconds=0)
    assert core.list_namespaced_pod("default").items == []
    api.store.put(held)
    core.delete_namespaced_pod("a", "default", grace_period_seconds=0)
    assert core.read_namespaced_pod("a", "default").metadata.deletion_timestamp
    core.patch_namespaced_pod("a", "default", {"metadata": {"finalizers": []}}, _content_type=MERGE)
    assert core.list_namespaced_pod("default").items == []


def test_a_namespace_has_an_account_for_its_pods(official: client.ApiClient) -> None:
    core = client.CoreV1Api(official)
    core.create_namespace({"metadata": {"name": "new"}})
    assert core.read_namespaced_service_account("default", "new").metadata.name == "default"
