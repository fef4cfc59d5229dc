"""The place to test in says what it lacks, cleans up after itself, and takes a kubeconfig in any of its forms."""

from __future__ import annotations

import base64
import json
import ssl
import stat
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread, Timer
from typing import TYPE_CHECKING, Any

import pytest
import site_aggregation
import site_definitions
import yaml
from kube_aggregation import Aggregation
from kube_controllers import Played
from kube_kinds import CRDS, Kind
from kube_server import ApiServer
from site_aggregation import BY_ENDPOINT, BY_NAME, EXTERNAL, HOST, registered, ways
from site_kubelets import NODES
from site_of_tests import Site
from site_operators import JOBSET, VOLCANO, gang
from site_report import API_SERVICES, NAMESPACES, OURS, PRIORITY_CLASSES, sweep
from site_rights import EVERYWHERE, lacking
from structural_rules import definition_problems

from autoscaler.cluster.api import Api, ApiError
from autoscaler.cluster.connection import connect
from autoscaler.errors import BadSettings
from metrics_adapter.tls import self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kube_server import Request

TOKEN = "s3cret"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer(token=TOKEN) as made:
        yield made


def written(folder: Path, name: str, server: ApiServer, user: dict[str, Any], **more: Any) -> str:
    """A kubeconfig of that user."""
    said = {**server.kubeconfig(), "users": [{"name": "test", "user": user}], **more}
    (folder / name).write_text(yaml.safe_dump(said))
    return str(folder / name)


def answers(kubeconfig: str, context: str | None = None) -> None:
    api = Api(connect(kubeconfig, context))
    try:
        assert api.get(NAMESPACES, "", "there")["metadata"]["name"] == "there"
    finally:
        api.close()


def test_every_form_of_kubeconfig_reaches_the_server(server: ApiServer, tmp_path: Path) -> None:
    server.store.create(server.store.kinds["", "v1", "namespaces"], "", {"metadata": {"name": "there"}})
    answers(written(tmp_path, "token", server, {"token": TOKEN}))
    (tmp_path / "told").write_text(TOKEN)
    answers(written(tmp_path, "token-file", server, {"tokenFile": str(tmp_path / "told")}))
    script = tmp_path / "plugin"
    said = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": TOKEN}}
    script.write_text(f"#!{sys.executable}\nimport json\nprint(json.dumps({said!r}))\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    plugin = {"apiVersion": said["apiVersion"], "command": str(script), "interactiveMode": "Never"}
    answers(written(tmp_path, "exec", server, {"exec": plugin}))
    # Two files, the second one's context asked for by its name.
    other = [{"name": "other", "context": {"cluster": "test", "user": "other"}}]
    first = written(tmp_path, "first", server, {"token": "wrong"})
    second = tmp_path / "second"
    second.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "contexts": other,
                "users": [{"name": "other", "user": {"token": TOKEN}}],
            }
        )
    )
    answers(f"{first}:{second}", "other")
    with pytest.raises(ApiError, match="Unauthorized"):
        answers(f"{first}:{second}")
    with pytest.raises(BadSettings, match="nobody"):
        answers(first, "nobody")


def test_certificates_are_checked_as_the_kubeconfig_says(tmp_path: Path) -> None:
    made = self_signed(tmp_path / "pki", ["127.0.0.1"], time.time())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    with ApiServer(tls=context) as server:
        server.store.create(server.store.kinds["", "v1", "namespaces"], "", {"metadata": {"name": "there"}})

        def saying(name: str, **cluster: object) -> str:
            clusters = [{"name": "test", "cluster": {"server": server.url, **cluster}}]
            return written(tmp_path, name, server, {"token": TOKEN}, clusters=clusters)

        ca = str(tmp_path / "pki" / "ca.crt")
        answers(saying("file", **{"certificate-authority": ca}))
        data = base64.b64encode(Path(ca).read_bytes()).decode()
        answers(saying("data", **{"certificate-authority-data": data}))
        answers(saying("unchecked", **{"insecure-skip-tls-verify": True}))
        with pytest.raises(ApiError, match="CERTIFICATE_VERIFY_FAILED"):
            answers(saying("unknown"))


def test_the_rights_that_are_missing_are_named(server: ApiServer, tmp_path: Path) -> None:
    def allows(asked: Request) -> bool:
        return (asked.plural, asked.verb) != ("nodes", "create") and asked.subresource != "scale"

    server.allows = allows
    file = written(tmp_path, "kubeconfig", server, {"token": TOKEN})
    api = Api(connect(file, None))
    try:
        assert lacking(api, EVERYWHERE) == ["create nodes", "patch deployments.apps/scale"]
    finally:
        api.close()
    with (
        pytest.raises(pytest.fail.Exception, match=r"create nodes, patch deployments\.apps/scale"),
        Site(file, tmp_path),
    ):
        pass


