"""Engines that answer as vLLM does over HTTP: metrics, sleep, wake, is_sleeping. One per loopback address, one port."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{model_name="m",engine="0"}} {requests}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{model_name="m",engine="0"}} 0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{model_name="m",engine="0"}} {usage}
# TYPE vllm:prefix_cache_queries counter
vllm:prefix_cache_queries_total{{model_name="m",engine="0"}} 1000
# TYPE vllm:prefix_cache_hits counter
vllm:prefix_cache_hits_total{{model_name="m",engine="0"}} {hits}
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",num_gpu_blocks="6250",engine="0"}} 1
"""
CAPACITY = 16 * 6250
"""KV tokens: 100,000."""


@dataclass
class Engine:
    """One engine. hits: of 1,000 queried tokens. slow_s: how long sleeping and waking take. broken: status it answers.

    asked: what it was told, in order, such as `sleep 1`.
    """

    address: str
    requests: int = 0
    usage: float = 0.0
    hits: int = 0
    asleep: bool = False
    slow_s: float = 0.0
    broken: int = 0
    asked: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    engine: ClassVar[Engine]

    def do_GET(self) -> None:
        one = self.engine
        if self.path == "/metrics":
            self._answer(200, METRICS.format(requests=one.requests, usage=one.usage, hits=one.hits))
        elif self.path == "/is_sleeping":
            self._answer(200, json.dumps({"is_sleeping": one.asleep}))
        else:
            self._answer(404, "{}")

    def do_POST(self) -> None:
        one, parts = self.engine, urlsplit(self.path)
        if one.broken:
            self._answer(one.broken, "{}")
            return
        if parts.path not in {"/sleep", "/wake_up"}:
            self._answer(404, "{}")
            return
        level = parse_qs(parts.query).get("level", ["1"])[0]
        one.asked.append(f"sleep {level}" if parts.path == "/sleep" else "wake_up")
        time.sleep(one.slow_s)
        one.asleep = parts.path == "/sleep"
        self._answer(200, "")

    def _answer(self, code: int, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silence."""


@contextmanager
def engines(count: int) -> Iterator[tuple[int, list[Engine]]]:
    """(port, engines) at 127.0.0.2 and on."""
    found = [Engine(f"127.0.0.{number + 2}") for number in range(count)]
    for _ in range(20):
        try:
            servers = _bound(found)
        except OSError:
            continue  # the port that is free at one address is taken at another
        break
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
            thread = Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield int(servers[0].server_address[1]), found


def _bound(found: list[Engine]) -> list[ThreadingHTTPServer]:
    servers: list[ThreadingHTTPServer] = []
    try:
        for one in found:
            handler = type("Handler", (_Handler,), {"engine": one})
            port = servers[0].server_address[1] if servers else 0
            servers.append(ThreadingHTTPServer((one.address, int(port)), handler))
            servers[-1].daemon_threads = True
    except OSError:
        for server in servers:
            server.server_close()
        raise
    return servers
