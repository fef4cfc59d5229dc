"""The linter: each trap of the reference, with its line and what would be right."""
# ruff: noqa: E501 - one manifest, one trap, one line

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from autoscaler.cli import app
from autoscaler.configuration import load
from autoscaler.errors import BadSettings
from autoscaler.manifest_lint import Severity, lint
from autoscaler.manifest_yaml import read
from autoscaler.settings import Settings

HPA = """\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: chat, namespace: serving}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}
  minReplicas: 1
  maxReplicas: 40
  metrics:
  - type: External
    external:
      metric:
        name: tidegate_desired_replicas
        selector:
          matchLabels: {tidegate.dev/workload: chat, tidegate.dev/role: decode}
      target: {type: AverageValue, averageValue: "1"}
  behavior:
    scaleUp:
      {tolerance: "0", stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 99}]}
    scaleDown:
      {tolerance: "0", stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 99}]}
"""
SO = """\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: chat, namespace: serving}
spec:
  scaleTargetRef: {name: chat}
  pollingInterval: 10
  minReplicaCount: 1
  maxReplicaCount: 40
  fallback: {failureThreshold: 3, replicas: 1, behavior: currentReplicasIfHigher}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        scaleUp:
          {tolerance: "0", stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 99}]}
        scaleDown:
          {tolerance: "0", stabilizationWindowSeconds: 0, selectPolicy: Max, policies: [{type: Pods, value: 99}]}
  triggers:
  - type: external
    metadata:
      scalerAddress: tidegate.ops.svc:9443
      pool: chat
      role: decode
"""
UP = '      {tolerance: "0", stabilizationWindowSeconds: 0, selectPolicy: Max'
KEDA_UP = "    " + UP


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "tidegate.yaml"
    file.write_text(
        "pools: [{name: chat, namespace: serving, roles: {prefill: {max_replicas: 9}, decode: {max_replicas: 40}}}]"
    )
    return load(file).settings


def found(text: str, settings: Settings | None = None) -> list[tuple[int, str, str]]:
    return [(one.line, one.severity.value, one.message) for one in lint(read(text, "f.yaml"), settings)]


def test_sound_manifests_have_no_findings(settings: Settings) -> None:
    assert found(HPA) == found(SO) == found(HPA, settings) == found(SO, settings) == []


@pytest.mark.parametrize(
    ("before", "after", "line", "severity", "words"),
    [
        (
            'type: AverageValue, averageValue: "1"',
            'type: Value, value: "1"',
            15,
            "error",
            "runs away; write type: AverageV",
        ),
        (
            'averageValue: "1"',
            'averageValue: "2"',
            15,
            "error",
            "averageValue '2': replicas are the wish divided by it",
        ),
        (
            "name: tidegate_desired_replicas",
            "name: tidegate_desired_replica",
            12,
            "error",
            "write tidegate_desired_replicas",
        ),
        ("name: tidegate_desired_replicas", "name: tidegate_current_replicas", 12, "error", "is not the wish"),
        (
            "matchLabels: {tidegate.dev/workload: chat, ",
            "matchLabels: {",
            13,
            "error",
            "no selector for tidegate.dev/workload",
        ),
        ("  maxReplicas: 40\n", "", 4, "error", "maxReplicas: is missing"),
        ("  minReplicas: 1", "  minReplicas: 0", 6, "warning", "HPAScaleToZero"),
        ("kind: Deployment", "kind: DaemonSet", 5, "error", "cannot be scaled by an HPA"),
        ("apps/v1, kind: Deployment", "karpenter.sh/v1, kind: NodePool", 5, "error", "its /scale has no selector"),
        ("autoscaling/v2", "autoscaling/v2beta2", 1, "error", "use autoscaling/v2"),
        (UP, UP.replace('tolerance: "0", ', ""), 17, "error", "scaleUp.tolerance: is missing"),
        (UP, UP.replace('"0"', '"0.1"'), 17, "error", "such as 10 to 11"),
        (UP, UP.replace("Max", "Disabled"), 18, "error", "replicas never follow that way"),
        (UP, UP.replace("selectPolicy: Max", "x: y"), 17, "warning", "selectPolicy left to defaults"),
        (UP, UP.replace("Seconds: 0", "Seconds: 300"), 18, "warning", "waits 300 s more"),
    ],
)
def test_traps_of_an_hpa(before: str, after: str, line: int, severity: str, words: str) -> None:
    assert before in HPA
    ((where, kind, message),) = found(HPA.replace(before, after, 1))
    assert (where, kind) == (line, severity)
    assert words in message


