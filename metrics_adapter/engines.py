"""What each engine calls each signal: metric names by engine family and version, newest first.

A *vocabulary* is one family's dictionary (vLLM, SGLang, TensorRT-LLM, Dynamo, a gateway). For every signal it lists
*recipes*, newest names first: vLLM deprecates a metric in X.Y, hides it in X.Y+1 and removes it in X.Y+2, so a fleet
in the middle of an upgrade speaks two dialects at once. Whoever reads combines the recipes per engine: the first one
an engine can answer counts, so that no engine counts twice.

Names are written as they stand on the wire, with colons. Some relabelling set-ups turn colons into underscores, and
some exporters drop the `_total` of counters: `spellings` lists every form a name may take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from metrics_adapter.signals import Signal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Kind(StrEnum):
    """How a sample becomes a value."""

    GAUGE = "gauge"
    """Taken as it stands."""
    COUNTER = "counter"
    """Taken as a per-second rate, resets allowed for."""


class Over(StrEnum):
    """How the engines of a group become one number."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Term:
    """One metric in a recipe.

    Attributes:
        metric: full sample name on the wire in its colon form, e.g. `vllm:inter_token_latency_seconds_sum`.
        kind: gauge or counter.
        where: label pairs a series must carry; series that differ in other labels are summed.
        factor: multiplies the value (-1 subtracts, 1e-3 turns ms into s).
    """

    metric: str
    kind: Kind
    where: tuple[tuple[str, str], ...] = ()
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one engine's value of a signal is made: sum of factor x term; an engine lacking any term has no value.

    Attributes:
        terms: what is added up.
        over: how engines are aggregated into a group.
        label_product: for info gauges: multiply the numeric values of these labels of the single term instead.
        product: multiply the terms instead of adding them.
        last_resort: only where the server has none of the alternatives before it.
    """

    terms: tuple[Term, ...]
    over: Over = Over.SUM
    label_product: tuple[str, ...] = ()
    product: bool = False
    last_resort: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One family's names.

    Attributes:
        name: as it appears in `Reading.engines`.
        presence: gauges (first present wins) whose fresh, finite, non-negative sample means "this engine reports".
        recipes: signal -> alternatives, newest first.
        ranks: labels that tell the data-parallel engines of one target apart and that *every* series of the family
            carries (SGLang's dp_rank is not one: request-level series come from a front end that has no rank).
        repeats: labels in which series may differ that say the same thing (every tensor-parallel rank of an engine
            publishes with SGLang's --enable-metrics-for-all-schedulers): of those the largest counts, once.
        engine: False for what stands in front of engines: it provides GATEWAY_QUEUE and is never counted.
    """

    name: str
    presence: str | tuple[str, ...]
    recipes: Mapping[Signal, tuple[Recipe, ...]]
    ranks: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()
    engine: bool = True

    @property
    def presences(self) -> tuple[str, ...]:
        """`presence` as a tuple, newest first."""
        return (self.presence,) if isinstance(self.presence, str) else self.presence


def _gauge(metric: str, *where: tuple[str, str], factor: float = 1.0) -> Term:
    return Term(metric, Kind.GAUGE, where, factor)


def _counter(metric: str, *where: tuple[str, str], factor: float = 1.0) -> Term:
    return Term(metric, Kind.COUNTER, where, factor)


def _rates(*metrics: str) -> tuple[Recipe, ...]:
    """Alternatives of one counter each, newest first."""
    return tuple(Recipe((_counter(metric),)) for metric in metrics)


def _levels(*metrics: str, over: Over = Over.SUM) -> tuple[Recipe, ...]:
    """Alternatives of one gauge each, newest first."""
    return tuple(Recipe((_gauge(metric),), over) for metric in metrics)


_PROMPT = _counter("vllm:prompt_tokens_total")
_HITS = _counter("vllm:prefix_cache_hits_total", factor=-1.0)
_VLLM_ASLEEP = (
    _gauge("vllm:engine_sleep_state", ("sleep_state", "weights_offloaded")),
    _gauge("vllm:engine_sleep_state", ("sleep_state", "discard_all")),
)
_VLLM_KV = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")