def test_nothing_is_left_whether_a_test_passes_or_fails(server: ApiServer, tmp_path: Path) -> None:
    store = server.store
    file = written(tmp_path, "kubeconfig", server, {"token": TOKEN})
    played = Played(store, kubelet=False)

    def broken() -> None:
        with Site(file, tmp_path, played) as site:
            site.node(4)
            site.priority("low", -1)
            assert store.all("coordination.k8s.io/v1", "Lease")
            raise RuntimeError("in the middle of it")

    with pytest.raises(RuntimeError, match="in the middle"):
        broken()
    for kind in ("Namespace", "Node"):
        assert store.all("v1", kind) == []
    assert store.all("scheduling.k8s.io/v1", "PriorityClass") == []
    assert store.all("coordination.k8s.io/v1", "Lease") == []


def test_what_a_killed_run_left_is_swept_and_nothing_else(server: ApiServer, tmp_path: Path) -> None:
    file = written(tmp_path, "kubeconfig", server, {"token": TOKEN})
    api = Api(connect(file, None))
    try:
        for name, labels in (("ours", OURS), ("theirs", {})):
            api.create(NODES, "", {"metadata": {"name": name, "labels": labels}})
        body = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": 1}
        api.create(PRIORITY_CLASSES, "", {**body, "metadata": {"name": "ours", "labels": OURS}})
        sweep(api)  # too young
        assert len(server.store.all("v1", "Node")) == 2
        time.sleep(1.1)  # creation times have whole seconds
        sweep(api, older_s=0.0)
        assert [one["metadata"]["name"] for one in server.store.all("v1", "Node")] == ["theirs"]
        assert server.store.all("scheduling.k8s.io/v1", "PriorityClass") == []
    finally:
        api.close()


def test_the_ways_for_an_api_server_to_reach_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOST, raising=False)
    here = ways("https://127.0.0.1:6443")
    assert here[0] == (BY_NAME, "localhost")
    assert all(not host.startswith("127.") for kind, host in here if kind == BY_ENDPOINT)  # endpoints must not be
    assert (BY_NAME, "localhost") not in ways("https://192.0.2.7:6443")  # its localhost is not ours
    monkeypatch.setenv(HOST, "127.0.0.1")
    assert ways("https://192.0.2.7:6443") == [(BY_NAME, "127.0.0.1"), (BY_ENDPOINT, "127.0.0.1")]


def defined(name: str, file: str, **meta: Any) -> dict[str, Any]:
    """A definition as somebody else may have installed it."""
    found: dict[str, Any] = yaml.load((CRDS / file).read_text(encoding="utf-8"), yaml.CSafeLoader)
    return {**found, "metadata": {"name": name, **meta}}


