"""The `/metrics` text of one emulated replica: what a vLLM V1 server would print for the same counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.utils import floatToGoString

from autoscaler.demo.vllm_families import (
    CACHE_CONFIG,
    FAMILIES,
    FETCH_STAGES,
    LABELLED,
    TRANSFER_PREFIX,
    WITHOUT_ENGINE_LABEL,
)
from autoscaler.simulator.engine_types import EngineRole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.simulator.counters import EngineCounters, Histogram
    from autoscaler.simulator.engine import Engine

    _Value = Histogram | tuple[float, ...]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# The emulated server's max_model_len, which only the information series shows.
_LONGEST_CONTEXT_TOKENS = 4096

_NEVER_COUNTED = (
    "nixl_num_failed_transfers",
    "nixl_num_failed_notifications",
    "nixl_num_kv_expired_reqs",
    "nixl_num_notifications_after_expiry",
    "estimated_flops_per_gpu",
    "estimated_read_bytes_per_gpu",
    "estimated_write_bytes_per_gpu",
    "mm_cache_queries",
    "mm_cache_hits",
)


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines of one family: its head, the text before each value, and the fixed lines that follow."""

    name: str
    head: str
    prefixes: tuple[str, ...]
    tail: str


class ReplicaMetrics:
    """Renders one engine. Everything but the numbers is put together once.

    Args:
        engine: whose counts; its role decides which families exist, as in vLLM.
        model_name: the served model, the label every series carries.
        started_at: Unix seconds, for the `_created` series and `process_start_time_seconds`.
        kv_token_bytes: KV bytes per token, for the information series.
    """

    def __init__(self, engine: Engine, model_name: str, started_at: float, kv_token_bytes: float) -> None:
        self._engine = engine
        self._labels = {"engine": "0", "model_name": model_name}
        self._created = _shown(started_at)
        self._config = _cache_config(engine, kv_token_bytes)
        values = self._values()
        self._blocks = tuple(
            self._block(name, kind, text, values[name]) for name, kind, text in FAMILIES if _has(engine.role, name)
        )
        self._process = (
            "# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.\n"
            "# TYPE process_start_time_seconds gauge\n"
            f"process_start_time_seconds {self._created}\n"
        )

    def render(self, *, poison: bool = False) -> str:
        """The exposition text now; with `poison` every number is NaN."""
        values = self._values()
        parts = [self._process]
        for block in self._blocks:
            parts.append(block.head)
            numbers = _numbers(values[block.name])
            for prefix, number in zip(block.prefixes, numbers, strict=True):
                parts.append(f"{prefix}{_shown(math.nan if poison else number)}\n")
            parts.append(block.tail)
        return "".join(parts)

    def _block(self, name: str, kind: str, text: str, value: _Value) -> _Block:
        labels = {key: self._labels[key] for key in self._labels if key != "engine" or name not in WITHOUT_ENGINE_LABEL}
        wire = f"vllm:{name}_total" if kind == "counter" else f"vllm:{name}"
        sets: list[dict[str, str]] = [labels]
        if name == "cache_config_info":
            sets = [{"engine": "0"} | self._config]
        elif name in LABELLED:
            key, choices = LABELLED[name]
            sets = [labels | {key: choice} for choice in choices]
        prefixes = [f"{wire}{_braces(one)} " for one in sets]
        if not isinstance(value, tuple):
            bounds = [*map(_shown, value.bounds), "+Inf"]
            prefixes = [f"{wire}_bucket{_braces(labels | {'le': bound})} " for bound in bounds]
            prefixes += [f"{wire}_{suffix}{_braces(labels)} " for suffix in ("count", "sum")]
        tail = ""
        if kind != "gauge":
            created = f"vllm:{name}_created"
            tail = f"# HELP {created} {text}\n# TYPE {created} gauge\n"
            tail += "".join(f"{created}{_braces(one)} {self._created}\n" for one in sets)
        return _Block(name, f"# HELP {wire} {text}\n# TYPE {wire} {kind}\n", tuple(prefixes), tail)

    def _values(self) -> dict[str, _Value]:
        engine = self._engine
        counters = engine.counters
        return {**_gauges(engine), **_totals(engine.role, counters), **_histograms(counters)}


def _shown(number: float) -> str:
    """A number as prometheus_client prints it, e.g. 1.5e+09."""
    return str(floatToGoString(number))  # type: ignore[no-untyped-call] # the library carries no types here


def _has(role: EngineRole, name: str) -> bool:
    if name == FETCH_STAGES:
        return role is EngineRole.DECODE
    return not name.startswith(TRANSFER_PREFIX) or role is not EngineRole.COLOCATED


