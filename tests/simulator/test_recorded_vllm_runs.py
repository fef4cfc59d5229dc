"""The engine model against a real vLLM server: fitted on its closed-loop profile, then predicting its open-loop runs.

Targets: 15 % at the median and 30 % at P95 of TTFT and TPOT. A fit by relative least squares of

    seconds per step = a + b * prompt tokens + c * sequences + d * stored tokens, all >= 0
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import nnls

from autoscaler.model import Role
from autoscaler.simulator.engine_types import EngineProfile
from autoscaler.simulator.fleet import Fleet
from autoscaler.simulator.requests import Workload
from autoscaler.simulator.score import latencies
from autoscaler.simulator.wiring import Gateway

DATA = Path(__file__).parents[3] / "shared" / "data" / "vllm_cpu"
CHUNK = 2048
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded vLLM runs are not at {DATA}")


@cache
def fitted() -> EngineProfile:
    """a, b, c, d from profile.csv: single prompts tell a and b, steady decoding a, c and d."""
    rows, ones = [], []
    with (DATA / "profile.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            prompt, running = int(row["prompt_len"]), int(row["concurrency"])
            if row["kind"] == "decode":
                seconds = float(row["itl_mean_s_median"])
                regressors = (1, 0, running, running * float(row["ctx_mean"]))
            elif row["kind"] == "prefill":
                seconds = float(row["ttft_s_median"])
                steps = math.ceil(prompt / CHUNK)
                # A later chunk reads what the earlier ones have stored.
                regressors = (steps, prompt, steps, sum(CHUNK * index for index in range(steps)))
            else:
                continue
            rows.append(np.array(regressors) / seconds)
            ones.append(1.0)
    a, b, c, d = nnls(np.array(rows), np.array(ones))[0]
    return EngineProfile(a, b, c, d, 131_072, 64, CHUNK, block_size=32)


def test_the_fit_is_that_of_a_server_with_a_tenth_of_a_second_per_two_hundred_prompt_tokens() -> None:
    profile = fitted()
    assert profile.step_seconds == pytest.approx(0.045, rel=0.1)
    assert profile.prefill_token_seconds == pytest.approx(5.4e-4, rel=0.1)


@pytest.mark.parametrize("rate", ["0.5", "1.0", "2.0"])
def test_an_open_loop_run_is_predicted(rate: str) -> None:
    with gzip.open(DATA / "requests" / f"openloop_rate{rate}.jsonl.gz", "rt") as file:
        told = sorted((json.loads(line) for line in file), key=lambda one: one["t_submit"])
    assert all(one["status"] == "ok" for one in told)
    load = Workload(
        "recorded",
        np.array([one["t_submit"] - told[0]["t_submit"] for one in told]),
        np.array([one["prompt_len"] for one in told], dtype=np.int32),
        np.array([one["out_len"] for one in told], dtype=np.int32),
    )
    fleet = Fleet(load, Gateway())
    fleet.add(Role.COLOCATED, fitted())
    fleet.advance(math.inf)
    ttft, tpot = latencies(load, fleet.ledger.frozen())
    measured = [one["tpot"] for one in told if one["out_len"] > 1]
    for predicted, real in ((ttft, [one["ttft"] for one in told]), (tpot[load.output > 1], measured)):
        assert np.median(predicted) == pytest.approx(np.median(real), rel=0.15)
        assert np.percentile(predicted, 95) == pytest.approx(np.percentile(real, 95), rel=0.30)
