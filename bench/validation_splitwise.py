"""The Splitwise per-request tables (BLOOM-176B and Llama-2-70B on A100 and H100, vLLM of 2023) against the simulator.

One profile per model, GPU type and tensor parallelism, from its rows of median_table.csv: decoding by least absolute
relative error (the target is a median), a step's prompt time as in Splitwise's own simulator, read off the profiled
batches by the sum of their tokens. Then every row is played: as many requests as its batch, at once, into one engine
without chunking. Batches of 32 and more on two GPUs did not fit and are left out.

That a curve goes through its own points says little. So a second profile is read from the single prompts (128 to 8,192
tokens) alone, and has to predict what batches of 2 to 64 prompts of 512 tokens take.
"""

from __future__ import annotations

import csv
import math
import statistics
from functools import cache
from typing import Literal

import numpy as np
from scipy.optimize import linprog
from validation_table import DATA, Line

from autoscaler.model import Role
from autoscaler.simulator.engine_types import EngineProfile
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.score import latencies
from autoscaler.simulator.wiring import Gateway

TABLE = DATA / "hw_profiles" / "splitwise_sim" / "median_table.csv"
TARGET = 0.10
TOO_MANY_ON_TWO = 32
KV, SEQUENCES, BUDGET = 4_000_000, 256, 131_072
"""So much that no row is held up by it: the table timed whole batches, prompts unchunked."""

QUANTITIES: dict[Literal[1, 2], str] = {1: "TTFT", 2: "TPOT"}

Row = tuple[int, int, int, float, float]
"""Prompt tokens, batch, output tokens, prompt time in s, time per output token in s."""


@cache
def table() -> dict[str, list[Row]]:
    """Rows by `model/gpu/tpN`."""
    found: dict[str, list[Row]] = {}
    with TABLE.open(newline="") as file:
        for r in csv.DictReader(file):
            if r["tensor_parallel"] == "2" and int(r["batch_size"]) >= TOO_MANY_ON_TWO:
                continue
            name = f"{r['model']}/{r['hardware']}/tp{r['tensor_parallel']}"
            sizes = (int(r["prompt_size"]), int(r["batch_size"]), int(r["token_size"]))
            times = (float(r["prompt_time_ms"]) / 1e3, float(r["token_time_ms"]) / 1e3)
            found.setdefault(name, []).append((*sizes, *times))
    return found


def fitted(rows: list[Row]) -> EngineProfile:
    """a, c and d from the mean decode step of each row, the prompts' curve from the time to its first tokens."""
    design = [np.array((1, batch, batch * (prompt + output / 2))) / gap for prompt, batch, output, _, gap in rows]
    matrix = np.array(design)
    scale, count = matrix.max(axis=0), len(matrix)
    costs = np.r_[np.zeros(3), np.ones(2 * count)]
    equal = np.hstack([matrix / scale, -np.eye(count), np.eye(count)])
    solved = linprog(costs, A_eq=equal, b_eq=np.ones(count), bounds=(0, None)).x[:3]
    a, c, d = (float(one) for one in solved / scale)
    curve: dict[int, list[float]] = {}
    for prompt, batch, _, first, _ in rows:
        curve.setdefault(prompt * batch, []).append(first - c * batch)
    points = tuple((tokens, statistics.median(seconds)) for tokens, seconds in sorted(curve.items()))
    return EngineProfile(a, 0.0, c, d, KV, SEQUENCES, BUDGET, prefill_curve=points)


def played(profile: EngineProfile, row: Row) -> tuple[float, float]:
    """TTFT and TPOT of a batch, s."""
    prompt, batch, output, _, _ = row
    load = Workload("batch", np.zeros(batch), np.full(batch, prompt), np.full(batch, output))
    # The batch must meet an engine that is there, whole: one that starts on the first request would leave the rest.
    fleet = Fleet(load, Gateway())
    fleet.advance(0.0)
    fleet.add(Role.COLOCATED, profile)
    fleet.advance(math.inf)
    ttft, tpot = latencies(load, fleet.ledger.frozen())
    return float(np.median(ttft)), float(np.median(tpot))


@cache
def errors(name: str, *, unseen: bool = False) -> tuple[tuple[Row, float, float], ...]:
    """Each row with its relative errors of TTFT and TPOT; `unseen`: only batches, by a profile that knows none."""
    rows = table()[name]
    profile = fitted([row for row in rows if row[1] == 1] if unseen else rows)
    found = []
    for row in rows:
        if unseen and row[1] == 1:
            continue
        ttft, tpot = played(profile, row)
        found.append((row, ttft / row[3] - 1, tpot / row[4] - 1))
    return tuple(found)


def line(name: str, column: Literal[1, 2]) -> Line:
    """Median over a profile's rows of the absolute error of TTFT (1) or TPOT (2), and the middle figures."""
    known = [one[0][3] if column == 1 else one[0][4] for one in errors(name)]
    real = statistics.median(known)
    made = statistics.median(was * (1 + one[column]) for was, one in zip(known, errors(name), strict=True))
    miss = statistics.median(abs(one[column]) for one in errors(name))
    return Line(f"Splitwise {name}", f"{QUANTITIES[column]}, median |error| of rows", real, made, TARGET, miss=miss)


def batch_line(name: str) -> Line:
    """TTFT of batches by the profile that was read from single prompts."""
    rows = errors(name, unseen=True)
    real = statistics.median(one[0][3] for one in rows)
    made = statistics.median(one[0][3] * (1 + one[1]) for one in rows)
    miss = statistics.median(abs(one[1]) for one in rows)
    return Line(f"Splitwise {name}", "TTFT of unseen batches, |error|", real, made, TARGET, miss=miss)


def lines() -> list[Line]:
    """Both quantities of every profile, and batches on their own."""
    return [one for name in table() for one in (*(line(name, column) for column in QUANTITIES), batch_line(name))]


def missed() -> list[str]:
    """The rows outside the target, one line per profile and quantity."""
    said = []
    for name in table():
        for column, what in QUANTITIES.items():
            rows = [f"{r[0][0]}x{r[0][1]} {r[column]:+.0%}" for r in errors(name) if abs(r[column]) > TARGET]
            said.append(f"{name} {what}: {len(rows)} of {len(errors(name))} rows outside: {', '.join(rows)}")
    return said
