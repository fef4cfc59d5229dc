"""`tidegate check` and `tidegate once` against a real Prometheus that scrapes engines good and bad."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from autoscaler.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import PrometheusFactory

PATIENCE_S = 60.0
WINDOW_S = 6
"""Six scrapes of one second: two samples are there even when some are missed."""
MAX_AGE_S = 20
ENDED = int(time.time()) - 3 * 3600
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


class Fleet:
    """One HTTP server that plays several targets, by path."""

    def __init__(self) -> None:
        self.born = time.time()
        fleet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = fleet.text(urlsplit(self.path).path).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def text(self, path: str) -> str:
        if path == "/known":
            return engine(time.time() - self.born)
        if path == "/old":  # an exporter that hands out what it saw two minutes before the start
            return engine(1.0, f" {round((self.born - 120) * 1000)}")
        if path == "/mute":
            return engine(time.time() - self.born, mute=True)
        return "go_goroutines 7\nprocess_start_time_seconds 1\n"

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def engine(seconds: float, stamp: str = "", *, mute: bool = False) -> str:
    """One vLLM after so many seconds at 100 output tokens/s and 400 prompt tokens/s; mute: without the latter."""
    labels = f'{{engine="0",model_name="{MODEL}"}}'
    samples = {
        "num_requests_running": 4.0,
        "num_requests_waiting": 0.0,
        "kv_cache_usage_perc": 0.25,
        "generation_tokens_total": 100 * seconds,
        "prompt_tokens_total": 400 * seconds,
        "prompt_tokens_cached_total": 100 * seconds,
    }
    if mute:
        samples = {name: value for name, value in samples.items() if "prompt" not in name}
    return "".join(f"vllm:{name}{labels} {value}{stamp}\n" for name, value in samples.items())


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def url(fleet: Fleet, prometheus_server: PrometheusFactory) -> str:
    """A Prometheus that scrapes /known, /old, /mute and /foreign, and remembers an engine of three hours ago."""
    jobs = "".join(
        f"  - job_name: {name}\n    metrics_path: /{name}\n    static_configs:\n"
        f"      - {{targets: ['{fleet.address}'], labels: {{namespace: {name}}}}}\n"
        for name in ("known", "old", "mute", "foreign")
    )
    config = f"global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}"
    labels = f'{{namespace="gone",model_name="{MODEL}",instance="x",job="y"}}'
    samples = "# TYPE vllm:num_requests_running gauge\n" + "".join(
        f"vllm:num_requests_running{labels} 1 {ENDED - 60 * ago}\n" for ago in range(10, -1, -1)
    )
    return prometheus_server(config, samples=samples).url


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def about(self, what: str) -> tuple[bool, str]:
        """Of `check --json`: whether it is well, and what is said."""
        (finding,) = (f for f in self.json["findings"] if f["about"] == what)
        return finding["ok"], finding["message"]


@pytest.fixture
def tidegate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs a command as the console script does, on a configuration with these pools."""

    def run(command: str, url: str, pools: str, *arguments: str, source: str = "") -> Ended:
        file = tmp_path / "tidegate.yaml"
        file.write_text(
            f"loop: {{interval_s: {WINDOW_S / 3}}}\nsource:\n  window_s: {WINDOW_S}\n  max_age_s: {MAX_AGE_S}\n{source}"
            f"  prometheus: {{url: '{url}', timeout_s: 10, retries: 0}}\npools:\n{pools}",
            encoding="utf-8",
        )
        monkeypatch.setattr("sys.argv", ["tidegate", command, "--config", str(file), *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        return Ended(int(caught.value.code or 0), out, err)

    return run


def pool(namespace: str = "known", model: str = MODEL, roles: str = "colocated: {max_replicas: 8}") -> str:
    return f"  - {{name: chat, namespace: {namespace}, model_name: {model}, roles: {{{roles}}}}}\n"


def settled(check: Callable[[], Ended]) -> Ended:
    """A check once Prometheus has scraped often enough for rates."""
    deadline = time.monotonic() + PATIENCE_S
    while (ended := check()).code and time.monotonic() < deadline:
        time.sleep(0.2)
    return ended


def test_all_is_well(url: str, tidegate: Callable[..., Ended]) -> None:
    ended = settled(lambda: tidegate("check", url, pool(), "--json"))
    assert (ended.code, ended.json["ok"]) == (0, True), ended
    assert [finding["about"] for finding in ended.json["findings"]] == [
        "prometheus", "clock", "metrics", "known/chat/colocated",
    ]  # fmt: skip
    assert ended.about("prometheus") == (True, f"{url} answers")
    assert ended.about("known/chat/colocated")[1].startswith("1 engines report, oldest sample ")
    text = tidegate("check", url, pool())
    assert text.code == 0
    assert [line.split()[0] for line in text.out.splitlines()] == ["ok"] * 4


def test_a_decision_and_its_reasons(url: str, tidegate: Callable[..., Ended]) -> None:
    def once() -> Ended:
        ended = tidegate("once", url, pool(), "--json")
        # Until the window is full of samples, rate() spreads what there is over all of it.
        full = not ended.code and ended.json["roles"][0]["load"] > 70
        return ended if full else Ended(1, ended.out, ended.err)

    ended = settled(once)
    assert ended.code == 0, ended
    assert ended.json.keys() >= {"at", "roles", "notes", "source"}
    (role,) = ended.json["roles"]
    assert role["key"] == {"namespace": "known", "pool": "chat", "role": "colocated"}
    assert role["desired"] >= 1
    assert role["ready"] == 1
    assert role["load"] == pytest.approx(100, rel=0.3)  # output tokens/s; scrapes are not quite a second apart
    text = tidegate("once", url, pool())
    assert (text.code, len(text.out.splitlines())) == (0, 1)
    assert text.out.startswith("known/chat/colocated: ")


def test_a_wrong_model_is_named_with_the_nearest(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    ended = tidegate("check", url, pool(model="meta-llama/Llama-3.1-8B"), "--json")
    assert (ended.code, ended.json["ok"]) == (1, False)
    good, said = ended.about("known/chat/colocated")
    assert not good
    assert 'no engine series with model_name="meta-llama/Llama-3.1-8B", namespace="known"' in said
    assert f'model_name is never "meta-llama/Llama-3.1-8B" there; the nearest that exists is "{MODEL}"' in said
    text = tidegate("check", url, pool(model="meta-llama/Llama-3.1-8B"))
    assert text.code == 1
    assert "PROBLEM  known/chat/colocated: no engine series" in text.out


def test_a_wrong_namespace_is_named_with_the_nearest(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    _, said = tidegate("check", url, pool(namespace="knwon"), "--json").about("knwon/chat/colocated")
    assert 'namespace is never "knwon" there; the nearest that exists is "known"' in said


def test_a_label_no_engine_has_is_named(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    ended = tidegate("check", url, pool(roles="prefill: {max_replicas: 2}, decode: {max_replicas: 2}"), "--json")
    assert ended.code == 1
    assert "no engine series has a label 'role'" in ended.about("known/chat/prefill")[1]


def test_stale_samples_are_told(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    ended = tidegate("check", url, pool(namespace="old"), "--json")
    assert ended.code == 1
    assert f"stale: all 1 engines have only samples older than {MAX_AGE_S} s" in ended.about("old/chat/colocated")[1]


def test_engines_without_what_deciding_needs_are_told(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    ended = tidegate("check", url, pool(namespace="mute"), "--json")
    assert ended.code == 1
    assert "its engines report no prompt tokens/s: this role is blind" in ended.about("mute/chat/colocated")[1]
    once = tidegate("once", url, pool(namespace="mute"), "--json")
    assert (once.code, once.json["roles"][0]["blind"]) == (1, "its engines report no prompt tokens/s")


def test_a_target_that_is_up_and_says_nothing_known_is_told(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    pools = "  - {name: chat, namespace: foreign, roles: {colocated: {max_replicas: 8}}}\n"
    ended = tidegate("check", url, pools, "--json")
    assert ended.code == 1
    said = ended.about("foreign/chat/colocated")[1]
    assert "1 of 1 scrape targets are up. None of those exposes a metric of a known engine" in said


def test_series_that_ended_are_dated(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    ended = tidegate("check", url, pool(namespace="gone"), "--json")
    assert ended.code == 1
    assert "Such series were there until about " in ended.about("gone/chat/colocated")[1]


def test_one_good_pool_does_not_hide_a_bad_one(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    both = pool() + pool(namespace="old")
    checked = tidegate("check", url, both, "--json")
    assert checked.code == 1
    assert checked.about("known/chat/colocated")[0]
    assert not checked.about("old/chat/colocated")[0]
    decided = tidegate("once", url, both, "--json")
    assert decided.code == 0, "one role could be judged"
    good, blind = decided.json["roles"]
    assert "blind" not in good
    assert blind["blind"]
    assert tidegate("once", url, pool(namespace="old")).code == 1, "no role could be judged"


def test_deployments_kube_state_metrics_does_not_know_are_told(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    pools = pool(roles="colocated: {max_replicas: 8, target: {name: chat}}")
    source = "  replica_counts: kube-state-metrics\n"
    ended = tidegate("check", url, pools, "--json", source=source)
    assert ended.code == 1
    said = [f["message"] for f in ended.json["findings"] if f["about"] == "known/chat/colocated" and not f["ok"]]
    assert len(said) == 1
    assert said[0].startswith("kube-state-metrics says nothing of Deployment chat in namespace known")
    assert tidegate("once", url, pools, "--json", source=source).json["roles"][0]["ready"] == 1, "by the targets"


def test_a_time_of_the_past_and_one_in_milliseconds(url: str, tidegate: Callable[..., Ended]) -> None:
    settled(lambda: tidegate("check", url, pool(), "--json"))
    ended = tidegate("once", url, pool(namespace="gone"), "--json", "--at", str(ENDED + 5))
    assert ended.json["at"] == ENDED + 5
    assert ended.json["roles"][0]["sampled_at"] == ENDED
    wrong = tidegate("once", url, pool(), "--at", "1800000000000")
    assert (wrong.code, wrong.out) == (2, "")
    assert "use Unix seconds" in wrong.err
    assert tidegate("once", url, pool(), "--at", "nan").code == 2


def test_nobody_listens(tidegate: Callable[..., Ended]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    ended = tidegate("check", url, pool(), "--json")
    assert ended.code == 1
    good, said = ended.about("prometheus")
    assert not good
    assert said.startswith(f"Prometheus at {url}: ")
    assert len(ended.json["findings"]) == 1, "nothing else can be said then"
    once = tidegate("once", url, pool(), "--json")
    assert (once.code, once.out) == (1, "")
    assert url in once.err.replace("\n", "")


class _Answering(BaseHTTPRequestHandler):
    """A server with Prometheus' API whose clock is an hour ahead and that knows no metric."""

    def do_GET(self) -> None:
        if urlsplit(self.path).path.endswith("/query"):
            data: Any = {"resultType": "scalar", "result": [time.time(), str(time.time() + 3600)]}
        else:
            data = []
        body = json.dumps({"status": "success", "data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_clocks_apart_and_a_server_without_engines(tidegate: Callable[..., Ended]) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            ended = tidegate("check", f"http://127.0.0.1:{server.server_address[1]}", pool(), "--json")
        finally:
            server.shutdown()
            thread.join()
    assert ended.code == 1
    good, said = ended.about("clock")
    assert not good
    assert "Prometheus is 3600.0 s ahead of this machine" in said
    good, said = ended.about("metrics")
    assert not good
    assert "is it the one that scrapes the engines" in said


def test_nothing_enabled_is_said(url: str, tidegate: Callable[..., Ended]) -> None:
    pools = "  - {name: chat, enabled: false, roles: {colocated: {max_replicas: 8}}}\n"
    ended = tidegate("once", url, pools)
    assert (ended.code, ended.out) == (1, "")
    assert "every pool is disabled" in ended.err