_VLLM = Vocabulary(
    name="vllm",
    presence="vllm:num_requests_running",
    ranks=("engine",),
    recipes={
        Signal.RUNNING: _levels("vllm:num_requests_running"),
        # "deferred" requests wait for something else than room (a LoRA slot, KV on its way from a prefill engine)
        Signal.WAITING: (
            Recipe((_gauge("vllm:num_requests_waiting_by_reason", ("reason", "capacity")),)),
            Recipe((_gauge("vllm:num_requests_waiting"),)),
        ),
        Signal.KV_USAGE: _levels(*_VLLM_KV, over=Over.MEAN),
        Signal.KV_USAGE_MAX: _levels(*_VLLM_KV, over=Over.MAX),
        Signal.KV_CAPACITY: (
            Recipe((_gauge("vllm:cache_config_info"),), Over.MEAN, ("kv_cache_size_tokens",)),
            Recipe((_gauge("vllm:cache_config_info"),), Over.MEAN, ("num_gpu_blocks", "block_size")),
        ),
        Signal.SLEEPING: (Recipe(_VLLM_ASLEEP),),
        Signal.PROMPT_RATE: _rates("vllm:prompt_tokens_total"),
        Signal.COMPUTED_PROMPT_RATE: (
            Recipe((_counter("vllm:prompt_tokens_by_source_total", ("source", "local_compute")),)),
            Recipe((_PROMPT, _counter("vllm:prompt_tokens_cached_total", factor=-1.0))),
            # hits are counted in tokens since V1; before that only a ratio gauge existed, from which no rate follows
            Recipe((_PROMPT, _HITS, _counter("vllm:external_prefix_cache_hits_total", factor=-1.0))),
            Recipe((_PROMPT, _HITS)),
            Recipe((_PROMPT, _counter("vllm:gpu_prefix_cache_hits_total", factor=-1.0))),
            # V0 counts no hits: then all of the prompt counts as computed, which errs towards more replicas
            Recipe((_PROMPT,), last_resort=True),
        ),
        Signal.GENERATION_RATE: _rates("vllm:generation_tokens_total"),
        Signal.PREFILL_REQUEST_RATE: _rates("vllm:time_to_first_token_seconds_count"),
        # one series per engine; request_success_total has one per finished_reason, and the two count alike
        Signal.COMPLETION_RATE: _rates("vllm:e2e_request_latency_seconds_count", "vllm:request_success_total"),
        Signal.PREFILL_BUSY: _rates("vllm:request_prefill_time_seconds_sum"),
        Signal.ITL_BUSY: _rates("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum"),
        Signal.ITL_TOKENS: _rates("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count"),
        Signal.TTFT_BUSY: _rates("vllm:time_to_first_token_seconds_sum"),
        Signal.QUEUE_BUSY: _rates("vllm:request_queue_time_seconds_sum", "vllm:time_in_queue_requests_sum"),
        # a histogram despite its name: _sum is tokens, _count is engine steps
        Signal.STEP_RATE: _rates("vllm:iteration_tokens_total_count"),
        Signal.STEP_TOKENS: _rates("vllm:iteration_tokens_total_sum"),
        Signal.PREEMPTION_RATE: _rates("vllm:num_preemptions_total"),
        Signal.TRANSFER_BYTES: _rates("vllm:nixl_bytes_transferred_sum"),
        Signal.TRANSFER_BUSY: _rates("vllm:nixl_xfer_time_seconds_sum"),
    },
)

_SGLANG_COMPUTED = _counter("sglang:realtime_tokens_total", ("mode", "prefill_compute"))
_SGLANG_DECODED = _counter("sglang:realtime_tokens_total", ("mode", "decode"))
_SGLANG_QUEUE = _gauge("sglang:num_queue_reqs")
_SGLANG_PAIRING = (
    _gauge("sglang:num_prefill_bootstrap_queue_reqs"),
    _gauge("sglang:num_decode_prealloc_queue_reqs"),
)

