"""The exposition parser: the two text formats, hostile input, and agreement with prometheus_client."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from metrics_adapter.exposition_text import ExpositionError, Sample, parse_exposition


def one(line: str) -> Sample:
    (sample,) = parse_exposition(f"{line}\n".encode())
    return sample


def test_a_sample_line_has_a_name_labels_a_value_and_perhaps_a_time() -> None:
    assert one("up 1") == Sample("up", (), 1.0, None)
    assert one('a:b_total{z="1",a="2"} 13508.0') == Sample("a:b_total", (("a", "2"), ("z", "1")), 13508.0, None)
    assert one('a { x = "1" , } 2 1500') == Sample("a", (("x", "1"),), 2.0, 1.5)  # milliseconds in text format
    assert one('a{x="1"}\t-2.5e-3 -1') == Sample("a", (("x", "1"),), -0.0025, -0.001)


@pytest.mark.parametrize(
    ("text", "value"),
    [("+Inf", math.inf), ("-Inf", -math.inf), ("1.79522577549213e+09", 1795225775.49213), (".5", 0.5), ("4.", 4.0)],
)
def test_values_as_engines_write_them(text: str, value: float) -> None:
    assert one(f"a {text}").value == value


def test_nan_is_a_value() -> None:
    assert math.isnan(one("a NaN").value)


def test_label_values_may_hold_anything_when_escaped() -> None:
    assert one(r'a{p="C:\\x\n\"q\"",q="} 7 #{,=",r="\t"} 1').labels == (
        ("p", 'C:\\x\n"q"'),
        ("q", "} 7 #{,="),
        ("r", "\\t"),  # not an escape of this format: kept as it stands
    )


def test_carriage_returns_blank_lines_and_comments_are_skipped() -> None:
    body = b"# HELP a text with {braces} and 1\r\n# TYPE a gauge\r\n\r\n   \na 1\r\n#\nb 2\n"
    assert [(s.name, s.value) for s in parse_exposition(body)] == [("a", 1.0), ("b", 2.0)]


def test_only_asked_for_names_are_returned_but_every_line_is_checked() -> None:
    assert [s.name for s in parse_exposition(b'a 1\nab 2\na{x="1"} 3\nb 4\n', {"a"})] == ["a", "a"]
    with pytest.raises(ExpositionError, match="line 2"):
        parse_exposition(b"a 1\nnot a metric at all\n", {"a"})


def test_of_two_samples_of_one_series_the_first_counts() -> None:
    assert [s.value for s in parse_exposition(b'a{x="1",y="2"} 1\na{y="2",x="1"} 9\n')] == [1.0]


def test_an_empty_body_has_no_samples() -> None:
    assert parse_exposition(b"") == []


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        (b"<!DOCTYPE html>\n<html></html>\n", 1, "HTML"),
        (b"a 1\n\xff\xfe 2\n", 2, "0xff is not UTF-8"),
        (b'{"status": "ok"}\n', 1, "not a sample"),
        (b"a 1\nb\n", 2, "not a sample"),
        (b"a 1_000\n", 1, "not a sample"),
        (b"a 0x10\n", 1, "not a sample"),
        (b"a 1 2 3\n", 1, "not a sample"),
        (b"1a 2\n", 1, "not a sample"),
        (b'a{x="1} 2\n', 1, "not a sample"),
        (b"a\x00 1\n", 1, "not a sample"),
        (b"a{x=1} 2\n", 1, "malformed at 'x=1'"),
        (b'a{x="1" y="2"} 2\n', 1, "malformed"),
        (b'b 1\na{x="1",x="2"} 2\n', 2, "'x' stands twice"),
        (b"a 1\nb 13508", 2, "must end with a line feed"),  # perhaps 135083.0 cut short
        (b'a 1\nb{x="', 2, "cut short in"),
    ],
)
def test_what_is_no_exposition_is_refused_with_its_line(body: bytes, line: int, words: str) -> None:
    with pytest.raises(ExpositionError, match=words) as caught:
        parse_exposition(body)
    assert caught.value.line == line
    assert caught.value.reason in str(caught.value)


def test_openmetrics_has_seconds_exemplars_and_an_end() -> None:
    body = b'# TYPE a counter\na_total{x="1"} 3 1520879607.789 # {trace_id="K"} 1 1520879600\n# EOF'
    for whole in (body, body + b"\n"):
        assert parse_exposition(whole, openmetrics=True) == [Sample("a_total", (("x", "1"),), 3.0, 1520879607.789)]
    for cut in (b"", b"a 1\n", body[:-2]):
        with pytest.raises(ExpositionError, match="cut short"):
            parse_exposition(cut, openmetrics=True)


@pytest.mark.parametrize("hostile", [b"a" + b" " * 2_000_000, b"a{" + b'"x' * 500_000, b'a{x="' + b"\\" * 999_999])
def test_a_hostile_line_costs_linear_time(hostile: bytes) -> None:
    # with a backtracking pattern the first of these takes 4e12 steps: the test run's own time limit would end it
    with pytest.raises(ExpositionError):
        parse_exposition(hostile + b"\n")


LABEL_VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"))


@given(
    series=st.lists(st.tuples(LABEL_VALUES, st.floats(width=64)), max_size=8, unique_by=lambda pair: pair[0]),
    tokens=st.floats(0, 1e12),
)
def test_it_reads_what_prometheus_client_writes(series: list[tuple[str, float]], tokens: float) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("vllm:num_requests_running", "running", ["model_name"], registry=registry)
    for label, value in series:
        gauge.labels(label).set(value)
    Counter("vllm:prompt_tokens", "tokens", registry=registry).inc(tokens)
    Histogram("vllm:time_to_first_token_seconds", "TTFT", registry=registry).observe(tokens)
    text = generate_latest(registry)
    theirs = [(s.name, tuple(sorted(s.labels.items())), repr(s.value)) for f in registry.collect() for s in f.samples]
    newer = generate_openmetrics(registry)  # type: ignore[no-untyped-call] # prometheus_client leaves it untyped
    for body, openmetrics in ((text, False), (newer, True)):
        mine = [(s.name, s.labels, repr(s.value)) for s in parse_exposition(body, openmetrics=openmetrics)]
        # its OpenMetrics writer turns colons into underscores
        assert sorted((name.replace(":", "_"), *rest) for name, *rest in mine) == sorted(
            (name.replace(":", "_"), *rest) for name, *rest in theirs
        )
        assert openmetrics or {name for name, *_ in mine} == {name for name, *_ in theirs}


@given(cut=st.integers(0, 400))
def test_a_body_cut_anywhere_is_refused_or_ends_at_a_line(cut: int) -> None:
    registry = CollectorRegistry()
    Counter("vllm:generation_tokens", "tokens", ["engine"], registry=registry).labels("0").inc(2746)
    body = generate_latest(registry)
    whole = parse_exposition(body)
    try:
        part = parse_exposition(body[:cut])
    except ExpositionError:
        assert not body[:cut].endswith(b"\n")
    else:
        assert part == whole[: len(part)]
        assert cut == 0 or body[:cut].endswith(b"\n")


@given(st.binary(max_size=300))
def test_any_bytes_give_samples_or_a_typed_error(body: bytes) -> None:
    outcome: ExpositionError | list[Sample]
    try:
        outcome = parse_exposition(body)
    except ExpositionError as error:
        outcome = error
    if isinstance(outcome, ExpositionError):
        assert 1 <= outcome.line <= body.count(b"\n") + 1
    else:
        assert all(sample.name for sample in outcome)


def test_it_agrees_with_prometheus_client_on_a_page_with_everything() -> None:
    body = (
        '# HELP m text\n# TYPE m histogram\nm_bucket{le="0.1",path="a\\"b"} 1\nm_bucket{le="+Inf",path="a\\"b"} 2\n'
        'm_count{path="a\\"b"} 2\nm_sum{path="a\\"b"} 1.5e-05\nbare 1e+06\nspaced  {x="y"}   3\n'
    )
    theirs = {
        (s.name, tuple(sorted(s.labels.items())), s.value)
        for family in text_string_to_metric_families(body)
        for s in family.samples
    }
    assert {(s.name, s.labels, s.value) for s in parse_exposition(body.encode())} == theirs
