"""A real vLLM server (CPU, a small Llama) against the simulator: fitted closed-loop, then asked for its open-loop runs.

    seconds per step = a + b * prompt tokens + c * sequences + d * stored tokens + e * pairs of tokens in a prompt

and a latency f of each request outside of the steps, all >= 0, by relative least squares on every row of profile.csv.
Other programs used part of the two cores meanwhile, and the file says how much (`other_cpu_median`): each row's seconds
are taken to be 1 + g times that share too long, g being fitted with the rest.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls
from validation_table import DATA, Line

from autoscaler.model import Role
from autoscaler.simulator.engine_types import EngineProfile
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.score import latencies
from autoscaler.simulator.wiring import Gateway

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

VLLM = DATA / "vllm_cpu"
CHUNK, BLOCK = 2048, 32
SLOWED = np.linspace(0.0, 0.5, 101)
"""Shares tried by which a core's worth of other programs may make a step longer."""
MEDIAN, TAIL = 0.15, 0.30
PREFIX, POOL = 128, 4
SHARED = {"low", "ramp", "high", "spike", "low2"}
"""Phases of the recorded run in which 40 % of the prompts begin with one of POOL prefixes of PREFIX tokens."""


def regressors(row: dict[str, str]) -> tuple[tuple[float, ...], float]:
    """What a row of the profile timed: steps, prompt tokens, sequences, stored tokens, pairs, requests; and s."""
    prompt, count = int(row["prompt_len"]), int(row["concurrency"])
    if row["kind"] == "decode":
        return (1, 0, count, count * float(row["ctx_mean"]), 0, 0), float(row["itl_mean_s_median"])
    pairs = count * prompt * prompt / 2
    if row["kind"] == "prefill_batch":
        # The first of them is alone in its step; its tokens per second are those of the whole batch.
        steps = 1 + math.ceil((count - 1) * prompt / CHUNK)
        return (steps, count * prompt, count, 0, pairs, 1), count * prompt / float(row["prefill_tok_s_median"])
    steps = math.ceil(prompt / CHUNK)
    # A later chunk reads what the earlier ones have stored.
    stored = sum(CHUNK * index for index in range(steps))
    return (steps, prompt, steps, stored, pairs, 1), float(row["ttft_s_median"])


