"""The reference problems of the Inferno optimiser (llm-d WVA), as supply problems, beside its own solutions.

Its queueing model is rebuilt from the published description: with n requests in a batch an iteration takes
alpha + n (beta x compute tokens + gamma x memory tokens), a request one prefill iteration and one decode iteration for
every further token, and a replica is a queue with state-dependent service of at most `maxBatch`, ten times as many
waiting. On its own solutions this model gives the same inter-token latency within 0.5 % and, with the margin below, no
shorter time to first token, so a rate that meets the targets here meets them there.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimizer import (
    Demand,
    Effort,
    Limits,
    Pool,
    Problem,
    Role,
    ServiceClass,
    Source,
    Tier,
    Variant,
    plan,
)

if TYPE_CHECKING:
    from pathlib import Path

TTFT_MARGIN = 1.06


@dataclass(frozen=True, slots=True)
class Load:
    """Requests/min with their mean lengths in tokens."""

    rate: float
    prompt: float
    output: float


@dataclass(frozen=True, slots=True)
class Result:
    """Ours against theirs on one reference problem: cost per hour, and the worst latency over its target."""

    name: str
    servers: int
    theirs: float
    theirs_worst: float
    ours: float
    ours_worst: float
    gap: float | None
    status: str
    ttft_low: float
    itl_off: float


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}-data.json").read_text(encoding="utf-8"))


def _times(perf: dict[str, float], batch: float, load: Load) -> tuple[float, float]:
    """Prefill and decode time, ms, with so many requests in the batch."""
    compute = (load.prompt + load.output) / (load.output + 1)
    memory = load.prompt + load.output / 2
    iteration = perf["alpha"] + batch * (perf["beta"] * compute + perf["gamma"] * memory)
    return iteration + (perf["beta"] + perf["gamma"]) * load.prompt, iteration + perf["beta"] + perf["gamma"] * memory


def latencies(perf: dict[str, float], batch: int, load: Load, rate: float) -> tuple[float, float]:
    """TTFT and ITL, ms, of a replica at so many requests/min."""
    serve = []
    for n in range(1, batch + 1):
        prefill, decode = _times(perf, n, load)
        serve.append(n / (prefill + (load.output - 1) * decode))
    weights, logs = [], 0.0
    for k in range(11 * batch + 1):
        weights.append(logs)
        logs += math.log(rate / 60_000) - math.log(serve[min(k, batch - 1)])
    top = max(weights)
    shares = [math.exp(w - top) for w in weights]
    total = math.fsum(shares)
    done = rate / 60_000 * (1 - shares[-1] / total)
    inside = math.fsum(k * s for k, s in enumerate(shares)) / total
    running = math.fsum(min(k, batch) * s for k, s in enumerate(shares)) / total
    low, high = 0.0, float(batch)
    for _ in range(50):
        middle = (low + high) / 2
        prefill, decode = _times(perf, middle, load)
        low, high = (middle, high) if prefill + (load.output - 1) * decode < running / done else (low, middle)
    prefill, decode = _times(perf, high, load)
    return ((inside - running) / done + prefill + decode) * TTFT_MARGIN, decode


def most_rate(perf: dict[str, float], batch: int, load: Load, ttft_ms: float, itl_ms: float) -> float:
    """The highest rate, requests/min, at which a replica meets both targets; 0 where it never does."""
    low, high = (
        0.0,
        60_000 * batch / (sum(_times(perf, batch, load)) + (load.output - 2) * _times(perf, batch, load)[1]),
    )
    for _ in range(40):
        middle = (low + high) / 2
        ttft, itl = latencies(perf, batch, load, middle)
        low, high = (middle, high) if ttft <= ttft_ms and itl <= itl_ms else (low, middle)
    return low if low > 1e-6 else 0.0


def _tables(folder: Path) -> tuple[Any, Any, Any]:
    accelerators = {a["name"]: a for a in _read(folder, "accelerator")["accelerators"]}
    models: dict[str, list[Any]] = {}
    for model in _read(folder, "model")["models"]:
        models.setdefault(model["name"], []).append(model)
    classes = _read(folder, "serviceclass")["serviceClasses"]
    targets = {(c["name"], t["model"]): t for c in classes for t in c["modelTargets"]}
    return accelerators, models, targets


def _load(server: Any) -> Load:
    load = server["currentAlloc"]["load"]
    return Load(load["arrivalRate"], load["AvgInTokens"], load["AvgOutTokens"])


def _batch(model: Any, load: Load) -> int:
    return max(1, int(model["maxBatchSize"] * model["atTokens"] / load.output))


def compare(folder: Path, seconds: float) -> Result:
    """Solve one reference problem and set it beside its own solution."""
    accelerators, models, targets = _tables(folder)
    pools = []
    servers = {server["name"]: server for server in _read(folder, "server")["servers"]}
    for name, server in servers.items():
        load, target = _load(server), targets[server["class"], server["model"]]
        variants = []
        for model in models[server["model"]]:
            kind = accelerators[model["acc"]]
            rate = most_rate(model["perfParms"], _batch(model, load), load, target["slo-ttft"], target["slo-itl"])
            if rate > 0:
                gpus = model["accCount"] * kind["multiplicity"]
                variants.append(Variant(model["acc"], kind["type"], gpus, rate))
        pools.append(Pool(name, (Demand(0, load.rate),), (Role("", tuple(variants)),), (ServiceClass("", 1.0, 1e4),)))
    price = {a["type"]: a["cost"] / a["multiplicity"] for a in accelerators.values()}
    sources = tuple(
        Source(c["type"], Tier.START, c["type"], c["count"], 0.0, price[c["type"]])
        for c in _read(folder, "capacity")["count"]
        if c["type"] in price
    )
    made = plan(Problem(tuple(pools), sources), Effort(Limits(seconds, 1e-4), alternative=False))
    theirs = _read(folder, "solution")["allocations"]
    worst = low = off = 0.0
    for name, one in theirs.items():
        server = servers[name]
        model = next(m for m in models[server["model"]] if m["acc"] == one["accelerator"])
        load, target = _load(server), targets[server["class"], server["model"]]
        ttft, itl = latencies(model["perfParms"], one["maxBatch"], load, load.rate / one["numReplicas"])
        worst = max(worst, one["ttftAverage"] / target["slo-ttft"], one["itlAverage"] / target["slo-itl"])
        low = max(low, one["ttftAverage"] / ttft)
        off = max(off, abs(itl / one["itlAverage"] - 1))
    short = max((amount for pool in made.pools.values() for _, amount in pool.shortage), default=0.0)
    return Result(
        folder.name,
        len(pools),
        sum(one["cost"] for one in theirs.values()),
        worst,
        made.cost.held,
        math.inf if short > 1e-6 else _worst(made, servers, models, targets),
        made.gap,
        made.status.value,
        low,
        off,
    )


def _worst(made: Any, servers: Any, models: Any, targets: Any) -> float:
    """The worst latency over its target, the load spread over the replicas in proportion to what each can do."""
    worst = 0.0
    for name, server in servers.items():
        load, target = _load(server), targets[server["class"], server["model"]]
        held = {key: n for key, n in made.pools[name].roles[""].by_variant.items() if n}
        kinds = {m["acc"]: m for m in models[server["model"]]}
        able = {
            key: most_rate(
                kinds[key]["perfParms"], _batch(kinds[key], load), load, target["slo-ttft"], target["slo-itl"]
            )
            for key in held
        }
        total = sum(able[key] * n for key, n in held.items())
        for key in held:
            model = kinds[key]
            ttft, itl = latencies(model["perfParms"], _batch(model, load), load, load.rate * able[key] / total)
            worst = max(worst, ttft / target["slo-ttft"], itl / target["slo-itl"])
    return worst
