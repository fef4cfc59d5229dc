"""One engine under a steady load, as vLLM's metrics tell it: what `tidegate run` needs for a decision of its own."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{model_name="m"}} {running}
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{model_name="m"}} 0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{model_name="m"}} 0.2
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{{model_name="m"}} {prompt}
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{{model_name="m"}} {output}
# TYPE vllm:request_success counter
vllm:request_success_total{{model_name="m",finished_reason="stop"}} {requests}
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{{model_name="m",le="+Inf"}} {requests}
vllm:time_to_first_token_seconds_sum{{model_name="m"}} {ttft}
vllm:time_to_first_token_seconds_count{{model_name="m"}} {requests}
# TYPE vllm:request_prefill_time_seconds histogram
vllm:request_prefill_time_seconds_bucket{{model_name="m",le="+Inf"}} {requests}
vllm:request_prefill_time_seconds_sum{{model_name="m"}} {ttft}
vllm:request_prefill_time_seconds_count{{model_name="m"}} {requests}
# TYPE vllm:inter_token_latency_seconds histogram
vllm:inter_token_latency_seconds_bucket{{model_name="m",le="+Inf"}} {output}
vllm:inter_token_latency_seconds_sum{{model_name="m"}} {itl}
vllm:inter_token_latency_seconds_count{{model_name="m"}} {output}
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{{model_name="m",le="+Inf"}} {steps}
vllm:iteration_tokens_total_sum{{model_name="m"}} {output}
vllm:iteration_tokens_total_count{{model_name="m"}} {steps}
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",num_gpu_blocks="20000"}} 1
"""


@dataclass
class Load:
    """What comes in: requests/s of 1,000 prompt and 200 output tokens; 20 ms between tokens, 50 ms to the first."""

    per_s: float = 10.0
    url: str = ""
    began: float = field(default_factory=time.monotonic)
    done: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        now = time.monotonic()
        self.done, self.at = self.done + (now - self.at) * self.per_s, now
        requests = self.done
        return TEXT.format(
            running=self.per_s * 4.0,
            prompt=1000 * requests,
            output=200 * requests,
            requests=requests,
            ttft=0.05 * requests,
            itl=200 * 0.02 * requests,
            steps=(now - self.began) * 50.0,
        )


@contextmanager
def serving_engine(load: Load) -> Iterator[Load]:
    """Its metrics, served on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = load.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    load.url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
    try:
        yield load
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
