"""The Helm chart: clusters take what it renders, it gives no right unasked, and Tidegate runs as its values say."""

from __future__ import annotations

import copy
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from cluster_rig import connected, eventually
from helm_subset import Chart, TemplateError
from kube_kinds import kinds_of
from kube_server import ApiServer
from typed_objects import FOREIGN, object_problems

from autoscaler import build
from autoscaler.cluster.custom_resources import TOKEN_POOLS, TokenPools
from autoscaler.configuration import load_settings
from autoscaler.crd import definition
from autoscaler.sharding import shard

if TYPE_CHECKING:
    from kube_server import Request

CONFIG = Path(__file__).resolve().parents[2] / "config"
FOLDER = CONFIG / "helm" / "tidegate"
CHART = Chart(FOLDER)
Json = dict[str, Any]
WRITES = {"create", "update", "patch", "delete", "deletecollection", "*"}
EVERYTHING: Json = {
    "mode": "active",
    "actuator": "scale",
    "features": dict.fromkeys(CHART.values["features"], True),
    "tokenPools": {"enabled": True, "namespaces": ["serving", "research"], "installDefinition": True},
    "certificates": {"source": "certManager"},
    "apiService": {"external": True, "custom": True},
    "keda": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "image": {"digest": f"sha256:{'a' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccount": {"annotations": {"a": "b"}},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "podAnnotations": {"note": "1"},
    "podLabels": {"team": "x"},
    "extraEnv": [{"name": "TIDEGATE_LOG_LEVEL", "value": "debug"}],
}
VARIANTS: dict[str, Json] = {
    "as it stands": {},
    "everything": EVERYTHING,
    "a certificate of one's own": {
        "certificates": {"source": "existingSecret", "existingSecret": "mine", "caBundle": "QUJD"}
    },
    "beside KEDA": {"apiService": {"external": False}, "keda": {"enabled": True}},
    "bare": {
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "serviceAccount": {"create": False, "name": "given"},
        "priorityClassName": "",
        "replicaCount": 1,
    },
    "an issuer": {"certificates": {"source": "certManager", "issuerRef": {"name": "ca", "kind": "ClusterIssuer"}}},
    "pools as objects": {"tokenPools": {"enabled": True}, "configuration": {"pools": []}},
}


def rendered(values: Json | None = None, **more: str) -> list[Json]:
    return [found for found in yaml.safe_load_all(CHART.render(values, **more)) if found]


def of_kind(found: list[Json], kind: str) -> list[Json]:
    return [one for one in found if one["kind"] == kind]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_it_renders_is_what_the_api_server_knows(variant: str) -> None:
    jsonschema.validate(_all(VARIANTS[variant]), json.loads((FOLDER / "values.schema.json").read_text()))
    found = rendered(VARIANTS[variant])
    assert [problem for one in found for problem in object_problems(one)] == []
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)
    for one in found:
        if one["kind"] in {"Deployment", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Certificate"}:
            assert one["metadata"]["namespace"] == "tidegate-system"


def _all(values: Json) -> Json:
    """The values as Helm checks them: merged over the chart's own."""
    made = copy.deepcopy(CHART.values)
    for key, value in values.items():
        made[key] = {**made[key], **value} if isinstance(value, dict) else value
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_parts_fit_together_and_the_pods_meet_the_restricted_standard(variant: str) -> None:
    found = rendered(VARIANTS[variant])
    (deployment,) = of_kind(found, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector.items() <= labels.items()
    assert "app.kubernetes.io/version" not in selector  # a selector cannot change when the version does
    (service,) = of_kind(found, "Service")
    assert service["spec"]["selector"] == selector
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (box,) = spec["containers"]
    assert box["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    ports = {port["name"] for port in box["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in box["volumeMounts"]} == volumes
    accounts = {one["metadata"]["name"] for one in of_kind(found, "ServiceAccount")} or {"given"}
    assert {spec["serviceAccountName"]} == accounts
    roles = {one["metadata"]["name"] for one in found if one["kind"] in {"Role", "ClusterRole"}}
    roles |= {"system:auth-delegator", "extension-apiserver-authentication-reader"}
    for binding in (one for one in found if one["kind"].endswith("Binding")):
        assert binding["roleRef"]["name"] in roles
        assert [subject["name"] for subject in binding["subjects"]] == list(accounts)
    for one in [*of_kind(found, "PodDisruptionBudget"), *of_kind(found, "ServiceMonitor")]:
        assert one["spec"]["selector"]["matchLabels"] == selector
    for one in of_kind(found, "APIService"):
        assert one["spec"]["service"]["name"] == service["metadata"]["name"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_tidegate_runs_with_what_it_renders(variant: str, tmp_path: Path) -> None:
    values = VARIANTS[variant]
    found = rendered(values)
    (shipped,) = of_kind(found, "ConfigMap")
    file = tmp_path / "tidegate.yaml"
    file.write_text(shipped["data"]["tidegate.yaml"])
    (deployment,) = of_kind(found, "Deployment")
    environment = {one["name"]: one["value"] for one in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    settings = load_settings(file, environment)
    assert settings.cluster.enabled
    assert settings.cluster.mode == values.get("mode", "shadow")
    assert settings.cluster.actuator == values.get("actuator", "metrics")
    assert settings.cluster.namespace == settings.serving.service.namespace == "tidegate-system"
    assert settings.serving.service.name == of_kind(found, "Service")[0]["metadata"]["name"]
    assert settings.cluster.token_pools.enabled == values.get("tokenPools", {}).get("enabled", False)
    assert list(settings.cluster.token_pools.namespaces) == values.get("tokenPools", {}).get("namespaces", [])
    assert (settings.serving.keda is not None) == values.get("keda", {}).get("enabled", False)
    own = values.get("certificates", {}).get("source", "selfSigned") == "selfSigned"
    assert (settings.serving.tls.cert_file is None) == own
    if own:
        assert settings.serving.tls.names == ("tidegate.tidegate-system.svc",)
    assert len(build.parts(settings).rules.roles) == (0 if variant == "pools as objects" else 2)


def test_shards_are_a_stateful_set_whose_pods_go_round_them(tmp_path: Path) -> None:
    supply = [{"accelerator": "h100-80gb", "gpus": 64}]
    found = rendered({"shards": 3, "configuration": {"supply": supply}})
    assert [problem for one in found for problem in object_problems(one)] == []
    assert of_kind(found, "Deployment") == []
    (pods,) = of_kind(found, "StatefulSet")
    assert pods["spec"]["replicas"] == 6  # two for each
    assert pods["spec"]["serviceName"] == of_kind(found, "Service")[0]["metadata"]["name"]
    env = {one["name"]: one for one in pods["spec"]["template"]["spec"]["containers"][0]["env"]}
    where = env.pop("TIDEGATE_CLUSTER__SHARDS__ORDINAL")["valueFrom"]["fieldRef"]["fieldPath"]
    assert where == "metadata.labels['apps.kubernetes.io/pod-index']"
    file = tmp_path / "tidegate.yaml"
    file.write_text(of_kind(found, "ConfigMap")[0]["data"]["tidegate.yaml"])
    environment = {name: one["value"] for name, one in env.items()}
    indices = [
        shard(load_settings(file, {**environment, "TIDEGATE_CLUSTER__SHARDS__ORDINAL": str(index)})).index
        for index in range(6)
    ]
    assert indices == [0, 1, 2, 0, 1, 2]


def test_as_it_stands_it_may_write_nothing_but_its_own_lease_and_decision() -> None:
    found = rendered()
    assert [one["metadata"]["name"] for one in of_kind(found, "ClusterRole")] == ["tidegate-see"]
    for role in of_kind(found, "ClusterRole"):
        assert all(not WRITES & set(rule["verbs"]) for rule in role["rules"])
    (own,) = of_kind(found, "Role")
    assert own["metadata"]["namespace"] == "tidegate-system"
    assert {name for rule in own["rules"] for name in rule["resources"]} == {"leases", "configmaps"}
    assert of_kind(found, "CustomResourceDefinition") == []


@pytest.mark.parametrize("feature", [*CHART.values["features"], "tokenPools"])
def test_a_feature_gives_its_own_rights_and_they_are_those_of_kustomize(feature: str) -> None:
    asked = {"tokenPools": {"enabled": True}} if feature == "tokenPools" else {"features": {feature: True}}
    roles = {one["metadata"]["name"]: one["rules"] for one in of_kind(rendered(asked), "ClusterRole")}
    assert set(roles) == {"tidegate-see", f"tidegate-{feature.lower()}"}
    name = "token-pools" if feature == "tokenPools" else feature
    texts = (CONFIG / "kustomize" / "features" / name / "rights.yaml").read_text()
    (there,) = of_kind(list(yaml.safe_load_all(texts)), "ClusterRole")
    assert roles[f"tidegate-{feature.lower()}"] == there["rules"]
    base = yaml.safe_load_all((CONFIG / "kustomize" / "base" / "identity.yaml").read_text())
    assert roles["tidegate-see"] == of_kind(list(base), "ClusterRole")[0]["rules"]
    for rule in roles[f"tidegate-{feature.lower()}"]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_every_feature_of_kustomize_is_one_of_the_chart() -> None:
    there = {folder.name for folder in (CONFIG / "kustomize" / "features").iterdir()}
    assert there == {*CHART.values["features"], "token-pools"}


def test_the_definition_is_the_shipped_one_and_outlives_the_release() -> None:
    (found,) = of_kind(rendered({"tokenPools": {"installDefinition": True}}), "CustomResourceDefinition")
    assert found == definition()
    assert found["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"mode": "active", "actuator": "scale"}, "features.replicas"),
        ({"mode": "active", "actuator": "clamp"}, "features.clamp"),
        ({"configuration": {"pools": []}}, "there is no pool"),
        ({"certificates": {"source": "existingSecret"}}, "certificates.existingSecret"),
        ({"certificates": {"source": "existingSecret", "existingSecret": "x"}}, "certificates.caBundle"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name"),
    ],
)
def test_values_that_cannot_work_are_refused_with_what_would(values: Json, why: str) -> None:
    with pytest.raises(TemplateError, match=why):
        CHART.render(values)


@pytest.mark.parametrize(
    "values",
    [
        {"mod": "active"},
        {"mode": "on"},
        {"features": {"everything": True}},
        {"features": {"evict": "yes"}},
        {"replicaCount": 0},
        {"image": {"digest": "latest"}},
        {"serviceMonitor": {"interval": "often"}},
        {"tokenPools": {"namespaces": ["A_b"]}},
    ],
)
def test_the_schema_refuses_what_does_not_exist(values: Json) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_all(values), json.loads((FOLDER / "values.schema.json").read_text()))


def test_every_value_is_in_the_schema_and_is_used() -> None:
    schema = json.loads((FOLDER / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == set(CHART.values)
    templates = "".join(file.read_text() for file in (FOLDER / "templates").iterdir())
    for name, value in CHART.values.items():
        assert f".Values.{name}" in templates, name
        if isinstance(value, dict) and name not in {"features", "configuration", "resources"}:
            for below in value:
                assert f".Values.{name}.{below}" in templates, f"{name}.{below}"


@pytest.mark.parametrize(
    ("name", "full"), [("tidegate", "tidegate"), ("prod", "prod-tidegate"), ("my-tidegate", "my-tidegate")]
)
def test_two_releases_share_no_name(name: str, full: str) -> None:
    found = rendered({"nameOverride": ""}, name=name, namespace="ns")
    cluster_wide = [one["metadata"]["name"] for one in found if not one["metadata"].get("namespace")]
    assert all(each.startswith(full) or each.endswith("metrics.k8s.io") for each in cluster_wide)
    (deployment,) = of_kind(found, "Deployment")
    assert deployment["metadata"] == {**deployment["metadata"], "name": full, "namespace": "ns"}


def test_changed_configuration_rolls_the_pods() -> None:
    def annotation(values: Json) -> str:
        (deployment,) = of_kind(rendered(values), "Deployment")
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/configuration"])

    assert annotation({}) == annotation({}) != annotation({"configuration": {"log_level": "debug"}})


def test_its_rights_are_enough_for_declared_pools() -> None:
    found = rendered({"tokenPools": {"enabled": True}})
    (role,) = [one for one in of_kind(found, "ClusterRole") if one["metadata"]["name"] == "tidegate-tokenpools"]

    def allows(asked: Request) -> bool:
        what = f"{asked.plural}/{asked.subresource}" if asked.subresource else asked.plural
        return any(what in rule["resources"] and asked.verb in rule["verbs"] for rule in role["rules"])

    with ApiServer() as api:
        api.store.know(kinds_of(definition()))
        api.allows = allows
        plain = connected(api)
        pools = TokenPools(plain, (), clock=lambda: 0.0, chance=random.random)
        pools.start()
        try:
            spec = {"roles": {"colocated": {"maxReplicas": 1}}}
            meta = {"name": "chat", "namespace": "serving"}
            api.store.put({"apiVersion": "tidegate.dev/v1alpha1", "kind": "TokenPool", "metadata": meta, "spec": spec})
            eventually(pools.declared, "may not read them")
            plain.patch(TOKEN_POOLS, "serving", "chat", {"status": {"observedGeneration": 1}}, subresource="status")
        finally:
            pools.stop()
            plain.close()


def test_the_notes_say_what_it_does() -> None:
    assert "changes nothing" in CHART.notes()
    assert "it acts" in CHART.notes({"mode": "active"})


@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_itself_renders_the_same(variant: str, tmp_path: Path) -> None:
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("helm is not installed; the chart is rendered by the tests' own renderer of its subset")
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(VARIANTS[variant]))
    command = [helm, "template", "tidegate", str(FOLDER), "-n", "tidegate-system", "-f", str(values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    def plain(found: list[Json]) -> dict[tuple[str, str], Json]:
        made = {(one["kind"], one["metadata"]["name"]): one for one in found}
        for one in of_kind(found, "Deployment"):  # its checksum is of Helm's own spelling of the YAML
            del one["spec"]["template"]["metadata"]["annotations"]["checksum/configuration"]
        for one in of_kind(found, "ConfigMap"):
            one["data"]["tidegate.yaml"] = yaml.safe_load(one["data"]["tidegate.yaml"])
        return made

    assert plain([one for one in yaml.safe_load_all(done.stdout) if one]) == plain(rendered(VARIANTS[variant]))


KUSTOMIZATIONS = ["kustomize/base", "kustomize/overlays/shadow", "kustomize/overlays/active"]


@pytest.mark.parametrize("folder", [*KUSTOMIZATIONS, "kustomize/overlays/declared", "crd"])
def test_what_kustomize_renders_is_what_the_api_server_knows(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, which renders kustomizations")
    command = ["kubectl", "kustomize", "--load-restrictor=LoadRestrictionsNone", str(CONFIG / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one]
    assert found
    assert [problem for one in found for problem in object_problems(one)] == []


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("spec", "replica"), 1, "no such field"),
        (("spec", "replicas"), "2", "must be int"),
        (("spec", "template", "spec", "containers"), {}, "must be a list"),
        (("spec", "selector"), None, "must be a V1LabelSelector"),
        (("metadata", "labels"), {"a": 1}, "must be str"),
    ],
)
def test_the_checker_of_objects_finds_mistakes(path: tuple[str, ...], value: Any, why: str) -> None:
    (deployment,) = of_kind(rendered(), "Deployment")
    below = deployment
    for name in path[:-1]:
        below = below[name]
    below[path[-1]] = value
    assert any(why in problem for problem in object_problems(deployment))
    del deployment["spec"]
    assert list(object_problems({**deployment, "kind": "Deploymint"}))
    assert set(FOREIGN) == {"monitoring.coreos.com/v1", "cert-manager.io/v1"}


@pytest.mark.parametrize(
    "text",
    ["{{ tpl .Values.a . }}", "{{ .Values.absent.b }}", "{{ .Values.a | tomato }}", "{{ if .Values }}", "{{ end }}"],
)
def test_the_renderer_refuses_what_it_does_not_know(text: str, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("name: x\n")
    (tmp_path / "values.yaml").write_text("a: 1\n")
    (tmp_path / "templates" / "x.yaml").write_text(text)
    with pytest.raises(TemplateError):
        Chart(tmp_path).render()