def _numbers(value: _Value) -> list[float]:
    """What is printed for a value: the numbers themselves, or a histogram's cumulated buckets, count and sum."""
    if isinstance(value, tuple):
        return list(value)
    return [*map(float, accumulate(value.buckets)), float(value.count), value.total]


def _braces(labels: Mapping[str, str]) -> str:
    """Labels in order of name, as prometheus_client prints them."""
    escaped = {
        key: value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for key, value in labels.items()
    }
    return "{" + ",".join(f'{key}="{escaped[key]}"' for key in sorted(escaped)) + "}"


def _cache_config(engine: Engine, kv_token_bytes: float) -> dict[str, str]:
    profile = engine.profile
    size = profile.total_blocks * profile.block_size
    return CACHE_CONFIG | {
        "block_size": str(profile.block_size),
        "effective_attention_block_size": str(profile.block_size),
        "enable_prefix_caching": str(engine.role is not EngineRole.DECODE),
        "kv_cache_max_concurrency": str(size / _LONGEST_CONTEXT_TOKENS),
        "kv_cache_memory_bytes": str(round(size * kv_token_bytes)),
        "kv_cache_size_tokens": str(size),
        "num_gpu_blocks": str(profile.total_blocks),
    }


def _gauges(engine: Engine) -> dict[str, _Value]:
    gauges = engine.gauges()
    deferred = gauges.fetching + gauges.fetched
    return {
        "num_requests_running": (gauges.running,),
        "num_requests_waiting": (gauges.waiting + deferred,),
        "num_requests_waiting_by_reason": (gauges.waiting, deferred),
        "num_requests_kv_fetch_by_stage": (gauges.waiting, gauges.fetching, gauges.fetched),
        "engine_sleep_state": (1, 0, 0),
        "kv_cache_usage_perc": (gauges.kv_usage,),
        "cache_config_info": (1,),
    }


def _totals(role: EngineRole, counters: EngineCounters) -> dict[str, _Value]:
    external = counters.external_queries_tokens
    if role is EngineRole.PREFILL:
        # A producer asks its connector too, for what its own cache does not have, and never gets anything.
        external = counters.prefix_queries_tokens - counters.prefix_hits_tokens
    sources = (counters.prompt_computed_tokens, counters.prompt_cached_tokens, counters.prompt_received_tokens)
    never: dict[str, _Value] = dict.fromkeys(_NEVER_COUNTED, (0,))
    return never | {
        "prefix_cache_queries": (counters.prefix_queries_tokens,),
        "prefix_cache_hits": (counters.prefix_hits_tokens,),
        "external_prefix_cache_queries": (external,),
        "external_prefix_cache_hits": (counters.external_hits_tokens,),
        "num_preemptions": (counters.preemptions,),
        "prompt_tokens": (counters.prompt_tokens,),
        "prompt_tokens_by_source": sources,
        "prompt_tokens_cached": (counters.prompt_cached_tokens + counters.prompt_received_tokens,),
        "prompt_tokens_cached_by_source": (counters.prefix_hits_tokens, 0, counters.external_hits_tokens, 0, 0),
        "generation_tokens": (counters.generation_tokens,),
        "request_success": (0, counters.finished, 0, 0, 0),
        "admission_rejections": (0, 0),
    }


def _histograms(counters: EngineCounters) -> dict[str, _Value]:
    return {
        "nixl_xfer_time_seconds": counters.transfer_time,
        "nixl_post_time_seconds": counters.transfer_post_time,
        "nixl_bytes_transferred": counters.transfer_bytes,
        "nixl_num_descriptors": counters.transfer_descriptors,
        "request_prompt_tokens": counters.request_prompt_tokens,
        "request_generation_tokens": counters.request_generation_tokens,
        "iteration_tokens_total": counters.iteration_tokens,
        "request_max_num_generation_tokens": counters.request_max_tokens,
        "request_params_n": counters.request_n,
        "request_params_max_tokens": counters.request_max_tokens,
        "time_to_first_token_seconds": counters.ttft,
        "inter_token_latency_seconds": counters.itl,
        "request_time_per_output_token_seconds": counters.time_per_output_token,
        "e2e_request_latency_seconds": counters.e2e,
        "request_queue_time_seconds": counters.queue_time,
        "request_inference_time_seconds": counters.inference_time,
        "request_prefill_time_seconds": counters.prefill_time,
        "request_decode_time_seconds": counters.decode_time,
        "request_num_preemptions": counters.request_preemptions,
        "request_prefill_kv_computed_tokens": counters.request_computed_tokens,
    }
