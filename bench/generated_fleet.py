"""A generated fleet: any number of pools of vLLM V1 replicas behind a few scrape targets, their counters really moving.

    python bench/generated_fleet.py --pools 1000 --replicas 8

prints the port it serves on and runs until its standard input ends. 8,000 real targets would cost Prometheus a
connection each; here a replica is told apart by its own `pod` and `instance` labels instead (`honor_labels: true`), and
its `up` is one of the series. `/shard/K` holds every SHARDS-th pool. Only names that a reader may ask for are served.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARDS = 16
SWING, SWING_S = 0.3, 900.0
"""Each pool's load goes up and down by this share, with this period (seconds) and a phase of its own."""
PROMPT, CACHED, OUTPUT = 1000.0, 200.0, 200.0
"""Tokens of a request: prompt, those of it that hit the prefix cache, output."""
STEP_S = 0.012
"""Seconds of an iteration."""
KV_TOKENS, KV_BYTES = 400_000, 131_072
"""KV tokens of an engine, and bytes of one KV token."""

COUNTERS: tuple[tuple[str, str, float, float], ...] = (
    # name, further labels, amount per request on the prefill side, and on the decode side
    ("prompt_tokens_total", "", PROMPT, PROMPT),
    ("prompt_tokens_by_source_total", 'source="local_compute"', PROMPT - CACHED, 0.0),
    ("prompt_tokens_by_source_total", 'source="local_cache_hit"', CACHED, 0.0),
    ("prompt_tokens_by_source_total", 'source="external_kv_transfer"', 0.0, PROMPT),
    ("prompt_tokens_cached_total", "", CACHED, PROMPT),
    ("prefix_cache_hits_total", "", CACHED, 0.0),
    ("external_prefix_cache_hits_total", "", 0.0, PROMPT),
    ("generation_tokens_total", "", 1.0, OUTPUT - 1.0),
    ("time_to_first_token_seconds_count", "", 1.0, 1.0),
    ("time_to_first_token_seconds_sum", "", 0.08, 0.1),
    ("e2e_request_latency_seconds_count", "", 1.0, 1.0),
    ("e2e_request_latency_seconds_sum", "", 0.1, 0.1 + OUTPUT * STEP_S),
    ("request_success_total", 'finished_reason="stop"', 0.9, 0.9),
    ("request_success_total", 'finished_reason="length"', 0.1, 0.1),
    ("request_prefill_time_seconds_count", "", 1.0, 1.0),
    ("request_prefill_time_seconds_sum", "", 0.05, 0.01),
    ("request_queue_time_seconds_count", "", 1.0, 1.0),
    ("request_queue_time_seconds_sum", "", 0.02, 0.01),
    ("inter_token_latency_seconds_count", "", 0.0, OUTPUT - 1.0),
    ("inter_token_latency_seconds_sum", "", 0.0, (OUTPUT - 1.0) * STEP_S),
    ("iteration_tokens_total_count", "", 1.0, 4.0),
    ("iteration_tokens_total_sum", "", PROMPT - CACHED, OUTPUT),
    ("num_preemptions_total", "", 0.001, 0.001),
    ("nixl_bytes_transferred_sum", "", 0.0, PROMPT * KV_BYTES),
    ("nixl_xfer_time_seconds_sum", "", 0.0, 0.01),
)
GAUGES: tuple[tuple[str, str, float, float], ...] = (
    # name, further labels, value per request/s, value at rest
    ("num_requests_running", "", OUTPUT * STEP_S, 0.0),
    ("num_requests_waiting", "", 0.1, 0.0),
    ("num_requests_waiting_by_reason", 'reason="capacity"', 0.1, 0.0),
    ("num_requests_waiting_by_reason", 'reason="deferred"', 0.0, 0.0),
    ("kv_cache_usage_perc", "", OUTPUT * STEP_S * (PROMPT + OUTPUT / 2) / KV_TOKENS, 0.0),
    ("engine_sleep_state", 'sleep_state="awake"', 0.0, 1.0),
    ("engine_sleep_state", 'sleep_state="weights_offloaded"', 0.0, 0.0),
    ("engine_sleep_state", 'sleep_state="discard_all"', 0.0, 0.0),
)
INFO = f'block_size="16",num_gpu_blocks="{KV_TOKENS // 16}",kv_cache_size_tokens="{KV_TOKENS}"'