@cache
def fitted() -> EngineProfile:
    """The large server, left alone: 131,072 KV tokens, 64 sequences."""
    with (VLLM / "profile.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    design = np.array([np.array(amounts) / seconds for amounts, seconds in map(regressors, rows)])
    others = np.array([float(row["other_cpu_median"]) for row in rows])
    fits = [nnls(design * (1 + g * others)[:, None], np.ones(len(rows))) for g in SLOWED]
    a, b, c, d, e, f = (float(one) for one in min(fits, key=lambda fit: float(fit[1]))[0])
    return EngineProfile(a, b, c, d, 131_072, 64, CHUNK, BLOCK, attention_pair_seconds=e, frontend_seconds=f)


def small() -> EngineProfile:
    """The recorded server: the same model on 8,192 KV tokens and 24 sequences."""
    return replace(fitted(), kv_capacity_tokens=8192, max_running=24)


def told(path: str) -> list[dict[str, Any]]:
    """A run's requests in order of arrival."""
    with gzip.open(VLLM / path, "rt") as file:
        return sorted((json.loads(line) for line in file), key=lambda one: one["t_submit"])


@dataclass(frozen=True)
class Run:
    """Requests measured and simulated. TTFT of all, TPOT of those with more than one token, ends; s."""

    ttft: Floats
    tpot: Floats
    ends: Floats


def measured(requests: list[dict[str, Any]]) -> Run:
    """What the client saw."""
    ends = [one["t_submit"] + one["e2e"] - requests[0]["t_submit"] for one in requests]
    tpot = [one["tpot"] for one in requests if one["out_len"] > 1]
    return Run(np.array([one["ttft"] for one in requests]), np.array(tpot), np.array(ends))


def workload(requests: list[dict[str, Any]], blocks: tuple[NDArray[np.int64], ...] | None = None) -> Workload:
    """The same requests for the simulator, from the first one's arrival on."""
    return Workload(
        "recorded",
        np.array([one["t_submit"] - requests[0]["t_submit"] for one in requests]),
        np.array([one["prompt_len"] for one in requests], dtype=np.int32),
        np.array([one["out_len"] for one in requests], dtype=np.int32),
        blocks=blocks,
        block_tokens=BLOCK,
    )


def finished(load: Workload, fleet: Fleet) -> Run:
    """Play the rest and look at the ledger."""
    fleet.advance(math.inf)
    outcomes = fleet.ledger.frozen()
    ttft, tpot = latencies(load, outcomes)
    return Run(ttft, tpot[load.output > 1], outcomes.finish)


def latency_lines(name: str, real: Run, made: Run, output: int) -> list[Line]:
    """Median and P95 of TTFT and TPOT, and output tokens/s from the first arrival to the last end."""
    lines = []
    for what, was, is_now in (("TTFT", real.ttft, made.ttft), ("TPOT", real.tpot, made.tpot)):
        for percentile, target in ((50, MEDIAN), (95, TAIL)):
            before, after = (float(np.percentile(one, percentile)) for one in (was, is_now))
            lines.append(Line(name, f"{what} P{percentile}, s", before, after, target))
    was_rate, now_rate = (output / float(one.ends.max()) for one in (real, made))
    return [*lines, Line(name, "throughput, output tokens/s", was_rate, now_rate, MEDIAN)]


@cache
def open_loop(rate: str) -> tuple[Line, ...]:
    """One of the Poisson runs, `rate` requests/s as in the file's name."""
    requests = told(f"requests/openloop_rate{rate}.jsonl.gz")
    load = workload(requests)
    fleet = Fleet(load, Gateway())
    fleet.add(Role.COLOCATED, fitted())
    output = int(load.output.sum())
    return tuple(latency_lines(f"vLLM open loop, {rate}/s", measured(requests), finished(load, fleet), output))


def prefixes(requests: list[dict[str, Any]], count: int) -> tuple[NDArray[np.int64], ...]:
    """Every prompt's blocks of BLOCK tokens; `count` of them begin with one of POOL shared prefixes.

    Which did is not recorded, only how many tokens were found: the prompts and their prefixes are drawn (seed 0).
    """
    random = np.random.default_rng(0)
    able = [i for i, one in enumerate(requests) if one["phase"] in SHARED and one["prompt_len"] > PREFIX]
    drawn = random.choice(able, size=count, replace=False).tolist()
    chosen = dict(zip(drawn, random.integers(POOL, size=count).tolist(), strict=True))
    shared, next_own = PREFIX // BLOCK, POOL * PREFIX // BLOCK
    blocks = []
    for index, one in enumerate(requests):
        size = one["prompt_len"] // BLOCK
        ids = np.arange(next_own, next_own + size, dtype=np.int64)
        next_own += size
        if index in chosen:
            ids[:shared] = np.arange(shared) + shared * chosen[index]
        blocks.append(ids)
    return tuple(blocks)


def recorded() -> tuple[list[dict[str, Any]], Workload, Fleet, list[dict[str, str]], Floats]:
    """The recorded run played: requests, load, fleet, scraped rows, and (KV usage, running, waiting) at each scrape."""
    requests = told("recorded/requests.jsonl.gz")
    with (VLLM / "recorded" / "series_main.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Those that found their prefix, and the first of each.
    count = int(float(rows[-1]["vllm:prefix_cache_hits_total"])) // PREFIX + POOL
    load = workload(requests, prefixes(requests, count))
    fleet = Fleet(load, Gateway())
    engine = fleet.get(fleet.add(Role.COLOCATED, small())).engine
    seen = []
    for row in rows:
        at = float(row["t"]) - requests[0]["t_submit"]
        if at > 0:
            fleet.advance(at)
        running, waiting, blocks = engine.told(max(at, 0.0))
        seen.append((blocks / engine.kv.usable, running, waiting))
    return requests, load, fleet, rows, np.array(seen)


@cache
def recorded_lines() -> tuple[Line, ...]:
    """KV usage, running and waiting requests over time; then the latencies."""
    requests, load, fleet, rows, seen = recorded()
    name, lines = "vLLM recorded", []
    families = ("kv_cache_usage_perc", "num_requests_running", "num_requests_waiting")
    for column, family in enumerate(families):
        real = np.array([float(row[f"vllm:{family}"]) for row in rows])
        made = seen[:, column]
        lines.append(Line(name, f"{family}, mean", float(real.mean()), float(made.mean()), MEDIAN))
        before, after = (float(np.percentile(one, 95)) for one in (real, made))
        lines.append(Line(name, f"{family}, P95", before, after, TAIL))
        apart = float(np.abs(made - real).sum() / real.sum())
        means = float(real.mean()), float(made.mean())
        lines.append(Line(name, f"{family}, |error| over time", *means, TAIL, miss=apart))
    output, made_run = int(load.output.sum()), finished(load, fleet)
    found, predicted = float(rows[-1]["vllm:prefix_cache_hits_total"]), float(fleet.ledger.frozen().cached.sum())
    lines.append(Line(name, "prefix tokens found", found, predicted, MEDIAN))
    return (*lines, *latency_lines(name, measured(requests), made_run, output))


def lines() -> list[Line]:
    """All comparisons with this server."""
    runs = [line for rate in ("0.5", "1.0", "2.0") for line in open_loop(rate)]
    return [*runs, *recorded_lines()]
