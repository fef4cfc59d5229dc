"""Our own metrics: read back with the client library's parsers, and judged by promtool."""

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
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
from metrics_adapter.exposition import PathClass, PoolGauges, Telemetry, path_class

T0 = 1_767_225_600.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class House:
    def __init__(self) -> None:
        self.now = T0
        self.board = Board(Limits(soft=30, hard=60), lambda: self.now)
        self.telemetry = Telemetry(self.board)

    def samples(self) -> Samples:
        content, content_type = self.telemetry.text("")
        assert content_type.startswith("text/plain; version=0.0.4")
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in parse_text(content.decode())
            for sample in family.samples
        }


def wish(workload: str, role: str, desired: float | None = None, **more: object) -> Wish:
    values = {} if desired is None else {Metric.DESIRED: desired, Metric.CURRENT: desired - 1, Metric.STARTING: 1.0}
    return Wish("serving", {WORKLOAD_LABEL: workload, ROLE_LABEL: role}, values, **more)  # type: ignore[arg-type]


def pool(name: str, workload: str = "chat", role: str = "decode") -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, (("namespace", "serving"), ("role", role), ("workload", workload))


def test_what_was_decided_is_shown_per_pool() -> None:
    house = House()
    house.board.publish(Published(T0, (wish("chat", "decode", 6, sampled_at=T0 - 4),)))
    house.now = T0 + 10
    samples = house.samples()
    assert samples[pool("tidegate_desired_replicas")] == 6
    assert samples[pool("tidegate_current_replicas")] == 5
    assert samples[pool("tidegate_starting_replicas")] == 1
    assert samples[pool("tidegate_blind")] == 0
    assert samples[pool("tidegate_observation_age_seconds")] == 14
    assert samples["tidegate_decision_age_seconds", ()] == 10


def test_a_blind_pool_is_shown_and_what_is_not_known_is_left_out() -> None:
    house = House()
    house.board.publish(Published(T0, (wish("chat", "decode", blind="never seen"),)))
    samples = house.samples()
    assert samples[pool("tidegate_blind")] == 1
    assert pool("tidegate_desired_replicas") not in samples
    assert pool("tidegate_observation_age_seconds") not in samples


def test_the_series_of_a_removed_pool_disappear() -> None:
    house = House()
    house.board.publish(Published(T0, (wish("chat", "decode", 6), wish("code", "decode", 2))))
    house.telemetry.reckoned([PoolGauges("serving", "code", "decode", demand=1.0)])
    assert pool("tidegate_desired_replicas", "code") in house.samples()
    house.board.publish(Published(T0, (wish("chat", "decode", 6),)))
    house.telemetry.reckoned([])
    assert not [key for key in house.samples() if ("workload", "code") in key[1]]


def test_wishes_that_differ_in_a_further_label_give_one_series() -> None:
    """Two variants, 4 + 2 replicas, one blind: two samples of one series would be refused by a scraper."""
    house = House()
    labels = {WORKLOAD_LABEL: "chat", ROLE_LABEL: "decode"}
    house.board.publish(
        Published(
            T0,
            (
                Wish("serving", {**labels, "variant": "a"}, {Metric.DESIRED: 4}, sampled_at=T0 - 3),
                Wish("serving", {**labels, "variant": "b"}, {Metric.DESIRED: 2}, sampled_at=T0 - 9, blind="gone"),
            ),
        )
    )
    samples = house.samples()
    assert samples[pool("tidegate_desired_replicas")] == 6
    assert samples[pool("tidegate_blind")] == 1
    assert samples[pool("tidegate_observation_age_seconds")] == 9


def test_a_disabled_pool_has_no_series() -> None:
    house = House()
    house.board.publish(Published(T0, (wish("chat", "decode", 6, disabled="paused"),)))
    assert pool("tidegate_desired_replicas") not in house.samples()


def test_what_the_loop_reckoned_is_shown_in_tokens_per_second() -> None:
    house = House()
    gauges = PoolGauges("serving", "chat", "decode", demand=1200.5, velocity=480.0, forecast={0.5: 1000.0, 0.95: 1500})
    house.telemetry.reckoned([gauges, PoolGauges("serving", "code", "decode")])
    samples = house.samples()
    assert samples[pool("tidegate_demand_tokens_per_second")] == 1200.5
    assert samples[pool("tidegate_velocity_tokens_per_second")] == 480
    labels = (("level", "0.95"), ("namespace", "serving"), ("role", "decode"), ("workload", "chat"))
    assert samples["tidegate_forecast_tokens_per_second", labels] == 1500
    assert not [key for key in samples if ("workload", "code") in key[1]]


