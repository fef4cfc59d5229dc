"""The manifests: they render, keep to what clusters demand, and give exactly the rights that the hands need."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kube_objects as make
import pytest
import yaml
from acting_rig import YES, acting, training_cluster, wish
from cluster_rig import CHAT, H100, seeing, sight_rules

from autoscaler import build
from autoscaler.cluster.sight_types import WeightsSight
from autoscaler.configuration import load_settings
from autoscaler.settings_cluster import WeightsSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from kube_server import ApiServer, Request

CONFIG = Path(__file__).resolve().parents[2] / "config" / "kustomize"
WRITES = {"create", "update", "patch", "delete", "deletecollection", "*"}
Json = dict[str, Any]


def rendered(folder: Path) -> list[Json]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, which renders kustomizations")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def with_components(folder: Path, *components: str) -> list[Json]:
    """The base with these components, as a person would combine them."""
    for part in ("base", "features", "components"):
        shutil.copytree(CONFIG / part, folder / part)
    made = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../base"],
        "components": [f"../{name}" for name in components],
    }
    (folder / "mine").mkdir()
    (folder / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(made))
    return rendered(folder / "mine")


def of_kind(found: list[Json], kind: str) -> list[Json]:
    return [one for one in found if one["kind"] == kind]


def allowed(found: list[Json]) -> Callable[[Request], bool]:
    """RBAC as the rendered roles say, for the service account that is bound to them."""
    bound = {binding["roleRef"]["name"] for binding in found if binding["kind"].endswith("Binding")}
    rules: list[tuple[str, Json]] = []
    for role in found:
        if role["kind"] in {"Role", "ClusterRole"} and role["metadata"]["name"] in bound:
            space = role["metadata"].get("namespace", "") if role["kind"] == "Role" else ""
            rules += [(space, rule) for rule in role["rules"]]

    def test(asked: Request) -> bool:
        group = asked.kind.group if asked.kind else ""
        what = f"{asked.plural}/{asked.subresource}" if asked.subresource else asked.plural
        return any(
            (not space or space == asked.namespace)
            and group in rule["apiGroups"]
            and what in rule["resources"]
            and asked.verb in rule["verbs"]
            for space, rule in rules
        )

    return test


@pytest.mark.parametrize("overlay", ["shadow", "active"])
def test_an_overlay_renders_what_a_restricted_namespace_takes(overlay: str) -> None:
    found = rendered(CONFIG / "overlays" / overlay)
    names = [(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)
    (deployment,) = of_kind(found, "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for box in spec["containers"]:
        context = box["securityContext"]
        assert not context["allowPrivilegeEscalation"]
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"] == {"drop": ["ALL"]}
    (service,) = of_kind(found, "Service")
    ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
    assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    accounts = {one["metadata"]["name"] for one in of_kind(found, "ServiceAccount")}
    assert spec["serviceAccountName"] in accounts
    for binding in [one for one in found if one["kind"].endswith("Binding")]:
        assert {subject["name"] for subject in binding["subjects"]} == accounts


def test_shadow_may_write_nothing_but_its_own_lease_and_decision() -> None:
    found = rendered(CONFIG / "overlays" / "shadow")
    for role in of_kind(found, "ClusterRole"):
        assert all(not WRITES & set(rule["verbs"]) for rule in role["rules"]), role["metadata"]["name"]
    (own,) = of_kind(found, "Role")
    assert own["metadata"]["namespace"] == "tidegate-system"
    assert {name for rule in own["rules"] for name in rule["resources"]} == {"leases", "configmaps"}


def test_no_right_is_a_wildcard() -> None:
    for role in rendered(CONFIG / "overlays" / "active"):
        for rule in role.get("rules", ()):
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


def test_the_shipped_configuration_is_one_that_runs(tmp_path: Path) -> None:
    found = rendered(CONFIG / "overlays" / "shadow")
    (shipped,) = of_kind(found, "ConfigMap")
    file = tmp_path / "tidegate.yaml"
    file.write_text(shipped["data"]["tidegate.yaml"])
    (deployment,) = of_kind(rendered(CONFIG / "overlays" / "active"), "Deployment")
    environment = {one["name"]: one["value"] for one in deployment["spec"]["template"]["spec"]["containers"][0]["env"]}
    settings = load_settings(file, environment)
    assert settings.cluster.mode == "active"
    assert settings.cluster.namespace == shipped["metadata"]["namespace"]
    assert build.parts(settings).rules.roles


def test_cert_manager_replaces_what_cannot_be_checked(tmp_path: Path) -> None:
    found = with_components(tmp_path, "components/cert-manager", "components/monitoring")
    (service,) = of_kind(found, "APIService")
    assert "insecureSkipTLSVerify" not in service["spec"]
    assert "cert-manager.io/inject-ca-from" in service["metadata"]["annotations"]
    (deployment,) = of_kind(found, "Deployment")
    (certificate,) = of_kind(found, "Certificate")
    mounts = [
        volume.get("secret", {}).get("secretName") for volume in deployment["spec"]["template"]["spec"]["volumes"]
    ]
    assert certificate["spec"]["secretName"] in mounts


def test_the_rights_of_shadow_are_enough_to_see_everything(crds: ApiServer) -> None:
    training_cluster(crds)
    crds.allows = allowed(rendered(CONFIG / "overlays" / "shadow"))
    with seeing(crds) as sight:
        assert dict(sight.snapshot().missing) == {}


def test_the_rights_of_active_are_enough_for_every_hand(crds: ApiServer, tmp_path: Path) -> None:
    store = crds.store
    training_cluster(crds, jobs=1)
    store.put(make.node("n8", 4))
    owner = store.put(make.job("queued", 2, 2, labels={"kueue.x-k8s.io/queue-name": "q"}))
    store.put(make.workload("job-queued", owner, 2, 2, labels=YES))
    store.put(make.node("n9", 4))
    store.put(make.volcano_job("vulcan", 2, 2, labels=YES))
    store.put(
        {
            "apiVersion": "data.fluid.io/v1alpha1",
            "kind": "AlluxioRuntime",
            "metadata": {"name": "llama", "namespace": "default"},
            "spec": {"replicas": 1},
        }
    )
    spec = {
        "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"},
        "requirements": [{"key": "a", "operator": "In", "values": ["b"]}],
    }
    settings: Json = {
        "provisioning": [{"accelerator": H100, "node_gpus": 4, "max_nodes": 3, "nodeclaim": {"spec": spec}}],
        "weights": [WeightsSettings(namespace="default", pool="chat", dataset="llama").model_dump()],
    }
    rules = sight_rules(min_runtime_s=0.0, below_priority=1)
    with acting(crds, tmp_path, rules, **settings) as rig:
        crds.allows = allowed(rendered(CONFIG / "overlays" / "active"))
        rig.settle(1)
        rig.restart(workers=lambda: {"default/llama": WeightsSight(1)})
        rig.played.karpenter = 4
        rig.until(lambda _: rig.ready() == 14, wish(14, preempt=12, provision=4))
        kv = {pod.meta.name: 5.0 for pod in rig.sight.snapshot().pools[CHAT].pods}
        rig.act(wish(0), resident=kv)
        rig.until(lambda seen: not seen.pools[CHAT].pods, wish(0))
        rig.act(wish(0))
        rig.offset_s = 100.0
        rig.until(lambda seen: not seen.lent, wish(0))
        failed = [(one.action.what, one.said) for one in rig.outcomes if one.kind == "failed"]
        done = {type(one.action).__name__ for one in rig.outcomes if one.kind == "done"}
    assert failed == []
    assert done == {"Preempt", "SetReplicas", "Provision", "LoadWeights", "MarkCosts", "GiveBack"}
    assert len(store.all("events.k8s.io/v1", "Event")) > 0
