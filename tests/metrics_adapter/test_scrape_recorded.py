"""A real vLLM 0.32's recorded `/metrics` pages, served from loopback one after the other, and what they mean.

Every page is served exactly one window (60 s) after the one before, so that both samples of a counter lie on the
window's edges, nothing is extrapolated, and a rate is plainly (later - earlier) / 60.
"""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metrics_adapter.exposition_text import parse_exposition
from metrics_adapter.scrape import ScrapeSource
from metrics_adapter.scrape_http import ScrapeOptions
from metrics_adapter.scrape_targets import Target
from metrics_adapter.signals import Group, Reading, Signal

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "vllm_cpu"
pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"the recorded vLLM pages are not at {RECORDED}")

T0 = 1_800_000_000.0
WINDOW = 60.0
PAGES = (
    "metrics/00_startup_idle_no_requests",
    "metrics/01_idle_after_1_request",
    "metrics/02_moderate_load",
    "metrics/03_saturation_1",
    "metrics/03_saturation_4",
    "metrics/04_after_load",
    "metrics/05_after_3_client_aborts",
    "metrics/06_all_optional_flags_tiny",
    "metrics/07_data_parallel_2_tiny",
    "pd/nixl_D_load",
    "pd/nixl_D_after",
    "pd/nixl_P_load",
    "pd/nixl_P_after",
    "pd/nixl_P_unfetched",
)


