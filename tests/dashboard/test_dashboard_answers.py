"""The dashboard's HTTP answers, asked as a browser and as somebody who tries things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import requests

from autoscaler.dashboard.api import Dashboard
from autoscaler.dashboard.chronicle import Chronicle, Replica
from autoscaler.model import Decision, Observation, Role, RoleDecision, RoleKey, RoleObservation
from metrics_adapter.board import Board, Limits
from metrics_adapter.exposition import Telemetry
from metrics_adapter.server import Server, compose

if TYPE_CHECKING:
    from pathlib import Path

START = 1_700_000_000.0
OWN_PROFILE = """
model: house-8b
architecture: {layers: 32, kv_heads: 8, head_dim: 128, parameters_billion: 8.03}
profiles:
- {accelerator: a100-80gb, tensor_parallel: 1, gpus: 1, step_base_s: 0.01, per_prefill_token_s: 0.0001,
   prefill_request_s: 0.02, per_running_s: 0.0001, per_resident_token_s: 1.0e-07, kv_bytes_per_token: 131072,
   kv_capacity_tokens: 400000, max_running: 256, max_batched_tokens: 2048, weights_gb: 16.06, evidence: inferred,
   source: this test, relative_uncertainty: 0.3}
"""

CHAT = "prod/chat/colocated"


def get(page: str, path: str, **query: object) -> requests.Response:
    return requests.get(f"{page}{path}", params={name: str(value) for name, value in query.items()}, timeout=30)


def test_the_page_and_its_files_come_from_here_alone(page: str) -> None:
    answer = get(page, "")
    assert answer.ok
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    for file in ("dashboard.js", "charts.js", "dashboard.css", "uplot.js", "uplot.css"):
        assert get(page, file).ok


def test_the_documents_agree_with_one_another(page: str) -> None:
    overview = get(page, "api/overview").json()
    assert [role["key"] for role in overview["roles"]] == [CHAT, "prod/code/colocated"]
    series = get(page, "api/series", key=CHAT, span=3600).json()
    assert series["t"][-1] == overview["at"]
    assert series["load"][-1] == pytest.approx(overview["roles"][0]["load"], rel=1e-4)
    newest = get(page, "api/decisions", limit=1).json()["decisions"][0]
    assert get(page, "api/decision", id=newest["id"]).json()["desired"] == newest["desired"]


def test_a_tick_of_the_journal_is_shown_as_it_was(page: str) -> None:
    span = get(page, "api/replay").json()
    assert span["live"] is True
    told = get(page, "api/overview", tick=3).json()
    assert told["at"] == span["first_at"] + 45


def test_what_if_from_now_gives_both_sides(page: str) -> None:
    told = get(page, "api/whatif", key=CHAT, growth=3, start_scale=1, hours=1)
    assert told.ok, told.text
    now, then = told.json()["now"], told.json()["then"]
    assert then["gpu_hours"] > now["gpu_hours"]
    assert len(then["t"]) == len(then["needed"]) == len(then["ready"])
    assert max(then["needed"]) > max(now["needed"])


def test_what_if_plays_both_roles_of_a_disaggregated_pool_by_profiles_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN_PROFILE)
    keys = [RoleKey("prod", "own", role) for role in (Role.PREFILL, Role.DECODE)]
    replica = Replica(1, 2.5, "a100-80gb", "house-8b/a100-80gb/tp1", 1, 20)
    chronicle = Chronicle("prometheus", 15.0, START, {str(key): replica for key in keys})
    for number in range(60):
        at = START + 15.0 * number
        prompts = {"prompt_rate": 10_000.0, "first_token_rate": 10.0, "generation_rate": 10.0}
        made = {"completion_rate": 10.0, "generation_rate": 2000.0}
        seen = [RoleObservation(keys[0], at, 2, 2, **prompts), RoleObservation(keys[1], at, 3, 3, **made)]
        decided = [RoleDecision(keys[0], 2, 2, 2, 0, 10_000.0), RoleDecision(keys[1], 3, 3, 3, 0, 2000.0)]
        chronicle.note(Observation(at, tuple(seen)), Decision(at, tuple(decided)))
    shown = Dashboard(chronicle, None, str(tmp_path))
    meter = Telemetry(Board(Limits(1.0, 1.0), lambda: 0.0))
    with Server(compose([shown.router()], meter), "127.0.0.1", 0) as server:
        told = get(f"{server.url}/dashboard/", "api/whatif", key=str(keys[1]), growth=2, hours=0.5)
    shown.close()
    assert told.ok, told.text
    assert told.json()["then"]["gpu_hours"] > told.json()["now"]["gpu_hours"]
    # Two roles: never fewer than two replicas in all.
    assert min(told.json()["now"]["needed"]) >= 2


@pytest.mark.parametrize(
    ("path", "query", "code", "said"),
    [
        ("api/series", {"key": "nobody"}, 400, "no such role"),
        ("api/series", {"key": CHAT, "span": "long"}, 400, "span is 'long'; it must be a number 60..86400"),
        ("api/decision", {"id": 10**9}, 400, "no such decision"),
        ("api/decisions", {"limit": 0}, 400, "limit is '0'"),
        ("api/overview", {"tick": 10**6}, 404, "this journal has ticks"),
        ("api/overview", {"tick": "x"}, 400, "tick is 'x'"),
        ("api/whatif", {"key": CHAT, "growth": "nan"}, 400, "growth is 'nan'"),
        ("api/whatif", {"key": "nobody"}, 400, "no such role"),
        ("api/whatif", {"key": "prod/code/colocated"}, 400, "0 ticks with a load so far"),
    ],
)
def test_bad_questions_are_answered_in_words(
    page: str, path: str, query: dict[str, object], code: int, said: str
) -> None:
    answer = get(page, path, **query)
    assert answer.status_code == code
    assert said in answer.json()["error"]


def test_nothing_is_written_through_it(page: str) -> None:
    assert requests.post(f"{page}api/whatif", timeout=5).status_code == 405
    assert get(page, "../dashboard/none").status_code == 404
    assert get(page, "%2e%2e/status.html").status_code == 404
