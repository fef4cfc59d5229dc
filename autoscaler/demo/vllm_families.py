"""The metric families of a vLLM V1 server (0.32), in the order a real one prints them: name, type, help text.

Read from the `/metrics` of real servers. Names are without the `vllm:` prefix, counters without their `_total`.
"""

from __future__ import annotations

FAMILIES: tuple[tuple[str, str, str], ...] = (
    ("nixl_xfer_time_seconds", "histogram", "Histogram of transfer duration for NIXL KV Cache transfers."),
    ("nixl_post_time_seconds", "histogram", "Histogram of transfer post time for NIXL KV Cache transfers."),
    ("nixl_bytes_transferred", "histogram", "Histogram of bytes transferred per NIXL KV Cache transfers."),
    ("nixl_num_descriptors", "histogram", "Histogram of number of descriptors per NIXL  KV Cache transfers."),
    (
        "nixl_num_failed_transfers",
        "counter",
        (
            "Number of failed NIXL KV Cache transfers, including handshake and notification failures. NOTE: KV "
            "expiry is tracked separately in vllm:nixl_num_kv_expired_reqs."
        ),
    ),
    (
        "nixl_num_failed_notifications",
        "counter",
        (
            "Number of failed NIXL KV Cache notifications. Retained for compatibility; these failures are also "
            "included in vllm:nixl_num_failed_transfers."
        ),
    ),
    (
        "nixl_num_kv_expired_reqs",
        "counter",
        "Number of requests that had their KV expire. NOTE: This metric is tracked on the P instance.",
    ),
    (
        "nixl_num_notifications_after_expiry",
        "counter",
        (
            "Number of completion notifications for requests that were no longer tracked, usually because their "
            "KV lease expired. The KV blocks may have been reused before the transfer finished. Counted per "
            "notification (one per remote rank), not per request."
        ),
    ),
    (
        "estimated_flops_per_gpu",
        "counter",
        "Estimated number of floating point operations per GPU (for Model Flops Utilization calculations).",
    ),
    (
        "estimated_read_bytes_per_gpu",
        "counter",
        "Estimated number of bytes read from memory per GPU (for Model Flops Utilization calculations).",
    ),
    (
        "estimated_write_bytes_per_gpu",
        "counter",
        "Estimated number of bytes written to memory per GPU (for Model Flops Utilization calculations).",
    ),
    ("num_requests_running", "gauge", "Number of requests in model execution batches."),
    ("num_requests_waiting", "gauge", "Number of requests waiting to be processed."),
    (
        "num_requests_waiting_by_reason",
        "gauge",
        (
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; "
            "'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of "
            "all reasons equals vllm:num_requests_waiting."
        ),
    ),
    (
        "num_requests_kv_fetch_by_stage",
        "gauge",
        (
            "Number of waiting requests by async KV load stage. Stage labels: 'waiting_to_start' = needs an async"
            " KV load that has not started; 'in_progress' = load started and not yet reported finished; "
            "'completed_waiting' = load finished, request not running yet."
        ),
    ),
    (
        "engine_sleep_state",
        "gauge",
        (
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
            "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2."
        ),
    ),
    ("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage."),
    ("prefix_cache_queries", "counter", "Prefix cache queries, in terms of number of queried tokens."),
    ("prefix_cache_hits", "counter", "Prefix cache hits, in terms of number of cached tokens."),
    (
        "external_prefix_cache_queries",
        "counter",
        (
            "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of "
            "queried tokens."
        ),
    ),
    (
        "external_prefix_cache_hits",
        "counter",
        (
            "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of "
            "cached tokens."
        ),
    ),
    ("mm_cache_queries", "counter", "Multi-modal cache queries, in terms of number of queried items."),
    ("mm_cache_hits", "counter", "Multi-modal cache hits, in terms of number of cached items."),
    ("num_preemptions", "counter", "Cumulative number of preemption from the engine."),
    ("prompt_tokens", "counter", "Number of prefill tokens processed."),
    ("prompt_tokens_by_source", "counter", "Number of prompt tokens by source."),
    ("prompt_tokens_cached", "counter", "Number of cached prompt tokens (local + external)."),
    (
        "prompt_tokens_cached_by_source",
        "counter",
        (
            "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to"
            " DRAM), disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at "
            "admission; sums to vllm:prefix_cache_hits + vllm:external_prefix_cache_hits."
        ),
    ),
    ("generation_tokens", "counter", "Number of generation tokens processed."),
    ("request_success", "counter", "Count of successfully processed requests."),
    ("admission_rejections", "counter", "Number of admission attempts rejected by a queue limit, by reason."),
    ("request_prompt_tokens", "histogram", "Number of prefill tokens processed."),
    ("request_generation_tokens", "histogram", "Number of generation tokens processed."),
    ("iteration_tokens_total", "histogram", "Histogram of number of tokens per engine_step."),
    ("request_max_num_generation_tokens", "histogram", "Histogram of maximum number of requested generation tokens."),
    ("request_params_n", "histogram", "Histogram of the n request parameter."),
    ("request_params_max_tokens", "histogram", "Histogram of the max_tokens request parameter."),
    ("time_to_first_token_seconds", "histogram", "Histogram of time to first token in seconds."),
    ("inter_token_latency_seconds", "histogram", "Histogram of inter-token latency in seconds."),
    ("request_time_per_output_token_seconds", "histogram", "Histogram of time_per_output_token_seconds per request."),
    ("e2e_request_latency_seconds", "histogram", "Histogram of e2e request latency in seconds."),
    ("request_queue_time_seconds", "histogram", "Histogram of time spent in WAITING phase for request."),
    ("request_inference_time_seconds", "histogram", "Histogram of time spent in RUNNING phase for request."),
    ("request_prefill_time_seconds", "histogram", "Histogram of time spent in PREFILL phase for request."),
    ("request_decode_time_seconds", "histogram", "Histogram of time spent in DECODE phase for request."),
    ("request_num_preemptions", "histogram", "Histogram of the number of times a request was preempted."),
    (
        "request_prefill_kv_computed_tokens",
        "histogram",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
    ),
    ("cache_config_info", "gauge", "Information of the LLMEngine CacheConfig"),
)

# Only engines with a KV connector have the transfer families, only those that receive KV the fetch stages.
TRANSFER_PREFIX = "nixl_"
FETCH_STAGES = "num_requests_kv_fetch_by_stage"

# `vllm:admission_rejections` is counted in the front end and carries no engine label.
WITHOUT_ENGINE_LABEL = frozenset({"admission_rejections"})

LABELLED: dict[str, tuple[str, tuple[str, ...]]] = {
    "num_requests_waiting_by_reason": ("reason", ("capacity", "deferred")),
    "num_requests_kv_fetch_by_stage": ("stage", ("waiting_to_start", "in_progress", "completed_waiting")),
    "engine_sleep_state": ("sleep_state", ("awake", "weights_offloaded", "discard_all")),
    "prompt_tokens_by_source": ("source", ("local_compute", "local_cache_hit", "external_kv_transfer")),
    "prompt_tokens_cached_by_source": ("source", ("device", "host", "p2p", "disk", "external_unspecified")),
    "request_success": ("finished_reason", ("stop", "length", "abort", "error", "repetition")),
    "admission_rejections": ("reason", ("max_num_queued_reqs", "max_num_queued_tokens")),
}

CACHE_CONFIG: dict[str, str] = {
    "_block_size_resolved": "True",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "gpu_memory_utilization": "0.92",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "float32",
    "num_cpu_blocks": "None",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "True",
}
