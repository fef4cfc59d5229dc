"""Generated manifests: valid by the real schemas, free of findings, and what the reference asks for field by field."""

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from kubernetes import client
from typer.testing import CliRunner

from autoscaler.cli import app
from autoscaler.configuration import load
from autoscaler.manifest_lint import lint
from autoscaler.manifest_yaml import read
from autoscaler.manifests import Place, TriggerKind, hpa, keda, scaled, text
from autoscaler.manifests_api import registration
from autoscaler.settings import Settings

ROOT = Path(__file__).parents[2]
SCALED_OBJECT = ROOT.parent / "shared" / "data" / "crds" / "keda.sh_scaledobjects.yaml"
POOLS = """
pools:
  - name: chat
    namespace: serving
    roles:
      prefill: {max_replicas: 20, target: {name: chat-prefill}}
      decode: {max_replicas: 60, min_replicas: 0, target: {kind: LeaderWorkerSet, name: chat-decode}}
  - name: code
    roles: {colocated: {max_replicas: 4, target: {kind: StatefulSet, name: code}}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "tidegate.yaml"
    file.write_text(POOLS)
    return file


@pytest.fixture
def settings(config: Path) -> Settings:
    return load(config).settings


def test_the_hpa_has_every_field_that_exactness_needs(settings: Settings) -> None:
    _, decode, _ = scaled(settings)
    made = hpa(decode)
    assert made["apiVersion"] == "autoscaling/v2"
    spec = made["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "name": "chat-decode",
    }
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 60)
    assert hpa(decode, to_zero=True)["spec"]["minReplicas"] == 0
    (metric,) = spec["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert metric["external"]["metric"] == {
        "name": "tidegate_desired_replicas",
        "selector": {"matchLabels": {"tidegate.dev/workload": "chat", "tidegate.dev/role": "decode"}},
    }
    for direction in ("scaleUp", "scaleDown"):
        rules = spec["behavior"][direction]
        assert rules["tolerance"] == "0"
        assert rules.keys() == {"stabilizationWindowSeconds", "selectPolicy", "tolerance", "policies"}


class Body:
    """What the kubernetes client deserialises: an answer with text in `data`."""

    def __init__(self, made: object) -> None:
        self.data = json.dumps(made)


def test_the_kubernetes_client_reads_it_and_loses_nothing(settings: Settings) -> None:
    api = client.ApiClient()
    for of in scaled(settings):
        made = hpa(of)
        model = api.deserialize(Body(made).data, "V2HorizontalPodAutoscaler", "application/json")
        assert api.sanitize_for_serialization(model) == made
    kinds = {"Service": "V1Service", "APIService": "V1APIService", "ClusterRole": "V1ClusterRole"}
    for made in registration(settings, Place(), b"-----BEGIN CERTIFICATE-----", custom=True):
        name = kinds.get(made["kind"], f"V1{made['kind']}")
        model = api.deserialize(Body(made).data, name, "application/json")
        assert api.sanitize_for_serialization(model) == made


@pytest.mark.skipif(not SCALED_OBJECT.exists(), reason="KEDA's CRD is not beside the repository")
@pytest.mark.parametrize("kind", list(TriggerKind))
def test_scaled_objects_fit_kedas_own_schema(settings: Settings, kind: TriggerKind) -> None:
    crd = yaml.safe_load(SCALED_OBJECT.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    closed = Draft202012Validator(_closed(schema))
    made = [one for one in keda(settings, scaled(settings), kind, Place()) if one["kind"] == "ScaledObject"]
    assert len(made) == 3
    for one in made:
        assert [error.message for error in closed.iter_errors(one)] == []


def _closed(schema: object) -> object:
    """The schema with unknown fields refused, as the API server drops them; metadata is anything."""
    if not isinstance(schema, dict):
        return [_closed(one) for one in schema] if isinstance(schema, list) else schema
    made = {key: _closed(value) for key, value in schema.items()}
    if "properties" in made and made.get("type") == "object":
        made.setdefault("additionalProperties", False)
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("anyOf", None)
    return made


@pytest.mark.parametrize("kind", list(TriggerKind))
def test_what_is_generated_has_no_findings(settings: Settings, kind: TriggerKind) -> None:
    roles = scaled(settings)
    for made in ([hpa(of) for of in roles], list(keda(settings, roles, kind, Place()))):
        assert lint(read(text(made, "made by a test"), "made.yaml"), settings) == []


def test_triggers_name_pool_and_role_and_the_secret_with_the_certificates(settings: Settings) -> None:
    made = list(keda(settings, scaled(settings, "chat"), TriggerKind.PUSH, Place("ops", "tg")))
    assert [(one["kind"], one["metadata"]["name"]) for one in made] == [
        ("TriggerAuthentication", "tidegate-scaler"),
        ("ScaledObject", "chat-prefill"),
        ("ScaledObject", "chat-decode"),
    ]
    trigger = made[2]["spec"]["triggers"][0]
    assert trigger["metadata"] == {
        "scalerAddress": "dns:///tg-headless.ops.svc.cluster.local:9443",
        "pool": "chat",
        "role": "decode",
        "enableTLS": "true",
    }
    assert trigger["authenticationRef"] == {"name": "tidegate-scaler"}
    assert made[2]["spec"]["fallback"] == {
        "failureThreshold": 3,
        "replicas": 1,
        "behavior": "currentReplicasIfHigher",
    }
    assert made[2]["spec"]["minReplicaCount"] == 0


def test_long_names_stay_names_and_stay_different(tmp_path: Path) -> None:
    roles = "roles: {decode: {max_replicas: 2, target: {name: a%s}}}"
    pools = [f"- {{name: {'x' * 60}{end}, match: {{x: {end}}}, {roles % end}}}" for end in "ab"]
    file = tmp_path / "long.yaml"
    file.write_text("pools:\n" + "\n".join(pools))
    names = [of.name for of in scaled(load(file).settings)]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,52}[a-z0-9])?", name) for name in names)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    return (
        (2, str(done.exception))
        if done.exception and not isinstance(done.exception, SystemExit)
        else (
            done.exit_code,
            done.output,
        )
    )


def test_the_command_writes_to_stdout_or_one_file_per_object(config: Path, tmp_path: Path) -> None:
    code, out = run("manifests", "hpa", "-c", str(config), "--pool", "serving/chat")
    assert code == 0
    assert [one["metadata"]["name"] for one in yaml.safe_load_all(out)] == ["chat-prefill", "chat-decode"]
    code, out = run("manifests", "keda", "-c", str(config), "--out", str(tmp_path / "made"))
    files = [Path(line) for line in out.split()]
    assert len(files) == 5  # two namespaces with a TriggerAuthentication each, three ScaledObjects
    checked = run("check", "-c", str(config), *[part for file in files for part in ("--manifests", str(file))])
    assert checked == (0, "5 objects, 3 of them HPAs or ScaledObjects, 0 findings\n")
    code, out = run("manifests", "apiservice", "-c", str(config), "--insecure")
    services = [one for one in yaml.safe_load_all(out) if one["kind"] == "APIService"]
    assert [one["metadata"]["name"] for one in services] == ["v1beta1.external.metrics.k8s.io"]
    assert services[0]["spec"]["insecureSkipTLSVerify"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("hpa", "--pool", "caht"), "no such pool"),
        (("keda", "--trigger", "pull"), "use one of external-push"),
        (("apiservice", "--ca-file", "/nonexistent"), "cannot be read"),
    ],
)
def test_what_cannot_be_made_says_why(config: Path, arguments: tuple[str, ...], words: str) -> None:
    code, told = run("manifests", arguments[0], "-c", str(config), *arguments[1:])
    assert (code, words in told) == (2, True), told


def test_a_role_without_target_is_named(tmp_path: Path) -> None:
    file = tmp_path / "none.yaml"
    file.write_text("pools: [{name: chat, roles: {colocated: {max_replicas: 2}}}]")
    code, told = run("manifests", "hpa", "-c", str(file))
    assert (code, "pools[0].roles.colocated.target: is missing" in told) == (2, True)