@pytest.fixture
def real(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site as on a real server: nobody plays anything. Definitions are taken for established at once."""
    if not CRDS.is_dir():
        pytest.skip(f"the CustomResourceDefinitions are not there: {CRDS}")
    monkeypatch.setattr(site_definitions, "_established", lambda *_: True)
    group, hooks = "admissionregistration.k8s.io", site_definitions.WEBHOOKS
    server.store.know([Kind(group, "v1", one.plural, one.kind, namespaced=False) for one in hooks])
    return Site(written(tmp_path, "kubeconfig", server, {"token": TOKEN}), tmp_path)


def crds_of(server: ApiServer) -> set[str]:
    return {one["metadata"]["name"] for one in server.store.all("apiextensions.k8s.io/v1", "CustomResourceDefinition")}


JOBSETS = "jobsets.jobset.x-k8s.io", "jobset.x-k8s.io_jobsets.yaml"


def test_definitions_are_installed_where_absent_and_removed_with_the_site(server: ApiServer, real: Site) -> None:
    with real as site:
        site_definitions.working(site, JOBSET, VOLCANO)
        assert crds_of(server) == {JOBSETS[0], "jobs.batch.volcano.sh", "commands.bus.volcano.sh"}
        gang(site, JOBSET, "train", 2, 1)
        sent = server.store.one("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", JOBSETS[0])
        assert list(definition_problems(sent)) == []  # still structural without its descriptions
        assert len(json.dumps(sent)) < 200_000
    assert crds_of(server) == set()


def test_somebody_elses_definition_is_used_and_left_alone(server: ApiServer, real: Site) -> None:
    server.store.put(defined(*JOBSETS, labels={"theirs": "yes"}))
    with real as site:
        site_definitions.working(site, JOBSET)
    found = server.store.one("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", JOBSETS[0])
    assert found["metadata"]["labels"] == {"theirs": "yes"}


def test_where_the_operator_itself_is_at_work_its_tests_are_skipped(server: ApiServer, real: Site) -> None:
    server.store.put(defined(*JOBSETS))
    hook = {"name": "v.jobset.x-k8s.io", "rules": [{"apiGroups": ["jobset.x-k8s.io"], "resources": ["jobsets"]}]}
    body = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    server.store.put({**body, "metadata": {"name": "theirs"}, "webhooks": [hook]})
    older = defined("jobs.batch.volcano.sh", "batch.volcano.sh_jobs.yaml")
    older["spec"]["versions"][0]["name"] = "v1"
    server.store.put(older)
    with real as site:
        for operator, why in ((JOBSET, r"JobSet is at work.*theirs"), (VOLCANO, "serves no v1alpha1")):
            with pytest.raises(pytest.skip.Exception, match=why):
                site_definitions.working(site, operator)
        with pytest.raises(pytest.skip.Exception, match="is not there"):
            site_definitions._installed(site, JOBSET, "no-such-file.yaml")


def test_a_definition_that_is_just_going_is_waited_for(server: ApiServer, real: Site) -> None:
    kind = server.store.by_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
    going = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["customresourcecleanup"], "labels": OURS}
    server.store.put(defined(*JOBSETS, **going))

    def gone(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "metadata": {**found["metadata"], "finalizers": []}}

    last = Timer(0.5, lambda: server.store.change(kind, ("", JOBSETS[0]), gone))
    with real as site:
        last.start()
        site_definitions.working(site, JOBSET)
        last.join()
        found = server.store.one("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", JOBSETS[0])
        assert "deletionTimestamp" not in found["metadata"]
    assert crds_of(server) == set()


class _Discovery(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Silence."""


@contextmanager
def provider(folder: Path, names: list[str]) -> Iterator[int]:
    """Something that answers every path over TLS, under these names; gives its port."""
    made = self_signed(folder, names, time.time())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Discovery) as http:
        http.daemon_threads = True
        http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        thread = Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield http.server_address[1]
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture
def site(server: ApiServer, tmp_path: Path) -> Iterator[Site]:
    """On an API server that routes to endpoints, and so follows no Service that is but a name."""
    server.aggregation = Aggregation(server.store, by_endpoints=True)
    file = written(tmp_path, "kubeconfig", server, {"token": TOKEN})
    with Site(file, tmp_path, Played(server.store, kubelet=False, aggregation=server.aggregation)) as made:
        yield made


def test_where_the_first_way_fails_the_next_is_tried(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_aggregation, "TRY_S", 2.0)
    monkeypatch.setenv(HOST, "127.0.0.1")  # by its name, then by an endpoint; a real server takes no loopback for one
    with provider(tmp_path / "tls", site_aggregation.dns_names(site)) as port:
        with registered(site, port, tmp_path / "tls" / "ca.crt"):
            found = site.api.get(API_SERVICES, "", EXTERNAL)
            assert found["spec"]["service"] == {"namespace": site.name, "name": BY_ENDPOINT, "port": 443}
            with (
                pytest.raises(pytest.skip.Exception, match="somebody else"),
                registered(site, port, tmp_path / "tls" / "ca.crt"),
            ):
                pass
        with pytest.raises(ApiError, match="not found"):
            site.api.get(API_SERVICES, "", EXTERNAL)


def test_where_no_way_leads_here_each_is_said_with_its_reason(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_aggregation, "TRY_S", 1.0)
    monkeypatch.setenv(HOST, "127.0.0.1")
    self_signed(tmp_path / "tls", ["localhost"], time.time())
    with (
        provider(tmp_path / "tls", ["elsewhere"]) as port,
        pytest.raises(pytest.fail.Exception) as failed,
        registered(site, port, tmp_path / "tls" / "ca.crt"),
    ):
        pass
    assert "by-name 127.0.0.1: Available=False: failing or missing response: unsupported service type" in str(
        failed.value
    )
    assert "by-endpoint 127.0.0.1: Available=False: failing or missing response:" in str(failed.value)
    assert HOST in str(failed.value)