@pytest.mark.parametrize(
    ("before", "after", "severity", "words"),
    [
        ("  - type: external", "  - type: external\n    metricType: Value", "error", "metricType 'Value' multiplies"),
        ("      pool: chat\n", "", "error", "metadata pool: is missing"),
        ("role: decode", "rol: decode", "error", "did you mean role?"),
        ("role: decode", "role: decoder", "error", "not one of prefill, decode, colocated"),
        ("role: decode", "role: decode\n      caCert: x", "error", "TriggerAuthentication only"),
        ("role: decode", "role: decode\n      enableTLS: true", "error", "KEDA takes text only"),
        ("      scalerAddress: tidegate.ops.svc:9443\n", "", "error", "scalerAddress: is missing"),
        ("  maxReplicaCount: 40\n", "", "error", "maxReplicaCount: is missing, so 100"),
        ("  minReplicaCount: 1", "  minReplicaCount: 1\n  idleReplicaCount: 2", "error", "only 0 works"),
        ("  pollingInterval: 10\n", "", "warning", "is missing, so 30 s"),
        (", behavior: currentReplicasIfHigher", "", "warning", "fallback.behavior static"),
        (KEDA_UP, KEDA_UP.replace('tolerance: "0", ', ""), "error", "scaleUp.tolerance: is missing"),
        (
            "  triggers:",
            "  triggers:\n  - {type: cpu, metricType: Utilization, metadata: {value: '60'}}",
            "warning",
            "other triggers",
        ),
    ],
)
def test_traps_of_a_scaled_object(before: str, after: str, severity: str, words: str) -> None:
    assert before in SO
    ((_, kind, message),) = found(SO.replace(before, after, 1))
    assert (kind, words in message) == (severity, True), message


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (
            "{type: prometheus, metadata: {query: tidegate_desired_replicas, threshold: '2', ignoreNullValues: 'false'}}",
            "threshold",
        ),
        (
            "{type: prometheus, metadata: {query: tidegate_wish and tidegate_decision_age_seconds, threshold: '1', ignoreNullValues: 'false'}}",
            "tidegate_wish is no metric",
        ),
        (
            "{type: prometheus, metadata: {query: tidegate_desired_replicas and tidegate_decision_age_seconds, threshold: '1'}}",
            "counts as 0",
        ),
        (
            "{type: metrics-api, metadata: {url: https://t/keda/v1/namespaces/a/pools/b, targetValue: '5', valueLocation: desired}}",
            "targetValue",
        ),
        (
            "{type: metrics-api, metadata: {url: https://t/keda/v1/namespaces/a/pools/b, targetValue: '1'}}",
            "valueLocation",
        ),
    ],
)
def test_traps_of_other_triggers(trigger: str, words: str) -> None:
    text = SO[: SO.index("  triggers:")] + f"  triggers: [{trigger}]\n"
    assert any(words in message and kind == "error" for _, kind, message in found(text)), found(text)


def test_a_small_pool_has_no_dead_band() -> None:
    # From 9 replicas a step of one is a ratio of at least 1.11.
    small = HPA.replace("maxReplicas: 40", "maxReplicas: 9").replace(UP, UP.replace('tolerance: "0", ', ""), 1)
    assert [kind for _, kind, _ in found(small)] == ["warning"]


def test_two_owners_of_one_object_are_found_across_documents_and_lists() -> None:
    ((line, kind, message),) = found(HPA + "---\n" + SO)
    assert (line, kind) == (HPA.count("\n") + 6, "error")
    assert "Deployment serving/chat is scaled by HorizontalPodAutoscaler serving/chat (f.yaml:1) already" in message
    other = HPA.replace("namespace: serving", "namespace: other")
    assert found(HPA + "---\n" + other) == []


def test_a_crd_without_a_selector_in_its_scale_is_found() -> None:
    crd = """\
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servers.x.io}
spec:
  names: {kind: Server}
  versions:
  - name: v1
    subresources: {scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
"""
    ours = HPA.replace("apps/v1, kind: Deployment", "x.io/v1, kind: Server")
    ((line, kind, message),) = found(ours + crd)
    assert (line, kind, "no labelSelectorPath" in message) == (5, "error", True)
    assert found(ours + crd.replace("{scale: {", "{scale: {labelSelectorPath: .status.selector, ")) == []


def test_the_configuration_knows_pools_and_roles(settings: Settings) -> None:
    for text, place in ((HPA, "tidegate.dev/workload: chat"), (SO, "pool: chat")):
        ((_, kind, message),) = found(text.replace(place, place.replace("chat", "caht")), settings)
        assert (kind, "the nearest is 'chat'" in message) == ("error", True)
    ((_, _, message),) = found(HPA.replace(", tidegate.dev/role: decode", ""), settings)
    assert "prefill and decode: they are added up" in message
    ((_, _, message),) = found(SO.replace("      role: decode\n", ""), settings)
    assert "metadata role: is missing" in message


def test_foreign_objects_are_left_alone() -> None:
    foreign = HPA.replace("tidegate_desired_replicas", "queue_length").replace("tidegate.dev/", "x/")
    assert found(foreign.replace("AverageValue, averageValue", "Value, value")) == []


def test_the_command_prints_file_and_line_and_ends_with_2(tmp_path: Path) -> None:
    file = tmp_path / "hpa.yaml"
    file.write_text(HPA.replace('type: AverageValue, averageValue: "1"', 'type: Value, value: "1"'))
    done = CliRunner().invoke(app, ["check", "--manifests", str(file)])
    assert done.exit_code == 2
    assert done.output.startswith(f"{file}:15: error: HorizontalPodAutoscaler serving/chat: target type 'Value'")
    file.write_text(HPA)
    assert CliRunner().invoke(app, ["check", "--manifests", str(file), "--json"]).exit_code == 0


@pytest.mark.parametrize(
    "text", ["a: [", "- 1", "just words", "a: &a [*a]", "? [1]\n: 2\n", "x: \x00", "d: 2024-99-99", "[" * 5000]
)
def test_what_is_no_manifest_is_refused_with_file_and_line(text: str) -> None:
    with pytest.raises(BadSettings, match=r"^f\.yaml"):
        read(text, "f.yaml")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "spec",
                        "metrics",
                        "external",
                        "metric",
                        "name",
                        "target",
                        "triggers",
                        "metadata",
                        "behavior",
                        "pool",
                        "type",
                        "scaleTargetRef",
                        "kind",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=25,
    )
)
def test_any_shape_of_object_is_survived(shape: object) -> None:
    import yaml  # noqa: PLC0415 - only here is YAML written

    for kind in ("HorizontalPodAutoscaler", "ScaledObject", "TriggerAuthentication"):
        made = {"kind": kind, "metadata": shape, "spec": shape}
        assert all(one.severity in set(Severity) for one in lint(read(yaml.safe_dump(made), "f.yaml")))
