"""Readings of a real Prometheus that scrapes real targets: staleness markers, vanished replicas, restarts."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from metrics_adapter.prometheus import PrometheusAccess, PrometheusSource
from metrics_adapter.signals import Group, Reading, Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 60.0


class Replica:
    """A target that publishes like vLLM and generates `rate` tokens per second while it is up."""

    def __init__(self, rate: float) -> None:
        self.up = True
        self.born = time.monotonic()
        replica = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                tokens = rate * (time.monotonic() - replica.born)
                labels = '{engine="0",model_name="m"}'
                body = (
                    f"vllm:num_requests_running{labels} 2\n"
                    f"vllm:kv_cache_usage_perc{labels} 0.5\n"
                    f"vllm:generation_tokens_total{labels} {tokens}\n"
                ).encode()
                self.send_response(200 if replica.up else 503)
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

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def replicas() -> Iterator[list[Replica]]:
    made = [Replica(100.0), Replica(100.0)]
    yield made
    for replica in made:
        replica.stop()


def config(replicas: list[Replica]) -> str:
    targets = "".join(
        f"      - {{targets: ['{r.address}'], labels: {{pool: p, pod: p-{i}}}}}\n" for i, r in enumerate(replicas)
    )
    return (
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        f"scrape_configs:\n  - job_name: llm\n    static_configs:\n{targets}"
    )


def until(source: PrometheusSource, holds: Callable[[Reading], bool]) -> Reading:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        reading = source.read(time.time(), [Group("p", {"pool": "p"})]).by_key["p"]
        if holds(reading):
            return reading
        assert time.monotonic() < deadline, f"still {reading}"
        time.sleep(0.2)


def test_a_vanished_replica_leaves_levels_and_rates_at_once(
    prometheus_server: Callable[..., Any], replicas: list[Replica]
) -> None:
    server = prometheus_server(config(replicas))
    source = PrometheusSource(PrometheusAccess(server.url, timeout_s=30), window_s=15, max_age_s=20)
    try:
        # 200 tokens/s once the samples fill the window
        both = until(source, lambda r: r.signals.get(Signal.GENERATION_RATE, 0) > 170)
        assert both.rate_engines == 2
        assert (both.reporting, both.targets, both.targets_up, both.stale) == (2, 2, 2, 0)
        assert both.signals[Signal.RUNNING] == 4.0
        replicas[1].up = False
        one = until(source, lambda r: r.reporting == 1)
        # its samples stay in the 15 s window, its rate must not linger: 100 tokens/s of the other one, not near 200
        assert one.signals[Signal.GENERATION_RATE] == pytest.approx(100.0, rel=0.3)
        assert one.rate_engines == 1
        assert (one.targets, one.targets_up, one.stale, one.replicas_reporting) == (2, 1, 0, 1)
        assert one.signals[Signal.RUNNING] == 2.0
        replicas[1].up = True
        until(source, lambda r: r.reporting == 2)
    finally:
        source.close()
        server.stop()


def test_a_stopped_server_is_an_error_and_a_restarted_one_is_read_again(
    prometheus_server: Callable[..., Any], replicas: list[Replica]
) -> None:
    server = prometheus_server(config(replicas))
    source = PrometheusSource(PrometheusAccess(server.url, timeout_s=10, backoff_s=0.01))
    try:
        until(source, lambda r: r.reporting == 2)
        assert source.server_time() == pytest.approx(time.time(), abs=30)
        server.stop()
        with pytest.raises(SourceError, match="cannot be reached"):
            source.read(time.time(), [Group("p", {"pool": "p"})])
        server.start()
        until(source, lambda r: r.reporting == 2)
    finally:
        source.close()
        server.stop()
