"""`TIDEGATE_…` variables: over the file, told by name when wrong, and Kubernetes' own passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autoscaler.configuration import load_settings
from autoscaler.errors import BadSettings

if TYPE_CHECKING:
    from pathlib import Path

POOL = "pools: [{name: a, roles: {colocated: {max_replicas: 4}}}]\nloop: {interval_s: 20, journal_mb: 2}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tidegate.yaml"
    file.write_text(POOL, encoding="utf-8")
    return file


def test_a_variable_wins_over_the_file_key_by_key(file: Path) -> None:
    loop = load_settings(file, {"TIDEGATE_LOOP__INTERVAL_S": "7"}).loop
    assert (loop.interval_s, loop.journal_mb) == (7, 2)


def test_a_section_may_be_json_and_a_single_key_wins_over_it(file: Path) -> None:
    said = {"TIDEGATE_LOOP": '{"interval_s": 3, "journal_mb": 5}', "TIDEGATE_LOOP__JOURNAL_MB": "9"}
    loop = load_settings(file, said).loop
    assert (loop.interval_s, loop.journal_mb) == (3, 9)


def test_variables_alone_are_enough() -> None:
    said = {
        "TIDEGATE_POOLS": '[{"name": "b", "roles": {"colocated": {"max_replicas": 2}}}]',
        "TIDEGATE_SOURCE__PROMETHEUS__INSECURE_SKIP_VERIFY": "true",
        "TIDEGATE_SOURCE__PROMETHEUS__HEADERS": '{"X-A": "b"}',
        "TIDEGATE_LOG_LEVEL": "WARNING",
    }
    settings = load_settings(None, said)
    assert settings.pools[0].name == "b"
    assert settings.source.prometheus.insecure_skip_verify
    assert settings.source.prometheus.headers["X-A"].get_secret_value() == "b"
    assert settings.log_level == "warning"


@pytest.mark.parametrize("value", ["", "null"])
def test_an_empty_variable_empties_what_may_be_empty(value: str, file: Path) -> None:
    said = {"TIDEGATE_LOOP__MEMORY_FILE": value, "TIDEGATE_PLAN__BUDGET_PER_HOUR": value}
    settings = load_settings(file, said)
    assert settings.loop.memory_file is None
    assert settings.plan.budget_per_hour is None


WRONG = {
    "TIDEGATE_LOOP__INTERVAL_S=fast": "loop.interval_s: 'fast' is not right: must be a number",
    "TIDEGATE_LOOP__INTERVAL_S=": "loop.interval_s: '' is not right: must be a number",
    "TIDEGATE_LOOP__INTERVAL_S=nan": "loop.interval_s: 'nan' is not right: must be a finite number",
    "TIDEGATE_LOOP__INTERVAL_S=-3": "loop.interval_s: '-3' is not right: must be above 0",
    "TIDEGATE_LOOP__INTERVAL_S=\udcff": "loop.interval_s: '\\udcff' is not right: must be text in Unicode",
    "TIDEGATE_SOURCE__KIND=graphite": "source.kind: 'graphite' is not right: must be 'prometheus' or 'scrape'",
    "TIDEGATE_SOURCE__PROMETHEUS__INSECURE_SKIP_VERIFY=maybe": "must be true or false",
    "TIDEGATE_POOLS=[{]": "must be JSON, such as [",
    "TIDEGATE_POOLS=": "must be JSON, such as [",
    "TIDEGATE_POOLS=[]": "pools: an empty list is not right: at least one is needed",
    'TIDEGATE_POOLS=[{"name": "b", "x": 1, "roles": {"colocated": {"max_replicas": 2}}}]': "pools[0].x: unknown key",
    "TIDEGATE_LOOP=3": "loop: 3 is not right: must be a mapping with keys such as interval_s",
    "TIDEGATE_LOOP=[]": "loop: an empty list is not right",
    "TIDEGATE_LOP__INTERVAL_S=1": "sets nothing: there is no setting 'lop'; did you mean loop?",
    "TIDEGATE_LOOP__INTERVAL=1": "sets nothing: there is no setting 'interval' in loop; did you mean interval_s?",
    "TIDEGATE_LOOP_INTERVAL_S=1": "sets nothing: there is no setting 'loop_interval_s'; there are cluster, forecast",
    "TIDEGATE_SERVING_PORT=8443": "sets nothing: there is no setting 'serving_port'",
    "TIDEGATE_POOLS__0__NAME=b": "sets nothing: pools is a list or map; give it whole, as JSON",
    "TIDEGATE_SOURCE__PROMETHEUS__HEADERS__X_A=b": "sets nothing: source.prometheus.headers is a list or map",
    "TIDEGATE_LOOP__INTERVAL_S__X=3": "sets nothing: loop.interval_s is a single value",
    "TIDEGATE_=3": "sets nothing: there is no setting ''",
}


@pytest.mark.parametrize("assignment", WRONG)
def test_a_wrong_variable_is_named(assignment: str, file: Path) -> None:
    name, _, value = assignment.partition("=")
    with pytest.raises(BadSettings) as caught:
        load_settings(file, {name: value})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"environment {name}: {WRONG[assignment]}") or (
        WRONG[assignment] in caught.value.problems[0] and caught.value.problems[0].startswith(f"environment {name}: ")
    )


def test_problems_of_file_and_environment_are_told_together(file: Path) -> None:
    file.write_text(POOL + "x: 1\n", encoding="utf-8")
    with pytest.raises(BadSettings) as caught:
        load_settings(file, {"TIDEGATE_X": "3"})
    assert [problem.split(": ")[0] for problem in caught.value.problems] == ["environment TIDEGATE_X", f"{file}:3"]


def test_kubernetes_service_links_are_no_configuration(file: Path) -> None:
    """Set in every pod of a namespace that has Services called tidegate, tidegate-metrics and tidegate-serving."""
    links: dict[str, str] = {}
    for service in ("TIDEGATE", "TIDEGATE_METRICS", "TIDEGATE_SERVING"):
        links |= {
            f"{service}_SERVICE_HOST": "10.0.0.7",
            f"{service}_SERVICE_PORT": "443",
            f"{service}_SERVICE_PORT_EXTERNAL_METRICS": "443",
            f"{service}_PORT": "tcp://10.0.0.7:443",
            f"{service}_PORT_443_TCP": "tcp://10.0.0.7:443",
            f"{service}_PORT_443_TCP_PROTO": "tcp",
            f"{service}_PORT_443_TCP_PORT": "443",
            f"{service}_PORT_443_TCP_ADDR": "10.0.0.7",
        }
    assert load_settings(file, {**links, "TIDEGATE_CONFIG": "x"}) == load_settings(file, {})
