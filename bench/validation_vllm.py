"""A real vLLM server (CPU, a small Llama) against the simulator: fitted closed-loop, then asked for its open-loop runs.

    seconds per step = a + b * prompt tokens + c * sequences + d * stored tokens, all >= 0, by relative least squares

Fitted on the rows of profile.csv in which other programs used under half a core (single prompts: a, b; steady decoding:
a, c, d). What such a model cannot do: attention inside a prompt grows with its square, so one b is too dear for short
prompts and too cheap for long ones.
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
from autoscaler.simulator.fleet import Fleet, Gateway
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.score import latencies

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

VLLM = DATA / "vllm_cpu"
CHUNK, BLOCK = 2048, 32
MOST_OTHERS = 0.5
MEDIAN, TAIL = 0.15, 0.30
PREFIX = 128
SHARED = {"low", "ramp", "high", "spike", "low2"}
"""Phases of the recorded run in which 40 % of the prompts begin with one of four prefixes of PREFIX tokens."""


@cache
def fitted() -> EngineProfile:
    """The large server: 131,072 KV tokens, 64 sequences."""
    rows = []
    with (VLLM / "profile.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            prompt, running = int(row["prompt_len"]), int(row["concurrency"])
            if float(row["other_cpu_median"]) >= MOST_OTHERS or row["kind"] == "prefill_batch":
                continue
            if row["kind"] == "decode":
                seconds = float(row["itl_mean_s_median"])
                regressors: tuple[float, ...] = (1, 0, running, running * float(row["ctx_mean"]))
            else:
                seconds, steps = float(row["ttft_s_median"]), math.ceil(prompt / CHUNK)
                # A later chunk reads what the earlier ones have stored.
                regressors = (steps, prompt, steps, sum(CHUNK * index for index in range(steps)))
            rows.append(np.array(regressors) / seconds)
    a, b, c, d = (float(one) for one in nnls(np.array(rows), np.ones(len(rows)))[0])
    return EngineProfile(a, b, c, d, 131_072, 64, CHUNK, block_size=BLOCK)


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


def workload(requests: list[dict[str, Any]], cached: NDArray[np.int32] | None = None) -> Workload:
    """The same requests for the simulator, from the first one's arrival on."""
    return Workload(
        "recorded",
        np.array([one["t_submit"] - requests[0]["t_submit"] for one in requests]),
        np.array([one["prompt_len"] for one in requests], dtype=np.int32),
        np.array([one["out_len"] for one in requests], dtype=np.int32),
        cached=cached,
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


def hits(requests: list[dict[str, Any]], count: int) -> NDArray[np.int32]:
    """Which requests found the shared prefix is not recorded, only how many: `count` are drawn (seed 0)."""
    able = [i for i, one in enumerate(requests) if one["phase"] in SHARED and one["prompt_len"] > PREFIX]
    chosen = np.random.default_rng(0).choice(able, size=count, replace=False)
    cached = np.zeros(len(requests), dtype=np.int32)
    cached[chosen] = PREFIX
    return cached


def recorded(*, sharing: bool) -> tuple[list[dict[str, Any]], Workload, Fleet, list[dict[str, str]], Floats]:
    """The recorded run played: requests, load, fleet, scraped rows, and (KV usage, running, waiting) at each scrape.

    The simulator gives prefix-cache hits blocks of their own, vLLM shares them. `sharing` imitates vLLM: the four
    prefixes (16 of 255 blocks) are left out of the prompts that hit them.
    """
    requests = told("recorded/requests.jsonl.gz")
    with (VLLM / "recorded" / "series_main.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = int(float(rows[-1]["vllm:prefix_cache_hits_total"])) // PREFIX
    cached = hits(requests, found)
    load = workload(requests, cached)
    if sharing:
        load = replace(load, prompt=load.prompt - cached, cached=None)
    fleet = Fleet(load, Gateway())
    engine = fleet.get(fleet.add(Role.COLOCATED, small())).engine
    seen = []
    for row in rows:
        at = float(row["t"]) - requests[0]["t_submit"]
        if at > 0:
            fleet.advance(at)
        seen.append((engine.kv_usage, engine.running, len(engine.waiting)))
    return requests, load, fleet, rows, np.array(seen)


@cache
def recorded_lines(*, sharing: bool) -> tuple[Line, ...]:
    """KV usage, running and waiting requests over time; then the latencies."""
    requests, load, fleet, rows, seen = recorded(sharing=sharing)
    name, lines = f"vLLM recorded, prefixes {'shared' if sharing else 'apart'}", []
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
    output = int(load.output.sum())
    return (*lines, *latency_lines(name, measured(requests), finished(load, fleet), output))


def lines() -> list[Line]:
    """All comparisons with this server."""
    runs = [line for rate in ("0.5", "1.0", "2.0") for line in open_loop(rate)]
    return [*runs, *recorded_lines(sharing=False), *recorded_lines(sharing=True)]