def test_what_happened_is_counted() -> None:
    house = House()
    told = house.telemetry
    told.ticked({"observe": 0.2, "solve": 0.01})
    told.ticked({"observe": 0.4}, blind=True)
    told.decided("up")
    told.source_failed("prometheus")
    told.guard_held("rate limit")
    told.solved("solved", 0.02)
    told.request(PathClass.EXTERNAL, 503, 0.001)
    told.served(Freshness.AGEING)
    told.refused(RefusalKind.STALE)
    samples = house.samples()
    assert samples["tidegate_ticks_total", ()] == 2
    assert samples["tidegate_blind_ticks_total", ()] == 1
    assert samples["tidegate_tick_stage_seconds_sum", (("stage", "observe"),)] == pytest.approx(0.6)
    assert samples["tidegate_tick_stage_seconds_count", (("stage", "solve"),)] == 1
    assert samples["tidegate_decisions_total", (("kind", "up"),)] == 1
    assert samples["tidegate_source_errors_total", (("source", "prometheus"),)] == 1
    assert samples["tidegate_guard_holds_total", (("guard", "rate limit"),)] == 1
    assert samples["tidegate_solves_total", (("status", "solved"),)] == 1
    assert samples["tidegate_solver_seconds_count", ()] == 1
    assert samples["tidegate_api_requests_total", (("code", "503"), ("path", "external"))] == 1
    assert samples["tidegate_answers_total", (("freshness", "ageing"),)] == 1
    assert samples["tidegate_refusals_total", (("kind", "stale"),)] == 1


def test_labels_do_not_grow_without_bound() -> None:
    house = House()
    for number in range(100):
        house.telemetry.decided(f"kind {number}")
    kinds = {labels for name, labels in house.samples() if name == "tidegate_decisions_total"}
    assert len(kinds) == 65
    assert house.samples()["tidegate_decisions_total", (("kind", "other"),)] == 36


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/healthz", PathClass.HEALTH),
        ("/readyz", PathClass.HEALTH),
        ("/livez", PathClass.HEALTH),
        ("/metrics", PathClass.METRICS),
        ("/openapi/v2", PathClass.OPENAPI),
        ("/apis", PathClass.DISCOVERY),
        ("/apis/external.metrics.k8s.io", PathClass.DISCOVERY),
        ("/apis/external.metrics.k8s.io/v1beta1", PathClass.DISCOVERY),
        ("/apis/external.metrics.k8s.io/v1beta1/namespaces/a/b", PathClass.EXTERNAL),
        ("/", PathClass.OTHER),
        ("/metrics/x", PathClass.OTHER),
        ("", PathClass.OTHER),
    ],
)
def test_paths_are_counted_by_class(path: str, expected: PathClass) -> None:
    assert path_class(path) is expected


def test_openmetrics_is_spoken_when_asked_for() -> None:
    house = House()
    house.board.publish(Published(T0, (wish("chat", "decode", 6),)))
    house.telemetry.ticked({"observe": 0.2})
    content, content_type = house.telemetry.text(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert content.endswith(b"# EOF\n")
    families = openmetrics.text_string_to_metric_families(content.decode())  # type: ignore[no-untyped-call]
    assert "tidegate_ticks" in {family.name for family in families}


ACCEPT_HEADS = ["", "text/plain", "text/plain;version=", "application/openmetrics-text; version="]


@given(st.text(alphabet="abcxyz/;,=.*+-0123456789 é", max_size=60), st.sampled_from(ACCEPT_HEADS))
def test_no_accept_header_breaks_the_exposition(tail: str, head: str) -> None:
    content, content_type = House().telemetry.text(head + tail)
    assert b"tidegate_ticks" in content
    assert content_type


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_label_value_reads_back(workload: str, role: str) -> None:
    house = House()
    house.board.publish(Published(T0, (wish(workload, role, 6),)))
    content, _ = house.telemetry.text("")
    family = next(f for f in parse_text(content.decode("utf-8", "surrogatepass")) if f.name == Metric.DESIRED)
    assert family.samples[0].labels == {"namespace": "serving", "workload": workload, "role": role}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_to_say() -> None:
    house = House()
    house.board.publish(Published(T0, (wish("chat", "decode", 6, sampled_at=T0),)))
    house.telemetry.reckoned([PoolGauges("serving", "chat", "decode", 1.0, 2.0, {0.9: 3.0})])
    house.telemetry.ticked({"observe": 0.2})
    content, _ = house.telemetry.text("")
    verdict = subprocess.run(["promtool", "check", "metrics"], input=content, capture_output=True, check=False)
    assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, b"", b"")