_SGLANG = Vocabulary(
    name="sglang",
    presence="sglang:num_running_reqs",
    repeats=("tp_rank", "pp_rank", "moe_ep_rank"),
    recipes={
        Signal.RUNNING: _levels("sglang:num_running_reqs"),
        # with prefill and decode apart, requests also wait for a partner (bootstrap) or for decode KV (prealloc)
        Signal.WAITING: (Recipe((_SGLANG_QUEUE, *_SGLANG_PAIRING)), Recipe((_SGLANG_QUEUE,))),
        Signal.KV_USAGE: _levels("sglang:token_usage", over=Over.MEAN),
        Signal.KV_USAGE_MAX: _levels("sglang:token_usage", over=Over.MAX),
        Signal.KV_CAPACITY: _levels("sglang:max_total_num_tokens", over=Over.MEAN),
        # prompt_tokens_total and generation_tokens_total tick when a request ends, realtime_tokens_total each step
        Signal.PROMPT_RATE: (
            Recipe((_SGLANG_COMPUTED, _counter("sglang:realtime_tokens_total", ("mode", "prefill_cache")))),
            *_rates("sglang:prompt_tokens_total"),
        ),
        Signal.COMPUTED_PROMPT_RATE: (
            Recipe((_SGLANG_COMPUTED,)),
            Recipe((_counter("sglang:prompt_tokens_total"), _counter("sglang:cached_tokens_total", factor=-1.0))),
        ),
        Signal.GENERATION_RATE: (Recipe((_SGLANG_DECODED,)), *_rates("sglang:generation_tokens_total")),
        Signal.PREFILL_REQUEST_RATE: _rates("sglang:time_to_first_token_seconds_count"),
        Signal.COMPLETION_RATE: _rates("sglang:e2e_request_latency_seconds_count", "sglang:num_requests_total"),
        Signal.PREFILL_BUSY: (
            Recipe((_counter("sglang:per_stage_req_latency_seconds_sum", ("stage", "prefill_forward")),)),
        ),
        Signal.ITL_BUSY: _rates("sglang:inter_token_latency_seconds_sum", "sglang:time_per_output_token_seconds_sum"),
        Signal.ITL_TOKENS: _rates(
            "sglang:inter_token_latency_seconds_count", "sglang:time_per_output_token_seconds_count"
        ),
        Signal.TTFT_BUSY: _rates("sglang:time_to_first_token_seconds_sum"),
        Signal.QUEUE_BUSY: _rates("sglang:queue_time_seconds_sum"),
        Signal.STEP_TOKENS: (Recipe((_SGLANG_COMPUTED, _SGLANG_DECODED)),),
        Signal.PREEMPTION_RATE: _rates("sglang:num_retracted_requests_total"),
        Signal.TRANSFER_BYTES: (Recipe((_counter("sglang:kv_transfer_total_mb_sum", factor=1e6),)),),
        Signal.TRANSFER_BUSY: (Recipe((_counter("sglang:kv_transfer_latency_ms_sum", factor=1e-3),)),),
    },
)

_TRTLLM_BLOCKS = (_gauge("trtllm:kv_cache_max_blocks"), _gauge("trtllm:kv_cache_tokens_per_block"))
_TRTLLM_PROMPT = _counter("trtllm:prompt_tokens_total")

_TRTLLM = Vocabulary(
    name="trtllm",
    # releases up to 1.1 publish request histograms only: their count is the best sign of life there is
    presence=("trtllm:num_requests_running", "trtllm:e2e_request_latency_seconds_count"),
    recipes={
        Signal.RUNNING: _levels("trtllm:num_requests_running"),
        Signal.WAITING: _levels("trtllm:num_requests_waiting"),
        Signal.KV_USAGE: _levels("trtllm:kv_cache_utilization", over=Over.MEAN),
        Signal.KV_USAGE_MAX: _levels("trtllm:kv_cache_utilization", over=Over.MAX),
        Signal.KV_CAPACITY: (Recipe(_TRTLLM_BLOCKS, Over.MEAN, product=True),),
        Signal.PROMPT_RATE: _rates("trtllm:prompt_tokens_total"),
        Signal.COMPUTED_PROMPT_RATE: (
            Recipe((_TRTLLM_PROMPT, _counter("trtllm:prompt_cached_tokens_total", factor=-1.0))),
            Recipe((_TRTLLM_PROMPT, _counter("trtllm:prompt_cache_hit_tokens_total", factor=-1.0))),
        ),
        Signal.GENERATION_RATE: _rates("trtllm:generation_tokens_total"),
        Signal.PREFILL_REQUEST_RATE: _rates("trtllm:time_to_first_token_seconds_count"),
        Signal.COMPLETION_RATE: _rates("trtllm:e2e_request_latency_seconds_count", "trtllm:request_success_total"),
        Signal.PREFILL_BUSY: _rates("trtllm:request_prefill_time_seconds_sum"),
        # one observation per request (its mean), so busy/tokens is the mean over requests, not over gaps
        Signal.ITL_BUSY: _rates("trtllm:time_per_output_token_seconds_sum"),
        Signal.ITL_TOKENS: _rates("trtllm:time_per_output_token_seconds_count"),
        Signal.TTFT_BUSY: _rates("trtllm:time_to_first_token_seconds_sum"),
        Signal.QUEUE_BUSY: _rates("trtllm:request_queue_time_seconds_sum"),
        Signal.STEP_RATE: _rates("trtllm:iteration_latency_seconds_count"),
    },
)

