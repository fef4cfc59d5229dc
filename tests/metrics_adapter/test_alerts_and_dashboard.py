"""Alert rules and the dashboard: valid by promtool, and about metrics that are really exposed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse_text

from metrics_adapter.board import (
    ROLE_LABEL,
    WORKLOAD_LABEL,
    Board,
    Freshness,
    Limits,
    Metric,
    Published,
    RefusalKind,
    Wish,
)
from metrics_adapter.exposition import PathClass, PoolGauges, Telemetry
from metrics_adapter.exposition_plan import PlanGauges, TierGauges

CONFIG = Path(__file__).parents[2] / "config"
RULES, RULE_TESTS = CONFIG / "alerts" / "tidegate.yaml", CONFIG / "alerts" / "tidegate_test.yaml"
DASHBOARD = CONFIG / "dashboards" / "tidegate.json"
NAME = re.compile(r"\btidegate_[a-z0-9_]+")
NEEDS_PROMTOOL = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def expressions() -> list[str]:
    """The dashboard's queries, its variables filled in."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel["targets"]]
    return [
        one.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$workload", ".*") for one in found
    ]


def exposed() -> Telemetry:
    """Everything there is to expose, once."""
    board = Board(Limits(30, 60), lambda: 100.0)
    values = {metric.value: 1.0 for metric in Metric}
    board.publish(Published(99.0, (Wish("s", {WORKLOAD_LABEL: "a", ROLE_LABEL: "decode"}, values, sampled_at=98.0),)))
    told = Telemetry(board)
    tier = TierGauges("start", bound=9.0, quantile=0.9, coverage=0.88, lead_s=115.0, taken=2.0)
    told.reckoned(
        [PoolGauges("s", "a", "decode", 1.0, 2.0, {0.9: 3.0}, shortage=0.0, tiers=(tier,))],
        PlanGauges(cost=10.0, next_best_cost=12.0, gap=0.001),
    )
    told.ticked({"decide": 0.1}, blind=True)
    told.decided("up")
    told.source_failed("prometheus")
    told.guard_held("stabilise")
    told.solved("optimal", 0.1)
    told.request(PathClass.EXTERNAL, 200, 0.001)
    told.rpc("GetMetrics", "OK", 0.001)
    told.served(Freshness.FRESH)
    told.refused(RefusalKind.STALE)
    return told


def names() -> set[str]:
    text = exposed().text("")[0].decode()
    return {sample.name for family in parse_text(text) for sample in family.samples}


def promtool(*arguments: str, said: str | None = None) -> None:
    done = subprocess.run(["promtool", *arguments], input=said, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@NEEDS_PROMTOOL
def test_the_rules_are_valid_and_fire_when_they_should() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULE_TESTS))


def test_every_rule_has_a_unit_test() -> None:
    rules = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    tested = {
        case["alertname"]
        for group in yaml.safe_load(RULE_TESTS.read_text())["tests"]
        for case in group["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert rules == tested


@NEEDS_PROMTOOL
def test_every_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    found = expressions()
    assert len(found) > 20
    rules = [{"record": f"query:{index}", "expr": one} for index, one in enumerate(found)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_every_metric_that_is_asked_for_is_exposed() -> None:
    there = names()
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    variables = [one["query"] for one in json.loads(DASHBOARD.read_text())["templating"]["list"]]
    for expression in [*expressions(), *rules, *variables]:
        assert set(NAME.findall(expression)) <= there, expression


def test_every_family_that_is_exposed_is_on_the_dashboard() -> None:
    asked = {name for one in expressions() for name in NAME.findall(one)}
    shown = {re.sub(r"_(bucket|total|sum|count|created)$", "", name) for name in asked}
    have = {re.sub(r"_(bucket|total|sum|count|created)$", "", name) for name in names()}
    assert have - shown == {"tidegate_ticks", "tidegate_solver_seconds", "tidegate_solver_gap_ratio"}


@NEEDS_PROMTOOL
def test_the_exposition_passes_promtools_lint() -> None:
    promtool("check", "metrics", said=exposed().text("")[0].decode())


def test_what_is_not_known_is_left_out() -> None:
    told = exposed()
    told.reckoned([PoolGauges("s", "a", "decode", tiers=(TierGauges("start", bound=5.0),))], None)
    text = told.text("")[0].decode()
    samples = {sample.name for family in parse_text(text) for sample in family.samples}
    assert "tidegate_foreseen_tokens_per_second" in samples
    assert not samples & {"tidegate_forecast_coverage_ratio", "tidegate_plan_cost", "tidegate_shortage_replicas"}
