"""Where the load comes from, and how it grows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from autoscaler import whatif
from autoscaler.errors import BadJournal, BadSettings
from autoscaler.journal import Journal
from autoscaler.model import Decision, Observation, Role, RoleKey, RoleObservation
from autoscaler.simulator.requests import DemandSeries, Workload
from autoscaler.whatif.history import grown
from autoscaler.whatif.scenario import HistoryPrometheus

if TYPE_CHECKING:
    from pathlib import Path

KEY = RoleKey("prod", "chat", Role.COLOCATED)


def journal(path: Path, times: list[float], requests: float = 2.0) -> Path:
    """Ticks with 2 requests/s of 1,000 prompt and 200 output tokens."""
    written = Journal(path, 10_000_000)
    for at in times:
        role = RoleObservation(
            KEY, at, 1, 1, first_token_rate=requests, prompt_rate=requests * 1000, generation_rate=requests * 200
        )
        written.write(Observation(at, (role,)), Decision(at, ()))
    return path


def test_a_journal_gives_the_demand_it_saw(tmp_path: Path) -> None:
    loads = whatif.from_journal(journal(tmp_path / "j", [1000.0 + 15 * tick for tick in range(41)]))
    assert list(loads.pools) == ["prod/chat"]
    load = loads.pools["prod/chat"]
    assert isinstance(load, DemandSeries)
    # 600 s in bins of a minute: 2 requests/s x 60 s, of 1,000 and 200 tokens.
    assert (len(load), load.bin_s) == (11, 60.0)
    assert load.requests[0] == pytest.approx(120)
    assert load.prompt[0] == pytest.approx(120_000)
    assert load.output[0] == pytest.approx(24_000)


def test_a_short_gap_in_a_journal_is_held_and_said_a_long_one_is_refused(tmp_path: Path) -> None:
    gap = [1000.0 + 15 * tick for tick in range(80) if not 20 <= tick < 32]
    load = whatif.from_journal(journal(tmp_path / "short", gap)).pools["prod/chat"]
    assert "unseen" in load.notes[0]
    assert float(load.requests.min()) > 0  # a gap is not silence
    gap = [1000.0 + 15 * tick for tick in range(80) if not 20 <= tick < 70]
    with pytest.raises(BadJournal, match="unseen"):
        whatif.from_journal(journal(tmp_path / "long", gap))


def test_a_journal_without_rates_or_without_the_pool_is_refused(tmp_path: Path) -> None:
    blind = Journal(tmp_path / "blind", 1_000_000)
    blind.write(Observation(1.0, (RoleObservation(KEY),)), Decision(1.0, ()))
    with pytest.raises(BadJournal, match="no tick in it tells rates"):
        whatif.from_journal(tmp_path / "blind")
    path = journal(tmp_path / "j", [0.0, 60.0, 120.0])
    with pytest.raises(BadSettings, match="it has prod/chat"):
        whatif.from_journal(path, pool="prod/other")


def test_demand_grows_by_multiplication() -> None:
    day = DemandSeries(
        "d", np.array([0.0, 60.0]), 60.0, np.array([1.0, 2.0]), np.array([10.0, 20.0]), np.array([5.0, 5.0])
    )
    found = grown(day, whatif.Scenario(growth=2, input_growth=3, output_growth=0.5), 0)
    assert isinstance(found, DemandSeries)
    assert found.requests.tolist() == [2, 4]
    assert found.prompt.tolist() == [60, 120]  # 2 x 3
    assert found.output.tolist() == [5, 5]  # 2 x 0.5
    assert "2x requests" in found.notes[-1]


@pytest.mark.parametrize("growth", [0.5, 1.5, 2.0, 3.2])
def test_requests_grow_by_copies_and_thinning(loads: whatif.Loads, growth: float) -> None:
    load = loads.pools["pool"]
    found = grown(load, whatif.Scenario(growth=growth), 3)
    assert isinstance(load, Workload)
    assert isinstance(found, Workload)
    # Thinning draws each request: within four standard deviations of a binomial count.
    expected = growth * len(load)
    assert abs(len(found) - expected) <= 4 * expected**0.5
    assert found.prompt.mean() == pytest.approx(load.prompt.mean(), rel=0.1)


def test_longer_prompts_keep_their_cached_part(loads: whatif.Loads) -> None:
    load = loads.pools["pool"]
    assert isinstance(load, Workload)
    cached = replace(load, cached=(load.prompt // 2).astype(np.int32))
    found = grown(cached, whatif.Scenario(input_growth=2), 0)
    assert isinstance(found, Workload)
    assert found.cached is not None
    assert found.prompt.sum() == pytest.approx(2 * load.prompt.sum())
    assert (found.cached < found.prompt).all()


def test_demand_as_a_tidy_frame(demand_csv: Path) -> None:
    frame = whatif.demand_frame(whatif.from_trace(demand_csv))
    assert list(frame.columns) == ["pool", "t_s", "requests_per_s", "input_tokens_per_s", "output_tokens_per_s"]
    assert frame["requests_per_s"].iloc[0] == pytest.approx(6)
    assert frame["input_tokens_per_s"].iloc[-1] == pytest.approx(12_000)


def test_a_load_from_prometheus_is_named_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name stands in reports, in kept runs and on standard output."""
    monkeypatch.setattr(
        "metrics_adapter.prometheus.PrometheusSource.range",
        lambda _self, _query, start, end, step: [({}, [(at, 2.0) for at in np.arange(start, end + 1, step).tolist()])],
    )
    asked = HistoryPrometheus(url="http://me:s3cr3t@prometheus:9090/", end=1.8e9, duration_s=3600.0)
    loads = whatif.from_prometheus(asked)
    assert loads.source == "http://prometheus:9090"
    assert {load.name for load in loads.pools.values()} == {"http://prometheus:9090"}
