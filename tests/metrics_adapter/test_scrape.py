"""Direct scraping against real HTTP servers on loopback, with clocks and numbers that can be reckoned by hand."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from metrics_adapter.engines import VOCABULARIES
from metrics_adapter.scrape import ScrapeSource
from metrics_adapter.scrape_engines import with_target_labels
from metrics_adapter.scrape_groups import TargetState
from metrics_adapter.scrape_history import CounterSeries
from metrics_adapter.scrape_http import ScrapeOptions
from metrics_adapter.scrape_targets import FileTargets, Target, static_targets
from metrics_adapter.signals import Group, Reading, Readings, Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T0 = 1_800_000_000.0
ALL = Group("all", {})
DECODE = Group("decode", {"pool": "chat", "role": "decode"})
LABELS = {"pool": "chat", "role": "decode"}


def page(running: float = 1, tokens: float = 0, *, engine: str = "0", model: str = "llama", more: str = "") -> str:
    who = f'{{engine="{engine}",model_name="{model}"}}'
    return (
        f"vllm:num_requests_running{who} {running}\nvllm:generation_tokens_total{who} {tokens}\n"
        f"# HELP vllm:kv_cache_usage_perc share\nvllm:kv_cache_usage_perc{who} 0.25\n{more}"
    )


class Engine:
    """An HTTP server whose `/metrics` says whatever the test wants, in whatever manner."""

    def __init__(self) -> None:
        self.body = page().encode()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.pretend_length: int | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.at_once = 0
        self.most_at_once = 0
        self._lock = threading.Lock()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                engine._answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing on stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/metrics"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def say(self, text: str) -> None:
        self.body = text.encode()

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests.append((handler.path, dict(handler.headers)))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.hold.wait(20)
        with self._lock:
            self.at_once -= 1
        handler.close_connection = True
        try:
            handler.send_response(self.status)
            for name, value in {"Content-Type": "text/plain; version=0.0.4", **self.headers}.items():
                handler.send_header(name, value)
            if "Transfer-Encoding" not in self.headers:
                handler.send_header("Content-Length", str(self.pretend_length or len(self.body)))
            handler.end_headers()
            handler.wfile.write(self.body)
        except OSError:  # the scraper has hung up, which is what some tests are about
            return


@contextmanager
def engines(count: int = 1) -> Iterator[list[Engine]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            engine = Engine()
            stack.callback(engine.close)
            made.append(engine)
        yield made


@pytest.fixture
def engine() -> Iterator[Engine]:
    with engines() as (one,):
        yield one


class Scraped:
    """A source with a clock the test sets."""

    def __init__(self, targets: Callable[[], list[Target]] | list[Target], **options: object) -> None:
        self.now = T0
        lister = targets if callable(targets) else lambda: targets
        merged = {"window_s": 60.0, "max_age_s": 30.0, "timeout_s": 5.0, **options}
        self.source = ScrapeSource(lister, ScrapeOptions(**merged), clock=lambda: self.now)  # type: ignore[arg-type] # options by name

    def look(self, at: float = 0.0, *groups: Group) -> Readings:
        self.now = T0 + at
        return self.source.read(self.now, groups or (ALL,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()


def scrape(*made: Engine, labels: dict[str, str] | None = None, **options: object) -> Scraped:
    return Scraped([Target(one.url, labels or {}) for one in made], **options)


def only(readings: Readings) -> Reading:
    (reading,) = readings.by_key.values()
    return reading


# --- levels, rates, ages ---------------------------------------------------------------------------------------------


def test_gauges_are_read_at_once_and_rates_need_two_samples(engine: Engine) -> None:
    engine.say(page(running=4, tokens=1000))
    with scrape(engine) as scraped:
        first = only(scraped.look(0))
        assert first.signals == {Signal.RUNNING: 4.0, Signal.KV_USAGE: 0.25, Signal.KV_USAGE_MAX: 0.25}
        assert (first.reporting, first.rate_engines, first.replicas_reporting, first.stale) == (1, 0, 1, 0)
        assert (first.sampled_at, first.targets, first.targets_up, first.engines) == (T0, 1, 1, ("vllm",))
        engine.say(page(running=2, tokens=1600))
        second = only(scraped.look(60))
        # the two samples lie on the window's edges, so nothing is extrapolated: (1600 - 1000) / 60 s
        assert second.signals[Signal.GENERATION_RATE] == pytest.approx(10.0)
        assert (second.rate_engines, second.sampled_at) == (1, T0 + 60)


def test_rates_are_extrapolated_to_the_window_like_prometheus(engine: Engine) -> None:
    with scrape(engine) as scraped:
        for at, tokens in ((0, 5000), (10, 5100), (20, 5200)):
            engine.say(page(tokens=tokens))
            reading = only(scraped.look(at))
    # 200 tokens in 20 s; the window began 40 s before the first sample, further than 1.1 x 10 s, so it is stretched by
    # half a distance only: 200 x (20 + 5) / 20 / 60 s = 4.1667/s
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(200 * 25 / 20 / 60)


def test_a_pod_restart_counts_from_zero(engine: Engine) -> None:
    with scrape(engine) as scraped:
        for at, tokens in ((0, 9000), (20, 9200), (40, 50), (60, 250)):
            engine.say(page(tokens=tokens))
            reading = only(scraped.look(at))
    # 9000 -> 9200 is 200; then it started anew and made 50, then 200 more: 450 in 60 s
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(450 / 60)


def test_samples_leave_the_window_and_memory(engine: Engine) -> None:
    with scrape(engine) as scraped:
        for at in range(0, 1000, 10):
            engine.say(page(tokens=at * 3, model=f"m{at // 500}"))
            reading = only(scraped.look(at))
        (state,) = scraped.source._states.values()
        assert isinstance(state, TargetState)
        assert state.series == 1  # the counter of the first model_name is forgotten
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(3.0)


def test_now_ages_samples_and_old_ones_are_stale(engine: Engine) -> None:
    engine.say(f'vllm:num_requests_running{{engine="0"}} 3 {int((T0 - 25) * 1000)}\n')
    with scrape(engine) as scraped:
        fresh = only(scraped.look(0))
        assert (fresh.reporting, fresh.sampled_at) == (1, T0 - 25)
        late = scraped.look(10)
        assert (only(late).reporting, only(late).stale, only(late).sampled_at) == (0, 1, None)
        assert only(late).signals == {}
        assert only(late).targets_up == 1
        assert "35 s old, limit 30 s" in " ".join(late.notes)


# --- bad engines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["NaN", "+Inf", "-1"])
def test_an_engine_whose_presence_gauge_is_nonsense_is_stale(bad: str) -> None:
    with engines(2) as (good, broken):
        good.say(page(running=5))
        broken.say(page().replace("} 1\n", f"}} {bad}\n", 1))
        with scrape(good, broken) as scraped:
            readings = scraped.look()
    reading = only(readings)
    assert (reading.reporting, reading.stale, reading.targets_up) == (1, 1, 2)
    assert reading.signals[Signal.RUNNING] == 5
    assert "vllm:num_requests_running is" in " ".join(readings.notes)


def test_another_gauge_that_is_nonsense_is_left_out_and_said() -> None:
    with engines(2) as (good, broken):
        broken.say(page(running=2).replace("0.25", "NaN"))
        with scrape(good, broken) as scraped:
            readings = scraped.look()
    assert only(readings).signals[Signal.KV_USAGE] == 0.25  # the mean over the one engine that said something
    assert (only(readings).reporting, only(readings).signals[Signal.RUNNING]) == (2, 3.0)
    assert "vllm:kv_cache_usage_perc is nan" in " ".join(readings.notes)


def refused(engine: Engine) -> None:
    engine.close()


def garbage(engine: Engine) -> None:
    engine.body = bytes(range(256)) * 20


def html(engine: Engine) -> None:
    engine.say("<html><body>It works!</body></html>\n")


def not_found(engine: Engine) -> None:
    engine.status = 404


def server_error(engine: Engine) -> None:
    engine.status = 503


def cut_by_the_server(engine: Engine) -> None:
    engine.pretend_length = len(engine.body) + 100


def cut_before_the_server(engine: Engine) -> None:
    engine.body = engine.body[:-30]


def cut_chunks(engine: Engine) -> None:
    engine.headers = {"Transfer-Encoding": "chunked"}
    engine.body = f"{len(engine.body):x}\r\n".encode() + engine.body[:50]


def broken_gzip(engine: Engine) -> None:
    engine.headers = {"Content-Encoding": "gzip"}


def gzip_bomb(engine: Engine) -> None:
    engine.headers = {"Content-Encoding": "gzip"}
    engine.body = gzip.compress(b"#" * 5_000_000 + b"\n")


def endless(engine: Engine) -> None:
    engine.body = b"a 1\n" * 500_000


def too_many(engine: Engine) -> None:
    engine.say("".join(f'vllm:num_requests_running{{engine="{n}"}} 1\n' for n in range(2000)))


def hang(engine: Engine) -> None:
    engine.hold.clear()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (refused, "Cannot connect"),
        (garbage, "line 2: byte 0x80 is not UTF-8"),
        (html, "looks like HTML"),
        (not_found, "answered 404"),
        (server_error, "answered 503"),
        (cut_by_the_server, "payload is not completed"),
        (cut_before_the_server, "cut short"),
        (cut_chunks, "payload is not completed"),
        (broken_gzip, "gzip"),
        (gzip_bomb, "longer than 1000000 bytes"),
        (endless, "longer than 1000000 bytes"),
        (too_many, "2000 samples of engine metrics, limit 1000"),
        (hang, "no whole answer within 0.5 s"),
    ],
)
def test_a_target_that_fails_does_not_report_and_the_reason_is_said(
    spoil: Callable[[Engine], None], words: str
) -> None:
    with ExitStack() as stack:
        good, bad = Engine(), Engine()
        stack.callback(good.close)
        if spoil is not refused:
            stack.callback(bad.close)
        options = {"target_timeout_s": 0.5, "max_body_bytes": 1_000_000, "max_samples": 1000}
        with scrape(good, bad, labels=LABELS, **options) as scraped:
            before = scraped.look(0, DECODE).by_key["decode"]
            assert (before.reporting, before.targets, before.targets_up) == (2, 2, 2)
            spoil(bad)
            readings = scraped.look(10, DECODE)
            after = readings.by_key["decode"]
            assert (after.reporting, after.replicas_reporting, after.targets, after.targets_up) == (1, 1, 2, 1)
            assert after.sampled_at == T0 + 10
            assert after.signals[Signal.RUNNING] == 1.0
            (note,) = readings.notes
            assert "1 of 2 targets failed" in note
            assert words in note
            assert f":{bad.port}/metrics" in note


def test_a_target_that_comes_back_has_its_rates_at_once(engine: Engine) -> None:
    with engines() as (other,), scrape(engine, other) as scraped:
        engine.say(page(tokens=1000))
        scraped.look(0)
        engine.status = 500
        assert only(scraped.look(30)).rate_engines == 1
        engine.status = 200
        engine.say(page(tokens=1600))
        reading = only(scraped.look(60))
    assert (reading.reporting, reading.rate_engines) == (2, 2)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(10.0)  # the other engine made none


def test_when_every_target_fails_there_is_no_reading(engine: Engine) -> None:
    with socket.socket() as closed, engines(4) as others:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        engine.status = 500
        for other in others:
            other.status = 404
        dead = Target(f"http://127.0.0.1:{closed.getsockname()[1]}/metrics")
        listed = [dead, *(Target(one.url) for one in (engine, *others))]
        with Scraped(listed) as scraped, pytest.raises(SourceError) as caught:
            scraped.look()
    assert "all 6 targets failed" in str(caught.value)
    assert "Cannot connect" in str(caught.value)
    assert "answered 500" in str(caught.value)
    assert "and 3 more" in str(caught.value)


def test_an_up_target_without_engine_metrics_is_named(engine: Engine) -> None:
    engine.say("node_load1 0.5\n")
    with scrape(engine, labels=LABELS) as scraped:
        readings = scraped.look(0, DECODE)
    assert readings.by_key["decode"] == Reading("decode", targets=1, targets_up=1)
    assert "1 targets have no metrics of a known engine" in " ".join(readings.notes)


def test_no_targets_is_an_empty_reading_not_an_error() -> None:
    with Scraped([]) as scraped:
        readings = scraped.look(0, DECODE)
    assert readings.by_key["decode"] == Reading("decode", targets=0, targets_up=0)
    assert readings.queries == 0
    assert readings.notes == ("there are no targets to scrape",)


def test_hanging_targets_do_not_keep_the_others_from_being_seen() -> None:
    with engines(12) as made:
        healthy, hanging = made[8:], made[:8]
        with scrape(*made, timeout_s=2.0, target_timeout_s=1.0, concurrency=2) as scraped:
            assert only(scraped.look(0)).reporting == 12
            for one in hanging:
                hang(one)
            # 8 hanging for 1 s each, 2 at a time, take 4 s; a look ends after 2 s and finds out about 4
            readings = []
            for at in (10, 20, 30):
                with suppress(SourceError):
                    readings.append(only(scraped.look(at)))
            reading = readings[-1]
            assert reading.reporting == len(healthy)
            assert (reading.sampled_at, reading.targets, reading.targets_up) == (T0 + 30, 12, 4)


def test_at_most_the_allowed_number_of_requests_are_in_flight(engine: Engine) -> None:
    engine.hold.clear()
    targets = [Target(engine.url, {"pod": str(n)}) for n in range(20)]
    with Scraped(targets, concurrency=3) as scraped:
        reader = threading.Thread(target=scraped.look)
        reader.start()
        wait_for(lambda: engine.at_once == 3)
        engine.hold.set()
        reader.join()
        assert only(scraped.look(1)).reporting == 20
    assert engine.most_at_once == 3


# --- the wire --------------------------------------------------------------------------------------------------------


def test_gzip_and_headers(engine: Engine) -> None:
    engine.headers = {"Content-Encoding": "gzip"}
    engine.body = gzip.compress(page(running=7).encode())
    with scrape(engine, headers={"Authorization": "Bearer t0ken"}) as scraped:
        assert only(scraped.look()).signals[Signal.RUNNING] == 7
    (_, headers), *_ = engine.requests
    assert headers["Authorization"] == "Bearer t0ken"
    assert "gzip" in headers["Accept-Encoding"]


def test_prometheus_client_servers_are_not_talked_into_renaming_their_metrics() -> None:
    # asked for OpenMetrics, this server would answer vllm_num_requests_running
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "running", ["engine"], registry=registry).labels("0").set(3)
    Counter("vllm:generation_tokens", "tokens", ["engine"], registry=registry).labels("0").inc(60)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        with Scraped([Target(f"http://127.0.0.1:{server.server_port}/metrics")]) as scraped:
            assert only(scraped.look()).signals[Signal.RUNNING] == 3
            (state,) = scraped.source._states.values()
            assert {key[0] for view in state.views for key in view.series()} == {"vllm:generation_tokens_total"}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_openmetrics_and_underscored_names_are_understood(engine: Engine) -> None:
    engine.headers = {"Content-Type": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
    engine.say(f'vllm_num_requests_running{{engine="0"}} 3 {T0 - 2}\n# EOF\n')
    with scrape(engine) as scraped:
        reading = only(scraped.look())
    assert (reading.signals[Signal.RUNNING], reading.sampled_at) == (3.0, T0 - 2)


# --- engines, groups, labels -----------------------------------------------------------------------------------------


def test_two_data_parallel_engines_behind_one_target(engine: Engine) -> None:
    both = page(running=4, tokens=100) + page(running=2, tokens=300, engine="1").replace("0.25", "0.75")
    engine.say(both)
    with scrape(engine) as scraped:
        scraped.look(0)
        engine.say(both.replace("} 100\n", "} 700\n").replace("} 300\n", "} 1500\n"))
        reading = only(scraped.look(60))
    assert (reading.reporting, reading.rate_engines, reading.replicas_reporting, reading.targets) == (2, 2, 1, 1)
    assert reading.signals[Signal.RUNNING] == 6
    assert reading.signals[Signal.KV_USAGE] == 0.5
    assert reading.signals[Signal.KV_USAGE_MAX] == 0.75
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx((600 + 1200) / 60)


def test_tensor_parallel_ranks_say_the_same_thing_and_count_once(engine: Engine) -> None:
    engine.say(
        "".join(
            f'sglang:num_running_reqs{{model_name="q",dp_rank="{dp}",tp_rank="{tp}"}} {3 + dp}\n'
            f'sglang:token_usage{{model_name="q",dp_rank="{dp}",tp_rank="{tp}"}} {0.2 + 0.4 * dp}\n'
            for dp in (0, 1)
            for tp in (0, 1)
        )
    )
    with scrape(engine) as scraped:
        reading = only(scraped.look())
    assert (reading.reporting, reading.replicas_reporting, reading.engines) == (2, 1, ("sglang",))
    assert reading.signals[Signal.RUNNING] == 3 + 4
    assert reading.signals[Signal.KV_USAGE] == pytest.approx((0.2 + 0.6) / 2)
    assert reading.signals[Signal.KV_USAGE_MAX] == pytest.approx(0.6)


def test_old_and_new_names_in_one_fleet() -> None:
    with engines(2) as (new, old):
        old.say(page().replace("kv_cache_usage_perc", "gpu_cache_usage_perc").replace("0.25", "0.75"))
        with scrape(new, old) as scraped:
            assert only(scraped.look()).signals[Signal.KV_USAGE] == 0.5


def test_a_worker_that_repeats_its_engine_is_counted_once(engine: Engine) -> None:
    engine.say(page(running=4) + 'dynamo_component_gpu_cache_usage_percent{model="llama"} 0.9\n')
    with scrape(engine) as scraped:
        reading = only(scraped.look())
    assert (reading.reporting, reading.engines, reading.signals[Signal.KV_USAGE]) == (1, ("vllm",), 0.25)


def test_a_gateway_gives_its_queue_and_is_no_engine(engine: Engine) -> None:
    engine.say(
        'llm_d_epp_flow_control_queue_size{inference_pool="chat",priority="0"} 5\n'
        'llm_d_epp_flow_control_queue_size{inference_pool="chat",priority="1"} 2\n'
        'llm_d_epp_flow_control_queue_size{inference_pool="other",priority="0"} 9\n'
        'inference_extension_flow_control_queue_size{inference_pool="chat",priority="0"} 5\n'
    )
    with scrape(engine) as scraped:
        reading = scraped.look(0, Group("chat", {"inference_pool": "chat"})).by_key["chat"]
    assert reading.signals == {Signal.GATEWAY_QUEUE: 7.0}
    assert (reading.reporting, reading.engines, reading.sampled_at) == (0, (), None)


def test_groups_match_on_target_labels_and_exposed_labels() -> None:
    with engines(3) as (a, b, c):
        b.say(page(running=2))
        c.say(page(running=4, model="qwen"))
        targets = [
            Target(a.url, {"pool": "chat", "role": "prefill"}),
            Target(b.url, {"pool": "chat", "role": "decode"}),
            Target(c.url, {"pool": "chat", "role": "decode"}),
        ]
        groups = (
            Group("qwen", {"model_name": "qwen"}),
            Group("decode", {"role": "decode", "pool": "chat"}),
            Group("llama decode", {"role": "decode", "model_name": "llama"}),
            Group("typo", {"pool": "chat", "model_name": "lama"}),
            Group("nowhere", {"pool": "code"}),
            Group("here", {"instance": f"127.0.0.1:{a.port}"}),
        )
        with Scraped(targets) as scraped:
            found = scraped.look(0, *groups).by_key
    assert list(found) == [group.key for group in groups]
    running = {key: reading.signals.get(Signal.RUNNING) for key, reading in found.items()}
    assert running == {"qwen": 4, "decode": 6, "llama decode": 2, "typo": None, "nowhere": None, "here": 1}
    counts = {key: (reading.reporting, reading.targets) for key, reading in found.items()}
    # a misspelt model_name: three targets of that pool are up, and none of their engines speaks of it
    assert counts["typo"] == (0, 3)
    assert counts["decode"] == (2, 2)
    assert counts["nowhere"] == (0, 0)
    assert counts["qwen"] == (1, 1)


def test_without_target_labels_a_silent_target_could_be_anyones() -> None:
    with engines(2) as (answering, failing):
        failing.status = 500
        with scrape(answering, failing) as scraped:
            reading = scraped.look(0, Group("llama", {"model_name": "llama"})).by_key["llama"]
    assert (reading.reporting, reading.targets, reading.targets_up) == (1, None, None)


def test_target_labels_win_and_the_exposed_ones_are_renamed(engine: Engine) -> None:
    assert with_target_labels({"pod": "x", "exported_pod": "y", "a": "b"}, {"pod": "p"}) == {
        "pod": "p",
        "exported_exported_pod": "x",
        "exported_pod": "y",
        "a": "b",
    }
    with scrape(engine, labels={"model_name": "served-as"}) as scraped:
        found = scraped.look(
            0, Group("mine", {"model_name": "served-as"}), Group("its", {"exported_model_name": "llama"})
        ).by_key
    assert (found["mine"].reporting, found["its"].reporting) == (1, 1)


def test_a_target_that_leaves_the_list_is_forgotten() -> None:
    with engines(2) as made:
        listed = [Target(one.url) for one in made]
        with Scraped(lambda: list(listed)) as scraped:
            assert only(scraped.look(0)).reporting == 2
            gone = listed.pop()
            assert only(scraped.look(10)).reporting == 1
            assert len(scraped.source._states) == 1
            listed.append(gone)
            # it is back, but as a stranger: one engine has a rate, not two
            assert (only(scraped.look(20)).reporting, only(scraped.look(20)).rate_engines) == (2, 1)


# --- background, threads, closing ------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def test_scraping_in_the_background_gives_rates_without_reads(engine: Engine) -> None:
    with scrape(engine, interval_s=0.02) as scraped:
        scraped.source.read(T0, (ALL,))
        seen = len(engine.requests)
        engine.say(page(tokens=500))
        scraped.now = T0 + 60
        wait_for(lambda: len(engine.requests) > seen + 2)
        reading = only(scraped.source.read(T0 + 60, (ALL,)))
        assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(500 / 60)
        engine.status = 500

        def blind() -> bool:
            try:
                scraped.source.read(T0 + 60, (ALL,))
            except SourceError:
                return True
            return False

        wait_for(blind)
        engine.status = 200
        wait_for(lambda: not blind())


def test_a_list_that_cannot_be_had_is_an_error_until_it_can(engine: Engine) -> None:
    troubles: list[Exception] = [SourceError("file gone"), RuntimeError("bug in a plug-in")]

    def lister() -> list[Target]:
        if troubles:
            raise troubles.pop()
        return [Target(engine.url)]

    with Scraped(lister) as scraped:
        with pytest.raises(SourceError, match="bug in a plug-in"):
            scraped.look(0)
        with pytest.raises(SourceError, match="file gone"):
            scraped.look(1)
        assert only(scraped.look(2)).reporting == 1


@pytest.mark.parametrize("interval_s", [None, 0.05])
def test_closing_leaves_no_thread_and_no_socket(interval_s: float | None) -> None:
    with engines(3) as made:
        made[0].hold.clear()  # one is in the middle of a request
        scraped = scrape(*made, interval_s=interval_s, timeout_s=30.0)
        outcome: list[object] = []

        def read() -> None:
            try:
                outcome.append(scraped.look())
            except SourceError as error:
                outcome.append(str(error))

        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: made[0].at_once)
        ports = {one.port for one in made}

        def ours() -> list[object]:
            connections = psutil.Process().net_connections("tcp")
            return [c for c in connections if getattr(c.raddr, "port", None) in ports]

        assert ours()
        scraped.source.close()
        scraped.source.close()
        reader.join()
        assert "closed" in str(outcome[0])
        assert not ours()
        assert not [thread for thread in threading.enumerate() if thread.name == "tidegate-scrape"]
        with pytest.raises(SourceError, match="closed"):
            scraped.look()


def test_several_threads_may_read_at_once(engine: Engine) -> None:
    with scrape(engine, concurrency=2) as scraped:
        found: list[Readings] = []
        threads = [threading.Thread(target=lambda: found.append(scraped.look())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [only(readings).reporting for readings in found] == [1] * 8
    assert engine.most_at_once <= 2


@pytest.mark.parametrize("name", ["window_s", "timeout_s", "concurrency", "interval_s", "max_body_bytes"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_options_that_make_no_sense_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive number"):
        ScrapeOptions(**{name: value})  # type: ignore[arg-type] # wrong on purpose


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["", "10.0.0.1:8000", "ftp://a/metrics", "http:///metrics", "http://a:99999/", "http://["]
)
def test_a_url_that_cannot_be_scraped_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="target url"):
        static_targets([url])


def test_instance_is_host_and_port_and_messages_hide_credentials() -> None:
    assert Target("http://u:secret@10.0.0.1:8000/m?k=v").all_labels == {"instance": "10.0.0.1:8000"}
    assert Target("http://u:secret@10.0.0.1:8000/m?k=v").shown == "http://10.0.0.1:8000/m"
    assert Target("https://[::1]/m", {"a": "b"}).all_labels == {"instance": "[::1]:443", "a": "b"}
    assert Target("http://a/m", {"instance": "x"}).all_labels == {"instance": "x"}


FILE_SD = [
    {"targets": ["a:1", "b:2"], "labels": {"pool": "chat", "__metrics_path__": "/prom", "__scheme__": "https"}},
    {"targets": ["c:3"], "labels": {"__param_module": "x y"}},
    {"targets": []},
]


@pytest.mark.parametrize(("name", "dump"), [("t.json", json.dumps), ("t.yml", yaml.safe_dump)])
def test_file_sd(tmp_path: Path, name: str, dump: Callable[[object], str]) -> None:
    path = tmp_path / name
    path.write_text(dump(FILE_SD))
    assert list(FileTargets(path)()) == [
        Target("https://a:1/prom", {"pool": "chat"}),
        Target("https://b:2/prom", {"pool": "chat"}),
        Target("http://c:3/metrics?module=x+y"),
    ]


def test_a_target_file_is_read_again_and_survives_half_written_ones(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    path.write_text(json.dumps(FILE_SD[1:]))
    targets = FileTargets(path)
    before = targets()
    assert len(before) == 1
    for broken in ("", json.dumps(FILE_SD)[:40], '{"targets": []}', '[{"targets": "a:1"}]'):
        path.write_text(broken)
        assert targets() == before
        (note,) = targets.notes
        assert str(path) in note
        assert "keeping the last good list of 1" in note
    path.unlink()
    assert targets() == before
    assert "No such file" in targets.notes[0]
    path.write_text(json.dumps(FILE_SD))
    assert len(targets()) == 3
    assert targets.notes == ()
    path.write_text("[]")
    assert list(targets()) == []


def test_notes_of_the_target_file_reach_the_reading(tmp_path: Path, engine: Engine) -> None:
    path = tmp_path / "targets.json"
    path.write_text(json.dumps([{"targets": [f"127.0.0.1:{engine.port}"]}]))
    with Scraped(FileTargets(path)) as scraped:  # type: ignore[arg-type] # any sequence will do
        assert scraped.look(0).notes == ()
        path.write_text("[")
        readings = scraped.look(1)
    assert only(readings).reporting == 1
    assert "keeping the last good list" in readings.notes[0]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"targets": []}, "must hold a list"),
        (["a:1"], r"\[0\] must be"),
        ([{"targets": [1]}], r"\[0\].targets must be strings"),
        ([{"targets": []}, {"targets": ["a:1"], "labels": {"shard": 1}}], r"\[1\].labels must map names to strings"),
        ([{"targets": ["a:b:c"]}], r"\[0\].targets: target url 'http://a:b:c/metrics'"),
    ],
)
def test_a_first_file_that_is_wrong_is_an_error_that_says_where(tmp_path: Path, document: object, words: str) -> None:
    path = tmp_path / "targets.json"
    path.write_text(json.dumps(document))
    with pytest.raises(SourceError, match=words) as caught:
        FileTargets(path)()
    assert str(path) in str(caught.value)


# --- rates, held against Prometheus itself ---------------------------------------------------------------------------

STEPS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 500)), min_size=1, max_size=30)


def series_of(points: list[tuple[float, float]], window_s: float) -> CounterSeries:
    series = CounterSeries()
    for at, value in points:
        series.add(at, value, window_s)
    return series


@given(STEPS)
def test_a_counter_that_never_falls_has_no_negative_rate_and_a_restart_adds_none(steps: list[tuple[int, int]]) -> None:
    at, value, points = 0.0, 0.0, [(0.0, 0.0)]
    for gap, grown in steps:
        at, value = at + gap, value + grown
        points.append((at, value))
    straight = series_of(points, 60).rate(at, 60)
    assert straight is None or straight >= 0
    # the same growth, told by a counter that restarts once with nothing lost: same increase
    half = len(points) // 2  # at least 1
    restarted = points[:half] + [(t, v - points[half - 1][1]) for t, v in points[half:]]
    if restarted[half][1] < points[half - 1][1]:
        again = series_of(restarted, 1e9).rate(at, 1e9)
        assert again == pytest.approx(series_of(points, 1e9).rate(at, 1e9))


def test_memory_of_one_counter_is_bounded_and_its_rate_stays_right() -> None:
    series = series_of([(n * 0.01, n * 0.05) for n in range(30_000)], 60.0)
    assert len(series._times) <= 260
    assert series.rate(299.99, 60.0) == pytest.approx(5.0, rel=0.01)


def test_a_clock_set_back_starts_the_history_anew() -> None:
    series = series_of([(100.0, 5.0), (110.0, 6.0), (20.0, 7.0)], 60.0)
    assert series.rate(20.0, 60.0) is None
    series.add(20.0, 9.0, 60.0)  # the same time twice: the first counts
    series.add(80.0, 13.0, 60.0)
    assert series.rate(80.0, 60.0) == pytest.approx(6 / 60)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "values",
    [
        "0 10 20 30 40 50 60",
        "1000 1010 1020 1030 1040 1050 1060",
        "500 600 700 5 105 205 305",
        "_ _ _ 100 150 175 190",
        "7 _ _ 10 _ _ 40",
        "_ _ _ _ _ 3 900",
        "90 80 70 60 50 40 30",
        "100 200 300 _ _ _ _",
        "4 4 4 4 4 4 4",
    ],
)
def test_rates_equal_those_of_a_real_prometheus(tmp_path: Path, values: str) -> None:
    points = [(n * 10.0, float(value)) for n, value in enumerate(values.split()) if value != "_"]
    mine = series_of(points, 60.0).rate(60.0, 60.0)
    assert mine is not None
    test = {
        "evaluation_interval": "10s",
        "tests": [
            {
                "interval": "10s",
                "input_series": [{"series": "x", "values": values}],
                "promql_expr_test": [
                    {
                        "expr": f"abs(rate(x[60s]) - {mine!r}) < bool 1e-9",
                        "eval_time": "60s",
                        "exp_samples": [{"labels": "{}", "value": 1}],
                    }
                ],
            }
        ],
    }
    path = tmp_path / "rates.yml"
    path.write_text(yaml.safe_dump(test))
    outcome = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_no_recipe_mixes_gauges_and_counters() -> None:
    # levels are reckoned when scraped and rates when read; a recipe is one or the other
    for vocabulary in VOCABULARIES:
        for recipes in vocabulary.recipes.values():
            for recipe in recipes:
                assert len({term.kind for term in recipe.terms}) == 1, recipe
