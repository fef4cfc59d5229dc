"""The doors as `tidegate run` opens them: who sees the dashboard, when they are ready, and the bootstrap's caBundle."""

from __future__ import annotations

import base64
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
import yaml
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parent))
from aggregated_rig import PROXY, Authorities, Cluster, kubernetes_api, wish

from autoscaler.authority import registered
from autoscaler.cli import app
from autoscaler.configuration import load
from autoscaler.dashboard.api import Dashboard
from autoscaler.dashboard.chronicle import Chronicle
from autoscaler.doors import Shown, open_doors
from autoscaler.model import Decision, Foreseen, PlanEvidence, Role, RoleDecision, RoleKey, Tier
from autoscaler.publishing import Publisher, Status
from autoscaler.service import Stopwatch
from metrics_adapter.board import Board, Limits, Published
from metrics_adapter.exposition import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autoscaler.doors import Doors

PAGES = ("/dashboard/", "/dashboard/api/overview")
HPA = {"X-Remote-User": "hpa"}


def shown() -> Shown:
    board = Board(Limits(30, 60), time.time)
    board.publish(Published(time.time(), (wish("chat", "decode", 6, "chat-decode"),)))
    return Shown(
        board, Telemetry(board), Status("script", 15.0, 0.0), Dashboard(Chronicle("script", 15.0, 0.0, {}), None)
    )


class House:
    """Real doors of a configuration, with a small Kubernetes API that is asked about who comes."""

    def __init__(self, folder: Path, stack: ExitStack, serving: str, *, front_proxy: bool = True) -> None:
        self.ca = Authorities(folder, "front-proxy-ca")
        config = {"requestheader-client-ca-file": self.ca.pem, "requestheader-allowed-names": json.dumps([PROXY])}
        self.cluster = stack.enter_context(kubernetes_api(Cluster(config if front_proxy else {})))
        self.cluster.tokens = {"good": {"username": "jane", "groups": ["dev"]}}
        self.cluster.forbidden = {"mallory"}
        at = {
            "clusters": [{"name": "c", "cluster": {"server": self.cluster.url}}],
            "users": [{"name": "u", "user": {}}],
        }
        at |= {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **at}))
        file = folder / "tidegate.yaml"
        file.write_text(
            "pools: [{name: chat, roles: {decode: {max_replicas: 9}}}]\n"
            f"serving: {{port: 0, status_port: 0, tls: {{directory: {folder / 'tls'}, names: [localhost]}}, "
            f"{serving.format(kubeconfig=kubeconfig)}}}\n"
        )
        self.doors: Doors = open_doors(load(file).settings, shown(), stack, time.time)
        self.bundle = str(folder / "tls" / "ca.crt")

    def api(
        self, path: str, headers: dict[str, str] | None = None, cert: tuple[str, str] | None = None
    ) -> requests.Response:
        url = f"https://localhost:{self.doors.api.port}{path}"
        return requests.get(url, headers=headers, cert=cert, verify=self.bundle, timeout=10)

    def status(self, path: str) -> requests.Response:
        return requests.get(f"{self.doors.status.url}{path}", timeout=10)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


DELEGATED = "authentication: {{mode: delegated, kubeconfig: {kubeconfig}}}"


@pytest.mark.parametrize("page", PAGES)
def test_the_dashboard_on_the_api_is_for_those_whom_the_cluster_lets_in(
    tmp_path: Path, stack: ExitStack, page: str
) -> None:
    house = House(tmp_path, stack, DELEGATED)
    proxy = house.ca.client()
    assert house.api(page).status_code == 401
    assert house.api(page, HPA).status_code == 401
    assert house.api(page, {"X-Remote-User": "mallory"}, proxy).status_code == 403
    assert house.api(page, HPA, proxy).status_code == 200
    assert house.api(page, {"Authorization": "Bearer good"}).status_code == 200
    assert (
        requests.post(
            f"https://localhost:{house.doors.api.port}{page}", headers=HPA, cert=proxy, verify=house.bundle, timeout=10
        ).status_code
        == 405
    )
    assert {"path": page, "verb": "get"} in [
        review.get("nonResourceAttributes") for review in house.cluster.reviews("SubjectAccessReview")
    ]


@pytest.mark.parametrize(
    ("serving", "on_api", "on_status"),
    [
        ("authentication: {{mode: none}}", 200, 200),
        ("host: 0.0.0.0, status_host: 0.0.0.0, authentication: {{mode: none}}", 404, 404),
        ("host: 0.0.0.0, status_host: 0.0.0.0, dashboard: open, authentication: {{mode: none}}", 200, 200),
        ("host: 0.0.0.0, status_host: 0.0.0.0, " + DELEGATED, 401, 404),
    ],
)
def test_nobody_sees_it_by_accident(
    tmp_path: Path, stack: ExitStack, serving: str, on_api: int, on_status: int
) -> None:
    house = House(tmp_path, stack, serving)
    assert house.api("/dashboard/").status_code == on_api
    port = house.doors.status.port
    assert requests.get(f"http://127.0.0.1:{port}/dashboard/", timeout=10).status_code == on_status