def page(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text(encoding="utf-8")


@contextmanager
def served() -> Iterator[tuple[int, dict[str, str]]]:
    """A server whose pages are whatever the dictionary holds for a path."""
    pages: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages[self.path].encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_address[1], pages
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def play(*looks: dict[str, str], group: dict[str, str] | None = None) -> Reading:
    """Serve role -> page for each look, a window apart; the last look's reading."""
    with served() as (port, pages):
        targets = [Target(f"http://127.0.0.1:{port}/{role}", {"role": role}) for role in looks[0]]
        clock = {"now": T0}
        source = ScrapeSource(lambda: targets, ScrapeOptions(window_s=WINDOW), clock=lambda: clock["now"])
        try:
            for number, look in enumerate(looks):
                pages.update({f"/{role}": text for role, text in look.items()})
                clock["now"] = T0 + number * WINDOW
                readings = source.read(clock["now"], (Group("all", group or {}),))
            assert readings.notes == ()
            return readings.by_key["all"]
        finally:
            source.close()


def one(*names: str) -> Reading:
    return play(*({"engine": page(name)} for name in names))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_reads_as_prometheus_client_reads_it(name: str) -> None:
    text = page(name)
    theirs = {
        (sample.name, tuple(sorted(sample.labels.items()))): repr(float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert {(s.name, s.labels): repr(s.value) for s in parse_exposition(text.encode())} == theirs


@pytest.mark.parametrize(
    ("name", "running", "waiting", "kv_usage", "capacity"),
    [
        ("metrics/00_startup_idle_no_requests", 0, 0, 0.0, 8192),
        ("metrics/01_idle_after_1_request", 0, 0, 0.0, 8192),
        ("metrics/02_moderate_load", 4, 0, 0.14901960784313728, 8192),
        ("metrics/03_saturation_1", 12, 27, 0.8862745098039215, 8192),
        ("metrics/03_saturation_4", 10, 116, 0.8666666666666667, 8192),
        ("metrics/04_after_load", 0, 0, 0.0, 8192),
        ("metrics/05_after_3_client_aborts", 0, 0, 0.0, 8192),
        ("metrics/06_all_optional_flags_tiny", 0, 0, 0.0, 5120),
        ("pd/nixl_P_load", 0, 0, 0.019550342130987275, 32768),
        ("pd/nixl_D_load", 2, 0, 0.02052785923753664, 32768),
    ],
)
def test_levels(name: str, running: int, waiting: int, kv_usage: float, capacity: int) -> None:
    reading = one(name)
    assert reading.signals == {
        Signal.RUNNING: running,
        Signal.WAITING: waiting,
        Signal.KV_USAGE: pytest.approx(kv_usage),
        Signal.KV_USAGE_MAX: pytest.approx(kv_usage),
        Signal.KV_CAPACITY: capacity,
        Signal.SLEEPING: 0,
    }
    assert (reading.reporting, reading.replicas_reporting, reading.engines) == (1, 1, ("vllm",))
    assert (reading.rate_engines, reading.stale, reading.sampled_at) == (0, 0, T0)


def test_moderate_load_since_start_up() -> None:
    # from a fresh server's zeros: 43 requests ended and 4 more had their first token; 13,508 prompt tokens came in, of
    # which 2,560 were prefix hits; inter-token gaps are one fewer than tokens per request, 2,746 - 47 = 2,699
    reading = one("metrics/00_startup_idle_no_requests", "metrics/02_moderate_load")
    rates = {
        Signal.PROMPT_RATE: 13508,
        Signal.COMPUTED_PROMPT_RATE: 13508 - 2560,
        Signal.GENERATION_RATE: 2746,
        Signal.PREFILL_REQUEST_RATE: 47,
        Signal.COMPLETION_RATE: 43,
        Signal.PREFILL_BUSY: 7.654007721998823,
        Signal.ITL_BUSY: 160.76513441599946,
        Signal.ITL_TOKENS: 2699,
        Signal.TTFT_BUSY: 10.148684024810791,
        Signal.QUEUE_BUSY: 0.0005144820015630103,
        Signal.STEP_RATE: 715,
        Signal.STEP_TOKENS: 10948 + 2746,
        Signal.PREEMPTION_RATE: 0,
    }
    for signal, total in rates.items():
        assert reading.signals[signal] == pytest.approx(total / WINDOW), signal
    assert set(reading.signals) - set(rates) == {
        Signal.RUNNING,
        Signal.WAITING,
        Signal.KV_USAGE,
        Signal.KV_USAGE_MAX,
        Signal.KV_CAPACITY,
        Signal.SLEEPING,
    }
    assert reading.rate_engines == 1


def test_one_page_after_another_counts_what_came_between() -> None:
    reading = one(
        "metrics/00_startup_idle_no_requests",
        "metrics/01_idle_after_1_request",
        "metrics/02_moderate_load",
    )
    assert reading.signals[Signal.PROMPT_RATE] == pytest.approx((13508 - 200) / WINDOW)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx((2746 - 20) / WINDOW)
    assert reading.signals[Signal.PREFILL_REQUEST_RATE] == pytest.approx((47 - 1) / WINDOW)


def test_saturation_shows_as_waiting_preemptions_and_queue_time() -> None:
    reading = one("metrics/03_saturation_1", "metrics/03_saturation_4")
    assert reading.signals[Signal.WAITING] == 116
    assert reading.signals[Signal.PREEMPTION_RATE] == pytest.approx((10 - 2) / WINDOW)
    assert reading.signals[Signal.COMPLETION_RATE] == pytest.approx((88 - 65) / WINDOW)
    assert reading.signals[Signal.QUEUE_BUSY] == pytest.approx((127.09452502000204 - 1.1917313400008425) / WINDOW)
    # 7,530 - 4,864 = 2,666 gaps took 297.8 s: 0.1117 s each, under load
    itl = reading.signals[Signal.ITL_BUSY] / reading.signals[Signal.ITL_TOKENS]
    assert itl == pytest.approx((638.384947679996 - 341.1405997019956) / (7530 - 4864))


def test_aborted_requests_had_a_first_token_and_no_end() -> None:
    reading = one("metrics/04_after_load", "metrics/05_after_3_client_aborts")
    assert reading.signals[Signal.PREFILL_REQUEST_RATE] == pytest.approx(3 / WINDOW)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx((25185 - 25055) / WINDOW)
    assert reading.signals[Signal.COMPLETION_RATE] == 0


def test_a_restart_from_loaded_to_fresh_counts_from_zero() -> None:
    reading = one("metrics/05_after_3_client_aborts", "metrics/01_idle_after_1_request")
    assert reading.signals[Signal.PROMPT_RATE] == pytest.approx(200 / WINDOW)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(20 / WINDOW)


def test_two_data_parallel_engines_behind_one_port() -> None:
    text = page("metrics/07_data_parallel_2_tiny")
    counters = r"(?m)^(vllm:(?:prompt_tokens|generation_tokens|prompt_tokens_by_source)_total\{[^}]*\}) .*$"
    reading = play({"engine": re.sub(counters, r"\1 0.0", text)}, {"engine": text})
    assert (reading.reporting, reading.replicas_reporting, reading.rate_engines, reading.targets) == (2, 1, 2, 1)
    assert reading.signals[Signal.PROMPT_RATE] == pytest.approx((4200 + 5400) / WINDOW)
    assert reading.signals[Signal.COMPUTED_PROMPT_RATE] == pytest.approx((4200 + 5400) / WINDOW)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx((896 + 1152) / WINDOW)
    assert reading.signals[Signal.COMPLETION_RATE] == 0  # left as it was
    assert reading.signals[Signal.KV_CAPACITY] == 5120  # of one engine, though the page says num_gpu_blocks 320 x 32


def prefill_and_decode(role: str) -> Reading:
    before = {"prefill": page("pd/nixl_P_load"), "decode": page("pd/nixl_D_load")}
    after = {"prefill": page("pd/nixl_P_after"), "decode": page("pd/nixl_D_after")}
    return play(before, after, group={"role": role, "model_name": "small-llama"})


def test_the_prefill_half_of_a_nixl_pair_computes() -> None:
    reading = prefill_and_decode("prefill")
    assert (reading.reporting, reading.targets) == (1, 1)
    # 7 requests of 300 tokens; each generates the one token that ends its prefill
    assert reading.signals[Signal.PROMPT_RATE] == pytest.approx(7 * 300 / WINDOW)
    assert reading.signals[Signal.COMPUTED_PROMPT_RATE] == pytest.approx(7 * 300 / WINDOW)
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx(7 / WINDOW)
    assert reading.signals[Signal.PREFILL_BUSY] == pytest.approx((140.53643027601174 - 118.30428287001087) / WINDOW)
    assert reading.signals[Signal.TRANSFER_BYTES] == 0  # the decode side reads, and it counts


def test_the_decode_half_of_a_nixl_pair_receives_its_kv() -> None:
    reading = prefill_and_decode("decode")
    assert (reading.reporting, reading.targets) == (1, 1)
    assert reading.signals[Signal.PROMPT_RATE] == pytest.approx(7 * 300 / WINDOW)
    assert reading.signals[Signal.COMPUTED_PROMPT_RATE] == 0  # all of it came by external_kv_transfer
    assert reading.signals[Signal.GENERATION_RATE] == pytest.approx((1344 - 1098) / WINDOW)
    # 300 tokens fill 10 blocks of 32; a token's KV is 2 x 16 layers x 8 heads x 64 x 2 bytes = 32,768 bytes
    assert reading.signals[Signal.TRANSFER_BYTES] == pytest.approx(7 * 10 * 32 * 32768 / WINDOW)
    assert reading.signals[Signal.TRANSFER_BUSY] == pytest.approx((19.709147 - 18.275944) / WINDOW)


def test_kv_fetch_stages_are_there_to_be_read() -> None:
    name = "vllm:num_requests_kv_fetch_by_stage"
    stages = {dict(s.labels)["stage"]: s.value for s in parse_exposition(page("pd/nixl_D_load").encode(), {name})}
    assert stages == {"waiting_to_start": 0, "in_progress": 0, "completed_waiting": 0}
    assert parse_exposition(page("pd/nixl_P_load").encode(), {name}) == []  # a prefill engine fetches nothing
