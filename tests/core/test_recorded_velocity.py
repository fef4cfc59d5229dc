"""Velocities learned from a real vLLM 0.32 server, its 15-minute record replayed tick by tick through Prometheus.

The record runs through phases (idle, low, ramp, high, prefill-heavy, decode-heavy, spike, low, idle); the same server
was profiled in closed loop (`profile.csv`). Learning begins from the `unknown` profile, which is wrong by a factor of
5 for prefill.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from scripted import at_time, role_rules, rules

from autoscaler.build import UNKNOWN_SD
from autoscaler.cluster.live import role_observation
from autoscaler.learning import Prior, estimate
from autoscaler.memory import Memory
from autoscaler.model import Role, RoleKey
from autoscaler.profiles import UNKNOWN_PROFILE
from autoscaler.tick import tick
from autoscaler.velocity import Engine
from metrics_adapter.prometheus import PrometheusAccess, PrometheusSource
from metrics_adapter.signals import Group

if TYPE_CHECKING:
    from collections.abc import Callable

    from autoscaler.learning import Estimate

DATA = Path(__file__).parents[3] / "shared" / "data" / "vllm_cpu"
RECORDED = DATA / "recorded"

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded metrics are not at {RECORDED}")

KEY = RoleKey("llm", "small-llama", Role.COLOCATED)
ENGINE = Engine(
    UNKNOWN_PROFILE.step, UNKNOWN_PROFILE.kv_capacity_tokens, UNKNOWN_PROFILE.max_running, batched_tokens=2048
)
RULE = role_rules(
    Role.COLOCATED, key=KEY, engine=ENGINE, prior=Prior(UNKNOWN_PROFILE.step, UNKNOWN_SD), profile="unknown"
)
RULES = rules(RULE, window_s=30.0)
TICK_S = 5.0
LOW_ENDS_S = 120.0  # 30 s idle and 90 s at 0.3 requests/s


class Moment(NamedTuple):
    """What is known so many seconds into the record."""

    after_s: float
    estimate: Estimate
    basis: str | None
    capacity: float | None


@pytest.fixture(scope="module")
def moments(prometheus_server: Callable[..., Any]) -> list[Moment]:
    """The record replayed: 183 scrapes, one tick half a second after each."""
    with gzip.open(RECORDED / "raw_samples.openmetrics.txt.gz", "rt", encoding="utf-8") as file:
        server = prometheus_server(samples=file.read())
    source = PrometheusSource(PrometheusAccess(server.url, timeout_s=60), window_s=RULES.window_s)
    with (RECORDED / "series_main.csv").open(encoding="utf-8") as file:
        scrapes = [float(row["t"]) for row in csv.DictReader(file)]
    memory, found = Memory(), []
    group = Group(str(KEY), {"namespace": "llm", "model_name": "small-llama"})
    for scrape in scrapes:
        now = scrape + 0.5
        reading = source.read(now, [group]).by_key[group.key]
        decision, memory = tick(at_time(now, role_observation(KEY, reading, None)), memory, RULES)
        known = memory.of(KEY)
        velocity = decision.roles[0].velocity
        basis = velocity.basis if velocity is not None else None
        found.append(Moment(now - scrapes[0], estimate(known.learned, RULE.prior), basis, known.kv_capacity))
    source.close()
    server.stop()
    return found


def profile_rows(kind: str) -> list[dict[str, str]]:
    with (DATA / "profile.csv").open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == kind]


def test_prefill_velocity_is_within_15_percent_of_the_profile(moments: list[Moment]) -> None:
    step = moments[-1].estimate.step
    learned = 1.0 / (step.per_prompt_token + step.base / 2048)
    wanted = {("256", "4"), ("256", "8"), ("1024", "1"), ("1024", "2"), ("1024", "4")}
    rows = [
        row
        for row in (*profile_rows("prefill"), *profile_rows("prefill_batch"))
        if (row["prompt_len"], row["concurrency"]) in wanted
    ]
    assert len(rows) == len(wanted)
    for row in rows:
        assert learned == pytest.approx(float(row["prefill_tok_s_median"]), rel=0.15), row


def test_decode_velocity_is_within_15_percent_of_the_profile(moments: list[Moment]) -> None:
    """At most 24 requests ran at once (`max_num_seqs`), of 100 to 1,500 tokens on average."""
    step = moments[-1].estimate.step
    rows = [row for row in profile_rows("decode") if int(row["concurrency"]) <= 24 and float(row["ctx_mean"]) <= 1500]
    assert len(rows) == 15
    for row in rows:
        batch, context = int(row["concurrency"]), float(row["ctx_mean"])
        itl = step.base + batch * (step.per_running + context * step.per_resident_token)
        assert batch / itl == pytest.approx(float(row["decode_tok_s_median"]), rel=0.15), row


def test_what_was_learned_is_said_to_be_learned(moments: list[Moment]) -> None:
    last = moments[-1]
    known, why = last.estimate.says(Role.PREFILL, last.estimate.prefill_sd(2048))
    assert known, why
    known, why = last.estimate.says(Role.DECODE, last.estimate.decode_sd(16, 300))
    assert known, why
    assert last.capacity == 8192  # what the engine reports, not the profile's 100,000


def test_too_little_load_is_said_to_be_too_little(moments: list[Moment]) -> None:
    """0.3 requests/s leave the engine idle half of the time: nothing can be said about its prefill."""
    low = [moment for moment in moments if moment.after_s <= LOW_ENDS_S][-1]
    known, why = low.estimate.says(Role.PREFILL, low.estimate.prefill_sd(2048))
    assert not known
    assert why == "not enough load to learn from (0.0 of 4 windows)"
    assert low.basis == f"profile unknown, {why}"


def test_without_enough_load_nothing_passes_as_learned(moments: list[Moment]) -> None:
    """Through the ramp prefill stays unlearned until it is also certain; it never passes with a wrong velocity."""
    for moment in moments:
        known, why = moment.estimate.says(Role.PREFILL, moment.estimate.prefill_sd(2048))
        step = moment.estimate.step
        if known:
            assert 1.0 / (step.per_prompt_token + step.base / 2048) == pytest.approx(1850, rel=0.25), moment.after_s
        else:
            assert "not enough load" in why or "not certain enough" in why