def test_it_is_not_ready_until_the_front_proxy_is_known(tmp_path: Path, stack: ExitStack) -> None:
    house = House(tmp_path, stack, DELEGATED.replace("mode:", "refresh_s: 1, mode:"), front_proxy=False)
    for reply in (house.api("/readyz"), house.status("/readyz")):
        assert (reply.status_code, "requestheader-client-ca-file is empty" in reply.text) == (503, True)
    assert house.api("/livez").status_code == house.status("/healthz").status_code == 200
    house.cluster.config["requestheader-client-ca-file"] = house.ca.pem
    deadline = time.monotonic() + 15
    while house.status("/readyz").status_code != 200:
        assert time.monotonic() < deadline, "never ready"
        time.sleep(0.1)
    house.cluster.broken = True  # what is known stays in force: no reason to be unready
    assert house.api("/readyz").status_code == 200


def test_check_says_what_would_keep_it_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    file = tmp_path / "c.yaml"
    for serving, problems in (
        ("{}", 0),
        ("{host: 0.0.0.0}", 1),
        ("{host: 0.0.0.0, authentication: {mode: none}}", 0),
        ("{host: 0.0.0.0, authentication: {mode: delegated}}", 1),
    ):
        file.write_text(f"pools: [{{name: a, roles: {{decode: {{max_replicas: 1}}}}}}]\nserving: {serving}\n")
        found = registered(load(file).settings.serving)
        assert ([good for good, _ in found], serving) == ([False] * problems, serving)
        assert all("authentication" in said or "kubeconfig" in said for _, said in found), found


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["manifests", *arguments])
    return done.exit_code, done.stdout if done.exit_code == 0 else f"{done.output}{done.exception}"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tidegate.yaml"
    tls = f"tls: {{directory: {tmp_path / 'tls'}}}"
    file.write_text(f"pools: [{{name: a, roles: {{decode: {{max_replicas: 1}}}}}}]\nserving: {{{tls}}}\n")
    return file


def test_the_ca_bundle_of_the_bootstrap_is_printed_and_put_into_the_apiservice(config: Path, tmp_path: Path) -> None:
    code, bundle = run("ca-bundle", "--config", str(config))
    ca = (tmp_path / "tls" / "ca.crt").read_bytes()
    assert (code, base64.b64decode(bundle.strip(), validate=True)) == (0, ca)
    assert run("ca-bundle", "--pem", "--config", str(config)) == (0, ca.decode())
    code, text = run("apiservice", "--self-signed", "--config", str(config))
    objects = list(yaml.safe_load_all(text))
    (service,) = [one for one in objects if one["kind"] == "APIService"]
    assert service["spec"]["caBundle"] == bundle.strip()
    assert "insecureSkipTLSVerify" not in service["spec"]


def test_a_ca_bundle_that_is_not_ours_is_refused(config: Path, tmp_path: Path) -> None:
    code, said = run("apiservice", "--self-signed", "--insecure", "--config", str(config))
    assert (code, "give one of them" in said) == (2, True) or "give one of them" in said
    text = config.read_text().replace(
        f"directory: {tmp_path / 'tls'}", f"cert_file: {tmp_path / 'a'}, key_file: {tmp_path / 'b'}"
    )
    config.write_text(text)
    _, said = run("ca-bundle", "--config", str(config))
    assert "is not signed by Tidegate" in said


KEY = RoleKey("serving", "chat", Role.DECODE)


def test_plans_and_forecasts_are_labelled_with_what_was_really_used() -> None:
    """Two tiers at the levels 0.95 and 0.8: `forecast` is the load at the end of the longer lead, so it is the 0.8."""
    board = Board(Limits(30, 60), lambda: 100.0)
    telemetry = Telemetry(board)
    publisher = Publisher(board, telemetry, Status("script", 15.0, 0.0))
    ahead = (
        Foreseen(Tier.START, 60.0, 0.95, 3000.0),
        Foreseen(Tier.PROVISION, 300.0, 0.8, 3500.0),
    )
    role = RoleDecision(KEY, desired=4, planned=4, ready=3, load=2000.0, forecast=3500.0, foreseen=ahead)
    plan = PlanEvidence("timed-out", cost=12.0, next_best_cost=15.0, gap=0.04)
    decision = Decision(99.0, (role,), plan)
    publisher.publish(decision)
    telemetry.solved(plan.status, 0.2)
    text = telemetry.text("")[0].decode()
    at = 'namespace="serving",role="decode",workload="chat"'
    assert f'tidegate_forecast_tokens_per_second{{level="0.8",{at}}} 3500.0' in text
    assert f"tidegate_forecast_quantile{{{at.replace('workload', 'tier=!,workload')}}}".replace("!", '"start"') in text
    assert 'level="0.95"' not in text
    assert "tidegate_solver_gap_ratio 0.04" in text
    assert "tidegate_solver_seconds_count 1.0" in text
    publisher.publish(Decision(99.5, (RoleDecision(KEY, desired=4, forecast=2000.0),), None))
    assert "tidegate_forecast_tokens_per_second{" not in telemetry.text("")[0].decode()


def test_the_time_of_a_stage_ends_where_the_next_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5, 10.75, 11.75])
    monkeypatch.setattr("autoscaler.service.time.monotonic", lambda: next(times))
    watch = Stopwatch()
    watch.begin()
    for stage in ("observe", "plan", "observe"):
        watch.ended(stage)
    assert watch.spent == {"observe": 1.5, "plan": 0.25}
