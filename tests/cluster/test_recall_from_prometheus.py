"""A start without memory: load history and start-up times from a real Prometheus."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from autoscaler.build import parts
from autoscaler.cluster.kube_starts import KubeStarts
from autoscaler.cluster.recall import recalled, recalled_days
from autoscaler.foresight_days import name_of, nobody
from autoscaler.memory import Memory, RoleMemory
from autoscaler.model import Role, RoleKey, Step, Tier
from autoscaler.settings import Settings
from forecasting.series import Series
from forecasting.staggered import Past
from metrics_adapter.prometheus import PrometheusSource
from metrics_adapter.prometheus_http import PrometheusAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T0 = 1_800_000_000
SCRAPE_S = 15
HOURS = 2
KEY = RoleKey("llm", "chat", Role.COLOCATED)


def rate(at: float) -> float:
    """Output tokens/s of one engine: 100, doubled in the second hour. Prompts: ten times as many."""
    return 100.0 if at < T0 + 3600 else 200.0


def engines() -> list[str]:
    lines = ["# TYPE vllm:num_requests_running gauge"]
    times = range(T0, T0 + HOURS * 3600 + 1, SCRAPE_S)
    labels = [f'namespace="llm",pod="chat-{i}",instance="10.0.0.{i}:8000",model_name="m"' for i in (1, 2)]
    lines += [f"vllm:num_requests_running{{{each}}} 3 {at}" for each in labels for at in times]
    for name, factor in (("generation_tokens", 1.0), ("prompt_tokens", 10.0)):
        lines.append(f"# TYPE vllm:{name} counter")
        for each in labels:
            total = 0.0
            for at in times:
                lines.append(f"vllm:{name}_total{{{each}}} {total} {at}")
                total += factor * rate(at) * SCRAPE_S
    return lines


def pods(now: int) -> list[str]:
    """chat-5d8f9-aaaaa found its node prepared (10 + 20 + 60 s), -bbbbb waited for a new one (150 + 60 + 60 s)."""
    told: dict[str, list[str]] = {}

    def say(name: str, labels: str, value: float) -> None:
        told.setdefault(name, []).append(f"{name}{{{labels}}} {value} {now}")

    for pod, node, marks in (
        ("chat-5d8f9-aaaaa", "old", (0, 10, 30, 90)),
        ("chat-5d8f9-bbbbb", "new", (5, 155, 215, 275)),
        ("chat-other-5d8f9-ccccc", "old", (0, 1, 2, 3)),
    ):
        own = f'namespace="llm",pod="{pod}"'
        created, scheduled, started, ready = (now - 600 + mark for mark in marks)
        say("kube_pod_created", own, created)
        say("kube_pod_status_scheduled_time", own, scheduled)
        say("kube_pod_container_state_started", own + ',container="vllm"', started)
        say("kube_pod_status_ready_time", own, ready)
        say("kube_pod_info", f'{own},node="{node}"', 1)
    say("kube_pod_created", 'namespace="llm",pod="chat-5d8f9-ddddd"', now - 60)
    say("kube_node_created", 'node="old"', now - 90_000)
    say("kube_node_created", 'node="new"', now - 480)
    return [line for name, lines in told.items() for line in (f"# TYPE {name} gauge", *lines)]


@pytest.fixture(scope="module")
def source(prometheus_server: Callable[..., Any]) -> Iterator[PrometheusSource]:
    now = T0 + HOURS * 3600
    server = prometheus_server(samples="\n".join([*engines(), *pods(now)]) + "\n")
    source = PrometheusSource(PrometheusAccess(server.url, timeout_s=60), window_s=60)
    yield source
    source.close()
    server.stop()


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.model_validate(
        {
            "pools": [
                {
                    "name": "chat",
                    "namespace": "llm",
                    "model_name": "m",
                    "roles": {"colocated": {"max_replicas": 8, "target": {"name": "chat"}}},
                }
            ]
        }
    )


def test_a_cold_start_knows_the_last_hours(source: PrometheusSource, settings: Settings) -> None:
    now = float(T0 + HOURS * 3600)
    made = parts(settings)
    known = recalled(Memory(), source, made.groups, made.rules, now).of(KEY)
    by_time = dict(zip(known.output_load.times.tolist(), known.output_load.values.tolist(), strict=True))
    assert len(by_time) >= 110
    # two engines of 100, later of 200 tokens/s
    assert by_time[T0 + 1800] == pytest.approx(200.0, rel=0.02)
    assert by_time[T0 + 5400] == pytest.approx(400.0, rel=0.02)
    prompts = dict(zip(known.prompt_load.times.tolist(), known.prompt_load.values.tolist(), strict=True))
    assert prompts[T0 + 5400] == pytest.approx(4000.0, rel=0.02)
    assert known.desired is None


def test_a_memory_is_only_filled_up_to_now(source: PrometheusSource, settings: Settings) -> None:
    """It ended after half an hour, with a load of its own; what it holds stays, what came later is added."""
    now = float(T0 + HOURS * 3600)
    made = parts(settings)
    own = Series.of([(T0 + 60.0 * i, 7.0) for i in range(30)], made.rules.bin_s, 360)
    memory = Memory({KEY: RoleMemory(output_load=own, desired=5)}, T0 + 1800.0)
    known = recalled(memory, source, made.groups, made.rules, now).of(KEY)
    by_time = dict(zip(known.output_load.times.tolist(), known.output_load.values.tolist(), strict=True))
    assert by_time[T0 + 600] == 7.0
    assert by_time[T0 + 5400] == pytest.approx(400.0, rel=0.02)
    assert known.desired == 5


def test_the_days_come_as_means_of_ten_minutes(source: PrometheusSource, settings: Settings) -> None:
    """Bins of 600 s over two hours: 200 tokens/s in the first, 400 in the second; the server knows nothing before."""
    now = float(T0 + HOURS * 3600)
    made = parts(settings)
    known = recalled_days(Memory(), source, made.groups, made.rules, now).days.histories()
    outputs, prompts = known[name_of(KEY, "outputs")], known[name_of(KEY, "prompts")]
    assert outputs.newest == T0 // 600 + 11
    by_bin = outputs.values[-12:]
    assert by_bin[1:5] == pytest.approx([200.0] * 4, rel=0.02)
    assert by_bin[7:] == pytest.approx([400.0] * 5, rel=0.02)
    assert prompts.values[-1] == pytest.approx(4000.0, rel=0.02)


def test_days_that_are_remembered_stay_as_they_are(source: PrometheusSource, settings: Settings) -> None:
    """Three bins of 7, the last of them the second hour's first; what came later, and before, is the server's."""
    now = float(T0 + HOURS * 3600)
    made = parts(settings)
    name = name_of(KEY, "outputs")
    own = nobody().laid_out((name,), {name: Past(T0 // 600 + 6, np.array([7.0, np.nan, 7.0]))})
    known = recalled_days(Memory(days=own), source, made.groups, made.rules, now).days.histories()[name]
    assert known.values[-8:] == pytest.approx([7.0, 200.0, 7.0, 400.0, 400.0, 400.0, 400.0, 400.0], rel=0.02)
    off = replace(made.rules, days=False)
    assert recalled_days(Memory(days=own), source, made.groups, off, now).days is own


def test_a_prometheus_that_is_away_costs_history_and_nothing_else(settings: Settings) -> None:
    away = PrometheusSource(PrometheusAccess("http://127.0.0.1:9", timeout_s=2))
    made = parts(settings)
    memory = Memory({KEY: RoleMemory(desired=5)}, 0.0)
    assert recalled(memory, away, made.groups, made.rules, float(T0)) is memory
    assert recalled_days(memory, away, made.groups, made.rules, float(T0)) is memory
    away.close()


def test_pod_phases_tell_how_long_replicas_took(source: PrometheusSource, settings: Settings) -> None:
    starts = KubeStarts(source, settings).read(float(T0 + HOURS * 3600))[KEY]
    assert [(one.name, one.tier, one.served_at - one.asked_at) for one in starts] == [
        ("llm/chat-5d8f9-aaaaa", Tier.START, 90.0),
        ("llm/chat-5d8f9-bbbbb", Tier.PROVISION, 270.0),
    ]
    assert starts[0].steps == ((Step.SCHEDULE, 10.0), (Step.IMAGE, 20.0), (Step.ENGINE, 60.0))
    assert starts[1].steps == ((Step.NODE, 150.0), (Step.IMAGE, 60.0), (Step.ENGINE, 60.0))
    assert [one.together for one in starts] == [1, 2]
