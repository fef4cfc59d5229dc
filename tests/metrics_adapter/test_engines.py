"""Vocabularies: every name in every spelling, and what a server's names select."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapter.engines import NAME_PATTERN, VOCABULARIES, Kind, known_names, select, spellings
from metrics_adapter.signals import Signal

VLLM = Path(__file__).parents[3] / "shared" / "data" / "vllm_cpu"


def names_in(file: Path) -> set[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return {re.split(r"[{ ]", line, maxsplit=1)[0] for line in lines if line and not line.startswith("#")}


def chosen(available: set[str], family: str = "vllm") -> dict[Signal, list[list[str]]]:
    [vocabulary] = [v for v in select(available) if v.name == family]
    return {s: [[t.metric for t in r.terms] for r in recipes] for s, recipes in vocabulary.recipes.items()}


def test_spellings_cover_underscores_and_missing_suffixes() -> None:
    assert spellings("vllm:prompt_tokens_total") == (
        "vllm:prompt_tokens_total",
        "vllm:prompt_tokens",
        "vllm_prompt_tokens_total",
        "vllm_prompt_tokens",
    )
    assert spellings("llm_d_epp_flow_control_queue_size") == ("llm_d_epp_flow_control_queue_size",)
    assert spellings("vllm:iteration_tokens_total_sum") == (
        "vllm:iteration_tokens_total_sum",
        "vllm_iteration_tokens_total_sum",
    )


def test_every_known_name_is_found_by_the_discovery_pattern() -> None:
    assert [name for name in known_names() if not re.fullmatch(NAME_PATTERN, name)] == []
    assert re.fullmatch(NAME_PATTERN, "http_requests_total") is None


@pytest.mark.skipif(not VLLM.is_dir(), reason=f"recorded metrics are not at {VLLM}")
def test_vllm_0_32_has_every_signal_by_its_newest_name() -> None:
    found = chosen(names_in(VLLM / "pd" / "nixl_D_load.txt"))
    assert set(found) == set(Signal) - {Signal.GATEWAY_QUEUE}
    newest = {s: recipes[0] for s, recipes in VOCABULARIES[0].recipes.items()}
    for signal, recipes in found.items():
        assert recipes[0] == [term.metric for term in newest[signal].terms], signal
    assert chosen(names_in(VLLM / "metrics" / "02_moderate_load.txt")).keys() == found.keys() - {
        Signal.TRANSFER_BYTES,
        Signal.TRANSFER_BUSY,
    }


def test_v0_names_select_the_later_alternatives() -> None:
    v0 = {
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:gpu_cache_usage_perc",
        "vllm:time_per_output_token_seconds_sum",
        "vllm:time_per_output_token_seconds_count",
        "vllm:prompt_tokens_total",
    }
    found = chosen(v0)
    assert found[Signal.WAITING] == [["vllm:num_requests_waiting"]]
    assert found[Signal.KV_USAGE] == [["vllm:gpu_cache_usage_perc"]]
    assert found[Signal.ITL_BUSY] == [["vllm:time_per_output_token_seconds_sum"]]
    # nothing says which prompt tokens were hits: all of them count as computed, the last resort
    assert found[Signal.PROMPT_RATE] == [["vllm:prompt_tokens_total"]]
    assert found[Signal.COMPUTED_PROMPT_RATE] == [["vllm:prompt_tokens_total"]]


def test_both_generations_keep_both_alternatives_newest_first() -> None:
    found = chosen({"vllm:num_requests_running", "vllm:gpu_cache_usage_perc", "vllm:kv_cache_usage_perc"})
    assert found[Signal.KV_USAGE] == [["vllm:kv_cache_usage_perc"], ["vllm:gpu_cache_usage_perc"]]


def test_a_recipe_lacking_one_of_its_terms_is_not_offered() -> None:
    available = {"vllm_num_requests_running", "vllm_prompt_tokens_total", "vllm:prefix_cache_hits_total"}
    # prompt minus hits needs both under one spelling; what is left is the last resort, the prompt alone
    found = chosen(available)[Signal.COMPUTED_PROMPT_RATE]
    assert all(names == ["vllm_prompt_tokens_total"] for names in found)
    assert chosen(available | {"vllm_prefix_cache_hits_total"})[Signal.COMPUTED_PROMPT_RATE] == [
        ["vllm_prompt_tokens_total", "vllm_prefix_cache_hits_total"]
    ]


def test_gateways_provide_their_queue_only_and_are_no_engines() -> None:
    gateways = [v for v in VOCABULARIES if not v.engine]
    assert {v.name for v in gateways} == {"epp", "dynamo-frontend"}
    assert all(set(v.recipes) == {Signal.GATEWAY_QUEUE} for v in gateways)
    assert all(Signal.GATEWAY_QUEUE not in v.recipes for v in VOCABULARIES if v.engine)


def test_rates_come_from_counters_and_levels_from_gauges() -> None:
    levels = {
        Signal.RUNNING,
        Signal.WAITING,
        Signal.KV_USAGE,
        Signal.KV_USAGE_MAX,
        Signal.KV_CAPACITY,
        Signal.SLEEPING,
        Signal.GATEWAY_QUEUE,
    }
    for vocabulary in VOCABULARIES:
        for signal, recipes in vocabulary.recipes.items():
            kinds = {term.kind for recipe in recipes for term in recipe.terms}
            assert kinds == {Kind.GAUGE if signal in levels else Kind.COUNTER}, (vocabulary.name, signal)


@given(st.sets(st.sampled_from(sorted(known_names()))), st.sets(st.sampled_from(sorted(known_names()))))
def test_only_available_names_are_selected_and_more_names_never_lose_a_signal(one: set[str], other: set[str]) -> None:
    def signals(available: set[str]) -> set[tuple[str, Signal]]:
        return {(v.name, signal) for v in select(available) for signal in v.recipes}

    for vocabulary in select(one):
        used = {t.metric for recipes in vocabulary.recipes.values() for r in recipes for t in r.terms}
        assert used | set(vocabulary.presences) <= one
        assert all(recipes for recipes in vocabulary.recipes.values())
    assert signals(one) <= signals(one | other)


def test_nothing_known_selects_nothing() -> None:
    assert select(set()) == ()
    assert select({"up", "go_goroutines"}) == ()