_DYNAMO = Vocabulary(
    name="dynamo",
    # a worker usually repeats its engine's own metrics on the same port; then those are used and this one is not
    presence="dynamo_component_gpu_cache_usage_percent",
    recipes={
        Signal.KV_USAGE: _levels("dynamo_component_gpu_cache_usage_percent", over=Over.MEAN),
        Signal.KV_USAGE_MAX: _levels("dynamo_component_gpu_cache_usage_percent", over=Over.MAX),
    },
)

_DYNAMO_FRONTEND = Vocabulary(
    name="dynamo-frontend",
    presence="dynamo_frontend_queued_requests",
    recipes={Signal.GATEWAY_QUEUE: _levels("dynamo_frontend_queued_requests")},
    engine=False,
)

# Renamed three times, old names emitted next to new ones for a release or two. inference_pool_average_queue_size is
# not here: it is the mean queue *inside* the engines, which WAITING counts already.
_EPP_QUEUES = (
    "llm_d_epp_flow_control_queue_size",
    "llm_d_router_epp_flow_control_queue_size",
    "llm_d_inference_scheduler_flow_control_queue_size",
    "inference_extension_flow_control_queue_size",
    "inference_pool_flow_control_queue_size",
)

_EPP = Vocabulary(
    name="epp",
    presence=_EPP_QUEUES,
    recipes={Signal.GATEWAY_QUEUE: _levels(*_EPP_QUEUES)},
    engine=False,
)

VOCABULARIES: tuple[Vocabulary, ...] = (_VLLM, _SGLANG, _TRTLLM, _DYNAMO, _DYNAMO_FRONTEND, _EPP)
"""In order of precedence: on one target the first family that has a signal answers for it."""

NAME_PATTERN = "(vllm|sglang|trtllm)[:_].+|dynamo_(component|frontend)_.+|(llm_d|inference)_.+flow_control_queue_size"
"""Regular expression (RE2, fully anchored) of every metric name that may matter; superset of `known_names`."""

_STYLES = ((False, False), (False, True), (True, False), (True, True))


def _spell(metric: str, *, underscore: bool, bare: bool) -> str:
    name = metric.replace(":", "_") if underscore else metric
    return name.removesuffix("_total") if bare else name


def spellings(metric: str) -> tuple[str, ...]:
    """Every form a metric name may take, likeliest first: as given, without `_total`, with underscores, both."""
    return tuple(dict.fromkeys(_spell(metric, underscore=u, bare=b) for u, b in _STYLES))


def known_names() -> frozenset[str]:
    """Every name in every spelling that any vocabulary can use."""
    terms = (t for v in VOCABULARIES for recipes in v.recipes.values() for recipe in recipes for t in recipe.terms)
    metrics = {term.metric for term in terms} | {name for v in VOCABULARIES for name in v.presences}
    return frozenset(form for metric in metrics for form in spellings(metric))


def _in_styles(recipe: Recipe) -> tuple[Recipe, ...]:
    """The recipe once per spelling style, all its terms in the same style."""
    made = (
        replace(recipe, terms=tuple(replace(t, metric=_spell(t.metric, underscore=u, bare=b)) for t in recipe.terms))
        for u, b in _STYLES
    )
    return tuple(dict.fromkeys(made))


def select(available: Collection[str]) -> tuple[Vocabulary, ...]:
    """The vocabularies a server speaks, reduced to names it really has.

    Args:
        available: sample names seen on the server (or on one target).

    Returns:
        Vocabularies with at least one presence name available, in order of precedence; `presence` and every recipe
        name existing spellings only, and alternatives keep their order, so that a reader tries them first to last.
        Signals without any complete recipe are left out. Empty when the server has nothing known.
    """
    have = frozenset(available)
    chosen = []
    for vocabulary in VOCABULARIES:
        presence = tuple(form for name in vocabulary.presences for form in spellings(name) if form in have)
        if not presence:
            continue
        recipes = {
            signal: tuple(
                form for r in alternatives for form in _in_styles(r) if all(term.metric in have for term in form.terms)
            )
            for signal, alternatives in vocabulary.recipes.items()
        }
        kept = {s: tuple(r for r in found if not r.last_resort) or found for s, found in recipes.items() if found}
        chosen.append(replace(vocabulary, presence=presence, recipes=kept))
    return tuple(chosen)
