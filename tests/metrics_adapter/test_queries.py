"""PromQL texts and the joining of rows to groups, without a server."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapter.engines import known_names, select
from metrics_adapter.queries import (
    TARGET_LABELS,
    Scope,
    Unfit,
    capacity_query,
    engines_query,
    gateway_query,
    is_label_name,
    narrowed,
    oldest_query,
    quoted,
    rated_query,
    replicas_query,
    seen_query,
    selector,
    signal_query,
    targets_query,
    uncovered_query,
    unfit_queries,
)
from metrics_adapter.rows import Join, Row, Tables, add, assemble, merged, parse, weighted_mean
from metrics_adapter.signals import Group, Signal

if TYPE_CHECKING:
    from pathlib import Path

ALL = select(known_names())
SCOPE = Scope(("pool", "role"), (("namespace", "ns"),), TARGET_LABELS, 60.0, 45.0)


def texts() -> list[str]:
    """Every query there is, over every family at once, with nothing, few and many targets to leave out."""
    out: list[str | None] = [targets_query(SCOPE), seen_query(ALL, SCOPE), gateway_query(ALL, SCOPE)]
    out += unfit_queries(ALL, SCOPE)
    for scope in (SCOPE, Scope((), (), ("pod",), 90.5, 60.0)):
        for unfit in (Unfit(), Unfit(("a+b:1", 'c"d'), None), Unfit((), ("x",))):
            out += [make(ALL, scope, unfit) for make in (engines_query, oldest_query, replicas_query, rated_query)]
            out += [capacity_query(ALL, scope, unfit)]
            out += [signal_query(ALL, signal, scope, unfit) for signal in Signal]
    out += [uncovered_query(v, recipes[0], SCOPE) for v in ALL for recipes in v.recipes.values()]
    return [text for text in out if text is not None]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package: prometheus)")
def test_every_query_is_valid_promql(tmp_path: Path) -> None:
    rules = "".join(f"  - record: r\n    expr: '{text.replace(chr(39), chr(39) * 2)}'\n" for text in texts())
    (tmp_path / "rules.yml").write_text(f"groups:\n- name: all\n  rules:\n{rules}", encoding="utf-8")
    check = ["promtool", "check", "rules", "--lint=none", "rules.yml"]
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"{len(texts())} rules found" in done.stdout


def test_a_signal_is_one_sum_by_the_labels_groups_differ_in() -> None:
    vllm = select({"vllm:num_requests_running", "vllm:generation_tokens_total"})
    assert signal_query(vllm, Signal.RUNNING, SCOPE) == (
        'sum by (pool, role) (vllm:num_requests_running{namespace="ns"} >= 0 < Inf)'
    )
    assert signal_query(vllm, Signal.GENERATION_RATE, SCOPE) == (
        'sum by (pool, role) (rate(vllm:generation_tokens_total{namespace="ns"}[60000ms]) >= 0)'
    )
    assert signal_query(vllm, Signal.WAITING, SCOPE) is None
    assert gateway_query(vllm, SCOPE) is None


def test_unfit_targets_are_left_out_by_name_from_rates_and_only_stale_ones_from_levels() -> None:
    vllm = select({"vllm:num_requests_running", "vllm:generation_tokens_total"})
    gone = Unfit(stale=None, gone=("10.0.0.1:8000",))
    level = signal_query(vllm, Signal.RUNNING, SCOPE, gone)
    rate = signal_query(vllm, Signal.GENERATION_RATE, SCOPE, gone)
    assert level is not None
    assert "unless" not in level
    assert rate is not None
    assert "unless on (cluster, job, namespace, pod, instance, engine)" in rate
    assert r'instance=~"10\\.0\\.0\\.1:8000"' in rate


def test_handles_that_cannot_narrow_make_the_query_look_at_everything() -> None:
    assert narrowed([]) is None
    assert narrowed(["b", "a", "b"]) == ("a", "b")
    assert narrowed(["a", ""]) == ()
    assert narrowed([f"10.0.0.{i}" for i in range(501)]) == ()


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("pool", True),
        ("_x9", True),
        ("9x", False),
        ("a-b", False),
        ("llm-d.ai/role", False),
        ("__name__", False),
        ("", False),
    ],
)
def test_label_names(name: str, valid: object) -> None:
    assert is_label_name(name) is valid


@given(st.text())
def test_any_value_survives_quoting(value: str) -> None:
    literal = quoted(value)
    assert literal[0] == literal[-1] == '"'
    assert "\n" not in literal
    unquoted = literal[1:-1].replace("\\\\", "\0").replace('\\"', '"').replace("\\n", "\n").replace("\\r", "\r")
    if "\0" not in value:
        assert unquoted.replace("\0", "\\") == value


def test_selector_without_matchers_is_the_bare_name() -> None:
    assert selector("m") == "m"
    assert selector("m", [("a", 'x"y')]) == 'm{a="x\\"y"}'


def row(value: float, **labels: str) -> Row:
    return Row(labels, value)


def test_a_group_takes_the_rows_that_agree_with_it_on_all_its_labels() -> None:
    groups = [Group("a", {"pool": "1"}), Group("b", {"pool": "1", "role": "decode"}), Group("c", {"role": "x"})]
    rows = [row(1, pool="1", role="prefill"), row(2, pool="1", role="decode"), row(4, pool="2", role="decode")]
    join = Join(groups, {"pool", "role"})
    assert merged(join(rows), add) == {"a": 3.0, "b": 2.0}
    assert merged(join(rows), max) == {"a": 2.0, "b": 2.0}


def test_an_absent_label_equals_an_empty_value() -> None:
    join = Join([Group("none", {"pool": ""}), Group("some", {"pool": "1"})], {"pool"})
    assert merged(join([row(1), row(2, pool="1")]), add) == {"none": 1.0, "some": 2.0}


def test_values_that_are_not_finite_are_left_out_of_merging() -> None:
    join = Join([Group("g", {})], ())
    assert merged(join([row(float("nan")), row(3), row(float("inf"))]), add) == {"g": 3.0}
    assert merged(join([row(float("nan"))]), add) == {}


def test_means_are_weighted_by_engines() -> None:
    # 3 engines at 0.2 and 1 at 0.6: (0.6 + 0.6) / 4 = 0.3
    join = Join([Group("g", {})], ())
    rows = [row(0.2, pool="1"), row(0.6, pool="2")]
    weights = {"1": 3.0, "2": 1.0}
    assert weighted_mean(join(rows), lambda r: weights[r.labels["pool"]]) == {"g": pytest.approx(0.3)}
    engines = [row(3, pool="1", tidegate_family="vllm"), row(1, pool="2", tidegate_family="sglang")]
    capacity = [row(3, pool="1", kv_cache_size_tokens="8192"), row(1, pool="2", num_gpu_blocks="10", block_size="16")]
    tables = Tables(
        engines=engines,
        capacity=capacity,
        products=(("kv_cache_size_tokens",), ("num_gpu_blocks", "block_size")),
        signals={Signal.KV_USAGE: rows},
    )
    reading = assemble([Group("g", {"namespace": "ns"})], {"pool"}, tables)["g"]
    assert reading.signals[Signal.KV_USAGE] == pytest.approx(0.3)
    assert reading.signals[Signal.KV_CAPACITY] == pytest.approx((3 * 8192 + 160) / 4)
    assert (reading.reporting, reading.engines) == (4, ("vllm", "sglang"))


def test_a_difference_that_comes_out_below_zero_is_zero() -> None:
    tables = Tables(engines=[row(1, tidegate_family="vllm")], signals={Signal.COMPUTED_PROMPT_RATE: [row(-0.5)]})
    assert assemble([Group("g", {})], (), tables)["g"].signals == {Signal.COMPUTED_PROMPT_RATE: 0.0}


def test_signals_of_a_group_in_which_nobody_reports_are_withheld() -> None:
    tables = Tables(signals={Signal.RUNNING: [row(5)], Signal.GATEWAY_QUEUE: [row(7)]})
    assert assemble([Group("g", {})], (), tables)["g"].signals == {Signal.GATEWAY_QUEUE: 7.0}


@pytest.mark.parametrize(
    "result", [None, 3, "x", [1], [{}], [{"metric": {}, "value": [1]}], [{"metric": {}, "value": [1, "x"]}]]
)
def test_what_is_not_a_vector_is_refused(result: object) -> None:
    with pytest.raises(ValueError, match="instant vector"):
        parse(result)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.floats(0, 1e6)), max_size=20),
)
def test_sums_do_not_depend_on_how_rows_are_split(rows: list[tuple[str, str, float]]) -> None:
    """Reading a pool as a whole is the sum of reading it role by role."""
    groups = [Group(f"{p}{r}", {"pool": p, "role": r}) for p in "ab" for r in "xy"]
    wholes = [Group(p, {"pool": p}) for p in "ab"]
    join = Join(groups + wholes, {"pool", "role"})
    out = merged(join([row(v, pool=p, role=r) for p, r, v in rows]), add)
    for p in "ab":
        assert out.get(p, 0.0) == pytest.approx(sum(out.get(p + r, 0.0) for r in "xy"))