@dataclass(frozen=True, slots=True)
class Fleet:
    """What to generate.

    Attributes:
        pools: how many. replicas: engines of each; half prefill and half decode when `disaggregated`.
        load: requests/s of one replica on average.
    """

    pools: int
    replicas: int
    disaggregated: bool
    load: float

    def labels(self, pool: int, replica: int) -> dict[str, str]:
        """Labels of a replica as a scrape of its pod would give them."""
        name = pool_name(pool)
        role = {"role": self.role(replica)} if self.disaggregated else {}
        address = f"10.{pool // 250}.{pool % 250}.{replica + 1}:8000"
        return {"namespace": namespace(pool), "pool": name, "pod": f"{name}-{replica}", "instance": address, **role}

    def role(self, replica: int) -> str:
        """`prefill` for the first half of the replicas, `decode` for the rest."""
        return "prefill" if replica < self.replicas // 2 else "decode"


def pool_name(pool: int) -> str:
    """`pool-0007`."""
    return f"pool-{pool:04d}"


def namespace(pool: int) -> str:
    """One of twenty namespaces."""
    return f"team-{pool % 20:02d}"


class Shard:
    """One scrape target's text: a template made once, and the numbers that go into it."""

    def __init__(self, fleet: Fleet, shard: int) -> None:
        pools = range(shard, fleet.pools, SHARDS)
        lines: list[str] = []
        per_request: list[float] = []
        at_rest: list[float] = []
        counts: list[bool] = []
        phases: list[float] = []
        for pool in pools:
            for replica in range(fleet.replicas):
                for name, rate, rest, counter in self._series(fleet, pool, replica):
                    lines.append(name)
                    per_request.append(rate)
                    at_rest.append(rest)
                    counts.append(counter)
                    phases.append(2 * math.pi * pool * 0.618)
        self._template = " %.10g\n".join([*lines, ""])
        self._rate = np.array(per_request) * fleet.load
        self._rest, self._counts, self._phase = np.array(at_rest), np.array(counts, dtype=bool), np.array(phases)

    @staticmethod
    def _series(fleet: Fleet, pool: int, replica: int) -> Iterator[tuple[str, float, float, bool]]:
        """Each series: name with labels, amount per request, value at rest, whether it is a counter."""
        place = ",".join(f'{name}="{value}"' for name, value in fleet.labels(pool, replica).items())
        own = f'{place},engine="0",model_name="model-{pool:04d}"'
        sides = (1.0, 1.0)
        if fleet.disaggregated:
            sides = (1.0, 0.0) if fleet.role(replica) == "prefill" else (0.0, 1.0)
        yield f"up{{{place}}}", 0.0, 1.0, False
        yield f'vllm:cache_config_info{{{place},engine="0",{INFO}}}', 0.0, 1.0, False
        for name, more, per_request, rest in GAUGES:
            yield f"vllm:{name}{{{own}{',' * bool(more)}{more}}}", per_request, rest, False
        for name, more, prefill, decode in COUNTERS:
            if fleet.disaggregated:
                amount = prefill * sides[0] + decode * sides[1]
            elif name.startswith("nixl"):
                continue
            elif "external" in name + more:
                amount = 0.0
            else:
                amount = _colocated(name, prefill, decode)
            yield f"vllm:{name}{{{own}{',' * bool(more)}{more}}}", amount, 0.0, True

    def text(self, since: float) -> str:
        """The exposition `since` seconds after the start."""
        turn = 2 * math.pi * since / SWING_S
        now = 1.0 + SWING * np.sin(turn + self._phase)
        so_far = since + SWING * SWING_S / (2 * math.pi) * (np.cos(self._phase) - np.cos(turn + self._phase))
        values = self._rest + self._rate * np.where(self._counts, so_far, now)
        return self._template % tuple(values.tolist())


def _colocated(name: str, prefill: float, decode: float) -> float:
    """What one engine that does both counts per request: tokens add up, a request is still one."""
    if name in {"generation_tokens_total", "iteration_tokens_total_sum"}:
        return prefill + decode
    return prefill if name.startswith(("prompt", "prefix")) else max(prefill, decode)


def serve(fleet: Fleet) -> None:
    """Serve until standard input ends; the port is printed first."""
    began = time.monotonic()
    shards = [Shard(fleet, shard) for shard in range(min(SHARDS, fleet.pools))]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """One shard."""
            body = shards[int(self.path.rpartition("/")[2])].text(time.monotonic() - began).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # Prometheus may end in the middle of a scrape
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A line per scrape says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()
    server.shutdown()
    server.server_close()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=int, required=True)
    parser.add_argument("--replicas", type=int, required=True)
    parser.add_argument("--disaggregated", action="store_true")
    parser.add_argument("--load", type=float, default=20.0, help="requests/s of one replica")
    given = parser.parse_args()
    serve(Fleet(given.pools, given.replicas, given.disaggregated, given.load))


if __name__ == "__main__":
    main()
